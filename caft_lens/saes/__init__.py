"""Sparse autoencoders: sae-lens's own objects, whether they fit a model, and where their latents are most active.

loading       `load_sae`, `load_saes`: from an organism, a folder or the hub
cards         what an SAE says of itself: files, card, name, hook point
fitting       whether it fits a model
centring      those made for centred writing weights
encoding      its latents, and its reconstruction in the forward pass
top_latents   the top windows of thousands of latents in one pass
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.saes.cards import sae_cards as sae_cards
    from caft_lens.saes.loading import load_sae as load_sae
    from caft_lens.saes.loading import load_saes as load_saes
    from caft_lens.saes.top_latents import Latents as Latents
    from caft_lens.saes.top_latents import TopLatents as TopLatents

__getattr__, __dir__, __all__ = lazy.exports(
    __name__,
    {
        "load_sae": "caft_lens.saes.loading",
        "load_saes": "caft_lens.saes.loading",
        "sae_cards": "caft_lens.saes.cards",
        "TopLatents": "caft_lens.saes.top_latents",
        "Latents": "caft_lens.saes.top_latents",
    },
)
