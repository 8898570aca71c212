"""Documents in padded batches: `collate` pads some, `batches` streams any number in a bounded window (`Scan`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument
from caft_lens._support.keywords import takes_values
from caft_lens._support.progress import progress as progress_bar
from caft_lens.text.documents import Text, Texts, documents
from caft_lens.text.encoding import Cuts, Encoded, encoded
from caft_lens.text.roles import ROLES, SPECIAL, check_role_names
from caft_lens.text.rows import rows_of

# A window of the stream holds this many batches' worth of tokens: enough to sort by length, little to keep.
_WINDOW_BATCHES = 16
_WINDOW_TEXTS = 4096


@dataclass(frozen=True)
class Scan:
    """How a pass reads text, whatever it looks for.

    Attributes:
        batch_tokens: At most this many tokens a batch, padding included; a single longer text is a batch of its own.
        max_length: Cut each text after this many tokens; a warning at the end counts what was cut. `None` cuts nothing.
        watch: Told after each batch what share of the texts was read, `None` where their number is not known, in place
            of a progress bar; whatever it raises ends the pass.

    Raises:
        BadArgument: For numbers below 1.

    Example:
        >>> Scan(batch_tokens=4096).max_length is None
        True
    """

    batch_tokens: int = 8192
    max_length: int | None = None
    watch: Callable[[float | None], None] | None = None

    def __post_init__(self) -> None:
        count(self.batch_tokens, "batch_tokens")
        if self.max_length is not None:
            count(self.max_length, "max_length")

    def tell(self, read: int, total: int | None) -> None:
        """Tell who watches that so many of the texts were read."""
        if self.watch is not None:
            self.watch(min(1.0, read / total) if total else None)


@dataclass
class Batch:
    """Padded documents.

    Attributes:
        input_ids: Token ids, long `[batch, pos]`.
        attention_mask: 1 where there is a token, 0 where there is padding, long `[batch, pos]`.
        roles: Role of each token, int8 `[batch, pos]`; padding is special.
        loss: Which tokens training learns, bool `[batch, pos]`.
        index: Number of each document in the input, long `[batch]`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    roles: Tensor
    loss: Tensor
    index: Tensor

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    @property
    def position_ids(self) -> Tensor:
        """Position of each token in its document, long `[batch, pos]`, whichever side the padding is on."""
        return (self.attention_mask.cumsum(-1) - 1).clamp(min=0)

    @property
    def labels(self) -> Tensor:
        """`input_ids` where `loss`, else -100, long `[batch, pos]`."""
        return self.input_ids.masked_fill(~self.loss, -100)

    def mask(self, roles: Sequence[str] | None = None) -> Tensor:
        """Which tokens have one of these roles, bool `[batch, pos]`; `None` is every token that is not padding.

        Raises:
            BadArgument: For a name that is no role.
        """
        attended = self.attention_mask.bool()
        if roles is None:
            return attended
        wanted = torch.zeros_like(attended)
        for number in check_role_names(roles, ROLES):
            wanted |= self.roles == number
        return attended & wanted


def collate(encoded: Sequence[Encoded], pad_id: int, side: Literal["left", "right"] = "right") -> Batch:
    """Pad documents to the longest of them.

    Args:
        encoded: At least one document.
        pad_id: Token id of the padding.
        side: Where the padding goes: right for training and capture, left for generation.

    Example:
        >>> two = [Encoded([5, 6], np.array([2, 3], np.int8), np.array([False, True])),
        ...        Encoded([7], np.array([4], np.int8), np.array([True]), index=1)]
        >>> collate(two, pad_id=0, side="left").input_ids.tolist()
        [[5, 6], [0, 7]]
    """
    if side not in ("left", "right"):
        raise BadArgument(f'side must be "left" or "right", not "{side}".')
    if not encoded:
        raise BadArgument("Nothing to collate: give at least one encoded text.")
    shape = (len(encoded), max(len(item.input_ids) for item in encoded))
    ids = np.full(shape, pad_id, dtype=np.int64)
    attention = np.zeros(shape, dtype=np.int64)
    roles = np.full(shape, SPECIAL, dtype=np.int8)
    loss = np.zeros(shape, dtype=bool)
    for row, item in enumerate(encoded):
        length = len(item.input_ids)
        place = slice(0, length) if side == "right" else slice(shape[1] - length, shape[1])
        ids[row, place] = item.input_ids
        attention[row, place] = 1
        roles[row, place] = item.roles
        loss[row, place] = item.loss
    index = torch.tensor([item.index for item in encoded], dtype=torch.long)
    tokens, mask, role, learn = map(torch.from_numpy, (ids, attention, roles, loss))
    return Batch(tokens, mask, role, learn, index)


