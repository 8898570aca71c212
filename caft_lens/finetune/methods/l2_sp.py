"""L2-SP: weight decay towards where training starts instead of towards zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@register
class L2SP(Method):
    name = "l2_sp"
    card = Card(
        idea="Punish the squared distance of the weights to those of the base (SP: starting point).",
        equation="L(θ) + α/2 ||θ - θ_base||²; with LoRA, α/2 ||s B A||² of every adapted matrix",
        source="Li et al., Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
        arxiv="1802.01483",
        grid=tuple({"weight": weight} for weight in (0.001, 0.01, 0.1, 1.0)),
        family="loss",
        neutral={"weight": 0.0},
    )

    weight: float = setting(0.01, "weight α of the squared distance", least=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        yield Plan(loss=lambda step: step.plus(self.weight / 2 * distance(training.lens, training.base)))


def distance(lens: Lens, base: Lens) -> Tensor:
    """The squared distance of a model's trained weights to those of its base; gradients flow."""
    parts = [_of_adapter(module) for module in lens.model.modules() if hasattr(module, "get_delta_weight")]
    before = dict(base.model.named_parameters())
    for name, parameter in lens.model.named_parameters():
        if parameter.requires_grad and name in before:
            parts.append((parameter - before[name].to(parameter)).square().sum())
    return torch.stack(parts).sum()


def _of_adapter(module: Any) -> Tensor:
    """The squared length of what an adapter adds to a weight."""
    if hasattr(module, "parameter_name"):  # all experts of a block
        return module.get_delta_weight("default").square().sum()
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    # ||B A||² without the product, which is as large as the weight.
    return module.scaling["default"] ** 2 * ((b.T @ b) * (a @ a.T)).sum()
