"""The figures of a contest that an evaluation does not have, the front and paired differences; and those of a sweep.

Imported when something is drawn, since matplotlib takes a while.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation
from scipy.special import logit

from caft_lens.display.dots import LOOKS
from caft_lens.display.theme import BLUE, FAINT, INK, LINE, QUIET, VERMILION, shown_figure
from caft_lens.evaluate.statistics import Interval, percent
from caft_lens.evaluate.tasks import IN_DISTRIBUTION
from caft_lens.experiments.comparisons import ALPHA
from caft_lens.experiments.sweep import shown

if TYPE_CHECKING:
    from caft_lens.evaluate.report import Report
    from caft_lens.experiments.result import Result
    from caft_lens.experiments.sweep import Sweep


TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999)
"""Shares at about the same distance in log-odds."""


def plot_front(result: Result) -> Figure:
    """Every rated contender: its effect across, the trained behaviour up, both with intervals; the front is joined.

    Both axes are in log-odds, where 0.2 and 2 % are as far apart as 2 and 17 %.

    Args:
        result: A finished contest.

    Returns:
        A figure of its own, not pyplot's.
    """
    label = result.evaluation.labels[0]
    figure = shown_figure(figsize=(8.8, 5.8), layout="constrained")
    axes = figure.subplots()
    places = {
        point.arm: tuple(
            _log_odds(result.evaluation.interval(point.arm, metric)) for metric in (label, IN_DISTRIBUTION)
        )
        for point in result.front
    }
    for point in result.front:
        (across, *left_right), (up, *ends) = places[point.arm]
        colour = VERMILION if point.on_front else LINE
        bar: dict[str, Any] = {"color": colour, "alpha": 0.45, "linewidth": 1.2, "zorder": 2}
        axes.plot(left_right, [up, up], **bar)
        axes.plot([across, across], ends, **bar)
        axes.plot(
            across, up, "o" if point.on_front else "s", markersize=6.5, zorder=5 if point.on_front else 4,
            mfc=colour if point.on_front else "white", mec=colour, mew=1.2,
        )  # fmt: skip
    on = sorted(tuple(place[0] for place in places[point.arm]) for point in result.front if point.on_front)
    axes.plot(*zip(*on, strict=True), "--", color=VERMILION, linewidth=1, zorder=1)
    _names(axes, result, {arm: (across[0], up[0]) for arm, (across, up) in places.items()})
    axes.set_xlabel(f"{label} answers, out of distribution, %", fontsize=9, color=INK)
    axes.set_ylabel(f"{result.evaluation.trained} answers, in distribution, %", fontsize=9, color=INK)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        shown_ticks = [share for share in TICKS if low <= logit(share) <= high]
        axis.set_ticks(
            [logit(share) for share in shown_ticks], labels=[f"{100 * share:.3g}" for share in shown_ticks]
        )
    if result.sign < 0:
        axes.invert_xaxis()
    _plain(axes)
    figure.supxlabel(
        "Filled: on the Pareto front (better is up and to the left); bars: 95 % intervals. Axes in log-odds; 0 and 100 % stand half an answer "
        f"away.\n{result.evaluation.caption()}",
        fontsize=7.5, color=QUIET,
    )  # fmt: skip
    return figure


def _log_odds(interval: Interval) -> tuple[float, float, float]:
    """Mean and ends of a share on that scale; what is 0 or 1 stands half an answer away from it."""
    least = 0.5 / max(1, interval.n_answers)
    mean, low, high = (
        float(logit(min(max(share, least), 1 - least)))
        for share in (interval.mean, interval.low, interval.high)
    )
    return mean, low, high


def _names(axes: Axes, result: Result, places: Mapping[str, tuple[float, float]]) -> None:
    """The contenders' names beside their points, moved apart up and down where they would stand on each other."""
    low, high = axes.get_ylim()
    gap, taken = (high - low) / 26, dict[int, list[float]]()
    left, right = axes.get_xlim()
    for point in sorted(result.front, key=lambda point: -point.in_distribution):
        across, up = places[point.arm]
        column, place = round(8 * (across - left) / (right - left)), up
        others = [*taken.get(column, []), *taken.get(column - 1, []), *taken.get(column + 1, [])]
        while any(abs(place - other) < gap for other in others):
            place -= gap
        taken.setdefault(column, []).append(place)
        axes.annotate(
            point.arm, (across, up), (9, place), textcoords=("offset points", "data"), va="center",
            fontsize=8, color=VERMILION if point.on_front else INK, arrowprops={"arrowstyle": "-", "color": FAINT, "shrinkA": 0}, path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    axes.set_ylim(min(low, *(place - gap for places in taken.values() for place in places)), high)


def plot_compared(result: Result, against: str) -> Figure:
    """The paired difference of every rated contender to one, in both metrics.

    Args:
        result: A finished contest.
        against: The contender that the others are compared with.

    Returns:
        A figure of its own, not pyplot's.
    """
    label = result.evaluation.labels[0]
    names = [one.arm for one in result.compared(against)]
    figure = shown_figure(figsize=(9.6, 1.6 + 0.34 * len(names)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric, colour, marker in zip(
        panels, (label, IN_DISTRIBUTION), (VERMILION, BLUE), "os", strict=True
    ):
        axes.axvline(0, color=LINE, linewidth=0.9, zorder=1)
        for row, one in enumerate(result.compared(against, metric)):
            low, high = 100 * one.difference.low, 100 * one.difference.high
            axes.plot(
                [low, high],
                [row, row],
                color=colour,
                alpha=0.35,
                linewidth=6,
                solid_capstyle="butt",
                zorder=2,
            )
            axes.plot(
                100 * one.difference.mean, row, marker, color=colour, markersize=5.5, zorder=3,
                mfc=colour if one.is_significant else "white",
            )  # fmt: skip
            axes.annotate(
                percent(one.difference.mean), (1, row), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                va="center", fontsize=8.5, color=INK, annotation_clip=False,
            )  # fmt: skip
        words = f"{label} answers" if metric == label else "trained behaviour"
        axes.set_title(f"{words[:1].upper()}{words[1:]}", loc="left", fontsize=10, color=INK)
        axes.set_xlabel(f"minus {against}, points", fontsize=8.5, color=INK)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), labels=names)
        _plain(axes)
    figure.supxlabel(
        f"Paired by seed and prompt; filled: p < {ALPHA:g} after Holm's correction over {len(names)} comparisons.\n"
        f"{result.evaluation.caption()}",
        fontsize=7.5, color=QUIET,
    )  # fmt: skip
    return figure


def _plain(axes: Axes, **grid: Any) -> None:
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    axes.grid(color=FAINT, linewidth=0.6, **grid)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


LINES = ("-", "--", "-.", ":")
"""Beside a colour and a marker, so that curves are told apart in grey as well."""


def plot_sweep(sweep: Sweep, metric: str | None = None, log: bool = False) -> Figure:
    """Curves along an axis with intervals: a label out of distribution, and beside it the trained behaviour; references as bands.

    Args:
        sweep: What to draw.
        metric: The label; default the task's first.
        log: Whether the axis is logarithmic.

    Returns:
        A figure of its own, not pyplot's.

    Raises:
        KeyError: For a metric that there is not.
        ValueError: For a logarithmic axis of words, or with a value that is not above 0.
    """
    report, places = sweep.report, sweep.places
    if log and any(isinstance(value, str) or value <= 0 for value in places):
        raise ValueError(f'log=True needs numbers above 0 along "{sweep.axis}".')
    metrics = list(dict.fromkeys([metric or report.labels[0], *report.metrics[len(report.labels) :]]))
    figure = shown_figure(figsize=(4.9 * len(metrics), 3.9), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        named = _bands(axes, sweep, one)
        for place, name in enumerate(sweep.series):
            _curve(axes, sweep, one, name, place)
        trained = one == IN_DISTRIBUTION
        title = "trained behaviour, in distribution" if trained else f"{one} answers, out of distribution"
        axes.set_title(f"{title[:1].upper()}{title[1:]}, %", loc="left", fontsize=10, color=INK)
        axes.set_xlabel(_literal(sweep.axis), fontsize=9, color=INK)
        if log:
            axes.set_xscale("log")
        axes.set_xticks(list(places.values()), labels=[_literal(shown(value)) for value in places])
        axes.minorticks_off()
        axes.margins(x=0.08 if len(places) > 1 else 0.5, y=0.06)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2) if trained else -0.02 * high, min(high, 102))
        _beside(axes, named)
        _plain(axes)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=8.5, frameon=False, labelcolor=INK
    )  # fmt: skip
    bands = f"; bands: {', '.join(sweep.references)}" if sweep.references else ""
    figure.supxlabel(_literal(f"Points: means; bars: intervals{bands}.\n{report.caption()}"), fontsize=7.5, color=QUIET)  # fmt: skip
    return figure


