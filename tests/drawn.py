"""What a figure shows, for tests: its labels, what hovering says, and its other words, as a reader sees them."""

from __future__ import annotations

import html
import re
from typing import Any


def seen(text: str) -> str:
    """A text of a figure as a reader sees it: lines broken, without marks."""
    return html.unescape(re.sub(r"<[^>]*>", "", text.replace("<br>", "\n"))).replace("\u200b", "")


def words(figure: Any) -> str:
    """All that stands in a figure beside its axes: title, caption, headings, names."""
    return "\n".join(seen(one.text) for one in figure.layout.annotations)


def ticks(figure: Any, axis: str = "yaxis") -> list[str]:
    """The labels along an axis."""
    return [seen(label) for label in figure.layout[axis].ticktext]


def hover(figure: Any) -> list[str]:
    """What hovering says, point by point."""
    return [seen(text) for trace in figure.data for text in (getattr(trace, "hovertext", None) or ())]


def trace(figure: Any, name: str, axis: str = "x") -> Any:
    """The trace of a name, in the panel of an axis."""
    return next(one for one in figure.data if one.name and seen(one.name) == name and (one.xaxis or "x") == axis)


def ends(trace: Any, key: str = "x") -> list[tuple[float, float]]:
    """Both ends of the intervals of a trace."""
    bars = trace[f"error_{key}"]
    return [(value - down, value + up) for value, up, down in zip(trace[key], bars.array, bars.arrayminus, strict=True)]
