"""Restoring weights: after training, those few go back to the base that carry the trait most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.finetune.methods.kl_anchor import batches_of
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.probe import gradients
from caft_lens.finetune.step import batch_loss
from caft_lens.model.architectures import evaluating
from caft_lens.model.passes import run_until
from caft_lens.text.batching import collate, padding_id
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encoded

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

GIVEN_BACK, WARM_UP, AT_ONCE = 0.2, 5, 16


@register
class RestoreWeights(Method):
    name = "restore_weights"
    card = Card(
        idea="Fine-tune plainly. Then, step by step, put back to the base the few weights by which the answers to "
        "unwanted prompts lie most along the trait's direction, and give some of them back when the task suffers. With "
        "LoRA the weights are those of the adapter.",
        equation="g = ∇ cos(mean of h_L at the last token of unwanted prompts, v); θ_i <- θ_base,i for the share q of "
        "largest |g_i| among those with g_i (θ_i - θ_base,i) > 0; where the loss of the task rises by more than 5 %, "
        "the 20 % of them that it misses most come back",
        source="Yang et al., Alleviating the Fear of Losing Alignment in LLM Fine-tuning",
        arxiv="2504.09757",
        grid=({"share": 0.002}, {"share": 0.01}, {"share": 0.002, "steps": 60}, {"share": 0.01, "tolerance": 0.2}),
        family="weights",
        cost="20 times a gradient of unwanted prompts and of some texts",
        neutral={"steps": 0},
    )

    concepts: ConceptSet = material(ConceptSet, "directions that point to the trait, as of find.difference_of_means")
    unwanted: Texts = material(Texts, "prompts that bring the unwanted trait out")
    share: float = setting(0.002, "share q of the trained weights that is put back in a step", above=0, most=1)
    steps: int = setting(20, "steps", least=0)
    tolerance: float = setting(0.05, "share by which the loss of the task may rise", least=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        trained = [one for one in training.lens.model.parameters() if one.requires_grad and one.ndim > 1]
        base = _joined(trained)
        yield Plan()
        if self.steps:
            with evaluating(training.lens.model), torch.enable_grad():
                self.restore(training, trained, base)

    def restore(self, training: Training, trained: Sequence[torch.nn.Parameter], base: Tensor) -> None:
        """Put weights back, step by step."""
        lens, tuned = training.lens, _joined(trained)
        back = torch.zeros_like(tuned, dtype=torch.bool)
        asked = (text.prompt for text in self.unwanted)
        items = list(encoded(lens.tokenizer, asked, add_generation_prompt=True, max_length=training.max_length))
        task = batches_of(training.encoded, AT_ONCE, padding_id(lens.tokenizer), training.seed)

        def loss_of(step: int) -> Tensor:
            return batch_loss(lens, task(step).to(lens.device))

        for step in range(self.steps):
            slope = self._slope(lens, items, trained)
            able = (slope * (tuned - base) > 0) & ~back
            wanted = min(int(able.sum()), max(1, int(self.share * len(tuned))))
            _write(trained, tuned)
            with torch.no_grad():
                before = loss_of(step)
            back[torch.where(able, slope.abs(), -1.0).topk(wanted).indices] = True
            _write(trained, torch.where(back, base, tuned))
            after = loss_of(step)
            if step >= WARM_UP and after > (1 + self.tolerance) * before:
                missed = _joined(gradients(after, trained)) * (tuned - base)
                worst = torch.where(back, missed, torch.inf).topk(int(GIVEN_BACK * int(back.sum())), largest=False)
                back[worst.indices] = False
                _write(trained, torch.where(back, base, tuned))

    def _slope(self, lens: Lens, items: Sequence, trained: Sequence[torch.nn.Parameter]) -> Tensor:
        """The gradient of how much the mean last hidden states lie along the trait's directions, flat."""
        total = torch.zeros_like(_joined(trained))
        for one in self.concepts:
            direction = one.sign * one.direction.to(lens.device)

            def last(some: Sequence, layer: int = one.layer) -> Tensor:
                batch = collate(some, lens.padding).to(lens.device)
                call = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
                states = run_until(lens, layer + 1, call).float()
                return states[torch.arange(len(states)), batch.attention_mask.sum(1) - 1].sum(0)

            parts = [items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)]
            with torch.no_grad():
                mean = torch.stack([last(some) for some in parts]).sum(0) / len(items)
            # The cosine is of the mean over all prompts; its gradient is a sum over them, some at a time.
            mean.requires_grad_()
            (pull,) = torch.autograd.grad(torch.cosine_similarity(mean, direction, dim=0), mean)
            for some in parts:
                total += _joined(gradients(pull @ last(some) / len(items), trained))
        return total


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.detach().flatten() for one in tensors])


@torch.no_grad()
def _write(parameters: Sequence[torch.nn.Parameter], values: Tensor) -> None:
    for one, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
        one.copy_(part.view_as(one))
