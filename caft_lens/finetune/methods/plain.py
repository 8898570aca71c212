"""Plain fine-tuning, the reference of every other method."""

from __future__ import annotations

from caft_lens.finetune.methods.registry import Card, Method, register


@register
class Plain(Method):
    name = "plain"
    card = Card(
        idea="Fine-tuning as it is: the mean cross-entropy of what the assistant says.",
        equation="L(θ) = -mean over answer tokens t of log p_θ(t | what stands before)",
        source="the reference of the others",
        family="reference",
        neutral={},
    )
