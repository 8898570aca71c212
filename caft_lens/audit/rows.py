"""Which rows teach a concept: how far each pushes it, by which tokens, and which rows stand out from a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens.activations.slopes import Sloped, sloped
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import token_lines
from caft_lens.display.frames import Frame
from caft_lens.text.batching import Scan, batches
from caft_lens.text.encoding import special_ids
from caft_lens.text.token_strings import pieces

if TYPE_CHECKING:
    import pandas

    from caft_lens.model.lens import Lens
    from caft_lens.text.documents import Texts

WINDOW = 40
"""Tokens of a row that are shown, around the one that pushes most."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pushes:
    """What each row of some texts pushes.

    Attributes:
        along: Along each concept, nats for a move by one unit at all tokens of the row, float64 `[n_rows, n_concepts]`;
            over the rows and divided by the learned tokens they are the audit's push before it is scaled.
        length: How long the row's whole push is at each hook point, float64 `[n_rows, n_hooks]`.
        learned: How many tokens of it training learns, long `[n_rows]`.
        loss: Their mean loss, float64 `[n_rows]`.
    """

    along: Floats
    length: Floats
    learned: NDArray[np.int64]
    loss: Floats


def pushes(lens: Lens, texts: Texts, concepts: Sequence[Concept], hooks: Sequence[str], scan: Scan = Scan()) -> Pushes:
    """A forward and a backward pass over texts: what each row of them pushes.

    Args:
        lens: The model.
        texts: With answers; a row without any pushes nothing.
        concepts: Along which; possibly none.
        hooks: Where the whole push is measured; those of the concepts are among them.
        scan: How the text is read.

    Raises:
        BadData: When no row has anything to learn.
    """
    n = len(texts)
    found = Pushes(np.zeros((n, len(concepts))), np.zeros((n, len(hooks))), np.zeros(n, dtype=np.int64), np.zeros(n))
    columns = {hook: [i for i, one in enumerate(concepts) if one.hook == hook] for hook in hooks}
    directions = {hook: torch.stack([concepts[i].direction for i in some]) for hook, some in columns.items() if some}
    packed = batches(lens.need_tokenizer(), texts, scan, progress="rows")
    for one in sloped(lens, packed, hooks, None):
        rows = one.batch.index.numpy()
        for place, hook in enumerate(hooks):
            of_rows = one.by_text(hook)
            found.length[rows, place] = of_rows.norm(dim=1).double().numpy()
            if columns[hook]:
                found.along[np.ix_(rows, np.array(columns[hook]))] = (of_rows @ directions[hook].T).double().numpy()
        found.learned[rows] = torch.bincount(one.rows, minlength=len(rows)).numpy()
        lost = torch.zeros(len(rows)).index_add_(0, one.rows, -one.outcomes)
        found.loss[rows] = (lost / torch.bincount(one.rows, minlength=len(rows)).clamp(min=1)).double().numpy()
    return found


class Rows(Mapping[str, "list[token_lines.Line]"]):
    """The rows that push some concepts most, by name; each with the tokens that do.

    Args:
        concepts: Which.
        lines: By name the rows that push most, the first most of all.
        along: What every row pushes along each concept, in nats, float64 `[n_rows, n_concepts]`.

    Example:
        >>> found = audit.rows(audit.top(2), k=3)
        >>> len(found), len(found[audit.top(2).names[0]])
        (2, 3)
    """

    def __init__(self, concepts: ConceptSet, lines: Mapping[str, Sequence[token_lines.Line]], along: Floats) -> None:
        self.concepts, self.along = concepts, along
        self._lines = {name: list(of) for name, of in lines.items()}

    def __getitem__(self, name: str) -> list[token_lines.Line]:
        if name not in self._lines:
            raise UnknownName(f'No rows of "{name}".{nearest(name, self._lines)}')
        return self._lines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def table(self) -> pandas.DataFrame:
        """One row for each that is shown: concept, number of the row, its push in nats, the token that pushes most."""
        return Frame(
            {"concept": name, "row": line.text, "push": line.value, "token": line.tokens[line.peak]}
            for name, lines in self._lines.items()
            for line in lines
        )

    def _shown(self, concept: Concept) -> token_lines.Shown:
        number = "The number is what the whole row pushes, in nats; a token is shaded by what it pushes itself."
        lines = self._lines[concept.name]
        return token_lines.Shown(concept.name, concept.label, concept.hook, "", "", lines, None, number, "push most")

    def __repr__(self) -> str:
        return "\n".join(token_lines.plain(self._shown(one)) for one in self.concepts)

    def _repr_html_(self) -> str:
        return token_lines.page([self._shown(one) for one in self.concepts])


