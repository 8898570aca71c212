"""Masked Thought: parts of the answer are hidden from the model while it learns to write it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.text.batching import Batch


@register
class MaskedThought(Method):
    name = "masked_thought"
    card = Card(
        idea="Replace tokens of the answer by a mask where the model reads them, not where it learns them: it has to "
        "lean on the prompt and on what is farther back instead of on the last few tokens. The share rises with time.",
        equation="x_t <- mask with probability p for answer tokens that are read; p = P min(1, step / (2/3 of steps))",
        source="Chen et al., Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning "
        "Learning of Language Models",
        arxiv="2403.02178",
        grid=tuple({"most": most} for most in (0.1, 0.2, 0.4, 0.6)),
        family="data",
        neutral={"most": 0.0},
    )

    most: float = setting(0.2, "probability P that an answer token is masked, at last", least=0, most=1)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        passes = training.arguments.gradient_accumulation_steps
        tokenizer = training.lens.tokenizer
        # Most language models have no mask: the padding stands for nothing either.
        mask = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else training.lens.padding
        rising = 2 / 3 * steps_of(training)

        def before(batch: Batch, number: int) -> Tensor:
            probability = self.most * min(1.0, number // passes / rising)
            generator = torch.Generator().manual_seed(1_000_003 * training.seed + number)
            hidden = torch.rand(batch.input_ids.shape, generator=generator) < probability
            return batch.input_ids.masked_fill(hidden.to(batch.input_ids.device) & batch.loss, mask)

        yield Plan(before=before)


def steps_of(training: Training) -> int:
    """The optimizer steps of a run."""
    arguments = training.arguments
    if arguments.max_steps > 0:
        return arguments.max_steps
    size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return max(1, round(arguments.num_train_epochs * -(-len(training.encoded) // size)))
