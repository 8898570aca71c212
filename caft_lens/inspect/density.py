"""How often and how strongly concepts are active on a corpus: densities and histograms, in one pass.

    density            the pass; gives Densities, one Density a concept
    LatentDensity      the reducer for latents of SAEs: share of tokens, mean and maximum when active, texts, histogram
    ProjectionDensity  the reducer for directions: mean, standard deviation and histogram of the projection on all tokens

Text comes as a stream, so that the bins of a histogram have to stand before the values are known. Activations of latents are
above 0 and spread over orders of magnitude: their bins are fixed, four to each doubling, the same for all latents and
SAEs. Projections lie on both sides of 0 on any scale: their bins share a range that doubles when a value falls outside, two
bins becoming one, which is exact. Either way the answer does not depend on the order of texts, and passes merge exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from caft_lens._support.errors import nearest
from caft_lens.activations.differences import stream
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display import html
from caft_lens.display.theme import BLUE, FAINT, INK, QUIET, VERMILION, shown_figure
from caft_lens.inspect.contexts import AtItsHooks, Reading, every_latent, reading
from caft_lens.saes.top_latents import Active, LatentReducer
from caft_lens.text.documents import Text
from caft_lens.text.encoding import Batch

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from sae_lens import SAE

    from caft_lens.model.lens import Lens

# Four bins to a doubling, from 1/4,096 to 65,536: the outermost take what lies beyond.
LATENT_EDGES = 2.0 ** (torch.arange(-48, 65, dtype=torch.float64) / 4)
# Bins of a projection, for a range of up to twice the largest magnitude seen: 50 to 100 are left for the others even where one token
# is 40 times as large as they, as the first of a text often is.
PROJECTION_BINS = 4096
# No fp32 number but 0 needs less than 2 to the power of this.
LOWEST = -148
# Directions are taken this many at a time, which bounds memory for thousands of them.
_CHUNK = 256
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


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
        if not 0 <= q <= 1:
            raise ValueError(f"quantile({q}): expected a share from 0 to 1.")
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
        return _trimmed(self.counts, self.edges) if self.by == "latent" else _bulk(self)

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


class Densities(Mapping[str, Density]):
    """Densities of concepts, by name.

    Args:
        items: One a concept; as a rule `cl.inspect.density` measures them.

    Example:
        >>> found = cl.inspect.density(base, cl.load_sae("pocket", layer=2), corpus)  # doctest: +SKIP
        >>> found.table().sort_values("density").tail()                               # doctest: +SKIP
        >>> found.plot("L2.latent417")                                                # doctest: +SKIP
    """

    def __init__(self, items: Iterable[Density]) -> None:
        self._items = {item.name: item for item in items}

    def __getitem__(self, name: str) -> Density:
        if name not in self._items:
            raise KeyError(f'No density of "{name}".{nearest(name, self._items)}')
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @classmethod
    def of(cls, *reducers: LatentDensity | ProjectionDensity, names: Reading | None = None) -> Densities:
        """What reducers found in a pass of one's own, shared with others.

        Args:
            reducers: They have seen the pass.
            names: What to call the rows; by default latents as `find.sae` names them.

        Example:
            >>> top, shares = TopLatents({hook: sae}), LatentDensity({hook: sae})  # doctest: +SKIP
            >>> stream(base, corpus, [hook], Latents(top, shares), roles=None)          # doctest: +SKIP
            >>> Densities.of(shares).dead                                                    # doctest: +SKIP
        """
        found: dict[str, Density] = {}
        for reducer in reducers:
            rows = names.row_of if names and isinstance(reducer, ProjectionDensity) else None
            found |= {
                item.name: item
                for item in reducer.densities(names.latents if names and rows is None else rows)
            }
        return cls(found[name] for name in (names.names if names else found))

    @property
    def dead(self) -> list[str]:
        """Names of the latents that were nowhere active."""
        return [name for name, item in self.items() if item.active == 0]

    def table(self) -> pandas.DataFrame:
        """One row a concept, to be sorted.

        Columns: `hook`; of latents `density` (share of tokens at which it is active), `texts` (in how many it is), and `mean` and
        `max` when active; of directions `mean`, `max`, `min`, `std` and quantiles `q1` to `q99` of the projection on all tokens.
        """
        from caft_lens.display.frames import Frame

        return Frame.from_dict({name: item.row for name, item in self.items()}, orient="index")

    def plot(self, name: str | None = None) -> Figure:
        """Draw the histogram of one concept; or, without a name, how the densities of all latents are spread.

        Args:
            name: Of the concept.

        Returns:
            A figure of its own, not pyplot's: the last line of a cell shows it, `savefig` keeps it.

        Raises:
            KeyError: For an unknown name, with the nearest.
            ValueError: For a dead latent; without a name, when there are only directions.
        """
        return _plot_all(self) if name is None else _plot_one(self[name])

    def __repr__(self) -> str:
        tokens = max((item.tokens for item in self.values()), default=0)
        dead = f", {len(self.dead):,} of them dead" if self.dead else ""
        return f"Densities({len(self):,} concept{'' if len(self) == 1 else 's'}{dead}, on {tokens:,} tokens; table(), plot() and plot(name) show them)"

    def _repr_html_(self) -> str:
        return html.framed(self.table(), repr(self), max_rows=20, float_format="{:.4g}".format)


def density(
    lens: Lens,
    concepts: ConceptSet | SAE | Sequence[SAE],
    texts: Iterable[Text],
    *,
    saes: SAE | Sequence[SAE] | None = None,
    roles: Sequence[str] | None = None,
    batch_tokens: int = 8192,
    max_length: int | None = None,
    progress: bool = True,
) -> Densities:
    """How often and how strongly each concept is active, for all concepts in one pass.

    Of an SAE's latent: at what share of the tokens it is active and in how many texts, its mean and maximum when active, and a
    histogram. Of a direction, which is exactly 0 nowhere: mean, standard deviation and histogram of the projection on all tokens.

    Args:
        lens: The model that reads: the base, or one tuned from it.
        concepts: Directions; or an SAE, or several at a hook point each, for all their latents.
        texts: The corpus; memory does not grow with it.
        saes: SAEs whose latents are among the concepts, as for `contexts`.
        roles: Roles of the tokens to look at; `None` for all.
        batch_tokens: Padded tokens in a batch.
        max_length: Cut texts after this many tokens.
        progress: Whether to show a bar.

    Raises:
        TypeError: When `concepts` is neither a set of concepts nor SAEs.
        ValueError: When the concepts or SAEs do not fit the model, none of the concepts is a latent of `saes`, or no token has one of
            the roles.

    Example:
        >>> found = cl.inspect.density(base, cl.load_sae("pocket", layer=2), cl.data("pocket/corpus"))  # doctest: +SKIP
        >>> found["L2.latent5"].density, found["L2.latent5"].maximum                                    # doctest: +SKIP
        (0.0021, 7.82)
    """
    read = reading(lens, concepts, saes)
    reducers: list[Any] = []
    if read.saes:
        reducers.append(LatentDensity(read.saes, read.numbers))
    if read.directions:
        reducers.append(ProjectionDensity(read.rows))
    stream(
        lens,
        texts,
        list(dict.fromkeys(hook for one in reducers for hook in one.hooks)),
        [AtItsHooks(one) for one in reducers],
        roles=roles,
        batch_tokens=batch_tokens,
        max_length=max_length,
        progress=progress,
    )
    return Densities.of(*reducers, names=read)


class LatentDensity(LatentReducer):
    """How often and how strongly latents are active.

    Args:
        saes: Hook point to the SAE that reads there.
        latents: Hook point to the numbers of the latents that count; all when `None`.

    Example:
        >>> shares, = stream(base, texts, [2], LatentDensity({hook: sae}))  # doctest: +SKIP
        >>> Densities.of(shares).plot()                                      # doctest: +SKIP
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
        bins = _bin(value)
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
            raise ValueError("Only LatentDensity of the same latents can be merged.")
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
        rows = {
            hook: {number: row for row, number in enumerate(numbers.tolist())}
            for hook, numbers in self.latents.items()
        }
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


