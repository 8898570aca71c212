"""The figures of a contest that an evaluation does not have: the front, and paired differences.

Imported when something is drawn, since matplotlib takes a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from caft_lens.evaluate.statistics import percent
from caft_lens.evaluate.tasks import IN_DISTRIBUTION
from caft_lens.figures import BLUE, FAINT, INK, LINE, QUIET, VERMILION, shown_figure

if TYPE_CHECKING:
    from caft_lens.arena.result import Result

ALPHA = 0.05
"""Below this corrected p a difference is drawn filled."""


def plot_front(result: Result) -> Figure:
    """Every rated contender: its effect across, the trained behaviour up, both with intervals; the front is joined.

    Args:
        result: A finished contest.

    Returns:
        A figure of its own, not pyplot's.
    """
    label = result.evaluation.labels[0]
    figure = shown_figure(figsize=(8.6, 5.6), layout="constrained")
    axes = figure.subplots()
    points = sorted(result.front, key=lambda point: result.sign * point.share)
    for point in points:
        colour = VERMILION if point.on_front else LINE
        across, up = (result.evaluation.interval(point.arm, metric) for metric in (label, IN_DISTRIBUTION))
        for low, high, horizontal in ((across.low, across.high, True), (up.low, up.high, False)):
            ends = [100 * low, 100 * high]
            other = [100 * (point.in_distribution if horizontal else point.share)] * 2
            axes.plot(
                *((ends, other) if horizontal else (other, ends)),
                color=colour,
                alpha=0.45,
                linewidth=1.2,
                zorder=2,
            )
        axes.plot(
            100 * point.share, 100 * point.in_distribution, "o" if point.on_front else "s", markersize=6.5, zorder=4,
            mfc=colour if point.on_front else "white", mec=colour, mew=1.2,
        )  # fmt: skip
    on = [point for point in points if point.on_front]
    axes.plot(
        [100 * point.share for point in on], [100 * point.in_distribution for point in on], "--", color=VERMILION, linewidth=1, zorder=1
    )  # fmt: skip
    _names(axes, result)
    axes.set_xlabel(f"{label} answers, out of distribution, %", fontsize=9, color=INK)
    axes.set_ylabel(f"{result.evaluation.trained} answers, in distribution, %", fontsize=9, color=INK)
    if result.sign < 0:
        axes.invert_xaxis()
    _plain(axes)
    figure.supxlabel(
        f"Filled: on the Pareto front (better is up and to the left); bars: 95 % intervals.\n{result.evaluation.caption()}",
        fontsize=7.5, color=QUIET,
    )  # fmt: skip
    return figure


def _names(axes: Axes, result: Result) -> None:
    """The contenders' names beside their points, moved apart up and down where they would stand on each other."""
    low, high = axes.get_ylim()
    gap, taken = (high - low) / 26, dict[int, list[float]]()
    left, right = axes.get_xlim()
    for point in sorted(result.front, key=lambda point: -point.in_distribution):
        column = round(8 * (100 * point.share - left) / (right - left))
        place = 100 * point.in_distribution
        others = [*taken.get(column, []), *taken.get(column - 1, []), *taken.get(column + 1, [])]
        while any(abs(place - other) < gap for other in others):
            place -= gap
        taken.setdefault(column, []).append(place)
        axes.annotate(
            point.arm, (100 * point.share, 100 * point.in_distribution), (9, place), textcoords=("offset points", "data"), va="center",
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
                mfc=colour if one.p_holm < ALPHA else "white",
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
