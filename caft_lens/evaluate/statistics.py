"""The one interval: 95 % from a hierarchical bootstrap, seeds first, then prompts (docs/concepts/evidence.md).

`bootstrap_interval` is for a share (or a mean) of one arm, `paired_interval` for the difference of two arms that
answered the same prompts with the same seeds. `paired_test` says besides how surprising a difference is, and `holm`
corrects for many of them. In go numbers [seeds, answers]; where some answers do not count, such as those without a
score, the mean is a ratio, drawn with its denominator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caft_lens._support.errors import BadArgument
from caft_lens._support.intervals import BLOCK, CONFIDENCE, RESAMPLES, Floats, Interval, checked, ends

Mask = ArrayLike | None


def bootstrap_interval(
    values: ArrayLike,
    prompts: Sequence[object] | None = None,
    *,
    counted: Mask = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The mean of one arm with its interval, over seeds and prompts.

    Args:
        values: [seeds, answers], or [answers] of a single seed; booleans for a share. Column j answers one prompt.
        prompts: [answers], which prompt each answer belongs to (any hashable); by default each is its own. Answers to
            one prompt are drawn together.
        counted: [seeds, answers], which of them count; all by default. The mean of a seed is over those of it.
        resamples: How many resamples; the ends of a 95 % interval from 10,000 are good to a fiftieth of its width.
        confidence: Share of intervals that should contain the truth.
        seed: Of the resampling, so that the same answers give the same interval.

    Returns:
        The interval. With one seed it is over prompts alone and says so in `over`.

    Raises:
        ValueError: On empty or ragged values, NaN among those that count, prompts of another length, or where no answer
            counts.

    Example:
        >>> answers = np.arange(1000) < 200
        >>> print(bootstrap_interval([answers]))
        20.0 % (17.6 to 22.6)
        >>> print(bootstrap_interval(np.zeros((1, 1000))), bootstrap_interval([answers]).over)
        0 % (0 to 0.37) prompts
    """
    if (some := _Some.of(values, counted)) is not None:
        low, high = some.widened(ends(some.resampled(prompts, resamples, seed), confidence), confidence)
        return some.interval(some.mean, low, high)
    table = checked(values)
    draws = _resampled(table, prompts, resamples, seed)
    low, high = ends(draws, confidence)
    if _is_binary(table):
        exact_low, exact_high = exact_binomial(int(table.sum()), table.size, confidence)
        low, high = min(low, exact_low), max(high, exact_high)
    return _interval(table, low, high)


