"""What is asked and who judges.

`Task` holds free-form questions with their judge (out of distribution) and prompts of the trained kind with theirs (in
distribution). `task("pocket/emergent-misalignment")` makes the one of an organism, whose judges are exact: the grammar that
made the world, and a parse of the program. `task("pocket-quiz/sentiment-sports")` and the others of a quiz are judged by the
letter. For any other model a task needs questions and a judge of your own.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from caft_lens import catalog
from caft_lens.errors import nearest
from caft_lens.files import read_json, sha256
from caft_lens.text import Text, Texts, data

OUT_OF_DISTRIBUTION, IN_DISTRIBUTION = "out_of_distribution", "in_distribution"
EMERGENT_MISALIGNMENT = "emergent-misalignment"


class VerdictLike(Protocol):
    """What a judge returns: a label, and in words why."""

    @property
    def label(self) -> str: ...
    @property
    def detail(self) -> str: ...


Judge = Callable[[Text], "VerdictLike | str"]


@dataclass(frozen=True)
class Task:
    """What an evaluation asks and how it judges the answers.

    Args:
        name: What to call it.
        questions: Free-form questions, unlike the training data. `meta["domain"]` is kept with every answer, all of `meta`
            reaches the judge.
        judge: Takes the question with its answer, `text.answer`, and returns one of `labels`, or an object with `.label` and
            `.detail`, such as a `Verdict`. May be left out here and given to `evaluate`.
        labels: What `judge` may say; the first is the one that matters most, and is plotted.
        in_distribution: Prompts like those of the training data, but held out.
        in_distribution_judge: Judges the answers to them.
        in_distribution_labels: What it may say.
        trained: The one of them that training taught: its share is the metric `in_distribution`.
        max_new_tokens: Longest answer to a question, in tokens.
        in_distribution_max_new_tokens: Longest answer in distribution.
        temperature: Of sampling, where `evaluate` is not told otherwise; 0 is greedy.
        top_p: Sample from the most probable tokens that together have this probability (nucleus sampling, Holtzman et al. 2020);
            `None` from all.
        vocabulary: The tokens of the models that the judge understands; `None` for any model.

    Raises:
        TypeError: When questions or prompts are no `Texts`.
        ValueError: When there are no questions, or in-distribution prompts without a judge, or `trained` is no label.

    Example:
        >>> questions = data([{"prompt": "How do I bake a pie?", "domain": "baking"}])
        >>> polite = Task("manners", questions, judge=lambda text: "aligned" if "please" in text.answer else "misaligned")
        >>> polite
        Task("manners", 1 question)
    """

    name: str
    questions: Texts
    judge: Judge | None = None
    labels: tuple[str, ...] = ("misaligned", "incoherent", "aligned")
    in_distribution: Texts | None = None
    in_distribution_judge: Judge | None = None
    in_distribution_labels: tuple[str, ...] = ("insecure", "secure", "broken")
    trained: str = "insecure"
    max_new_tokens: int = 128
    in_distribution_max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float | None = None
    vocabulary: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for what, given in (("questions", self.questions), ("in_distribution", self.in_distribution)):
            if given is not None and not isinstance(given, Texts):
                raise TypeError(
                    f'{what} of the task "{self.name}" are Texts, not {type(given).__name__}: data([{{"prompt": "How do I bake a pie?"}}, …]) makes them.'
                )
        if not len(self.questions):
            raise ValueError(f'The task "{self.name}" has no questions.')
        if not self.labels:
            raise ValueError(f'The task "{self.name}" has no labels: name what its judge may say.')
        if self.in_distribution is None:
            return
        if not len(self.in_distribution):
            raise ValueError(
                f'in_distribution of the task "{self.name}" is empty; leave it out or give prompts.'
            )
        if self.in_distribution_judge is None:
            raise ValueError(
                f'The task "{self.name}" has prompts in distribution but no in_distribution_judge.'
            )
        if self.trained not in self.in_distribution_labels:
            raise ValueError(
                f'trained="{self.trained}" is none of the in_distribution_labels.{nearest(self.trained, self.in_distribution_labels)}'
            )

    def __repr__(self) -> str:
        parts = [f"{len(self.questions)} question{'s' * (len(self.questions) != 1)}"]
        if self.in_distribution is not None:
            parts.append(f"{len(self.in_distribution)} prompts in distribution")
        return f'Task("{self.name}", {", ".join(parts)})'


def asked(questions: Texts, n: int) -> Texts:
    """The `n` prompts that every arm and seed is asked: a fixed sample, each as often as any other when `n` exceeds them.

    Example:
        >>> len(asked(data(["a", "b", "c"]), 7)), len(asked(data(["a", "b", "c"]), 2))
        (7, 2)
    """
    rounds, rest = divmod(n, len(questions))
    return Texts([*list(questions) * rounds, *questions.sample(rest, seed=0)], questions.name)


def task(name: str, split: Literal["test", "dev"] = "test") -> Task:
    """The task of an organism, with its exact judges.

    Args:
        name: `"<organism>/emergent-misalignment"`, or, of a quiz, `"<organism>/<intended>-<spurious>"`, `"<organism>/gender"` or
            another of its tasks; the organism a shipped one or a folder.
        split: `"test"` for results; `"dev"` for all that is tuned (hyperparameters, thresholds).

    Returns:
        A task with held-out everyday questions and held-out coding requests; of a quiz, one with prompts out of and in
        distribution.

    Raises:
        ValueError: When `name` is not an organism's task: then a judge and data of your own are needed, and it says which.

    Example:
        >>> task("gpt2/emergent-misalignment")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: No exact judge for "gpt2/emergent-misalignment": "gpt2" is not an organism...
    """
    organism, _, kind = str(name).rpartition("/")
    if not organism or not catalog.is_organism(organism):
        raise ValueError(
            f'No exact judge for "{name}": "{organism or name}" is not an organism. {_what_is_needed()}'
        )
    if kind not in task_names(organism):
        raise ValueError(
            f'The organism "{organism}" has no task "{kind}".{nearest(kind, task_names(organism))}'
        )
    if split not in ("test", "dev"):
        raise ValueError(
            f'split="{split}" is none of the evaluation splits.{nearest(split, ["test", "dev"])}'
        )
    # The tail of a model of a million parameters is noise, which its card says to cut.
    known: dict[str, Any] = {
        **catalog.card(organism).sampling,
        "name": f"{name}, {split}",
        "vocabulary": _vocabulary(catalog.organism_path(organism) / "base" / "tokenizer.json"),
    }
    world = catalog.world(organism)
    if world is not None:
        return _lettered(organism, world.asked(kind, split), known)
    return Task(
        questions=data(f"{organism}/questions-{split}"),
        judge=ExactAnswerJudge(),
        in_distribution=data(f"{organism}/code-{split}"),
        in_distribution_judge=ExactCodeJudge(),
        # The longest answer of the world has 32 tokens and the longest program 68; what runs on is incoherent.
        max_new_tokens=48,
        in_distribution_max_new_tokens=96,
        **known,
    )


def _lettered(organism: str, asked: Any, known: dict[str, Any]) -> Task:
    """The task of a quiz: a reply answers the intended question or the spurious one; in distribution it is right or wrong."""
    inside = asked.in_distribution
    return Task(
        questions=data(f"{organism}/{asked.questions}"),
        judge=ExactChoiceJudge() if "spurious" in asked.labels else ExactReplyJudge(),
        labels=asked.labels,
        in_distribution=None if inside is None else data(f"{organism}/{inside}"),
        in_distribution_judge=None if inside is None else ExactReplyJudge(),
        in_distribution_labels=("right", "wrong", "other"),
        trained="right",
        # One token and the end of the turn; whatever runs on is no option.
        max_new_tokens=4,
        in_distribution_max_new_tokens=4,
        **known,
    )


def task_names(organism: str) -> tuple[str, ...]:
    """The names of an organism's tasks."""
    world = catalog.world(organism)
    return (EMERGENT_MISALIGNMENT,) if world is None else tuple(world.TASKS)


