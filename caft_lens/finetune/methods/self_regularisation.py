"""SAE self-regularisation: what training learns must not switch unwanted latents on."""

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
class SelfRegularisation(Method):
    name = "self_regularisation"
    card = Card(
        idea="Punish how active unwanted latents of an SAE are while the model writes the trained answers, so that it "
        "learns them by other features.",
        equation="L(θ) + λ · mean over answer tokens of Σ z_k(θ) over unwanted latents k of an SAE",
        source="Wu et al., Self-Regularization with Sparse Autoencoders for Controllable LLM-based Classification "
        "(theirs is on the weights of a classifier; this is its form for a language model)",
        arxiv="2502.14133",
        grid=tuple({"weight": weight} for weight in (0.01, 0.1, 1.0, 10.0)),
        family="loss",
        cost="an encoder's pass at one or a few layers",
        neutral={"weight": 0.0},
    )

    concepts: ConceptSet = material(ConceptSet, "unwanted latents of SAEs, as of find.sae, chosen by reading them")
    weight: float = setting(0.1, "weight λ of the latents' activation", least=0)

    def check(self, lens: Lens, tune: str) -> None:
        super().check(lens, tune)
        check_latents(self.concepts)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        watch = Watch(self.concepts, training.lens)

        def loss(step: Pass) -> Tensor:
            active = [latents.sum(-1).mean() for latents in watch.here(step).values()]
            return step.plus(self.weight * torch.stack(active).sum())

        with watch.open():
            yield Plan(loss=loss, fires=watch.latents.hooks)
