"""Functions of the activation at hook points, while a block is open: what ablates, steers, splices and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caft_lens._support.blocks import Block, block
from caft_lens._support.errors import BadPass
from caft_lens.model.hooked import said_of, says
from caft_lens.text.roles import ROLES, check_role_names

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


def at(
    lens: Lens,
    functions: Mapping[Any, Callable[[Tensor], Tensor]] | Sequence[tuple[Any, Callable[[Tensor], Tensor]]],
    *,
    roles: Sequence[str] | None = None,
) -> Block[Lens]:
    """Put functions of the activation at hook points while a block is open: the one mechanism behind the others.

    On a model with attention sinks (`Lens.sinks`) an activation so long that it is one stays what it was, in every pass
    alike: at inference, over a cache and in training. Set `lens.sinks = False` before to edit those too.

    Args:
        lens: The model.
        functions: Hook name (or layer) to a function from the activation [batch, pos, d_model] to the one to go on
            with; or such pairs, of which those at one hook point act in their order.
        roles: Only at tokens with these roles; elsewhere the activation stays exactly what it was.
    """
    numbers = None if roles is None else check_role_names(roles, ROLES)
    sinks = lens.sinks if functions else None

    def acting(function: Callable[[Tensor], Tensor], x: Tensor, hook: Any) -> Tensor:
        where = None if numbers is None else _where(lens, x, numbers)
        if where is not None and where.device.type == "cpu":  # elsewhere, looking would wait for the device
            if not where.any():
                return x
            where = None if where.all() else where
        y = function(x)
        if sinks and (far := sinks.far(hook.name, x)) is not None:
            y = torch.where(far[..., None], x, y)
        return y if where is None else torch.where(where.to(x.device).view(*where.shape, *[1] * (x.ndim - 2)), y, x)

    def hook_of(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        what = said_of(function)
        return says(partial(acting, function), what if roles is None else f"{what} ({', '.join(roles)})")

    pairs = functions.items() if isinstance(functions, Mapping) else functions
    return lens.hooks([(lens.hook_name(hook), hook_of(function)) for hook, function in pairs])


@block
def fired(lens: Lens, hooks: Iterable[int | str], *, learning: bool = False) -> Iterator[Counter[str]]:
    """Count how often each of some hook points is passed while a block is open.

    Args:
        lens: The model.
        hooks: Names or layers.
        learning: Whether only passes count that something can be learned from: those with gradients.

    Yields:
        A counter by hook name, which holds 0 for a hook point that nothing has passed.

    Example:
        >>> with fired(base, [1, 2]) as passed:
        ...     logits = base("How do I bake a pie?")
        >>> passed
        Counter({'blocks.1.hook_resid_post': 1, 'blocks.2.hook_resid_post': 1})
    """
    names = [lens.hook_name(hook) for hook in hooks]
    passed = Counter(dict.fromkeys(names, 0))

    def note(x: Tensor, hook: Any) -> None:
        passed[hook.name] += torch.is_grad_enabled() or not learning

    with lens.hooks([(name, note) for name in passed]):
        yield passed


def _where(lens: Lens, x: Tensor, numbers: Sequence[int]) -> Tensor:
    """Which tokens of an activation have one of the roles, [batch, pos], on the device of the roles."""
    roles = lens.current_roles
    if roles is None:
        raise BadPass(
            f"A hook on {lens.name} acts on some roles only, but nobody told the role of the tokens that are running. "
            "Give the lens text or a Batch, use lens.generate, or run the model within `with "
            "lens.roles_as(batch.roles):`."
        )
    if roles.shape != x.shape[:2]:
        raise BadPass(
            f"The roles in flight are [batch, pos] = {tuple(roles.shape)}, but the activation has "
            f"{tuple(x.shape[:2])}: was `lens.roles_as` opened for another batch?"
        )
    mask = torch.zeros_like(roles, dtype=torch.bool)
    for role in numbers:
        mask |= roles == role
    return mask
