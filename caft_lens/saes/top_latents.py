"""Where in a corpus the latents of sparse autoencoders are most active: thousands of them in one pass.

A latent's activation is what its SAE encodes, not the projection on its decoder direction. Few latents are active at a
token, and few of those can still enter a list of `k` best: one comparison with the `k`-th best so far drops nearly all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens.activations.top_windows import Rank, Windows, best_windows, check_windows, finished, no_windows
from caft_lens.saes.cards import sae_name
from caft_lens.saes.encoding import active_latents
from caft_lens.text.batching import Batch

if TYPE_CHECKING:
    from sae_lens import SAE

# Lists of best windows are brought up to date for this many latents at a time, which bounds memory for wide SAEs.
_CHUNK = 4096


@dataclass(frozen=True)
class Active:
    """Latents that are above 0 at some tokens, as a sparse matrix: ordered by token, within it by latent.

    Attributes:
        token: Number of the token, a row of `where`, long `[n]`.
        latent: Number of the latent, long `[n]`.
        value: Its activation, fp32 `[n]`.
    """

    token: Tensor
    latent: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.token)

    def __getitem__(self, some: Tensor) -> Active:
        """Some of them, by a mask or by places."""
        return Active(self.token[some], self.latent[some], self.value[some])

    def among(self, latents: Tensor) -> Active:
        """Those of some latents (numbers in ascending order), renumbered by their place among these."""
        place = torch.searchsorted(latents, self.latent).clamp(max=len(latents) - 1)
        kept = latents[place] == self.latent
        return Active(self.token[kept], place[kept], self.value[kept])


class LatentReducer:
    """What reads the latents of SAEs in a `stream`; a subclass says in `read` what it keeps.

    Args:
        saes: By hook point.
        latents: By hook point, the numbers of the latents to read; all of them by default.

    Attributes:
        latents: By hook point, the latents that are read, ascending, long `[n_latents]`: the rows of every result.

    Raises:
        BadArgument: Without SAEs, or for a latent that an SAE does not have.
    """

    def __init__(self, saes: Mapping[str, SAE], latents: Mapping[str, Sequence[int]] | None = None) -> None:
        self.saes = dict(saes)
        if not self.saes:
            raise BadArgument("No SAE: give at least one by its hook point.")
        if latents is not None and latents.keys() != self.saes.keys():
            raise BadArgument(
                f"Latents at {', '.join(latents) or 'no hook point'}, SAEs at {', '.join(self.saes)}: they have to "
                f"be the same."
            )
        self.latents: dict[str, Tensor] = {}
        for hook, one in self.saes.items():
            numbers = range(one.cfg.d_sae) if latents is None else sorted(set(latents[hook]))
            wanted = self.latents[hook] = torch.as_tensor(numbers, dtype=torch.long)
            if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= one.cfg.d_sae:
                raise BadArgument(
                    f"Latents {wanted.tolist()} of the SAE {sae_name(one)}: give at least one, and only numbers from "
                    f"0 to {one.cfg.d_sae - 1}."
                )

    @property
    def hooks(self) -> list[str]:
        """The hook points of the SAEs: what to stream."""
        return list(self.saes)

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations `[n_tokens, d_model]` of one hook point, at rows and positions `where` `[n_tokens, 2]`.

        Raises:
            BadArgument: For a hook point without an SAE.
        """
        self.read(hook, Active(*active_latents(_sae_at(self.saes, hook), acts)), batch, where)

    def read(self, hook: str, active: Active, batch: Batch, where: Tensor) -> None:
        """Take in the latents of one hook point that are active on one batch; everything is on the CPU."""
        raise NotImplementedError

    def merge(self, other: Self) -> Self:
        """Add the result of another pass in place, exactly as if its texts had been seen in this one."""
        raise NotImplementedError

    def wanted(self, hook: str, active: Active) -> Active:
        """Of what is active, the latents that are read, as rows of the result."""
        wanted = self.latents[hook]
        return active if len(wanted) == self.saes[hook].cfg.d_sae else active.among(wanted)

    def fits(self, other: LatentReducer) -> bool:
        """Whether another reducer reads the same latents of the same SAEs."""
        return self.saes.keys() == other.saes.keys() and all(
            torch.equal(self.latents[hook], other.latents[hook]) and _same(one, other.saes[hook])
            for hook, one in self.saes.items()
        )


