"""LoRAMoE: an adapter of several experts, between which a router chooses token by token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.finetune.adapters import check_adapter, check_linear
from caft_lens.finetune.kept import kept
from caft_lens.finetune.methods.mix_benign import mixed
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.routers import Routers
from caft_lens.finetune.step import Pass
from caft_lens.model.acting import Acting
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens
    from caft_lens.text.batching import Batch


@register
class LoRAMoE(Method):
    name = "lora_moe"
    card = Card(
        idea="Part the adapters of the MLPs into experts that a router weighs at every token, mix general texts into "
        "the data, and let one half of the experts see more of these: they keep what the base knows while the others "
        "learn the task. The routers are kept with the run, so it answers through `method.subject(run.lens)`.",
        equation="h = W x + s Σ_i softmax(G x)_i B_i A_i x; L(θ) + β CV²(I ⊙ Q), Q the routing of experts summed over "
        "each text, I = 1 + δ where expert and text are both of the task or both general, else 1 - δ",
        source="Dou et al., LoRAMoE: Alleviating World Knowledge Forgetting in Large Language Models via MoE-Style "
        "Plugin (δ is 0.1, and β 0 in the script that they ship)",
        arxiv="2312.09979",
        grid=({}, {"balance": 0.1}, {"experts": 2}, {"experts": 2, "balance": 0.1}),
        family="weights",
        cost="a share of general texts more (nothing where max_steps is given); routers in each pass, also later",
        neutral={"experts": 1, "share": 0.0, "balance": 0.0},
    )

    general: Texts = material(Texts, "general texts with answers, unlike what is tuned on")
    experts: int = setting(4, "experts; they share the rank of the adapter", least=1)
    share: float = setting(0.25, "share of general texts among all", least=0, below=1)
    balance: float = setting(0.0, "weight β of the balance between experts", least=0)
    delta: float = setting(0.1, "how much more an expert of the same kind as a text is wanted", least=0, below=1)

    def check(self, lens: Lens, tune: str) -> None:
        check_adapter(self.name, tune)

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        return mixed(texts, self.general, self.share, seed)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        check_linear(self.name, lens)
        if self.experts == 1:  # between which there is nothing to choose
            yield Plan()
            return
        mask: list[Tensor] = []  # of the batch in flight: which tokens count, and the kind of each text, 1 for the task
        routed: dict[str, Tensor] = {}

        def before(batch: Batch, number: int) -> None:
            mask[:] = batch.attention_mask.to(lens.device), (batch.index < len(training.given)).to(lens.device)
            routed.clear()

        def loss(step: Pass) -> Tensor:
            tokens, task = mask
            unlike = [variation(gates * tokens[..., None], task, self.delta) for gates in routed.values()]
            return step.plus(self.balance * torch.stack(unlike).mean())

        lens.model.routers = Routers(lens, self.experts)
        try:
            with lens.model.routers.open(lens, routed):
                yield Plan(before=before, loss=loss, extra=lens.model.routers, kept=lens.model.routers)
        finally:
            del lens.model.routers

    def subject(self, tuned: Lens) -> Lens | Acting:
        if self.experts == 1:
            return tuned
        weights, identity = kept(tuned)
        routers = Routers(tuned, self.experts)
        routers.load_state_dict(weights)
        return Acting(tuned, f"{self.name} {self.experts} {identity}", partial(routers.open, tuned))


def variation(gates: Tensor, task: Tensor, delta: float) -> Tensor:
    """CV²(I ⊙ Q): how unevenly experts are used, where those of a text's own kind may be used more.

    Args:
        gates: Weights of the experts at each token, 0 where there is padding, `[batch, pos, n_experts]`.
        task: Which texts are of the task, bool `[batch]`; the second half of the experts is.
        delta: How much more.
    """
    of_task = torch.arange(gates.shape[-1], device=gates.device) >= gates.shape[-1] // 2
    wanted = torch.where(of_task[None] == task[:, None], 1 + delta, 1 - delta)
    used = wanted * (gates.sum(1) / gates.sum((1, 2))[:, None])
    return used.var(unbiased=False) / used.mean().square()
