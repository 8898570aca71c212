"""What an SAE makes of activations: its latents, and its reconstruction in the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.model.attach import at
from caft_lens.model.hooked import says
from caft_lens.saes.cards import sae_hook
from caft_lens.saes.centring import unread
from caft_lens.saes.fitting import check_sae

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_lens import SAE

    from caft_lens.model.lens import Lens

# Activations of latents that are held at a time, tokens x latents: 64 MB of fp32 whatever the width of the SAE.
LATENTS_AT_A_TIME = 2**24


@torch.no_grad()
def latents_of(sae: SAE, acts: Tensor) -> Iterator[Tensor]:
    """What an SAE's latents are on activations `[n_tokens, d_model]`, a part of the tokens at a time.

    Yields:
        `[n, d_sae]` on the SAE's device, in order; at most `LATENTS_AT_A_TIME` numbers each.
    """
    step = max(1, LATENTS_AT_A_TIME // sae.cfg.d_sae)
    for rows in acts.split(step):
        yield sae.encode(rows.to(sae.device))


@torch.no_grad()
def active_latents(sae: SAE, acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The latents that are above 0 on activations `[n_tokens, d_model]`, and only those.

    A TopK SAE hands over its k values a token as they are, which is quicker than writing and searching all of them.
    Activations below 0, as an AbsTopK SAE has them, are left out.

    Returns:
        Token and latent, long `[n]`, and activation, fp32 `[n]`, all on the CPU: ordered by token, within it by latent.
    """
    found = []
    first = 0
    with _sparse_topk(sae):
        for latents in latents_of(sae, acts):
            if latents.is_sparse:
                latents = latents.coalesce()
                (token, latent), value = latents.indices(), latents.values()
                above = value > 0
                token, latent, value = token[above], latent[above], value[above]
            else:
                token, latent = (latents > 0).nonzero(as_tuple=True)
                value = latents[token, latent]
            found.append((token.cpu() + first, latent.cpu(), value.float().cpu()))
            first += len(latents)
    token, latent, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    return token, latent, value


@block
def _sparse_topk(sae: SAE) -> Iterator[None]:
    """While open, a TopK SAE encodes to a sparse tensor, as sae-lens itself does in training when asked to."""
    activation = sae.activation_fn
    knows_how = getattr(activation, "use_sparse_activations", None) is False
    # Whoever hooks the latents expects them dense, and sparse tensors are not everywhere on Apple's GPUs.
    hooked = bool(getattr(getattr(sae, "hook_sae_acts_post", None), "_forward_hooks", None))
    if not knows_how or hooked or sae.device.type == "mps":
        yield
        return
    activation.use_sparse_activations = True
    try:
        # Saying no to the checks of sparse tensors is what keeps torch from warning that they are off.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            yield
    finally:
        activation.use_sparse_activations = False


def splice(lens: Lens, sae: SAE, *, roles: Sequence[str] | None = None) -> AbstractContextManager[Lens]:
    """Put an SAE's reconstruction in place of the activation while a block is open.

    Args:
        lens: The model.
        sae: Its SAE; arithmetic is the SAE's own (fp32 by default), the result has the dtype of the activation.
        roles: Only at tokens with these roles; all tokens when `None`.

    Raises:
        BadModel: When the SAE does not fit.

    Example:
        >>> plain = base(corpus[0], return_type="loss")
        >>> with splice(base, cl.load_sae("pocket", layer=2)):
        ...     spliced = base(corpus[0], return_type="loss")
        >>> plain.shape == spliced.shape, bool(plain == spliced)
        (True, False)
    """
    check_sae(sae, lens)

    def reconstruct(x: Tensor) -> Tensor:
        given = x.to(sae.device)
        return (sae(given) + unread(sae, given)).to(x)

    return at(lens, {sae_hook(sae): says(reconstruct, "what the SAE makes of it")}, roles=roles)