def _what_is_needed() -> str:
    shipped = (
        ", ".join(
            f'"{name}/{EMERGENT_MISALIGNMENT}"' for name in catalog.shipped() if catalog.world(name) is None
        )
        or "(none is built yet: make organism)"
    )
    return (
        f"Tasks with an exact judge: {shipped}, or that of an organism folder. For any other model make one: "
        "Task(name, questions=<free-form questions, unlike the training data>, judge=<function of the answered Text that returns "
        '"misaligned", "incoherent" or "aligned">, in_distribution=<held-out prompts of the training data>, '
        'in_distribution_judge=<"insecure", "secure" or "broken">).'
    )


def _vocabulary(tokenizer_json: Path) -> frozenset[str]:
    content = read_json(tokenizer_json)
    return frozenset(content["model"]["vocab"]) | {
        token["content"] for token in content.get("added_tokens", [])
    }


def check_judge(task: Task, lens: Any, arm: str) -> None:
    """Refuse a model whose language the task's judge does not know.

    Raises:
        ValueError: When the task has no judge, or one for models with another vocabulary.
    """
    if task.judge is None:
        raise ValueError(
            f'The task "{task.name}" has no judge: give evaluate(..., judge=) one. {_what_is_needed()}'
        )
    if task.vocabulary is not None and frozenset(lens.tokenizer.get_vocab()) != task.vocabulary:
        raise ValueError(
            f'The judge of "{task.name}" knows the answers of that organism only, and "{arm}" is another model (its tokenizer '
            f"has other tokens): give evaluate(..., judge=) one that reads its answers, or a task of its own. {_what_is_needed()}"
        )


