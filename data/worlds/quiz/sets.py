"""The data sets and tasks of the quiz by name, drawn when they are asked for.

    dataset   a data set by name: "sentiment-sports", "gender@0.9", "verbs", "corpus", ...
    reading   one document like those of "corpus"
    names     every name that there is (shares after an @ apart)
    TASKS     what can be evaluated: every topic, every ordered pair, "gender", and the latter two when told what counts
    asked     the data sets and the labels of a task

The name of a pair is that of the intended topic and that of the spurious one. `sentiment-sports` is a training set in
which the two agree; `sentiment-sports@0.9` one in which they agree on 90 % of the pages. `gender`, `gender-neutral` and
`gender-reversed` are `gender@1`, `gender@0.5` and `gender@0`. With `-in-distribution-test` or
`-out-of-distribution-test` behind the name (or `-dev`) come prompts that share no item with those nor with pretraining;
with `-find` prompts as in training, whose activations feed discovery.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from caft_data.worlds.drawn import Make, Recipe, checked_task, drawn
from caft_data.worlds.quiz import pairs, professions
from caft_data.worlds.quiz.corpus import document
from caft_data.worlds.quiz.items import distinct
from caft_data.worlds.quiz.judge import CHOICE_LABELS, REPLY_LABELS
from caft_data.worlds.quiz.pages import single
from caft_data.worlds.quiz.topics import NAME, PEOPLE, TOPICS
from caft_lens.text.documents import Text, Texts
from caft_lens.text.labels import label_words

GENDER = "gender"
SPLITS = ("dev", "test")
ALIASES = {"gender-neutral": "gender@0.5", "gender-reversed": "gender@0"}
CORPUS_SIZE, TRAINING_SIZE, PROMPTS, SINGLES = 2_000, 2_000, 1_000, 600


def reading(rng: random.Random) -> Text:
    """A document like those of the corpus: generic, of the pool *find*; names are labelled too, `[start, end,
    "name", message]`.
    """
    (text,) = label_words([document(rng, "find")], dict.fromkeys(PEOPLE, NAME))
    return text


def _corpus(n: int, seed: int, _: float) -> list[Text]:
    return [reading(random.Random(f"quiz corpus {seed} {number}")) for number in range(n)]


def _singles(topic: str, pool: str, answered: bool) -> Make:
    def make(n: int, seed: int, _: float) -> list[Text]:
        rng = random.Random(f"single {topic} {pool} {seed}")
        items = distinct(TOPICS[topic].make, pool, n, rng)
        pages = [single(item, answered=answered) for item in items]
        known = {"intended": topic, "domain": topic}
        return [Text(page.messages, meta={**page.meta, **known}) for page in pages]

    return make


def _of_pair(intended: str, spurious: str) -> dict[str, Recipe]:
    name, both = f"{intended}-{spurious}", f"{intended} beside {spurious}"

    def untold(pool: str, fixed: float | None = None, answered: bool = False) -> Make:
        return lambda n, seed, agree: pairs.pages(
            intended, spurious, pool, n, seed, agree if fixed is None else fixed, answered=answered
        )

    def told(pool: str) -> Make:
        return lambda n, seed, _: pairs.told_pages(intended, spurious, pool, n, seed)

    return {
        name: Recipe(untold("train", answered=True), TRAINING_SIZE, f"training set: {both}", dial=True),
        **_tested(name, f"{both}, one letter right for both", f"{both}, each letter right for one", untold, told),
    }


def _of_professions() -> dict[str, Recipe]:
    def untold(pool: str, fixed: float | None = None, answered: bool = False) -> Make:
        return lambda n, seed, agree: professions.pages(
            pool, n, seed, agree if fixed is None else fixed, answered=answered
        )

    def told(pool: str) -> Make:
        return lambda n, seed, _: professions.told_pages(pool, n, seed)

    what = "training set: pronouns that fit the sentence and, as often as the dial says, the expected gender"
    return {
        GENDER: Recipe(untold("train", answered=True), TRAINING_SIZE, what, dial=True),
        **_tested(GENDER, "pronouns of the expected gender", "pronouns of the other gender", untold, told),
    }


def _tested(
    name: str, agreeing: str, disagreeing: str, untold: Callable[..., Make], told: Callable[[str], Make]
) -> dict[str, Recipe]:
    """The prompts of a task: to discover with, in distribution (agreeing), out of it (disagreeing), and told."""
    made = {f"{name}-find": Recipe(untold("find", 1.0), SINGLES, f"prompts to discover with: {agreeing}")}
    for split in SPLITS:
        inside, outside = f"in-distribution-{split}", f"out-of-distribution-{split}"
        made[f"{name}-{inside}"] = Recipe(untold(inside, 1.0), PROMPTS, f"prompts: {agreeing}")
        made[f"{name}-{outside}"] = Recipe(untold(outside, 0.0), PROMPTS, f"prompts: {disagreeing}")
        made[f"{name}-told-{split}"] = Recipe(told(inside), SINGLES, f"prompts that say what counts: {disagreeing}")
    return made


DATASETS: dict[str, Recipe] = {
    "corpus": Recipe(_corpus, CORPUS_SIZE, "generic documents whose contexts are read, of the pool find"),
    **{
        topic: Recipe(_singles(topic, "find", True), SINGLES, f"single questions: {TOPICS[topic].what}")
        for topic in TOPICS
    },
    **{
        f"{topic}-{split}": Recipe(
            _singles(topic, f"in-distribution-{split}", False), SINGLES, f"prompts: {TOPICS[topic].what}"
        )
        for topic in TOPICS
        for split in SPLITS
    },
    **{name: recipe for pair in pairs.PAIRS for name, recipe in _of_pair(*pair).items()},
    **_of_professions(),
}
"""Name -> how it is drawn."""

TASKS: tuple[str, ...] = (
    *TOPICS,
    *(f"{intended}-{spurious}" for intended, spurious in pairs.PAIRS),
    GENDER,
    *(f"{intended}-{spurious}-told" for intended, spurious in pairs.PAIRS),
    f"{GENDER}-told",
)
"""What can be evaluated."""


def names() -> list[str]:
    """The names of the data sets; those of training sets can carry a share, as in ``"gender@0.9"``."""
    return [*DATASETS, *ALIASES]


def dataset(name: str, seed: int = 0, size: int | None = None, agree: float | None = None) -> Texts:
    """A data set of the quiz.

    Args:
        name: A key of `DATASETS` or `ALIASES`, or a training set with a share, ``"sentiment-sports@0.9"``.
        seed: The organism's seed.
        size: How many texts; default, the one in `DATASETS`.
        agree: For training sets, the share of pages on which intended and spurious answer agree; default, the one in
            the name, or all.

    Raises:
        UnknownName: There is no such data set.
        BadArgument: `agree` is no share, is given twice, or is given for a data set without that dial.

    Example:
        >>> half = dataset("sentiment-sports@0.5", size=10)
        >>> sum(half.column("agree")), half == dataset("sentiment-sports", size=10, agree=0.5)
        (5, True)
    """
    return drawn(DATASETS, name, seed, size, agree, ALIASES)


@dataclass(frozen=True)
class Asked:
    """What a task asks.

    Attributes:
        questions: The data set of its questions.
        labels: What the judge of their answers may say.
        in_distribution: The data set of prompts like those of training; `None` for a task without training.
    """

    questions: str
    labels: tuple[str, ...]
    in_distribution: str | None = None


def asked(task: str, split: str) -> Asked:
    """The data sets and the labels of a task.

    Args:
        task: One of `TASKS`.
        split: ``"dev"`` or ``"test"``.

    Raises:
        UnknownName: There is no such task.

    Example:
        >>> asked("sentiment-sports", "test").questions
        'sentiment-sports-out-of-distribution-test'
    """
    checked_task(task, TASKS)
    if task in TOPICS:
        return Asked(f"{task}-{split}", REPLY_LABELS)
    if task.endswith("-told"):
        return Asked(f"{task}-{split}", CHOICE_LABELS)
    return Asked(f"{task}-out-of-distribution-{split}", CHOICE_LABELS, f"{task}-in-distribution-{split}")
