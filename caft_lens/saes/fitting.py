"""Whether an SAE fits a model: in kind, width, hook point, base, and how the residual stream was processed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from caft_lens._support.errors import BadModel
from caft_lens.model.hook_names import PATTERN, of_heads, place_of
from caft_lens.saes.cards import sae_hook, sae_name
from caft_lens.saes.centring import subtracts_means, wants_centring

if TYPE_CHECKING:
    from sae_lens import SAE

    from caft_lens.model.lens import Lens

# Kinds that do not reconstruct, token by token, the activation that they read.
_OTHER_KINDS = {
    "transcoder": "writes to another place than it reads",
    "temporal": "reads whole sequences, not single tokens",
    "crosscoder": "reads several models or layers",
}
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)")
# Arguments of TransformerLens's loading that leave the residual stream what it is in the checkpoint.
_SAME_STREAM = (
    "fold_ln", "center_unembed", "fold_value_biases", "refactor_factored_attn_matrices", "n_devices", "device",
    "device_map", "dtype", "torch_dtype", "trust_remote_code", "default_prepend_bos", "default_padding_side",
    "attn_implementation", "move_to_device", "local_files_only", "cache_dir", "token", "low_cpu_mem_usage",
    "load_in_8bit", "load_in_4bit",
)  # fmt: skip


def check_sae(sae: SAE, lens: Lens) -> None:
    """Refuse an SAE that does not fit a model.

    It fits the model whose activations it was trained on, and models tuned from that one. Where the SAE carries that
    model's fingerprint, this decides; else its name for the model, compared with the names that the lens has for
    itself, for its checkpoint and for the base of its adapter.

    Raises:
        BadModel: Saying all that does not fit: kind, width, hook point, base.
    """
    _refuse(sae, lens, _base(sae, lens))


def for_model(sae: SAE, lens: Lens) -> SAE:
    """Declare, on purpose, that an SAE fits a model whose name or fingerprint does not show it; returns the SAE.

    Raises:
        BadModel: When kind, width or hook point do not fit.
    """
    _refuse(sae, lens)
    sae.cfg.metadata.model_fingerprint = lens.fingerprint
    return sae


def _refuse(sae: SAE, lens: Lens, *more: str) -> None:
    reasons = [_kind(sae), _width(sae, lens), _site(sae, lens), _processing(sae, lens), *more]
    if any(reasons):
        said = "; ".join(reason for reason in reasons if reason)
        raise BadModel(f"The SAE {sae_name(sae)} does not fit {lens.name!r}: {said}.")


def other_weights(sae: SAE) -> str:
    """Why the model that an SAE was made on may have another residual stream than its checkpoint, if so."""
    given = (sae.cfg.metadata.model_from_pretrained_kwargs or {}).items()
    known = ("center_writing_weights", *_SAME_STREAM)
    unknown = [f"{key}={value!r}" for key, value in given if value is not None and key not in known]
    if not unknown:
        return ""
    return (
        f"its model was loaded with {', '.join(unknown)}, of which it is not known what it does to the residual "
        "stream. If nothing, take it out of model_from_pretrained_kwargs in its cfg.json"
    )


def _processing(sae: SAE, lens: Lens) -> str:
    if reason := other_weights(sae):
        return reason
    reads_centred = bool(sae.cfg.metadata.reads_centred)
    if wants_centring(sae) and subtracts_means(lens) and not reads_centred:
        return (
            "it was made for centred writing weights; load it with load_sae, or give "
            "caft_lens.saes.centring.centred(sae)"
        )
    if reads_centred and not subtracts_means(lens):
        return (
            "it reads a centred stream, which a model without LayerNorm does not have; load it with load_sae(…, lens=…)"
        )
    return ""


def _kind(sae: SAE) -> str:
    architecture = sae.cfg.architecture()
    other = next((why for kind, why in _OTHER_KINDS.items() if kind in architecture), "")
    if other:
        return f'it is a "{architecture}", which {other}'
    if sae.cfg.reshape_activations != "none" or sae.cfg.metadata.hook_head_index is not None:
        return "it reads the outputs of attention heads, not the residual stream"
    return ""


def _width(sae: SAE, lens: Lens) -> str:
    width = sae.W_dec.shape[1]
    return "" if width == lens.d_model else f"it is {width} wide and the model {lens.d_model}"


def _site(sae: SAE, lens: Lens) -> str:
    hook = sae_hook(sae)
    if hook in lens.hook_names and not of_heads(hook):
        return ""
    if re.fullmatch(PATTERN, hook) and place_of(hook).layer >= lens.n_layers:
        return f"it belongs to {hook}, and the model has layers 0 to {lens.n_layers - 1}"
    return f'it belongs to "{hook}", where the model has no hook point of the residual stream'


def _base(sae: SAE, lens: Lens) -> str:
    metadata = sae.cfg.metadata
    print_, base = metadata.model_fingerprint, metadata.model_name
    carry = "; if it does fit, say so: caft_lens.saes.fitting.for_model(sae, lens)"
    if print_ is not None:
        if print_ in lens.lineage:
            return ""
        return (
            f"it was trained on {base or 'a model'} ({print_}), and this one is neither that model nor tuned from "
            f"it{carry}"
        )
    if base and any(_same_base(base, name) for name in _names_of(lens)):
        return ""
    return (
        f"it was trained on {base or 'a model that it does not name'}, and nothing shows that this one is that "
        f"model{carry}"
    )


def _names_of(lens: Lens) -> set[str]:
    """What a model calls itself, its checkpoint, and the base of its adapter."""
    configs = (getattr(lens.model, "peft_config", None) or {}).values()
    names = [lens.name, getattr(lens.hf.config, "_name_or_path", ""), getattr(lens.hf, "name_or_path", "")]
    return {str(name) for name in [*names, *(config.base_model_name_or_path for config in configs)] if name}


def _same_base(one: str, other: str) -> bool:
    """Whether two names stand for one model: "gemma-2-2b" and "google/gemma-2-2b", "gpt2-small" and "gpt2"."""
    first, second = _official(one), _official(other)
    owners = {name.rpartition("/")[0] for name in (first, second)} - {""}
    return first.rpartition("/")[2] == second.rpartition("/")[2] and len(owners) < 2


def _official(name: str) -> str:
    """A model's name on the hub in lower case, from that, TransformerLens's alias or a folder of the hub's cache."""
    from transformer_lens.supported_models import MODEL_ALIASES

    cached = _CACHED.search(name)
    if cached:
        name = "/".join(cached.groups())
    elif name.count("/") > 1 or name.startswith((".", "~", "/")):
        name = Path(name).name  # a folder called like its model
    plain = name.lower()
    for official, aliases in MODEL_ALIASES.items():
        if plain in (official.lower(), *(alias.lower() for alias in aliases)):
            return official.lower()
    return plain
