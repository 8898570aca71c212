"""The figures of contests and sweeps, of rows: the front, paired differences, curves along an axis, paths."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy.special import logit

from caft_lens._support.errors import BadArgument
from caft_lens._support.intervals import Interval, percent
from caft_lens.display import points, theme
from caft_lens.display.theme import (
    DASHES,
    LINE,
    LOOKS,
    PAPER,
    QUIET,
    TICK,
    VERMILION,
    at,
    axes,
    faded,
    literal,
    said,
    text_width,
)
from caft_lens.evaluate.plots import counted, spans
from caft_lens.evaluate.prompts import IN_DISTRIBUTION
from caft_lens.experiments.comparisons import ALPHA, Comparison
from caft_lens.experiments.rows import ArmRow, Measures, SweepRow, Value, shown

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999)
"""Shares at about the same distance in log-odds."""
SWEEP = (330, 250)
"""Pixels of a panel of a sweep."""


def _intervals(*named: tuple[str, Interval]) -> list[str]:
    """What hovering says of intervals, and how many seeds and answers are behind them."""
    return [*(f"{name}: {one}, 95 % interval" for name, one in named), counted(named[0][1])]


def _axes_of(measures: Measures) -> tuple[str, str]:
    """What is across, and what is up, without their unit, which is %."""
    return f"{measures.label} answers, out of distribution", f"{measures.trained} answers, in distribution"


# -- a contest --------------------------------------------------------------------------------------------------------


def plot_front(rows: Sequence[ArmRow], measures: Measures) -> Figure:
    """Every arm: its effect across, the trained behaviour up, both with intervals; the front is joined.

    Both axes are in log-odds, where 0.2 and 2 % are as far apart as 2 and 17 %.
    """
    marks = (
        "Filled: on the Pareto front (better is up and to the left); bars: 95 % intervals. Axes in log-odds; 0 and "
        "100 % stand half an answer away."
    )
    wide, high = 660, 430
    drawn = theme.figure([wide], [high], caption=f"{marks}\n{measures.caption}", left=66, below=52)
    x_label, y_label = _axes_of(measures)
    places = {row.arm: (_log_odds(row.effect), _log_odds(row.in_distribution)) for row in rows}
    ends = [_padded([value for place in places.values() for value in place[axis]]) for axis in (0, 1)]
    for on, colour, symbol in ((False, LINE, "square"), (True, VERMILION, "circle")):
        there = [row for row in rows if row.on_front == on]
        across, up = ([places[row.arm][axis] for row in there] for axis in (0, 1))
        points.points(
            drawn,
            0,
            [mean for mean, *_ in across],
            [mean for mean, *_ in up],
            [_standing(row, x_label, y_label) for row in there],
            theme.marker(0, 10, on, (colour, symbol)),
            ends={"x": [(low, high) for _, low, high in across], "y": [(low, high) for _, low, high in up]},
            thick=1.5,
        )
    means = {arm: (x, y) for arm, ((x, *_), (y, *_)) in places.items()}
    front = {row.arm for row in rows if row.on_front}
    along = sorted(means[arm] for arm in front)
    joined = {"color": VERMILION, "width": 1.2, "dash": "dash"}
    x, y = ([point[axis] for point in along] for axis in (0, 1))
    drawn.add_scatter(x=x, y=y, mode="lines", line=joined, hoverinfo="skip", **at(0))
    x_ends, y_ends = ends[0] if measures.sign > 0 else ends[0][::-1], ends[1]
    _name(drawn, means, [x_ends, y_ends], (wide, high), strong=front)
    x_axis = {"title": f"{x_label}, %", "range": x_ends, **_percents(ends[0])}
    axes(drawn, 0, x_axis, {"title": f"{y_label}, %", "range": y_ends, **_percents(ends[1])})
    return drawn


def _standing(row: ArmRow, x_label: str, y_label: str) -> str:
    stable = "" if row.stability is None else f", in {percent(row.stability)} % of resamples"
    return said(
        row.arm,
        *_intervals((x_label, row.effect), (y_label, row.in_distribution)),
        f"{'on' if row.on_front else 'not on'} the Pareto front{stable}",
        row.setting,
        row.example,
    )


def _log_odds(interval: Interval) -> tuple[float, float, float]:
    """Mean and ends of a share on that scale; what is 0 or 1 stands half an answer away from it."""
    least = 0.5 / max(1, interval.n_answers)
    mean, low, high = (
        float(logit(min(max(share, least), 1 - least))) for share in (interval.mean, interval.low, interval.high)
    )
    return mean, low, high


def _padded(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    # No less than a few ticks.
    more = max(0.05 * (high - low), (3 - (high - low)) / 2)
    return [low - more, high + more]


def _percents(ends: Sequence[float]) -> dict[str, Any]:
    shares = [share for share in TICKS if ends[0] <= logit(share) <= ends[1]]
    return {
        "tickmode": "array",
        "tickvals": [float(logit(share)) for share in shares],
        "ticktext": [f"{100 * share:.3g}" for share in shares],
    }


def _name(
    drawn: Figure,
    places: Mapping[str, tuple[float, ...]],
    ends: Sequence[Sequence[float]],
    size: tuple[float, float],
    names: Mapping[str, str] | None = None,
    strong: Collection[str] = (),
) -> None:
    """Write names beside points, apart from each other, with a line to the point."""
    (left, right), (bottom, top) = ends
    spots = {
        key: (size[0] * (x - left) / (right - left), size[1] * (1 - (y - bottom) / (top - bottom)))
        for key, (x, y) in places.items()
    }
    words = {key: (names or {}).get(key, key) for key in places}
    arrow: dict[str, Any] = {"showarrow": True, "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": LINE, "standoff": 6}
    style: dict[str, Any] = {
        "font": {"size": TICK},
        "bgcolor": faded(PAPER, 0.75),
        "borderpad": 0,
        "xref": "x",
        "yref": "y",
    }
    for key, (ax, ay) in _spread(spots, words, size).items():
        text = theme.bold(words[key]) if key in strong else literal(words[key])
        side: dict[str, Any] = {"ax": ax, "ay": ay, "xanchor": "left" if ax > 0 else "right"}
        x, y = places[key]
        theme.note(drawn, text, x, y, **arrow, **style, **side)


def _spread(
    spots: Mapping[str, tuple[float, float]], names: Mapping[str, str], size: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    """Pixels from points to their names, to the right and down, so that no name lies on another or on a point."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots.values()]
    found: dict[str, tuple[float, float]] = {}
    for name, (x, y) in sorted(spots.items(), key=lambda item: item[1][1]):
        wide = text_width(names[name], TICK)
        steps = [(right, down) for down in sorted(range(-160, 161, 8), key=abs) for right in (14, -14)]
        free = (step for step in steps if _is_free(_box(x, y, wide, step), taken, size))
        found[name] = next(free, (14, 0))
        taken.append(_box(x, y, wide, found[name]))
    return found


