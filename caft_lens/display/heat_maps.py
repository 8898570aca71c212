"""Figures of matrices: a coloured cell a value, one map or several of one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caft_lens.display.theme import BLUE, FAINT, LINE, PAPER, VERMILION, at, axes, figure, literal, text_width

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CELL, WIDEST, LETTERS, LEAST = 24, 700, 10.5, 460
"""Pixels of a cell, and of a map at most; size of the labels' letters; pixels of a figure at least."""


@dataclass(frozen=True)
class Shades:
    """What the colours of a map say.

    Attributes:
        label: What is shown, with its unit.
        limit: The value of the full colour; the largest magnitude by default. What lies beyond is drawn as that.
        diverging: Blue through white to orange, centred on 0; otherwise white to orange from 0.
        numbers: A format such as `".2f"` to write the values into the cells.
        colours: Others than these, from the lowest to the highest.
    """

    label: str = ""
    limit: float | None = None
    diverging: bool = True
    numbers: str | None = None
    colours: tuple[str, ...] = ()

    def fitted(self, *values: NDArray[np.float64]) -> Shades:
        """The same with a limit that fits some values."""
        largest = max((float(np.nanmax(np.abs(one), initial=0.0)) for one in values), default=0.0)
        return self if self.limit is not None else replace(self, limit=largest or 1.0)


def heat_map(
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    shades: Shades = Shades(),
    title: str | None = None,
    caption: str = "",
    labels: tuple[str, str] = ("", ""),
    ticks: tuple[Sequence[str], Sequence[str]] | None = None,
    borders: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Figure:
    """A matrix as a coloured map; hovering over a cell says its row, its column and its value.

    Args:
        values: `[n_rows, n_columns]`; NaN is left grey.
        rows: Names of the rows.
        columns: Names of the columns.
        shades: What the colours say.
        title: Above the figure.
        caption: Below it.
        labels: What the columns are, and the rows.
        ticks: What stands beside the rows, and below the columns, in place of their names; `""` leaves one out.
        borders: Rows, and columns, before which a line is drawn.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.

    Example:
        >>> drawn = heat_map(np.eye(2), ["L0", "L1"], ["a", "b"], shades=Shades("Cosine", limit=1))
        >>> drawn.data[0].zmin, drawn.data[0].zmax
        (-1, 1)
    """
    beside, under = ticks or (rows, columns)
    size, left = cell_size(values.shape), room_beside(beside, labels[1])
    # A number needs more room than a cell has.
    width = max(90, (size if shades.numbers is None else max(size, 42)) * values.shape[1])
    drawn = figure(
        [width], [max(26, size * values.shape[0])], title=title, caption=caption, headings=[shades.label], left=left,
        right=max(84, LEAST - left - width), below=room_under(under, labels[0]),
    )  # fmt: skip
    draw_map(drawn, 0, values, rows, columns, shades.fitted(values), ticks=ticks)
    axes(drawn, 0, x={"title": labels[0]}, y={"title": labels[1]})
    for place in borders[0]:
        drawn.add_hline(place - 0.5, line={"color": LINE, "width": 1})
    for place in borders[1]:
        drawn.add_vline(place - 0.5, line={"color": LINE, "width": 1})
    return drawn


def draw_map(
    drawn: Figure,
    panel: int,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    shades: Shades,
    *,
    texts: Sequence[Sequence[str]] | None = None,
    ticks: tuple[Sequence[str], Sequence[str]] | None = None,
) -> None:
    """Draw a map into a panel, beside the key of its colours where the panel is the first.

    Args:
        drawn: The figure.
        panel: Which panel.
        values, rows, columns, ticks: As for `heat_map`.
        shades: As for `heat_map`, with a limit.
        texts: What to write into the cells, escaped already.
    """
    limit = shades.limit or 1.0
    shown = [[None if np.isnan(value) else float(f"{value:.3g}") for value in row] for row in values.tolist()]
    written: dict[str, Any] = {}
    if texts is not None:
        written = {"text": texts, "texttemplate": "%{text}"}
    elif shades.numbers is not None:
        written = {"texttemplate": f"%{{z:{shades.numbers}}}"}
    what = f"{literal(shades.label).replace('%{', '%&#123;')}: " if shades.label else ""
    colours = shades.colours or ((BLUE, PAPER, VERMILION) if shades.diverging else (PAPER, VERMILION))
    drawn.add_heatmap(
        z=shown, x=_apart(columns), y=_apart(rows), zmin=-limit if shades.diverging else 0.0, zmax=limit,
        colorscale=[[place / (len(colours) - 1), colour] for place, colour in enumerate(colours)],
        hovertemplate=f"%{{y}}<br>%{{x}}<br>{what}%{{z:.3g}}<extra></extra>",
        hoverongaps=False, textfont={"size": 10}, showscale=panel == 0,
        colorbar={"thickness": 12, "outlinewidth": 0, "x": 1, "xpad": 10, "tickfont": {"size": 10.5}, "ypad": 0},
        **written, **at(panel),
    )  # fmt: skip
    size = cell_size(values.shape)
    beside, under = ticks or (rows, columns)
    common: dict[str, Any] = {"type": "category", "showgrid": False, "tickmode": "array", "tickfont": {"size": LETTERS}}
    y_ticks, x_ticks = _ticks(beside, size), _ticks(under, size)
    axes(
        drawn, panel, x={**common, **x_ticks, "tickangle": -90 if _turned(under) else 0},
        y={**common, **y_ticks, "autorange": "reversed"},
    )  # fmt: skip
    drawn.update_layout(plot_bgcolor=FAINT)


def cell_size(shape: tuple[int, ...]) -> float:
    """Pixels of a cell."""
    return min(CELL, WIDEST / max(shape))


def room_beside(names: Sequence[str], label: str = "") -> float:
    """Pixels for the names of rows."""
    return max((text_width(name, LETTERS) for name in names), default=0) + (34 if label else 14)


def room_under(names: Sequence[str], label: str = "") -> float:
    """Pixels for the names of columns, turned where they are long."""
    longest = max((text_width(name, LETTERS) for name in names), default=0) if _turned(names) else LETTERS * 1.3
    return longest + (34 if label else 14)


def _turned(names: Sequence[str]) -> bool:
    return max(map(len, names), default=0) > 3


def _apart(names: Sequence[str]) -> list[str]:
    """Names of which none is another's: a name that comes again has signs without width."""
    seen: dict[str, int] = {}
    found = []
    for name in map(literal, names):
        seen[name] = seen.get(name, -1) + 1
        found.append(name + "\u200b" * seen[name])
    return found


def _ticks(names: Sequence[str], size: float) -> dict[str, Any]:
    """Labels, of very many only every second, third, …, so that they do not run into one another."""
    there = [place for place, name in enumerate(names) if name]
    crowded = max(1, -(-int(1.15 * LETTERS) // max(1, int(size))))
    there = there[::crowded] if len(there) > len(names) / 2 else there
    return {"tickvals": there, "ticktext": [names[place] for place in there]}