def _bin(values: Tensor) -> Tensor:
    """The bin of each activation, long `[n]`; an edge belongs to the bin above it."""
    inner = LATENT_EDGES[1:-1]
    return torch.bucketize(values.double(), inner, right=True)


class ProjectionDensity:
    """A reducer for `stream`: how the projections on directions are spread over all tokens.

    Args:
        directions: By hook name, `[n_dirs, d_model]`.

    Raises:
        ValueError: Without directions, or for one that is not finite.

    Example:
        >>> spread, = stream(base, texts, [1], ProjectionDensity({hook: directions}))  # doctest: +SKIP
    """

    def __init__(self, directions: Mapping[str, Tensor]) -> None:
        self.directions = {
            hook: torch.atleast_2d(rows.detach().float().cpu()) for hook, rows in directions.items()
        }
        if not self.directions or any(len(rows) == 0 for rows in self.directions.values()):
            raise ValueError("ProjectionDensity needs at least one direction at every hook point.")
        for hook, rows in self.directions.items():
            if not bool(torch.isfinite(rows).all()):
                raise ValueError(f"A direction at {hook} is NaN or infinite.")
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
            raise ValueError(f'There are no directions at "{hook}".{nearest(hook, self.directions)}')
        directions = self.directions[hook]
        for first in range(0, len(directions), _CHUNK):
            some = slice(first, first + _CHUNK)
            self._spread[hook].add(some, (acts.float() @ directions[some].T.to(acts.device)).cpu())
        self._spread[hook].tokens += len(acts)

    def merge(self, other: ProjectionDensity) -> ProjectionDensity:
        """Add another result in place, exactly as if its texts had been seen here.

        Raises:
            ValueError: When the directions differ.
        """
        if self.directions.keys() != other.directions.keys() or any(
            not torch.equal(rows, other.directions[hook]) for hook, rows in self.directions.items()
        ):
            raise ValueError("Only ProjectionDensity of the same directions can be merged.")
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
                f"{hook}[{row}]": (hook, row)
                for hook, rows in self.directions.items()
                for row in range(len(rows))
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
        pairs = counts.view(half, 2).sum(dim=1)
        counts = torch.zeros_like(counts)
        counts[half // 2 : half // 2 + half] = pairs
    return counts


# -- drawing ----------------------------------------------------------------------------------------------------------

BARS = 80
# Of a projection the figure shows the range of all but this share of the tokens at either end: a few outliers would flatten the rest.
BEYOND = 0.001


def _plot_one(item: Density) -> Figure:
    if item.active == 0:
        raise ValueError(
            f'"{item.name}" was active at none of {item.tokens:,} tokens: there is no histogram to draw.'
        )
    figure, (axes,) = _figure(1)
    counts, edges = item.bars
    if item.by == "latent":
        axes.set_xscale("log")
        _decimal_ticks(axes)
        axes.set_xlabel("activation of the latent where it is active (log scale; 4 bins to a doubling)")
        title = (
            f"active at {100 * (item.density or 0):.3g} % of {item.tokens:,} tokens, in {item.texts:,} texts"
        )
    else:
        shown = counts.sum() / item.counts.sum()
        axes.set_xlabel("projection of the activation on the unit direction")
        title = (
            f"all {item.tokens:,} tokens" if shown == 1 else f"{100 * shown:.1f} % of {item.tokens:,} tokens"
        )
        title += (
            f", standard deviation {item.std:.3g}; smallest {item.minimum:.3g}, largest {item.maximum:.3g}"
        )
    axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.75, linewidth=0)
    axes.set_ylim(0, 1.16 * counts.max())  # room for a word above the bars
    axes.axvline(item.mean, color=VERMILION, linewidth=1.6, linestyle="--")
    axes.annotate(
        f"mean {item.mean:.3g}",
        (item.mean, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -11),
        textcoords="offset points",
        fontsize=8.5,
        color=VERMILION,
    )
    axes.set_ylabel("tokens")
    figure.suptitle(
        f"{item.name} at {item.hook}", x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK
    )
    axes.set_title(title, loc="left", fontsize=9, color=QUIET)
    return figure


