"""`embeddings`: each text as one vector, its mean activation in a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens._support.errors import BadData
from caft_lens.activations.differences import stream
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens
    from caft_lens.text.batching import Batch


def embeddings(lens: Lens, texts: Texts, layer: int | str = -1) -> Tensor:
    """The mean activation of each text over all its tokens but attention sinks.

    Args:
        lens: The model.
        texts: Documents.
        layer: Layer or hook point; the last block by default.

    Returns:
        fp64 `[n_texts, d_model]`, on the CPU.

    Raises:
        BadData: When a text has no token that is read.

    Example:
        >>> embeddings(base, corpus[:5]).shape
        torch.Size([5, 128])
    """
    means = _Means(len(texts), lens.d_model)
    stream(lens, texts, [layer], means, roles=None)
    if not bool(means.tokens.all()):
        raise BadData(
            f"Text {int((means.tokens == 0).nonzero()[0])} has no token that is read, so it has no embedding."
        )
    return means.sums / means.tokens[:, None]


class _Means:
    """A reducer: by text the sum of its activations, and of how many."""

    def __init__(self, n: int, width: int) -> None:
        self.sums, self.tokens = torch.zeros(n, width, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations `[n_tokens, d_model]`."""
        text = batch.index[where[:, 0]]
        self.sums.index_add_(0, text, acts.double().cpu())
        self.tokens.index_add_(0, text, torch.ones(len(text), dtype=torch.float64))

    def merge(self, other: _Means) -> _Means:
        """Add another result in place."""
        self.sums += other.sums
        self.tokens += other.tokens
        return self
