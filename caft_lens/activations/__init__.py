"""Activations over text, in one streaming pass: nothing holds more than a batch and its answer.

differences   `stream` runs the pass, `activation_difference` compares two models
capture       one forward pass after another, and what it was at some sites and tokens
moments       running mean and covariance
top_windows   where in a corpus directions are most and least active
store         activations on disk, written resumably, read lazily
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.activations.differences import activation_difference as activation_difference
    from caft_lens.activations.differences import stream as stream
    from caft_lens.activations.moments import Moments as Moments
    from caft_lens.activations.store import Store as Store
    from caft_lens.activations.top_windows import TopWindows as TopWindows

__getattr__, __dir__, __all__ = lazy.exports(
    __name__,
    {
        "Moments": "caft_lens.activations.moments",
        "TopWindows": "caft_lens.activations.top_windows",
        "Store": "caft_lens.activations.store",
        "activation_difference": "caft_lens.activations.differences",
        "stream": "caft_lens.activations.differences",
    },
)
