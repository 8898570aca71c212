"""PACE: noise on what an adapter adds, and two noisy passes that have to agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.finetune.adapters import check_adapter, check_linear, wired
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.step import Pass

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens
    from caft_lens.text.batching import Batch


@register
class PACE(Method):
    name = "pace"
    card = Card(
        idea="Multiply what the adapter adds by noise, the same for all tokens of a text, and punish the difference of "
        "two noisy passes: gradients stay small, and the tuned model near the base. No noise when it answers.",
        equation="h = W x + n ⊙ s B A x, n ~ N(1, σ_b²) one number a text and channel, σ_b from σ in the first block "
        "down to σ/N in the last of N; L(θ) + λ · mean over answer tokens of ||f₁ - f₂||², f logits",
        source="Ni et al., PACE: marrying generalization in PArameter-efficient fine-tuning with Consistency "
        "rEgularization",
        arxiv="2409.17137",
        grid=({"noise": 0.3, "weight": 0.01}, {"noise": 0.3, "weight": 0.1}, {"noise": 1.0, "weight": 0.1}, {}),
        family="loss",
        cost="a second forward and backward pass",
        neutral={"noise": 0.0, "weight": 0.0},
    )

    noise: float = setting(1.0, "deviation σ of the noise in the first block", least=0)
    weight: float = setting(1.0, "weight λ of the squared difference", least=0)

    def check(self, lens: Lens, tune: str) -> None:
        check_adapter(self.name, tune)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        check_linear(self.name, lens)
        drawn = [0, 0]  # the number of the pass in flight, and which of its two

        def noisy(layer: int, number: int) -> Callable[..., Tensor]:
            sigma = self.noise * (1 - layer / lens.n_layers)

            def multiply(module: Any, args: Any, added: Tensor) -> Tensor:
                # By numbers alone: a resumed run, and a recomputed pass, draw the same.
                seed = hash((training.seed, *drawn, number)) % 2**63
                generator = torch.Generator(added.device).manual_seed(seed)
                shape = (len(added), 1, added.shape[-1])
                noise = torch.randn(shape, generator=generator, device=added.device, dtype=added.dtype)
                return added * (1 + sigma * noise)

            return multiply

        def before(batch: Batch, number: int) -> None:
            drawn[:] = number, 0

        def loss(step: Pass) -> Tensor:
            drawn[1] = 1
            apart = (step.logits.float() - step.logits_of(lens).float()).square().sum(-1)
            return step.plus(self.weight * apart.mean())

        parts = {
            (layer, name): one.lora_B["default"]
            for layer, inside in enumerate(lens.anatomy.blocks)
            for name, one in inside.named_modules()
            if hasattr(one, "lora_B")
        }
        noise = {key: noisy(key[0], number) for number, key in enumerate(parts)}
        with wired(parts, noise):
            yield Plan(before=before, loss=loss)
