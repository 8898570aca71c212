"""`Audit`: what was found, concept by concept, in order; read, drawn, saved and reported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from caft_lens._support.arguments import count, share
from caft_lens._support.errors import BadArgument, BadData, UnknownName, nearest
from caft_lens.activations.top_windows import Rank
from caft_lens.audit import report, saving
from caft_lens.audit.candidates import Candidates
from caft_lens.audit.rows import Flags, Rows, pushes, pushing_most
from caft_lens.audit.showing import Column, plot_signals, view
from caft_lens.choose.choice import Choice
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display.frames import Frame
from caft_lens.display.report import Part, Words, write
from caft_lens.inspect.contexts import Contexts, contexts
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts, data

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure
    from sae_lens import SAE

    from caft_lens.model.lens import Lens

SIGNALS = ("push", "step", "shift", "presence", "surplus", "use", "cue")
FAMILIES = {"moved": ("push", "step"), "there": ("presence", "surplus", "use"), "shift": ("shift",), "cue": ("cue",)}
"""What concepts are ordered by, in turn: each the product of the ranks of its signals."""
OF_FORM = ("moved", "shift")
"""Where texts have few answers these are about the form of an answer, and are left out of the order."""
SHOWN = 5
"""Contexts at each end, and rows, that a report shows of a concept."""


@dataclass(frozen=True)
class Signals:
    """What was measured at one hook point, float64 `[n]` each."""

    by_name: Mapping[str, Tensor]
    share: Tensor
    mean: Tensor


class Audit:
    """Concepts that data would teach a model, ranked; `cl.audit` makes one.

    Args:
        candidates: What was looked for.
        signals: What was measured, by hook point.
        lengths: By hook point the typical length of an activation.
        about: Which model read what, as JSON.
        base: The model.
        texts: What it is to be tuned on.
        against: The reference, where there was one.
        scan: How the text was read.

    Attributes:
        signals: Names of the signals that there are.
        order: Numbers of all concepts among `names`, the first that training would teach first.

    Example:
        >>> audit.signals, len(audit.top(20)), len(audit.names)
        (['push', 'step', 'use'], 20, 1024)
    """

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

    def plot(self, k: int = 15, title: str | None = None) -> Figure:
        """The first `k` concepts in rows, a column for each signal, and where all other concepts lie.

        Args:
            k: How many.
            title: Above the figure.

        Returns:
            A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.
        """
        count(k, "k")
        places = [int(place) for place in self.order[:k]]
        columns = [Column.of(name, self._values[name], places) for name in self.signals]
        by = [FAMILIES[self.families[self._best[place]]] for place in places]
        return plot_signals([self._name(place) for place in places], by, columns, title, self._caption())

    def contexts(
        self,
        corpus: Texts | Any | None = None,
        k: int = 10,
        *,
        concepts: ConceptSet | str | Sequence[str] | None = None,
        roles: Sequence[str] | None = None,
        rank: Rank = "peak",
    ) -> Contexts:
        """Where concepts are most active, to be read: latents by their SAEs, directions by projection.

        Args:
            corpus: Where to look; the texts that were audited by default.
            k: How many contexts at each end.
            concepts: Which; the first 20 by default.
            roles, rank: As for `cl.contexts`.

        Raises:
            UnknownName: For a name that is no concept of this audit, with the nearest.
        """
        some = self.top(20) if concepts is None else self._set(concepts)
        read = {one.hook for one in some if one.source == "sae"}
        saes = [sae for hook, sae in self._candidates.saes.items() if hook in read]
        texts = self.texts if corpus is None else data(corpus)
        return contexts(self.base, some, texts, saes=saes or None, k=k, roles=roles, rank=rank, scan=self.scan)

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
            BadArgument: Without a reference, with one too small to show the rate, or for a rate outside of 0 to 1.
            BadData: When the rows of the reference do not differ along a concept of `by`.
        """
        share(fdr, "fdr")
        reference = self.against if against is None else data(against)
        if reference is None:
            raise BadArgument("flagged() holds rows against a reference: give against=, such as clean data or chats.")
        if (1 + len(reference)) * fdr < 1:
            raise BadArgument(
                f"flagged(): {len(reference)} rows of a reference show no false discovery rate of {fdr:g}, since the "
                f"smallest p that they give is 1 / {1 + len(reference)}. Give at least {math.ceil(1 / fdr) - 1} rows, "
                "or a larger fdr=."
            )
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
            usual = clean.along[clean.learned > 0]
            mean, spread = usual.mean(axis=0), usual.std(axis=0, ddof=1)
            still = [name for name, of in zip(concepts.names, spread > 1e-6 * np.abs(mean), strict=True) if not of]
            if still:
                raise BadData(
                    f"flagged(): rows of the reference all push alike along {', '.join(still)}: give one that varies."
                )
            scores, others = (((of.along - mean) / spread * signs).mean(axis=1) for of in (found, clean))
            said = f"the push along {', '.join(concepts.names)}"
        return Flags(self.texts, scores, others[clean.learned > 0], fdr, said)

    def report(
        self,
        folder: str | Path,
        corpus: Texts | Any | None = None,
        *,
        k: int = 10,
        choice: Choice | None = None,
        explanations: Mapping[str, Any] | None = None,
    ) -> tuple[Path, Path]:
        """Write all that is to be read as one page: table, figure, contexts, rows; flags where there is a reference.

        Args:
            folder: Where to.
            corpus: Where contexts are read; the texts that were audited by default.
            k: How many concepts have their contexts and rows shown; the table has twice as many.
            choice: A verdict on the concepts, as `cl.choose.by_examples` or `by_sentence` suggests it.
            explanations: Of the concepts: `Explanations`, or name to text.

        Returns:
            `report.html`, which holds all that it shows, and `report.md` with the figure beside it.

        Example:
            >>> [path.name for path in audit.report("report", k=1)]
            ['report.html', 'report.md']
        """
        count(k, "k")
        read = None if corpus is None else data(corpus)
        title = f"Before training: {self.texts.name or 'texts'}"
        return write(folder, title, self._parts(read, k, choice, explanations))

    def _parts(
        self, corpus: Texts | None, k: int, choice: Choice | None, explanations: Mapping[str, Any] | None
    ) -> Iterator[Part]:
        first = self.top(k)
        yield from report.opening(self.about)
        yield from report.concepts(self.table(2 * k), self.signals, self.plot(2 * k), choice, explanations)
        read = self.texts if corpus is None else corpus
        yield from report.contexts(self.contexts(read, SHOWN, concepts=first), read.name)
        yield from report.rows(self.rows(first, SHOWN))
        if self.against is not None:
            try:
                flags = self.flagged()
            except BadArgument as error:
                yield Words(str(error), quiet=True)
            else:
                yield from report.flags(flags)

    def save(self, folder: str | Path) -> Path:
        """Write `audit.json` and `audit.safetensors`: the figures, and of what they are.

        Model, SAEs and texts are not copied: `load` takes them again, and checks that they are the same.

        Args:
            folder: Made when missing; an audit in it is replaced.

        Returns:
            The folder.
        """
        figures = {hook: {**one.by_name, "share": one.share, "mean": one.mean} for hook, one in self._by_hook.items()}
        rest = {
            "about": self.about,
            "signals": self.signals,
            "concepts": {hook: self._candidates.count(hook) for hook in self._candidates.hooks},
            "lengths": self.lengths,
            "batch_tokens": self.scan.batch_tokens,
            "max_length": self.scan.max_length,
        }
        folder = Path(folder)
        saving.write(folder, figures, self._candidates.given, rest)
        return folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        base: Lens,
        texts: Texts | Any,
        saes: SAE | Sequence[SAE] | None = None,
        *,
        against: Texts | Any | None = None,
    ) -> Audit:
        """Read an audit that `save` wrote.

        Args:
            folder: Where it is.
            base: The model that it is of.
            texts: What was audited.
            saes: The SAEs whose latents were looked at; directions are in the folder.
            against: The reference, where it had one.

        Raises:
            MissingFile: When there is no audit.
            BadFile: When a file is truncated, changed or of another kind.
            ConceptMismatch: For another model, or other SAEs.
            BadArgument: For other texts, or a reference that is missing or one too many.

        Example:
            >>> cl.audit.Audit.load(audit.save("audit"), base, insecure, saes).signals
            ['push', 'step', 'use']
        """
        folder, texts, reference = Path(folder), data(texts), None if against is None else data(against)
        kept = saving.read(folder)
        saving.check(kept, folder, base, texts, reference)
        if kept.about["saes"] and saes is None:
            hooks = ", ".join(kept.about["saes"])
            raise BadArgument(f"The audit in {folder} looked at latents at {hooks}: give their saes=.")
        candidates = Candidates(base, saes, kept.given)
        saving.check_candidates(kept, folder, candidates)
        signals = {
            hook: Signals({name: of[name] for name in kept.card.signals}, of["share"], of["mean"])
            for hook, of in kept.figures.items()
        }
        scan = Scan(kept.card.batch_tokens, kept.card.max_length)
        return cls(candidates, signals, kept.card.lengths, kept.about, base, texts, reference, scan)

    def _caption(self) -> str:
        data = self.about["data"]
        against = f", against {data['against']['name'] or 'a reference'}" if "against" in data else ""
        return f"{self.about['model']} on {data['texts']['name'] or 'texts'}, {self.about['rows']:,} rows{against}."

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
        return view(self.table(), self.signals, f"What this data would teach. {self._caption()}")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Place of each, from 0, the largest first; ties by place."""
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return ranks
