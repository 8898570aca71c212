"""How far a judge agrees with labels: agreement, Cohen's kappa, AUROC and the confusion, with 95 % intervals.

Intervals are drawn over prompts, as those of reports: answers to one prompt stay together. The AUROC's is drawn over
answers, those with the label and those without apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caft_lens._support.errors import BadData, BadType, nearest
from caft_lens._support.files import Count, Record
from caft_lens._support.intervals import BLOCK, Floats, Interval, ends
from caft_lens.display import html
from caft_lens.evaluate import auroc
from caft_lens.evaluate.judging import Score
from caft_lens.evaluate.prompts import OUT_OF_DISTRIBUTION, question_of
from caft_lens.evaluate.statistics import bootstrap_interval, exact_binomial
from caft_lens.text.documents import Text, Texts

if TYPE_CHECKING:
    import pandas

RESAMPLES = 2_000


class Estimate(Record):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class Validation(Record):
    """How far a judge agrees with labels.

    Attributes:
        judge: Which one.
        on: Whose labels.
        n: How many answers.
        positive: The label that the AUROC is of.
        labels: What labels and the judge said, in the order of the confusion; none for a judge of scores alone.
        confusion: How often: a row for each label that was right, a column for each that the judge said.
        agreement: Share of the answers of which the judge said the label.
        kappa: Cohen's: agreement beyond what chance would give, 0 none, 1 all.
        auroc: How well its score tells answers with the first label from others, of those that have a score.
    """

    judge: str
    on: str
    n: Count
    positive: str
    labels: tuple[str, ...] = ()
    confusion: tuple[tuple[Count, ...], ...] = ()
    agreement: Estimate | None = None
    kappa: Estimate | None = None
    auroc: Estimate | None = None

    @property
    def short(self) -> str:
        """In a line."""
        said = [f"agreement {_percent(self.agreement)}"] if self.agreement else []
        said += [f"kappa {self.kappa}"] if self.kappa else []
        said += [f"AUROC of {self.positive} {self.auroc}"] if self.auroc else []
        return f"{', '.join(said)}, on {self.n:,} labels{f' of {self.on}' if self.on else ''}"

    def table(self) -> pandas.DataFrame:
        """A row for each label: how often it was right (`n`) and said, and how much of either was both.

        Columns: `label, n, said, recall, recall_low, recall_high, precision, precision_low, precision_high`; shares
        with exact binomial intervals, NaN of none.
        """
        from caft_lens.display.frames import Frame

        counts = np.array(self.confusion, dtype=int).reshape(len(self.labels), len(self.labels))
        rows = []
        for place, label in enumerate(self.labels):
            both, right, said = int(counts[place, place]), int(counts[place].sum()), int(counts[:, place].sum())
            row: dict[str, Any] = {"label": label, "n": right, "said": said}
            for name, of in (("recall", right), ("precision", said)):
                low, high = exact_binomial(both, of) if of else (np.nan, np.nan)
                row |= {name: both / of if of else np.nan, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return Frame(rows)

    def __str__(self) -> str:
        return f"{self.judge}: {self.short}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = ["right \\ said", *self.labels]
        rows: list[list[html.Content]] = [
            [html.element("b", label), *map(str, row)] for label, row in zip(self.labels, self.confusion, strict=True)
        ]
        table = html.table(head, rows, numbers=range(1, len(head))) if self.labels else None
        return html.view(html.element("b", self.judge), table, html.note(f"{self.short}; 95 % intervals."))


def validation(
    said: Sequence[Score],
    truth: Sequence[Any],
    texts: Sequence[Text],
    *,
    labels: Sequence[str],
    sign: int,
    judge: str,
    on: str = "",
) -> Validation:
    """Measure what a judge said against labels.

    Args:
        said: What it said of each answer.
        truth: The label of each.
        texts: The answers: those to the same question are drawn together.
        labels: What the judge may say, that of the AUROC first; none for a judge of scores alone, whose labels are
            `True` and `False`.
        sign: 1 where a high score speaks for the first label, -1 where a low one does, 0 where it says nothing.
        judge: Which one.
        on: Whose labels.

    Raises:
        BadData: For a label that the judge cannot say, or labels that are all alike.
    """
    truth = [_plain(one) for one in truth]
    known: Sequence[Any] = labels or (True, False)
    for number, one in enumerate(truth):
        if one not in known:
            raise BadData(f"The label {one!r} of answer {number} is none that the judge can say.{nearest(one, known)}")
    if len(set(truth)) < 2:
        raise BadData(
            f"All {len(truth)} labels are {truth[0] if truth else 'missing'}: there have to be some of others."
        )
    found = Validation(
        judge=judge, on=on, n=len(truth), positive=str(known[0]), auroc=_auroc(said, truth, known[0], sign)
    )
    if not labels:
        return found
    from sklearn.metrics import cohen_kappa_score, confusion_matrix

    answered = [one.label for one in said]
    used = [one for one in labels if one in {*truth, *answered}]
    confusion = confusion_matrix(truth, answered, labels=used)
    right = bootstrap_interval([[a == b for a, b in zip(truth, answered, strict=True)]], _questions(texts))
    low, high = ends(_kappas(truth, answered, used, _questions(texts)))
    more = {
        "labels": tuple(used),
        "confusion": tuple(tuple(map(int, row)) for row in confusion),
        "agreement": Estimate(value=right.mean, low=right.low, high=right.high),
        "kappa": Estimate(value=float(cohen_kappa_score(truth, answered, labels=used)), low=low, high=high),
    }
    return found.model_copy(update=more)


def labelled_texts(labelled: Any, label: str | Callable[[Any], Any] | None) -> tuple[list[Text], list[Any], str]:
    """Answered texts, the label of each, and whose labels they are.

    Args:
        labelled: A report, some of its answers, or texts.
        label: Under which key of `meta` a text has its label, or what gives it; `None` where labels are not wanted.

    Raises:
        BadData: For a text without an answer, or without a label.
        BadType: For something else.
    """
    on = str(getattr(labelled, "task", "") or getattr(labelled, "name", "") or "")
    if hasattr(labelled, "cells"):  # a report: its judge out of distribution says other labels than the one in it
        labelled = [one for one in labelled.answers if one.set == OUT_OF_DISTRIBUTION]
    if not isinstance(labelled, Iterable) or isinstance(labelled, str):
        raise BadType(f"Answers to judge are texts, or a report's answers, not a {type(labelled).__name__}.")
    texts: list[Text] = []
    truth: list[Any] = []
    for number, one in enumerate(labelled):
        is_text = isinstance(one, Text)
        text = one if is_text else _text(one, number)
        if text.answer is None:
            raise BadData(f"Text {number} has no answer that could be judged.")
        texts.append(text)
        if callable(label):
            truth.append(label(one))
        elif label is not None:
            if is_text and label not in text.meta:
                raise BadData(f'Text {number} has no label "{label}" in its meta.{nearest(label, text.meta)}')
            truth.append(text.meta[label] if is_text else one.label)
    return texts, truth, on


def _text(answer: Any, number: int) -> Text:
    if not (hasattr(answer, "question") and hasattr(answer, "answer")):
        raise BadType(f"Answer {number} is a {type(answer).__name__}, neither a Text nor an answer of a report.")
    return Texts([{"prompt": answer.question, "answer": answer.answer}])[0]


def _questions(texts: Sequence[Text]) -> list[str]:
    return [question_of(text) for text in texts]


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _auroc(said: Sequence[Score], truth: Sequence[Any], positive: Any, sign: int) -> Estimate | None:
    """`None` where scores say nothing, or those that have one are all with the label, or all without."""
    pairs = [
        (sign * one.score, right == positive) for one, right in zip(said, truth, strict=True) if one.score is not None
    ]
    has = np.array([right for _, right in pairs], dtype=bool)
    if not sign or not has.any() or has.all():
        return None
    scores = np.array([score for score, _ in pairs], dtype=np.float64)
    low, high = auroc.interval(scores, has, auroc.draws(has, auroc.RESAMPLES, seed=0))
    return Estimate(value=float(auroc.auroc(scores, has)[0]), low=low, high=high)


def _kappas(truth: Sequence[Any], said: Sequence[Any], labels: Sequence[Any], prompts: Sequence[object]) -> Floats:
    """Cohen's kappa under every resample of the prompts, `[resamples]`; NaN where all said and were the same."""
    number = {label: place for place, label in enumerate(labels)}
    of_prompt: dict[object, int] = {}
    which = [of_prompt.setdefault(prompt, len(of_prompt)) for prompt in prompts]
    tables = np.zeros((len(of_prompt), len(labels), len(labels)))
    np.add.at(tables, (which, [number[one] for one in truth], [number[one] for one in said]), 1)
    # Prompts with equal tables are interchangeable.
    kinds, sizes = np.unique(tables.reshape(len(tables), -1), axis=0, return_counts=True)
    rng, found = np.random.default_rng(0), []
    step = max(1, BLOCK // len(kinds))
    for start in range(0, RESAMPLES, step):
        drawn = rng.multinomial(len(tables), sizes / len(tables), size=min(step, RESAMPLES - start)) @ kinds
        shares = (drawn / drawn.sum(axis=1, keepdims=True)).reshape(-1, len(labels), len(labels))
        alike, chance = np.einsum("rii->r", shares), np.einsum("rij,rki->r", shares, shares)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.where(chance < 1, (alike - chance) / (1 - chance), np.nan))
    return np.concatenate(found)


def _percent(share: Estimate) -> str:
    return str(Interval(share.value, share.low, share.high, 1, 1))
