"""Linear probing, then fine-tuning: the head learns the task before features move."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadArgument
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.stages import stage

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@register
class LPFT(Method):
    name = "lp_ft"
    card = Card(
        idea="Train the unembedding alone first, then all as usual: once the head fits, the gradient that reaches the "
        "features is small, and they move less. With LoRA the head gets an adapter too.",
        equation="stage 1: L(W_U), features of the base; stage 2: L(θ) from there",
        source="Tomihari and Sato, Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective "
        "(there the head of a classifier)",
        arxiv="2405.16747",
        grid=tuple({"steps": steps} for steps in (10, 30, 100, 300)),
        family="schedule",
        cost="the steps of the first stage, whose backward pass ends at the head",
        neutral={"steps": 0},
    )

    steps: int = setting(100, "steps of the first stage", least=0)

    def check(self, lens: Lens, tune: str) -> None:
        tied = lens.hf.get_output_embeddings().weight is lens.hf.get_input_embeddings().weight
        if tune == "full" and self.steps and tied:
            raise BadArgument(
                f'The unembedding of {lens.name} is its embedding, so the method "lp_ft" cannot train it alone: give '
                'tune="lora", which puts an adapter on the unembedding.'
            )

    def trainable(self, base: Lens, build: Callable[[], Lens], seed: int) -> Lens:
        lens = build()
        if not self.steps or not lens.has_adapter:
            return lens
        usual = lens.model.peft_config["default"]
        config = copy.copy(usual)
        config.base_model_name_or_path = None
        head = base.hf.get_output_embeddings()
        config.target_modules = {*usual.target_modules, next(n for n, m in base.hf.named_modules() if m is head)}
        lens = base.adapt(config)
        lens.model.peft_config["default"].base_model_name_or_path = usual.base_model_name_or_path
        return lens

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        head = {id(one) for one in lens.hf.get_output_embeddings().parameters()}
        others = [one for one in lens.model.parameters() if one.requires_grad and id(one) not in head]
        for one in others if self.steps else ():
            one.requires_grad_(False)
        stage(training, steps=self.steps)
        for one in others:
            one.requires_grad_(True)
        yield Plan()
