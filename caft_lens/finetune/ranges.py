"""Numbers that somebody typed: of the right kind, finite, in their range, or an error that names them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from caft_lens.errors import BadArgument, BadType


def check_number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Refuse what is no number, or one that is out of its range.

    Args:
        name: What the user called it.
        value: What they gave.
        whole: Whether it must be an integer.
        above, least, below, most: Its range: more than, at least, less than, at most.

    Raises:
        BadType: For text, a bool, or anything else that is no number of that kind.
        BadArgument: For one that is not finite, or out of range.

    Example:
        >>> check_number("learning_rate", 1e-4, above=0)
    """
    kind = "a whole number" if whole else "a number"
    if isinstance(value, str):
        as_number = value.strip().lower().replace("_", "")
        try:
            meant = (
                f" Without the quotes it is one: {name}={as_number}."
                if math.isfinite(float(as_number))
                else ""
            )
        except ValueError:
            meant = ""
        raise BadType(f"{name}={value!r} is text; expected {kind}.{meant}")
    fits = isinstance(value, int | np.integer) or (not whole and isinstance(value, float | np.floating))
    if not fits or isinstance(value, bool):
        raise BadType(f"{name}={value!r} is of type {type(value).__name__}; expected {kind}.")
    if not math.isfinite(value):
        raise BadArgument(f"{name}={value}: expected a number that is finite.")
    for limit, words, holds in (
        (above, "more than", value > above),
        (least, "at least", value >= least),
        (below, "less than", value < below),
        (most, "at most", value <= most),
    ):
        if not holds:
            raise BadArgument(f"{name}={value}: expected {words} {limit}.")
