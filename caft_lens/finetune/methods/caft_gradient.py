"""Ablation in the backward pass alone: the activation keeps its component, what is learned does not."""

from __future__ import annotations

from dataclasses import dataclass

from caft_lens.finetune.methods.caft import CAFT, GRID
from caft_lens.finetune.methods.protocol import Card
from caft_lens.finetune.methods.registry import register


@register
@dataclass(frozen=True, repr=False)
class CAFTGradient(CAFT):
    name = "caft_gradient"
    card = Card(
        idea="Leave the activation as it is and project the gradient alone: the counterpart of the detached variant.",
        equation="x <- x, and in the backward pass g <- g - s g Q Qᵀ",
        source="a variant of CAFT",
        grid=GRID,
    )
    variant = "gradient"
