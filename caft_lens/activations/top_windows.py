"""Where in a corpus directions are most and least active, from a stream.

A text contributes at most one window per direction and end, windows with the same tokens count once, and ties go to the
earlier text: so the answer is a function of the set of texts, and partial results merge exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import repeat
from torch import Tensor

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens.activations.capture import along
from caft_lens.text.batching import Batch

Rank = Literal["peak", "mean"]
RANKS = get_args(Rank)
# Directions are taken this many at a time, which bounds memory for the thousands of latents of an autoencoder.
_CHUNK = 256
# What stands where there is no window, in the order of `Windows.tensors`.
_BLANKS = (-torch.inf, -1, -1, -1, torch.nan)
_HASH = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass
class Windows:
    """The best windows of each direction at one end, best first.

    Attributes:
        values: What the windows are ranked by, `[n_dirs, k]`: the activation at the peak (token activation times
            direction), or its mean over the text's tokens; NaN where there are fewer than k.
        index: Number of the text in the input, `[n_dirs, k]`; -1 where there are fewer than k.
        position: Position of the peak in its text (in tokens, without padding), `[n_dirs, k]`.
        tokens: Token ids around the peak, `[n_dirs, k, window]`; -1 beyond the ends of the text.
        activations: Activation of each of them, `[n_dirs, k, window]`; NaN beyond the ends of the text and at tokens
            whose role was not asked for.
        peak: Where in the window the peak is.
    """

    values: Tensor
    index: Tensor
    position: Tensor
    tokens: Tensor
    activations: Tensor
    peak: int

    def __getitem__(self, rows: slice | Tensor) -> Windows:
        """The same for some of the directions."""
        return _windows([tensor[rows] for tensor in self.tensors], self.peak)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Values, index, position, tokens and activations."""
        return self.values, self.index, self.position, self.tokens, self.activations


def _windows(tensors: Sequence[Tensor], peak: int) -> Windows:
    values, index, position, tokens, activations = tensors
    return Windows(values, index, position, tokens, activations, peak)


