"""Half fine-tuning: half of every block stays what it was."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from caft_lens.finetune.methods.registry import Card, Method, register
from caft_lens.model.architectures import anatomy

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@register
class HalfFineTuning(Method):
    name = "half_finetuning"
    card = Card(
        idea="Freeze a random half of every block, drawn from the seed, so that it keeps what the base knew: "
        "matrices of attention, matrices of the MLP, norms. With LoRA a frozen matrix gets no update; what is "
        "outside the blocks is left as it is.",
        equation="θ <- θ - η M ⊙ ∇L(θ), M one number a matrix: 0 for two of four in attention, of three in the MLP "
        "for two in half of the blocks and for one in the others",
        source="Hui et al., HFT: Half Fine-Tuning for Large Language Models",
        arxiv="2404.18466",
        family="weights",
    )

    def trainable(self, base: Lens, build: Callable[[], Lens], seed: int) -> Lens:
        lens = build()
        for parameter in frozen_half(anatomy(lens.model).blocks, seed):
            parameter.requires_grad_(False)
        return lens


def frozen_half(blocks: Sequence[nn.Module], seed: int) -> list[nn.Parameter]:
    """The trained parameters of a random half of the modules of each block, category by category."""
    rng = random.Random(seed)
    grouped = [_modules_of(block) for block in blocks]
    frozen: list[nn.Parameter] = []
    for category in dict.fromkeys(name for block in grouped for name in block):
        # Of an odd number, one more is frozen in half of the blocks than in the others.
        more = set(rng.sample(range(len(blocks)), len(blocks) // 2))
        for number, block in enumerate(grouped):
            modules = block.get(category, {})
            count = (len(modules) + (number in more)) // 2
            frozen += [one for name in rng.sample(sorted(modules), count) for one in modules[name]]
    return frozen


def _modules_of(block: nn.Module) -> dict[str, dict[str, list[nn.Parameter]]]:
    """The trained parameters of a block by category (`self_attn`, `mlp`, `norms`) and by module."""
    found: dict[str, dict[str, list[nn.Parameter]]] = defaultdict(lambda: defaultdict(list))
    for name, parameter in block.named_parameters():
        if not parameter.requires_grad:
            continue
        module = name.split(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0]
        is_norm = "norm" in module.rpartition(".")[2] or "ln_" in module
        found["norms" if is_norm else module.partition(".")[0]][module].append(parameter)
    return found
