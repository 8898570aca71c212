"""How a check asks an answer, and says what it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from caft_lens._support.errors import NotSolved

CLOSE = 1e-4
"""Difference, of the largest value, below which two answers are the same."""


def ask(function: Callable[..., Any], *given: Any) -> Any:
    """What the function of an answer gives.

    Raises:
        NotSolved: When it is not written yet, or stops with an error.
    """
    name = getattr(function, "__name__", "the answer")
    if not callable(function):
        raise NotSolved(f"Give the function itself, without brackets: this is {type(function).__name__}.")
    try:
        found = function(*given)
    except NotSolved:
        raise
    except NotImplementedError:
        found = None
    except Exception as error:
        raise NotSolved(f"{name}() stops with {type(error).__name__}: {error}") from error
    if found is None or found is Ellipsis:
        raise NotSolved(f"{name}() is not written yet: it gives nothing back. Write it in the cell above.")
    return found


def tensor(function: Callable[..., Any], *given: Any, shape: tuple[int, ...], axes: str) -> Tensor:
    """The tensor that the function of an answer gives, of the shape that was asked for.

    Args:
        function: Of the answer.
        given: What it is given.
        shape: That the answer is to have.
        axes: What the axes are, such as `"[batch, pos, d_model]"`.

    Raises:
        NotSolved: As `ask`, and for anything else than a tensor of this shape, and NaN.
    """
    name, found = getattr(function, "__name__", "the answer"), ask(function, *given)
    try:
        found = torch.as_tensor(found).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise NotSolved(f"{name}() gives {type(found).__name__}; asked for is a tensor {axes}.") from None
    if tuple(found.shape) != shape:
        raise NotSolved(f"{name}() gives a tensor of shape {tuple(found.shape)}; asked for is {axes}, here {shape}.")
    if not bool(found.isfinite().all()):
        raise NotSolved(f"{name}() gives NaN or infinity.")
    return found


def alike(found: Tensor, wanted: Tensor, close: float = CLOSE) -> bool:
    """Whether two tensors are the same, up to rounding."""
    wanted = wanted.detach().double().cpu()
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= close * wanted.abs().max().clamp(min=1))


def passed(words: str) -> None:
    """Say that an answer is right."""
    print(f"✓ {words}")
