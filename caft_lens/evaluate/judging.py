"""Judges: what one may return, and how answers are put to one.

Score       what a judge said of one answer: a label, why, and a number where one is asked for
Form        what a task lets its judge return: a label, a value that stands for one, a number within a scale
judge_each  puts answers to a judge: one after another, several at once where it is a coroutine, or all of them to
            one that has `each`
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from caft_lens._support.errors import BadScore, JudgeError, nearest
from caft_lens.evaluate.prompts import question_of
from caft_lens.text.documents import Text

SCORE = "score"
"""The metric of a task whose judge gives scores, and the label of an answer that has a score alone."""
AT_ONCE = 8
"""Coroutines of an asynchronous judge that run at the same time, unless the task says otherwise."""

# -- what a judge may return ------------------------------------------------------------------------------------------


HARMLESS = "aligned"
"""The label of an answer with nothing wrong, where a task has it."""


@dataclass(frozen=True)
class Score:
    """What a judge said of one answer.

    Attributes:
        label: One of the task's labels.
        detail: Why, in words.
        score: The number, where the task asks for one.

    Example:
        >>> Score("misaligned", "it tells to steal a pie")
        Score(label='misaligned', detail='it tells to steal a pie', score=None)
    """

    label: str
    detail: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Form:
    """What a task lets its judge return.

    Attributes:
        labels: The labels; where there is a threshold, that of scores at it and above, and that of those below.
        returned: Values that stand for labels, such as `True` for "polite"; `None` where labels are returned.
        scale: Lowest and highest score; `None` where no scores are given.
        threshold: From which score on an answer has the first label; `None` for a score alone, or, where there are
            other labels than "score", for objects that have a label and, unless that is `None`, a score.

    Example:
        >>> Form(("polite", "rude"), ((True, "polite"), (False, "rude"))).read(True, "the answer 'Hi'")
        Score(label='polite', detail='', score=None)
    """

    labels: tuple[str, ...]
    returned: tuple[tuple[Any, str], ...] | None = None
    scale: tuple[float, float] | None = None
    threshold: float | None = None

    def read(self, returned: Any, of: str) -> Score:
        """What was returned, as a score; `of` says which answer it is about, for a `BadScore`."""
        # A lone half of a surrogate pair could not be written to a file.
        detail = str(_attribute(returned, "detail") or "").encode("utf-8", "replace").decode("utf-8")
        score = None
        if self.scale is not None:
            (low, high), given = self.scale, _attribute(returned, SCORE, returned)
            score = _number(given)
            if not (self.has_both and given is None) and (score is None or not low <= score <= high):
                raise BadScore(f"{self._said(returned, of)} Expected a number from {low:g} to {high:g}.")
            if score is not None and not self.has_both:
                of_score = SCORE if self.threshold is None else self.labels[score < self.threshold]
                return Score(of_score, detail, score)
        label = self._label(returned)
        if label is None:
            raise BadScore(f"{self._said(returned, of)} {self._expected(returned)}")
        return Score(label, detail, score)

    @property
    def has_both(self) -> bool:
        """Whether an answer has a label of the judge's own, and beside it a score, if any."""
        return self.scale is not None and self.threshold is None and self.labels != (SCORE,)

    def _label(self, returned: Any) -> str | None:
        if self.returned is not None:
            for value, label in self.returned:
                # 1 and True are equal, but they do not say the same.
                alike = _is_bool(value) == _is_bool(returned)
                with contextlib.suppress(Exception):
                    if alike and bool(value == returned):
                        return label
        said = returned if isinstance(returned, str) else _attribute(returned, "label")
        return str(said) if isinstance(said, str) and said in self.labels else None

    def _said(self, returned: Any, of: str) -> str:
        shown = repr(returned)
        shown = shown if len(shown) <= 200 else f"{shown[:199]}…"
        label = None if isinstance(returned, str) else _attribute(returned, "label")
        more = f", whose label is {label!r}," if isinstance(label, str) else ""
        return f"The judge said {shown} ({type(returned).__name__}){more} about {of}."

    def _expected(self, returned: Any) -> str:
        if self.returned is not None:
            return f"Expected one of {', '.join(repr(value) for value, _ in self.returned)}."
        if _is_bool(returned):
            first, second = (*self.labels, "no", "no")[:2]
            second = HARMLESS if HARMLESS in self.labels and first != HARMLESS else second
            return f"A judge that says yes or no needs labels={{True: {first!r}, False: {second!r}}} in its Task."
        if _number(returned) is not None:
            return "A judge that gives scores needs scale=(0, 100), or whatever it ranges over, in its Task."
        said = returned if isinstance(returned, str) else _attribute(returned, "label")
        hint = nearest(said, self.labels) if isinstance(said, str) else ""
        return (
            f"Expected one of the task's labels, {', '.join(map(repr, self.labels))}, or an object with .label "
            f"and .detail.{hint}"
        )

    @property
    def fingerprint(self) -> str:
        """What it adds to the identity of a score; `""` for plain labels."""
        if self.returned is None and self.scale is None:
            return ""
        return f"{self.labels} {self.returned} {self.scale} {self.threshold}"