class Latents:
    """Several reducers of latents in one pass, for which each SAE encodes once.

    Args:
        readers: Such as `TopLatents` and `LatentDensity`, of the same SAEs.

    Raises:
        BadArgument: When they read different SAEs at a hook point, or there are none.

    Example:
        >>> from caft_lens.activations.differences import stream
        >>> from caft_lens.inspect.density_reducers import LatentDensity
        >>> at = {hook: sae}
        >>> top, density = TopLatents(at, k=10), LatentDensity(at)
        >>> _ = stream(base, corpus, [hook], Latents(top, density), roles=None)
        >>> top.top(hook).values.shape  # [d_sae, k]
        torch.Size([512, 10])
    """

    def __init__(self, *readers: LatentReducer) -> None:
        if not readers:
            raise BadArgument("Latents() needs at least one reducer, such as TopLatents(saes).")
        self.readers = readers
        self.saes = dict(readers[0].saes)
        whose = [{hook: id(one) for hook, one in reader.saes.items()} for reader in readers]
        if any(one != whose[0] for one in whose):
            raise BadArgument(
                "Reducers that share an encoding need the same SAEs at the same hook points; give the others to "
                "`stream` beside this one."
            )

    @property
    def hooks(self) -> list[str]:
        """The hook points of the SAEs: what to stream."""
        return list(self.saes)

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations `[n_tokens, d_model]` of one hook point, at (row, position) `where` `[n_tokens, 2]`."""
        active = Active(*active_latents(_sae_at(self.saes, hook), acts))
        for reader in self.readers:
            reader.read(hook, active, batch, where)

    def merge(self, other: Latents) -> Latents:
        """Add the results of another pass in place, reducer by reducer."""
        for mine, theirs in zip(self.readers, other.readers, strict=True):
            mine.merge(theirs)
        return self


class TopLatents(LatentReducer):
    """The windows of tokens around the largest activations of many latents.

    As with `TopWindows`, a text contributes at most one window per latent, windows with the same tokens count once, and
    ties go to the earlier text. There is one end only: a latent that is not active is at 0 almost everywhere, and what
    an AbsTopK SAE has below 0 counts as not active.

    Args:
        saes: By hook point.
        k: How many windows of each latent.
        window: How many tokens before and after the peak.
        rank: By what texts are ranked: `"peak"`, the largest activation in the text, or `"mean"`, that over all tokens
            of the text that were asked for, with zeros. The window is around the largest activation either way.
        latents: By hook point, the numbers of the latents to read; all of them by default.

    Raises:
        BadArgument: Without SAEs, for a latent that an SAE does not have, or for another `rank`.

    Example:
        >>> from caft_lens.activations.differences import stream
        >>> (top,) = stream(base, corpus, [2], TopLatents({hook: sae}), roles=None)
        >>> top.top(hook).values.shape  # [d_sae, k]
        torch.Size([512, 10])
    """

    def __init__(
        self,
        saes: Mapping[str, SAE],
        *,
        k: int = 10,
        window: tuple[int, int] = (12, 6),
        rank: Rank = "peak",
        latents: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(saes, latents)
        check_windows(k, window, rank)
        self.k, self.window, self.rank = k, window, rank
        self._windows = {hook: no_windows(len(rows), k, window) for hook, rows in self.latents.items()}

    def top(self, hook: str) -> Windows:
        """The windows with the largest activations, largest first, one row a latent of `latents[hook]`.

        A latent that was never active has none: its values are NaN and its indices -1.
        """
        if hook not in self._windows:
            raise UnknownName(f'No SAE at "{hook}".{nearest(hook, self._windows)}')
        return finished(self._windows[hook])

    def read(self, hook: str, active: Active, batch: Batch, where: Tensor) -> None:
        """Take in the latents of one hook point that are active on one batch."""
        held = self._windows[hook]
        active = self.wanted(hook, active)
        # A window below the k-th best that is held, and those held differ in tokens, can never be among the k best.
        floor = held.values[:, -1]
        rows = where[:, 0]
        if self.rank == "peak":
            peaks = _peaks(active[active.value >= floor[active.latent]], rows)
        else:
            peaks = _ranked_by_mean(_peaks(active, rows), active, rows)
            peaks = peaks[peaks.value >= floor[peaks.latent]]
        if len(peaks) == 0:
            return
        tokens, numbers = _around(batch, where, self.window)
        peaks, place = _first_k(peaks, batch.index[rows[peaks.token]], tokens, self.k)
        changed, row = peaks.latent.unique_consecutive(return_inverse=True)
        positions = batch.position_ids[where[:, 0], where[:, 1]]
        for first in range(0, len(changed), _CHUNK):
            some = changed[first : first + _CHUNK]
            here = (row >= first) & (row < first + _CHUNK)
            chosen, at = peaks[here], (row[here] - first, place[here])
            new = no_windows(len(some), self.k, self.window)
            new.values[at] = chosen.value
            new.index[at] = batch.index[rows[chosen.token]]
            new.position[at] = positions[chosen.token]
            new.tokens[at] = tokens[chosen.token]
            new.activations[at] = _activations(active, numbers[chosen.token], chosen.latent)
            _enter(held, some, new, self.k)

    def merge(self, other: TopLatents) -> TopLatents:
        """Add another result in place, exactly as if its texts had been seen here.

        Raises:
            BadArgument: When SAEs, latents, `k`, window or rank differ.
        """
        same = (self.k, self.window, self.rank) == (other.k, other.window, other.rank)
        if not same or not self.fits(other):
            raise BadArgument("Only TopLatents of the same latents, k, window and rank can be merged.")
        for hook, mine in self._windows.items():
            for first in range(0, len(mine.values), _CHUNK):
                some = torch.arange(first, min(first + _CHUNK, len(mine.values)))
                _enter(mine, some, other._windows[hook][some], self.k)
        return self


def _sae_at(saes: Mapping[str, SAE], hook: str) -> SAE:
    if hook not in saes:
        raise BadArgument(f'There is no SAE at "{hook}".{nearest(hook, saes)}')
    return saes[hook]


def _same(one: SAE, other: SAE) -> bool:
    """Whether two SAEs have the same weights, on whatever devices."""
    if one is other:
        return True
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name].cpu(), theirs[name].cpu()) for name in mine)


def _enter(held: Windows, rows: Tensor, new: Windows, k: int) -> None:
    """Let new windows of some rows take the places of worse ones, in place."""
    for tensor, better in zip(held.tensors, best_windows(held[rows], new, k).tensors, strict=True):
        tensor[rows] = better


def _first(groups: Tensor) -> Tensor:
    """Which entries are the first of their group, bool `[n]`."""
    ordered, place = groups.sort(stable=True)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(starts).scatter(0, place, starts)


def _peaks(active: Active, rows: Tensor) -> Active:
    """Where each latent is most active in each text of a batch, the earlier token of equal ones."""
    active = active[active.value.sort(descending=True, stable=True).indices]
    return active[_first(_pairs(active, rows))]


def _pairs(active: Active, rows: Tensor) -> Tensor:
    """A number for each latent and text, `[n]`."""
    return active.latent * (int(rows.max()) + 1) + rows[active.token]


def _ranked_by_mean(peaks: Active, active: Active, rows: Tensor) -> Active:
    """Peaks with the mean of the latent over the tokens of the text in place of the activation there."""
    pairs, inverse = _pairs(active, rows).unique(return_inverse=True)
    sums = torch.zeros(len(pairs), dtype=torch.float64).index_add(0, inverse, active.value.double())
    means = sums[torch.searchsorted(pairs, _pairs(peaks, rows))] / rows.bincount()[rows[peaks.token]]
    return Active(peaks.token, peaks.latent, means.float())


def _around(batch: Batch, where: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Token ids around each token, `[n_tokens, window]`, and the numbers of these tokens; -1 where there is none."""
    places = where[:, 1:] + torch.arange(-window[0], window[1] + 1)
    inside = (places >= 0) & (places < batch.input_ids.shape[1])
    places = places.clamp(0, batch.input_ids.shape[1] - 1)
    rows = where[:, :1].expand_as(places)
    inside &= batch.attention_mask.bool()[rows, places]
    numbers = torch.full_like(batch.input_ids, -1)
    numbers[where[:, 0], where[:, 1]] = torch.arange(len(where))
    return (torch.where(inside, batch.input_ids[rows, places], -1), torch.where(inside, numbers[rows, places], -1))


