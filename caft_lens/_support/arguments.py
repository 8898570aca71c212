"""Checks of numbers where they are typed: in range, finite, and numbers at all.

Each check gives the value back, so that it reads as `n = count(n, "n")`. What is out of range is a `BadArgument`, text
where a number belongs a `BadType`; both name the argument, what was expected and what was given.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

from caft_lens._support.errors import BadArgument, BadType, nearest

if TYPE_CHECKING:
    from torch import Tensor


def number(
    value: Any,
    name: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> float:
    """A finite number within bounds: `least` and `most` are allowed themselves, `above` and `below` are not.

    Args:
        value: What was typed: an int, a float, or what NumPy and torch have for one.
        name: Of the argument.
        least, above, most, below: The bounds.
        hint: The end of the message: what the number means, or what to do.

    Example:
        >>> number("1e-4", "rate", above=0)
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadType: rate="1e-4" is text; expected a number above 0: write rate=1e-4.
    """
    expected = "a number" + _bounds(least, above, most, below)
    given = _plain(value, name, expected, hint)
    low = (least is not None and given < least) or (above is not None and given <= above)
    high = (most is not None and given > most) or (below is not None and given >= below)
    if not math.isfinite(given) or low or high:
        finite_too = "" if math.isfinite(given) else ", and a finite one"
        raise BadArgument(f"{name}={given}: expected {expected}{finite_too}.{_said(hint)}")
    return given


def count(value: Any, name: str, *, least: int = 1, most: int | None = None, hint: str = "") -> int:
    """A whole number of things, by default one or more.

    Example:
        >>> count(0, "batch_size")
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadArgument: batch_size=0: expected a whole number of at least 1.
    """
    expected = "a whole number" + _bounds(least, None, most)
    given = _plain(value, name, expected, hint)
    if not (math.isfinite(given) and given >= least and (most is None or given <= most)):
        raise BadArgument(f"{name}={given}: expected {expected}.{_said(hint)}")
    if not isinstance(given, int):
        whole = f" Write {name}={int(given)}." if given == int(given) else ""
        raise BadArgument(f"{name}={given}: expected {expected}.{whole}{_said(hint)}")
    return given


def positive(value: Any, name: str, *, hint: str = "") -> float:
    """A finite number above 0."""
    return number(value, name, above=0, hint=hint)


def not_negative(value: Any, name: str, *, hint: str = "") -> float:
    """A finite number, 0 or more."""
    return number(value, name, least=0, hint=hint)


def share(value: Any, name: str, *, hint: str = "") -> float:
    """A part of a whole: more than 0, at most 1."""
    return number(value, name, above=0, most=1, hint=hint)


def switch(value: Any, name: str) -> bool:
    """True or False, and nothing that would only count as it."""
    if not isinstance(value, bool):
        raise BadType(f"{name} is True or False, not {value!r}.")
    return value


def one_of(value: Any, name: str, valid: Iterable[str]) -> Any:
    """One of some words."""
    if value not in (known := tuple(valid)):
        raise BadArgument(f'{name}="{value}".{nearest(value, known)}')
    return value


def seed_of(value: Any, name: str) -> int | None:
    """A seed of random numbers, or `None` for the global random state."""
    return None if value is None else count(value, name, least=0, most=2**63 - 1)


def finite(value: Tensor, name: str) -> Tensor:
    """A tensor of real numbers, without NaN and infinity."""
    import torch

    if not isinstance(value, torch.Tensor) or value.is_complex() or value.dtype == torch.bool:
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise BadType(f"{name} is {kind}; expected a tensor of real numbers.")
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise BadArgument(f"{name} is NaN or infinite in {bad} of its {value.numel()} numbers.")
    return value


def _plain(value: Any, name: str, expected: str, hint: str) -> Any:
    """An int or a float of Python."""
    torch = sys.modules.get("torch")  # where it is not loaded, nobody has a tensor
    if torch is not None and isinstance(value, torch.Tensor) and value.numel() == 1 and value.dtype != torch.bool:
        value = value.item()
    if isinstance(value, str):
        text = value.strip()
        write = f": write {name}={text}" if _is_number(text) else ""
        raise BadType(f'{name}="{value}" is text; expected {expected}{write}.{_said(hint)}')
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadType(f"{name}={_short(value)}: expected {expected}, not {type(value).__name__}.{_said(hint)}")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return float(value)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _bounds(least: float | None, above: float | None, most: float | None, below: float | None = None) -> str:
    low = f"above {above:g}" if above is not None else f"of at least {least:g}" if least is not None else ""
    high = f"at most {most:g}" if most is not None and most < 2**53 else ""
    high = high or (f"below {below:g}" if below is not None else "")
    return f" {low}{' and ' if low and high else ''}{high}" if low or high else ""


def _said(hint: str) -> str:
    first = hint.split()[0] if hint else ""
    start = first.capitalize() if first.isalpha() and first.islower() else first
    return f" {start}{hint.removeprefix(first).rstrip('.')}." if hint else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
