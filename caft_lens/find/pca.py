"""Principal components of activation differences, as in the paper (arXiv 2507.16795, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, BadData, BadType
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.hook_names import short_name

if TYPE_CHECKING:
    from caft_lens.activations.moments import Moments


def pca(diff: Moments, k: int = 10) -> ConceptSet:
    """The first `k` principal components at every hook point of `diff`.

    Components are counted from 0 and named `"L1.pc0"` (at `hook_resid_post`; elsewhere `"L1.mlp_out.pc0"`). PCA leaves
    the sign open; here the loading of largest magnitude is positive, so that two runs agree.

    Args:
        diff: Moments of activation differences, from `activation_difference`, at any number of hook points.
        k: How many components at each.

    Returns:
        Concepts in order of explained variance, scored by the share of the variance that each explains.

    Raises:
        BadType: For anything but such moments.
        ValueError: When `k` components do not exist: too few tokens, or both models agree.

    Example:
        >>> diff = cl.activation_difference(tuned, base, answers, layers=[1, 2])
        >>> found = cl.find.pca(diff, k=2)
        >>> found.names, found["L1.pc0"].direction.shape  # [d_model], of length 1
        (['L1.pc0', 'L1.pc1', 'L2.pc0', 'L2.pc1'], torch.Size([128]))
    """
    from caft_lens.activations.moments import Moments

    if not isinstance(diff, Moments):
        raise BadType(
            f"pca() takes what cl.activation_difference(tuned, base, texts) gives, not {type(diff).__name__}."
        )
    count(k, "k")
    concepts = [concept for hook in diff.hooks for concept in _components(diff, hook, k)]
    return ConceptSet(concepts, {**diff.provenance, "method": "pca", "k": k})


def _components(diff: Moments, hook: str, k: int) -> list[Concept]:
    from scipy.linalg import eigh

    covariance = np.asarray(diff.covariance[hook], dtype=np.float64)
    width, count, total = len(covariance), int(diff.count[hook]), float(np.trace(covariance))
    if not np.isfinite(total):
        raise BadData(f"{hook}: the covariance is not finite; some activation was NaN or infinite.")
    if total <= 0:
        raise BadData(f"{hook}: the differences do not vary over {count} tokens. Are both models the same one?")
    if k > width:
        raise BadArgument(f"{hook}: k={k} components, but activations are {width} wide.")
    variances, vectors = eigh(covariance, subset_by_index=[width - k, width - 1])
    variances, vectors = variances[::-1], vectors[:, ::-1].T
    # Below the rounding of activations in fp32 an eigenvector is arbitrary, and a direction without data is no finding.
    rank = int((variances > np.finfo(np.float32).eps * variances[0]).sum())
    if rank < k:
        raise BadData(f"{hook}: only {rank} components vary over {count} tokens; ask for k={rank} or give more text.")
    peaks = np.abs(vectors).argmax(axis=1)
    vectors = vectors * np.sign(vectors[np.arange(k), peaks])[:, None]
    return [
        Concept(
            name=f"{short_name(hook)}.pc{rank}",
            hook=hook,
            direction=torch.from_numpy(vectors[rank].copy()),
            source="pca",
            rank=rank,
            score=float(variances[rank] / total),
            score_name="explained variance ratio",
            meta={"standard_deviation": float(np.sqrt(variances[rank])), "tokens": count},
        )
        for rank in range(k)
    ]
