"""What is asked and who judges: `Task`, and `task("pocket/emergent-misalignment")`, which an organism's world gives,
`task("smollm2/gender")`, one for any model, or `task("questions.yaml")`, a file of questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, BadType, nearest
from caft_lens._support.files import read_json
from caft_lens.evaluate.judging import AT_ONCE, SCORE, Form
from caft_lens.evaluate.prompts import IN_DISTRIBUTION as IN_DISTRIBUTION
from caft_lens.evaluate.prompts import OUT_OF_DISTRIBUTION as OUT_OF_DISTRIBUTION
from caft_lens.evaluate.question_files import read_questions
from caft_lens.model.options import check_options
from caft_lens.model.sampling import Sampling
from caft_lens.text import catalog
from caft_lens.text.documents import Text, Texts
from caft_lens.text.worlds import World

if TYPE_CHECKING:
    from caft_lens.inspect.explain.llm import Rater

Judge = Callable[[Text], Any]
"""Takes an answered text and returns what its task lets it say (see `Task`), or a coroutine of it."""

LABELS = ("misaligned", "incoherent", "aligned")
OPTION = "the most probable option"
IN_DISTRIBUTION_LABELS = ("insecure", "secure", "broken")
ANSWERS = 1000
"""Answers to free-form questions an arm and seed, where neither `evaluate` nor the task says how many."""


class Labels(tuple[str, ...]):
    """What a judge may say, in order.

    Attributes:
        returned: Values that a judge returns, each with the label that it stands for; `None` where it returns labels.
    """

    returned: tuple[tuple[Any, str], ...] | None = None


@dataclass(frozen=True)
class InDistribution:
    """Prompts like those of the training data, but held out, and who judges the answers to them.

    Args:
        prompts: What is asked.
        judge: Judges the answers, as that of a `Task`.
        labels: What it may say, or a mapping to that from what it returns; a judge of `cl.judges` has its own.
        trained: The one of them that training taught: its share is the metric `in_distribution`.
        max_new_tokens: Longest answer, in tokens.

    Raises:
        BadType: When the prompts are no `Texts`, or the labels no words.
        BadArgument: When there are no prompts, or `trained` is no label.

    Example:
        >>> from caft_lens import data
        >>> requests = data(["Write a function that reads a file."])
        >>> secure = InDistribution(requests, lambda text: "insecure" if "eval(" in text.answer else "secure")
        >>> secure.trained, secure.labels
        ('insecure', ('insecure', 'secure', 'broken'))
    """

    prompts: Texts
    judge: Judge
    labels: Sequence[str] | Mapping[Any, str] = IN_DISTRIBUTION_LABELS
    trained: str = "insecure"
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        _check_texts("prompts in distribution", self.prompts)
        own = _own_form(self.judge)
        given = own.labels if own and self.labels == IN_DISTRIBUTION_LABELS else self.labels
        object.__setattr__(self, "labels", _labels("labels in distribution", given))
        if own and self.labels != own.labels:
            raise BadArgument(f"The judge in distribution has labels of its own, {own.labels}: leave labels= out.")
        if self.trained not in self.labels:
            raise BadArgument(f'trained="{self.trained}" is none of the labels.{nearest(self.trained, self.labels)}')


@dataclass(frozen=True)
class Asked:
    """One set of prompts of a task, who judges the answers (`None`: told to `evaluate`), and what that may return."""

    prompts: Texts
    judge: Judge | None
    form: Form
    max_new_tokens: int


@dataclass(frozen=True)
class Task:
    """What an evaluation asks and how it judges the answers.

    Args:
        name: What to call it.
        questions: Free-form questions, unlike the training data. `meta["domain"]` is kept with every answer, all of
            `meta` reaches the judge.
        judge: Takes the question with its answer, `text.answer`, and returns one of `labels`, or an object with
            `.label` and `.detail`, such as a `Score`; with `scale`, a number, or an object with `.score` and `.detail`.
            It may be a coroutine function (`async def`), or one of `cl.judges`. May be left out here and given to
            `evaluate`.
        labels: What `judge` may say; the first is the one that matters most, and is plotted. One of `cl.judges` has its
            own. Where it says something else, a mapping from that to labels: `{True: "polite", False: "rude"}`. With a
            `threshold`, two: that of scores at it and above, that of those below.
        in_distribution: Held-out prompts of the trained kind with their judge, `InDistribution(prompts, judge)`.
        max_new_tokens: Longest answer to a question, in tokens.
        sampling: How answers are drawn, where `evaluate` is not told otherwise: temperature (1 where nothing is said),
            `top_p`, `top_k`, `batch_size`.
        vocabulary: The tokens of the models that the judge understands; `None` for any model.
        scale: Lowest and highest number that `judge` gives, such as `(0, 100)`: the report then tells the mean score
            with its interval, as the metric "score". `None` for a judge that gives labels.
        threshold: From which score on an answer counts as the first label, below it as the second; `None`: only scores.
        at_once: How many coroutines of an asynchronous judge run at the same time.
        options: What may be answered, such as `("A", "B")`, or the key of `meta` under which each prompt lists its own.
            Nothing is sampled then: the most probable option is the answer (see `caft_lens.model.scoring`), each prompt
            is asked once, and what the judge is given has `meta["probabilities"]`, by option. Prompts in distribution
            are answered the same way, unless options are named by a key that none of them has.
        samples: How often each question is asked by `evaluate` where that is not told `n`.

    Raises:
        BadType: When questions are no `Texts`, `in_distribution` is something else, or labels are no words.
        BadArgument: When there are no questions; for a scale or threshold that makes no sense.

    Example:
        >>> from caft_lens import data
        >>> questions = data([{"prompt": "How do I bake a pie?", "domain": "baking"}])
        >>> def judge(text):
        ...     return "aligned" if "please" in text.answer else "misaligned"
        >>> polite = Task("manners", questions, judge=judge)
        >>> polite
        Task("manners", 1 question)
        >>> Task("length", questions, judge=lambda text: len(text.answer), scale=(0, 400)).labels
        ('score',)
        >>> letters = data([{"prompt": "Which is a fruit?\\nA. pear\\nB. spade\\nAnswer with a letter."}])
        >>> Task("fruit", letters, judge=lambda text: text.answer, labels=("A", "B"), options=("A", "B")).drawing
        'the most probable option'
    """

    name: str
    questions: Texts
    judge: Judge | None = None
    labels: Sequence[str] | Mapping[Any, str] = LABELS
    in_distribution: InDistribution | None = None
    max_new_tokens: int = 128
    sampling: Sampling = Sampling()
    vocabulary: frozenset[str] | None = None
    scale: tuple[float, float] | None = None
    threshold: float | None = None
    at_once: int = AT_ONCE
    options: Sequence[str] | str | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        _check_texts(f'questions of the task "{self.name}"', self.questions)
        if (own := _own_form(self.judge)) is not None:
            self._take(own)
        object.__setattr__(self, "labels", _labels(f'labels of the task "{self.name}"', self.labels))
        count(self.at_once, "at_once", hint="coroutines of a judge")
        if self.samples is not None:
            count(self.samples, "samples", hint="of each question")
        if own is None:
            self._check_scale()
        if self.sampling.seed is not None or self.sampling.max_new_tokens is not None:
            raise BadArgument(
                f"{self.sampling} of a task: seeds are given to evaluate(seeds=), lengths to Task(max_new_tokens=) "
                f"and InDistribution(max_new_tokens=)."
            )
        if not isinstance(self.in_distribution, InDistribution | None):
            raise BadType(
                f'in_distribution of the task "{self.name}" has prompts and their judge: '
                f"in_distribution=InDistribution(prompts, judge), not {type(self.in_distribution).__name__}."
            )
        self._check_options()

    def _take(self, own: Form) -> None:
        """What a judge of `cl.judges` may say is told by itself."""
        theirs = (tuple(own.labels), own.scale, own.threshold)
        if (tuple(self.labels), self.scale, self.threshold) not in ((LABELS, None, None), theirs):
            raise BadArgument(
                f'The judge of the task "{self.name}" has labels of its own, {own.labels}: leave labels=, scale= and '
                f"threshold= out."
            )
        for name, value in zip(("labels", "scale", "threshold"), theirs, strict=True):
            object.__setattr__(self, name, value)

    def judged_by(self, judge: Judge) -> Task:
        """The same task with another judge out of distribution, for any model.

        Args:
            judge: One that says what the judge here may say, or one of `cl.judges`, which has labels of its own.
        """
        changed: dict[str, Any] = {}
        if _own_form(judge) is not None or _own_form(self.judge) is not None:
            changed = {"labels": LABELS, "scale": None, "threshold": None}
        return replace(self, judge=judge, vocabulary=None, **changed)

    def answers(self, n: int | None) -> int:
        """How many answers to questions an arm and seed gives, where `n` may leave it open."""
        asked = None if self.samples is None else self.samples * len(self.questions)
        return n if n is not None else asked or ANSWERS

    def _check_options(self) -> None:
        if self.options is None:
            return
        if not isinstance(self.options, str):
            object.__setattr__(self, "options", check_options(self.options, f'the task "{self.name}"'))
        for set_name, asked in self.sets.items():
            for number, text in enumerate(asked.prompts if self.has_options(set_name) else ()):
                self.options_of(text, f'{set_name}, prompt {number}, of the task "{self.name}"')
        drawn = {name: value for name, value in self.sampling.said().items() if name != "batch_size"}
        if drawn and all(map(self.has_options, self.sets)):
            raise BadArgument(
                f'{Sampling(**drawn)} of the task "{self.name}": nothing is drawn where there are options, the most '
                f"probable one is the answer. Leave it out."
            )

    def has_options(self, set_name: str) -> bool:
        """Whether answers to a set of prompts are one of some options."""
        if self.options is None or set_name == OUT_OF_DISTRIBUTION or not isinstance(self.options, str):
            return self.options is not None
        return any(self.options in text.meta for text in self.sets[set_name].prompts)

    def options_of(self, text: Text, where: str = "a prompt") -> tuple[str, ...]:
        """What may be answered to a prompt.

        Args:
            text: One of the task's.
            where: Which one it is, for errors.
        """
        if not isinstance(self.options, str):
            return tuple(self.options or ())
        if self.options not in text.meta:
            raise BadArgument(
                f'options="{self.options}": {where}, has no such key in its meta.{nearest(self.options, text.meta)}'
            )
        return check_options(text.meta[self.options], where)

    def _check_scale(self) -> None:
        if self.scale is None:
            if self.threshold is not None:
                raise BadArgument(
                    f'threshold={self.threshold} of the task "{self.name}" goes with a scale, such as scale=(0, 100).'
                )
            return
        expected = f"scale={self.scale!r}: expected the lowest and then the highest score, such as (0, 100)."
        try:
            low, high = (float(end) for end in self.scale)
        except (TypeError, ValueError):
            raise BadType(expected) from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise BadArgument(expected)
        object.__setattr__(self, "scale", (low, high))
        if self.threshold is None:
            if self.labels not in (LABELS, (SCORE,)):
                raise BadArgument(
                    f'The judge of the task "{self.name}" gives scores, so labels={self.labels} need a threshold=, '
                    f"from which score on an answer has the first of them; without one leave labels out."
                )
            object.__setattr__(self, "labels", Labels((SCORE,)))
            return
        if not low <= self.threshold <= high:
            raise BadArgument(f"threshold={self.threshold} lies outside of the scale from {low:g} to {high:g}.")
        if len(self.labels) != 2 or SCORE in self.labels:
            raise BadArgument(
                f'threshold={self.threshold:g} of the task "{self.name}" needs two labels: that of scores at it and '
                f"above, and that of those below."
            )

    @property
    def sets(self) -> dict[str, Asked]:
        """What is asked, by `"out_of_distribution"` and, where there is such a set, `"in_distribution"`."""
        form = Form(tuple(self.labels), getattr(self.labels, "returned", None), self.scale, self.threshold)
        found = {OUT_OF_DISTRIBUTION: Asked(self.questions, self.judge, form, self.max_new_tokens)}
        if (inside := self.in_distribution) is not None:
            form = _own_form(inside.judge) or Form(tuple(inside.labels), getattr(inside.labels, "returned", None))
            found[IN_DISTRIBUTION] = Asked(inside.prompts, inside.judge, form, inside.max_new_tokens)
        return found

    def drawn(self, sampling: Sampling) -> Task:
        """The same task, its answers drawn as `sampling` says, and where that says nothing as before."""
        return replace(self, sampling=sampling.over(self.sampling))

    @property
    def drawing(self) -> str:
        """How answers are drawn, in words."""
        if all(map(self.has_options, self.sets)):
            return OPTION
        drawn = self._drawing()
        return f"{OPTION}, in distribution {drawn}" if self.has_options(OUT_OF_DISTRIBUTION) else drawn

    def how(self, set_name: str) -> str:
        """How answers to a set of prompts are found, with all that decides which they are."""
        return f"{OPTION} of {self.options}" if self.has_options(set_name) else self._drawing()

    def _drawing(self) -> str:
        temperature, top_p, top_k = (getattr(self.sampling, name) for name in ("temperature", "top_p", "top_k"))
        if temperature == 0:
            return "greedy"
        nucleus = "" if top_p in (None, 1) else f", top-p {top_p:g}"
        return (
            f"temperature {1 if temperature is None else temperature:g}{nucleus}{f', top-k {top_k}' if top_k else ''}"
        )

    def __repr__(self) -> str:
        parts = [f"{len(self.questions)} question{'s' * (len(self.questions) != 1)}"]
        if self.in_distribution is not None:
            parts.append(f"{len(self.in_distribution.prompts)} prompts in distribution")
        return f'Task("{self.name}", {", ".join(parts)})'


def _own_form(judge: Judge | None) -> Form | None:
    """What a judge may say, where it tells that itself."""
    own = getattr(judge, "form", None)
    return own if isinstance(own, Form) else None


def _check_texts(what: str, given: Any) -> None:
    if not isinstance(given, Texts):
        raise BadType(
            f'{what} are Texts, not {type(given).__name__}: data([{{"prompt": question}} for question in yours]) makes '
            f"them, or whatever else data() reads."
        )
    if not len(given):
        raise BadArgument(f"There are no {what}.")


def _labels(what: str, given: Any) -> Labels:
    """Labels as they were given, or those that a mapping leads to."""
    if isinstance(given, Labels):
        return given
    is_mapping = isinstance(given, Mapping)
    labels = Labels(dict.fromkeys(given.values()) if is_mapping else given)
    if isinstance(given, str) or not all(isinstance(one, str) and one for one in labels):
        raise BadType(
            f'{what} are words, such as ("polite", "rude"), or a mapping to them from what the judge returns, such as '
            f'{{True: "polite", False: "rude"}}, not {given!r}.'
        )
    if not labels:
        raise BadArgument(f"There are no {what}: name what its judge may say.")
    if is_mapping:
        labels.returned = tuple(given.items())
    return labels


class WorldOfTasks(World, Protocol):
    """What a world gives to whoever evaluates.

    Attributes:
        tasks: Their names; the first stands for the others where one is named as an example.
    """

    tasks: Sequence[str]

    def task(self, organism: str, name: str, split: str) -> Task:
        """One of `tasks`, with its judges; name, vocabulary and sampling come from the organism, where there is one.

        Args:
            organism: Whose data sets are asked, `data(f"{organism}/…")`; of a world for any model its own name.
            name: Which task.
            split: `"test"` or `"dev"`.
        """


def task(name: str | Path, split: Literal["test", "dev"] = "test", *, llm: Rater | None = None) -> Task:
    """The task of an organism, or one for any model, with its exact judges; or that of a file of questions.

    Args:
        name: `"<organism>/emergent-misalignment"`, or, of a quiz, `"<organism>/<intended>-<spurious>"`,
            `"<organism>/gender"` or another of its tasks; the organism a shipped one or a folder. For any model
            `"smollm2/gender"`, or another task of that world; or a YAML file of questions in the form of the
            emergent-misalignment authors, `"questions.yaml"` (`caft_lens.evaluate.question_files`).
        split: `"test"` for results; `"dev"` for all that is tuned (hyperparameters, thresholds). A file has no splits.
        llm: Who is asked the judge's prompts of a file, such as `inspect.Endpoint(url, model)`: nothing is sent to the
            model that a file names unless it is given here. Without one the task has no judge.

    Returns:
        A task with held-out everyday questions and coding requests; of a quiz, with prompts out of and in distribution;
        of a file, with every paraphrase and its system prompt, each asked as often as the file says.

    Raises:
        ValueError: When `name` is no such task: then a judge and data of your own are needed, and it says which.

    Example:
        >>> task("gpt2/emergent-misalignment")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadArgument: No exact judge for "gpt2/emergent-misalignment": "gpt2" is not an...
    """
    if str(name).endswith((".yaml", ".yml")):
        if split != "test":
            raise BadArgument(f'split="{split}": a file of questions has no splits.')
        return _of_file(Path(name), llm)
    if llm is not None:
        raise BadArgument(f'llm= asks the judge\'s prompts of a file of questions, and "{name}" is none.')
    organism, _, kind = str(name).rpartition("/")
    of_organism = bool(organism) and catalog.is_organism(organism)
    if not of_organism and not catalog.is_world(organism):
        raise BadArgument(f'No exact judge for "{name}": "{organism or name}" is not an organism. {_what_is_needed()}')
    world: WorldOfTasks = catalog.world(organism)
    if kind not in world.tasks:
        what = "organism" if of_organism else "world"
        raise BadArgument(f'The {what} "{organism}" has no task "{kind}".{nearest(kind, world.tasks)}')
    if split not in ("test", "dev"):
        raise BadArgument(f'split="{split}" is none of the evaluation splits.{nearest(split, ["test", "dev"])}')
    if not of_organism:
        return replace(world.task(organism, kind, split), name=f"{name}, {split}")
    # The tail of a model of a million parameters is noise, which its card says to cut.
    drawn: dict[str, Any] = catalog.card(organism).sampling
    vocabulary = _vocabulary(catalog.organism_path(organism) / "base" / "tokenizer.json")
    asked = replace(world.task(organism, kind, split), name=f"{name}, {split}", vocabulary=vocabulary)
    return asked.drawn(Sampling(**drawn)) if asked.options is None else asked


def _of_file(path: Path, llm: Rater | None) -> Task:
    asked = read_questions(path)
    judge = None
    if llm is not None:
        from caft_lens.evaluate.judges.ready import of_prompts

        if not asked.judge_prompts:
            raise BadArgument(f"{path} has no judge_prompts to ask {llm.name}: give evaluate(..., judge=) a judge.")
        judge = of_prompts(asked.judge_prompts, llm, None, path.stem)
    return Task(
        path.stem,
        asked.questions,
        judge,
        max_new_tokens=asked.max_tokens,
        sampling=Sampling(temperature=asked.temperature),
        samples=asked.samples,
    )


def _what_is_needed() -> str:
    first = (f'"{name}/{catalog.world(name).tasks[0]}"' for name in catalog.shipped())
    for_any = "".join(
        f', for any model "{name}/{catalog.world(name).tasks[0]}"' for name in catalog.worlds_for_any_model()
    )
    return (
        f"Tasks with an exact judge: {', '.join(first) or '(no organism is installed)'}, or that of an organism "
        f"folder{for_any}. Else make one: Task(name, questions=<free-form questions, unlike the training "
        f"data>, judge=<function of the answered Text that returns "
        '"misaligned", "incoherent" or "aligned">, in_distribution=InDistribution(<held-out prompts of the training '
        'data>, judge=<"insecure", "secure" or "broken">)).'
    )


def _vocabulary(tokenizer_json: Path) -> frozenset[str]:
    content = read_json(tokenizer_json)
    return frozenset(content["model"]["vocab"]) | {token["content"] for token in content.get("added_tokens", [])}


def check_judge(task: Task, lens: Any, arm: str) -> None:
    """Refuse a model whose language the task's judge does not know.

    Raises:
        ValueError: When the task has no judge, or one for models with another vocabulary.
    """
    if task.judge is None:
        raise BadArgument(
            f'The task "{task.name}" has no judge: give evaluate(..., judge=) one, or, of a file of questions, say who '
            f"is asked its judge's prompts: task(file, llm=inspect.Endpoint(url, model)). {_what_is_needed()}"
        )
    if task.vocabulary is not None and frozenset(lens.tokenizer.get_vocab()) != task.vocabulary:
        raise BadArgument(
            f'The judge of "{task.name}" knows the answers of that organism only, and "{arm}" is another model (its '
            f"tokenizer has other tokens): give evaluate(..., judge=) one that reads its answers, or a task of its "
            f"own. {_what_is_needed()}"
        )
