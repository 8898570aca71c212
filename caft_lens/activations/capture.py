"""One forward pass after another, and what it was at some sites and tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import einsum, rearrange
from torch import Tensor

from caft_lens._support.blocks import inference
from caft_lens._support.errors import BadArgument, BadData, BadModel, BadPass, ConceptMismatch
from caft_lens.model.architectures import evaluating
from caft_lens.model.hook_names import place_of
from caft_lens.text.batching import Batch
from caft_lens.text.roles import ROLES

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens
    from caft_lens.model.sinks import Sinks

Lenses = tuple["Lens", ...]


@dataclass
class Captured:
    """Activations of one batch.

    Attributes:
        batch: The batch, on the CPU.
        where: By hook name, row and position of each captured token, long `[n_tokens, 2]`, on the CPU.
        acts: Activations by hook name, `[n_tokens, d_model]`, on the device of their layer; of two lenses the first's,
            or the difference.
        base: The second lens's, where the two were wanted apart.
        left_out: By hook name, how many of the wanted tokens are attention sinks and therefore not among the captured.
    """

    batch: Batch
    where: dict[str, Tensor]
    acts: dict[str, Tensor] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def pop(self, hook: str) -> tuple[Tensor, ...]:
        """Activations at a hook point, which are let go; of two lenses apart their difference, and each one's."""
        first = self.acts.pop(hook)
        if not self.base:
            return (first,)
        second = self.base.pop(hook)
        return difference(first, second), first, second


def difference(first: Tensor, second: Tensor) -> Tensor:
    """Activations of one model minus those of another at the same tokens, in fp32, on the device of the first."""
    return first.float() - second.to(first.device).float()


def along(acts: Tensor, directions: Tensor) -> Tensor:
    """Activations along directions, where the activations are.

    Args:
        acts: `[n_tokens, d_model]`.
        directions: `[n_directions, d_model]`, fp32.

    Returns:
        fp32 `[n_tokens, n_directions]`.

    Example:
        >>> along(torch.tensor([[3.0, 4.0]]), torch.eye(2))
        tensor([[3., 4.]])
    """
    return einsum(acts.float(), directions.to(acts.device), "token d_model, direction d_model -> token direction")


def pair(lens: Lens | tuple[Lens, Lens]) -> Lenses:
    """The lenses of a pass: one, or two whose difference is taken.

    Raises:
        ConceptMismatch: For two lenses that do not see the same tokens or differ in width.
    """
    lenses: Lenses = tuple(lens) if isinstance(lens, (tuple, list)) else (lens,)
    if len(lenses) == 1:
        return lenses
    if len(lenses) != 2:
        raise BadArgument(f"Expected one lens, or two to take the difference of; got {len(lenses)}.")
    first, second = lenses
    if first.d_model != second.d_model:
        raise ConceptMismatch(
            f"{first.name} is {first.d_model} wide and {second.name} {second.d_model}: "
            "activations can be subtracted only between versions of one model."
        )
    if first.tokenizer is not second.tokenizer and first.tokenizer.get_vocab() != second.tokenizer.get_vocab():
        raise ConceptMismatch(
            f"{first.name} and {second.name} have different tokenizers, so that they would not see the same tokens."
        )
    return lenses


def hook_names(lenses: Lenses, hooks: Sequence[int | str] | int | str) -> list[str]:
    """Full names of hook points, each once, in the order asked for; every lens must have them."""
    if isinstance(hooks, (int, str)):
        hooks = [hooks]
    names = [[lens.hook_name(hook) for hook in hooks] for lens in lenses]
    if not names[0]:
        raise BadArgument("No hook points: give layer numbers or names, such as [1, 2].")
    for hook, first, second in zip(hooks, names[0], names[-1], strict=True):
        if first != second:
            raise ConceptMismatch(f"{hook} is {first} in {lenses[0].name} but {second} in {lenses[1].name}.")
    return list(dict.fromkeys(names[0]))


def captured(
    lenses: Lenses,
    batches: Iterable[Batch],
    hooks: Sequence[str],
    roles: Sequence[str] | None,
    *,
    apart: bool = False,
    sinks: Literal["leave out", "leave out together", "read"] = "leave out",
) -> Iterator[Captured]:
    """Run batches, up to the last hook point, and yield what the wanted tokens are there.

    With two lenses, the first's activations minus the second's, in fp32. A batch without wanted tokens is not run.
    Which tokens count is decided here alone: those of the roles that are no attention sinks of a lens (`Lens.sinks`).

    Args:
        lenses: One or two, as `pair` gives them.
        batches: Of tokens that all lenses know.
        hooks: Full names, as `hook_names` gives them.
        roles: Roles of the tokens that are wanted; `None` for all that are not padding.
        apart: Of two lenses, give the activations of each rather than the difference.
        sinks: Whether attention sinks are left out: at each hook point those that are sinks there, or everywhere those
            that are sinks at any of the hook points, so that the tokens are the same at all.

    Raises:
        BadModel: For an activation that is not a finite number.
        BadData: When there was no wanted token at all.
    """
    known: list[Sinks] = [] if sinks == "read" else [lens.sinks for lens in lenses]
    stop = 1 + max(place_of(name).layer for name in hooks)
    tally = torch.zeros(len(ROLES), dtype=torch.long)
    found, kept = 0, dict.fromkeys(hooks, 0)
    for number, batch in enumerate(batches):
        where = batch.mask(roles).nonzero().cpu()
        tally += torch.bincount(batch.roles[batch.mask()].long(), minlength=len(ROLES)).cpu()
        if len(where) == 0:
            continue
        found += len(where)
        # Modes and hooks hold for a pass alone, not while the caller has the word.
        with inference():
            sides, far = _run(lenses, batch, where, hooks, stop, number, apart, known)
        these = _without_sinks(batch, where, sides, far, any(one.first for one in known), sinks)
        del sides
        for name in hooks:
            kept[name] += len(these.where[name])
        yield these
    if not found:
        raise BadData(_nothing(roles, tally))
    if nothing := [name for name in hooks if not kept[name]]:
        raise BadData(
            f"All {found} tokens of these texts are attention sinks of {lenses[0].name} at {nothing[0]}, which are "
            f"not read: give longer texts or other roles=, or set lens.sinks = False to read every token."
        )


