"""The figures of contests and sweeps: the front, paired differences, curves along an axis, paths of effect and cost.

They take rows, and know neither a result nor a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy.special import logit

from caft_lens._support.errors import BadArgument
from caft_lens._support.intervals import Interval, percent
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
    bars,
    bold,
    faded,
    figure,
    literal,
    marker,
    note,
    room_for,
    room_for_key,
    said,
    text_width,
)
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
    first = named[0][1]
    seeds = f"{first.n_seeds} seed{'s' * (first.n_seeds != 1)}, {first.n_answers:,} answers"
    return [*(f"{name}: {one}, 95 % interval" for name, one in named), seeds]


def _axes_of(measures: Measures) -> tuple[str, str]:
    """What is across, and what is up, without their unit, which is %."""
    return f"{measures.label} answers, out of distribution", f"{measures.trained} answers, in distribution"


# -- a contest --------------------------------------------------------------------------------------------------------


def plot_front(rows: Sequence[ArmRow], measures: Measures) -> Figure:
    """Every arm: its effect across, the trained behaviour up, both with intervals; the front is joined.

    Both axes are in log-odds, where 0.2 and 2 % are as far apart as 2 and 17 %.

    Args:
        rows: The arms.
        measures: What the axes are.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.
    """
    marks = (
        "Filled: on the Pareto front (better is up and to the left); bars: 95 % intervals. Axes in log-odds; 0 and "
        "100 % stand half an answer away."
    )
    wide, high = 660, 430
    drawn = figure([wide], [high], caption=f"{marks}\n{measures.caption}", left=66, below=52)
    x_label, y_label = _axes_of(measures)
    fewest = measures.sign > 0
    places = {row.arm: (_log_odds(row.effect), _log_odds(row.in_distribution)) for row in rows}
    ends = [_padded([value for place in places.values() for value in place[axis]]) for axis in (0, 1)]
    for on, colour, symbol in ((False, LINE, "square"), (True, VERMILION, "circle")):
        there = [row for row in rows if row.on_front == on]
        across, up = ([places[row.arm][axis] for row in there] for axis in (0, 1))
        x, y = [mean for mean, *_ in across], [mean for mean, *_ in up]
        drawn.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker=marker(0, 10, on, (colour, symbol)),
            hoverinfo="text",
            error_x=bars(x, [of[1:] for of in across], colour, 1.5),
            error_y=bars(y, [of[1:] for of in up], colour, 1.5),
            hovertext=[_standing(row, x_label, y_label) for row in there],
            **at(0),
        )
    front = sorted((places[row.arm][0][0], places[row.arm][1][0]) for row in rows if row.on_front)
    drawn.add_scatter(
        x=[x for x, _ in front],
        y=[y for _, y in front],
        mode="lines",
        line={"color": VERMILION, "width": 1.2, "dash": "dash"},
        hoverinfo="skip",
        **at(0),
    )

    means = {arm: (x, y) for arm, ((x, *_), (y, *_)) in places.items()}
    _name(
        drawn,
        means,
        ends if fewest else [ends[0][::-1], ends[1]],
        (wide, high),
        strong={row.arm for row in rows if row.on_front},
    )
    axes(
        drawn, 0, x={"title": f"{x_label}, %", "range": ends[0] if fewest else ends[0][::-1], **_percents(ends[0])},
        y={"title": f"{y_label}, %", "range": ends[1], **_percents(ends[1])},
    )  # fmt: skip
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
    drawn: Figure, places: Mapping[str, tuple[float, ...]], ends: Sequence[Sequence[float]], size: tuple[float, float],
    names: Mapping[str, str] | None = None, strong: Collection[str] = (),
) -> None:  # fmt: skip
    """Write names beside points, apart from each other, with a line to the point."""
    spots = {
        key: (
            size[0] * (x - ends[0][0]) / (ends[0][1] - ends[0][0]),
            size[1] * (1 - (y - ends[1][0]) / (ends[1][1] - ends[1][0])),
        )
        for key, (x, y) in places.items()
    }
    said = {key: (names or {}).get(key, key) for key in places}
    for key, (right, down) in _spread(spots, said, size).items():
        words = bold(said[key]) if key in strong else literal(said[key])
        note(
            drawn,
            words,
            *places[key],
            xref="x",
            yref="y",
            showarrow=True,
            ax=right,
            ay=down,
            arrowhead=0,
            arrowwidth=0.8,
            arrowcolor=LINE,
            standoff=6,
            xanchor="left" if right > 0 else "right",
            font={"size": TICK},
            bgcolor=faded(PAPER, 0.75),
            borderpad=0,
        )


def _spread(
    spots: Mapping[str, tuple[float, float]], names: Mapping[str, str], size: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    """Where names stand beside their points, pixels to the right and down, so that none hides another or a point."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots.values()]
    found: dict[str, tuple[float, float]] = {}
    for name, (x, y) in sorted(spots.items(), key=lambda item: item[1][1]):
        room, half = text_width(names[name], TICK), TICK * 0.7
        steps = sorted(range(-160, 161, 8), key=abs)
        free = [
            (right, down)
            for down in steps
            for right in (14, -14)
            if _is_free(
                (
                    x + right - (room if right < 0 else 0),
                    y + down - half,
                    x + right + (room if right > 0 else 0),
                    y + down + half,
                ),
                taken,
                size,
            )
        ]
        right, down = free[0] if free else (14, 0)
        left = x + right - (room if right < 0 else 0)
        taken.append((left, y + down - half, left + room, y + down + half))
        found[name] = (right, down)
    return found


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
    """The paired difference of every arm to one, in both metrics.

    Args:
        effects: Of the answers that the task is about.
        costs: Of the trained behaviour, of the same arms in the same order.
        measures: What the metrics are.
        settings: What else hovering says of an arm, by its name.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.
    """
    names, against = [one.arm for one in effects], effects[0].against
    columns = {f"{measures.label.capitalize()} answers": effects, "Trained behaviour": costs}
    marks = f"Paired by seed and prompt; filled: p < {ALPHA:g} after Holm's correction over {len(names)} comparisons."
    drawn = figure(
        [310] * len(columns),
        [max(60, 30 * len(names))],
        headings=list(columns),
        caption=f"{marks}\n{measures.caption}",
        left=room_for(names),
        right=64,
        between=(84, 0),
    )
    for place, (heading, compared) in enumerate(columns.items()):
        for apart in (True, False):
            rows = [row for row, one in enumerate(compared) if one.is_significant == apart]
            found = [compared[row] for row in rows]
            x = [100 * one.difference.mean for one in found]
            ends = [(100 * one.difference.low, 100 * one.difference.high) for one in found]
            hover = [
                said(
                    f"{one.arm} minus {against}",
                    *_intervals((heading, one.difference)),
                    f"p {one.p_holm:.3f} after Holm's correction; Cohen's h {one.h:+.2f}",
                    (settings or {}).get(one.arm, ""),
                )
                for one in found
            ]
            drawn.add_scatter(
                x=x,
                y=rows,
                mode="markers",
                marker=marker(place, 9, apart),
                error_x=bars(x, ends, LOOKS[place][0], 6),
                hoverinfo="text",
                hovertext=hover,
                **at(place),
            )
        names_of = at(place)
        drawn.add_shape(
            type="line",
            x0=0,
            x1=0,
            y0=0,
            y1=1,
            xref=names_of["xaxis"],
            yref="paper",
            layer="below",
            line={"color": LINE, "width": 1.2},
        )
        right = drawn.layout[f"xaxis{names_of['xaxis'][1:]}"].domain[1]
        for row, one in enumerate(compared):
            note(drawn, percent(one.difference.mean), right, row, yref=names_of["yaxis"], xshift=8)
        axes(
            drawn,
            place,
            x={"title": f"minus {against}, points"},
            y={
                "range": [len(names) - 0.5, -0.5],
                "tickmode": "array",
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "showticklabels": place == 0,
                **({"matches": "y"} if place else {}),
            },
        )
    return drawn


