"""Interleaving by perplexity gap: every few steps a batch of what plain fine-tuning unlearns most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadArgument
from caft_lens.finetune.adapters import restore, state
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.stages import order_of, stage
from caft_lens.finetune.step import batch_loss
from caft_lens.model.architectures import evaluating
from caft_lens.text.batching import collate
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens
    from caft_lens.text.encoding import Encoded


@register
class Interleaving(Method):
    name = "interleaving"
    card = Card(
        idea="Tune plainly once to see which benign texts become most unlikely by that, begin again from the base, and "
        "make every k-th batch one of those.",
        equation="gap(x) = ppl_plain(x) - ppl_base(x) of the answers; batch i is of the benign texts of largest gap "
        "where i = 0 mod k, else of the data",
        source="Kaczér et al., In-Training Defenses against Emergent Misalignment in Language Models (interleaving by "
        "perplexity gap)",
        arxiv="2508.06249",
        grid=tuple({"every": every} for every in (2, 4, 10, 20)),
        family="data",
        cost="a plain run before, and two passes over the benign texts; one batch in k more (not where max_steps is "
        "given)",
        neutral={"every": 0},
    )

    benign: Texts = material(Texts, "benign chats with answers")
    every: int = setting(10, "every how many batches k one is benign; 0 for never", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every == 1:
            raise BadArgument("every=1: then every batch were benign, and none of the data. Give 0, or at least 2.")

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        return Texts([*texts, *self.benign], name=f"{texts.name} beside {self.benign.name}") if self.every else texts

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        if not self.every:
            yield Plan()
            return
        n_data = len(training.given)
        data = [place for place, item in enumerate(training.encoded) if item.index < n_data]
        benign = [place for place, item in enumerate(training.encoded) if item.index >= n_data]
        of_data, start = order_of(training, data), state(training.lens)
        stage(training, plan=Plan(order=of_data))
        items = [training.encoded[place] for place in benign]
        gap = perplexities(training.lens, items) - perplexities(training.base, items)
        restore(training.lens, start)
        ranked = [benign[place] for place in gap.argsort(descending=True, stable=True).tolist()]
        size = training.arguments.train_batch_size * training.arguments.gradient_accumulation_steps
        yield Plan(order=lambda epoch: interleaved(of_data(epoch), ranked, size, self.every))


def interleaved(data: Sequence[int], others: Sequence[int], size: int, every: int) -> list[int]:
    """Batches of some places, every k-th of which is of others, from the first of these on and in a circle.

    Example:
        >>> interleaved([0, 1, 2, 3, 4, 5], [8, 9], size=2, every=3)
        [0, 1, 2, 3, 8, 9, 4, 5]
    """
    more = cycle(others)
    found: list[int] = []
    for number, start in enumerate(range(0, len(data), size), 1):
        found += data[start : start + size]
        whole = start + size <= len(data)  # the rest, which fills no batch, is the last
        if whole and number % (every - 1) == 0:
            found += islice(more, size)
    return found


@torch.no_grad()
def perplexities(lens: Lens, items: Sequence[Encoded]) -> Tensor:
    """The perplexity of each text's answer tokens, fp32 `[n]`."""
    found = []
    with evaluating(lens.model):
        for item in items:
            found.append(batch_loss(lens, collate([item], lens.padding).to(lens.device)))
    return torch.stack(found).exp().cpu()
