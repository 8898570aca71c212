"""Where the residual stream runs in a transformers model: decoder blocks, attention, MLP, final norm.

The architectures in `TESTED` are proven by the tests; any other is found by structure and checked on three tokens, and
a site that does not add up is left out rather than offered wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from caft_lens._support.blocks import Block
from caft_lens._support.errors import BadModel, nearest
from caft_lens.model.turns import turn

TESTED = (
    "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3",
)  # fmt: skip

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
OUTPUT_PROJECTION = ("o_proj", "c_proj", "dense", "out_proj", "wo", "proj")
FINAL_NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


@dataclass(frozen=True)
class Anatomy:
    """The parts of a causal language model that hook points sit on.

    Attributes:
        model: The transformers model itself, without wrappers.
        decoder: The module that holds the blocks.
        blocks: The decoder blocks, in order.
        final_norm: The norm before the unembedding; `None` where it was not found or did not reproduce the logits.
        attn_out: Path inside a block of the module whose output attention adds to the residual stream, or `None`.
        mlp_out: The same of the MLP.
        z: Path inside a block of attention's output projection, whose input is the heads' outputs, or `None`.
    """

    model: Any
    decoder: nn.Module
    blocks: Sequence[nn.Module]
    final_norm: nn.Module | None
    attn_out: str | None
    mlp_out: str | None
    z: str | None


def unwrap(model: Any) -> Any:
    """The transformers model inside a PEFT, data-parallel or compiled wrapper (or `model` itself)."""
    for attribute in ("_orig_mod", "module"):
        if isinstance(getattr(model, attribute, None), nn.Module):
            return unwrap(getattr(model, attribute))
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def anatomy(model: Any) -> Anatomy:
    """Find the parts of a causal language model, PEFT-wrapped or not.

    Raises:
        BadModel: When no decoder blocks are found; it names the architectures that are tested.
    """
    hf = unwrap(model)
    kind = getattr(getattr(hf, "config", None), "model_type", type(hf).__name__)
    decoder, blocks = _decoder(hf, kind)
    block = blocks[0]
    attention = _first(block, ATTENTION)
    projection = _first(getattr(block, attention), OUTPUT_PROJECTION) if attention else None
    found = Anatomy(
        model=hf,
        decoder=decoder,
        blocks=blocks,
        final_norm=getattr(decoder, _first(decoder, FINAL_NORM) or "", None),
        attn_out=_first(block, _attention_outputs(block)),
        mlp_out=_first(
            block, ("post_mlp_layernorm", "post_feedforward_layernorm", "resid_mlp_dropout", "post_mlp_dropout", *MLP)
        ),
        z=f"{attention}.{projection}" if projection else None,
    )
    return found if kind in TESTED else _keep_what_adds_up(found)


def _decoder(hf: Any, kind: str) -> tuple[nn.Module, Sequence[nn.Module]]:
    config = hf.config.get_text_config() if hasattr(getattr(hf, "config", None), "get_text_config") else None
    depth = getattr(config, "num_hidden_layers", None)
    if depth and not getattr(config, "is_encoder_decoder", False) and hf.get_output_embeddings() is not None:
        for module in hf.get_decoder().modules():
            for child in module.children():
                if isinstance(child, nn.ModuleList) and len(child) == depth and _first(child[0], (*ATTENTION, *MLP)):
                    return module, list(child)
    raise BadModel(
        f'Cannot find the decoder blocks of {type(hf).__name__} (architecture "{kind}"): a decoder-only language model '
        "of transformers was expected, with its blocks in one ModuleList. Tested architectures: "
        f"{', '.join(TESTED)}.{nearest(kind, TESTED) if not depth or kind not in TESTED else ''}"
    )


def _attention_outputs(block: nn.Module) -> tuple[str, ...]:
    # "post_attention_layernorm" is the norm *before* the MLP in Llama's line, and the one *after* attention only where
    # the block has one after the MLP too (Gemma 2 and 3, OLMo 2).
    post = ("post_attention_layernorm",) if hasattr(block, "post_feedforward_layernorm") else ()
    return ("post_self_attn_layernorm", *post, "resid_attn_dropout", "post_attention_dropout", *ATTENTION)


def _first(module: nn.Module, names: Sequence[str]) -> str | None:
    return next((name for name in names if isinstance(getattr(module, name, None), nn.Module)), None)


def unembed(parts: Anatomy, resid: Tensor) -> Tensor:
    """Logits [..., d_vocab] of the residual stream after the last block [..., d_model]: final norm, unembedding and
    whatever the architecture does to its logits.
    """
    if parts.final_norm is None:
        raise BadModel(f'The final norm of architecture "{parts.model.config.model_type}" is not known to caft_lens.')
    config = parts.model.config.get_text_config()
    head = parts.model.get_output_embeddings()
    logits = head(parts.final_norm(resid)) * (getattr(config, "logit_scale", None) or 1.0)
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def _keep_what_adds_up(parts: Anatomy) -> Anatomy:
    """Run three tokens and drop the parts of an untested architecture that do not do what their name says."""
    seen: dict[str, Tensor] = {}
    first, last = parts.blocks[0], parts.blocks[-1]
    odd = f'{type(parts.model).__name__} (architecture "{parts.model.config.model_type}") has no residual stream'
    odd = f"{odd} [batch, pos, d_model] between its blocks"

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Not cloned: an output that the model goes on to change in place is not what a hook would have kept.
            seen[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    def note_input(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen["resid_pre"] = args[0] if args else kwargs.get("hidden_states")

    handles = [first.register_forward_pre_hook(note_input, with_kwargs=True)]
    handles += [first.register_forward_hook(note("resid_post")), last.register_forward_hook(note("last"))]
    for name in ("attn_out", "mlp_out"):
        if path := getattr(parts, name):
            handles.append(first.get_submodule(path).register_forward_hook(note(name)))
    try:
        with evaluating(parts.model):
            embedding = parts.model.get_input_embeddings().weight
            device = getattr(parts.model, "device", None) if embedding.is_meta else embedding.device
            logits = parts.model(input_ids=torch.tensor([[0, 1, 2]], device=device), use_cache=False).logits
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadModel(f"{odd}: running three tokens through it ended in {error!r}.") from error
    finally:
        for handle in handles:
            handle.remove()
    width = parts.model.config.get_text_config().hidden_size
    for name in ("resid_pre", "resid_post", "last"):
        shape = tuple(seen[name].shape) if isinstance(seen.get(name), Tensor) else type(seen.get(name)).__name__
        if shape != (1, 3, width):
            raise BadModel(
                f"{odd}: {'into the first' if name == 'resid_pre' else 'out of a'} block goes {shape} where "
                f"(1, 3, {width}) was expected. Several streams side by side (hyper-connections, AltUp) have no one "
                f"residual stream to hook."
            )

    exact = embedding.dtype in (torch.float32, torch.float64)

    def close(a: Tensor, b: Tensor) -> bool:
        a, b = a.float().cpu(), b.float().cpu()
        return bool((a - b).norm() <= (1e-4 if exact else 3e-2) * b.norm())

    terms = [seen[name].cpu() for name in ("resid_pre", "attn_out", "mlp_out") if name in seen]
    if len(terms) < 3 or not close(terms[0] + terms[1] + terms[2], seen["resid_post"]):
        parts = replace(parts, attn_out=None, mlp_out=None)
    if parts.final_norm is not None and not close(unembed(parts, seen["last"]), logits):
        parts = replace(parts, final_norm=None)
    return parts


class evaluating(Block[None]):
    """No dropout and no gradient checkpointing (which would switch the cache off) while a block is open.

    At its end every module is in the mode in which it was, and gradients are on or off as they were. It is the thread's
    turn with the model: others that evaluate it, or run its lens, wait.
    """

    _training: tuple[nn.Module, ...] = ()
    _turn: Any = None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def begin(self) -> None:
        self._gradients = torch.is_grad_enabled()
        self._turn = turn(unwrap(self._model))
        self._turn.acquire()
        self._training = tuple(module for module in self._model.modules() if module.training)
        for module in self._training:
            module.training = False

    def undo(self, error: BaseException | None) -> None:
        if self._turn is None:
            return
        for module in self._training:
            module.training = True
        if not torch.is_inference_mode_enabled():
            torch.set_grad_enabled(self._gradients)
        with suppress(RuntimeError):  # interrupted before it had its turn, or after it was given back
            self._turn.release()
        self._turn = None