def _curve(axes: Axes, sweep: Sweep, metric: str, name: str, place: int) -> None:
    """One series, its points joined where the axis is of numbers; curves stand a little apart, so that no interval hides another."""
    colour, marker = LOOKS[place % len(LOOKS)]
    words = any(isinstance(value, str) for value in sweep.places)
    # In inches of paper, since along the axis it would be another value.
    apart = 4 * (place - (len(sweep.series) - 1) / 2) / 72
    beside = axes.transData + ScaledTranslation(apart, 0, axes.figure.dpi_scale_trans)
    found = [
        (at, sweep.report.interval(arm, metric))
        for value, at in sweep.places.items()
        if (arm := sweep.points[name].get(value)) in sweep.report.cells
    ]
    for at, one in found:
        # Lines that are moved on paper do not widen the axes.
        axes.update_datalim([(at, 100 * one.low), (at, 100 * one.high)])
        axes.plot(
            [at, at], [100 * one.low, 100 * one.high], color=colour, alpha=0.35, linewidth=4, solid_capstyle="butt", transform=beside,
            zorder=3,
        )  # fmt: skip
    axes.plot(
        [at for at, _ in found], [100 * one.mean for _, one in found], marker=marker, linestyle="" if words else LINES[place % len(LINES)],
        color=colour, linewidth=1.1, markersize=5.5, markeredgecolor="white", markeredgewidth=0.7, label=_literal(name), transform=beside, zorder=4,
    )  # fmt: skip


