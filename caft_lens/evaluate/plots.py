"""The figures of evaluations, of rows: shares of several arms, how well ranked directions separate, what came back.

Dots are means, bars 95 % intervals, the small open markers below them the single seeds; what differs in colour differs
in marker or filling too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caft_lens._support.intervals import Interval
from caft_lens.display import points, theme
from caft_lens.display.theme import BLUE, FAINT, INK, LINE, QUIET, VERMILION, at, axes, said, short

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LONGEST = 40
"""Letters of an arm's name beside a figure; hovering says the rest."""


def spans(intervals: Iterable[Interval], unit: float = 100) -> tuple[list[float], list[tuple[float, float]]]:
    """Means, and both ends of each, in a unit: 100 for shares in percent."""
    found = list(intervals)
    return [unit * one.mean for one in found], [(unit * one.low, unit * one.high) for one in found]


def counted(interval: Interval) -> str:
    """How many seeds and answers are behind an interval, in words."""
    return f"{interval.n_seeds} seed{'s' * (interval.n_seeds != 1)}, {interval.n_answers:,} answers"


@dataclass(frozen=True)
class Row:
    """One arm in one metric: its interval, the mean of each seed, and what else hovering says."""

    arm: str
    interval: Interval
    seeds: Mapping[int, float]
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """All arms in one metric, the same in all panels; the ends of its axis are in the unit of the intervals."""

    heading: str
    x_label: str
    rows: Sequence[Row]
    ends: tuple[float, float] = (0.0, 1.0)


def plot_shares(panels: Sequence[Panel], title: str | None = None, caption: str = "") -> Figure:
    """Draw arms in rows, a panel for each metric.

    Example:
        >>> row = Row("caft", Interval(0.05, 0.03, 0.08, n_seeds=2, n_answers=400), {1: 0.04, 2: 0.06}, ["strength 1"])
        >>> drawn = plot_shares([Panel("Misaligned answers", "misaligned answers, %", [row])])
        >>> drawn.data[0].hovertext[0]
        '<b>caft</b><br>5.0 % (3.0 to 8.0), 95 % interval<br>2 seeds, 400 answers<br>strength 1'
    """
    arms = [short(row.arm, LONGEST) for row in panels[0].rows]
    several = any(len(row.seeds) > 1 for panel in panels for row in panel.rows)
    marks = f"Filled: mean; bar: interval{'; open: single seeds' * several}."
    drawn = theme.figure(
        [290] * len(panels),
        [max(64, 34 * len(arms))],
        title=title,
        caption=f"{marks}\n{caption}",
        headings=[panel.heading for panel in panels],
        left=theme.room_for(arms),
        right=140,
        between=(156, 0),
    )
    for place, panel in enumerate(panels):
        _panel(drawn, place, panel)
        points.rows(drawn, place, arms)
    return drawn


def _panel(drawn: Figure, place: int, panel: Panel) -> None:
    rows = panel.rows
    unit = 100 if all(row.interval.share for row in rows) else 1
    x, ends = spans((row.interval for row in rows), unit)
    hover = [said(row.arm, f"{row.interval}, 95 % interval", counted(row.interval), *row.facts) for row in rows]
    name = theme.literal(panel.heading)
    points.points(drawn, place, x, range(len(rows)), hover, theme.marker(place), ends={"x": ends}, thick=7, name=name)
    single = [
        (unit * value, number + 0.28, said(f"{row.arm}, seed {seed}", _value(value, row.interval)))
        for number, row in enumerate(rows)
        if len(row.seeds) > 1
        for seed, value in row.seeds.items()
    ]
    if single:
        along, up, said_of = zip(*single, strict=True)
        points.points(drawn, place, along, up, said_of, theme.marker(place, 5, filled=False), name="single seeds")
    for number, row in enumerate(rows):
        mean, low, high = row.interval.shown
        points.beside(drawn, place, number, f"{mean} {theme.small(f'({low} to {high})', 10)}")
    first, last = (unit * end for end in panel.ends)
    room = 0.02 * (last - first)
    axes(
        drawn, place, x={"title": panel.x_label, "range": [first - room, last + room], "tickmode": "auto", "nticks": 6}
    )


def _value(value: float, like: Interval) -> str:
    alone = Interval(value, value, value, 1, 1, share=like.share)
    return f"{alone.shown[0]}{' %' * like.share}"


@dataclass(frozen=True)
class Stem:
    """How well one direction of a ranked list separates (AUROC of the better end), and the best random one there."""

    name: str
    separation: float
    random: float
    hit: bool
    facts: Sequence[str] = ()


