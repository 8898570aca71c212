"""Weight averaging with the base (WiSE-FT): part of the way back after plain fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting


@register
class WeightAveraging(Method):
    name = "weight_averaging"
    card = Card(
        idea="Fine-tune plainly, then interpolate between the weights of the base and the tuned ones.",
        equation="θ = (1 - a) θ_base + a θ_tuned; with LoRA, W_base + a s B A",
        source="Wortsman et al., Robust fine-tuning of zero-shot models (WiSE-FT)",
        arxiv="2109.01903",
        grid=tuple({"share": share} for share in (0.3, 0.5, 0.7, 0.9)),
        family="weights",
        neutral={"share": 1.0},
    )

    share: float = setting(0.5, "share a of the tuned weights", above=0, most=1)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        yield Plan()
        before = dict(training.base.model.named_parameters())
        with torch.no_grad():
            for name, parameter in training.lens.model.named_parameters():
                if ".lora_B." in name:
                    parameter.mul_(self.share)
                elif parameter.requires_grad and name in before:
                    parameter.copy_(before[name].to(parameter).lerp(parameter, self.share))
