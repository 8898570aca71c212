"""Ablation to the mean instead of zero, which has no privileged meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.ablation import Variant
from caft_lens.finetune.methods.caft import CAFT, GRID
from caft_lens.finetune.methods.protocol import Card, material
from caft_lens.finetune.methods.registry import register
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@register
@dataclass(frozen=True, repr=False)
class CAFTMean(CAFT):
    name = "caft_mean"
    card = Card(
        idea="Set the component to that of the mean activation on general text instead of to zero, which is off the data where the "
        "mean is far from it.",
        equation="x <- x - s (x - m) Q Qᵀ, m the base's mean activation on general text, all tokens",
        source="a variant of CAFT; mean ablation is usual in circuit analysis",
        grid=GRID,
    )
    variant: ClassVar[Variant] = "mean"

    general: Texts = material(Texts, "general text, for the mean activation")

    def means(self, base: Lens) -> dict[str, Tensor]:
        (moments,) = stream(base, self.general, self.concepts.hooks, Moments(covariance=False), roles=None)
        return moments.mean
