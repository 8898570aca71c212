"""SAEs that were made for a model with centred writing weights, and the plain residual stream of that model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens._support.errors import BadModel
from caft_lens.saes.cards import sae_name

if TYPE_CHECKING:
    from sae_lens import SAE

    from caft_lens.model.lens import Lens


def centred(sae: SAE) -> SAE:
    """Have an SAE read and write the residual stream of a model with centred writing weights; returns the SAE.

    TransformerLens can take the mean off whatever is written to the residual stream. An SAE made for that stream,
    x - mean(x) over its d_model numbers, gets it here from the plain one, and the directions of its decoder have no
    mean either: they ablate and steer the same in both streams. `load_sae` does this by itself.

    Args:
        sae: An SAE as sae-lens loads it; it is changed.

    Raises:
        BadModel: When its latents hang on the length of its decoder's rows.
    """
    if not sae.cfg.metadata.reads_centred:
        if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            raise BadModel(
                f"The SAE {sae_name(sae)} was made for centred writing weights and scales its latents by the length "
                f"of its decoder's rows, which centring changes: fold that length in first, sae.fold_W_dec_norm(), "
                f"and save it."
            )
        normalised = sae.run_time_activation_norm_fn_in
        sae.run_time_activation_norm_fn_in = lambda x: normalised(x - x.mean(dim=-1, keepdim=True))
        with torch.no_grad():
            sae.W_dec.sub_(sae.W_dec.mean(dim=-1, keepdim=True))
        sae.cfg.metadata.reads_centred = True
    return sae


def unread(sae: SAE, x: Tensor) -> Tensor:
    """The part of activations `[..., d_model]` that an SAE neither reads nor writes: their mean, if it is `centred`."""
    if not sae.cfg.metadata.reads_centred:
        return torch.zeros((), dtype=x.dtype, device=x.device)
    return x.mean(dim=-1, keepdim=True)


def subtracts_means(lens: Lens) -> bool:
    """Whether the norms of a model take the mean off (LayerNorm), so that the stream can be centred."""
    kind = type(lens.anatomy.final_norm).__name__.lower()
    return "layernorm" in kind and "rms" not in kind


def wants_centring(sae: SAE) -> bool:
    return bool((sae.cfg.metadata.model_from_pretrained_kwargs or {}).get("center_writing_weights"))
