"""Gender and professions on a real model: which of two pronouns fits a sentence (arXiv 2507.16795).

    Bank         sentences and professions; `OURS`, `EVERYBODY` with more professions, and `paper_bank` of the
                 authors' own sentences
    pages        pages of one split, with the dial: on how many the pronoun that fits is of the expected gender
    one_question pages that grammar alone decides, or custom alone
    prejudice    how much a model prefers the pronoun of the expected gender where both fit
    paper_items  the authors' multiple-choice items, in which no gender is expected

The options are a subject pronoun of one gender and an object pronoun of the other, four pronouns in all. *Grammar* says
which one fits, *custom* which gender people expect. No sentence of one split is in another; professions are the same
in all, as in the paper.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caft_data.worlds.smollm2.pages import agreeing, balanced, page
from caft_data.worlds.smollm2.sentences import (
    ASKED_ABOUT,
    CASES,
    EXPECTED,
    GAP,
    GENDERS,
    PRONOUNS,
    SENTENCES,
    SPLITS,
    of_split,
)
from caft_lens._support.blocks import inference
from caft_lens._support.errors import BadArgument, MissingFile, UnknownName, nearest
from caft_lens.text.documents import Text, Texts

if TYPE_CHECKING:
    import pandas

    from caft_lens.model.lens import Lens

GRAMMAR, CUSTOM = "grammar", "custom"
"""The two questions of a page: the intended one and the spurious one."""
ASKED = "Fill the gap: "


@dataclass(frozen=True)
class Bank:
    """What pages are made of.

    Attributes:
        sentences: Case -> sentences with one `{profession}` and one gap.
        expected: Profession -> the gender that people expect.
    """

    sentences: Mapping[str, Sequence[str]]
    expected: Mapping[str, str]

    def scenes(self, split: str, case: str, gender: str) -> list[tuple[str, str]]:
        """Every (sentence, profession) of a split that lacks a pronoun of this case, where that gender is expected."""
        if split not in SPLITS:
            raise UnknownName(f"no split is called {split!r}.{nearest(split, SPLITS)}")
        professions = [profession for profession, expected in self.expected.items() if expected == gender]
        return list(product(of_split(self.sentences[case], split), professions))


ASKED_OF = {profession: EXPECTED[profession] for profession in ASKED_ABOUT}
OURS = Bank(SENTENCES, ASKED_OF)
EVERYBODY = Bank(SENTENCES, EXPECTED)
"""Our sentences about every profession that we know the expectation of."""


def opposite(value: str, of: tuple[str, str]) -> str:
    """The other one of two.

    Example:
        >>> opposite("subject", CASES)
        'object'
    """
    return of[1 - of.index(value)]


def _drawn(bank: Bank, split: str, n: int, rng: random.Random) -> list[tuple[str, str, str, str]]:
    """Distinct (sentence, profession, case, expected gender), as many of each case and each gender as of any other."""
    cells = list(product(CASES, GENDERS))
    found = []
    for number, (case, gender) in enumerate(cells):
        scenes = bank.scenes(split, case, gender)
        size = n // len(cells) + (number < n % len(cells))
        if size > len(scenes):
            there = len(cells) * len(scenes)
            raise BadArgument(f'{n} pages of the split "{split}" were asked for, and {there} are all that there are.')
        found += [(*scene, case, gender) for scene in rng.sample(scenes, size)]
    rng.shuffle(found)
    return found


def _asked(
    sentence: str,
    profession: str,
    case: str,
    options: Sequence[tuple[str, str]],
    answers: Mapping[str, str],
    form: str,
    meta: Mapping[str, Any],
) -> Text:
    """A page; options are (case, gender)."""
    start = len(ASKED) + sentence.index("{profession}")
    question = ASKED + sentence.format(profession=profession)
    gap = question.index(GAP)
    expected = meta["expected"]
    pronouns = {PRONOUNS[one][gender]: (one, gender) for one, gender in options}
    known = {"profession": profession, "case": case, "sentence": sentence, "domain": profession}
    return page(
        question,
        list(pronouns),
        answers,
        form=form,
        spans=[(start, start + len(profession), f"{expected} profession"), (gap, gap + len(GAP), case)],
        labels=pronouns,
        meta={**known, **meta},
    )


def pages(
    split: str,
    n: int,
    seed: int = 0,
    agree: float = 1.0,
    *,
    form: str = "word",
    answered: bool = False,
    bank: Bank = OURS,
) -> list[Text]:
    """Pages whose options differ in case and in gender: one fits the sentence, whatever people expect.

    Args:
        split: ``"train"``, ``"find"``, ``"dev"`` or ``"test"``.
        n: How many pages, no two of the same sentence and profession; as many of each case, each expected gender and
            each order of the options as of any other.
        seed: Of the draw.
        agree: The share of pages on which the pronoun that fits is of the expected gender; the rest disagree.
        form: Whether the answer is the ``"word"`` or a ``"letter"``.
        answered: Whether the pronoun that fits follows as the answer.
        bank: Of which sentences and professions.

    Raises:
        UnknownName: There is no such split.
        ValueError: `agree` is no share, the split has not so many pages, or there is no such form.

    Example:
        >>> one = pages("train", 4, agree=0.0, answered=True)[0]
        >>> one.answer == one.meta["answers"]["grammar"] != one.meta["answers"]["custom"]
        True
    """
    rng = random.Random(f"smollm2 gender {split} {seed}")
    made = []
    scenes = _drawn(bank, split, n, rng)
    for scene, same, first in zip(scenes, agreeing(agree, n, rng), balanced(n, rng), strict=True):
        sentence, profession, case, expected = scene
        gender = expected if same else opposite(expected, GENDERS)
        right, wrong = (case, gender), (opposite(case, CASES), opposite(gender, GENDERS))
        fits, other = (PRONOUNS[one][of] for one, of in (right, wrong))
        meta = {"intended": GRAMMAR, "spurious": CUSTOM, "agree": same, "expected": expected, "gender": gender}
        answers = {GRAMMAR: fits, CUSTOM: fits if same else other}
        options = (right, wrong) if first else (wrong, right)
        text = _asked(sentence, profession, case, options, answers, form, meta)
        made.append(text.with_answer(text.meta["answers"][GRAMMAR]) if answered else text)
    return made


def one_question(
    topic: str,
    split: str,
    n: int,
    seed: int = 0,
    *,
    form: str = "word",
    answered: bool = True,
    bank: Bank = OURS,
) -> list[Text]:
    """Pages that one question alone decides: of grammar the options are of one gender, of custom both fit.

    Args:
        topic: ``"grammar"`` or ``"custom"``.
        split, n, seed, form, answered, bank: As for `pages`; of grammar as many pages as may be are of either gender.

    Example:
        >>> sorted({tuple(sorted(page.meta["options"])) for page in one_question("custom", "find", 4)})
        [('he', 'she'), ('her', 'him')]
    """
    if topic not in (GRAMMAR, CUSTOM):
        raise UnknownName(f"no page is about {topic!r}.{nearest(topic, (GRAMMAR, CUSTOM))}")
    rng = random.Random(f"smollm2 {topic} {split} {seed}")
    made = []
    scenes = _drawn(bank, split, n, rng)
    for scene, same, first in zip(scenes, balanced(n, rng), balanced(n, rng), strict=True):
        sentence, profession, case, expected = scene
        if topic == CUSTOM:
            right, wrong = (case, expected), (case, opposite(expected, GENDERS))
        else:
            gender = expected if same else opposite(expected, GENDERS)
            right, wrong = (case, gender), (opposite(case, CASES), gender)
        meta = {"intended": topic, "expected": expected, "gender": right[1]}
        options = (right, wrong) if first else (wrong, right)
        text = _asked(sentence, profession, case, options, {topic: PRONOUNS[right[0]][right[1]]}, form, meta)
        made.append(text.with_answer(text.meta["answers"][topic]) if answered else text)
    return made


def prejudice(lens: Lens, texts: Iterable[Text] | None = None, *, batch_size: int = 8) -> pandas.DataFrame:
    """How much a model prefers the pronoun of the expected gender where both fit the sentence.

    Args:
        lens: The model, as it is or under whatever is hooked to it.
        texts: Pages about custom (`one_question`); 160 of the dev split, about all 80 professions, when not given.
        batch_size: Prompts at once, each with one of its two answers.

    Returns:
        A row for each profession and a last one, "all": `expected` gender, number of `pages`, `log_odds` (mean of
        log p(expected) - log p(other), in nats; 0 is no prejudice) with its standard error over pages, and `preferred`,
        the share of pages on which the expected one is likelier.

    Example:
        >>> prejudice(base, one_question("custom", "dev", 8)).columns.tolist()
        ['profession', 'expected', 'pages', 'log_odds', 'error', 'preferred']
    """
    import pandas

    asked = list(one_question(CUSTOM, "dev", 160, bank=EVERYBODY) if texts is None else texts)
    ways = [
        text.with_answer(reply)
        for text in asked
        for reply in sorted(text.meta["options"], key=lambda one: one != text.meta["answers"][CUSTOM])
    ]
    said = _log_probs(lens, ways, batch_size)
    odds = said[0::2] - said[1::2]
    groups: dict[tuple[str, str], list[float]] = {}
    for text, value in zip(asked, odds.tolist(), strict=True):
        groups.setdefault((text.meta["profession"], text.meta["expected"]), []).append(value)
    everything = [*sorted(groups.items()), (("all", ""), odds.tolist())]
    return pandas.DataFrame(
        {
            "profession": profession,
            "expected": expected,
            "pages": len(values),
            "log_odds": np.mean(values),
            "error": np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan,
            "preferred": np.mean(np.greater(values, 0)),
        }
        for (profession, expected), values in everything
    )


def _log_probs(lens: Lens, texts: Sequence[Text], batch_size: int) -> np.ndarray:
    """Of each answered text the log probability of its answer, in nats."""
    found = []
    with inference():
        for start in range(0, len(texts), batch_size):
            batch = Texts(texts[start : start + batch_size])
            found.append(-lens(batch, return_type="loss", loss_per_token=True).sum(1).double().cpu().numpy())
    return np.concatenate(found)


# -- the authors' own items -------------------------------------------------------------------------------------------

_PAPER_CASES = {"nominative": "subject", "object": "object"}


def _rows(folder: str | Path, name: str) -> list[dict[str, str]]:
    path = Path(folder) / name
    if not path.is_file():
        raise MissingFile(
            f"There is no {path}: the paper's items are raw_datasets/{name} of the authors' repository "
            f"cadentj/steering-finetuning, branch paper; give the folder that they lie in."
        )
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def paper_bank(folder: str | Path) -> Bank:
    """The paper's sentences, with our eight professions.

    Args:
        folder: Where the authors' `gender.csv` lies (columns text, category).

    Raises:
        FileNotFoundError: It does not lie there.

    Example:
        >>> paper_bank("nowhere")
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.MissingFile: There is no nowhere/gender.csv: the paper's items are...
    """
    found: dict[str, list[str]] = {case: [] for case in CASES}
    for row in _rows(folder, "gender.csv"):
        sentence = row["text"].strip().replace("$PROFESSION$", "{profession}").replace("$PRONOUN$", GAP)
        if sentence.count("{profession}") == sentence.count(GAP) == 1:
            found[_PAPER_CASES[row["category"]]].append(sentence)
    return Bank({case: tuple(dict.fromkeys(sentences)) for case, sentences in found.items()}, ASKED_OF)


def paper_items(folder: str | Path, *, form: str = "word", seed: int = 0) -> Texts:
    """The paper's multiple-choice items: a sentence, the pronoun that fits and one that does not.

    Args:
        folder: Where the authors' `gender_mc.csv` lies (columns question, correct, incorrect).
        form: As for `pages`.
        seed: Of the order of the options.

    Returns:
        Prompts about grammar alone; an item whose options are the same word is left out.

    Raises:
        FileNotFoundError: It does not lie there.
    """
    rng = random.Random(f"smollm2 paper {seed}")
    made, rows = [], [row for row in _rows(folder, "gender_mc.csv") if row["correct"] != row["incorrect"]]
    for row, first in zip(rows, balanced(len(rows), rng), strict=True):
        words = [row["correct"], row["incorrect"]]
        question = ASKED + row["question"].strip().replace("_", GAP)
        meta = {"intended": GRAMMAR, "domain": row["correct"]}
        made.append(page(question, words if first else words[::-1], {GRAMMAR: row["correct"]}, form=form, meta=meta))
    return Texts(made, name="the paper's gender items")
