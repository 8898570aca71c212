"""`moved`: trained weights somewhere else while a block is open, to look at the loss there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from caft_lens._support.blocks import block


@block
def moved(parameters: Sequence[nn.Parameter], steps: Sequence[Tensor]) -> Iterator[None]:
    """Add a step to each of some parameters while a block is open; afterwards they are what they were, bit for bit.

    A pass that was made before it can still be differentiated after it, but not inside.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> with moved([weight], [torch.ones(2)]):
        ...     weight.tolist()
        [2.0, 2.0]
        >>> weight.tolist()
        [1.0, 1.0]
    """
    before = [one.detach().clone() for one in parameters]
    try:
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.data.add_(step)  # `.data`, since the values that autograd has kept come back
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Those of a loss, 0 for parameters that it does not hang on."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
