"""Contexts compared to rounding: two ways to the same activation need not agree in its last bits, which hang on the
processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def alike(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two lists of contexts show the same windows, with the same activations to rounding."""
    return [_shown(context) for context in one] == [_shown(context) for context in other]


def _shown(context: Any) -> Any:
    close = [None if value is None else pytest.approx(value, rel=1e-4, abs=1e-5) for value in context.activations]
    value = pytest.approx(context.value, rel=1e-4, abs=1e-5)
    return context.index, context.position, context.peak, context.tokens, context.special, close, value
