"""Figures to compare concepts by, or sets of them: one row each, one kind of dot for each thing that was measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caft_lens._support.errors import BadArgument
from caft_lens.display import theme
from caft_lens.display.theme import LOOKS, QUIET, literal, room_for_key, short

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

APART = 0.22  # of a row, between two kinds of dots
LONGEST = 48
"""Letters of a row's name beside the figure; hovering says the rest."""


@dataclass(frozen=True)
class Dots:
    """One kind of dot: what was measured of each row.

    Attributes:
        label: What it is.
        values: By the name of the row.
        ends: Both ends of an interval, where there is one.
        facts: What else hovering says of a row.
    """

    label: str
    values: Mapping[str, float]
    ends: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def dot_rows(
    kinds: Sequence[Dots],
    *,
    x_label: str,
    title: str | None = None,
    caption: str = "",
    line: tuple[float, str] | None = None,
    linear_below: float | None = None,
    order: Sequence[str] | None = None,
    bold: Collection[str] = (),
) -> Figure:
    """Draw dots in rows.

    Args:
        kinds: What to draw; a kind may lack some of the rows.
        x_label: What the values are, with their unit.
        title: Above the figure.
        caption: Below it.
        line: A value to draw a line at, and what it is.
        linear_below: Draw a logarithmic axis, linear below this value so that 0 has a place; no value may be below 0.
        order: Names of the rows from top to bottom, each row once; the row with the largest value first by default.
        bold: Names of rows to set in bold.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.

    Raises:
        BadArgument: When `order` is not the names of all rows.

    Example:
        >>> drawn = dot_rows([Dots("seen", {"a": 1.0, "b": 3.0}, {"b": (2.5, 3.5)})], x_label="length, m")
        >>> drawn.data[0].hovertext[0]
        '<b>b</b><br>seen: 3 (2.5 to 3.5)<br>length, m'
    """
    names = sorted(
        dict.fromkeys(name for kind in kinds for name in kind.values),
        key=lambda name: -max(kind.values[name] for kind in kinds if name in kind.values),
    )
    if order is not None:
        if sorted(order) != sorted(names):
            raise BadArgument(f"order= names {', '.join(order) or 'no row'}; the rows are {', '.join(sorted(names))}.")
        names = list(order)
    written = [short(name, LONGEST) for name in names]
    several = len(kinds) > 1
    drawn = theme.figure(
        [480], [max(60, (18 + 8 * len(kinds)) * len(names))], title=title, caption=caption,
        headings=[" "] * (line is not None), left=theme.room_for(written),
        right=room_for_key(kind.label for kind in kinds) if several else 24,
    )  # fmt: skip
    for place, kind in enumerate(kinds):
        _draw(drawn, kind, names, place, (place - (len(kinds) - 1) / 2) * APART, x_label, linear_below)
    if line is not None:
        drawn.add_shape(
            type="line", x0=line[0], x1=line[0], y0=0, y1=1, yref="paper", layer="below",
            line={"color": QUIET, "width": 1, "dash": "dash"},
        )  # fmt: skip
        above = {"xref": "x", "yanchor": "bottom", "xanchor": "center", "font": {"size": 11, "color": QUIET}}
        theme.note(drawn, literal(line[1]), line[0], 1, **above)
    shown = [(theme.bold if full in bold else literal)(name) for name, full in zip(written, names, strict=True)]
    drawn.update_yaxes(
        range=[len(names) - 0.45, -0.55], tickmode="array", tickvals=list(range(len(names))), ticktext=shown
    )
    theme.axes(drawn, 0, x={"title": x_label, **(_ticks(kinds, linear_below) if linear_below else {})})
    return drawn.update_layout(showlegend=several)


def _draw(
    drawn: Figure, kind: Dots, names: Sequence[str], place: int, shift: float, x_label: str, linear_below: float | None
) -> None:  # fmt: skip
    rows = {name: row + shift for row, name in enumerate(names) if name in kind.values}
    ends = {name: kind.ends.get(name, (kind.values[name],) * 2) for name in rows}
    between = {name: f" ({low:.3g} to {high:.3g})" for name, (low, high) in kind.ends.items()}
    hover = [
        theme.said(
            name, f"{kind.label}: {kind.values[name]:.3g}{between.get(name, '')}", x_label, kind.facts.get(name, "")
        )
        for name in rows
    ]
    x = [_along(kind.values[name], linear_below) for name in rows]
    drawn_ends = [(_along(low, linear_below), _along(high, linear_below)) for low, high in ends.values()]
    error = {"error_x": theme.bars(x, drawn_ends, LOOKS[place % len(LOOKS)][0])} if kind.ends else {}
    drawn.add_scatter(
        x=x, y=list(rows.values()), mode="markers", name=literal(kind.label), marker=theme.marker(place),
        hoverinfo="text", hovertext=hover, **error, **theme.at(0),
    )  # fmt: skip


def _along(value: float, linear_below: float | None) -> float:
    """Where a value stands: itself, or on an axis that is logarithmic from `linear_below` on."""
    if linear_below is None:
        return value
    return value / linear_below if value <= linear_below else 1 + math.log10(value / linear_below)


def _ticks(kinds: Sequence[Dots], linear_below: float) -> dict[str, object]:
    largest = max((value for kind in kinds for value in kind.values.values()), default=linear_below)
    decades = range(max(1, math.ceil(_along(largest, linear_below))) + 1)
    values = [0.0, *(linear_below * 10 ** (decade - 1) for decade in decades if decade)]
    return {
        "tickmode": "array", "tickvals": list(decades), "ticktext": [f"{value:g}" for value in values],
        "range": [-0.12, max(1.05, _along(largest, linear_below) + 0.12)],
    }  # fmt: skip