def _box(x: float, y: float, wide: float, step: tuple[float, float]) -> tuple[float, float, float, float]:
    """Where a name stands that is so many pixels beside a point: left, top, right, bottom."""
    left, middle = x + step[0] - (wide if step[0] < 0 else 0), y + step[1]
    return left, middle - TICK * 0.7, left + wide, middle + TICK * 0.7


def _is_free(
    box: tuple[float, float, float, float], taken: Sequence[tuple[float, ...]], size: tuple[float, float]
) -> bool:
    left, top, right, bottom = box
    if left < 0 or right > size[0] + 20 or top < 0 or bottom > size[1]:
        return False
    return not any(left < other[2] and right > other[0] and top < other[3] and bottom > other[1] for other in taken)


def plot_compared(
    effects: Sequence[Comparison],
    costs: Sequence[Comparison],
    measures: Measures,
    settings: Mapping[str, str] | None = None,
) -> Figure:
    """The paired difference of every arm to one, in both metrics; the arms in the same order."""
    names, against = [one.arm for one in effects], effects[0].against
    columns = {f"{measures.label.capitalize()} answers": effects, "Trained behaviour": costs}
    marks = f"Paired by seed and prompt; filled: p < {ALPHA:g} after Holm's correction over {len(names)} comparisons."
    drawn = theme.figure(
        [310] * len(columns),
        [max(60, 30 * len(names))],
        headings=list(columns),
        caption=f"{marks}\n{measures.caption}",
        left=theme.room_for(names),
        right=64,
        between=(84, 0),
    )
    for place, (heading, compared) in enumerate(columns.items()):
        for apart in (True, False):
            found = {row: one for row, one in enumerate(compared) if one.is_significant == apart}
            x, ends = spans(one.difference for one in found.values())
            hover = [
                said(
                    f"{one.arm} minus {against}",
                    *_intervals((heading, one.difference)),
                    f"p {one.p_holm:.3f} after Holm's correction; Cohen's h {one.h:+.2f}",
                    (settings or {}).get(one.arm, ""),
                )
                for one in found.values()
            ]
            points.points(drawn, place, x, list(found), hover, theme.marker(place, 9, apart), ends={"x": ends}, thick=6)
        points.upright(drawn, place, 0, color=LINE, width=1.2)
        for row, one in enumerate(compared):
            points.beside(drawn, place, row, percent(one.difference.mean))
        axes(drawn, place, x={"title": f"minus {against}, points"})
        points.rows(drawn, place, names)
    return drawn


