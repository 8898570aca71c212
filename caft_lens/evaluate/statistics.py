"""The one interval: 95 % from a hierarchical bootstrap, seeds first, then prompts (docs/concepts/evidence.md).

`bootstrap_interval` is for a share (or a mean) of one arm, `paired_interval` for the difference of two arms that
answered the same prompts with the same seeds. `paired_test` says besides how surprising a difference is, and `holm`
corrects for many of them. In go numbers [seeds, answers].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from caft_lens._support.errors import BadArgument
from caft_lens._support.intervals import BLOCK, CONFIDENCE, RESAMPLES, Floats, Interval, checked, ends


def bootstrap_interval(
    values: ArrayLike,
    prompts: Sequence[object] | None = None,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The mean of one arm with its interval, over seeds and prompts.

    Args:
        values: [seeds, answers], or [answers] of a single seed; booleans for a share. Column j answers one prompt.
        prompts: [answers], which prompt each answer belongs to (any hashable); by default each is its own. Answers to
            one prompt are drawn together.
        resamples: How many resamples; the ends of a 95 % interval from 10,000 are good to a fiftieth of its width.
        confidence: Share of intervals that should contain the truth.
        seed: Of the resampling, so that the same answers give the same interval.

    Returns:
        The interval. With one seed it is over prompts alone and says so in `over`.

    Raises:
        ValueError: On empty or ragged values, NaN, or prompts of another length.

    Example:
        >>> answers = np.arange(1000) < 200
        >>> print(bootstrap_interval([answers]))
        20.0 % (17.6 to 22.6)
        >>> print(bootstrap_interval(np.zeros((1, 1000))), bootstrap_interval([answers]).over)
        0 % (0 to 0.37) prompts
    """
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
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The mean of `a - b` with its interval; both arms see the same resampled seeds and prompts.

    Args:
        a: [seeds, answers] of one arm.
        b: [seeds, answers] of the other: the same seeds and prompts in the same order.
        prompts, resamples, confidence, seed: As in `bootstrap_interval`.

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
    difference, draws, binary = _paired(a, b, prompts, resamples, seed)
    return _interval(difference, *_paired_ends(difference, draws, binary, confidence))


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    prompts: Sequence[object] | None = None,
    *,
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
    difference, draws, binary = _paired(a, b, prompts, resamples, seed)
    interval = _interval(difference, *_paired_ends(difference, draws, binary, confidence))

    def is_significant(p: float) -> bool:
        low, high = _paired_ends(difference, draws, binary, 1 - p)
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


def _paired(
    a: ArrayLike, b: ArrayLike, prompts: Sequence[object] | None, resamples: int, seed: int
) -> tuple[Floats, Floats, bool]:
    """The difference [seeds, answers], its mean under every resample, and whether both arms are yes or no."""
    first, second = checked(a), checked(b)
    if first.shape != second.shape:
        raise BadArgument(
            f"Paired arms need the same seeds and prompts, but their answers are {first.shape} and {second.shape} "
            f"[seeds, answers]; evaluate both with the same task, n and seeds."
        )
    difference = first - second
    binary = _is_binary(first) and _is_binary(second)
    return difference, _resampled(difference, prompts, resamples, seed), binary


def _paired_ends(difference: Floats, draws: Floats, binary: bool, confidence: float) -> tuple[float, float]:
    low, high = ends(draws, confidence)
    if binary:
        exact_low, exact_high = _exact_difference(difference, confidence)
        low, high = min(low, exact_low), max(high, exact_high)
    return low, high


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
    (low_a, high_a), (low_b, high_b) = (exact_binomial(count, pairs, confidence) for count in (only_a, only_b))
    share_a, share_b = only_a / pairs, only_b / pairs
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
