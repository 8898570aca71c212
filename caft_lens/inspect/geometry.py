"""How directions lie to one another: the cosine of every pair, across layers, as a table and as a map; the neighbours of one.

Directions of different layers live in one residual stream, so their cosines say whether a layer carries on what an earlier one
wrote. `cosines` takes them, `Cosines.plot` draws them by layer or by cluster; `heat_map` is the figure that the views of this
package share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from einops import einsum
from numpy.typing import NDArray

from caft_lens._support.arguments import count
from caft_lens._support.errors import nearest
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display.theme import BLUE, INK, LINE, QUIET, VERMILION, shown_figure

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Order = Literal["layer", "cluster"]

# More labels than this on an axis would not be readable.
_LABELS = 60
# Directions that are compared at a time.
_PIECE = 4096


@dataclass(frozen=True)
class Cosines:
    """Cosines of all pairs of some concepts.

    Attributes:
        concepts: In the order of the rows.
        values: `[n_concepts, n_concepts]`, float64, -1 to 1.
    """

    concepts: tuple[Concept, ...]
    values: NDArray[np.float64]

    def table(self) -> pandas.DataFrame:
        """The cosines, concepts by concepts, by name."""
        from caft_lens.display.frames import Frame

        names = [concept.name for concept in self.concepts]
        return Frame(self.values, index=names, columns=names)

    def order(self, by: Order = "layer") -> list[int]:
        """The concepts' places in the order in which `plot` draws them.

        Args:
            by: `"layer"`, within a hook point as they stand; or `"cluster"`, by average linkage of 1 - |cosine| with the leaves in
                optimal order (scipy): the sign of most directions is a convention, so that both ends count alike.

        Raises:
            ValueError: For another order.
        """
        if by not in get_args(Order):
            raise ValueError(f'cosines have no order "{by}".{nearest(by, get_args(Order))}')
        if by == "layer":
            return sorted(
                range(len(self.concepts)), key=lambda i: (self.concepts[i].layer, self.concepts[i].site)
            )
        if len(self.concepts) < 3:
            return list(range(len(self.concepts)))
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        distances = 1 - np.abs(self.values)
        np.fill_diagonal(distances, 0)
        tree = linkage(
            squareform(distances.clip(min=0), checks=False), method="average", optimal_ordering=True
        )
        return leaves_list(tree).tolist()

    def plot(self, order: Order = "layer", title: str | None = None) -> Figure:
        """Draw them as a map, blue for -1, white for 0, orange for +1.

        Args:
            order: `"layer"`, with a line between hook points, or `"cluster"` (see `order`).
            title: Above the figure.

        Returns:
            A figure that a notebook shows; `savefig` keeps it.
        """
        places = self.order(order)
        chosen = [self.concepts[place] for place in places]
        names = [f"{c.name} {c.label}".strip() for c in chosen]
        groups = [c.hook for c in chosen]
        borders = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]] if order == "layer" else []
        if len(names) > _LABELS:
            names = _one_a_group(groups) if order == "layer" else []
        width = self.concepts[0].direction.numel()
        return heat_map(
            self.values[np.ix_(places, places)],
            rows=names,
            columns=names,
            limit=1.0,
            label="Cosine",
            title=title,
            caption=f"{len(chosen)} directions, "
            + (
                "ordered by layer; lines part hook points"
                if order == "layer"
                else "ordered by clusters of 1 − |cosine|"
            )
            + f".\nOf random directions of this width, 95 % lie within ±{1.96 / width**0.5:.2f}.",
            row_borders=borders,
            column_borders=borders,
            square=True,
        )

    def __repr__(self) -> str:
        return f"Cosines({len(self.concepts)} concept{'' if len(self.concepts) == 1 else 's'})\n{self.table().round(2).to_string(max_rows=12, max_cols=12)}"

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.plot().savefig(png, format="png")
        return png.getvalue()


def cosines(concepts: ConceptSet | Sequence[Concept]) -> Cosines:
    """The cosine of every two of some concepts, whatever their layers.

    Args:
        concepts: Directions of one width, up to a few hundred for a map that can be read.

    Raises:
        ValueError: When there is none, or widths differ.

    Example:
        >>> x, y = torch.eye(2)
        >>> pair = [Concept("L0.a", "blocks.0.hook_resid_post", x), Concept("L1.b", "blocks.1.hook_resid_post", x + y)]
        >>> cosines(pair).table().loc["L0.a", "L1.b"].round(3)
        np.float64(0.707)
        >>> cosines(concepts).plot(order="cluster")  # doctest: +SKIP
    """
    chosen = tuple(concepts)
    if not chosen:
        raise ValueError("cosines() needs at least one concept.")
    widths = sorted({concept.direction.numel() for concept in chosen})
    if len(widths) > 1:
        raise ValueError(
            f"Directions of widths {widths} have no cosines: they come from different models or sites."
        )
    rows = torch.stack([concept.direction for concept in chosen]).double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    cosines = einsum(rows, rows, "one d_model, other d_model -> one other")
    return Cosines(chosen, cosines.clamp(-1, 1).numpy())


def neighbours(concepts: Sequence[Concept], concept: Concept, k: int = 8) -> list[tuple[Concept, float]]:
    """The concepts whose directions are most like one, or most like its opposite, whatever their layers.

    Args:
        concepts: Where to look; thousands are fine. The concept itself is left out.
        concept: The one.
        k: How many at most.

    Returns:
        Concepts with their cosines, the largest magnitude first.

    Raises:
        ValueError: For fewer than one, or when widths differ.

    Example:
        >>> x, y = torch.eye(2)
        >>> a, b, c = (Concept(name, "blocks.0.hook_resid_post", row) for name, row in [("a", x), ("b", x + y), ("c", -x)])
        >>> [(one.name, round(cosine, 3)) for one, cosine in neighbours([a, b, c], a)]
        [('c', -1.0), ('b', 0.707)]
    """
    count(k, "k")
    others = [one for one in concepts if one is not concept]
    width = concept.direction.numel()
    strange = next((one for one in others if one.direction.numel() != width), None)
    if strange is not None:
        raise ValueError(
            f'"{strange.name}" is {strange.direction.numel()} wide, "{concept.name}" {width}: they come from different models.'
        )
    # In pieces: a second copy of a wide SAE's decoder need not be held.
    pieces = [
        torch.stack([one.direction for one in others[start : start + _PIECE]]) @ concept.direction
        for start in range(0, len(others), _PIECE)
    ]
    if not pieces:
        return []
    cosines = torch.cat(pieces).clamp(-1, 1)
    best = cosines.abs().sort(descending=True, stable=True).indices[:k].tolist()
    return [(others[place], float(cosines[place])) for place in best]


def _one_a_group(groups: Sequence[str]) -> list[str]:
    """A label in the middle of every run of equal names, and none elsewhere."""
    labels = [""] * len(groups)
    start = 0
    for stop in range(1, len(groups) + 1):
        if stop == len(groups) or groups[stop] != groups[start]:
            labels[(start + stop - 1) // 2] = groups[start]
            start = stop
    return labels


# -- the figure -------------------------------------------------------------------------------------------------------


def heat_map(
    values: NDArray[np.float64],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    limit: float | None = None,
    label: str = "",
    title: str | None = None,
    caption: str = "",
    x_label: str = "",
    y_label: str = "",
    row_borders: Sequence[int] = (),
    column_borders: Sequence[int] = (),
    square: bool = False,
    diverging: bool = True,
    numbers: str | None = None,
) -> Figure:
    """A matrix as a coloured map in the style of the project's figures.

    Args:
        values: `[n_rows, n_columns]`; NaN is left grey.
        rows: Labels of the rows; `""` leaves one out.
        columns: Labels of the columns.
        limit: The value of the full colour; the largest magnitude by default. What lies beyond is drawn as that.
        label: What is shown, with its unit, above the map.
        title: Above the figure.
        caption: Below it.
        x_label: What the columns are.
        y_label: What the rows are.
        row_borders: Rows before which a line is drawn.
        column_borders: Columns before which a line is drawn.
        square: Whether cells are square.
        diverging: Blue through white to orange, centred on 0; otherwise white to orange from 0.
        numbers: A format such as `".2f"` to write the values into the cells.

    Returns:
        A figure of its own, not pyplot's: the last line of a cell shows it.
    """
    from matplotlib.colors import LinearSegmentedColormap

    shades = [BLUE, "white", VERMILION] if diverging else ["white", VERMILION]
    colours = LinearSegmentedColormap.from_list("caft_lens", shades).with_extremes(bad="#DDDDDD")
    if limit is None:
        limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    figure = shown_figure(figsize=_size(values.shape, rows, columns, square), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        values, cmap=colours, vmin=-limit if diverging else 0.0, vmax=limit,
        aspect="equal" if square else "auto", interpolation="nearest",
    )  # fmt: skip
    _labels(axes, rows, columns)
    for place in row_borders:
        axes.axhline(place - 0.5, color=LINE, linewidth=0.8)
    for place in column_borders:
        axes.axvline(place - 0.5, color=LINE, linewidth=0.8)
    if numbers is not None:
        _write(axes, values, limit, numbers)
    axes.set_title(_literal(label), loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(x_label, fontsize=8.5, color=INK)
    axes.set_ylabel(y_label, fontsize=8.5, color=INK)
    axes.spines[:].set_color(LINE)
    bar = figure.colorbar(image, ax=axes, shrink=0.8 if values.shape[0] > 4 else 1.0, pad=0.02, aspect=25)
    bar.ax.tick_params(labelsize=8, colors=INK, length=2)
    bar.outline.set_edgecolor(LINE)
    if title:
        figure.suptitle(_literal(title), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    if caption:
        figure.supxlabel(_literal(caption), fontsize=7.5, color=QUIET)
    return figure


def _size(
    shape: tuple[int, ...], rows: Sequence[str], columns: Sequence[str], square: bool
) -> tuple[float, float]:
    """Width and height in inches that leave every label room, within the width of a page."""
    n_rows, n_columns = shape
    words = [0.07 * max((len(name) for name in names), default=0) for names in (rows, columns)]
    cell = 0.26 if max(shape) <= _LABELS else 7.0 / max(shape)
    wide = cell * n_columns if square else min(14.0, max(3.0, 0.26 * n_columns))
    high = cell * n_rows if square else min(12.0, max(0.7, 0.26 * n_rows))
    return max(4.5, wide + words[0] + 1.4), max(2.2, high + words[1] + 1.0)


def _labels(axes: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    # So that labels do not run into one another, of very many every second, third, … is written.
    wide = max((len(name) for name in columns), default=0) > 3
    for axis, names, turned in ((axes.yaxis, rows, 0), (axes.xaxis, columns, 90 if wide else 0)):
        written = [place for place, name in enumerate(names) if name]
        written = written[:: max(1, -(-len(written) // (2 * _LABELS)))]
        axis.set_ticks(written, labels=[_literal(names[place]) for place in written], rotation=turned)
        axis.set_tick_params(length=0, labelsize=8 if len(written) <= _LABELS else 5, colors=INK)


def _write(axes: Any, values: NDArray[np.float64], limit: float, numbers: str) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            strong = abs(value) > 0.75 * limit
            axes.text(
                column, row, format(value, numbers), ha="center", va="center", fontsize=7.5,
                color="white" if strong else INK,
            )  # fmt: skip


def _literal(text: str) -> str:
    """Text that matplotlib writes as it stands: a pair of dollar signs would be read as mathematics."""
    return text.replace("$", r"\$")
