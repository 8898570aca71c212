"""How much of a model a sparse autoencoder keeps: L0, explained variance, dead latents, loss when it is spliced in.

Two streamed passes; memory is a batch and a row of sums a document, and intervals resample documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from caft_lens._support import lazy
from caft_lens._support.errors import BadArgument
from caft_lens._support.intervals import Interval, ratio_interval
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.model.architectures import evaluating
from caft_lens.model.attach import at
from caft_lens.saes.cards import sae_hook
from caft_lens.saes.centring import unread
from caft_lens.saes.encoding import latents_of, splice
from caft_lens.saes.fitting import check_sae
from caft_lens.text.batching import Batch, Scan, batches
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from sae_lens import SAE

    from caft_lens.model.lens import Lens


@dataclass(frozen=True)
class Reconstruction:
    """What an SAE keeps of a model on some documents; intervals are 95 %, over documents.

    Attributes:
        l0: Active latents a token.
        explained_variance: 1 - squared error / squared distance from the mean, all tokens together.
        loss: Next-token loss of the model as it is, nats a token.
        loss_spliced: With the reconstruction in place of the activation.
        loss_mean: With the mean activation in its place.
        loss_zero: With zero in its place.
        recovered_from_mean: (loss_mean - loss_spliced) / (loss_mean - loss): 1 is lossless, 0 no better than the mean.
        recovered_from_zero: The same against zero.
        dead: Latents that fired on no token.
        n_latents: Of how many.
        tokens: Tokens at which the SAE was read and spliced in.
        texts: Documents.
    """

    l0: Interval
    explained_variance: Interval
    loss: Interval
    loss_spliced: Interval
    loss_mean: Interval
    loss_zero: Interval
    recovered_from_mean: Interval
    recovered_from_zero: Interval
    dead: int
    n_latents: int
    tokens: int
    texts: int

    def to_json(self) -> dict[str, Any]:
        """Intervals as `{"mean":, "low":, "high":}`, counts as they are."""
        return {key: one.to_json() if isinstance(one, Interval) else one for key, one in vars(self).items()}

    def __str__(self) -> str:
        return (
            f"L0 {self.l0.mean:.1f}, explained variance {self.explained_variance}, loss recovered "
            f"{self.recovered_from_mean} (against zero {self.recovered_from_zero}), "
            f"{self.dead} of {self.n_latents} latents dead on {self.tokens:,} tokens"
        )


@takes_values
def reconstruction(
    lens: Lens, sae: SAE, texts: Texts, *, roles: Sequence[str] | None = None, scan: Scan = Scan()
) -> Reconstruction:
    """Measure an SAE on documents that it was not trained on.

    Args:
        lens: The model.
        sae: Its SAE.
        texts: Documents.
        roles: Tokens at which the SAE is read and spliced in; `None` for all. Loss is taken on every next token.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        ValueError: When the SAE does not fit the model, there are fewer than 2 documents, or no token has a role.

    Example:
        >>> found = reconstruction(base, sae, held_out[:20])
        >>> round(found.l0.mean), found.explained_variance.mean > 0.5
        (24, True)
    """
    check_sae(sae, lens)
    if len(texts) < 2:
        raise BadArgument(f"{len(texts)} documents give no interval: give at least 2.")
    hook = sae_hook(sae)
    where = {"roles": roles, "scan": scan}
    moments = Moments(covariance=False)
    stream(lens, texts, [hook], moments, **where)  # type: ignore[arg-type]
    mean = moments.mean[hook].float()
    watch = _Watch(sae, mean, len(texts))
    stream(lens, texts, [hook], watch, **where)  # type: ignore[arg-type]
    sums = {**watch.sums, **_losses(lens, sae, mean, texts, roles, scan)}
    return _summary(sums, watch.fired)


class _Watch:
    """What the SAE makes of the activations: sums a document, and which latents fired at all."""

    def __init__(self, sae: SAE, mean: Tensor, n_texts: int) -> None:
        self.sae, self.mean = sae, mean.to(sae.device)
        self.fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=sae.device)
        self.sums = {name: np.zeros(n_texts) for name in ("tokens", "active", "error", "variance")}

    @torch.no_grad()
    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        index = batch.index[where[:, 0]].numpy()
        start = 0
        for latents in latents_of(self.sae, acts):
            rows = slice(start, start := start + len(latents))
            x = acts[rows].to(self.sae.device).float()
            on = latents != 0
            self.fired |= on.any(dim=0)
            found = {
                "tokens": torch.ones(len(x)),
                "active": on.sum(dim=1),
                "error": (self.sae.decode(latents).float() + unread(self.sae, x) - x).square().sum(dim=1),
                "variance": (x - self.mean).square().sum(dim=1),
            }
            for name, values in found.items():
                np.add.at(self.sums[name], index[rows], values.double().cpu().numpy())

    def merge(self, other: _Watch) -> _Watch:
        self.fired |= other.fired
        for name, values in other.sums.items():
            self.sums[name] += values
        return self


@torch.no_grad()
def _losses(
    lens: Lens, sae: SAE, mean: Tensor, texts: Texts, roles: Sequence[str] | None, scan: Scan
) -> dict[str, np.ndarray]:
    """Next-token losses of each document, summed, and how many tokens were predicted."""

    def constant(value: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: value.to(x).expand_as(x)

    hook = sae_hook(sae)
    ways = {
        "loss": lambda: at(lens, {}),
        "loss_spliced": lambda: splice(lens, sae, roles=roles),
        "loss_mean": lambda: at(lens, {hook: constant(mean)}, roles=roles),
        "loss_zero": lambda: at(lens, {hook: constant(torch.zeros_like(mean))}, roles=roles),
    }
    sums = {name: np.zeros(len(texts)) for name in ("predicted", *ways)}
    with evaluating(lens.model):
        for packed in batches(lens.tokenizer, texts, scan, progress="SAE spliced in"):
            # A role of the chat is not what counts here: the model predicts every token, whoever says it.
            batch = replace(packed, loss=packed.attention_mask.bool())
            index = batch.index.numpy()
            sums["predicted"][index] = (batch.attention_mask.sum(dim=1) - 1).numpy()
            for name, way in ways.items():
                with way():
                    losses = lens(batch, return_type="loss", loss_per_token=True)
                sums[name][index] = losses.double().sum(dim=1).cpu().numpy()
    return sums


def _summary(sums: dict[str, np.ndarray], fired: Tensor) -> Reconstruction:
    names = ("loss", "loss_spliced", "loss_mean", "loss_zero")
    loss, spliced, mean, zero = losses = [sums[name] for name in names]
    of_losses = {name: ratio_interval(one, sums["predicted"]) for name, one in zip(names, losses, strict=True)}
    return Reconstruction(
        l0=ratio_interval(sums["active"], sums["tokens"]),
        explained_variance=ratio_interval(sums["variance"] - sums["error"], sums["variance"]),
        **of_losses,
        recovered_from_mean=ratio_interval(mean - spliced, mean - loss),
        recovered_from_zero=ratio_interval(zero - spliced, zero - loss),
        dead=int((~fired).sum()),
        n_latents=len(fired),
        tokens=int(sums["tokens"].sum()),
        texts=len(sums["tokens"]),
    )


# `cl.saes.reconstruction(...)` is both this module and its main function.
lazy.callable_module(__name__, "reconstruction")
