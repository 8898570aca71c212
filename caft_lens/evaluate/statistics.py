"""The one interval: 95 % from a hierarchical bootstrap, seeds first, then prompts (docs/concepts/evidence.md).

`bootstrap_interval` is for a share (or a mean) of one arm, `paired_interval` for the difference of two arms that
answered the same prompts with the same seeds, `ratio_interval` for a ratio of sums over documents. `paired_test` says
besides how surprising a difference is, and `holm` corrects for many of them. In go numbers [seeds, answers].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caft_lens._support.errors import BadArgument

RESAMPLES = 10_000
CONFIDENCE = 0.95
# Bounds the memory of one block of multinomial draws: 2M counts are 16 MB.
BLOCK = 2_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: The mean over seeds of each seed's mean, or the difference of two arms.
        low: Lower end.
        high: Upper end.
        n_seeds: Seeds behind it.
        n_answers: Answers behind it, all seeds together (for a difference: pairs of answers).
        over: What was resampled, "seeds, prompts", or "prompts" alone when there is a single seed: then the interval
            says nothing about how another seed would have come out.
        share: Whether it is a share, shown in percent; else scores, shown as they are.

    Example:
        >>> print(Interval(0.25, 0.2, 0.31, n_seeds=3, n_answers=3000))
        25.0 % (20.0 to 31.0)
        >>> print(Interval(71.25, 68.5, 74.0, n_seeds=3, n_answers=3000, share=False))
        71.2 (68.5 to 74)
    """

    mean: float
    low: float
    high: float
    n_seeds: int
    n_answers: int
    over: str = "seeds, prompts"
    share: bool = True

    def __str__(self) -> str:
        mean, low, high = self.shown
        return f"{mean}{' %' if self.share else ''} ({low} to {high})"

    @property
    def shown(self) -> tuple[str, str, str]:
        """Mean and ends as they are shown, a share in percent."""
        written = percent if self.share else _written
        return written(self.mean), written(self.low), written(self.high)

    def to_json(self) -> dict[str, float]:
        """`{"mean":, "low":, "high":}`."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def _written(score: float) -> str:
    """A score: three digits that count."""
    return f"{score:.3g}".replace("-", "−") if abs(score) < 1000 else f"{score:,.0f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as a percentage: one decimal, two below 1 % so that small rates do not read as none.

    Example:
        >>> percent(0.031), percent(0.0037), percent(0.0), percent(-0.0002)
        ('3.1', '0.37', '0', '−0.02')
    """
    value = 100 * share
    text = f"{value:.2f}" if abs(value) < 0.995 else f"{value:.1f}"
    text = "0" if float(text) == 0 else "100" if text == "100.0" else text
    return text.replace("-", "−")


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
        values: [seeds, answers], or [answers] of a single seed; booleans for a share. Column j of every seed answers
            the same prompt.
        prompts: [answers], which prompt each answer belongs to (any hashable); by default each is its own. Answers to
            one prompt are drawn together.
        resamples: How many resamples; the ends of a 95 % interval from 10,000 are good to about a fiftieth of its
            width.
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
    table = _values(values)
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
    first, second = _values(a), _values(b)
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


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """A ratio of sums over documents, [documents] both, with its interval: documents are drawn, whole.

    Raises:
        BadArgument: For lengths that differ, no document, NaN, or denominators that add up to 0.

    Example:
        >>> wrong, tokens = np.array([1, 0, 3, 2]), np.array([10, 12, 9, 11])
        >>> ratio_interval(wrong, tokens).mean == 6 / 42
        True
    """
    above, below = _values(numerators)[0], _values(denominators)[0]
    if len(above) != len(below):
        raise BadArgument(f"{len(above)} numerators for {len(below)} denominators: give one of each a document.")
    pairs = np.column_stack([above, below])
    total = pairs.sum(axis=0)
    if total[1] == 0:
        raise BadArgument("The denominators add up to 0: there is nothing to take a share of.")
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    block = max(1, BLOCK // len(pairs))
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn = rng.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=stop - start) @ pairs
        ratios[start:stop] = drawn[:, 0] / np.where(drawn[:, 1] == 0, np.nan, drawn[:, 1])
    low, high = ends(ratios, confidence)
    return Interval(float(total[0] / total[1]), low, high, 1, len(pairs), "documents")


def ends(draws: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Lower and upper end of an interval from what the resamples gave, `[resamples]`; NaN does not count.

    Example:
        >>> ends(np.arange(101.0), confidence=0.5)
        (25.0, 75.0)
    """
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


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


def _values(values: ArrayLike) -> Floats:
    try:
        table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    except ValueError as error:
        raise BadArgument(f"Every seed needs as many answers as the others, to the same prompts ({error}).") from error
    if table.ndim != 2 or table.size == 0:
        raise BadArgument(
            f"Expected answers as [seeds, answers] with at least one of each, got the shape {table.shape}."
        )
    if not np.isfinite(table).all():
        raise BadArgument(
            "There are NaN or infinite values among the answers; decide how they count before resampling."
        )
    return table


def _is_binary(table: Floats) -> bool:
    return bool(((table == 0) | (table == 1)).all())


def _interval(table: Floats, low: float, high: float) -> Interval:
    over = "seeds, prompts" if table.shape[0] > 1 else "prompts"
    return Interval(float(table.mean()), low, high, table.shape[0], table.size, over)
