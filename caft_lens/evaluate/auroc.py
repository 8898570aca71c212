"""Areas under the ROC curve, for many directions at once, and their bootstrap intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caft_lens._support.errors import BadData
from caft_lens._support.intervals import CONFIDENCE, ends

Floats = NDArray[np.float64]
RESAMPLES = 1_000
BLOCK = 4_000_000
"""Scores of units along directions that are held at a time: 32 MB."""


def auroc(scores: ArrayLike, has: ArrayLike) -> Floats:
    """Areas under the ROC curve `[k]`: the chance that something with the concept scores above something without.

    Scores are `[n]`, or `[n, k]` for k of them at once; `has` says which of the n have the concept. Ties count half.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
        array([0.75])
    """
    from scipy.stats import rankdata

    columns = np.asarray(scores, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    labels = both_kinds(np.asarray(has, dtype=bool), "scores")
    positive, negative = int(labels.sum()), int((~labels).sum())
    # Mann and Whitney's U from the ranks of those with the concept.
    ranks = rankdata(columns, axis=0)[labels].sum(axis=0)
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def draws(has: NDArray[np.bool_], resamples: int, seed: int) -> NDArray[np.uint8]:
    """How often each is drawn in each resample, `[resamples, n]`: the same for all directions, so drawn once."""
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, len(has)), dtype=np.uint8)
    block = max(1, BLOCK // len(has))
    for start in range(0, resamples, block):
        rows = slice(start, min(start + block, resamples))
        for side in (has, ~has):
            n = int(side.sum())
            draws[rows, side] = rng.multinomial(n, np.full(n, 1 / n), size=rows.stop - start)
    return draws


def interval(
    scores: Floats, has: NDArray[np.bool_], draws: NDArray[np.uint8], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The bootstrap interval of the AUROC of scores `[n]`; those with and without the concept are drawn apart."""
    order = np.argsort(scores, kind="stable")
    _, first = np.unique(scores[order], return_index=True)
    sorted_has = has[order]
    found = np.empty(len(draws))
    block = max(1, BLOCK // len(scores))
    for start in range(0, len(draws), block):
        drawn = draws[start : start + block, order].astype(np.float64)
        # Equal scores are one place each, of which half is below itself.
        with_it, without = (np.add.reduceat(drawn * side, first, axis=1) for side in (sorted_has, ~sorted_has))
        below = without.cumsum(axis=1) - without / 2
        found[start : start + block] = (with_it * below).sum(axis=1) / (has.sum() * (~has).sum())
    return ends(found, confidence)


def both_kinds(has: NDArray[np.bool_], what: str) -> NDArray[np.bool_]:
    """The labels, refused where all are alike."""
    positive, negative = int(has.sum()), int((~has).sum())
    if not positive or not negative:
        raise BadData(
            f"Of {len(has)} {what}, {positive} have the concept and {negative} do not: there have to be some of both."
        )
    return has