def _first_k(peaks: Active, index: Tensor, tokens: Tensor, k: int) -> tuple[Active, Tensor]:
    """The `k` best peaks of each latent whose windows differ, by latent, and the place of each, from 0."""
    order = index.sort(stable=True).indices
    order = order[peaks.value[order].sort(descending=True, stable=True).indices]
    peaks = peaks[order[peaks.latent[order].sort(stable=True).indices]]
    found, window = peaks.token.unique(return_inverse=True)
    _, same = tokens[found].unique(dim=0, return_inverse=True)
    peaks = peaks[_first(peaks.latent * len(tokens) + same[window])]
    _, counts = peaks.latent.unique_consecutive(return_counts=True)
    place = torch.arange(len(peaks)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return peaks[place < k], place[place < k]


def _activations(active: Active, numbers: Tensor, latents: Tensor) -> Tensor:
    """Activation of one latent a row at the tokens of a window, `[n, window]`; NaN where there is no token."""
    width = int(active.latent.max()) + 1
    there = active.token * width + active.latent
    wanted = numbers * width + latents[:, None]
    place = torch.searchsorted(there, wanted).clamp(max=len(there) - 1)
    values = torch.where(there[place] == wanted, active.value[place], 0.0)
    return values.masked_fill(numbers < 0, torch.nan)
