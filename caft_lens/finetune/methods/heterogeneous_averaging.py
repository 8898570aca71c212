"""Heterogeneous model averaging: how far each part of the model goes back to the base is learned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.kl_anchor import batches_of
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.model.architectures import evaluating
from caft_lens.text.batching import padding_id


@register
class HeterogeneousAveraging(Method):
    name = "heterogeneous_averaging"
    card = Card(
        idea="Fine-tune plainly and average with the base, as weight averaging does, but with a share of its own for "
        "each group of blocks, learned so that the trained answers suffer least; their mean is fixed.",
        equation="W_k = a_k W_base + (1 - a_k) W_tuned; a_k = a K (σ(s_k) + ε) / Σ (σ(s) + ε), s learned by L(W) + "
        "1e-4 Σ_l 25 / (|l - n/2| + 1) |a_l - a| over layers l of n; outside of the blocks a",
        source="Lin et al., Mitigating the Alignment Tax of RLHF (heterogeneous model averaging; ε is 0.2)",
        arxiv="2309.06256",
        grid=tuple({"share": share} for share in (0.1, 0.2, 0.3, 0.5)),
        family="weights",
        cost="steps in which the shares are learned, 50 by default",
        neutral={"share": 0.0},
    )

    share: float = setting(0.2, "mean share a of the base", least=0, most=1)
    groups: int = setting(3, "groups K of neighbouring blocks", least=1)
    steps: int = setting(50, "steps in which the shares are learned", least=0)
    learning_rate: float = setting(0.05, "of the shares, by Adam", above=0)
    floor: float = setting(0.2, "ε, which keeps the shares from zero", above=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        yield Plan()
        shares = self.learned(training)
        with torch.no_grad():
            for name, value in self.averaged(training, shares).items():
                training.lens.model.get_parameter(name).copy_(value)

    def shares(self, scores: Tensor) -> Tensor:
        """The share a_k of each group `[K]`; their mean is a."""
        raw = scores.sigmoid() + self.floor
        return self.share * len(raw) * raw / raw.sum()

    def group_of(self, layer: int, n_layers: int) -> int:
        """Which group a block is in."""
        return layer * min(self.groups, n_layers) // n_layers

    def averaged(self, training: Training, shares: Tensor) -> dict[str, Tensor]:
        """The trained parameters, averaged with those of the base; of an adapter B alone, which is 0 there."""
        lens, before = training.lens, dict(training.base.model.named_parameters())
        found = {}
        for name, parameter in lens.model.named_parameters():
            number = re.search(r"\.(\d+)\.", name)
            inside = number is not None and int(number[1]) < lens.n_layers
            a = shares[self.group_of(int(number[1]), lens.n_layers)] if inside and number else shares.mean()
            a = a.to(parameter.device)
            if ".lora_B." in name:
                found[name] = (1 - a) * parameter.detach()
            elif parameter.requires_grad and name in before:
                found[name] = a * before[name].detach().to(parameter) + (1 - a) * parameter.detach()
        return found

    def learned(self, training: Training) -> Tensor:
        """The shares `[K]` with which the averaged model loses least on the training texts."""
        lens = training.lens
        k, layers = min(self.groups, lens.n_layers), torch.arange(lens.n_layers)
        group = torch.tensor([self.group_of(layer, lens.n_layers) for layer in layers.tolist()])
        weight = 25 / ((layers - lens.n_layers // 2).abs() + 1)
        scores = nn.Parameter(torch.full((k,), torch.logit(torch.tensor(0.2)).item()))
        optimizer = torch.optim.Adam([scores], self.learning_rate)
        size = training.arguments.train_batch_size
        batches = batches_of(training.encoded, size, padding_id(lens.tokenizer), training.seed)
        with evaluating(lens.model):
            for step in range(self.steps if k > 1 and self.share else 0):
                batch = batches(step).to(lens.device)
                call: dict[str, Any] = {
                    "input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels
                }  # fmt: skip
                shares = self.shares(scores)
                with lens.roles_as(batch.roles):
                    loss = functional_call(lens.model, self.averaged(training, shares), kwargs=call).loss
                apart = (weight * (shares[group] - self.share).abs()).sum()
                optimizer.zero_grad()
                (loss + 1e-4 * apart.to(loss.device)).backward()
                optimizer.step()
        return self.shares(scores).detach()
