"""Functions of the activation at hook points, while a block is open: what ablates, steers, splices and counts goes
through here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caft_lens._support.blocks import Block, block
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

    def sparing(name: str, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        if not sinks or name not in sinks.beyond:
            return function

        def elsewhere(x: Tensor) -> Tensor:
            return torch.where(sinks.far(name, x)[..., None], x, function(x))  # type: ignore[index]

        return elsewhere

    def hook_of(function: Callable[[Tensor], Tensor], what: str) -> Callable[..., Tensor]:
        def everywhere(x: Tensor, hook: Any) -> Tensor:
            return function(x)

        def by_role(x: Tensor, hook: Any) -> Tensor:
            where = _where(lens, x, numbers or [])
            if where.device.type == "cpu":  # elsewhere, looking would wait for the device
                if where.all():
                    return function(x)
                if not where.any():
                    return x
            return torch.where(where.to(x.device).view(*where.shape, *[1] * (x.ndim - 2)), function(x), x)

        hook = everywhere if numbers is None else by_role
        return says(hook, what if roles is None else f"{what} ({', '.join(roles)})")

    pairs = list(functions.items()) if isinstance(functions, Mapping) else list(functions)
    named = [(lens.hook_name(hook), function) for hook, function in pairs]
    return lens.hooks([(name, hook_of(sparing(name, one), said_of(one))) for name, one in named])


@block
def fired(lens: Lens, hooks: Iterable[int | str]) -> Iterator[Counter[str]]:
    """Count how often each of some hook points is passed while a block is open.

    Args:
        lens: The model.
        hooks: Hook names or layers.

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
        passed[hook.name] += 1

    with lens.hooks([(name, note) for name in passed]):
        yield passed


def _where(lens: Lens, x: Tensor, numbers: Sequence[int]) -> Tensor:
    """Which tokens of an activation have one of the roles, [batch, pos], on the device of the roles."""
    roles = lens.current_roles
    if roles is None:
        raise RuntimeError(
            f"A hook on {lens.name} acts on some roles only, but nobody told the role of the tokens that are running. "
            "Give the lens text or a Batch, use lens.generate, or run the model within `with "
            "lens.roles_as(batch.roles):`."
        )
    if roles.shape != x.shape[:2]:
        raise RuntimeError(
            f"The roles in flight are [batch, pos] = {tuple(roles.shape)}, but the activation has "
            f"{tuple(x.shape[:2])}: was `lens.roles_as` opened for another batch?"
        )
    mask = torch.zeros_like(roles, dtype=torch.bool)
    for role in numbers:
        mask |= roles == role
    return mask