# -- a sweep ----------------------------------------------------------------------------------------------------------


def plot_sweep(
    rows: Sequence[SweepRow], axis: str, metrics: Sequence[str], measures: Measures, *, log: bool = False
) -> Figure:
    """Curves along an axis with intervals, a panel a metric; references as bands.

    Args:
        rows: The arms of all series, and the references.
        axis: What the values are.
        metrics: Which shares.
        measures: What the metrics are.
        log: Whether the axis is logarithmic.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.

    Raises:
        ValueError: For a logarithmic axis of words, or with a value that is not above 0.
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
    drawn = figure(
        [SWEEP[0]] * len(panels),
        [SWEEP[1]],
        headings=[f"{what[:1].upper()}{what[1:]}, %" for what in panels.values()],
        left=52,
        right=beside + 12 + room_for_key(series),
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
        axes(
            drawn,
            place,
            y={"range": [max(low - room, -2), min(high + room, 102)]},
            x={
                "title": axis,
                "type": "log" if log else "linear",
                "range": _along(list(ticks), log),
                "tickmode": "array",
                "tickvals": list(ticks),
                "ticktext": _apart(ticks, log),
                "tickangle": 0,
            },
        )
        _named(drawn, place, {row.arm: 100 * row.intervals[metric].mean for row in references})
    inner = drawn.layout.width - drawn.layout.margin.l - drawn.layout.margin.r
    return drawn.update_layout(showlegend=len(series) > 1, legend_x=1 + (beside + 14) / inner)


def _sorted(
    rows: Sequence[SweepRow],
) -> tuple[dict[float, Value], dict[str, list[SweepRow]], list[SweepRow]]:
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
    y = [100 * one.mean for one in found]
    colour, name = LOOKS[number % len(LOOKS)][0], literal(rows[0].series)
    drawn.add_scatter(
        x=list(x),
        y=y,
        mode="lines+markers" if joined else "markers",
        name=name,
        legendgroup=name,
        showlegend=place == 0,
        line={"color": colour, "width": 1.6, "dash": DASHES[number % len(DASHES)]},
        marker=marker(number, 8.5),
        error_y=bars(y, [(100 * one.low, 100 * one.high) for one in found], colour, 4),
        hoverinfo="text",
        hovertext=[
            said(_point(row, axis), *_intervals((what, one)), row.example) for row, one in zip(rows, found, strict=True)
        ],
        **at(place),
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
    right, taken = drawn.layout[f"xaxis{at(place)['xaxis'][1:]}"].domain[1], -math.inf
    for name, height in sorted(named.items(), key=lambda item: item[1]):
        taken = max(height, taken + (high - low) * 13 / SWEEP[1])
        note(drawn, literal(name), right, taken, yref=at(place)["yaxis"], xshift=6, font={"size": TICK, "color": QUIET})


def plot_path(rows: Sequence[SweepRow], axis: str, measures: Measures) -> Figure:
    """Every series as a path: its effect across, the trained behaviour up, both with intervals, the values beside the
    points.

    Args:
        rows: The arms of all series, and the references.
        axis: What the values are.
        measures: What the axes are.

    Returns:
        A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.
    """
    _, series, references = _sorted(rows)
    labels, metrics, size = _axes_of(measures), (measures.label, IN_DISTRIBUTION), (520, 380)
    drawn = figure(
        [size[0]], [size[1]], left=64, caption=f"Numbers: {axis}; bars: 95 % intervals.\n{measures.caption}",
        right=room_for_key(series) if len(series) > 1 else 30,
    )  # fmt: skip
    paths = [(of, LOOKS[place % len(LOOKS)], DASHES[place % len(DASHES)]) for place, of in enumerate(series.values())]
    paths += [([row], (QUIET, "diamond"), "solid") for row in references]
    for of, look, dash in paths:
        across, up = ([row.intervals[metric] for row in of] for metric in metrics)
        x, y = ([100 * one.mean for one in some] for some in (across, up))
        reference = of[0].value is None
        drawn.add_scatter(
            x=x,
            y=y,
            mode="markers" if reference else "lines+markers",
            name=literal(of[0].series),
            showlegend=not reference,
            marker=marker(0, 9, look=look),
            line={"color": look[0], "width": 1.6, "dash": dash},
            hoverinfo="text",
            hovertext=[
                said(_point(row, axis), *_intervals(*zip(labels, both, strict=True)), row.example)
                for row, *both in zip(of, across, up, strict=True)
            ],
            error_x=bars(x, [(100 * one.low, 100 * one.high) for one in across], look[0], 1.6),
            error_y=bars(y, [(100 * one.low, 100 * one.high) for one in up], look[0], 1.6),
            **at(0),
        )
    shares = [[100 * end for row in rows for end in (row.intervals[m].low, row.intervals[m].high)] for m in metrics]
    ends = [_padded(of) for of in shares]
    places = {row.arm: tuple(100 * row.intervals[metric].mean for metric in metrics) for row in rows}
    names = {row.arm: row.arm if row.value is None else shown(row.value) for row in rows}
    _name(drawn, places, ends, size, names)
    axes(
        drawn,
        0,
        x={"title": f"{labels[0]}, %", "range": ends[0]},
        y={"title": f"{labels[1]}, %", "range": ends[1]},
    )
    return drawn.update_layout(showlegend=len(series) > 1)
