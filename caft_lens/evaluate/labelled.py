"""What is scored: the mean activation of every labelled document, or a sample of the labelled tokens.

Text is streamed; what stays in memory is a row of `d_model` numbers a document, or a sample of tokens of fixed size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from caft_lens._support.errors import BadData
from caft_lens.evaluate.auroc import Floats, both_kinds
from caft_lens.find.probes import TextMeans, TokenSample
from caft_lens.text.batching import Batch
from caft_lens.text.documents import Text, Texts

Flags = NDArray[np.bool_]


class LabelledDocuments(TextMeans):
    """A reducer: the mean activation of every document, and whether it has the concept (`None`: it does not count)."""

    unit = "document"

    def __init__(self, truth: Sequence[bool | None]) -> None:
        super().__init__(len(truth))
        self.truth = truth

    def scored(self, hook: str) -> tuple[Floats, Flags]:
        """Activations `[n, d_model]` and which have the concept `[n]`; documents without a token are out."""
        acts, numbers = self.matrix(hook)
        labels = [self.truth[number] for number in numbers]
        count = np.array([label is not None for label in labels])
        has = np.array([bool(label) for label in labels])
        return acts[count], both_kinds(has[count], "documents with a token of these roles")


class LabelledTokens(TokenSample):
    """A reducer: an even sample of the labelled tokens, the same whatever the order in which they come."""

    unit = "token"

    def __init__(self, truth: Sequence[Sequence[bool | None]], size: int, seed: int) -> None:
        super().__init__(size, seed)
        self.truth = truth

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        index, position = batch.index[where[:, 0]], batch.position_ids[where[:, 0], where[:, 1]]
        labels = [self._label(*place) for place in zip(index.tolist(), position.tolist(), strict=True)]
        labelled = [row for row, label in enumerate(labels) if label is not None]
        super().update(hook, acts[labelled], batch, where[labelled])

    def _label(self, index: int, position: int) -> bool | None:
        labels = self.truth[index]
        if position >= len(labels):
            raise BadData(
                f"Text {index} has a token at position {position}, but {len(labels)} labels: give one for every token."
            )
        return labels[position]

    def scored(self, hook: str) -> tuple[Floats, Flags]:
        """Scores' raw material `[n, d_model]` and which of them have the concept `[n]`."""
        acts, places = self._kept[hook]
        has = np.array([bool(self._label(int(place) >> 32, int(place) & 0xFFFFFFFF)) for place in places])
        return acts.double().numpy(), both_kinds(has, "labelled tokens of these roles")


def labelled(truth: Sequence[Any], max_tokens: int, seed: int) -> LabelledDocuments | LabelledTokens:
    """The reducer that keeps what some labels are of."""
    return LabelledTokens(truth, max_tokens, seed) if truth and _is_row(truth[0]) else LabelledDocuments(truth)


def truth_of(labels: Callable[[Text], Any] | Sequence[Any], texts: Texts) -> list[Any]:
    """A label for every text, or for every one of its tokens.

    Raises:
        ValueError: When there are not as many as texts, or some are of another kind.
    """
    truth = [labels(text) for text in texts] if callable(labels) else list(labels)
    if len(truth) != len(texts):
        raise BadData(f"{len(truth)} labels for {len(texts)} texts: give one for each, `None` where it does not count.")
    for number, label in enumerate(truth):
        if not isinstance(label, bool | np.bool_ | None) and not _is_row(label):
            raise BadData(
                f"The label of text {number} is {label!r}: expected True, False or None, or one of these for every "
                f"token."
            )
    kinds = {_is_row(label) for label in truth}
    if len(kinds) > 1:
        raise BadData("Some labels are of documents and some of tokens: give one kind.")
    return truth


def _is_row(label: Any) -> bool:
    return isinstance(label, Sequence | np.ndarray) and not isinstance(label, str)
