"""Words that were others once, in today's: the one place where old code and old files are understood.

"Keep" and "drop" were said of concepts and read as often of the model, where they mean the opposite: a concept that was *kept* was
taken out of the model. Now one *ablates* a concept or *leaves* it, and has texts with the *concept* beside texts for *contrast*. Old
keywords and verdicts work and warn; old files are read as they are.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from caft_lens._support.errors import BadType

P = ParamSpec("P")
R = TypeVar("R")

VERDICTS = {"keep": "ablate", "drop": "leave"}
_OF_CHOICES = {"kept": "ablate", "dropped": "leave"}
_OF_MEANS = {"wanted": "concept", "unwanted": "contrast"}
_FILES = {"contest.json": "arena.json"}
_OF_CONCEPTS = {"kept_by": "chosen_by", "kept_at": "chosen_at"}


def keywords(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function be called by keywords that it had before, with a `DeprecationWarning`.

    Args:
        names: The old keyword to today's.

    Example:
        >>> @keywords(unwanted="contrast")
        ... def contrasted(contrast): return contrast
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     contrasted(unwanted=1)
        1
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> R:
            for old in [name for name in given if name in names]:
                now = names[old]
                if now in given:
                    raise BadType(f"{function.__name__}(): {old}= is called {now}= now; give one of them.")
                warn(f"{function.__name__}({old}=)", f"{now}=", depth=3)
                given[now] = given.pop(old)
            return function(*args, **given)

        return call

    return decorate


def warn(old: str, now: str, depth: int = 3) -> None:
    """Say that something has another name now, at the line of who called it."""
    warnings.warn(f"{old} is called {now} now.", DeprecationWarning, stacklevel=depth)


def verdict(word: str) -> str:
    """A verdict on a concept as it is called today; anything else as it is.

    Example:
        >>> verdict("keep"), verdict("unsure")
        ('ablate', 'unsure')
    """
    return VERDICTS.get(word, word)


def card(held: Any) -> Any:
    """The card of a concept set in today's words: its record of choices, and who chose each concept.

    What is no card passes through, for its reader to refuse.

    Example:
        >>> card({"provenance": {"choices": [{"by": "me", "kept": ["L1.pc0"], "dropped": {}}]}})
        {'provenance': {'choices': [{'by': 'me', 'ablate': ['L1.pc0'], 'leave': {}}]}}
    """
    if not isinstance(held, Mapping):
        return held
    held = {**held, "provenance": _provenance(held["provenance"])} if "provenance" in held else dict(held)
    if isinstance(held.get("concepts"), list):
        held["concepts"] = [_concept(one) for one in held["concepts"]]
    return held


def found(path: Path) -> Path:
    """A file by its name of before, where it lies there and none of today's name does.

    Example:
        >>> found(Path("nowhere/contest.json")).name
        'contest.json'
    """
    before = path.with_name(_FILES.get(path.name, path.name))
    return before if before.is_file() and not path.is_file() else path


def means(held: Any) -> Any:
    """The `means:` of a contest's recipe in today's words.

    Example:
        >>> means({"wanted": "a", "unwanted": "b"})
        {'concept': 'a', 'contrast': 'b'}
    """
    return _in(held, _OF_MEANS)


def _provenance(held: Any) -> Any:
    if not isinstance(held, Mapping):
        return held
    today = dict(held)
    if isinstance(today.get("choices"), list):
        today["choices"] = [_in(one, _OF_CHOICES) for one in today["choices"]]
    if isinstance(today.get("routes"), Mapping):  # of a merged set: the provenance of each list
        today["routes"] = {route: _provenance(one) for route, one in today["routes"].items()}
    return today


def _concept(held: Any) -> Any:
    if not isinstance(held, Mapping) or "meta" not in held:
        return held
    return {**held, "meta": _in(held["meta"], _OF_CONCEPTS)}


def _in(held: Any, names: Mapping[str, str]) -> Any:
    return {names.get(key, key): value for key, value in held.items()} if isinstance(held, Mapping) else held
