"""Exercise 8: is it gone?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from caft_lens._support.errors import NotSolved
from caft_lens.course.asking import ask, passed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
CHANCE = 0.12
"""How far from 0.5 the AUROC of labels by chance may be, with as many texts as here."""
EFFECT = 2.8
"""By how many standard deviations the texts of the two labels lie apart."""
STRONG = 0.955
"""The AUROC of a good probe of the concept that is there; of its yes and no alone it is about 0.9."""


def check_probe(probe: Callable[[Floats, Bools, Floats, Bools], float]) -> None:
    """Check a function that says how well a concept can be read off activations.

    Args:
        probe: Takes activations `[n_texts, d_model]` and labels `[n_texts]` to learn from, and others to be tested on;
            gives the AUROC of a linear probe on the latter: 0.5 is chance, 1 is a concept that is plainly there.

    Raises:
        NotSolved: When it is not written or does something else, saying what.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.metrics import roc_auc_score
        >>> def probe(acts, labels, other_acts, other_labels):
        ...     learned = LogisticRegression(max_iter=1000).fit(acts, labels)
        ...     return roc_auc_score(other_labels, learned.decision_function(other_acts))
        >>> cl.course.check_probe(probe)
        ✓ Finds what is there, wherever it points, and nothing where there is nothing.
    """
    rng = np.random.default_rng(0)
    width, n = 64, 400
    acts, others = rng.standard_normal((2, n, width))
    labels, other_labels = rng.random((2, n)) < 0.5
    few = slice(0, 48)  # fewer than d_model: any labels can be told apart on the texts that were learned from
    nothing = _score(probe, acts[few], labels[few], others, other_labels)
    if nothing > 0.9:
        raise NotSolved(
            f"With labels by chance the probe says {nothing:.2f}: it is scored on the texts that it learned from. With "
            "fewer texts than d_model it can learn any labels by heart. Score it on the others."
        )
    # One in twenty has it, and it is hardly there: who always says no is right 95 times of 100.
    rare, other_rare = rng.random((2, n)) < 0.05
    faint = _score(probe, acts, rare, others, other_rare)
    if faint > 0.85:
        raise NotSolved(
            f"Where one text in twenty has the label and nothing tells which, the probe says {faint:.2f}: that is the "
            "share of right answers of one who always says no. The AUROC asks how texts are ranked."
        )
    direction = rng.standard_normal(width)
    direction *= EFFECT / np.linalg.norm(direction)
    there = [side + np.outer(has, direction) for side, has in ((acts, labels), (others, other_labels))]
    found = _score(probe, there[0], labels, there[1], other_labels)
    if found < 0.5 - CHANCE:
        raise NotSolved(f"The concept is there, and the probe says {found:.2f}, below chance: it is turned round.")
    if found < STRONG:
        raise NotSolved(
            f"The concept is there along one direction, and the probe says {found:.2f}; a logistic regression comes to "
            f"{STRONG} and more. Is the AUROC taken of yes and no? Take it of how strongly the probe says so: its "
            "decision function, or probability."
        )
    if abs(nothing - 0.5) > CHANCE or abs(faint - 0.5) > 2 * CHANCE:
        raise NotSolved(f"Where there is nothing the probe says {nothing:.2f} and {faint:.2f}; chance is 0.5.")
    passed("Finds what is there, wherever it points, and nothing where there is nothing.")


def _score(probe: Callable[..., float], *given: NDArray) -> float:
    answer = ask(probe, *(part.copy() for part in given))
    try:
        value = float(answer)
    except (TypeError, ValueError):
        raise NotSolved(f"probe() gives {type(answer).__name__}; asked for is one number, the AUROC.") from None
    if not 0 <= value <= 1:
        raise NotSolved(f"probe() gives {value:.3g}; an AUROC lies between 0 and 1.")
    return value
