"""The figures of evaluations: shares of several arms with their intervals, and how well ranked directions separate.

They take rows, and know neither a report nor a discovery. Dots are means, bars 95 % intervals, the small open markers
below them the single seeds; what differs in colour differs in marker or filling too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caft_lens._support.intervals import Interval
from caft_lens.display.theme import (
    BLUE,
    FAINT,
    LINE,
    LOOKS,
    QUIET,
    VERMILION,
    at,
    axes,
    bars,
    figure,
    literal,
    marker,
    note,
    room_for,
    said,
    short,
    small,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LONGEST = 40
"""Letters of an arm's name beside a figure; hovering says the rest."""


@dataclass(frozen=True)
class Row:
    """One arm in one metric.

    Attributes:
        arm: Its name.
        interval: The mean with its interval.
        seeds: Seed to its mean.
        facts: What else hovering says, such as the setting, or an example answer.
    """

    arm: str
    interval: Interval
    seeds: Mapping[int, float]
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """All arms in one metric.

    Attributes:
        heading: What is shown.
        x_label: The same with its unit.
        rows: One an arm, the same arms in all panels.
        ends: Of the axis, in the unit of the intervals.
    """

    heading: str
    x_label: str
    rows: Sequence[Row]
    ends: tuple[float, float] = (0.0, 1.0)


def plot_shares(panels: Sequence[Panel], title: str | None = None, caption: str = "") -> Figure:
    """Draw arms in rows, a panel for each metric.

    Args:
        panels: What to draw.
        title: Above the figure.
        caption: Below it: seeds and answers, and what the intervals are.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.

    Example:
        >>> row = Row("caft", Interval(0.05, 0.03, 0.08, n_seeds=2, n_answers=400), {1: 0.04, 2: 0.06}, ["strength 1"])
        >>> drawn = plot_shares([Panel("Misaligned answers", "misaligned answers, %", [row])])
        >>> drawn.data[0].hovertext[0]
        '<b>caft</b><br>5.0 % (3.0 to 8.0), 95 % interval<br>2 seeds, 400 answers<br>strength 1'
    """
    arms = [short(row.arm, LONGEST) for row in panels[0].rows]
    several = any(len(row.seeds) > 1 for panel in panels for row in panel.rows)
    marks = f"Filled: mean; bar: interval{'; open: single seeds' * several}."
    drawn = figure(
        [290] * len(panels), [max(64, 34 * len(arms))], title=title, caption=f"{marks}\n{caption}",
        headings=[panel.heading for panel in panels], left=room_for(arms), right=140, between=(156, 0),
    )  # fmt: skip
    for place, panel in enumerate(panels):
        _panel(drawn, place, panel)
        axes(
            drawn,
            place,
            y={
                "range": [len(arms) - 0.5, -0.5],
                "tickmode": "array",
                "tickvals": list(range(len(arms))),
                "ticktext": arms,
                "showticklabels": place == 0,
                **({"matches": "y"} if place else {}),
            },
        )
    return drawn


def _panel(drawn: Figure, place: int, panel: Panel) -> None:
    rows, look = panel.rows, LOOKS[place % len(LOOKS)]
    unit = 100 if all(row.interval.share for row in rows) else 1
    x = [unit * row.interval.mean for row in rows]
    ends = [(unit * row.interval.low, unit * row.interval.high) for row in rows]
    drawn.add_scatter(
        x=x,
        y=list(range(len(rows))),
        mode="markers",
        name=literal(panel.heading),
        marker=marker(place),
        error_x=bars(x, ends, look[0], 7),
        hoverinfo="text",
        hovertext=[said(row.arm, *_interval(row.interval), *row.facts) for row in rows],
        **at(place),
    )
    single = [
        (unit * value, number + 0.28, said(f"{row.arm}, seed {seed}", _value(value, row.interval)))
        for number, row in enumerate(rows)
        if len(row.seeds) > 1
        for seed, value in row.seeds.items()
    ]
    if single:
        along, up, hover = zip(*single, strict=True)
        drawn.add_scatter(
            x=along, y=up, mode="markers", name="single seeds", marker=marker(place, 5, filled=False), hoverinfo="text",
            hovertext=hover, **at(place),
        )  # fmt: skip
    right = drawn.layout[f"xaxis{at(place)['xaxis'][1:]}"].domain[1]
    for number, row in enumerate(rows):
        mean, low, high = row.interval.shown
        words = f"{mean} {small(f'({low} to {high})', 10)}"
        note(drawn, words, right, number, yref=at(place)["yaxis"], xshift=8)
    first, last = (unit * end for end in panel.ends)
    axes(
        drawn,
        place,
        x={
            "title": panel.x_label,
            "range": [first - 0.02 * (last - first), last + 0.02 * (last - first)],
            "tickmode": "auto",
            "nticks": 6,
        },
    )


