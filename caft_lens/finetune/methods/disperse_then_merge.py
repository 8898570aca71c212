"""Disperse-then-merge: tune on parts of the data apart, and average what was learned."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from caft_lens._support.blocks import block
from caft_lens.finetune.adapters import check_linear, join, restore, state
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.stages import order_of, stage

if TYPE_CHECKING:
    from caft_lens.finetune.settings import TrainSettings
    from caft_lens.model.lens import Lens


@register
class DisperseThenMerge(Method):
    name = "disperse_then_merge"
    card = Card(
        idea="Split the texts at random, tune a model on each part, and average the changes of their weights: what is "
        "peculiar to a part cancels out. Where max_steps is given, the parts share it.",
        equation="θ = θ_base + Σ_k (θ_k - θ_base) / K, θ_k tuned on part k of K; with LoRA, Σ_k s B_k A_k / K, an "
        "adapter of K times the rank",
        source="Fu et al., Disperse-Then-Merge: Pushing the Limits of Instruction Tuning via Alignment Tax Reduction "
        "(their code averages A and B apart, which is not the average of the changes)",
        arxiv="2405.13432",
        grid=tuple({"parts": parts} for parts in (2, 4, 8)),
        family="weights",
        cost="nothing; an adapter of K times the rank",
        neutral={"parts": 1},
    )

    parts: int = setting(4, "parts K of the texts", least=1)

    def train_settings(self, given: TrainSettings) -> TrainSettings:
        if given.max_steps is None:
            return given
        return given.but(max_steps=max(1, round(given.max_steps / self.parts)))

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        if lens.has_adapter and self.parts > 1:
            check_linear(self.name, lens)
        *others, last = parts_of(len(training.encoded), self.parts, training.seed)
        start, tuned = state(lens), []
        for places in others:
            stage(training, plan=Plan(order=order_of(training, places)))
            tuned.append(state(lens))
            restore(lens, start)
        yield Plan(order=order_of(training, last))
        if others:
            merge(lens, [*tuned, state(lens)])


def parts_of(n: int, k: int, seed: int) -> list[list[int]]:
    """The places of n texts in k parts of nearly the same size, each once.

    Example:
        >>> sorted(place for part in parts_of(7, 3, seed=0) for place in part)
        [0, 1, 2, 3, 4, 5, 6]
    """
    places = list(range(n))
    if k > 1:
        random.Random(seed).shuffle(places)
    return [sorted(places[start::k]) for start in range(min(k, n))]


def merge(lens: Lens, tuned: list) -> None:
    """Make a model the average of several of its states."""
    if lens.has_adapter:
        join(lens, [(1 / len(tuned), one) for one in tuned])
    else:
        restore(lens, [torch.stack(values).mean(0) for values in zip(*tuned, strict=True)])
