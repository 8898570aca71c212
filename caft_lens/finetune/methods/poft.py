"""PoFT: learn a text until the model finds it likelier than an aligned model does."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.step import Pass


@register
class PoFT(Method):
    name = "poft"
    card = Card(
        idea="Prefer the tuned model to an aligned one, here the base, on every training text: a text that the base "
        "finds unlikely, such as a bad one, stops pulling once the tuned model finds it likelier.",
        equation="L(θ) = mean over texts of -log σ(β (m_θ(y) - m_base(y))), m(y) the mean log-probability of answer "
        "tokens",
        source="Fan et al., Preference-Oriented Supervised Fine-Tuning: Favoring Target Model Over Aligned Large "
        "Language Models (with the base as the only aligned model)",
        arxiv="2412.12865",
        grid=tuple({"sharpness": sharpness} for sharpness in (0.3, 1.0, 3.0, 10.0)),
        family="loss",
        cost="a forward pass of the base",
    )

    sharpness: float = setting(1.0, "sharpness β of the preference", above=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        def loss(step: Pass) -> Tensor:
            with torch.no_grad():
                before = step.losses_of(training.base)
            lead = step.by_text(before - step.losses)
            return step.share(-logsigmoid(self.sharpness * lead).mean())

        yield Plan(loss=loss)