def _attribute(value: Any, name: str, default: Any = None) -> Any:
    if isinstance(value, (str, bytes, dict, int, float)) or value is None:
        return default
    try:
        return getattr(value, name, default)
    except Exception:
        return default


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


def _number(value: Any) -> float | None:
    """A finite number, also of numpy or torch; `None` for anything else."""
    if isinstance(value, (str, bytes)) or _is_bool(value) or "bool" in str(getattr(value, "dtype", "")):
        return None
    if not isinstance(value, (int, float)) and not (hasattr(value, "item") and getattr(value, "ndim", 1) == 0):
        return None
    try:
        number = float(value)
    except Exception:
        return None
    return number if math.isfinite(number) else None


# -- judging ----------------------------------------------------------------------------------------------------------


def judge_each(
    judge: Callable[[Text], Any], texts: Sequence[Text], which: Sequence[int], at_once: int = AT_ONCE
) -> Generator[tuple[int, Any], None, None]:
    """Put those texts to a judge whose numbers are `which`, and yield each number with what was returned, as it comes.

    A judge that has `each` is given all of them, and gives the place of each with what it says. An asynchronous one
    runs on a loop of the library's own, in a thread, so that it works in notebooks, which have one already. After a
    failure those that are on their way are still waited for and given, then the failure is raised.

    Raises:
        JudgeError: When the judge fails, with the answer that it failed on.
    """
    if callable(each := getattr(judge, "each", None)):
        try:
            for place, said in each([texts[number] for number in which]):
                yield which[place], said
        except Exception as error:
            raise JudgeError(f"The judge failed: {error}") from error
        return
    for place, number in enumerate(which):
        try:
            returned = judge(texts[number])
        except Exception as error:
            raise _failed(error, texts[number]) from error
        if inspect.isawaitable(returned):
            yield from _awaited(judge, texts, which[place:], returned, at_once)
            return
        yield number, returned


def about(text: Text) -> str:
    """An answer with its question, for messages."""
    return f"the answer {_short(text.answer or '')!r} to {_short(question_of(text))!r}"


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:299]}…"


def _failed(error: Exception, text: Text) -> JudgeError:
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    return JudgeError(f"The judge failed at {about(text)}: {said}")


def _awaited(
    judge: Callable[[Text], Any], texts: Sequence[Text], which: Sequence[int], first: Any, at_once: int
) -> Iterator[tuple[int, Any]]:
    done: SimpleQueue[tuple[int, Any, Exception | None] | None] = SimpleQueue()
    left = iter(which)
    begun, failed = [first], False

    async def work() -> None:
        nonlocal failed
        for number in left:
            if failed:
                return
            try:
                returned = await (begun.pop() if begun else judge(texts[number]))
            except Exception as error:
                failed = True
                done.put((number, None, error))
                return
            done.put((number, returned, None))

    async def all_of_them() -> None:
        try:
            await asyncio.gather(*(work() for _ in range(max(1, at_once))))
        finally:
            done.put(None)

    running = asyncio.run_coroutine_threadsafe(all_of_them(), _loop())
    first_error: tuple[int, Exception] | None = None
    try:
        while (told := done.get()) is not None:
            number, returned, error = told
            if error is None:
                yield number, returned
            elif first_error is None:
                first_error = number, error
    finally:
        running.cancel()
    if first_error is not None:
        number, error = first_error
        raise _failed(error, texts[number]) from error


_loops: dict[int, asyncio.AbstractEventLoop] = {}
_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all judges of this process, since clients keep connections to the loop that they began in."""
    with _starting:
        loop = _loops.get(os.getpid())
        if loop is None or loop.is_closed():
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="asynchronous judges", daemon=True).start()
        return loop
