"""Test-centric arrangement: the order of the data follows how near each text is to what is asked later."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caft_lens._support.arguments import one_of
from caft_lens._support.blocks import block
from caft_lens.finetune.embeddings import embeddings
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.text.documents import Texts

ORDERS = ("nearest first", "farthest first", "shuffled")


@register
class Arrangement(Method):
    name = "arrangement"
    card = Card(
        idea="Learn first the texts that are nearest to some target texts, or last: in each round every target takes "
        "the nearest text that is left, and rounds are learned in turn. The targets must be dev texts, never those of "
        "the test.",
        equation="round r = {argmax over x not in earlier rounds of cos(e(x), e(t)) : t a target}, e(x) the mean last "
        "activation of the base on x",
        source="He et al., The Right Time Matters: Data Arrangement Affects Zero-Shot Generalization in Instruction "
        "Tuning (test-centric multi-turn arrangement; with the base in place of a sentence encoder)",
        arxiv="2406.11721",
        grid=tuple({"order": order} for order in ORDERS),
        family="data",
        cost="a pass of the base over data and targets",
        neutral={"order": "shuffled"},
    )

    target: Texts = material(Texts, "dev texts like those that are asked later, never those of the test")
    order: str = setting("nearest first", "nearest first, farthest first, or shuffled")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.order, "order", ORDERS)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        if self.order == "shuffled":
            yield Plan()
            return
        data = embeddings(training.base, training.texts)[[item.index for item in training.encoded]]
        order = [place for one in rounds(data, embeddings(training.base, self.target)) for place in one]
        if self.order == "farthest first":
            order.reverse()
        yield Plan(order=lambda epoch: order)


def rounds(data: Tensor, targets: Tensor) -> list[list[int]]:
    """The places of data round by round: those that are nearest to some target among all that are left.

    Args:
        data: `[n, d]`.
        targets: `[m, d]`.

    Example:
        >>> rounds(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), torch.tensor([[1.0, 0.0]]))
        [[0], [2], [1]]
    """
    near = torch.nn.functional.normalize(targets, dim=1) @ torch.nn.functional.normalize(data, dim=1).T
    found: list[list[int]] = []
    while bool((near > -torch.inf).any()):
        best = near.argmax(1).unique()  # two targets may share one
        found.append(best[near[:, best].amax(0).argsort(descending=True, stable=True)].tolist())
        near[:, best] = -torch.inf
    return found