class TopWindows:
    """Top and bottom windows of many directions.

    Args:
        directions: By hook name, `[n_dirs, d_model]` (or `[d_model]` for a single one).
        k: How many windows at each end.
        window: How many tokens before and after the peak.
        rank: By what texts are ranked: `"peak"`, the most extreme token, or `"mean"`, over all tokens of the text that
            were asked for. The window is around the most extreme token either way.

    Raises:
        BadArgument: For a direction that is not finite, without directions, or for another `rank`.

    Example:
        >>> directions = {"blocks.0.hook_resid_post": torch.eye(2)}
        >>> TopWindows(directions, k=3, window=(1, 1)).hooks
        ['blocks.0.hook_resid_post']
    """

    def __init__(
        self, directions: Mapping[str, Tensor], *, k: int = 10, window: tuple[int, int] = (12, 6), rank: Rank = "peak"
    ) -> None:
        check_windows(k, window, rank)
        self.directions = {hook: torch.atleast_2d(rows.detach().float().cpu()) for hook, rows in directions.items()}
        if not self.directions or any(len(rows) == 0 for rows in self.directions.values()):
            raise BadArgument("TopWindows needs at least one direction at every hook point.")
        for hook, rows in self.directions.items():
            if not bool(torch.isfinite(rows).all()):
                raise BadArgument(f"A direction at {hook} is NaN or infinite.")
        self.k, self.window, self.rank = k, window, rank
        self._top = {hook: no_windows(len(rows), k, window) for hook, rows in self.directions.items()}
        self._bottom = {hook: no_windows(len(rows), k, window) for hook, rows in self.directions.items()}

    @property
    def hooks(self) -> list[str]:
        """The hook points of the directions: what to stream."""
        return list(self.directions)

    def top(self, hook: str) -> Windows:
        """The windows with the largest activations, largest first, on the CPU."""
        return self._result(self._top, hook, sign=1)

    def bottom(self, hook: str) -> Windows:
        """The windows with the smallest (most negative) activations, smallest first, on the CPU."""
        return self._result(self._bottom, hook, sign=-1)

    def _result(self, ends: Mapping[str, Windows], hook: str, sign: int) -> Windows:
        if hook not in ends:
            raise UnknownName(f'No directions at "{hook}".{nearest(hook, ends)}')
        return finished(ends[hook], sign)

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations `[n_tokens, d_model]` of one hook point, at rows and positions `where` `[n_tokens, 2]`.

        Raises:
            BadArgument: For a hook point without directions, or another width.
        """
        if hook not in self.directions:
            raise BadArgument(f'TopWindows has no directions at "{hook}".{nearest(hook, self.directions)}')
        directions = self.directions[hook]
        if directions.shape[1] != acts.shape[1]:
            raise BadArgument(f"{hook}: directions are {directions.shape[1]} wide, activations {acts.shape[1]}.")
        acts = acts.detach().float()
        batch, where = batch.to(acts.device), where.to(acts.device)
        for start in range(0, len(directions), _CHUNK):
            part = slice(start, start + _CHUNK)
            grid = _grid(along(acts, directions[part]), batch, where)
            for ends, sign in ((self._top, 1), (self._bottom, -1)):
                old = ends[hook] = _to(ends[hook], acts.device)
                new = _candidates(sign * grid, batch, self.window, self.rank)
                for held, better in zip(old.tensors, best_windows(old[part], new, self.k).tensors, strict=True):
                    held[part] = better

    def merge(self, other: TopWindows) -> TopWindows:
        """Add another result in place, exactly as if its texts had been seen here.

        Raises:
            BadArgument: When directions, `k`, window or rank differ.
        """
        same = (self.k, self.window, self.rank) == (other.k, other.window, other.rank)
        same = same and self.directions.keys() == other.directions.keys()
        if not same or any(not torch.equal(rows, other.directions[hook]) for hook, rows in self.directions.items()):
            raise BadArgument("Only TopWindows of the same directions, k, window and rank can be merged.")
        for mine, theirs in ((self._top, other._top), (self._bottom, other._bottom)):
            for hook, old in mine.items():
                mine[hook] = best_windows(old, _to(theirs[hook], old.values.device), self.k)
        return self


def check_windows(k: int, window: tuple[int, int], rank: str) -> None:
    """Refuse what is no number or size of windows, or no way to rank texts."""
    if rank not in RANKS:
        raise BadArgument(f'rank="{rank}" is none of the ways to rank texts.{nearest(rank, RANKS)}')
    count(k, "k")
    for side in window:
        count(side, "window", least=0)


# While they are looked for, windows hold values turned so that larger is better; `finished` turns them back.


def finished(best: Windows, sign: int = 1) -> Windows:
    """The best windows as they are told: on the CPU, NaN where there are fewer than k."""
    return Windows(
        values=torch.where(best.index >= 0, sign * best.values, torch.nan).cpu(),
        index=best.index.cpu().clone(),
        position=best.position.cpu().clone(),
        tokens=best.tokens.cpu().clone(),
        activations=(sign * best.activations).cpu(),
        peak=best.peak,
    )


def no_windows(n_dirs: int, k: int, window: tuple[int, int]) -> Windows:
    shapes = [(n_dirs, k)] * 3 + [(n_dirs, k, window[0] + 1 + window[1])] * 2
    return _windows([torch.full(shape, blank) for shape, blank in zip(shapes, _BLANKS, strict=True)], window[0])


def _to(windows: Windows, device: torch.device) -> Windows:
    return _windows([tensor.to(device) for tensor in windows.tensors], windows.peak)


def _grid(scores: Tensor, batch: Batch, where: Tensor) -> Tensor:
    """Scores `[n_tokens, n_dirs]` at their places, `[n_dirs, batch, pos]`; NaN at tokens that were not asked for."""
    grid = scores.new_full((scores.shape[1], *batch.input_ids.shape), torch.nan)
    grid[:, where[:, 0], where[:, 1]] = scores.T
    return grid


def _candidates(grid: Tensor, batch: Batch, window: tuple[int, int], rank: Rank) -> Windows:
    """The best window of every text, `[n_dirs, batch]`."""
    width = grid.shape[2]
    values, peak = grid.nan_to_num(nan=-torch.inf).max(dim=2)  # the first of equal values
    if rank == "mean":
        values = torch.where(values > -torch.inf, grid.nanmean(dim=2), values)
    places = peak[..., None] + torch.arange(-window[0], window[1] + 1, device=grid.device)  # [n_dirs, batch, window]
    inside = (places >= 0) & (places < width)
    places = places.clamp(0, width - 1)
    texts = torch.arange(len(batch), device=grid.device)
    rows = repeat(texts, "text -> direction text window", direction=len(grid), window=places.shape[2])
    inside &= batch.attention_mask.bool()[rows, places]
    padding = (batch.attention_mask == 0).long().cumsum(dim=1) * (batch.attention_mask != 0)
    return Windows(
        values=values,
        index=torch.where(values > -torch.inf, batch.index, -1),
        position=peak - padding[rows[..., 0], peak],
        tokens=torch.where(inside, batch.input_ids[rows, places], -1),
        activations=torch.where(inside, grid.gather(2, places), torch.nan),
        peak=window[0],
    )


def best_windows(one: Windows, two: Windows, k: int) -> Windows:
    """The `k` best different windows of both, `[n_dirs, k]`: by value, then by text, then by position."""
    both = _windows([torch.cat(pair, dim=1) for pair in zip(one.tensors, two.tensors, strict=True)], one.peak)
    order = _stable_order(both)
    unwanted = _repeated(both, order)
    first = unwanted.int().sort(dim=1, stable=True).indices[:, :k]
    order, missing = order.gather(1, first), unwanted.gather(1, first)
    chosen = []
    for tensor, blank in zip(both.tensors, _BLANKS, strict=True):
        if tensor.ndim == 2:
            chosen.append(tensor.gather(1, order).masked_fill(missing, blank))
        else:
            wide = repeat(order, "direction place -> direction place window", window=tensor.shape[2])
            chosen.append(tensor.gather(1, wide).masked_fill(missing[..., None], blank))
    return _windows(chosen, one.peak)


def _stable_order(windows: Windows) -> Tensor:
    """Best first, `[n_dirs, n]`: three stable sorts, the least important key first."""
    order = windows.position.sort(dim=1, stable=True).indices
    order = order.gather(1, windows.index.gather(1, order).sort(dim=1, stable=True).indices)
    return order.gather(1, windows.values.gather(1, order).sort(dim=1, stable=True, descending=True).indices)


def _keys(windows: Windows) -> Tensor:
    """A 64-bit hash of the tokens of each window, `[n_dirs, n]`."""
    key = torch.zeros_like(windows.index)
    for token in windows.tokens.unbind(dim=2):
        key = (key ^ (token + 2)) * _HASH
        key = key ^ (key >> 29)
    return key


def _repeated(windows: Windows, order: Tensor) -> Tensor:
    """Which of the ordered windows are empty or have the tokens of a better one, bool `[n_dirs, n]`."""
    keys = _keys(windows).gather(1, order)
    by_key, place = keys.sort(dim=1, stable=True)
    again = torch.zeros_like(keys, dtype=torch.bool)
    again[:, 1:] = by_key[:, 1:] == by_key[:, :-1]
    repeated = torch.zeros_like(again).scatter(1, place, again)
    return repeated | (windows.index.gather(1, order) < 0)
