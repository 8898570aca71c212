"""How the table of an audit is shown: what each signal says, as a figure and as a view."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from caft_lens.display import html, points, theme
from caft_lens.display.theme import FAINT, INK, LINE, VERMILION, said, short

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

LONGEST = 36
"""Letters of a concept's name beside the figure; hovering says the rest."""
USUAL = (0.01, 0.99)
"""Between these quantiles of all concepts a figure is as usual."""


@dataclass(frozen=True)
class Meaning:
    """What a signal says, and its unit."""

    unit: str
    words: str


MEANINGS: Mapping[str, Meaning] = {
    "push": Meaning(
        "nats a token", "how far the loss would fall if activations moved along it by their typical length"
    ),
    "step": Meaning("lengths a nat", "how far an adapter's first step moves it, for each nat that the loss falls"),
    "shift": Meaning("SD", "how much more active in these answers than in the model's own to the same prompts"),
    "presence": Meaning("SD", "how much more active in these texts than in the reference"),
    "surplus": Meaning("lengths", "the same, in typical lengths of an activation"),
    "use": Meaning("nats", "how much of a row's log-probability hangs on it, up or down"),
    "cue": Meaning("share", "how much of its activation in the prompts goes with the answer (eta squared)"),
}
SHARE = "the share of rows that push it up"


@dataclass(frozen=True)
class Column:
    """One signal of the concepts that are shown, and between which ends those of most concepts lie."""

    signal: str
    values: Sequence[float]
    usual: tuple[float, float]

    @classmethod
    def of(cls, signal: str, values: NDArray[np.float64], places: Sequence[int]) -> Column:
        """Of all concepts' values those at some places."""
        low, high = np.quantile(values, USUAL)
        return cls(signal, [float(values[place]) for place in places], (float(low), float(high)))


def plot_signals(
    names: Sequence[str],
    by: Sequence[Collection[str]],
    columns: Sequence[Column],
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw concepts in rows and signals in columns.

    Args:
        names: Of the concepts, from top to bottom.
        by: The signals that brought each so far: their dots are filled.
        columns: A panel each.
        title: Above the figure.
        caption: Below it.

    Example:
        >>> drawn = plot_signals(["L1.latent4"], [["push"]], [Column("push", [0.2], (-0.05, 0.05))])
        >>> drawn.data[0].hovertext[0]
        '<b>L1.latent4</b><br>push: +0.200 nats a token<br>99 of 100 concepts: at most +0.0500'
    """
    written = [short(name, LONGEST) for name in names]
    key = "Filled: the signals that brought a concept so far. Grey: where 98 of 100 of all concepts lie."
    drawn = theme.figure(
        [150] * len(columns),
        [max(70, 22 * len(names))],
        title=title,
        caption="\n".join(line for line in (key, caption) if line),
        headings=[column.signal for column in columns],
        left=theme.room_for(written),
        between=(22, 0),
    )
    for place, column in enumerate(columns):
        _panel(drawn, place, names, by, column)
        points.rows(drawn, place, written)
    return drawn


def _panel(drawn: Figure, place: int, names: Sequence[str], by: Sequence[Collection[str]], column: Column) -> None:
    meaning, axis = MEANINGS[column.signal], theme.at(place)
    ends = {"y0": -0.5, "y1": len(names) - 0.5, "yref": axis["yaxis"], "xref": axis["xaxis"], "layer": "below"}
    low, high = column.usual
    drawn.add_shape(type="rect", x0=low, x1=high, fillcolor=FAINT, line={"width": 0}, **ends)
    drawn.add_shape(type="line", x0=0, x1=0, line={"color": LINE, "width": 1}, **ends)
    for brought, colour in ((True, VERMILION), (False, INK)):
        rows = [row for row, one in enumerate(by) if (column.signal in one) == brought]
        hover = [
            said(
                names[row],
                f"{column.signal}: {html.signed(column.values[row])} {meaning.unit}",
                f"99 of 100 concepts: at most {html.signed(high)}",
            )
            for row in rows
        ]
        marked = theme.marker(0, 9 if brought else 7, brought, (colour, "circle"))
        words = "brought by it" if brought else "by another signal"
        points.points(drawn, place, [column.values[row] for row in rows], rows, hover, marked, name=words)
    # The zero and all that is usual are in sight.
    first, last = min(*column.usual, *column.values, 0.0), max(*column.usual, *column.values, 0.0)
    room = 0.06 * (last - first) or 1.0
    theme.axes(drawn, place, x={"title": meaning.unit, "range": [first - room, last + room], "nticks": 4})


def view(frame: pandas.DataFrame, signals: Sequence[str], title: str) -> str:
    """The table as a notebook shows it, with what each column says.

    Args:
        frame: As `Audit.table` makes it.
        signals: Its columns of figures.
        title: Above it.
    """
    notes = [html.note(html.element("b", name), f": {words}") for name, words in captions(signals)]
    return html.view(html.table(*cells(frame, signals), numbers=range(2, 3 + len(signals)), title=title), notes)


def captions(signals: Iterable[str]) -> list[tuple[str, str]]:
    """Each column and what it says."""
    named = [(name, f"{MEANINGS[name].words}; {MEANINGS[name].unit}") for name in signals]
    return [*named, ("share of rows", SHARE)]


def cells(frame: pandas.DataFrame, signals: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table as texts, figures of three digits."""
    head = ["concept", "by", *signals, "share of rows"]
    rows = [
        [row["concept"], row["by"], *(html.signed(row[name]) for name in signals), f"{row['share of rows']:.0%}"]
        for row in frame.to_dict("records")
    ]
    return head, rows