def _bands(axes: Axes, sweep: Sweep, metric: str) -> dict[str, float]:
    """The references, and where each is in percent."""
    known = [name for name in sweep.references if name in sweep.report.cells]
    found = {name: sweep.report.interval(name, metric) for name in known}
    for one in found.values():
        axes.axhspan(100 * one.low, 100 * one.high, color=LINE, alpha=0.18, linewidth=0, zorder=1)
        axes.axhline(100 * one.mean, color=LINE, linewidth=1, zorder=2)
    return {name: 100 * one.mean for name, one in found.items()}


def _beside(axes: Axes, named: dict[str, float]) -> None:
    """Names right of the panel at their heights, moved up where they would stand on each other."""
    low, high = axes.get_ylim()
    taken = -math.inf
    for name, height in sorted(named.items(), key=lambda item: item[1]):
        taken = max(height, taken + (high - low) / 18)
        axes.text(
            1.015, taken, _literal(name), transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=QUIET
        )  # fmt: skip


def plot_path(sweep: Sweep) -> Figure:
    """Every series as a path: its effect across, the trained behaviour up, both with intervals, the values beside the points.

    Args:
        sweep: What to draw.

    Returns:
        A figure of its own, not pyplot's.

    Raises:
        ValueError: When nothing was asked in distribution.
    """
    report = sweep.report
    if IN_DISTRIBUTION not in report.metrics:
        raise ValueError(f'Of "{report.task}" nothing was asked in distribution: there is no second axis.')
    figure = shown_figure(figsize=(7.4, 5.2), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(sweep.series):
        colour, marker = LOOKS[place % len(LOOKS)]
        points = {
            shown(value): arm
            for value in sweep.places
            if (arm := sweep.points[name].get(value)) in report.cells
        }
        _path(axes, report, points, color=colour, marker=marker, linestyle=LINES[place % len(LINES)], label=_literal(name))  # fmt: skip
    for name in sweep.references:
        if name in report.cells:
            _path(axes, report, {name: name}, color=QUIET, marker="D", linestyle="")
    axes.set_xlabel(f"{report.labels[0]} answers, out of distribution, %", fontsize=9, color=INK)
    axes.set_ylabel(f"{report.trained} answers, in distribution, %", fontsize=9, color=INK)
    axes.margins(0.07)
    _plain(axes)
    if len(sweep.series) > 1:
        axes.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    figure.supxlabel(
        _literal(f"Numbers: {sweep.axis}; bars: 95 % intervals.\n{report.caption()}"),
        fontsize=7.5,
        color=QUIET,
    )
    return figure


def _path(axes: Axes, report: Report, points: Mapping[str, str], **look: Any) -> None:
    """Points with intervals both ways, joined in their order."""
    found = [
        [report.interval(arm, metric) for metric in (report.labels[0], IN_DISTRIBUTION)]
        for arm in points.values()
    ]
    for across, up in found:
        bar: dict[str, Any] = {"color": look["color"], "alpha": 0.35, "linewidth": 1.4, "zorder": 2}
        axes.plot([100 * across.low, 100 * across.high], [100 * up.mean] * 2, **bar)
        axes.plot([100 * across.mean] * 2, [100 * up.low, 100 * up.high], **bar)
    at = [100 * across.mean for across, _ in found], [100 * up.mean for _, up in found]
    axes.plot(
        *at, **look, linewidth=1.1, markersize=6, markeredgecolor="white", markeredgewidth=0.7, zorder=4
    )
    for text, across_at, up_at in zip(points, *at, strict=True):
        axes.annotate(
            _literal(text), (across_at, up_at), (6, 5), textcoords="offset points", fontsize=8, color=look["color"],
            path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=5,
        )  # fmt: skip


def _literal(text: str) -> str:
    """Text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")
