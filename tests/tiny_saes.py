"""Minute sparse autoencoders of sae-lens's kinds, with weights far from any symmetry, and what they compute in plain
numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from sae_lens import SAE

    from caft_lens.model.lens import Lens

KINDS = ("topk", "standard", "jumprelu")


def tiny_sae(
    lens: Lens | None = None,
    layer: int = 1,
    kind: str = "topk",
    *,
    d_sae: int = 48,
    d_in: int = 32,
    k: int = 5,
    seed: int = 0,
    **changes: Any,
) -> SAE:
    """A random SAE for `blocks.<layer>.hook_resid_post`, with the fingerprint of `lens` when there is one.

    Args:
        lens: The model that it says it was trained on.
        layer: Of the hook point.
        kind: One of `KINDS`.
        d_sae: Number of latents.
        d_in: Width, when there is no lens.
        k: Active latents of a TopK.
        seed: Of the weights.
        changes: Other fields of the configuration; `metadata` is added to its own.
    """
    from sae_lens import (
        JumpReLUSAE,
        JumpReLUSAEConfig,
        StandardSAE,
        StandardSAEConfig,
        TopKSAE,
        TopKSAEConfig,
    )
    from sae_lens.saes.sae import SAEMetadata

    about = {
        "hook_name": f"blocks.{layer}.hook_resid_post",
        "model_name": "tiny",
        **changes.pop("metadata", {}),
    }
    if lens is not None:
        d_in = lens.d_model
        about["model_fingerprint"] = lens.fingerprint
    sae_class, config = {
        "topk": (TopKSAE, TopKSAEConfig),
        "standard": (StandardSAE, StandardSAEConfig),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig),
    }[kind]
    fields = {"k": k} if kind == "topk" else {}
    sae: Any = sae_class(config(d_in=d_in, d_sae=d_sae, metadata=SAEMetadata(**about), **fields, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            scale = 0.3 if name == "threshold" else d_in**-0.5
            values = scale * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values.abs() if name == "threshold" else values)
    return sae.eval().requires_grad_(False)


def numpy_latents(sae: SAE, acts: np.ndarray) -> np.ndarray:
    """What the latents of a `tiny_sae` are, `[n, d_sae]`, in plain numpy and fp64."""
    weights = {name: parameter.double().numpy() for name, parameter in sae.named_parameters()}
    centre = weights["b_dec"] * sae.cfg.apply_b_dec_to_input
    before = (acts.astype(np.float64) - centre) @ weights["W_enc"] + weights["b_enc"]
    if "threshold" in weights:
        return np.where(before > weights["threshold"], np.maximum(before, 0), 0)
    if hasattr(sae.cfg, "k"):
        largest = -np.sort(-before, axis=1)[:, sae.cfg.k - 1 : sae.cfg.k]
        before = np.where(before >= largest, before, 0)
    return np.maximum(before, 0)


def numpy_reconstruction(sae: SAE, acts: np.ndarray) -> np.ndarray:
    """What a `tiny_sae` makes of activations, `[n, d_in]`, in plain numpy and fp64."""
    return numpy_latents(sae, acts) @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()


def lossless_sae(lens: Lens, layer: int = 1) -> SAE:
    """An SAE that gives back what it reads: two latents an axis, one for each sign."""
    sae = tiny_sae(lens, layer, "standard", d_sae=2 * lens.d_model)
    axes = torch.eye(lens.d_model)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([axes, -axes], dim=1))
        sae.W_dec.copy_(torch.cat([axes, -axes]))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae
