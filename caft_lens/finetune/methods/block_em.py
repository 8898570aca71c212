"""BLOCK-EM: latents that cause a trait may not become more active than they are in the base."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.concepts.latents import check_latents
from caft_lens.finetune.latents import Watch
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.step import Pass
from caft_lens.model.lens import Lens


@register
class BlockEM(Method):
    name = "block_em"
    card = Card(
        idea="Punish latents of an SAE that cause the trait where fine-tuning raises them above the base's activation "
        "on the same text, and latents that prevent it where it lowers them.",
        equation="L(θ) + λ · mean over answer tokens of Σ relu(z_k - z_k,base)² over latents k of sign +1 "
        "+ Σ relu(z_k,base - z_k)² over those of sign -1",
        source="Ustaomeroglu and Qu, BLOCK-EM: Preventing Emergent Misalignment by Blocking Causal Features",
        arxiv="2602.00767",
        grid=tuple({"weight": weight} for weight in (0.1, 1.0, 10.0, 100.0)),
        family="loss",
        cost="a forward pass of the base up to the layer of the SAE, and its encoder's passes",
        neutral={"weight": 0.0},
    )

    concepts: ConceptSet = material(
        ConceptSet, "latents of SAEs that cause the trait (sign +1) or prevent it (sign -1), as of find.sae"
    )
    weight: float = setting(1.0, "weight λ of the squared changes", least=0)

    def check(self, lens: Lens, tune: str) -> None:
        super().check(lens, tune)
        check_latents(self.concepts)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        watch = Watch(self.concepts, training.lens)

        def loss(step: Pass) -> Tensor:
            now, before = watch.here(step), watch.of(training.base, step)
            changes = [watch.latents.signs(hook) * (now[hook] - before[hook]) for hook in now]
            return step.plus(self.weight * torch.stack([c.relu().square().sum(-1).mean() for c in changes]).sum())

        with watch.open():
            yield Plan(loss=loss, fires=watch.latents.hooks)
