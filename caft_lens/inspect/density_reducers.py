"""Reducers of a pass over text that keep how often and how strongly each concept is active: a `Density`.

LatentDensity      of latents: share of tokens, mean and maximum when active, texts, histogram with fixed bins
ProjectionDensity  of directions: mean, standard deviation, histogram whose range doubles when a value falls outside
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import reduce
from torch import Tensor

from caft_lens._support.arguments import number
from caft_lens._support.errors import BadArgument, BadData, nearest
from caft_lens.activations.capture import along
from caft_lens.inspect.reading import every_latent
from caft_lens.saes.top_latents import Active, LatentReducer
from caft_lens.text.batching import Batch

if TYPE_CHECKING:
    from sae_lens import SAE

# Four bins to a doubling, from 1/4,096 to 65,536: the outermost take what lies beyond.
LATENT_EDGES = 2.0 ** (torch.arange(-48, 65, dtype=torch.float64) / 4)
# Bins of a projection, for a range of up to twice the largest magnitude seen: 50 to 100 are left for the others even
# where one token is 40 times as large as they, as the first of a text often is.
PROJECTION_BINS = 4096
# No fp32 number but 0 needs less than 2 to the power of this.
LOWEST = -148
# Directions are taken this many at a time, which bounds memory for thousands of them.
_CHUNK = 256
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
BARS = 80
# Of a projection the figure shows the range of all but this share of the tokens at either end: a few outliers would
# flatten the rest.
BEYOND = 0.001


@dataclass(frozen=True)
class Density:
    """How often and how strongly one concept is active.

    Attributes:
        name: Of the concept.
        hook: Its hook point.
        by: What activation means here: what an SAE encodes for its `"latent"`, or the `"projection"` on the direction.
        tokens: How many tokens were looked at.
        active: At how many of them the latent is active; `None` for a direction, which is never exactly 0.
        texts: In how many texts it is; `None` for a direction.
        mean: Of a latent the mean activation when active, NaN for a dead one; of a direction the mean projection.
        std: Of a direction, the standard deviation of the projection; `None` for a latent.
        minimum: The smallest projection; `None` for a latent.
        maximum: The largest activation or projection.
        counts: Tokens in each bin, `[n_bins]`: of a latent those at which it is active, of a direction all.
        edges: Of the bins, `[n_bins + 1]`.
    """

    name: str
    hook: str
    by: Literal["latent", "projection"]
    tokens: int
    active: int | None
    texts: int | None
    mean: float
    std: float | None
    minimum: float | None
    maximum: float
    counts: np.ndarray
    edges: np.ndarray

    @property
    def density(self) -> float | None:
        """Share of the tokens at which a latent is active; `None` for a direction."""
        return None if self.active is None else self.active / self.tokens

    def quantile(self, q: float) -> float:
        """What a share `q` of the counted values lies below, within the width of a bin; NaN for a dead latent."""
        number(q, "q", least=0, most=1)
        total = self.counts.sum()
        if total == 0:
            return math.nan
        below = np.concatenate([[0], self.counts.cumsum()]) / total
        lowest = self.edges[0] if self.minimum is None else self.minimum
        return float(np.clip(np.interp(q, below, self.edges), lowest, self.maximum))

    @property
    def bars(self) -> tuple[np.ndarray, np.ndarray]:
        """What a figure shows: counts `[n_bars]` and edges `[n_bars + 1]`; none for a latent that was nowhere active.

        Of a latent the bins from the first to the last that hold something; of a direction those around nearly all
        projections, joined to about as many as can be seen.
        """
        if not self.counts.any():
            return self.counts[:0], self.edges[:1]
        if self.by == "projection":
            return _bulk(self)
        filled = np.flatnonzero(self.counts)
        return self.counts[filled[0] : filled[-1] + 1], self.edges[filled[0] : filled[-1] + 2]

    @property
    def row(self) -> dict[str, Any]:
        """What a table says of it."""
        known: dict[str, Any] = {"hook": self.hook}
        if self.by == "latent":
            known |= {"density": self.density, "texts": self.texts}
        known |= {"mean": self.mean, "max": self.maximum}
        if self.by == "projection":
            known |= {"std": self.std, "min": self.minimum}
            known |= {f"q{100 * q:.0f}": self.quantile(q) for q in QUANTILES}
        return known


class LatentDensity(LatentReducer):
    """How often and how strongly latents are active.

    Args:
        saes: Hook point to the SAE that reads there.
        latents: Hook point to the numbers of the latents that count; all when `None`.

    Example:
        >>> from caft_lens.activations.differences import stream
        >>> (shares,) = stream(base, corpus, [2], LatentDensity({hook: sae}), roles=None)
        >>> figure = cl.inspect.Densities.of(shares).plot()
    """

    def __init__(self, saes: Mapping[str, SAE], latents: Mapping[str, Sequence[int]] | None = None) -> None:
        super().__init__(saes, latents)
        sizes = {hook: len(rows) for hook, rows in self.latents.items()}
        bins = len(LATENT_EDGES) - 1
        self._counts = {hook: torch.zeros(size, bins, dtype=torch.long) for hook, size in sizes.items()}
        self._texts = {hook: torch.zeros(size, dtype=torch.long) for hook, size in sizes.items()}
        self._sum = {hook: torch.zeros(size, dtype=torch.float64) for hook, size in sizes.items()}
        self._max = {hook: torch.zeros(size) for hook, size in sizes.items()}
        self.tokens = dict.fromkeys(sizes, 0)

    def read(self, hook: str, active: Active, batch: Batch, where: Tensor) -> None:
        """Take in the latents of one hook point that are active on one batch."""
        active = self.wanted(hook, active)
        latent, value = active.latent, active.value
        # An edge belongs to the bin above it.
        bins = torch.bucketize(value.double(), LATENT_EDGES[1:-1], right=True)
        flat = self._counts[hook].view(-1)
        flat.index_add_(0, latent * (len(LATENT_EDGES) - 1) + bins, torch.ones_like(latent))
        self._sum[hook].index_add_(0, latent, value.double())
        self._max[hook].scatter_reduce_(0, latent, value, "amax")
        rows = where[active.token, 0]
        pairs = (latent * len(batch) + rows).unique()
        self._texts[hook] += torch.bincount(pairs // len(batch), minlength=len(self._texts[hook]))
        self.tokens[hook] += len(where)

    def merge(self, other: LatentDensity) -> LatentDensity:
        """Add another result in place, exactly as if its texts had been seen here.

        Raises:
            ValueError: When SAEs or latents differ.
        """
        if not self.fits(other):
            raise BadArgument("Only LatentDensity of the same latents can be merged.")
        for hook in self.saes:
            self._counts[hook] += other._counts[hook]
            self._texts[hook] += other._texts[hook]
            self._sum[hook] += other._sum[hook]
            self._max[hook] = torch.maximum(self._max[hook], other._max[hook])
            self.tokens[hook] += other.tokens[hook]
        return self

    def densities(self, names: Mapping[str, tuple[str, int]] | None = None) -> Iterator[Density]:
        """The result, latent by latent.

        Args:
            names: Name to hook point and number of the latents; by default as `find.sae` names them.
        """
        names = every_latent(self.saes, self.latents) if names is None else names
        rows = {hook: {one: row for row, one in enumerate(some.tolist())} for hook, some in self.latents.items()}
        for name, (hook, latent) in names.items():
            row = rows[hook][latent]
            counts = self._counts[hook][row].numpy()
            active = int(counts.sum())
            yield Density(
                name,
                hook,
                "latent",
                tokens=self.tokens[hook],
                active=active,
                texts=int(self._texts[hook][row]),
                mean=float(self._sum[hook][row]) / active if active else math.nan,
                std=None,
                minimum=None,
                maximum=float(self._max[hook][row]),
                counts=counts,
                edges=LATENT_EDGES.numpy(),
            )


class ProjectionDensity:
    """A reducer for `stream`: how the projections on directions are spread over all tokens.

    Args:
        directions: By hook name, `[n_dirs, d_model]`.

    Raises:
        ValueError: Without directions, or for one that is not finite.

    Example:
        >>> from caft_lens.activations.differences import stream
        >>> at = "blocks.1.hook_resid_post"
        >>> (spread,) = stream(base, corpus, [1], ProjectionDensity({at: concepts.directions(at)}), roles=None)
        >>> len(cl.inspect.Densities.of(spread))
        3
    """

    def __init__(self, directions: Mapping[str, Tensor]) -> None:
        self.directions = {hook: torch.atleast_2d(rows.detach().float().cpu()) for hook, rows in directions.items()}
        if not self.directions or any(len(rows) == 0 for rows in self.directions.values()):
            raise BadArgument("ProjectionDensity needs at least one direction at every hook point.")
        for hook, rows in self.directions.items():
            if not bool(torch.isfinite(rows).all()):
                raise BadData(f"A direction at {hook} is NaN or infinite.")
        self._spread = {hook: _Spread(len(rows)) for hook, rows in self.directions.items()}

    @property
    def hooks(self) -> list[str]:
        """The hook points of the directions: what to stream."""
        return list(self.directions)

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations `[n_tokens, d_model]` of one hook point.

        Raises:
            ValueError: For a hook point without directions.
        """
        if hook not in self.directions:
            raise BadArgument(f'There are no directions at "{hook}".{nearest(hook, self.directions)}')
        for first in range(0, len(self.directions[hook]), _CHUNK):
            some = slice(first, first + _CHUNK)
            self._spread[hook].add(some, along(acts, self.directions[hook][some]).cpu())
        self._spread[hook].tokens += len(acts)

    def merge(self, other: ProjectionDensity) -> ProjectionDensity:
        """Add another result in place, exactly as if its texts had been seen here.

        Raises:
            ValueError: When the directions differ.
        """
        if self.directions.keys() != other.directions.keys() or any(
            not torch.equal(rows, other.directions[hook]) for hook, rows in self.directions.items()
        ):
            raise BadArgument("Only ProjectionDensity of the same directions can be merged.")
        for hook, spread in self._spread.items():
            spread.merge(other._spread[hook])
        return self

    def densities(self, names: Mapping[str, tuple[str, int]] | None = None) -> Iterator[Density]:
        """The result, direction by direction.

        Args:
            names: Name to hook point and row; by default `"<hook>[<row>]"`.
        """
        if names is None:
            names = {
                f"{hook}[{row}]": (hook, row) for hook, rows in self.directions.items() for row in range(len(rows))
            }
        for name, (hook, row) in names.items():
            yield self._spread[hook].density(name, hook, row)


