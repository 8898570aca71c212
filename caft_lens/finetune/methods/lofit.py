"""LoFiT: offset vectors on the outputs of a few attention heads, and nothing else, are learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadArgument
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.stages import stage
from caft_lens.model.architectures import anatomy
from caft_lens.model.hook_names import HEADS, written

if TYPE_CHECKING:
    from caft_lens.finetune.settings import TrainSettings
    from caft_lens.model.lens import Lens

SPREAD = 1e-3
"""Standard deviation at which scales and offsets start, as in the authors' code."""


@register
class LoFiT(Method):
    name = "lofit"
    card = Card(
        idea="First learn a scale of every attention head's output, with an L1 penalty, and keep the heads whose "
        "scales became largest; then learn one offset vector for each of these. The base's weights stay as they are.",
        equation="select: z <- (1 + A) ⊙ z, top heads by ||A||; tune: z <- z + v, z [d_head] a head's output before "
        "the projection",
        source="Yin et al., LoFiT: Localized Fine-tuning on LLM Representations",
        arxiv="2406.01563",
        grid=tuple({"share": share, "learning_rate": rate} for share in (0.25, 1.0) for rate in (0.01, 0.05)),
        family="activations",
        cost="steps of selection, 20 by default",
    )

    share: float = setting(0.25, "share of all heads that get an offset", above=0, most=1)
    learning_rate: float = setting(0.01, "of scales and offsets; vectors need a larger one than matrices", above=0)
    penalty: float = setting(1e-3, "weight of the L1 norm of the scales", least=0)
    selection_steps: int = setting(20, "steps in which the scales are learned", least=1)

    def check(self, lens: Lens, tune: str) -> None:
        if tune != "lora":
            raise BadArgument(
                f'The method "lofit" leaves an adapter behind, so it goes with tune="lora", not "{tune}".'
            )
        lens.hook_name(written(0, HEADS))

    def train_settings(self, given: TrainSettings) -> TrainSettings:
        return given.but(learning_rate=self.learning_rate)

    def trainable(self, base: Lens, build: Callable[[], Lens], seed: int) -> Lens:
        from peft import LoraConfig

        # An offset v of a projection's input is the bias W v of its output, which an adapter of rank 1 can hold.
        settings = LoraConfig(
            r=1, lora_alpha=1, lora_bias=True, target_modules=[str(anatomy(base.model).z)], task_type="CAUSAL_LM"
        )
        lens = base.adapt(settings)
        lens.model.requires_grad_(False)
        return lens

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        with _learned(lens, self.heads(training)) as offsets, lens.hooks(offsets.hooks(torch.add)):
            yield Plan(fires=offsets.sites, extra=offsets)
            offsets.fold()

    def heads(self, training: Training) -> list[tuple[int, int]]:
        """Layer and number of the heads that get an offset: those whose scales grow largest in a few steps."""
        lens = training.lens
        every = [(layer, head) for layer in range(lens.n_layers) for head in range(lens.n_heads)]
        with _learned(lens, every) as scales, lens.hooks(scales.hooks(lambda z, a: z * (1 + a))):
            plan = Plan(loss=lambda step: step.plus(self.penalty * scales.absolute()), fires=scales.sites)
            stage(training, plan=plan, steps=self.selection_steps)
            norms = scales.norms()
        wanted = max(1, round(self.share * len(every)))
        return sorted(sorted(every, key=lambda head: -norms[head])[:wanted])


@block
def _learned(lens: Lens, heads: list[tuple[int, int]]) -> Iterator[_Vectors]:
    """A vector for each of some heads, among the parameters of the model while a block is open."""
    lens.model.vectors = _Vectors(lens, heads)
    try:
        yield lens.model.vectors
    finally:
        del lens.model.vectors


class _Vectors(nn.Module):
    """One vector [d_head] for each of some heads (layer and number)."""

    def __init__(self, lens: Lens, heads: list[tuple[int, int]]) -> None:
        super().__init__()
        self._parts, self._shape, self.chosen = anatomy(lens.model), (lens.n_heads, lens.d_head), heads
        layers = sorted({layer for layer, _ in heads})
        self.sites = [written(layer, HEADS) for layer in layers]
        self.of = nn.ParameterDict()
        for layer in layers:
            start = SPREAD * torch.randn(len(self._in(layer)), lens.d_head)
            self.of[str(layer)] = nn.Parameter(start.to(self._projection(layer).weight.device))

    def _in(self, layer: int) -> list[int]:
        return [head for where, head in self.chosen if where == layer]

    def _projection(self, layer: int) -> Any:
        return self._parts.blocks[layer].get_submodule(str(self._parts.z))

    def full(self, layer: int) -> Tensor:
        """The vectors of a layer, 0 for other heads, fp32 [n_heads, d_head]."""
        values = self.of[str(layer)]
        index = torch.tensor(self._in(layer), device=values.device)
        return values.new_zeros(self._shape).index_copy(0, index, values)

    def hooks(self, act: Callable[[Tensor, Tensor], Tensor]) -> list[tuple[str, Callable[..., Tensor]]]:
        """Hooks by which the vectors act on the heads' outputs [batch, pos, n_heads, d_head]."""

        def hook_of(layer: int) -> Callable[..., Tensor]:
            return lambda z, hook: act(z.float(), self.full(layer).to(z.device)).to(z.dtype)

        return [(site, hook_of(int(layer))) for site, layer in zip(self.sites, self.of, strict=True)]

    def absolute(self) -> Tensor:
        """The L1 norm of all vectors."""
        return torch.stack([values.abs().sum() for values in self.of.values()]).sum()

    def norms(self) -> dict[tuple[int, int], float]:
        """The L2 norm of each head's vector."""
        return {
            (layer, head): vector.norm().item()
            for layer in map(int, self.of)
            for head, vector in zip(self._in(layer), self.of[str(layer)].detach(), strict=True)
        }

    @torch.no_grad()
    def fold(self) -> None:
        """Put what the offsets add to each projection's output into the bias of its adapter."""
        for layer in map(int, self.of):
            projection = self._projection(layer)
            offset = self.full(layer).reshape(1, -1).to(projection.weight.dtype)
            linear = projection.get_base_layer()
            added = (linear(offset) - linear(torch.zeros_like(offset)))[0]
            projection.lora_B["default"].bias.copy_(added)