def plot_ranked(lists: Mapping[str, Sequence[Stem]], title: str | None = None, caption: str = "") -> Figure:
    """Draw how well the directions of every list separate, in ranked order, beside the best random one.

    Example:
        >>> drawn = plot_ranked({"pca": [Stem("L1.pc0", 0.95, 0.7, hit=True)]})
        >>> drawn.data[2].hovertext[0]
        '<b>L1.pc0</b><br>place 0 of "pca"<br>separation 0.95, of the best random direction 0.70'
    """
    marks = "Filled: hit; open: none; grey: the best of the random directions at the same hook point."
    drawn = theme.figure(
        [620],
        [70] * len(lists),
        title=title,
        caption=f"{marks}\n{caption}".strip(),
        headings=list(lists),
        left=66,
        between=(0, 34),
    )
    longest = max(map(len, lists.values()))
    x = {"range": [-0.8, longest - 0.2], "showgrid": False, "nticks": 12}
    y = {"range": [0.5, 1.04], "tickmode": "array", "tickvals": [0.5, 0.75, 1]}
    for place, (name, stems) in enumerate(lists.items()):
        _stems(drawn, place, name, stems)
        last = place == len(lists) - 1
        title_of = {"title": "place in the list, read across the hook points"} if last else {}
        shared = [{"matches": axis} if place else {} for axis in "xy"]
        axes(drawn, place, {**x, "showticklabels": last, **shared[0], **title_of}, {**y, **shared[1]})
    words = "separation (AUROC of the better end)" if len(lists) > 2 else "separation, AUROC"
    theme.note(drawn, words, 0, 0.5, xshift=-46, xanchor="center", yanchor="middle", textangle=-90)
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
        there = {number: stem for number, stem in enumerate(stems) if stem.hit == hit}
        heights = [stem.separation for stem in there.values()]
        hover = [
            said(
                stem.name,
                f'place {number} of "{name}"',
                f"separation {stem.separation:.2f}, of the best random direction {stem.random:.2f}",
                *stem.facts,
            )
            for number, stem in there.items()
        ]
        down = {"type": "data", "symmetric": False, "color": colour, "thickness": 1, "width": 0}
        down |= {"array": [0] * len(there), "arrayminus": [height - 0.5 for height in heights]}
        marked = theme.marker(0, 6.5, hit, (colour, "circle"))
        points.points(drawn, place, list(there), heights, hover, marked, error_y=down, cliponaxis=False)
    first = next((stem for stem in stems if stem.hit), None)
    words = "no hit" if first is None else f"first hit: {first.name}"
    top = drawn.layout[f"yaxis{at(place)['yaxis'][1:]}"].domain[1]
    font = {"size": 11, "color": LINE if first is None else QUIET}
    theme.note(drawn, theme.literal(words), 1, top, xanchor="right", yanchor="bottom", yshift=3, font=font)


# Of probes: label, colour, marker and filling, so that the views are told apart in grey too.
VIEWS = {
    "whole": ("whole activation", INK, "diamond", True),
    "outside": ("without the ablated directions", BLUE, "square", True),
    "inside": ("ablated directions alone", VERMILION, "circle", True),
    "random": ("random directions, as many", LINE, "circle", False),
}


@dataclass(frozen=True)
class Bar:
    """Something measured of a row, beside what chance gives."""

    row: int
    value: float
    chance: float
    hover: str


def plot_recovery(
    names: Sequence[str],
    shares: Sequence[Bar],
    cosines: Sequence[Bar],
    areas: Mapping[str, Sequence[tuple[float, float]]],
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw what became of ablated directions, a row for each name; `areas` are mean AUROC and spread by view."""
    marks = (
        "Orange lines: what chance gives (of cosines, what 95 % of random directions stay below). Bars of the probes: "
        "standard deviation over folds, of random directions over draws."
    )
    drawn = theme.figure(
        [210, 210, 290],
        [max(90, 42 * len(names))],
        title=title,
        caption=f"{marks} {caption}",
        left=theme.room_for(names),
        between=(34, 0),
        headings=["Share of the change", "Ablated direction, refitted", "Telling the concept, held out"],
        right=theme.room_for_key(label for label, *_ in VIEWS.values()),
    )
    for place, measured in enumerate((shares, cosines)):
        _bars(drawn, place, measured)
    for number, (view, (label, colour, symbol, filled)) in enumerate(VIEWS.items()):
        means = [mean for mean, _ in areas[view]]
        ends = [(max(0, mean - spread), min(1, mean + spread)) for mean, spread in areas[view]]
        hover = [
            said(name, label, f"AUROC {mean:.3f}, standard deviation {spread:.3f}")
            for name, (mean, spread) in zip(names, areas[view], strict=True)
        ]
        up = [row + 0.17 * (number - 1.5) for row in range(len(names))]
        marked = theme.marker(0, 7.5, filled, (colour, symbol))
        points.points(drawn, 2, means, up, hover, marked, ends={"x": ends}, thick=3, name=theme.literal(label))
    points.upright(drawn, 2, 0.5, color=QUIET, width=1, dash="dash")
    axes(drawn, 0, x={"title": "% of its energy", "rangemode": "tozero"})
    axes(drawn, 1, x={"title": "|cosine|, nearest component", "range": [0, 1.03]})
    axes(drawn, 2, x={"title": "AUROC"})
    for place in range(3):
        points.rows(drawn, place, names, room=0.55)
    return drawn.update_layout(showlegend=True)


def _bars(drawn: Figure, panel: int, measured: Sequence[Bar]) -> None:
    if not measured:
        return
    rows = [one.row for one in measured]
    drawn.add_bar(
        x=[one.value for one in measured],
        y=rows,
        orientation="h",
        width=0.55,
        marker={"color": BLUE, "line": {"width": 0}},
        showlegend=False,
        hoverinfo="text",
        hovertext=[one.hover for one in measured],
        textposition="none",
        **at(panel),
    )
    tick = {"symbol": "line-ns", "size": 24, "line": {"color": VERMILION, "width": 2}}
    chances = [one.chance for one in measured]
    drawn.add_scatter(x=chances, y=rows, mode="markers", marker=tick, showlegend=False, hoverinfo="skip", **at(panel))
