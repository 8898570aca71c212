"""The figures of a report, one row an arm, of several, one row each, and of a discovery, one row a ranked list.

Of a report: out of distribution on the left, in distribution on the right; dots are means, bars 95 % intervals, the small open
markers below them the single seeds. Of a discovery: how well each direction of a list separates, by its place in the list. The
colours are Okabe and Ito's, which colour-blind eyes tell apart; what differs in colour differs in marker or filling too, so that
the figures read in grey. Imported when something is drawn, since matplotlib takes a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caft_lens.display.dots import Dots, dot_rows
from caft_lens.display.theme import BLUE, FAINT, INK, QUIET, VERMILION, shown_figure
from caft_lens.evaluate.judges import SCORE
from caft_lens.evaluate.statistics import Interval
from caft_lens.evaluate.tasks import IN_DISTRIBUTION

if TYPE_CHECKING:
    from caft_lens.evaluate.discovery import Discovery
    from caft_lens.evaluate.report import Report


def plot_report(report: Report, title: str | None = None) -> Figure:
    """Draw a report.

    Args:
        report: What to draw.
        title: Above the figure.

    Returns:
        A figure of its own, not pyplot's: the last line of a cell shows it, `savefig` keeps it.
    """
    both = IN_DISTRIBUTION in report.metrics
    height = 1.5 + 0.36 * len(report.arms) + (0.35 if title else 0)
    figure = shown_figure(figsize=(9.6 if both else 6.0, height), layout="constrained")
    axes = figure.subplots(1, 2 if both else 1, sharey=True, squeeze=False)[0]
    _panel(axes[0], report, report.labels[0], VERMILION, "o")
    label = report.labels[0]
    if label == SCORE:
        axes[0].set_title("Score, out of distribution", **_HEADING)
        axes[0].set_xlabel("score of answers to questions unlike the training data")
    else:
        axes[0].set_title(f"{label.capitalize()} answers, out of distribution", **_HEADING)
        axes[0].set_xlabel(f"{label} answers to questions unlike the training data, %")
    if both:
        _panel(axes[1], report, IN_DISTRIBUTION, BLUE, "s")
        axes[1].set_title("Trained behaviour, in distribution", **_HEADING)
        axes[1].set_xlabel(f"{report.trained} answers to held-out prompts, %")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    figure.supxlabel(
        f"Filled: mean; bar: interval; open: single seeds.\n{report.caption()}", fontsize=7.5, color=QUIET
    )
    return figure


_HEADING: dict[str, Any] = {"loc": "left", "fontsize": 10, "color": INK}


def _panel(axes: Axes, report: Report, metric: str, colour: str, marker: str) -> None:
    scale = report.scale if metric == SCORE else None
    unit = 100 if scale is None else 1
    for row, arm in enumerate(report.arms):
        interval = report.interval(arm, metric)
        low, mean, high = (unit * value for value in (interval.low, interval.mean, interval.high))
        axes.plot(
            [low, high], [row, row], color=colour, alpha=0.35, linewidth=7, solid_capstyle="butt", zorder=2
        )
        axes.plot([low, high], [row, row], "|", color=colour, markersize=7, markeredgewidth=1.2, zorder=3)
        axes.plot(
            mean,
            row,
            marker,
            markersize=5.5,
            color=colour,
            markeredgecolor="white",
            markeredgewidth=0.8,
            zorder=4,
        )
        if interval.n_seeds > 1:
            each = unit * report.values(arm, metric).mean(axis=1)
            axes.plot(
                each, [row + 0.3] * len(each), marker, markersize=3, mfc="none", mec=colour, mew=0.7, zorder=3
            )
        _numbers(axes, row, interval)
    first, last = (0, 100) if scale is None else scale
    axes.set_xlim(first - 0.02 * (last - first), last + 0.01 * (last - first))
    axes.set_xticks([first + share * (last - first) for share in (0, 0.25, 0.5, 0.75, 1)])
    axes.set_ylim(len(report.arms) - 0.5, -0.5)
    axes.set_yticks(range(len(report.arms)), labels=report.arms)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.xaxis.label.set(fontsize=8.5, color=INK)
    axes.grid(axis="both", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _numbers(axes: Axes, row: int, interval: Interval) -> None:
    """Mean and interval right of the panel, in two columns."""
    mean, low, high = interval.shown
    ends = f"({low} to {high})"
    place: dict[str, Any] = {
        "xy": (1, row),
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center_baseline",
        "annotation_clip": False,
    }
    axes.annotate(mean, xytext=(32, 0), ha="right", fontsize=9, color=INK, **place)
    axes.annotate(ends, xytext=(36, 0), ha="left", fontsize=7.5, color=QUIET, **place)


def plot_reports(
    reports: Mapping[str, Report],
    metric: str,
    *,
    arms: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw one metric of several reports, a row for each report and a dot for each arm, with its interval.

    Args:
        reports: By the name of the row, from top to bottom: the same arms asked in several ways, say, or after more and more steps.
        metric: A label of the judge, or `"in_distribution"`.
        arms: Only these; those of all reports by default.
        title: Above the figure.

    Returns:
        A figure of its own, not pyplot's: the last line of a cell shows it, `savefig` keeps it.

    Raises:
        ValueError: When there is no report.
        KeyError: For an arm or a metric that a report lacks.

    Example:
        >>> figure = plot_reports({"asked plainly": report, "asked again": report}, "misaligned")
    """
    if not reports:
        raise ValueError("There is no report to draw.")
    named = arms or list(dict.fromkeys(arm for report in reports.values() for arm in report.arms))
    found = {arm: {row: report.interval(arm, metric) for row, report in reports.items()} for arm in named}
    scored = any(not one.share for of in found.values() for one in of.values())
    unit, what = (1, metric) if scored else (100, f"{metric.replace('_', ' ')} answers, %")
    counts = sorted({one.n_answers for of in found.values() for one in of.values()})
    answers = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return dot_rows(
        [
            Dots(
                arm,
                {row: unit * one.mean for row, one in of.items()},
                {row: (unit * one.low, unit * one.high) for row, one in of.items()},
            )
            for arm, of in found.items()
        ],
        x_label=what,
        title=title,
        caption=f"{answers} answers a dot; bars: 95 % intervals.",
        order=list(reports),
    )


