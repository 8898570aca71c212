"""Exercise 5: latents by what they do to an outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caft_lens._support.errors import NotSolved
from caft_lens.course.asking import alike, passed, tensor

TOKENS, WIDTH, LATENTS = 40, 8, 20


@dataclass(frozen=True)
class Autoencoder:
    """A sparse autoencoder with what attribution needs of one.

    Attributes:
        W_enc: `[d_model, d_sae]`.
        W_dec: `[d_sae, d_model]`.
        b_enc: `[d_sae]`.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor

    def encode(self, acts: Tensor) -> Tensor:
        """Activations of the latents, `[..., d_sae]`, of activations `[..., d_model]`."""
        return (acts @ self.W_enc + self.b_enc).relu()


def check_attribution(attribution: Callable[[Tensor, Tensor, Any], Tensor]) -> None:
    """Check a function that attributes an outcome to the latents of an SAE.

    Args:
        attribution: Takes activations `[n_tokens, d_model]`, the gradient of the outcome with respect to them, of the
            same shape, and an SAE with `encode` and `W_dec`; gives what the outcome would lose without each latent, to
            first order, `[d_sae]`.

    Raises:
        NotSolved: When it is not written or does something else, saying what.

    Example:
        >>> def attribution(acts, grads, sae):
        ...     return (sae.encode(acts) * (grads @ sae.W_dec.T)).sum(0)
        >>> cl.course.check_attribution(attribution)
        ✓ Activation times slope along the decoder, summed over tokens: what the outcome would lose.
    """
    drawn = torch.Generator().manual_seed(0)
    sae = Autoencoder(
        torch.randn(WIDTH, LATENTS, generator=drawn),
        torch.randn(LATENTS, WIDTH, generator=drawn),
        torch.randn(LATENTS, generator=drawn) - 1,
    )
    acts, grads = torch.randn(2, TOKENS, WIDTH, generator=drawn)
    found = tensor(attribution, acts, grads, sae, shape=(LATENTS,), axes="[d_sae], summed over tokens")
    active, slope = sae.encode(acts), grads @ sae.W_dec.T
    terms = active * slope
    if alike(found, terms.sum(0)):
        return passed("Activation times slope along the decoder, summed over tokens: what the outcome would lose.")
    for words, wrong in {
        "Those are activations alone: a latent can be active and do nothing to this outcome. Multiply by the slope of "
        "the outcome along its decoder direction.": active.sum(0),
        "That is the slope alone: what a latent would do if it were active. A silent one did nothing; multiply by its "
        "activation.": slope.sum(0),
        "The signs are lost. What supports the outcome is above 0, what opposes it below.": terms.abs().sum(0),
        "The sign is turned round: asked for is what the outcome loses without the latent.": -terms.sum(0),
        "That is the mean over tokens: the same order, but not what the outcome loses. Sum.": terms.mean(0),
        "The gradient is read along the encoder. What a latent writes is its decoder direction, a row of `W_dec`.": (
            active * (grads @ sae.W_enc)
        ).sum(0),
        "Mean activation times mean slope is not the mean of the products: multiply at each token, then sum.": (
            active.sum(0) * slope.mean(0)
        ),
        "That is without the encoder's threshold: `sae.encode` says how active a latent is.": (
            (acts @ sae.W_enc) * slope
        ).sum(0),
    }.items():
        if alike(found, wrong):
            raise NotSolved(words)
    at = int((found - terms.sum(0).double()).abs().argmax())
    raise NotSolved(
        f"Latent {at} gets {float(found[at]):.3g}; without it the outcome would lose {float(terms.sum(0)[at]):.3g}, to "
        "first order: at each token its activation, times the gradient along its decoder direction."
    )
