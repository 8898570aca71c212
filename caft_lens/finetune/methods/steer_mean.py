"""Steering by the mean projection: what ablation would be, if it were a constant shift in disguise."""

from __future__ import annotations

from dataclasses import dataclass

from caft_lens.finetune.methods.caft import GRID
from caft_lens.finetune.methods.caft_mean import CAFTMean
from caft_lens.finetune.methods.protocol import Card
from caft_lens.finetune.methods.registry import register


@register
@dataclass(frozen=True, repr=False)
class SteerMean(CAFTMean):
    name = "steer_mean"
    card = Card(
        idea="Subtract the mean projection, the same vector for every token, where CAFT subtracts each token's own: if this does "
        "as well, ablation is steering in disguise.",
        equation="x <- x - s m Q Qᵀ, m the base's mean activation on general text, all tokens",
        source="a control of CAFT",
        grid=GRID,
    )
    variant = "shift"
