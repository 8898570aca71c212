"""Guided dropout: more of it behind what the base needs little for general text, none behind what it needs most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.probe import gradients
from caft_lens.finetune.step import batch_loss
from caft_lens.model.architectures import ATTENTION, MLP
from caft_lens.model.hook_names import written
from caft_lens.text.batching import collate
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

SITES = {"hook_attn_out": ATTENTION, "hook_mlp_out": MLP}
"""What is dropped before it is added to the residual stream, and whose parameters say how much."""


@register
class GuidedDropout(Method):
    name = "guided_dropout"
    card = Card(
        idea="Order attention and MLPs of all blocks by how much general text needs them (their Fisher information in "
        "the base), and drop most of the outputs of those that it needs least, while training.",
        equation="p_l = P (1 - rank(F_l) / (n - 1)), F_l = mean of (∂ log p_base(text) / ∂θ_l)² over general texts and "
        "the parameters of module l of n; rank 0 is the least",
        source="Sharma et al., Information Guided Regularization for Fine-tuning Language Models (P is 0.1)",
        arxiv="2406.14005",
        grid=tuple({"most": most} for most in (0.05, 0.1, 0.2, 0.4)),
        family="schedule",
        cost="a backward pass of the base over some general texts, once",
        neutral={"most": 0.0},
    )

    general: Texts = material(Texts, "general text")
    most: float = setting(
        0.1, "probability P of dropout behind the module that general text needs least", least=0, below=1
    )
    n_texts: int = setting(64, "general texts that the Fisher information is taken on", least=1)

    def check(self, lens: Lens, tune: str) -> None:
        for site in SITES:
            lens.hook_name(written(0, site))

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        rates = rates_of(self.fisher(training), self.most)

        def drop(rate: float) -> Callable[..., Tensor]:
            return lambda x, hook: dropout(x, rate, training=lens.model.training)

        with lens.hooks([(hook, drop(rate)) for hook, rate in rates.items()]):
            yield Plan(fires=list(rates))

    def fisher(self, training: Training) -> dict[str, float]:
        """The mean squared gradient of each module's parameters, by the hook point of its output."""
        some = self.general.sample(min(self.n_texts, len(self.general)), seed=training.seed)
        model = training.base.fork()  # parameters of its own, over the same weights
        model.model.requires_grad_(True)
        modules = {
            written(layer, site): [p for name, p in one.named_parameters() if name.partition(".")[0] in names]
            for layer, one in enumerate(model.anatomy.blocks)
            for site, names in SITES.items()
        }
        sums = dict.fromkeys(modules, 0.0)
        for item in encode_all(model.tokenizer, some, max_length=training.max_length):
            loss = batch_loss(model, collate([item], model.padding).to(model.device))
            found: dict[Any, Tensor] = dict(zip(modules, _split(loss, list(modules.values())), strict=True))
            for hook, square in found.items():
                sums[hook] += float(square)
        return sums


def _split(loss: Tensor, groups: list[list[torch.nn.Parameter]]) -> list[Tensor]:
    """The mean squared gradient of a loss over each group of parameters."""
    found = iter(gradients(loss, [p for group in groups for p in group]))
    return [torch.cat([next(found).flatten() for _ in group]).square().mean() for group in groups]


def rates_of(fisher: dict[str, float], most: float) -> dict[str, float]:
    """The probability of dropout at each hook point: from `most` at the least Fisher information down to 0.

    Example:
        >>> rates_of({"a": 3.0, "b": 1.0, "c": 2.0}, 0.1)
        {'b': 0.1, 'c': 0.05, 'a': 0.0}
    """
    order = sorted(fisher, key=fisher.__getitem__)
    return {hook: most * (1 - rank / max(1, len(order) - 1)) for rank, hook in enumerate(order)}