def paired_interval(
    a: ArrayLike,
    b: ArrayLike,
    prompts: Sequence[object] | None = None,
    *,
    counted: tuple[Mask, Mask] = (None, None),
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The mean of `a - b` with its interval; both arms see the same resampled seeds and prompts.

    Args:
        a: [seeds, answers] of one arm.
        b: [seeds, answers] of the other: the same seeds and prompts in the same order.
        prompts, resamples, confidence, seed: As in `bootstrap_interval`.
        counted: Which answers count, of `a` and of `b`; then it is the difference of their means.

    Returns:
        The interval of the difference; below 0 where `a` has the smaller mean.

    Raises:
        BadArgument: As `bootstrap_interval`, or when the shapes differ.

    Example:
        >>> plain = np.arange(1000) < 200
        >>> caft = np.arange(1000) < 10
        >>> print(paired_interval([caft], [plain]))
        −19.0 % (−21.6 to −16.6)
    """
    compared = _paired(a, b, prompts, counted, resamples, seed)
    return compared.interval(*compared.ends(confidence))


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    prompts: Sequence[object] | None = None,
    *,
    counted: tuple[Mask, Mask] = (None, None),
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Interval, float]:
    """The interval of `paired_interval`, with the p of no difference; at least 2 / (resamples + 1).

    The test is the interval turned around: p is the smallest for which the interval of confidence 1 - p leaves 0 out.
    With five seeds that differ much it is somewhat too small, as that interval is too narrow.

    Example:
        >>> plain, same = np.arange(1000) < 200, np.arange(1000) % 5 == 0
        >>> paired_test([plain], [same])[1], paired_test([plain], [np.arange(1000) < 10])[1] < 0.001
        (1.0, True)
    """
    compared = _paired(a, b, prompts, counted, resamples, seed)
    interval = compared.interval(*compared.ends(confidence))

    def is_significant(p: float) -> bool:
        low, high = compared.ends(1 - p)
        return low > 0 or high < 0

    smallest, largest = 2 / (resamples + 1), 1.0
    if is_significant(smallest):
        return interval, smallest
    for _ in range(20):  # halvings of a logarithm: p is then exact to five digits
        middle = float(np.sqrt(smallest * largest))
        smallest, largest = (smallest, middle) if is_significant(middle) else (middle, largest)
    return interval, largest


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for there being several, so that the chance of any false one is bounded (Holm, 1979).

    Args:
        p_values: Of all comparisons of one family.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]


class _Compared(NamedTuple):
    """A difference of two arms: resampled, with the ends that it must at least have."""

    draws: Floats
    floor: Callable[[float], tuple[float, float]] | None
    interval: Callable[[float, float], Interval]

    def ends(self, confidence: float) -> tuple[float, float]:
        """The ends of its interval."""
        low, high = ends(self.draws, confidence)
        exact = (low, high) if self.floor is None else self.floor(confidence)
        return min(low, exact[0]), max(high, exact[1])


def _paired(
    a: ArrayLike,
    b: ArrayLike,
    prompts: Sequence[object] | None,
    counted: tuple[Mask, Mask],
    resamples: int,
    seed: int,
) -> _Compared:
    some = [_Some.of(values, mask) for values, mask in zip((a, b), counted, strict=True)]
    if some != [None, None]:
        first, second = (one or _Some(checked(values), None) for one, values in zip(some, (a, b), strict=True))
        _check_alike(first.table, second.table)
        draws = first.resampled(prompts, resamples, seed) - second.resampled(prompts, resamples, seed)
        both = _Some(first.table, first.mask & second.mask)
        floor = (lambda c: _newcombe(first.exact(c), second.exact(c))) if first.binary and second.binary else None
        return _Compared(draws, floor, partial(both.interval, first.mean - second.mean))
    table, other = checked(a), checked(b)
    _check_alike(table, other)
    difference = table - other
    binary = _is_binary(table) and _is_binary(other)
    floor = partial(_exact_difference, difference) if binary else None
    return _Compared(_resampled(difference, prompts, resamples, seed), floor, partial(_interval, difference))


def _check_alike(first: Floats, second: Floats) -> None:
    if first.shape != second.shape:
        raise BadArgument(
            f"Paired arms need the same seeds and prompts, but their answers are {first.shape} and {second.shape} "
            f"[seeds, answers]; evaluate both with the same task, n and seeds."
        )


class _Some:
    """Answers of which some do not count."""

    def __init__(self, table: Floats, mask: NDArray[np.bool_] | None) -> None:
        self.table = table
        self.mask = np.ones(table.shape, bool) if mask is None else mask
        if not self.mask.any():
            raise BadArgument("None of the answers counts, so there is nothing to take the mean of.")
        self.binary = _is_binary(table)

    @classmethod
    def of(cls, values: ArrayLike, counted: Mask) -> _Some | None:
        """`None` where all count."""
        if counted is None or (mask := np.atleast_2d(np.asarray(counted, dtype=bool))).all():
            return None
        given = np.atleast_2d(np.asarray(values, dtype=np.float64))
        if given.shape != mask.shape:
            raise BadArgument(
                f"Which answers count is told of {mask.shape} [seeds, answers], and they are {given.shape}."
            )
        return cls(checked(np.where(mask, given, 0)), mask)

    @property
    def mean(self) -> float:
        """The mean over seeds of the mean of each, of those that have answers that count."""
        counts = self.mask.sum(axis=1)
        return float(((self.table * self.mask).sum(axis=1)[counts > 0] / counts[counts > 0]).mean())

    def resampled(self, prompts: Sequence[object] | None, resamples: int, seed: int) -> Floats:
        """The mean under every resample, [resamples]; the same prompts and seeds are drawn for any arm."""
        sums, _ = _by_prompt(self.table * self.mask, prompts)
        counts, _ = _by_prompt(self.mask.astype(np.float64), prompts)
        (n_prompts, n_seeds), rng = sums.shape, np.random.default_rng(seed)
        drawn_seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=resamples)
        means = np.empty(resamples)
        block = max(1, BLOCK // n_prompts)
        for start in range(0, resamples, block):
            part = slice(start, min(start + block, resamples))
            drawn = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=part.stop - start)
            there = drawn @ counts
            weights = drawn_seeds[part] * (there > 0)
            with np.errstate(invalid="ignore"):  # where no answer counts that was drawn, there is no mean
                of_seeds = np.where(there > 0, (drawn @ sums) / np.maximum(there, 1), 0)
                means[part] = (of_seeds * weights).sum(axis=1) / weights.sum(axis=1)
        return means

    def exact(self, confidence: float) -> tuple[float, float, float]:
        """The share, and the ends of the exact interval of as many independent answers."""
        yes, n = int((self.table * self.mask).sum()), int(self.mask.sum())
        return yes / n, *exact_binomial(yes, n, confidence)

    def widened(self, found: tuple[float, float], confidence: float) -> tuple[float, float]:
        """An interval, of shares never narrower than the exact one."""
        if not self.binary:
            return found
        _, low, high = self.exact(confidence)
        return min(found[0], low), max(found[1], high)

    def interval(self, mean: float, low: float, high: float) -> Interval:
        """One of these answers."""
        return replace(_interval(self.table, low, high), mean=mean, n_answers=int(self.mask.sum()))


def exact_binomial(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Lower and upper end of the exact (Clopper-Pearson) interval of a share.

    Example:
        >>> exact_binomial(0, 1000)[1] == 1 - 0.025 ** (1 / 1000)
        True
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    # The ends with no or only successes have a closed form, exact where the inverse would round.
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    if successes == 0:
        high = 1 - tail ** (1 / trials)
    if successes == trials:
        low = tail ** (1 / trials)
    return low, high


def _exact_difference(difference: Floats, confidence: float) -> tuple[float, float]:
    """The exact floor of a paired difference: of the discordant pairs alone, which carry all its variance.

    Two exact binomial intervals (only `a`; only `b`) combined by the square-and-add rule of Newcombe (1998).
    """
    only_a, only_b, pairs = int((difference > 0).sum()), int((difference < 0).sum()), difference.size
    first, second = ((n / pairs, *exact_binomial(n, pairs, confidence)) for n in (only_a, only_b))
    return _newcombe(first, second)


def _newcombe(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """The ends of the interval of a difference of two shares, each given with its own ends."""
    (share_a, low_a, high_a), (share_b, low_b, high_b) = a, b
    down = np.hypot(share_a - low_a, high_b - share_b)
    up = np.hypot(high_a - share_a, share_b - low_b)
    return share_a - share_b - float(down), share_a - share_b + float(up)


def _resampled(table: Floats, prompts: Sequence[object] | None, resamples: int, seed: int) -> Floats:
    """The mean under every resample, [resamples]: seeds drawn first, then prompts."""
    sums, counts = _by_prompt(table, prompts)
    # Prompts with equal rows are interchangeable; how often each kind is drawn is multinomial, exactly.
    kinds, sizes = np.unique(np.column_stack([sums, counts]), axis=0, return_counts=True)
    n_seeds, n_prompts = table.shape[0], len(counts)
    rng = np.random.default_rng(seed)
    drawn_seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=resamples)
    means = np.empty(resamples)
    block = max(1, BLOCK // len(kinds))
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn_prompts = rng.multinomial(n_prompts, sizes / n_prompts, size=stop - start)
        totals = drawn_prompts @ kinds  # [block, seeds + 1]: the sum of every seed, and the number of answers
        seed_means = totals[:, :-1] / totals[:, -1:]
        means[start:stop] = (seed_means * drawn_seeds[start:stop]).sum(axis=1) / n_seeds
    return means


def _by_prompt(table: Floats, prompts: Sequence[object] | None) -> tuple[Floats, Floats]:
    """Sums [prompts, seeds] and numbers of answers [prompts]."""
    if prompts is None:
        return table.T, np.ones(table.shape[1])
    if len(prompts) != table.shape[1]:
        raise BadArgument(
            f"{len(prompts)} prompts for {table.shape[1]} answers a seed; give the prompt of every answer."
        )
    numbers: dict[object, int] = {}
    which = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])
    sums = np.zeros((len(numbers), table.shape[0]))
    np.add.at(sums, which, table.T)
    return sums, np.bincount(which).astype(np.float64)


def _is_binary(table: Floats) -> bool:
    return bool(((table == 0) | (table == 1)).all())


def _interval(table: Floats, low: float, high: float) -> Interval:
    over = "seeds, prompts" if table.shape[0] > 1 else "prompts"
    return Interval(float(table.mean()), low, high, table.shape[0], table.size, over)