def padding_id(tokenizer: Any) -> int:
    """The token id to pad with: the tokenizer's, else its end-of-text token's, else 0 (masked in any case)."""
    for number in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if number is not None:
            return int(number[0] if isinstance(number, (list, tuple)) else number)
    return 0


@takes_values
def batches(
    tokenizer: Any,
    texts: Iterable[Text],
    scan: Scan = Scan(),
    *,
    batch_size: int | None = None,
    side: Literal["left", "right"] = "right",
    progress: str | None = None,
) -> Iterator[Batch]:
    """Stream documents as padded batches.

    A window of some batches' worth of texts is read, sorted by length (longest first) and cut, so that little is
    padding and memory does not grow with the number of texts.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        texts: The documents; a generator is read as it goes.
        scan: Tokens a batch, and where texts are cut.
        batch_size: At most this many documents a batch.
        side: Where the padding goes.
        progress: What a progress bar over the texts is called; `None` for no bar.

    Yields:
        Batches; `Batch.index` is the position of each document in `texts`.
    """
    if batch_size is not None:
        count(batch_size, "batch_size")
    cuts = Cuts(scan.max_length)

    def watched() -> Iterator[Encoded]:
        read = texts if isinstance(texts, Texts) else documents(rows_of(texts))
        for item in encoded(tokenizer, read, max_length=scan.max_length):
            cuts.see(item)
            yield item

    total = len(texts) if isinstance(texts, Sequence) else None
    packed = pack(watched(), padding_id(tokenizer), batch_tokens=scan.batch_tokens, batch_size=batch_size, side=side)
    shown, done = progress is not None and scan.watch is None, 0
    with progress_bar(total=total, desc=progress or "", unit="text", show=shown) as bar:
        for batch in packed:
            yield batch
            bar.update(len(batch))
            done += len(batch)
            scan.tell(done, total)
    cuts.warn()


def pack(
    encoded: Iterable[Encoded],
    pad_id: int,
    *,
    batch_tokens: int = 8192,
    batch_size: int | None = None,
    side: Literal["left", "right"] = "right",
) -> Iterator[Batch]:
    """Encoded documents as padded batches: what `batches` does after encoding, with the same arguments."""
    window: list[Encoded] = []
    held = 0
    for item in encoded:
        window.append(item)
        held += len(item.input_ids)
        if held >= batch_tokens * _WINDOW_BATCHES or len(window) >= _WINDOW_TEXTS:
            yield from (collate(rows, pad_id, side) for rows in _cut(window, batch_tokens, batch_size))
            window, held = [], 0
    yield from (collate(rows, pad_id, side) for rows in _cut(window, batch_tokens, batch_size))


def _cut(window: Sequence[Encoded], batch_tokens: int, batch_size: int | None) -> Iterator[list[Encoded]]:
    rows: list[Encoded] = []
    for item in sorted(window, key=lambda item: (-len(item.input_ids), item.index)):
        # Longest first, so the first row's length is the width of the batch.
        full = rows and (len(rows) + 1) * len(rows[0].input_ids) > batch_tokens
        if full or (batch_size is not None and len(rows) >= batch_size):
            yield rows
            rows = []
        rows.append(item)
    if rows:
        yield rows