# -- a sweep ----------------------------------------------------------------------------------------------------------


def plot_sweep(
    rows: Sequence[SweepRow], axis: str, metrics: Sequence[str], measures: Measures, *, log: bool = False
) -> Figure:
    """Curves along an axis with intervals, a panel a metric; references as bands.

    Raises:
        BadArgument: For a logarithmic axis of words, or with a value that is not above 0.
    """
    ticks, series, references = _sorted(rows)
    words = any(isinstance(value, str) for value in ticks.values())
    if log and any(isinstance(value, str) or value <= 0 for value in ticks.values()):
        raise BadArgument(f'log=True needs numbers above 0 along "{axis}".')
    panels = {
        metric: "trained behaviour, in distribution"
        if metric == IN_DISTRIBUTION
        else f"{metric} answers, out of distribution"
        for metric in metrics
    }
    bands = f"; bands: {', '.join(row.arm for row in references)}" if references else ""
    beside = max((text_width(row.arm, TICK) for row in references), default=0)
    drawn = theme.figure(
        [SWEEP[0]] * len(panels),
        [SWEEP[1]],
        headings=[f"{what[:1].upper()}{what[1:]}, %" for what in panels.values()],
        left=52,
        right=beside + 12 + theme.room_for_key(series),
        between=(beside + 60, 0),
        caption=f"Points: means; bars: intervals{bands}.\n{measures.caption}",
    )
    for place, (metric, what) in enumerate(panels.items()):
        _bands(drawn, place, references, metric)
        for number, along in enumerate(series.values()):
            shift = number - (len(series) - 1) / 2
            x = [_beside(row.place or 0.0, shift, list(ticks), log) for row in along]
            _curve(drawn, place, number, along, (metric, what, axis), x, joined=not words)
        shares = [100 * end for row in rows for end in (row.intervals[metric].low, row.intervals[metric].high)]
        low, high = min(shares, default=0), max(shares, default=100)
        room = 0.06 * (high - low) or 1
        x_axis: dict[str, Any] = {"title": axis, "type": "log" if log else "linear", "tickangle": 0}
        x_axis |= {"range": _along(list(ticks), log), "tickmode": "array", "tickvals": list(ticks)}
        x_axis["ticktext"] = _apart(ticks, log)
        axes(drawn, place, x_axis, {"range": [max(low - room, -2), min(high + room, 102)]})
        _named(drawn, place, {row.arm: 100 * row.intervals[metric].mean for row in references})
    inner = drawn.layout.width - drawn.layout.margin.l - drawn.layout.margin.r
    return drawn.update_layout(showlegend=len(series) > 1, legend_x=1 + (beside + 14) / inner)


def _sorted(rows: Sequence[SweepRow]) -> tuple[dict[float, Value], dict[str, list[SweepRow]], list[SweepRow]]:
    """Every place in order to its value, the rows of each series in that order, and the references."""
    along = sorted((row for row in rows if row.place is not None), key=lambda row: row.place or 0.0)
    names = dict.fromkeys(row.series for row in rows if row.value is not None)
    series = {name: [row for row in along if row.series == name] for name in names}
    ticks = {row.place: row.value for row in along if row.value is not None and row.place is not None}
    return ticks, series, [row for row in rows if row.value is None]


def _beside(value: float, shift: float, places: Sequence[float], log: bool) -> float:
    """A place a little apart, so that no curve's interval hides another's."""
    low, high = (math.log10(end) if log else end for end in (min(places), max(places)))
    step = 0.014 * shift * (high - low or 1)
    return 10 ** (math.log10(value) + step) if log else value + step


def _along(places: Sequence[float], log: bool) -> list[float]:
    low, high = (math.log10(end) if log else end for end in (min(places), max(places)))
    room = 0.07 * (high - low) or 0.5
    return [low - room, high + room]


def _apart(ticks: Mapping[float, Value], log: bool) -> list[str]:
    """What is written at places, nothing where it would stand on the one before."""
    low, high = _along(list(ticks), log)
    found, free = [], -math.inf
    for place, value in ticks.items():
        words = shown(value)
        middle = SWEEP[0] * ((math.log10(place) if log else place) - low) / (high - low)
        half = text_width(words, TICK) / 2
        found.append(words if middle - half >= free else "")
        free = middle + half + 3 if found[-1] else free
    return found