def _plot_all(found: Densities) -> Figure:
    at: dict[str, list[float]] = {}
    for item in found.values():
        if item.density is not None:
            at.setdefault(item.hook, []).append(item.density)
    if not at:
        raise ValueError(
            "These are all directions, which are active everywhere: plot(name) draws one of them."
        )
    live = {hook: np.log10([share for share in shares if share > 0]) for hook, shares in at.items()}
    lowest = min((shares.min() for shares in live.values() if len(shares)), default=-1.0)
    edges = np.arange(math.floor(10 * lowest), 1) / 10
    figure, rows = _figure(len(at))
    for axes, (hook, shares) in zip(rows, live.items(), strict=True):
        counts, _ = np.histogram(shares, edges)
        axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.75, linewidth=0)
        middle = ""
        if len(shares):
            middle = f"; dashed: median of the others, {100 * 10 ** float(np.median(shares)):.2g} %"
            axes.axvline(float(np.median(shares)), color=VERMILION, linewidth=1.6, linestyle="--")
        total, dead = len(at[hook]), len(at[hook]) - len(shares)
        axes.set_title(
            f"{hook}: {total:,} latents, {dead:,} dead{middle}", loc="left", fontsize=9.5, color=INK
        )
        axes.set_ylabel("latents")
    tokens = max(item.tokens for item in found.values())
    rows[-1].set_xlabel(f"log10 of the share of {tokens:,} tokens at which a latent is active")
    return figure


def _figure(n_rows: int) -> tuple[Figure, list[Any]]:
    """A figure with axes below each other."""
    figure = shown_figure(figsize=(7.2, 1.0 + 2.2 * n_rows), layout="constrained")
    rows = list(figure.subplots(n_rows, 1, sharex=True, squeeze=False)[:, 0])
    for axes in rows:
        axes.tick_params(length=0, labelsize=8.5, colors=INK)
        axes.xaxis.label.set(fontsize=9, color=INK)
        axes.yaxis.label.set(fontsize=9, color=INK)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return figure, rows


def _decimal_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _trimmed(counts: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bins from the first to the last that hold something."""
    filled = np.flatnonzero(counts)
    first, last = filled[0], filled[-1] + 1
    return counts[first:last], edges[first : last + 1]


def _bulk(item: Density) -> tuple[np.ndarray, np.ndarray]:
    """The bins around nearly all projections, joined to about as many bars as can be seen."""
    first, last = np.searchsorted(item.edges, [item.quantile(BEYOND), item.quantile(1 - BEYOND)])
    first = max(first - 1, 0)
    joined = max(1, math.ceil((last - first) / BARS))
    last = min(first + joined * math.ceil((last - first) / joined), len(item.counts))
    first = last - joined * ((last - first) // joined)
    return item.counts[first:last].reshape(-1, joined).sum(axis=1), item.edges[first : last + 1 : joined]