class _Spread:
    """Running sums and histograms of some projections, on the CPU."""

    def __init__(self, size: int) -> None:
        self.counts = torch.zeros(size, PROJECTION_BINS, dtype=torch.long)
        # The bins of row i go from -2**exponent[i] to 2**exponent[i].
        self.exponent = torch.full((size,), LOWEST)
        self.sum, self.squares = torch.zeros(2, size, dtype=torch.float64)
        self.low, self.high = torch.full((size,), torch.inf), torch.full((size,), -torch.inf)
        self.tokens = 0

    def add(self, some: slice, values: Tensor) -> None:
        """Count projections `[n_tokens, n]` of some rows."""
        largest = values.abs().amax(dim=0)
        reach = torch.where(largest > 0, torch.frexp(largest).exponent, LOWEST)  # |x| < 2**reach
        self.widen(some, torch.maximum(self.exponent[some], reach))
        # Powers of 2 change no digit, so that a value falls into the same bin whenever it comes.
        scaled = values.double() * 2.0 ** -self.exponent[some].double()
        half = PROJECTION_BINS // 2
        bins = (scaled * half).floor().long().T + half
        self.counts[some] = self.counts[some].scatter_add(1, bins, torch.ones_like(bins))
        self.sum[some] += values.sum(dim=0, dtype=torch.float64)
        self.squares[some] += values.double().square().sum(dim=0)
        self.low[some] = torch.minimum(self.low[some], values.amin(dim=0))
        self.high[some] = torch.maximum(self.high[some], values.amax(dim=0))

    def widen(self, some: slice, exponent: Tensor) -> None:
        """Let the bins of some rows reach to a larger power of 2: two become one, as often as it takes."""
        for row, (old, new) in enumerate(
            zip(self.exponent[some].tolist(), exponent.tolist(), strict=True), some.start or 0
        ):
            if old < new:
                self.counts[row] = _coarser(self.counts[row], new - old)
        self.exponent[some] = exponent

    def merge(self, other: _Spread) -> None:
        every = slice(0, len(self.exponent))
        exponent = torch.maximum(self.exponent, other.exponent)
        self.widen(every, exponent)
        for row, doublings in enumerate((exponent - other.exponent).tolist()):
            self.counts[row] += _coarser(other.counts[row], doublings)
        self.sum += other.sum
        self.squares += other.squares
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self.tokens += other.tokens

    def density(self, name: str, hook: str, row: int) -> Density:
        mean = float(self.sum[row]) / self.tokens
        reach = 2.0 ** int(self.exponent[row])
        return Density(
            name,
            hook,
            "projection",
            tokens=self.tokens,
            active=None,
            texts=None,
            mean=mean,
            std=math.sqrt(max(0.0, float(self.squares[row]) / self.tokens - mean * mean)),
            minimum=float(self.low[row]),
            maximum=float(self.high[row]),
            counts=self.counts[row].numpy(),
            edges=np.linspace(-reach, reach, PROJECTION_BINS + 1),
        )


def _coarser(counts: Tensor, doublings: int) -> Tensor:
    """Counts of bins whose range around 0 is doubled some times, `[n_bins]`."""
    half = PROJECTION_BINS // 2
    for _ in range(min(doublings, half.bit_length())):
        pairs = reduce(counts, "(bin pair) -> bin", "sum", pair=2)
        counts = torch.zeros_like(counts)
        counts[half // 2 : half // 2 + half] = pairs
    return counts


def _bulk(item: Density) -> tuple[np.ndarray, np.ndarray]:
    """The bins around nearly all projections, joined to about as many bars as can be seen."""
    first, last = np.searchsorted(item.edges, [item.quantile(BEYOND), item.quantile(1 - BEYOND)])
    first = max(first - 1, 0)
    joined = max(1, math.ceil((last - first) / BARS))
    last = min(first + joined * math.ceil((last - first) / joined), len(item.counts))
    first = last - joined * ((last - first) // joined)
    counts = reduce(item.counts[first:last], "(bar joined) -> bar", "sum", joined=joined)
    return counts, item.edges[first : last + 1 : joined]
