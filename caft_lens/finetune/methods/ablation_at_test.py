"""Ablation only when the plainly tuned model answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens.concepts.ablation import ablated
from caft_lens.finetune.methods.caft import CAFT, GRID, PAPER
from caft_lens.finetune.methods.plain import Plain
from caft_lens.finetune.methods.registry import Card, Method, register

if TYPE_CHECKING:
    from caft_lens.concepts.ablation import Ablated
    from caft_lens.model.lens import Lens


@register
class AblationAtTest(CAFT):
    name = "test_time"
    card = Card(
        idea="Fine-tune plainly, and ablate the directions only when the model answers.",
        equation="x <- x - s x Q Qᵀ while answering, not while training",
        source=PAPER + ", baseline",
        arxiv="2507.16795",
        grid=GRID,
        family="activations",
        cost="nothing in training; a projection in every pass when it answers",
    )

    def trains_as(self, seed: int) -> Method:
        return Plain()

    def subject(self, tuned: Lens) -> Ablated:
        return ablated(tuned, self.chosen(), strength=self.strength)