def plot_discovery(found: Discovery, title: str | None = None) -> Figure:
    """Draw how well the directions of every list separate.

    Args:
        found: What to draw.
        title: Above the figure.

    Returns:
        A figure of its own, not pyplot's: the last line of a cell shows it, `savefig` keeps it.
    """
    height = 0.9 + 1.05 * len(found.methods) + (0.35 if title else 0)
    figure = shown_figure(figsize=(8.4, height), layout="constrained")
    rows = figure.subplots(len(found.methods), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, method in zip(rows, found.methods, strict=True):
        _ranked(axes, found, method)
    figure.supylabel("separation (AUROC of the better end)", fontsize=8.5, color=INK)
    rows[-1].set_xlabel("place in the list, read across the hook points", fontsize=8.5, color=INK)
    caption = "Filled: hit; open: none; grey: the best of the random directions at the same hook point."
    figure.supxlabel(caption, fontsize=7.5, color=QUIET)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def _ranked(axes: Axes, found: Discovery, method: str) -> None:
    """One list: a stem a direction, hits filled and the first of them named."""
    scored = found[method]
    places = range(len(scored))
    axes.bar(places, [row.random - 0.5 for row in scored], bottom=0.5, width=0.8, color=FAINT)
    for hit, colour, face in ((False, BLUE, "white"), (True, VERMILION, VERMILION)):
        at = [place for place in places if scored[place].hit == hit]
        heights = [scored[place].separation for place in at]
        axes.vlines(at, 0.5, heights, color=colour, linewidth=0.8)
        axes.plot(at, heights, "o", markersize=4, mfc=face, mec=colour, mew=0.9)
    first = next((place for place in places if scored[place].hit), None)
    named = "no hit" if first is None else f"first hit: {scored[first].name}"
    axes.set_title(method, **_HEADING)
    axes.set_title(named, loc="right", fontsize=8.5, color=QUIET if first is None else VERMILION)
    axes.set_ylim(0.5, 1.03)
    axes.set_yticks([0.5, 0.75, 1.0])
    axes.tick_params(length=0, labelsize=8, colors=QUIET)
    axes.spines[["top", "right", "left"]].set_visible(False)
