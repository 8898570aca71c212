"""Further module trees over the weights of a model: shared, copied, with an adapter, as TransformerLens's bridge."""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from caft_lens.model.architectures import unwrap
from caft_lens.model.hook_points import bare
from caft_lens.model.loading import read_adapter
from caft_lens.model.turns import Held, turn

if TYPE_CHECKING:
    from peft import PeftConfig


def copied(model: Any, memory: dict[int, Any] | None = None) -> Any:
    """A copy of a model, without what is hooked to it; `memory` as `copy.deepcopy` has it."""
    with Held(turn(unwrap(model))):
        twin = copy.deepcopy(model, {} if memory is None else memory)
    bare(twin)
    for original, other in zip(model.modules(), twin.modules(), strict=True):
        if _closes_over(other.__dict__.get("forward"), original):
            del other.forward
    return twin


def _closes_over(forward: Any, module: nn.Module) -> bool:
    """Whether a forward that was put on a module (TRL's, say) runs that very module, also where a copy has it."""
    while forward is not None:
        for cell in getattr(forward, "__closure__", None) or ():
            with suppress(ValueError):  # an empty cell
                held = cell.cell_contents
                bound = held.args if isinstance(held, partial) else (getattr(held, "__self__", None),)
                if any(one is module for one in bound):
                    return True
        forward = getattr(forward, "__wrapped__", None)
    return False


def shared(model: Any) -> Any:
    """A second module tree over the same weights: an adapter or hooks put on one do not touch the other."""
    memory: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        # A parameter of its own over the same storage, since PEFT freezes parameters and training gives them
        # gradients; quantised and distributed kinds carry state beside their storage and are shared as they are.
        plain = type(parameter) is nn.Parameter and not parameter.is_meta
        twin = nn.Parameter(parameter.detach(), parameter.requires_grad) if plain else parameter
        memory[id(parameter)] = twin
    return copied(model, memory)


def adapted(model: Any, adapter: str | Path | PeftConfig, name: str, trainable: bool | None) -> Any:
    """A module tree over the same weights with an adapter on it, in the mode of the model; see `Lens.adapt`."""
    twin: Any
    if isinstance(adapter, str | Path):
        twin = read_adapter(shared(model), adapter, name, bool(trainable))
    else:
        from peft import get_peft_model

        twin = get_peft_model(shared(model), adapter)
        if trainable is False:
            twin.requires_grad_(False)
    return twin.train(model.training)


def untied(model: Any) -> Any:
    """The same model, its unembedding apart from its embedding where an adapter is on it: merged, both would change."""
    hf = unwrap(model)
    head, embedding = hf.get_output_embeddings(), hf.get_input_embeddings()
    if hasattr(head, "base_layer") and head.base_layer.weight is embedding.weight:
        weight = head.base_layer.weight
        head.base_layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
        for config in {id(one): one for one in (hf.config, hf.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    return model


def bridged(model: Any, tokenizer: Any, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """TransformerLens's own model around one without an adapter, which it changes."""
    from transformer_lens.model_bridge import TransformerBridge

    inner = unwrap(model)
    inner.config.architectures = [type(inner).__name__]  # by which the bridge finds its adapter
    tokenizer = copy.deepcopy(tokenizer)
    # The bridge would read another tokenizer, through AutoTokenizer and with BOS, unless ours says that it adds it.
    tokenizer.init_kwargs = {"name_or_path": name, **tokenizer.init_kwargs, "add_bos_token": True}
    return TransformerBridge.boot_transformers(
        name, hf_model=model, tokenizer=tokenizer, device=str(device), dtype=dtype
    )
