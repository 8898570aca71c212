"""Figures to compare concepts by, or sets of them: one row each, one kind of dot for each thing that was measured of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caft_lens.display.theme import BLUE, FAINT, INK, QUIET, VERMILION, shown_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = ((VERMILION, "o"), (BLUE, "s"), (INK, "^"), (QUIET, "D"))
APART = 0.22  # of a row, between two kinds of dots


@dataclass(frozen=True)
class Dots:
    """One kind of dot: what was measured of each row.

    Attributes:
        label: What it is.
        values: By the name of the row.
        ends: Both ends of an interval, where there is one.
    """

    label: str
    values: Mapping[str, float]
    ends: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def dot_rows(
    kinds: Sequence[Dots],
    *,
    x_label: str,
    title: str | None = None,
    caption: str = "",
    line: tuple[float, str] | None = None,
    linear_below: float | None = None,
    order: Sequence[str] | None = None,
    bold: Collection[str] = (),
) -> Figure:
    """Draw dots in rows.

    Args:
        kinds: What to draw; a kind may lack some of the rows.
        x_label: What the values are, with their unit.
        title: Above the figure.
        caption: Below it.
        line: A value to draw a line at, and what it is.
        linear_below: Draw a logarithmic axis, linear below this value so that 0 has a place.
        order: Names of the rows from top to bottom, each row once; the row with the largest value first by default.
        bold: Names of rows to set in bold.

    Returns:
        A figure of its own, not pyplot's: the last line of a cell shows it.

    Raises:
        ValueError: When `order` is not the names of all rows.
    """
    names = sorted(
        dict.fromkeys(name for kind in kinds for name in kind.values),
        key=lambda name: -max(kind.values[name] for kind in kinds if name in kind.values),
    )
    if order is not None:
        if sorted(order) != sorted(names):
            raise ValueError(
                f"order= names {', '.join(order) or 'no row'}; the rows are {', '.join(sorted(names))}."
            )
        names = list(order)
    height = 1.3 + 0.23 * len(names) + 0.3 * (title is not None) + 0.15 * caption.count("\n")
    figure = shown_figure(figsize=(7.2, max(2.2, height)), layout="constrained")
    axes = figure.subplots()
    for place, kind in enumerate(kinds):
        _dots(axes, kind, names, place, (place - (len(kinds) - 1) / 2) * APART)
    if linear_below is not None:
        axes.set_xscale("symlog", linthresh=linear_below)
        axes.set_xlim(left=0)
    if line is not None:
        axes.axvline(line[0], color=QUIET, linewidth=1, linestyle="--", zorder=1)
        axes.annotate(
            line[1], (line[0], 1), xycoords=("data", "axes fraction"), xytext=(3, 3),
            textcoords="offset points", fontsize=8, color=QUIET,
        )  # fmt: skip
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), labels=[name.replace("$", r"\$") for name in names])
    for name, label in zip(names, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if name in bold else "normal")
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    if len(kinds) > 1:
        axes.legend(fontsize=8.5, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))
    if title:
        figure.suptitle(
            title.replace("$", r"\$"), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK
        )
    if caption:
        figure.supxlabel(caption.replace("$", r"\$"), fontsize=7.5, color=QUIET)
    return figure


def _dots(axes: Axes, kind: Dots, names: Sequence[str], place: int, shift: float) -> None:
    colour, marker = LOOKS[place % len(LOOKS)]
    rows = {name: row + shift for row, name in enumerate(names) if name in kind.values}
    for name, ends in kind.ends.items():
        axes.plot(
            ends, [rows[name]] * 2, color=colour, alpha=0.35, linewidth=3.5, solid_capstyle="butt", zorder=2
        )
    axes.plot(
        [kind.values[name] for name in rows], list(rows.values()), marker, color=colour, markersize=5,
        markeredgecolor="white", markeredgewidth=0.7, label=kind.label, zorder=3,
    )  # fmt: skip