def _interval(interval: Interval) -> list[str]:
    seeds = f"{interval.n_seeds} seed{'s' * (interval.n_seeds != 1)}"
    return [f"{interval}, 95 % interval", f"{seeds}, {interval.n_answers:,} answers"]


def _value(value: float, like: Interval) -> str:
    alone = Interval(value, value, value, 1, 1, share=like.share)
    return f"{alone.shown[0]}{' %' * like.share}"


@dataclass(frozen=True)
class Stem:
    """How well one direction of a ranked list separates.

    Attributes:
        name: Of the direction.
        separation: AUROC of the better end, 0.5 to 1.
        random: The same of the best of the random directions at its hook point.
        hit: Whether it found the concept.
        facts: What else hovering says.
    """

    name: str
    separation: float
    random: float
    hit: bool
    facts: Sequence[str] = ()


def plot_ranked(lists: Mapping[str, Sequence[Stem]], title: str | None = None, caption: str = "") -> Figure:
    """Draw how well the directions of every list separate, in ranked order, beside the best random one.

    Args:
        lists: By name, a panel for each.
        title: Above the figure.
        caption: Below it, besides what the marks mean.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.

    Example:
        >>> drawn = plot_ranked({"pca": [Stem("L1.pc0", 0.95, 0.7, hit=True)]})
        >>> drawn.data[2].hovertext[0]
        '<b>L1.pc0</b><br>place 0 of "pca"<br>separation 0.95, of the best random direction 0.70'
    """
    marks = "Filled: hit; open: none; grey: the best of the random directions at the same hook point."
    drawn = figure(
        [620],
        [70] * len(lists),
        title=title,
        caption=f"{marks}\n{caption}".strip(),
        headings=list(lists),
        left=66,
        between=(0, 34),
    )
    longest = max(map(len, lists.values()))
    for place, (name, stems) in enumerate(lists.items()):
        _stems(drawn, place, name, stems)
        last = place == len(lists) - 1
        axes(
            drawn,
            place,
            x={
                "range": [-0.8, longest - 0.2],
                "showticklabels": last,
                "showgrid": False,
                "nticks": 12,
                **({"matches": "x"} if place else {}),
                **({"title": "place in the list, read across the hook points"} if last else {}),
            },
            y={
                "range": [0.5, 1.04],
                "tickmode": "array",
                "tickvals": [0.5, 0.75, 1],
                **({"matches": "y"} if place else {}),
            },
        )
    note(
        drawn,
        "separation (AUROC of the better end)" if len(lists) > 2 else "separation, AUROC",
        0,
        0.5,
        xshift=-46,
        xanchor="center",
        yanchor="middle",
        textangle=-90,
    )
    return drawn


def _stems(drawn: Figure, place: int, name: str, stems: Sequence[Stem]) -> None:
    """One list: a stem a direction, hits filled and the first of them named."""
    drawn.add_bar(
        x=list(range(len(stems))),
        y=[stem.random - 0.5 for stem in stems],
        base=0.5,
        width=0.8,
        marker={"color": FAINT, "line": {"width": 0}},
        hoverinfo="skip",
        **at(place),
    )
    for hit, colour in ((False, BLUE), (True, VERMILION)):
        there = [number for number, stem in enumerate(stems) if stem.hit == hit]
        heights = [stems[number].separation for number in there]
        hover = [
            said(
                stems[number].name,
                f'place {number} of "{name}"',
                f"separation {stems[number].separation:.2f}, of the best random direction {stems[number].random:.2f}",
                *stems[number].facts,
            )
            for number in there
        ]
        drawn.add_scatter(
            x=there,
            y=heights,
            mode="markers",
            marker=marker(0, 6.5, hit, (colour, "circle")),
            hoverinfo="text",
            hovertext=hover,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [0] * len(there),
                "arrayminus": [height - 0.5 for height in heights],
                "color": colour,
                "thickness": 1,
                "width": 0,
            },
            cliponaxis=False,
            **at(place),
        )
    first = next((stem for stem in stems if stem.hit), None)
    words = "no hit" if first is None else f"first hit: {first.name}"
    top = drawn.layout[f"yaxis{at(place)['yaxis'][1:]}"].domain[1]
    note(
        drawn,
        literal(words),
        1,
        top,
        xanchor="right",
        yanchor="bottom",
        yshift=3,
        font={"size": 11, "color": LINE if first is None else QUIET},
    )
