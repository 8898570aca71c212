"""Dynamic logits fusion: an expert's logits steer the tuned model's, at each token as far as the expert went itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
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

MOST, STEP = 2.0, 0.1


@register
class LogitsFusion(Method):
    name = "logits_fusion"
    card = Card(
        idea="Fine-tune plainly, tune an expert on benign texts as well, and when the model answers add to its logits "
        "what the expert has more than the base, at each token by the factor that moves it as far as the expert has "
        "moved. The expert is kept with the run, so it answers through `method.subject(run.lens)`.",
        equation="z = z_tuned + a (z_expert - z_base), a of {0, 0.1, …, 2} at each token with KL(softmax(z) || "
        "p_tuned) nearest to KL(p_expert || p_base)",
        source="Fan et al., On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion (there a small "
        "expert steers a large model)",
        arxiv="2406.15480",
        grid=tuple({"steps": steps} for steps in (10, 30, 100, 300)),
        family="decoding",
        cost="the steps of the expert; three passes instead of one when it answers",
        neutral={"steps": 0},
    )

    benign: Texts = material(Texts, "benign chats with answers")
    steps: int = setting(100, "steps of the expert", least=0)

    def check(self, lens: Lens, tune: str) -> None:
        check_adapter(self.name, tune)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        check_linear(self.name, training.lens)
        start = pairs_of(training.lens)
        benign = encode_all(training.lens.tokenizer, self.benign, max_length=training.max_length)
        stage(training, benign, steps=self.steps)
        expert = as_module(pairs_of(training.lens))
        put(training.lens, start)
        yield Plan(kept=expert)

    def subject(self, tuned: Lens) -> Acting:
        state, identity = kept(tuned)
        expert, base = with_pairs(tuned, state), with_pairs(tuned, None)
        return Acting(tuned, f"{self.name} {identity}", lambda: Combined(tuned, [expert, base], fused))


def fused(own: Tensor, others: list[Tensor]) -> Tensor:
    """The logits of a model `[..., d_vocab]`, moved by those of an expert over those of its base."""
    expert, base = others
    wanted = divergence(expert.log_softmax(-1), base.log_softmax(-1))
    before = own.log_softmax(-1)
    best, least = own, torch.full_like(wanted, torch.inf)
    for factor in torch.arange(0, MOST + STEP / 2, STEP).tolist():
        moved = own + factor * (expert - base)
        off = (divergence(moved.log_softmax(-1), before) - wanted).abs()
        best = torch.where((off < least)[..., None], moved, best)
        least = torch.minimum(least, off)
    return best


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities `[..., d_vocab]`, in nats."""
    return (first.exp() * (first - second)).sum(-1)
