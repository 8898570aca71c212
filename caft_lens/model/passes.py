"""Forward passes of a model under hooks: what goes in as a batch, and how far it runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from caft_lens._support.errors import BadArgument, BadPass
from caft_lens.model.hook_points import Attached, Wire
from caft_lens.model.hooked import HookedModel
from caft_lens.model.tokens import infer_attention_mask
from caft_lens.model.turns import here
from caft_lens.text.batching import Batch, collate
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import encoded


class _Stop(Exception):
    """Carries the residual stream out of a forward pass that ends early."""

    def __init__(self, residual: Tensor) -> None:
        super().__init__("early exit of a lens")
        self.residual = residual


def as_batch(lens: HookedModel, input: Any, attention_mask: Tensor | None = None) -> Batch:
    """Any input of `forward` as a batch of tokens."""
    if isinstance(input, Tensor):
        tokens = input[None] if input.ndim == 1 else input
        if attention_mask is None:
            mask = infer_attention_mask(tokens, lens.tokenizer)
        else:
            mask = attention_mask.reshape(tokens.shape)
        unknown = torch.zeros_like(tokens, dtype=torch.int8)
        return Batch(tokens, mask, unknown, mask.bool(), torch.arange(len(tokens)))
    if attention_mask is not None:
        raise BadArgument("attention_mask goes with tokens; text and batches bring their own.")
    if isinstance(input, Batch):
        return input
    texts = Texts([input] if isinstance(input, str | Text) else input)
    return collate(list(encoded(lens.need_tokenizer(), texts)), lens.padding)


def call_of(lens: HookedModel, batch: Batch) -> dict[str, Any]:
    """The keywords with which the model itself is called on a batch."""
    call: dict[str, Any] = {"input_ids": batch.input_ids.to(lens.device), "use_cache": False}
    # Without padding the mask says nothing, and leaving it out keeps the fastest attention kernels.
    if not bool(batch.attention_mask.all()):
        call["attention_mask"] = batch.attention_mask.to(lens.device)
        if "position_ids" in inspect.signature(lens.hf.forward).parameters:
            call["position_ids"] = batch.position_ids.to(lens.device)
    return call


def run_until(lens: HookedModel, layer: int, call: Mapping[str, Any]) -> Tensor:
    """Run the model up to a block and come back with the residual stream before it."""
    if not -lens.n_layers <= layer <= lens.n_layers:
        raise BadArgument(f"stop_at_layer={layer}, but {lens.name} has {lens.n_layers} layers.")
    layer += lens.n_layers if layer < 0 else 0

    me = here()

    # First of all hooks of the block, or last of all after the final one, so that whatever is attached before the
    # exit has acted and nothing after it runs.
    def leave(module: nn.Module, args: tuple, found: Any) -> None:
        """Before a block `found` is the keywords of its call, after it its output."""
        if here() is me:
            residual = (args[0] if args else found["hidden_states"]) if before else found
            raise _Stop(residual if isinstance(residual, Tensor) else residual[0])

    before = layer < lens.n_layers
    block = lens.anatomy.blocks[layer if before else -1]
    wire = Wire(lambda: block, leave, before=before, last=not before)
    try:
        with Attached(wire):
            lens.model(**call)
    except _Stop as stop:
        return stop.residual
    raise BadPass(f"{lens.name} did not run its block {layer}: is its forward replaced or compiled?")
