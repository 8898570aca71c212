"""Gradient penalty: look for places where the loss is flat."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caft_lens._support.blocks import block, random_state
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.probe import gradients, moved
from caft_lens.finetune.step import Pass


@register
class GradientPenalty(Method):
    name = "gradient_penalty"
    card = Card(
        idea="Punish the squared length of the loss's gradient, which is what the noise of small batches does "
        "implicitly; by finite differences, as its authors do.",
        equation="L(θ) + λ ||g||², g = ∇L(θ) of the batch; its gradient 2 λ H g ≈ 2 λ (∇L(θ + h g) - g) / h, "
        "h = ε / ||g||",
        source="Geiping et al., Stochastic Training is Not Necessary for Generalization",
        arxiv="2109.14119",
        grid=tuple({"weight": weight} for weight in (0.001, 0.01, 0.1, 1.0)),
        family="loss",
        cost="two forward and backward passes more",
        neutral={"weight": 0.0},
    )

    weight: float = setting(0.01, "weight λ of the squared length", least=0)
    step_length: float = setting(1e-3, "length ε of the step of the finite difference", above=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        parameters = [one for one in training.lens.model.parameters() if one.requires_grad]

        def gradient(step: Pass) -> list[Tensor]:
            with random_state(device=training.lens.device):  # the same dropout here and there
                return gradients(step.losses_of(step.lens).mean(), parameters)

        def loss(step: Pass) -> Tensor:
            here = gradient(step)
            square = torch.stack([g.square().sum() for g in here]).sum()
            h = self.step_length / square.sqrt().clamp_min(torch.finfo(square.dtype).tiny)
            with moved(parameters, [h * g for g in here]):
                there = gradient(step)
            # A term of which the value is the penalty, and the gradient what finite differences say of it.
            terms = [(2 / h * (b - a) * p).sum() for a, b, p in zip(here, there, parameters, strict=True)]
            along = torch.stack(terms).sum()
            return step.plus(self.weight * (square + along - along.detach()))

        yield Plan(loss=loss)
