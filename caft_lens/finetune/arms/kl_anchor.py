"""KL anchor: stay with the base on general prompts while learning the narrow task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from caft_lens.finetune.arms.protocol import Card, Plan, Training, TrainingArm, material, setting
from caft_lens.finetune.arms.registry import register
from caft_lens.finetune.trainer import LengthGrouped
from caft_lens.text import Batch, Encoded, Texts, collate, encode_all, padding_id


@register
@dataclass(frozen=True, repr=False)
class KLAnchor(TrainingArm):
    name = "kl_anchor"
    card = Card(
        idea="Punish every change of the model's distribution on general text: what is left is the narrow solution, which learns "
        "the task and nothing else.",
        equation="L(θ) + λ · mean over answer tokens of general text of KL(p_base || p_θ), in nats",
        source="Soligo et al., Emergent Misalignment is Easy, Narrow Misalignment is Hard (their loss has a weighted KL term; which "
        "text, and the direction of the KL, are ours)",
        arxiv="2602.07852",
        grid=tuple({"weight": weight} for weight in (0.1, 0.3, 1.0, 3.0)),
    )

    general: Texts = material(Texts, "general text with answers, unlike what is tuned on")
    weight: float = setting(1.0, "weight λ of the anchor", above=0)
    batch_size: int = setting(16, "general texts beside every batch", least=1)

    @contextmanager
    def during(self, training: Training) -> Iterator[Plan]:
        lens, base = training.lens, training.base
        encoded = encode_all(lens.tokenizer, self.general, max_length=training.max_length)
        batches = batches_of(encoded, self.batch_size, padding_id(lens.tokenizer), training.seed)

        def loss(step: int) -> Tensor:
            batch = batches(step).to(lens.device)
            with torch.no_grad():
                before = _learned_logits(base.model, batch)
            with lens.roles_as(batch.roles):
                after = _learned_logits(lens.model, batch)
            return self.weight * kl_div(after, before, reduction="batchmean", log_target=True)

        yield Plan(loss=loss)


def _learned_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Log-probabilities before every token that training would learn, fp32 [n_tokens, d_vocab]."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    return logits[:, :-1][batch.loss[:, 1:]].float().log_softmax(-1)


def batches_of(encoded: Sequence[Encoded], size: int, pad_id: int, seed: int) -> Callable[[int], Batch]:
    """The i-th batch of endless passes over some texts: a function of seed and i alone, so that a resumed run sees the same.

    Args:
        encoded: The texts.
        size: Texts in a batch; the last of a pass may have fewer.
        pad_id: Of the padding.
        seed: Of the order.
    """
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
