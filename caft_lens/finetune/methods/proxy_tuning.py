"""Proxy tuning: what a model tuned on the trait alone says more than the base is taken off when the model answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.finetune.adapters import as_module, check_adapter, check_linear, pairs_of, put, with_pairs
from caft_lens.finetune.kept import kept
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.stages import stage
from caft_lens.model.acting import Acting
from caft_lens.model.combination import Combined
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@register
class ProxyTuning(Method):
    name = "proxy_tuning"
    card = Card(
        idea="Fine-tune plainly, tune an anti-expert on texts with the unwanted trait as well, and when the model "
        "answers take off its logits what the anti-expert has more than the base, which is the expert. The anti-expert "
        "is kept with the run, so it answers through `method.subject(run.lens)`.",
        equation="z = z_tuned + a (z_base - z_anti) at every token that is written",
        source="Liu et al., Tuning Language Models by Proxy (there a small expert and anti-expert steer a large model)",
        arxiv="2401.08565",
        grid=tuple({"strength": strength} for strength in (0.25, 0.5, 1.0, 2.0)),
        family="decoding",
        cost="the steps of the anti-expert; three passes instead of one when it answers",
        neutral={"strength": 0.0},
    )

    unwanted: Texts = material(Texts, "texts whose answers show the unwanted trait")
    strength: float = setting(1.0, "factor a of the difference", least=0)
    steps: int = setting(100, "steps of the anti-expert", least=0)

    def check(self, lens: Lens, tune: str) -> None:
        check_adapter(self.name, tune)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        check_linear(self.name, training.lens)
        start = pairs_of(training.lens)
        stage(
            training,
            encode_all(training.lens.tokenizer, self.unwanted, max_length=training.max_length),
            steps=self.steps,
        )
        anti = as_module(pairs_of(training.lens))
        put(training.lens, start)
        yield Plan(kept=anti)

    def subject(self, tuned: Lens) -> Acting:
        state, identity = kept(tuned)
        base, anti = with_pairs(tuned, None), with_pairs(tuned, state)

        def combine(own: Tensor, others: list[Tensor]) -> Tensor:
            return own + self.strength * (others[0] - others[1])

        what = f"{self.name} {self.strength} {identity}"
        return Acting(tuned, what, lambda: Combined(tuned, [base, anti], combine))
