"""Random windows of a corpus, one a text: what contexts are compared with, and what explanations are tried on.

A window is around a token that is drawn by a seed and the number of the text: the same however texts are batched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caft_lens._support.files import sha256
from caft_lens.activations.capture import along
from caft_lens.activations.top_windows import Rank
from caft_lens.saes.encoding import latents_of
from caft_lens.text.batching import Batch
from caft_lens.text.documents import Text, Texts
from caft_lens.text.token_strings import BROKEN

if TYPE_CHECKING:
    from sae_lens import SAE

# Directions are taken this many at a time, which bounds memory for the thousands of latents of an autoencoder.
_CHUNK = 256
LONGEST = 3
"""Tokens of a phrase at most."""


def drawn(seed: int, index: int, n: int) -> tuple[float, int]:
    """Of text `index`: a random number in [0, 1) that says whether it is sampled, and one of its `n` tokens."""
    rng = np.random.default_rng([seed, index])
    return float(rng.random()), int(rng.integers(n))


def around(place: int, window: tuple[int, int], length: int) -> slice:
    """The window around a token of a text of `length` tokens."""
    return slice(max(0, place - window[0]), min(length, place + window[1] + 1))


def identity(text: Text) -> str:
    """16 hex digits over what a text says; `meta` does not count."""
    return Texts([text]).fingerprint


def fraction(seed: int, text: Text) -> float:
    """A number in [0, 1) drawn by a seed and what a text says: equal texts have equal ones."""
    return int(sha256(str(seed), identity(text)), 16) / 16**16


def phrases(tokens: Sequence[str], special: Sequence[bool]) -> Iterator[tuple[int, int, str]]:
    """Every stretch of up to three tokens: start, end and how it is written, in lower case without outer spaces.

    A token of the template stands alone; white space counts only as a token of its own.

    Example:
        >>> [said for _, _, said in phrases([" Not", " a"], [False, False])]
        ['not', 'not a', 'a']
    """
    for start in range(len(tokens)):
        for end in range(start + 1, min(start + LONGEST, len(tokens)) + 1):
            if end - start > 1 and any(special[start:end]):
                break
            said = written("".join(tokens[start:end]))
            if said and BROKEN not in said and (end - start == 1 or not said.isspace()):
                yield start, end, said


def written(piece: str) -> str:
    """How a token or phrase is compared: in lower case, without outer spaces unless there is nothing else."""
    return piece.strip().casefold() or piece


@dataclass(frozen=True)
class Sample:
    """One random window of each of some texts, and how active directions are there.

    Attributes:
        index: Number of the text, `[n]`, ascending.
        position: Of the token around which the window is, in its text, `[n]`.
        high: By hook point, the highest activation of each direction in the window (or the mean), `[n, n_dirs]`.
        low: The lowest activation (or the mean again), `[n, n_dirs]`.
    """

    index: NDArray[np.int64]
    position: NDArray[np.int64]
    high: Mapping[str, NDArray[np.float32]]
    low: Mapping[str, NDArray[np.float32]]


class WindowActivity:
    """A reducer for `stream`: how active directions are in a random window of each of a bounded sample of texts.

    Args:
        directions: By hook name, `[n_dirs, d_model]`.
        latents: By hook name, an SAE and the numbers of the latents that count; they come after the directions.
        size: How many texts to keep at most: which ones is drawn by the seed, whatever their order.
        window: Tokens before and after the token that is drawn; those whose role was not asked for count for nothing.
        rank: `"peak"` for the most extreme activation in a window, `"mean"` for the mean.
        seed: Of the draw.

    Example:
        >>> WindowActivity({"blocks.0.hook_resid_post": torch.eye(2)}, size=100).hooks
        ['blocks.0.hook_resid_post']
    """

    def __init__(
        self,
        directions: Mapping[str, Tensor],
        latents: Mapping[str, tuple[SAE, Sequence[int]]] | None = None,
        *,
        size: int = 4000,
        window: tuple[int, int] = (12, 6),
        rank: Rank = "peak",
        seed: int = 0,
    ) -> None:
        self.directions = {hook: rows.detach().float().cpu() for hook, rows in directions.items()}
        self.latents = dict(latents or {})
        self.size, self.window, self.rank, self.seed = size, window, rank, seed
        # Per text: its draw, number, position of the token, activity; trimmed to `size` texts at twice that.
        self._kept: dict[str, list[tuple[float, int, int, NDArray, NDArray]]] = {hook: [] for hook in self.hooks}

    @property
    def hooks(self) -> list[str]:
        """The hook points of the directions and SAEs: what to stream."""
        return list(dict.fromkeys((*self.directions, *self.latents)))

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in `acts` `[n_tokens, d_model]` of one hook point, at rows and positions `where` `[n_tokens, 2]`."""
        rows, places = where.T.numpy()
        positions = batch.position_ids[where[:, 0], where[:, 1]].numpy()
        index = batch.index.numpy()
        starts = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist(), len(rows)]
        found, wanted, lengths = [], [], []
        for start, end in pairwise(starts):
            number = int(index[rows[start]])
            key, pick = drawn(self.seed, number, end - start)
            offsets = places[start:end] - places[start + pick]
            inside = np.flatnonzero((offsets >= -self.window[0]) & (offsets <= self.window[1]))
            found.append((key, number, int(positions[start + pick])))
            wanted.append(start + inside)
            lengths.append(len(inside))
        high, low = self._activity(hook, acts, np.concatenate(wanted), np.cumsum([0, *lengths[:-1]]))
        kept = self._kept[hook]
        kept += [(*text, up, down) for text, up, down in zip(found, high, low, strict=True)]
        if len(kept) > 2 * self.size:
            self._kept[hook] = self._trimmed(kept)

    def merge(self, other: WindowActivity) -> WindowActivity:
        """Add another result in place, exactly as if its texts had been seen here."""
        for hook, kept in self._kept.items():
            kept += other._kept[hook]
        return self

    def sample(self) -> Sample:
        """The windows of the sampled texts, in the order of the texts."""
        kept = {hook: sorted(self._trimmed(rows), key=lambda row: row[1]) for hook, rows in self._kept.items()}
        first = next(iter(kept.values()))
        return Sample(
            np.array([row[1] for row in first], np.int64),
            np.array([row[2] for row in first], np.int64),
            {hook: np.stack([row[3] for row in rows]) for hook, rows in kept.items()},
            {hook: np.stack([row[4] for row in rows]) for hook, rows in kept.items()},
        )

    def _trimmed(self, kept: list) -> list:
        return sorted(kept, key=lambda row: row[:2])[: self.size]

    def _activity(
        self, hook: str, acts: Tensor, wanted: NDArray, starts: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The most extreme activations, or the mean twice, in windows that begin at `starts` of the wanted tokens."""
        tokens = acts.detach()[torch.from_numpy(wanted).to(acts.device)]
        sizes = np.diff([*starts, len(tokens)])[:, None]
        highs, lows = [], []
        for scores in self._scores(hook, tokens):
            if self.rank == "mean":
                highs.append(np.add.reduceat(scores, starts, axis=0) / sizes)
                lows.append(highs[-1])
            else:
                highs.append(np.maximum.reduceat(scores, starts, axis=0))
                lows.append(np.minimum.reduceat(scores, starts, axis=0))
        return np.concatenate(highs, axis=1), np.concatenate(lows, axis=1)

    def _scores(self, hook: str, tokens: Tensor) -> Iterator[NDArray[np.float32]]:
        """Activations at some tokens, some directions at a time, then those of the latents, `[n_tokens, n]`."""
        if hook in self.directions:
            for part in self.directions[hook].split(_CHUNK):
                yield along(tokens, part).cpu().numpy()
        if hook in self.latents:
            sae, numbers = self.latents[hook]
            wanted = torch.as_tensor(numbers, device=sae.device)
            found = [latents[:, wanted].float().cpu() for latents in latents_of(sae, tokens)]
            yield torch.cat(found).numpy()
