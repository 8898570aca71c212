"""Short hashes of a model's weights, by which concepts know the model that they belong to, and of how it reads texts.

That of the weights is taken over names, shapes and a fixed sample of the values of each tensor, rounded to bfloat16:
the same for a checkpoint loaded in fp32 or bf16, on any device, with tied weights saved once or twice, wrapped by PEFT
or not; and cheap enough for a model of any size. The adapter of a PEFT model has a fingerprint of its own.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from caft_lens._support.errors import BadModel
from caft_lens._support.files import sha256
from caft_lens.text.template_arguments import template_arguments

RUNS, RUN = 64, 64  # values read per tensor: 64 runs of 64 neighbours touch few memory pages
_WRAPPERS = ("base_model.model.", "_orig_mod.", "module.")


def fingerprints(model: nn.Module) -> tuple[str, str | None]:
    """The fingerprints of a model's own weights and of the adapter on it, which is `None` when there is none."""
    prefix = getattr(getattr(model, "base_model", None), "prefix", None)
    prefix = prefix if isinstance(prefix, str) and prefix else "lora_"
    base: list[bytes | str] = []
    adapter: list[bytes | str] = []
    for name, parameter in model.named_parameters():
        plain = _plain(name)
        trained = prefix in plain or ".modules_to_save." in plain
        value = _offloaded(model, name) if parameter.is_meta else parameter
        chunks = adapter if trained else base
        chunks += [plain, str(tuple(value.shape)), _sample(value)]
    return sha256(*base), sha256(*adapter) if adapter else None


def reading(tokenizer: Any) -> str:
    """The fingerprint of how a model reads: tokenizer, chat template and its arguments; `""` without a tokenizer."""
    if tokenizer is None:
        return ""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Padding and truncation are set anew in every call and change no text.
    words = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if isinstance(words, dict):
        words = {key: value for key, value in words.items() if key not in ("padding", "truncation")}
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    rest = [special, tokenizer.chat_template, template_arguments(tokenizer)]
    return sha256(json.dumps(words, sort_keys=True), json.dumps(rest, sort_keys=True, default=str))


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def _sample(value: Tensor) -> bytes:
    flat = value.detach().reshape(-1)
    if flat.numel() > RUNS * RUN:
        starts = torch.linspace(0, flat.numel() - RUN, RUNS, dtype=torch.float64).long()
        flat = flat[(starts[:, None] + torch.arange(RUN)).reshape(-1).to(flat.device)]
    return flat.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes()


def _offloaded(model: nn.Module, name: str) -> Tensor:
    """The value of a parameter that accelerate keeps on disk or in CPU memory while it is not used."""
    owner, _, attribute = name.rpartition(".")
    hook: Any = getattr(model.get_submodule(owner), "_hf_hook", None)
    for candidate in (hook, *getattr(hook, "hooks", ())):
        if getattr(candidate, "weights_map", None) is not None:
            return candidate.weights_map[attribute]
    raise BadModel(f'The weight "{name}" is on the meta device and holds no values: load the model with its weights.')
