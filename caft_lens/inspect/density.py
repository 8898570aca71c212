"""How often and how strongly concepts are active on a corpus, in one pass: densities, histograms, and their figures.

`density` runs the pass and gives `Densities`, one `Density` a concept; the reducers are in density_reducers.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caft_lens._support.errors import nearest
from caft_lens.activations.differences import stream
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display import html
from caft_lens.display.theme import BLUE, FAINT, INK, QUIET, VERMILION, shown_figure
from caft_lens.inspect.density_reducers import Density, LatentDensity, ProjectionDensity
from caft_lens.inspect.reading import AtItsHooks, Reading, reading
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from sae_lens import SAE

    from caft_lens.model.lens import Lens


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
    scan: Scan = Scan(),
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
        scan: How the text is read: tokens a batch, where texts are cut.

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
        scan=scan,
    )
    return Densities.of(*reducers, names=read)


# -- drawing ------------------------------------------------------------------------------------------------------------


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
