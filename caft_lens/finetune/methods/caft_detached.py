"""Ablation in the forward pass alone: what is learned is not kept from the directions."""

from __future__ import annotations

from dataclasses import dataclass

from caft_lens.finetune.methods.caft import CAFT, GRID
from caft_lens.finetune.methods.protocol import Card
from caft_lens.finetune.methods.registry import register


@register
@dataclass(frozen=True, repr=False)
class CAFTDetached(CAFT):
    name = "caft_detached"
    card = Card(
        idea="Ablate in the forward pass, and let the gradient pass as if nothing had been ablated: is it the missing activation "
        "that protects, or the missing gradient?",
        equation="x <- x - s sg(x Q Qᵀ), where sg stops the gradient",
        source="a variant of CAFT",
        grid=GRID,
    )
    variant = "detached"