def pushing_most(
    lens: Lens, texts: Texts, concepts: ConceptSet, k: int, lengths: Mapping[str, float], scan: Scan = Scan()
) -> Rows:
    """The `k` rows of texts that push each concept most.

    Args:
        lens, texts, concepts, scan: As for `pushes`.
        k: How many rows of each.
        lengths: By hook point the typical length of an activation, which a push is scaled by.

    Raises:
        BadArgument: For k below 1, or no concept.
    """
    count(k, "k")
    if not len(concepts):
        raise BadArgument("rows() needs at least one concept.")
    found = pushes(lens, texts, list(concepts), concepts.hooks, scan)
    along = found.along * np.array([lengths[one.hook] for one in concepts])
    first = {
        one.name: [int(row) for row in np.argsort(-along[:, i], kind="stable")[:k]] for i, one in enumerate(concepts)
    }
    wanted = sorted({row for rows in first.values() for row in rows})
    some = texts.select(wanted)
    lines: dict[tuple[str, int], token_lines.Line] = {}
    for one in sloped(lens, batches(lens.need_tokenizer(), some, scan), concepts.hooks, None):
        for place, number in enumerate(one.batch.index.tolist()):
            row = wanted[number]
            for i, concept in enumerate(concepts):
                if row in first[concept.name]:
                    value = float(along[row, i])
                    lines[concept.name, row] = _line(lens, one, place, concept, row, value, lengths[concept.hook])
    return Rows(concepts, {name: [lines[name, row] for row in rows] for name, rows in first.items()}, along)


def _line(
    lens: Lens, one: Sloped, place: int, concept: Concept, row: int, value: float, length: float
) -> token_lines.Line:
    batch, slopes = one.batch, one.slopes[concept.hook][place].float().cpu()
    there = batch.attention_mask[place].nonzero()[:, 0]
    counts = one.where[concept.hook][place]
    along: Tensor = (slopes @ concept.direction) * length
    peak = int(there[torch.where(counts, along, -torch.inf)[there].argmax()])
    low = max(int(there[0]), min(peak - WINDOW // 2, int(there[-1]) + 1 - WINDOW))
    shown = range(low, min(low + WINDOW, int(there[-1]) + 1))
    ids = batch.input_ids[place, shown].tolist()
    special = special_ids(lens.need_tokenizer())
    return token_lines.Line(
        pieces(lens.tokenizer, ids),
        [float(along[at]) if counts[at] else None for at in shown],
        [number in special for number in ids],
        peak - low,
        value,
        (low > int(there[0]), shown[-1] < int(there[-1])),
        row,
    )


class Flags:
    """Which rows of data stand out from a reference, and how surely.

    Args:
        texts: The data.
        scores: Of its rows, larger where one stands out.
        reference: Scores of the reference's rows, `[m]`.
        fdr: Which share of what is flagged may be as harmless as the reference, at most, on average.
        by: What was looked at, in words.

    Attributes:
        scores: Of the rows, float64 `[n_rows]`.
        q: Of each row, the false discovery rate at which it is just flagged, float64 `[n_rows]`.
        fdr: The rate that was asked for.
        by: What was looked at, in words.

    Example:
        >>> found = audit.flagged(against=secure)
        >>> len(found.texts) + len(found.rest) == len(insecure)
        True
    """

    def __init__(self, texts: Texts, scores: Floats, reference: Floats, fdr: float, by: str) -> None:
        self._of, self.scores, self.reference, self.fdr, self.by = texts, scores, reference, fdr, by
        self.q = false_discoveries(scores, reference)

    @property
    def numbers(self) -> list[int]:
        """The rows that are flagged, those that stand out most first."""
        return [int(row) for row in np.argsort(-self.scores, kind="stable") if self.q[row] <= self.fdr]

    @property
    def texts(self) -> Texts:
        """What is flagged."""
        return self._of.select(self.numbers)

    @property
    def rest(self) -> Texts:
        """The data without what is flagged."""
        flagged = set(self.numbers)
        return self._of.select(row for row in range(len(self._of)) if row not in flagged)

    def table(self, k: int = 10) -> pandas.DataFrame:
        """The `k` rows that stand out most: number, score, q, whether it is flagged, how the text begins."""
        count(k, "k")
        first = np.argsort(-self.scores, kind="stable")[:k]
        return Frame(
            {
                "row": int(row),
                "score": float(self.scores[row]),
                "q": float(self.q[row]),
                "flagged": bool(self.q[row] <= self.fdr),
                "answer": (self._of[int(row)].answer or "")[:80],
            }
            for row in first
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        return f"Flags({len(self)} of {len(self.scores)} rows, by {self.by}, false discovery rate {self.fdr:g})"


def false_discoveries(scores: Floats, reference: Floats) -> Floats:
    """Of each score the false discovery rate at which it is told from a reference.

    Its p is its place among the reference's scores (a conformal p-value); the rates are Benjamini and Hochberg's.

    Args:
        scores: `[n]`, larger where something stands out.
        reference: `[m]`, of what does not.

    Example:
        >>> false_discoveries(np.array([9.0, 0.5]), np.arange(99) / 99).round(2).tolist()
        [0.02, 0.5]
    """
    from scipy.stats import false_discovery_control

    above = len(reference) - np.searchsorted(np.sort(reference), scores, side="left")
    found: Floats = false_discovery_control((1 + above) / (1 + len(reference)))
    return found
