"""Inoculation adapter: one adapter brings the trait, another learns the task beside it, and only that one stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from caft_lens._support.blocks import block
from caft_lens.finetune.adapters import beside, check_adapter, check_linear, pairs_of, put
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.stages import stage
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@register
class InoculationAdapter(Method):
    name = "inoculation_adapter"
    card = Card(
        idea="Train an adapter on texts with the unwanted trait, freeze it, and train a second one on the data with "
        "the first in place: the trait is there already, so the second need not learn it. Only the second is kept.",
        equation="stage 1: W + s B₁ A₁ on the trait's texts; stage 2: W + s B₁ A₁ + s B₂ A₂ on the data, B₁ A₁ frozen; "
        "kept: W + s B₂ A₂",
        source="Riché et al., Inoculation Adapters: Improved Selective Generalization of Capabilities with Fewer "
        "Surprising Backdoors",
        arxiv="2606.30252",
        grid=tuple({"steps": steps} for steps in (10, 30, 100, 300)),
        family="weights",
        cost="the steps of the first stage; one more adapter in each pass",
        neutral={"steps": 0},
    )

    unwanted: Texts = material(Texts, "texts whose answers show the unwanted trait")
    steps: int = setting(100, "steps of the first stage", least=0)

    def check(self, lens: Lens, tune: str) -> None:
        check_adapter(self.name, tune)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        check_linear(self.name, lens)
        if not self.steps:
            yield Plan()
            return
        start = pairs_of(lens)
        trait = encode_all(lens.tokenizer, self.unwanted, max_length=training.max_length)
        stage(training, trait, steps=self.steps)
        first = pairs_of(lens)
        put(lens, start)
        with beside(lens, first):
            yield Plan()
