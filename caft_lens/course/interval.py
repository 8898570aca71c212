"""Exercise 7: a fair comparison and its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from caft_lens._support.errors import NotSolved
from caft_lens.course.asking import ask, passed
from caft_lens.evaluate.statistics import Floats, paired_interval

Ends = tuple[float, float, float]
NEAR = 0.3
"""Of its width, by which an interval may differ: bootstraps draw by chance."""
RESAMPLES = 1_000
SEEDS = "It counts for these seeds alone: draw seeds as well as prompts."
PROMPTS = "It counts for these prompts alone: draw prompts as well as seeds."
NESTED = "Prompts are drawn anew in every seed, but they are the same prompts: draw them once for all seeds."
APART = "The arms are drawn apart: draw the same seeds and prompts for both, or draw differences."
ONE = "That looks like one standard error on either side; a 95 % interval is nearly twice as wide."


def check_interval(compare: Callable[[Floats, Floats], Ends]) -> None:
    """Check a function that compares two arms.

    Args:
        compare: Takes the answers of two arms, `[seeds, prompts]` each, 1 for misaligned and 0 for not, the same seeds
            and prompts in the same order; gives the mean of the first less the second, and both ends of a 95 %
            interval that counts for other seeds and other prompts.

    Raises:
        NotSolved: When it is not written or does something else, saying what.

    Example:
        >>> from caft_lens.evaluate.statistics import paired_interval
        >>> def compare(a, b):
        ...     found = paired_interval(a, b)
        ...     return found.mean, found.low, found.high
        >>> cl.course.check_interval(compare)
        ✓ Paired, over seeds and prompts: the interval is as wide as it should be, three times.
    """
    rng = np.random.default_rng(0)
    seeds, prompts = 6, 200
    none = np.zeros((seeds, prompts))
    by_seed = np.linspace(0.05, 0.95, seeds)[:, None]
    moved = (rng.random((seeds, prompts)) < by_seed).astype(float)
    _check(compare, "seeds differ much and prompts hardly", moved, none, {SEEDS: _means(moved, [1])})
    same = np.broadcast_to(rng.random(prompts) < 0.4, (seeds, prompts)).astype(float)
    wrong = {PROMPTS: _means(same, [0]), NESTED: _nested(same)}
    _check(compare, "prompts differ much and seeds not at all", same, none, wrong)
    # The same hard prompts and lucky seeds for both, and little between them: only paired it is seen.
    hard, lucky = rng.random(prompts), rng.random((seeds, 1))
    first = (hard < 0.5 + 0.4 * (lucky - 0.5)).astype(float)
    second = np.where(rng.random((seeds, prompts)) < 0.06, 0.0, first)
    wrong = {APART: _means(first, [0, 1], 1) - _means(second, [0, 1], 2)}
    _check(compare, "the same prompts are hard for both arms", first, second, wrong)
    passed("Paired, over seeds and prompts: the interval is as wide as it should be, three times.")


def _check(
    compare: Callable[[Floats, Floats], Ends], where: str, a: Floats, b: Floats, known: Mapping[str, Floats]
) -> None:
    """Check one comparison; `known` are the means under resamples that go wrong, by what is wrong with them."""
    answer = ask(compare, a.copy(), b.copy())
    try:
        mean, low, high = (float(part) for part in answer)
    except (TypeError, ValueError):
        raise NotSolved("compare() is to give three numbers: mean, lower end, upper end.") from None
    wanted = paired_interval(a, b)
    if abs(mean + wanted.mean) < 1e-6 < abs(mean):
        raise NotSolved(f"The mean is {mean:.3f}: that is the second less the first.")
    if abs(mean - wanted.mean) > 1e-3:
        raise NotSolved(f"The mean is {mean:.3f}; the mean of the first less the second is {wanted.mean:.3f}.")
    if not low <= mean <= high:
        raise NotSolved(f"The interval {low:.3f} to {high:.3f} does not hold its mean, {mean:.3f}.")
    width, right = high - low, wanted.high - wanted.low
    if abs(width - right) <= NEAR * right:
        return
    found = f"Where {where}, the interval is {width:.3f} wide and should be about {right:.3f}."
    widths = {words: float(np.diff(np.quantile(means, [0.025, 0.975]))[0]) for words, means in known.items()}
    for words, wrong in {**widths, ONE: right / 1.96}.items():
        if abs(width - wrong) <= 0.2 * wrong + 1e-9:
            raise NotSolved(f"{found} {words}")
    raise NotSolved(
        f"{found} Draw seeds with replacement, then prompts, the same for both arms and for all seeds, and take the "
        "mean difference, many times; the ends are the quantiles 0.025 and 0.975."
    )


def _means(values: Floats, axes: Sequence[int], seed: int = 1) -> Floats:
    """Means under resamples along some axes."""
    rng = np.random.default_rng(seed)

    def once() -> float:
        some: Any = values
        for axis in axes:
            some = some.take(rng.integers(some.shape[axis], size=some.shape[axis]), axis=axis)
        return float(some.mean())

    return np.array([once() for _ in range(RESAMPLES)])


def _nested(values: Floats) -> Floats:
    """Means under resamples of seeds, and of prompts anew in each."""
    rng, (seeds, prompts) = np.random.default_rng(1), values.shape
    rows = rng.integers(seeds, size=(RESAMPLES, seeds, 1))
    return values[rows, rng.integers(prompts, size=(RESAMPLES, seeds, prompts))].mean(axis=(1, 2))
