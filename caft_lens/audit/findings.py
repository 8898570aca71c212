"""`Audit`: what was found, concept by concept, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from caft_lens._support.arguments import count, share
from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens.audit.rows import Flags, Rows, pushes, pushing_most
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display import html
from caft_lens.display.frames import Frame
from caft_lens.text.documents import Texts, data

if TYPE_CHECKING:
    import pandas

    from caft_lens.audit.candidates import Candidates
    from caft_lens.model.lens import Lens
    from caft_lens.text.batching import Scan

SIGNALS = ("push", "step", "shift", "presence", "surplus", "use", "cue")
FAMILIES = {"moved": ("push", "step"), "there": ("presence", "surplus", "use"), "shift": ("shift",), "cue": ("cue",)}
"""What concepts are ordered by, in turn: each the product of the ranks of its signals."""
OF_FORM = ("moved", "shift")
"""Where texts have few answers these are about the form of an answer, and are left out of the order."""


@dataclass(frozen=True)
class Signals:
    """What was measured at one hook point, float64 `[n]` each."""

    by_name: Mapping[str, Tensor]
    share: Tensor
    mean: Tensor


class Audit:
    """Concepts that data would teach a model, the first of them in a table."""

    def __init__(
        self,
        candidates: Candidates,
        signals: Mapping[str, Signals],
        lengths: Mapping[str, float],
        about: Mapping[str, Any],
        base: Lens,
        texts: Texts,
        against: Texts | None,
        scan: Scan,
    ) -> None:
        self._candidates, self._by_hook, self.about = candidates, dict(signals), dict(about)
        self.lengths = dict(lengths)
        self.base, self.texts, self.against, self.scan = base, texts, against, scan
        self.signals = [name for name in SIGNALS if name in next(iter(signals.values())).by_name]
        self._places = [(hook, n) for hook in candidates.hooks for n in range(candidates.count(hook))]
        latent = np.array([candidates.is_latent(*place) for place in self._places])
        self._values = {name: self._all(lambda one, name=name: one.by_name[name]) for name in self.signals}
        sided = {name: np.where(latent | (name == "cue"), of, np.abs(of)) for name, of in self._values.items()}
        self._ranks = {name: _ranks(of) for name, of in sided.items()}
        few = "cue" in self.signals
        self.families = [
            family
            for family, of in FAMILIES.items()
            if any(name in self.signals for name in of) and not (few and family in OF_FORM)
        ]
        by_family = np.stack([_ranks(-self._product(FAMILIES[family])) for family in self.families])
        self._best = by_family.argmin(axis=0)
        self.order = np.lexsort((self._best, by_family.min(axis=0)))

    def _product(self, signals: Sequence[str]) -> np.ndarray:
        """The mean logarithm of the ranks by some signals (those that there are), counted from 1."""
        return np.mean([np.log1p(self._ranks[name]) for name in signals if name in self.signals], axis=0)

    def _all(self, figure: Any) -> np.ndarray:
        return np.concatenate([np.asarray(figure(self._by_hook[hook])) for hook in self._candidates.hooks])

    def _name(self, place: int) -> str:
        return self._candidates.name(*self._places[place])

    @property
    def names(self) -> list[str]:
        """All concepts, by hook point and number: the order of `values` and `activity`."""
        return [self._name(place) for place in range(len(self._places))]

    def values(self, signal: str) -> np.ndarray:
        """One signal of every concept, float64 `[n]`."""
        return self._values[signal]

    @property
    def activity(self) -> np.ndarray:
        """How active each concept is in the texts, a mean over rows, float64 `[n]`."""
        return self._all(lambda one: one.mean)

    def ranked(self, by: str | None = None) -> list[str]:
        """Names of all concepts, in order: of the table, or by one signal or family of signals."""
        if by in FAMILIES:
            order = np.argsort(self._product(FAMILIES[by]), kind="stable")
        else:
            order = self.order if by is None else np.argsort(self._ranks[by], kind="stable")
        return [self._name(place) for place in order]

    def table(self, k: int = 10) -> pandas.DataFrame:
        """The first `k` concepts: by which signal they came so far, and all figures."""
        count(k, "k")
        share = self._all(lambda one: one.share)
        return Frame(
            {
                "concept": self._name(place),
                "by": self.families[self._best[place]],
                **{name: float(self._values[name][place]) for name in self.signals},
                "share of rows": float(share[place]),
            }
            for place in self.order[:k]
        )

    def top(self, k: int = 20) -> ConceptSet:
        """The first `k` as concepts, to be read, chosen and ablated."""
        count(k, "k")
        found = []
        for rank, place in enumerate(self.order[:k]):
            figures = {name: float(self._values[name][place]) for name in self.signals}
            by = self.families[self._best[place]]
            score = figures[next(name for name in FAMILIES[by] if name in figures)]
            known = {"rank": rank, "score": score, "score_name": by, "meta": {"audit": figures}}
            found.append(self._candidates.concept(*self._places[place], **known))
        return ConceptSet(found, self.about)

    def rows(self, concepts: ConceptSet | str | Sequence[str], k: int = 10) -> Rows:
        """The rows that push some concepts most, with the tokens that do: a forward and a backward pass.

        Args:
            concepts: Names of concepts of this audit, or a set of one's own.
            k: How many rows of each.

        Raises:
            UnknownName: For a name that is none of these, with the nearest.
        """
        return pushing_most(self.base, self.texts, self._set(concepts), k, self.lengths, self.scan)

    def flagged(
        self,
        by: ConceptSet | str | Sequence[str] | None = None,
        *,
        against: Texts | None = None,
        fdr: float = 0.05,
    ) -> Flags:
        """The rows that stand out from a reference: forward and backward passes over both.

        Args:
            by: Concepts along which a row has to push more than rows of the reference do; a mean over them, in the
                reference's standard deviations. Without it the whole push counts: its length beside the reference's
                median, a mean over hook points.
            against: The reference; that of the audit by default.
            fdr: Which share of what is flagged may be as harmless as the reference, at most, on average.

        Raises:
            BadArgument: Without a reference, or for a rate outside of 0 to 1.
        """
        share(fdr, "fdr")
        reference = self.against if against is None else data(against)
        if reference is None:
            raise BadArgument("flagged() holds rows against a reference: give against=, such as clean data or chats.")
        concepts = None if by is None else self._set(by)
        chosen = [] if concepts is None else list(concepts)
        hooks = self._candidates.hooks if concepts is None else concepts.hooks
        found, clean = (pushes(self.base, texts, chosen, hooks, self.scan) for texts in (self.texts, reference))
        if concepts is None:
            typical = np.median(clean.length[clean.learned > 0], axis=0)
            scores, others = ((of.length / typical).mean(axis=1) for of in (found, clean))
            said = "the length of the whole push"
        else:
            signs = np.array([one.sign for one in concepts])
            mean, spread = clean.along.mean(axis=0), clean.along.std(axis=0, ddof=1)
            scores, others = (((of.along - mean) / spread * signs).mean(axis=1) for of in (found, clean))
            said = f"the push along {', '.join(concepts.names)}"
        return Flags(self.texts, scores, others[clean.learned > 0], fdr, said)

    def _set(self, concepts: ConceptSet | str | Sequence[str]) -> ConceptSet:
        if isinstance(concepts, ConceptSet):
            concepts.check(self.base)
            return concepts
        names = [concepts] if isinstance(concepts, str) else list(concepts)
        known = {self._name(place): place for place in range(len(self._places))}
        for name in names:
            if name not in known:
                raise UnknownName(f'The audit looked for no "{name}".{nearest(name, known)}')
        return ConceptSet([self._candidates.concept(*self._places[known[name]]) for name in names], self.about)

    def __repr__(self) -> str:
        return (
            f"Audit of {self.texts.name or 'texts'}, {self.about['rows']} rows\n{self.table().to_string(index=False)}"
        )

    def _repr_html_(self) -> str:
        return html.framed(self.table())


def _ranks(values: np.ndarray) -> np.ndarray:
    """Place of each, from 0, the largest first; ties by place."""
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return ranks
