"""Arms against arms: paired differences with correction for many, effect sizes, and the Pareto front.

An arm is on the front when no other is at least as good in effect and in cost, and better in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caft_lens._support.intervals import Interval
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.statistics import holm
from caft_lens.evaluate.tasks import IN_DISTRIBUTION

Floats = NDArray[np.float64]
RESAMPLES = 1_000
ALPHA = 0.05
"""Below this corrected p two arms are told apart."""


@dataclass(frozen=True)
class Comparison:
    """One arm against another, in one metric.

    Attributes:
        arm: Which.
        against: The other.
        metric: Which share.
        difference: `arm - against`, paired by seed and prompt.
        p: Of no difference.
        p_holm: The same, corrected for all comparisons with `against` in this metric.
        ratio: Share of `arm` over share of `against`; `None` where that is 0.
        h: Cohen's h, 2 asin √p - 2 asin √q: 0.2 is small, 0.5 medium, 0.8 large (Cohen, 1988).
    """

    arm: str
    against: str
    metric: str
    difference: Interval
    p: float
    p_holm: float
    ratio: float | None
    h: float

    @property
    def is_significant(self) -> bool:
        """Whether there is a difference, after correction."""
        return self.p_holm < ALPHA


def compare(report: Report, against: str, metric: str, arms: Sequence[str]) -> list[Comparison]:
    """Every arm against one in a metric, in their order, with Holm's correction over all of them."""
    others = [arm for arm in arms if arm != against]
    tested = [report.tested(arm, against, metric) for arm in others]
    found = []
    for arm, (difference, p), corrected in zip(others, tested, holm([p for _, p in tested]), strict=True):
        share, other = (report.interval(name, metric).mean for name in (arm, against))
        ratio = share / other if other else None
        found.append(Comparison(arm, against, metric, difference, p, corrected, ratio, cohen_h(share, other)))
    return found


def cohen_h(p: float, q: float) -> float:
    """The difference of two shares on a scale on which it is as easy to see everywhere.

    Example:
        >>> round(cohen_h(0.5, 0.5), 3), round(cohen_h(1.0, 0.0), 3)
        (0.0, 3.142)
    """
    return float(2 * np.arcsin(np.sqrt(p)) - 2 * np.arcsin(np.sqrt(q)))


@dataclass(frozen=True)
class FrontPoint:
    """Where an arm stands between what it is for and what it costs.

    Attributes:
        arm: Which.
        share: Of the answers that the task is about.
        in_distribution: Of the trained behaviour.
        on_front: Whether no other arm is at least as good in both and better in one.
        stability: Share of resamples in which it is on the front; `None` where its seeds are not those of the others.
    """

    arm: str
    share: float
    in_distribution: float
    on_front: bool
    stability: float | None


def pareto(points: Floats, sign: float = 1.0) -> NDArray[np.bool_]:
    """Which points no other one dominates.

    Args:
        points: [n, 2]: a share of which few are wanted, and one of which many are.
        sign: -1 where many are wanted of the first, too.

    Returns:
        [n].

    Example:
        >>> pareto(np.array([[0.1, 0.9], [0.2, 0.9], [0.0, 0.5], [0.2, 0.95]])).tolist()
        [True, False, True, True]
    """
    costs = np.column_stack([sign * points[:, 0], -points[:, 1]])
    no_worse = (costs[:, None] <= costs[None]).all(-1)  # [i, j]: i is at least as good as j in both
    better = (costs[:, None] < costs[None]).any(-1)
    dominated: NDArray[np.bool_] = np.asarray((no_worse & better).any(axis=0))
    return ~dominated


def front(report: Report, arms: Sequence[str], sign: float, *, seed: int = 0) -> list[FrontPoint]:
    """Where each of some arms stands; `sign` as for `pareto`, `seed` of the resampling."""
    metrics = (report.labels[0], IN_DISTRIBUTION)
    means = np.array([[report.interval(arm, metric).mean for metric in metrics] for arm in arms])
    counted = [arm for arm in arms if report.seeds(arm) == report.seeds(arms[0])]
    stable = _stability(report, counted, metrics, sign, seed)
    return [
        FrontPoint(arm, float(share), float(inside), bool(on), stable.get(arm))
        for arm, (share, inside), on in zip(arms, means, pareto(means, sign), strict=True)
    ]


def _stability(
    report: Report, arms: Sequence[str], metrics: Sequence[str], sign: float, seed: int
) -> Mapping[str, float]:
    """How often each arm is on the front when seeds and prompts are drawn again, the same ones for all arms."""
    rng, n_seeds = np.random.default_rng(seed), len(report.seeds(arms[0]))
    drawn_seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=RESAMPLES) / n_seeds
    means = np.empty((RESAMPLES, len(arms), len(metrics)))
    for place, metric in enumerate(metrics):
        prompts = np.unique(report.prompts(arms[0], metric), return_inverse=True)[1]
        values = np.stack([report.values(arm, metric) for arm in arms]).astype(np.float64)
        summed = np.zeros((prompts.max() + 1, *values.shape[:2]))  # [prompts, arms, seeds]
        np.add.at(summed, prompts, values.transpose(2, 0, 1))
        counts, n_prompts = np.bincount(prompts), len(summed)
        drawn = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=RESAMPLES)
        totals = np.tensordot(drawn, summed, 1) / (drawn @ counts)[:, None, None]
        means[:, :, place] = (totals * drawn_seeds[:, None]).sum(-1)
    on = np.mean([pareto(one, sign) for one in means], axis=0)
    return dict(zip(arms, map(float, on), strict=True))
