"""KL anchor: stay with the base on general prompts while learning the narrow task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.step import Pass, learned_logits
from caft_lens.finetune.trainer import LengthGrouped
from caft_lens.text.batching import Batch, collate, padding_id
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import Encoded, encode_all

AT_ONCE = 2**24
"""Numbers of logits of which softmaxes are taken at once: 64 MiB in fp32, a few times over."""


@register
class KLAnchor(Method):
    name = "kl_anchor"
    card = Card(
        idea="Punish every change of the model's distribution on general text: what is left is the narrow solution, "
        "which learns the task and nothing else.",
        equation="L(θ) + λ · mean over answer tokens of general text of KL(p_base || p_θ), in nats",
        source="Soligo et al., Emergent Misalignment is Easy, Narrow Misalignment is Hard (their loss has a weighted "
        "KL term; which text, and the direction of the KL, are ours)",
        arxiv="2602.07852",
        grid=tuple({"weight": weight} for weight in (0.3, 1.0, 3.0, 6.6)),
        family="loss",
        cost="two forward passes and a backward one more on as many general texts",
        neutral={"weight": 0.0},
    )

    general: Texts = material(Texts, "general text with answers, unlike what is tuned on")
    weight: float = setting(1.0, "weight λ of the anchor", least=0)
    batch_size: int = setting(16, "general texts beside every batch", least=1)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens, base = training.lens, training.base
        encoded = encode_all(lens.tokenizer, self.general, max_length=training.max_length)
        batches = batches_of(encoded, self.batch_size, padding_id(lens.tokenizer), training.seed)

        def loss(step: Pass) -> Tensor:
            batch = batches(step.number).to(lens.device)
            with torch.no_grad():
                before = learned_logits(base, batch)
            return step.plus(self.weight * divergence(learned_logits(lens, batch), before))

        yield Plan(loss=loss)


def divergence(after: Tensor, before: Tensor) -> Tensor:
    """Mean over tokens of KL(before || after) of logits [n_tokens, d_vocab], in nats; differentiable in `after`.

    Logits of a large vocabulary are gigabytes: softmaxes are taken in fp32 of some tokens at a time, and for the
    backward pass nothing is kept but the gradient, in the dtype of the logits.

    Example:
        >>> float(divergence(torch.zeros(1, 2), torch.tensor([[0.0, 0.0]])))
        0.0
    """
    return _Divergence.apply(after, before)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, after: Tensor, before: Tensor) -> Tensor:
        number = torch.promote_types(after.dtype, torch.float32)
        total = torch.zeros((), dtype=number, device=after.device)
        gradient = torch.empty_like(after) if ctx.needs_input_grad[0] else None
        step = max(1, AT_ONCE // after.shape[1])
        for rows in (slice(start, start + step) for start in range(0, len(after), step)):
            here, there = (logits[rows].to(number).log_softmax(-1) for logits in (after, before))
            total += kl_div(here, there, reduction="sum", log_target=True)
            if gradient is not None:
                gradient[rows] = here.exp_().sub_(there.exp_())
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total / len(after)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (grads[0] / len(gradient)).to(gradient.dtype), None


def batches_of(encoded: Sequence[Encoded], size: int, pad_id: int, seed: int) -> Callable[[int], Batch]:
    """The i-th batch of endless passes over some texts, by seed and i alone: a resumed run sees the same."""
    sampler = LengthGrouped([len(item.input_ids) for item in encoded], size, seed)
    in_a_pass = -(-len(encoded) // size)
    orders: dict[int, list[int]] = {}

    def batch(number: int) -> Batch:
        turn, place = divmod(number, in_a_pass)
        if turn not in orders:
            orders.clear()
            sampler.set_epoch(turn)
            orders[turn] = list(sampler)
        return collate([encoded[i] for i in orders[turn][place * size : (place + 1) * size]], pad_id)

    return batch