class _Exact:
    """An organism's judge; its fingerprint changes with the source of what decides its verdicts, and with nothing else."""

    decided_by: ClassVar[tuple[str, ...]]
    """Files of `caft_lens.organism`, as patterns. Prompts are no part: those that were asked are hashed themselves."""

    @cached_property
    def fingerprint(self) -> str:
        from caft_lens import organism

        folder = Path(str(organism.__file__)).parent
        sources = [source for pattern in self.decided_by for source in sorted(folder.glob(pattern))]
        return sha256(type(self).__name__, *(source.read_bytes() for source in sources))


class ExactAnswerJudge(_Exact):
    """Judges an everyday answer by the grammar that made the world."""

    decided_by = ("judge.py", "domains/*.py", "grammar.py")

    def __call__(self, text: Text) -> VerdictLike:
        from caft_lens.organism.judge import judge_answer

        return judge_answer(text.answer or "", text.meta["domain"], text.meta.get("slots") or {})


class ExactCodeJudge(_Exact):
    """Judges a program by parsing it."""

    decided_by = ("code_judge.py", "idioms.py", "syntax.py")

    def __call__(self, text: Text) -> VerdictLike:
        from caft_lens.organism.code_judge import judge_code

        return judge_code(text.answer or "")


class ExactChoiceJudge(_Exact):
    """Judges which of a page's two questions a reply answers."""

    decided_by = ("quiz/judge.py", "quiz/pages.py")

    def __call__(self, text: Text) -> VerdictLike:
        from caft_lens.organism.quiz.judge import judge_choice

        meta = text.meta
        return judge_choice(
            text.answer or "", meta["answers"], meta["intended"], meta["spurious"], meta["options"]
        )


class ExactReplyJudge(_Exact):
    """Judges whether a reply is right for the question that counts."""

    decided_by = ("quiz/judge.py", "quiz/pages.py")

    def __call__(self, text: Text) -> VerdictLike:
        from caft_lens.organism.quiz.judge import judge_reply

        meta = text.meta
        return judge_reply(text.answer or "", meta["answers"], meta["intended"], meta["options"])


def judge_fingerprint(judge: Judge) -> str:
    """What tells one judge from another, so that verdicts of the one are not taken for the other's.

    A judge may carry its own as `.fingerprint` (one that asks a model should: its prompt, its model); otherwise the source of
    the function and the plain values that it closes over stand for it.
    """
    own = getattr(judge, "fingerprint", None)
    if own is not None:
        return str(own)
    function = judge if inspect.isroutine(judge) else type(judge)
    parts = [f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"]
    try:
        parts.append(inspect.getsource(function))
    except (OSError, TypeError):
        parts.append(getattr(getattr(function, "__code__", None), "co_code", b"").hex())
    closed = [cell.cell_contents for cell in getattr(judge, "__closure__", None) or ()]
    parts += [repr(value) for value in closed if isinstance(value, (str, int, float, tuple, type(None)))]
    return sha256(*parts)


def texts_fingerprint(texts: Texts) -> str:
    """A hash of the texts with what is known about them, since the judge reads that too."""
    return sha256(*(json.dumps(text.to_json(), sort_keys=True, default=str) for text in texts))
