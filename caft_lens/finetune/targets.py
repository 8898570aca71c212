"""What an adapter goes on: linear layers and experts of the decoder blocks, no router, vision tower or unembedding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from caft_lens._support.errors import BadArgument, nearest
from caft_lens.model.architectures import Anatomy, anatomy

ALL = "all-linear"
ROUTERS = ("gate", "router", "wg", "shared_expert_gate", "gate_network", "router_layer")
"""Names of layers that choose experts; a name alone is not enough where the width says that it is something else."""
NUMBERS = (
    "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts", "ffn_num_experts"
)  # fmt: skip


@dataclass(frozen=True)
class Targets:
    """What an adapter goes on, by full names: linear layers, and parameters of all experts of a block [n, d, d']."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]


def chosen(model: Any, targets: str | Sequence[str]) -> Targets:
    """The linear layers and experts of a model's blocks that an adapter is asked for by `LoraSettings.targets`.

    Raises:
        BadArgument: When a name fits nothing in the blocks, or what it fits is no linear layer or expert of theirs.
    """
    parts = anatomy(model)
    linear, experts = [name for name, _ in _linear(parts)], [name for name, _ in _experts(parts)]
    if targets == ALL:
        return Targets(tuple(linear), tuple(experts))
    if isinstance(targets, str):
        try:
            fits = re.compile(targets).fullmatch
        except re.error as error:
            raise BadArgument(f"lora.targets={targets!r} is no regular expression: {error}.") from None
        found = Targets(tuple(filter(fits, linear)), tuple(filter(fits, experts)))
        if not found.modules and not found.parameters:
            raise _no_target(parts.model, targets, linear, experts)
        return found
    modules: list[str] = []
    parameters: list[str] = []
    for target in targets:
        layers = [name for name in linear if _ends(name, target)]
        held = [name for name in experts if _ends(name, target) or _ends(name.rpartition(".")[0], target)]
        if not layers and not held:
            raise _no_target(parts.model, target, linear, experts)
        modules += layers
        parameters += held
    return Targets(
        tuple(name for name in linear if name in set(modules)),
        tuple(name for name in experts if name in set(parameters)),
    )


def short(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The names of some modules as PEFT reads them: their last parts, where these name no other module, else in full.

    Example:
        >>> short(nn.ModuleDict({"a": nn.ModuleDict({"q": nn.Linear(1, 1)})}), ["a.q"])
        ['q']
    """
    last = {name.rpartition(".")[2] for name in names}
    every = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last) if every == set(names) else sorted(names)


def adapted(model: Any, targets: Targets) -> list[float]:
    """The share of each block's matrices (no routers, no biases) that an adapter acts on, to four digits."""
    parts = anatomy(model)
    weights = {name: module.weight for name, module in _linear(parts)} | dict(_experts(parts))
    asked = {*targets.modules, *targets.parameters}
    shares = []
    for prefix, block, routers in _blocks(parts):
        whole = sum(
            one.numel()
            for name, one in block.named_parameters()
            if one.ndim >= 2 and not name.endswith("bias") and not _within(name, routers)
        )
        acted = sum(w.numel() for name, w in weights.items() if name in asked and name.startswith(f"{prefix}."))
        shares.append(round(acted / whole, 4) if whole else 0.0)
    return shares


def trained(model: Any) -> Targets:
    """What the trainable LoRA adapters on a model go on."""
    modules, parameters = [], []
    for name, module in anatomy(model).model.named_modules():
        own = [p for key, p in module.named_parameters() if key.startswith("lora_")]
        if not hasattr(module, "lora_A") or not any(p.requires_grad for p in own):
            continue
        plain = name.replace(".base_layer", "")
        if hasattr(module, "parameter_name"):
            parameters.append(f"{plain}.{module.parameter_name}")
        else:
            modules.append(plain)
    return Targets(tuple(modules), tuple(parameters))


def language_parameters(model: Any) -> list[nn.Parameter]:
    """The parameters of a model that text passes through: no towers of a multimodal wrapper."""
    hf = anatomy(model).model
    if not is_wrapper(hf):
        return list(hf.parameters())
    parts = (hf.get_decoder(), hf.get_input_embeddings(), hf.get_output_embeddings())
    return list(dict.fromkeys(p for part in parts if part is not None for p in part.parameters()))


def is_wrapper(hf: Any) -> bool:
    """Whether a transformers model holds more than a language model, as Gemma 3, Mistral 3, LLaVA or Qwen-VL do."""
    return hf.config.get_text_config() is not hf.config


def _no_target(model: nn.Module, target: str, linear: Sequence[str], experts: Sequence[str]) -> BadArgument:
    there = sorted({name.rpartition(".")[2] for name in (*linear, *experts)})
    elsewhere = [name for name, _ in model.named_modules() if name and _ends(name, target)]
    why = (
        f"{elsewhere[0]} is not one of them (a router, a norm, or outside of the blocks)."
        if elsewhere
        else f"nothing there fits it.{nearest(target, there)}"
    )
    return BadArgument(
        f"LoRA on {target!r}: an adapter goes on linear layers and experts of the decoder blocks, and {why} "
        f"Linear modules here: {', '.join(there)}."
    )


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _blocks(parts: Anatomy) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    """The full name of each block, the block, and paths in it of what chooses experts."""
    names = {id(module): name for name, module in parts.model.named_modules()}
    for block in parts.blocks:
        yield names[id(block)], block, tuple(_routers(parts, block))


def _within(name: str, paths: Sequence[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _linear(parts: Anatomy) -> Iterator[tuple[str, Any]]:
    for prefix, block, routers in _blocks(parts):
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear | Conv1D) and not _within(name, routers):
                yield f"{prefix}.{name}", module


def _experts(parts: Anatomy) -> Iterator[tuple[str, Tensor]]:
    for prefix, block, _ in _blocks(parts):
        for name, module in block.named_modules():
            if "expert" not in type(module).__name__.lower() and "expert" not in name.rpartition(".")[2]:
                continue
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3 and parameter.is_floating_point():
                    yield f"{prefix}.{name}.{own}", parameter


def _routers(parts: Anatomy, block: nn.Module) -> Iterator[str]:
    """Paths in a block of what chooses experts."""
    config = parts.model.config.get_text_config()
    experts = next((n for key in NUMBERS if isinstance(n := getattr(config, key, None), int)), None)
    for name, module in block.named_modules():
        if "router" in type(module).__name__.lower():
            yield name
        elif name.rpartition(".")[2] in ROUTERS and getattr(module, "weight", None) is not None:
            width = getattr(module, "out_features", None)
            if experts is not None and (width is None or width in (1, experts)):
                yield name