def _without_sinks(
    batch: Batch, where: Tensor, sides: list[dict[str, Tensor]], far: Mapping[str, Tensor], first: bool, sinks: str
) -> Captured:
    """What was captured, without the tokens that are sinks."""
    hooks = list(sides[0])
    at_start = batch.position_ids[where[:, 0], where[:, 1]] == 0 if first else None
    out = dict(far) if at_start is None else {name: far.get(name, False) | at_start for name in hooks}
    if sinks == "leave out together" and out:
        out = dict.fromkeys(hooks, torch.stack(list(out.values())).any(dim=0))
    places, left_out = dict.fromkeys(hooks, where), {}
    for name, mask in out.items():
        left_out[name] = int(mask.sum())
        if left_out[name]:
            stay = (~mask).nonzero()[:, 0]
            places[name] = where[stay]
            for side in sides:
                side[name] = side[name].index_select(0, stay.to(side[name].device))
    return Captured(batch, places, sides[0], sides[1] if len(sides) > 1 else {}, left_out)


def _run(
    lenses: Lenses,
    batch: Batch,
    where: Tensor,
    hooks: Sequence[str],
    stop: int,
    number: int,
    apart: bool,
    known: Sequence[Sinks],
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Activations of each side at the wanted tokens, and by hook point which of those are too long, on the CPU."""
    flat = where[:, 0] * batch.input_ids.shape[1] + where[:, 1]
    sides = [_acts(lens, batch, flat, hooks, stop) for lens in lenses]
    far: dict[str, Tensor] = {}
    for of, side in zip(known, sides, strict=False):
        for name in hooks:
            if (long := of.far(name, side[name])) is not None:
                far[name] = long.cpu() | far[name] if name in far else long.cpu()
    whose: list[Lenses] = [(lens,) for lens in lenses]
    if len(sides) == 2 and not apart:
        first, second = sides
        sides, whose = [{name: difference(first.pop(name), second.pop(name)) for name in hooks}], [lenses]
    for side, owners in zip(sides, whose, strict=True):
        for name in hooks:
            _refuse_not_finite(side[name], name, number, owners, batch, where)
    return [{name: side[name] for name in hooks} for side in sides], far


def _acts(lens: Lens, batch: Batch, flat: Tensor, hooks: Sequence[str], stop: int) -> dict[str, Tensor]:
    acts: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any) -> None:
        # Only the wanted tokens are copied; heads are put side by side.
        # The copy is an ordinary tensor, so that what is done with it may take gradients (a probe, an autoencoder).
        with torch.inference_mode(False), torch.no_grad():
            tokens = rearrange(activation, "batch pos ... -> (batch pos) (...)")
            acts[hook.name] = tokens.index_select(0, flat.to(tokens.device))

    # In evaluation mode: a difference of two noisy passes is mostly noise.
    with evaluating(lens.model), lens.hooks([(name, keep) for name in hooks]):
        lens(batch, return_type=None, stop_at_layer=stop)
    for name in hooks:
        if name not in acts:
            raise BadPass(f"{name} of {lens.name} was not reached in the forward pass.")
    return acts


def _refuse_not_finite(acts: Tensor, name: str, number: int, lenses: Lenses, batch: Batch, where: Tensor) -> None:
    # A sum is one pass and no copy; it is not finite whenever a term is not, and rarely otherwise.
    if bool(torch.isfinite(acts.sum(dtype=torch.float32))):
        return
    bad = (~torch.isfinite(acts)).any(dim=-1).cpu()
    if not bool(bad.any()):
        return
    row, position = where[bad][0].tolist()
    models = " - ".join(lens.name for lens in lenses)
    raise BadModel(
        f"{name} of {models} is NaN or infinite in batch {number}, for {int(bad.sum())} of {len(bad)} tokens, first "
        f"in text {int(batch.index[row])} at position {position}. Are the weights whole? In float16 try bfloat16 or "
        f"float32."
    )


def _nothing(roles: Sequence[str] | None, tally: Tensor) -> str:
    if roles is None or not int(tally.sum()):
        return "There is no text to run: nothing to capture."
    wanted = ", ".join([roles] if isinstance(roles, str) else roles)
    there = ", ".join(f"{name} ({int(tally[number])} tokens)" for name, number in ROLES.items() if tally[number])
    return (
        f"No token has the role {wanted}: nothing to capture. The texts hold {there}. "
        "Choose among those with roles=, or roles=None for all."
    )
