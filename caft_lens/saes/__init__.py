"""Sparse autoencoders: sae-lens's own objects, whether they fit a model, and where their latents are most active.

loading       `load_sae`, `load_saes`: from an organism, a folder or the hub
cards         what an SAE says of itself: files, card, name, hook point
fitting       whether it fits a model
centring      those made for centred writing weights
encoding      its latents, and its reconstruction in the forward pass
training      `train`: SAEs for a model of one's own
reconstruction  how much of a model an SAE keeps
top_latents   the top windows of thousands of latents in one pass
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
