"""An estimate with its 95 % interval, and the interval of a ratio of sums over documents.

`caft_lens.evaluate.statistics` has the intervals over seeds and prompts.
"""

from __future__ import annotations

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


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """A ratio of sums over documents with its interval, as for a mean over tokens: documents are drawn, whole.

    Args:
        numerators: [documents].
        denominators: [documents]; their sum is not 0.
        resamples: As in `bootstrap_interval`.
        confidence: As in `bootstrap_interval`.
        seed: As in `bootstrap_interval`.

    Returns:
        The interval of sum / sum; `over` says that documents were drawn.

    Raises:
        ValueError: For lengths that differ, no document, NaN, or denominators that add up to 0.

    Example:
        >>> wrong, tokens = np.array([1, 0, 3, 2]), np.array([10, 12, 9, 11])
        >>> ratio_interval(wrong, tokens).mean == 6 / 42
        True
    """
    above, below = checked(numerators)[0], checked(denominators)[0]
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


def checked(values: ArrayLike) -> Floats:
    """Values as `[seeds, answers]`, finite.

    Raises:
        BadArgument: For ragged, empty or other shapes, NaN or infinity.
    """
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
