"""What figures of experiments draw: one row a point, with all that a reader wants to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caft_lens._support.intervals import Interval
from caft_lens.evaluate.report import Report

Value = float | str
"""A place on the axis of a sweep: a number; or a word, and then all places are evenly spaced."""


@dataclass(frozen=True)
class Measures:
    """The two things that are measured, in words, and what stands below a figure of them.

    Attributes:
        label: What is counted out of distribution, such as "misaligned".
        trained: What is counted in distribution, the trained behaviour.
        caption: Answers, seeds and sampling.
        sign: 1 where few answers with the label are wanted, -1 where many are.
    """

    label: str
    trained: str
    caption: str
    sign: float = 1.0

    @classmethod
    def of(cls, report: Report, sign: float = 1.0) -> Measures:
        """Those of a report."""
        return cls(report.labels[0], report.trained, report.caption(), sign)


@dataclass(frozen=True)
class ArmRow:
    """Where an arm stands between what it is for and what it costs.

    Attributes:
        effect: Share of the answers that the task is about.
        on_front: Whether no other arm is at least as good in both and better in one.
        stability: Share of resamples in which it is on the front; `None` where that is not known.
        example: An answer out of distribution, with its question; "" where no text was kept.
    """

    arm: str
    setting: str
    effect: Interval
    in_distribution: Interval
    on_front: bool
    stability: float | None = None
    example: str = ""


@dataclass(frozen=True)
class SweepRow:
    """An arm of a sweep.

    Attributes:
        series: The curve that it belongs to; its own name where it is a reference.
        value: On the axis, and `place`, where that is drawn; `None` for a reference.
        intervals: Share by metric.
    """

    series: str
    value: Value | None
    place: float | None
    arm: str
    intervals: Mapping[str, Interval]
    example: str = ""


def shown(value: Value) -> str:
    """A value as a person writes it.

    Example:
        >>> shown(1.0), shown(0.1), shown("both")
        ('1', '0.1', 'both')
    """
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    return short if float(short) == value else str(value)


def spread(intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Shares with the ends of their intervals, as the columns of a table have them.

    Args:
        intervals: By metric.

    Example:
        >>> spread({"cruel": Interval(0.5, 0.4, 0.6, n_seeds=1, n_answers=9)})
        {'cruel': 0.5, 'cruel_low': 0.4, 'cruel_high': 0.6}
    """
    return {
        key: value
        for metric, one in intervals.items()
        for key, value in ((metric, one.mean), (f"{metric}_low", one.low), (f"{metric}_high", one.high))
    }


def percents(interval: Interval) -> str:
    """A share in percent with its interval, for a column that says so."""
    return str(interval).replace(" %", "")