def _curve(
    drawn: Figure,
    place: int,
    number: int,
    rows: Sequence[SweepRow],
    words: tuple[str, str, str],
    x: Sequence[float],
    *,
    joined: bool,
) -> None:
    """One series, its points joined where the axis is of numbers."""
    metric, what, axis = words
    found = [row.intervals[metric] for row in rows]
    y, ends = spans(found)
    colour, name = LOOKS[number % len(LOOKS)][0], literal(rows[0].series)
    hover = [
        said(_point(row, axis), *_intervals((what, one)), row.example) for row, one in zip(rows, found, strict=True)
    ]
    points.points(
        drawn,
        place,
        x,
        y,
        hover,
        theme.marker(number, 8.5),
        ends={"y": ends},
        thick=4,
        mode="lines+markers" if joined else "markers",
        name=name,
        legendgroup=name,
        showlegend=place == 0,
        line={"color": colour, "width": 1.6, "dash": DASHES[number % len(DASHES)]},
    )


def _point(row: SweepRow, axis: str) -> str:
    return row.arm if row.value is None else f"{row.series}, {axis} {shown(row.value)}"


def _bands(drawn: Figure, place: int, references: Sequence[SweepRow], metric: str) -> None:
    names = at(place)
    spot = {"xref": f"{names['xaxis']} domain", "yref": names["yaxis"], "x0": 0, "x1": 1, "layer": "below"}
    for one in references:
        share = one.intervals[metric]
        drawn.add_shape(
            type="rect", y0=100 * share.low, y1=100 * share.high, fillcolor=faded(LINE, 0.18), line={"width": 0}, **spot
        )
        drawn.add_shape(
            type="line", y0=100 * share.mean, y1=100 * share.mean, line={"color": LINE, "width": 1.2}, **spot
        )


def _named(drawn: Figure, place: int, named: Mapping[str, float]) -> None:
    """Names of bands right of the panel at their heights, moved up where they would stand on each other."""
    low, high = drawn.layout[f"yaxis{at(place)['yaxis'][1:]}"].range
    taken = -math.inf
    for name, height in sorted(named.items(), key=lambda item: item[1]):
        taken = max(height, taken + (high - low) * 13 / SWEEP[1])
        points.beside(drawn, place, taken, literal(name), xshift=6, font={"size": TICK, "color": QUIET})


def plot_path(rows: Sequence[SweepRow], axis: str, measures: Measures) -> Figure:
    """Every series as a path: its effect across, the trained behaviour up, the values of the axis beside the points."""
    _, series, references = _sorted(rows)
    labels, metrics, size = _axes_of(measures), (measures.label, IN_DISTRIBUTION), (520, 380)
    drawn = theme.figure(
        [size[0]],
        [size[1]],
        left=64,
        caption=f"Numbers: {axis}; bars: 95 % intervals.\n{measures.caption}",
        right=theme.room_for_key(series) if len(series) > 1 else 30,
    )
    paths = [(of, LOOKS[place % len(LOOKS)], DASHES[place % len(DASHES)]) for place, of in enumerate(series.values())]
    paths += [([row], (QUIET, "diamond"), "solid") for row in references]
    for of, look, dash in paths:
        across, up = ([row.intervals[metric] for row in of] for metric in metrics)
        (x, x_ends), (y, y_ends) = spans(across), spans(up)
        is_reference = of[0].value is None
        points.points(
            drawn,
            0,
            x,
            y,
            [
                said(_point(row, axis), *_intervals(*zip(labels, both, strict=True)), row.example)
                for row, *both in zip(of, across, up, strict=True)
            ],
            theme.marker(0, 9, look=look),
            ends={"x": x_ends, "y": y_ends},
            thick=1.6,
            mode="markers" if is_reference else "lines+markers",
            name=literal(of[0].series),
            showlegend=not is_reference,
            line={"color": look[0], "width": 1.6, "dash": dash},
        )
    every = [spans(row.intervals[metric] for row in rows) for metric in metrics]
    ends = [_padded([end for both in one for end in both]) for _, one in every]
    places = {row.arm: both for row, both in zip(rows, zip(*(means for means, _ in every), strict=True), strict=True)}
    names = {row.arm: row.arm if row.value is None else shown(row.value) for row in rows}
    _name(drawn, places, ends, size, names)
    x_axis, y_axis = ({"title": f"{label}, %", "range": end} for label, end in zip(labels, ends, strict=True))
    axes(drawn, 0, x_axis, y_axis)
    return drawn.update_layout(showlegend=len(series) > 1)
