"""Activations over text, in one streaming pass: nothing holds more than a batch and its answer.

differences   `stream` runs the pass, `activation_difference` compares two models
capture       one forward pass after another, and what it was at some sites and tokens
moments       running mean and covariance
top_windows   where in a corpus directions are most and least active
store         activations on disk, written resumably, read lazily
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
