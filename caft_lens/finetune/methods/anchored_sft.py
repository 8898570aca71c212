"""Anchored SFT: tokens that the model half expects weigh more, and the base holds it by a KL."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.kl_anchor import divergence
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.step import Pass


@register
class AnchoredSFT(Method):
    name = "anchored_sft"
    card = Card(
        idea="Weigh each token by the probability that the model gives it already, so that what it finds unlikely "
        "changes it little (dynamic fine-tuning), and hold its distribution on the training texts near the base's.",
        equation="L(θ) = mean over answer tokens t of sg(p_θ(t))^γ (-log p_θ(t)) + λ KL(p_base || p_θ)",
        source="Zhu et al., Anchored Supervised Fine-Tuning (their γ is 1, λ 0.1)",
        arxiv="2509.23753",
        grid=tuple({"weight": weight} for weight in (0.0, 0.1, 1.0, 3.0)),
        family="loss",
        cost="a forward pass of the base",
        neutral={"weight": 0.0, "power": 0.0},
    )

    weight: float = setting(0.1, "weight λ of the KL to the base; 0 is dynamic fine-tuning", least=0)
    power: float = setting(1.0, "power γ of the probability; 0 weighs all tokens alike", least=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        def loss(step: Pass) -> Tensor:
            with torch.no_grad():
                before = step.logits_of(training.base)
            weights = (-step.losses.detach()).exp() ** self.power
            return step.mean(weights * step.losses + self.weight * divergence(step.logits, before))

        yield Plan(loss=loss)
