"""Figures of curves: what something comes to along an axis, such as the loss of several trainings by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from caft_lens.display.theme import DASHES, LOOKS, at, axes, figure, literal, marker, room_for_key, said

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MARKED = 40
"""Curves of more points than this have no markers."""


def curves(
    kinds: Mapping[str, Mapping[float, float]],
    *,
    x_label: str,
    y_label: str,
    title: str | None = None,
    caption: str = "",
    log: tuple[bool, bool] = (False, False),
    facts: Mapping[str, str] | None = None,
    y_range: Sequence[float] | None = None,
) -> Figure:
    """Draw curves, one each kind, told apart by colour, marker and dash.

    Args:
        kinds: Name to the points of the curve: where, and how much.
        x_label: What is along the axis, with its unit.
        y_label: What is up, with its unit.
        title: Above the figure.
        caption: Below it.
        log: Whether the axis along, and the one up, is logarithmic.
        facts: What else hovering says of a curve, such as its setting.
        y_range: Both ends of the axis up; by default what is needed.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.

    Example:
        >>> drawn = curves({"plain": {1: 2.5, 2: 2.25}}, x_label="step", y_label="loss, nats")
        >>> drawn.data[0].hovertext[1]
        '<b>plain</b><br>step: 2<br>loss, nats: 2.25'
    """
    several = len(kinds) > 1
    drawn = figure([560], [260], title=title, caption=caption, left=72, right=room_for_key(kinds) if several else 24)
    for place, (name, points) in enumerate(kinds.items()):
        more = (facts or {}).get(name, "")
        drawn.add_scatter(
            x=list(points), y=list(points.values()), name=literal(name), marker=marker(place, 7),
            mode="lines" if len(points) > MARKED else "lines+markers",
            line={"color": LOOKS[place % len(LOOKS)][0], "width": 1.8, "dash": DASHES[place % len(DASHES)]},
            hovertext=[said(name, f"{x_label}: {x:,.6g}", f"{y_label}: {y:.4g}", more) for x, y in points.items()],
            hoverinfo="text", **at(0),
        )  # fmt: skip
    kind = ["log" if one else "linear" for one in log]
    axes(drawn, 0, x={"title": x_label, "type": kind[0]}, y={"title": y_label, "type": kind[1]})
    if y_range is not None:
        drawn.update_yaxes(range=list(y_range))
    return drawn.update_layout(showlegend=several)
