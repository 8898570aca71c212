"""Searching among concepts by example: how much better they fire on some texts than on others, in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from einops import repeat
from numpy.typing import NDArray
from torch import Tensor

from caft_lens._support.arguments import count, one_of
from caft_lens._support.errors import BadArgument, BadData, ConceptMismatch
from caft_lens._support.keywords import takes_values
from caft_lens.activations.capture import along
from caft_lens.activations.differences import provenance, stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.find.sae import saes_by_hook
from caft_lens.model.lens import Lens
from caft_lens.saes.cards import sae_name
from caft_lens.saes.encoding import LATENTS_AT_A_TIME, latents_of
from caft_lens.text.batching import Batch, Scan
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from sae_lens import SAE

Floats = NDArray[np.floating]
Pool = Literal["max", "mean"]
SAID = ("system", "user", "assistant", "text")
# Scores of texts count as equal that are closer than this, in standard deviations of the activation.
EVEN = 1e-4


@takes_values
def by_example(
    lens: Lens,
    concepts: ConceptSet,
    fires_on: Texts | Iterable[Any],
    not_on: Texts | Iterable[Any] = (),
    *,
    saes: SAE | Sequence[SAE] | None = None,
    score: Pool = "max",
    k: int | None = 10,
    roles: Sequence[str] | None = SAID,
    scan: Scan = Scan(),
) -> ConceptSet:
    """The concepts that fire on some texts and not on others, best first.

    A text's score is the largest activation of its tokens (or their mean). With two texts or more on both sides,
    concepts are ranked by AUROC: the chance that one of `fires_on` scores above one of `not_on`. With fewer, by how
    much the mean score of `fires_on` lies above that of `not_on`, in standard deviations of the activation over all
    tokens of both; without `not_on`, above the mean token of `fires_on` itself. Equal AUROCs rank by it.

    A direction is read at both ends, and the better one counts (`meta["end"]`). An SAE latent fires at its top only.

    Args:
        lens: The model that reads.
        concepts: What to search; thousands are fine.
        fires_on: Texts that the concept should fire on.
        not_on: Texts that it should not fire on.
        saes: Where concepts are latents of these SAEs, the latent's activation counts instead of the projection.
        score: `"max"` or `"mean"` over the tokens of a text; without `not_on` only the former says anything.
        k: How many; all when `None`.
        roles: Roles of the tokens to look at; by default whatever was said, without the template and the token that
            begins a text, where activations can be huge. `None` for all.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        Concepts, over all hook points, `score` and `score_name` saying what they are ranked by. `meta`: `end`,
        `difference` (in standard deviations), `mean_on` and `mean_off` (what that is the difference of), and under
        `found` the rank and score of the search that had found them.

    Raises:
        ValueError: When the concepts or SAEs do not fit the model, no concept is a latent of the SAEs, there is no text
            that should fire, or a text has no token with one of the roles.

    Example:
        >>> latents = cl.find.latents(saes[1], base)
        >>> found = cl.find.by_example(base, latents, cruel_texts, kind_texts, saes=saes[1], k=3)
        >>> len(found), found[0].score > 0.5
        (3, True)
    """
    one_of(score, "score", get_args(Pool))
    if k is not None:
        count(k, "k")
    concepts.check(lens)
    on, off = (side if isinstance(side, Texts) else Texts(side) for side in (fires_on, not_on))
    if len(on) == 0:
        raise BadArgument("by_example() needs at least one text that the concept should fire on.")
    if len(off) == 0 and score == "mean":
        raise BadArgument('by_example(score="mean") needs not_on=: a mean alone does not say what is high.')
    read = _TextScores(concepts, _latents_among(concepts, saes, lens), len(on) + len(off))
    passed = stream(lens, Texts([*on, *off]), concepts.hooks, read, roles=roles, scan=scan)
    by_auroc = min(len(on), len(off)) >= 2
    found = [fit for hook in concepts.hooks for fit in _fits(read, concepts, hook, len(on), score, by_auroc)]
    found.sort(key=lambda fit: fit.worth(by_auroc), reverse=True)
    read_now = provenance(lens, {"fires_on": on, "not_on": off}, roles, left_out=passed.left_out)
    about: dict[str, Any] = {key: read_now[key] for key in ("data", "sinks") if key in read_now}
    about |= {"method": "search by example", "searched": concepts.provenance.get("method")}
    ranked = [fit.ranked(rank, by_auroc) for rank, fit in enumerate(found[:k])]
    return ConceptSet(ranked, {**concepts.provenance, **about})


class _Fit(NamedTuple):
    """How well one concept tells the examples apart, at its better end."""

    concept: Concept
    end: str
    auroc: float
    difference: float
    mean_on: float
    mean_off: float

    def worth(self, by_auroc: bool) -> tuple[float, float]:
        """What concepts are ranked by, larger first."""
        return (self.auroc if by_auroc else 0.0, self.difference)

    def ranked(self, rank: int, by_auroc: bool) -> Concept:
        before, end, auroc, difference, on, off = self
        figures = {"end": end, "difference": difference, "mean_on": on, "mean_off": off}
        found = {"rank": before.rank, "score": before.score, "score_name": before.score_name}
        return dataclasses.replace(
            before,
            rank=rank,
            score=auroc if by_auroc else difference,
            score_name="AUROC on examples" if by_auroc else "difference on examples, standard deviations",
            meta={**before.meta, **figures, "found": found},
        )


def _latents_among(
    concepts: ConceptSet, saes: SAE | Sequence[SAE] | None, lens: Lens
) -> dict[str, tuple[SAE, dict[int, int]]]:
    """By hook point, the SAE and which of the concepts there (by place) are which latent."""
    if saes is None:
        return {}
    at = saes_by_hook(saes, lens)
    found: dict[str, tuple[SAE, dict[int, int]]] = {}
    for hook in concepts.hooks:
        if hook not in at:
            continue
        latents = {}
        for place, concept in enumerate(concepts.at(hook)):
            if "latent" in concept.meta:
                latents[place] = int(concept.meta["latent"])
                _check_latent(concept, at[hook], latents[place])
        if latents:
            found[hook] = (at[hook], latents)
    if not found:
        raise ConceptMismatch(f"None of these concepts is a latent of the SAEs at {', '.join(at)}: leave out saes=.")
    return found


def _check_latent(concept: Concept, one: SAE, latent: int) -> None:
    row = one.W_dec[latent].detach().cpu().double() if latent < one.cfg.d_sae else None
    if row is None or float(row @ concept.direction.double()) < (1 - 1e-3) * float(row.norm()):
        raise ConceptMismatch(
            f'The concept "{concept.name}" does not point along latent {latent} of the SAE {sae_name(one)}: it is '
            "a latent of another one."
        )


class _TextScores:
    """A reducer: of every text and concept the largest, smallest and summed activation, `[n_texts, n_concepts]`.

    Args:
        concepts: Directions.
        latents: By hook point an SAE, and which of the concepts there are read as which of its latents.
        n_texts: How many texts the pass has.

    Attributes:
        counts: Tokens of each text, by hook point, `[n_texts]`.
    """

    def __init__(self, concepts: ConceptSet, latents: Mapping[str, tuple[SAE, dict[int, int]]], n_texts: int) -> None:
        self.latents = latents
        self.directions = {hook: concepts.directions(hook) for hook in concepts.hooks}
        shapes = {hook: (n_texts, len(rows)) for hook, rows in self.directions.items()}
        self.top = {hook: torch.full(shape, -torch.inf) for hook, shape in shapes.items()}
        self.bottom = {hook: torch.full(shape, torch.inf) for hook, shape in shapes.items()}
        self.sums = {hook: torch.zeros(shape, dtype=torch.float64) for hook, shape in shapes.items()}
        self.counts = {hook: torch.zeros(n_texts, dtype=torch.long) for hook in shapes}
        self._squares = {hook: torch.zeros(shape[1], dtype=torch.float64) for hook, shape in shapes.items()}

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in `acts` `[n_tokens, d_model]` of one hook point, at rows and positions `where` `[n_tokens, 2]`."""
        done = 0
        for values in self._values(hook, acts):
            self._add(hook, values, batch.index, where[done : done + len(values), 0])
            done += len(values)

    def _values(self, hook: str, acts: Tensor) -> Iterator[Tensor]:
        """Activations of the concepts, some tokens at a time, fp32 `[n, n_concepts]`, where they are made."""
        directions = self.directions[hook].to(acts.device)
        if hook not in self.latents:
            for rows in acts.split(max(1, LATENTS_AT_A_TIME // len(directions))):
                yield along(rows, directions)
            return
        one, latents = self.latents[hook]
        places, columns = list(latents), list(latents.values())
        others = [place for place in range(len(directions)) if place not in latents]
        done = 0
        for active in latents_of(one, acts):
            rows = acts[done : done + len(active)]
            done += len(active)
            values = torch.empty(len(active), len(directions), device=active.device)
            values[:, places] = active[:, columns].float()
            if others:
                values[:, others] = along(rows, directions[others]).to(active.device)
            yield values

    def _add(self, hook: str, values: Tensor, index: Tensor, places: Tensor) -> None:
        """Add activations of tokens that stand in the texts `index[places]`."""
        rows, device = places.to(values.device), values.device
        shape = (len(index), values.shape[1])
        spread_out = repeat(rows, "token -> token concept", concept=values.shape[1])
        top = torch.full(shape, -torch.inf, device=device).scatter_reduce_(0, spread_out, values, "amax")
        bottom = torch.full(shape, torch.inf, device=device).scatter_reduce_(0, spread_out, values, "amin")
        sums = torch.zeros(shape, device=device).index_add_(0, rows, values)
        self.top[hook][index] = torch.maximum(self.top[hook][index], top.cpu())
        self.bottom[hook][index] = torch.minimum(self.bottom[hook][index], bottom.cpu())
        # Centred where they are, merged as by Chan et al. (1979): means may be far larger than what varies.
        mean = values.mean(dim=0)
        squares = (values - mean).square().sum(dim=0)
        self._add_squares(hook, len(values), mean.cpu().double(), squares.cpu().double())
        self.sums[hook].index_add_(0, index, sums.cpu().double())
        self.counts[hook].index_add_(0, index[places], torch.ones_like(places))

    def _add_squares(self, hook: str, n: int, mean: Tensor, squares: Tensor) -> None:
        before = int(self.counts[hook].sum())
        self._squares[hook] += squares
        if before:
            step = mean - self.sums[hook].sum(dim=0) / before
            self._squares[hook] += step.square() * (before * n / (before + n))

    def merge(self, other: _TextScores) -> _TextScores:
        """Add the result of a pass over others of the same texts, in place."""
        for hook in self.directions:
            n = int(other.counts[hook].sum())
            if n:
                self._add_squares(hook, n, other.sums[hook].sum(dim=0) / n, other._squares[hook])
            self.top[hook] = torch.maximum(self.top[hook], other.top[hook])
            self.bottom[hook] = torch.minimum(self.bottom[hook], other.bottom[hook])
            self.sums[hook] += other.sums[hook]
            self.counts[hook] += other.counts[hook]
        return self

    def spread(self, hook: str) -> Floats:
        """Standard deviation of the activation over all tokens, `[n_concepts]`."""
        return (self._squares[hook] / int(self.counts[hook].sum())).sqrt().numpy()


def _fits(read: _TextScores, concepts: ConceptSet, hook: str, n_on: int, score: Pool, by_auroc: bool) -> Iterator[_Fit]:
    """What the better end of each concept at a hook point makes of the examples."""
    counts = read.counts[hook].numpy()
    for number in np.flatnonzero(counts == 0)[:1]:
        side, place = ("fires_on", number) if number < n_on else ("not_on", number - n_on)
        raise BadData(f"Text {place} of {side} has no token with one of the roles: give roles=, or leave it out.")
    sums, spread = read.sums[hook].numpy(), read.spread(hook)
    means, typical = sums / counts[:, None], sums.sum(axis=0) / counts.sum()
    top, low = (
        (read.top[hook].double().numpy(), read.bottom[hook].double().numpy()) if score == "max" else (means, means)
    )
    ends = {"top": _figures(top, typical, spread, n_on), "bottom": _figures(-low, -typical, spread, n_on)}
    latents = read.latents[hook][1] if hook in read.latents else {}
    for place, concept in enumerate(concepts.at(hook)):
        fits = [_Fit(concept, end, *figures[:, place].tolist()) for end, figures in ends.items()]
        yield fits[0] if place in latents else max(fits, key=lambda fit: fit.worth(by_auroc))


def _figures(scores: Floats, typical: Floats, spread: Floats, n_on: int) -> Floats:
    """For one end of each concept AUROC, difference, mean of what should fire and of the rest, `[4, n_concepts]`."""
    from scipy.stats import rankdata

    on, off = scores[:n_on].mean(axis=0), scores[n_on:].mean(axis=0) if len(scores) > n_on else typical
    difference = np.divide(on - off, spread, out=np.zeros_like(on), where=spread > 0)
    # Mann and Whitney's U from the ranks of the examples, all concepts at once. Texts that begin alike can have the
    # same largest activation, and the rounding of a batch should not say which is larger.
    even = np.round(scores / np.where(spread > 0, EVEN * spread, 1))
    ranks = rankdata(even, axis=0)[:n_on].sum(axis=0)
    pairs = n_on * (len(scores) - n_on)
    area = (ranks - n_on * (n_on + 1) / 2) / pairs if pairs else np.full_like(on, np.nan)
    return np.stack([area, difference, on, off])
