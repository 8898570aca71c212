"""What a model can be given: token ids that it has embeddings for, and texts no longer than its positions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from caft_lens._support.errors import BadData, BadModel
from caft_lens.model.hooked import HookedModel
from caft_lens.text.batching import Batch
from caft_lens.text.encoding import Encoded

_told: WeakSet[HookedModel] = WeakSet()
"""Models of which it was said that texts are longer than they were made for."""


def n_embeddings(lens: HookedModel) -> int:
    """How many token ids the model has an embedding for."""
    return int(lens.hf.get_input_embeddings().weight.shape[0])


def learned_positions(lens: HookedModel) -> int | None:
    """How many positions a model has embeddings for; `None` where positions are computed, as rotary ones are."""
    tokens = lens.hf.get_input_embeddings()
    for name, module in lens.anatomy.decoder.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and module is not tokens and (last == "wpe" or "position" in last):
            return int(module.num_embeddings) - int(getattr(module, "offset", 0) or 0)
    return None


def room(lens: HookedModel, max_length: int | None) -> int | None:
    """After how many tokens a text is cut: what was asked for, but no more than the model has positions."""
    most = lens.n_positions
    return most if max_length is None else max_length if most is None else min(max_length, most)


def check_tokenizer(lens: HookedModel) -> None:
    """Refuse a tokenizer whose tokens to pad, begin or end texts have no embedding.

    Others without one, such as some published models ship for images, are refused where a text has them.
    """
    if lens.tokenizer is None:
        return
    n = n_embeddings(lens)
    for kind in ("pad", "bos", "eos"):
        number = getattr(lens.tokenizer, f"{kind}_token_id", None)
        numbers = number if isinstance(number, (list, tuple)) else [number]
        if any(one is not None and not 0 <= one < n for one in numbers):
            mend = "give the model as many rows, model.resize_token_embeddings(len(tokenizer)), before it is trained"
            if kind == "pad":  # padding is masked in any case
                mend = f"take a token that is there, tokenizer.pad_token = tokenizer.eos_token, or {mend}"
            raise BadModel(
                f'The {kind} token "{getattr(lens.tokenizer, f"{kind}_token")}" of the tokenizer has id {number}, but '
                f"{lens.name} has {n} embeddings (ids 0 to {n - 1}): {mend}."
            )


def check_batch(lens: HookedModel, batch: Batch) -> None:
    """Refuse ids without an embedding and texts beyond the positions before they run."""
    _check_ids(lens, batch.input_ids, batch.index)
    most = lens.n_positions
    if most is not None and batch.input_ids.shape[1] > most:
        lengths = batch.attention_mask.sum(dim=1).cpu()
        longest = int(lengths.argmax())
        check_length(lens, int(lengths[longest]), f"Text {int(batch.index[longest])}")


def check_encoded(lens: HookedModel, items: Iterable[Encoded]) -> None:
    """The same for texts that are to be trained on."""
    n = n_embeddings(lens)
    for item in items:
        if item.input_ids and not 0 <= min(item.input_ids) <= max(item.input_ids) < n:
            _check_ids(lens, torch.tensor([item.input_ids]), torch.tensor([item.index]))
        if lens.n_positions is not None and len(item.input_ids) > lens.n_positions:
            check_length(lens, len(item.input_ids), f"Text {item.index}")


def check_length(lens: HookedModel, length: int, what: str) -> None:
    """Refuse tokens beyond learned positions; say once of a model when there are more than it was made for."""
    most = lens.n_positions
    if most is None or length <= most:
        return
    learned = learned_positions(lens)
    if learned is not None and length > learned:
        raise BadData(
            f"{what} has {length} tokens, and {lens.name} has {learned} positions: give max_length={learned} (to a "
            f"pass scan=Scan(max_length={learned})) to cut it, or shorter texts."
        )
    if lens not in _told:
        _told.add(lens)
        warnings.warn(
            f"{what} has {length} tokens, and {lens.name} was made for texts of up to {most}: what it computes "
            f"beyond them means little. Give max_length={most} (to a pass scan=Scan(max_length={most})) to cut texts "
            f"there. (Said once.)",
            stacklevel=4,
        )


def _check_ids(lens: HookedModel, ids: Tensor, index: Tensor) -> None:
    n = n_embeddings(lens)
    wrong = (ids < 0) | (ids >= n)
    if ids.numel() == 0 or not bool(wrong.any()):
        return
    row, place = wrong.nonzero()[0].tolist()
    number = int(ids[row, place])
    raise BadData(
        f"Text {int(index[row])} has the token id {number}{_named(lens.tokenizer, number)} at position {place}, but "
        f"{lens.name} has {n} embeddings (ids 0 to {n - 1}): is this the tokenizer of another model, or were tokens "
        f"added to it without model.resize_token_embeddings(len(tokenizer))?"
    )


def _named(tokenizer: Any, number: int) -> str:
    token = tokenizer.convert_ids_to_tokens(number) if tokenizer is not None and number >= 0 else None
    return f" ({token!r})" if isinstance(token, str) else ""
