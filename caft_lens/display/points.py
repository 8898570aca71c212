"""What figures of several panels are put together from: points with intervals, rows with names, lines and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from caft_lens.display.theme import PAPER, at, axes, bars, note

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Ends = Sequence[tuple[float, float]]
"""Both ends of the interval of each value."""


def points(
    drawn: Figure,
    panel: int,
    x: Sequence[float],
    y: Sequence[float],
    hover: Sequence[str],
    marked: dict[str, Any],
    *,
    ends: Mapping[Literal["x", "y"], Ends] | None = None,
    thick: float = 5,
    **trace: Any,
) -> None:
    """Draw points, with bars for intervals in the colour of their marker.

    Args:
        drawn: As `figure` makes it.
        panel: Which, from 0.
        x: Values across.
        y: Values up.
        hover: What hovering says of each point, as `said` writes it.
        marked: The marker, as `marker` makes it.
        ends: Of the intervals of `x`, of `y`, or of both.
        thick: Pixels of the bars.
        trace: What else plotly's scatter takes, such as `mode="lines+markers"`.
    """
    colour = marked["line"]["color"] if marked["color"] == PAPER else marked["color"]
    for axis, of in (ends or {}).items():
        trace[f"error_{axis}"] = bars(x if axis == "x" else y, of, colour, thick)
    trace = {"mode": "markers", "marker": marked, "hoverinfo": "text", "hovertext": list(hover), **trace}
    drawn.add_scatter(x=list(x), y=list(y), **trace, **at(panel))


def rows(drawn: Figure, panel: int, names: Sequence[str], room: float = 0.5) -> None:
    """Let a panel have one row for each name, from top to bottom; the names stand left of the first panel.

    Args:
        drawn: As `figure` makes it.
        panel: Which, from 0.
        names: Of the rows.
        room: Rows left free above the first and below the last.
    """
    y = {"range": [len(names) - 1 + room, -room], "tickmode": "array", "tickvals": list(range(len(names)))}
    shared = {"matches": "y"} if panel else {}
    axes(drawn, panel, y={**y, "ticktext": list(names), "showticklabels": panel == 0, **shared})


def upright(drawn: Figure, panel: int, x: float, **line: Any) -> None:
    """Draw a line from the bottom of a panel to its top, below all points.

    Args:
        drawn: As `figure` makes it.
        panel: Which, from 0.
        x: Where.
        line: Its `color`, `width`, `dash`.
    """
    across = at(panel)["xaxis"]
    drawn.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, xref=across, yref="paper", layer="below", line=line)


def beside(drawn: Figure, panel: int, y: float, text: str, **settings: Any) -> None:
    """Write right of a panel, at a height of its own axis.

    Args:
        drawn: As `figure` makes it.
        panel: Which, from 0.
        y: The height.
        text: Already escaped.
        settings: Of plotly's annotation.
    """
    names = at(panel)
    right = drawn.layout[f"xaxis{names['xaxis'][1:]}"].domain[1]
    note(drawn, text, right, y, **{"yref": names["yaxis"], "xshift": 8, **settings})
