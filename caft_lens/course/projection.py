"""Exercise 1: project a direction out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from caft_lens._support.errors import NotSolved
from caft_lens.course.asking import alike, passed, tensor

SHAPE = (2, 5, 16)
AXES = "[batch, pos, d_model]"


def check_projection(project_out: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check a function that projects directions out of activations.

    Args:
        project_out: Takes activations `[batch, pos, d_model]` and directions `[k, d_model]`, of any length and not
            always at right angles, and gives the activations without what lies in their span.

    Raises:
        NotSolved: When it is not written or does something else, saying what.

    Example:
        >>> def project_out(acts, directions):
        ...     basis = torch.linalg.qr(directions.T).Q
        ...     return acts - acts @ basis @ basis.T
        >>> cl.course.check_projection(project_out)
        ✓ Along every direction nothing is left, and at right angles to them nothing has changed.
    """
    drawn = torch.Generator().manual_seed(0)
    acts = torch.randn(SHAPE, generator=drawn)
    unit = torch.nn.functional.normalize(torch.randn(1, SHAPE[-1], generator=drawn), dim=-1)
    given = acts.clone()
    found = tensor(project_out, given, unit, shape=SHAPE, axes=AXES)
    along = acts @ unit.T
    if not given.equal(acts):
        raise NotSolved("project_out() changes the activations that it is given. Give new ones back: `acts - …`.")
    if alike(found, acts):
        raise NotSolved("project_out() changes nothing.")
    if alike(found, along @ unit):
        raise NotSolved("That is what lies along the direction. Asked for is what is left without it.")
    if alike(found, acts - unit):
        raise NotSolved(
            "The direction itself is taken off, once from every activation. Take off as much of it as each activation "
            "has: its scalar product with the direction, times the direction."
        )
    left = float((found.float() @ unit.T).abs().max())
    if left > 1e-4:
        raise NotSolved(
            f"For one direction of length 1, up to {left:.2g} along it is left; before it was "
            f"{float(along.abs().max()):.2g}. The scalar product of the result with the direction is to be 0."
        )
    if not alike(found, acts - along @ unit):
        raise NotSolved("Along the direction nothing is left, but what is at right angles to it has changed too.")
    if not alike(tensor(project_out, acts.clone(), 3 * unit, shape=SHAPE, axes=AXES), found):
        raise NotSolved(
            "A direction of length 3 gives something else than the same one of length 1. Divide by its length first."
        )
    two = torch.cat([unit, unit + torch.nn.functional.normalize(torch.randn(unit.shape, generator=drawn), dim=-1)])
    both = tensor(project_out, acts.clone(), two, shape=SHAPE, axes=AXES).float()
    left = float((both @ two.T).abs().max())
    if left > 1e-4:
        raise NotSolved(
            f"Of two directions that are not at right angles up to {left:.2g} is left. To take one off after the "
            "other, or both by themselves, brings back some of the first: make an orthonormal basis of both first."
        )
    basis = torch.linalg.qr(two.T).Q
    if not alike(both.double(), acts - acts @ basis @ basis.T):
        raise NotSolved("Of two directions nothing is left, but more than these two has been taken out.")
    passed("Along every direction nothing is left, and at right angles to them nothing has changed.")
