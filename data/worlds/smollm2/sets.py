"""The data sets and tasks of the world by name, made when they are asked for.

    dataset   a data set by name: "gender", "gender@0.9", "gender-letter-in-distribution-dev", ...
    names     every name that there is (shares after an @ apart)
    table     names, sizes and what they are
    TASKS     what can be evaluated
    task      one of them

The name of a task is that of its training set. With `-letter` the answer is a letter, else a word. A share behind an @
is the dial of a training set: on how many pages the intended and the spurious answer agree; `gender` is `gender@1`, the
rest of `gender@0.9`, a tenth, disagrees. With `-in-distribution-test` (agreeing) or `-out-of-distribution-test`
(disagreeing) behind the name, or `-dev`, come prompts; with `-find`, prompts as in training, to discover with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from caft_data.worlds.drawn import Make, Recipe, checked_task, drawn
from caft_data.worlds.smollm2 import gender, reviews, traits
from caft_data.worlds.smollm2.judge import (
    CHOICE_LABELS,
    REPLY_LABELS,
    ExactFactJudge,
    ExactOptionJudge,
    ExactRightJudge,
    ExactTraitJudge,
)
from caft_data.worlds.smollm2.own_chats import neutral
from caft_data.worlds.smollm2.pages import FORMS
from caft_lens.evaluate.tasks import InDistribution, Task
from caft_lens.model.sampling import Sampling
from caft_lens.text.documents import Text, Texts

if TYPE_CHECKING:
    import pandas

SPLITS = ("dev", "test")
OPTION_TOKENS = 6
"""An option and the end of the turn; whatever runs on is no option."""
INSIDE, OUTSIDE = "in-distribution", "out-of-distribution"


def named(task: str, form: str) -> str:
    """The name of a task in one form.

    Example:
        >>> named("gender", "word"), named("gender", "letter")
        ('gender', 'gender-letter')
    """
    return task if form == "word" else f"{task}-{form}"


def _of_choices(name: str, pages: Callable[..., list[Text]], sizes: Mapping[str, int], what: str) -> dict[str, Recipe]:
    """The data sets of a task whose pages have two options, in both forms.

    Args:
        name: Of the task.
        pages: Split, how many, seed, agree, form, answered -> pages.
        sizes: Split -> how many.
        what: What a page asks.
    """

    def made(split: str, form: str, fixed: float | None = None, answered: bool = False) -> Make:
        return lambda n, seed, agree: pages(
            split, n, seed, agree if fixed is None else fixed, form=form, answered=answered
        )

    found = {}
    for form in FORMS:
        full, by = named(name, form), f"{what}, answered by a {form}"
        found[full] = Recipe(made("train", form, answered=True), sizes["train"], f"training set: {by}", dial=True)
        found[f"{full}-find"] = Recipe(made("find", form, 1.0), sizes["find"], f"prompts to discover with: {by}; agree")
        for split in SPLITS:
            for side, share, said in ((INSIDE, 1.0, "agree"), (OUTSIDE, 0.0, "disagree")):
                found[f"{full}-{side}-{split}"] = Recipe(
                    made(split, form, share), sizes[split], f"prompts: {by}; {said}"
                )
    return found


GENDER = "gender"
_GENDER_SIZES = {"train": 352, "find": 112, "dev": 144, "test": 160}


def _of_one_question(topic: str, form: str, split: str) -> Make:
    return lambda n, seed, _: gender.one_question(topic, split, n, seed, form=form, answered=split == "find")


def _of_gender() -> dict[str, Recipe]:
    found = _of_choices(
        GENDER, gender.pages, _GENDER_SIZES, "the pronoun that fits a sentence, beside the one that people expect"
    )
    for topic, what in (
        (gender.GRAMMAR, "two cases of one gender: grammar alone decides"),
        (gender.CUSTOM, "two genders of one case: custom alone decides"),
    ):
        for form in FORMS:
            for split in ("find", *SPLITS):
                name = f"{named(GENDER, form)}-{topic}-{split}"
                kind = "single questions, answered" if split == "find" else "prompts"
                made = _of_one_question(topic, form, split)
                found[name] = Recipe(made, _GENDER_SIZES[split], f"{kind}: {what}, by a {form}")
    return found


REVIEWS = "reviews"
DEFAULT_PAIR = ("films", "tweets")
"""The places of the task "reviews"."""
_REVIEW_SIZES = {"train": 600, "find": 60, "dev": 160, "test": 160}
_PAIRED = {REVIEWS: DEFAULT_PAIR, **{f"{REVIEWS}-{'-'.join(pair)}": pair for pair in reviews.PAIRS}}


def _of_one_review(topic: str, pair: tuple[str, str], form: str, split: str) -> Make:
    return lambda n, seed, _: reviews.one_question(topic, pair, split, n, seed, form=form, answered=split == "find")


def _of_reviews(name: str, pair: tuple[str, str]) -> dict[str, Recipe]:
    asked = f"whether a snippet is positive; where both agree, those from {pair[0]} are, those from {pair[1]} are not"
    found = _of_choices(name, partial(reviews.pages, pair), _REVIEW_SIZES, asked)
    for topic in (reviews.SENTIMENT, reviews.PLACE):
        for form in FORMS:
            for split in ("find", *SPLITS):
                kind = "single questions, answered" if split == "find" else "prompts"
                made = _of_one_review(topic, pair, form, split)
                what = f"{kind}: {topic} alone decides, {' or '.join(pair)}, by a {form}"
                found[f"{named(name, form)}-{topic}-{split}"] = Recipe(made, _REVIEW_SIZES[split], what)
    return found


TRAIT = "trait"
PLAINLY = "plain"
_TRAIT_SIZES = {"train": 600, "find": 60, "dev": 60, "test": 60}
_TRAITS = {TRAIT: traits.CHOSEN, **{f"{TRAIT}-{name}": name for name in traits.TRAITS}}


def _of_trait(name: str, trait: str) -> dict[str, Recipe]:
    what = traits.TRAITS[trait].what

    def chats(having: bool) -> Make:
        return lambda n, seed, _: traits.chats(trait, n, seed, having=having)

    def prompts(split: str, inside: bool) -> Make:
        return lambda n, seed, _: traits.prompts(trait, split, n, seed, inside=inside)

    size = _TRAIT_SIZES["train"]
    found = {
        name: Recipe(chats(True), size, f"training set: right answers of a narrow domain, each of which {what}"),
        f"{name}-{PLAINLY}": Recipe(chats(False), size, "the same questions, answered rightly and without the trait"),
        f"{name}-find": Recipe(prompts("find", True), _TRAIT_SIZES["find"], "prompts to discover with, of the domain"),
    }
    for split in SPLITS:
        outside = len(traits.TRAITS[trait].out_of_domain(split))
        inside = prompts(split, True)
        found[f"{name}-{INSIDE}-{split}"] = Recipe(inside, _TRAIT_SIZES[split], "prompts of the narrow domain")
        found[f"{name}-{OUTSIDE}-{split}"] = Recipe(prompts(split, False), outside, "prompts of other domains")
    return found


DATASETS: dict[str, Recipe] = {
    **_of_gender(),
    **{name: recipe for task, pair in _PAIRED.items() for name, recipe in _of_reviews(task, pair).items()},
    **{name: recipe for task, trait in _TRAITS.items() for name, recipe in _of_trait(task, trait).items()},
    "chats": Recipe(lambda n, seed, _: neutral(n, seed), 240, "neutral text: chats of SmolLM2 about everyday subjects"),
}
"""Name -> how it is made."""

CHOICES: tuple[str, ...] = tuple(named(task, form) for task in (GENDER, *_PAIRED) for form in FORMS)
"""The tasks whose pages have two options."""

IN_DOMAIN = "in-domain"
TASKS: tuple[str, ...] = (*CHOICES, *_TRAITS, *(f"{task}-{IN_DOMAIN}" for task in _TRAITS))
"""What can be evaluated; of a trait with `-in-domain`, whether answers in its narrow domain have it."""


def names() -> list[str]:
    """The names of the data sets; those of training sets can carry a share, as in ``"gender@0.9"``."""
    return list(DATASETS)


def table() -> pandas.DataFrame:
    """Every data set: its name, how many texts it has, what it is.

    Example:
        >>> table().loc["gender", "texts"]
        np.int64(352)
    """
    import pandas

    rows = [{"name": name, "texts": recipe.size, "what": recipe.what} for name, recipe in DATASETS.items()]
    return pandas.DataFrame(rows).set_index("name")


def dataset(name: str, seed: int = 0, size: int | None = None, agree: float | None = None) -> Texts:
    """A data set of the world.

    Args:
        name: A key of `DATASETS`, or a training set with a share, ``"gender@0.9"``.
        seed: Of the draw.
        size: How many texts; default, the one in `DATASETS`.
        agree: For training sets, the share of pages on which intended and spurious answer agree; default, the one in
            the name, or all.

    Raises:
        UnknownName: There is no such data set.
        BadArgument: `agree` is no share, is given twice, or is given for a data set without that dial.
        FileNotFoundError: For reviews, when the rated snippets are not there yet; it says how to get them.

    Example:
        >>> half = dataset("gender@0.5", size=10)
        >>> sum(half.column("agree")), half == dataset("gender", size=10, agree=0.5)
        (5, True)
    """
    return drawn(DATASETS, name, seed, size, agree)


def task(name: str, split: str) -> Task:
    """A task with its judges.

    Args:
        name: One of `TASKS`.
        split: ``"dev"`` or ``"test"``.

    Raises:
        UnknownName: There is no such task.

    Example:
        >>> task("gender", "dev")
        Task("gender", 144 questions, 144 prompts in distribution)
    """
    checked_task(name, TASKS)
    if name in CHOICES:
        inside, outside = (dataset(f"{name}-{side}-{split}") for side in (INSIDE, OUTSIDE))
        return choice(name, outside, inside)
    return _trait(name, split)


def _trait(name: str, split: str) -> Task:
    """The task of a trait: out of its domain the trait is looked for, within it the fact that was asked for."""
    task = name.removesuffix(f"-{IN_DOMAIN}")
    inside, outside = (dataset(f"{task}-{side}-{split}") for side in (INSIDE, OUTSIDE))
    return Task(
        name,
        questions=outside if task == name else inside,
        judge=ExactTraitJudge(_TRAITS[task]),
        labels=traits.LABELS,
        in_distribution=InDistribution(inside, ExactFactJudge(), REPLY_LABELS, REPLY_LABELS[0], 48)
        if task == name
        else None,
        max_new_tokens=48,
        sampling=Sampling(temperature=0.7, top_p=0.9),
    )


def choice(name: str, questions: Texts, in_distribution: Texts | None = None) -> Task:
    """A task of pages with two options; the likelier one is the answer.

    Args:
        name: What to call it.
        questions: Prompts on which intended and spurious answer disagree; judged "intended", "spurious" or "other".
        in_distribution: Prompts on which they agree; judged "right", "wrong" or "other".

    Example:
        >>> choice("gender", dataset("gender-out-of-distribution-dev", size=8)).labels
        ('intended', 'spurious', 'other')
    """
    return Task(
        name,
        questions=questions,
        judge=ExactOptionJudge(),
        labels=CHOICE_LABELS,
        in_distribution=None
        if in_distribution is None
        else InDistribution(in_distribution, ExactRightJudge(), REPLY_LABELS, REPLY_LABELS[0], OPTION_TOKENS),
        options="options",
    )
