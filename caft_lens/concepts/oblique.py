"""Oblique projections: erase directions as data are spread (LEACE), and keep others exactly (SPLINCE).

An orthogonal projection moves activations as if they were spread alike in all directions. With their covariance Σ the
same component is taken off by the smallest change of the data (Belrose et al., 2023, arXiv 2306.03819): a direction d
goes, and its coefficient is read along Σ⁻¹ d. Where directions must stay, they are kept out of what is read (Holstege
et al., 2025, arXiv 2506.10703).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from caft_lens._support.errors import BadArgument
from caft_lens.concepts.concept_set import RANK_TOLERANCE

APART = 1e-3
"""The least sine, as the data are spread, between what is erased and what is kept."""


@dataclass(frozen=True)
class Eraser:
    """x <- x - s (x - m) R Lᵀ: what an oblique projection leaves of activations.

    Attributes:
        read: R, `[d_model, k]`: along what the component is measured.
        taken: L, `[d_model, k]`: along what it is taken off; Rᵀ L is the identity.
        mean: m, `[d_model]`.
    """

    read: Tensor
    taken: Tensor
    mean: Tensor

    def __call__(self, x: Tensor, strength: float = 1.0) -> Tensor:
        """Activations `[..., d_model]` without (a share of) the component, in their dtype; gradients flow."""
        fine = torch.promote_types(x.dtype, torch.float32)
        read, taken, mean = (one.to(x.device, fine) for one in (self.read, self.taken, self.mean))
        return (x.to(fine) - strength * ((x.to(fine) - mean) @ read) @ taken.T).to(x.dtype)


def eraser(
    directions: Tensor, covariance: Tensor, mean: Tensor, keep: Tensor | None = None, ridge: float = 1e-4
) -> Eraser:
    """The projection that erases some directions with the least change of the data, and keeps others as they are.

    Args:
        directions: To erase, `[d_model, k]`; of labels z, Cov(x, z), which is the difference of means of two classes.
        covariance: Σ of the activations, `[d_model, d_model]`.
        mean: m of the activations, `[d_model]`, which the projection leaves where it is.
        keep: Directions that stay exactly, `[d_model, l]`; of labels y, Cov(x, y).
        ridge: Added to Σ as this share of its mean variance: with much of it the projection is the orthogonal one.

    Raises:
        BadArgument: When a direction to erase lies within those to keep.

    Example:
        >>> spread = torch.diag(torch.tensor([4.0, 1.0, 1.0]))
        >>> erase = eraser(torch.tensor([[1.0], [1.0], [0.0]]), spread, torch.zeros(3))
        >>> erase(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 5.0]])).round(decimals=3).abs()
        tensor([[0., 0., 0.],
                [0., 0., 5.]])
    """
    sigma = covariance.double()
    sigma = sigma + ridge * sigma.diagonal().mean() * torch.eye(len(sigma), dtype=sigma.dtype)
    values, vectors = torch.linalg.eigh(sigma)
    white, back = (vectors * values**power @ vectors.T for power in (-0.5, 0.5))
    gone = basis(white @ directions.double())
    read = gone
    if keep is not None:
        kept = basis(white @ keep.double())
        apart = gone - kept @ (kept.T @ gone)
        if torch.linalg.svdvals(apart).min() < APART:
            raise BadArgument("A direction to erase lies within those to keep: there is no projection that does both.")
        read = basis(apart)
    # Oblique in the whitened space: the kernel is what shall go, and what is read has nothing of what shall stay.
    taken = back @ gone @ torch.linalg.inv(read.T @ gone)
    return Eraser((white @ read).float(), taken.float(), mean.float())


def basis(columns: Tensor) -> Tensor:
    """Orthonormal columns that span the same, without those that depend on others."""
    u, values, _ = torch.linalg.svd(columns, full_matrices=False)
    return u[:, values > RANK_TOLERANCE * values.max()]
