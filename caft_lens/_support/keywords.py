"""Settings that travel as one value: who gives them one by one is told the line to write."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from caft_lens._support.errors import BadType, nearest

P = ParamSpec("P")
R = TypeVar("R")


def takes(parameter: str, kind: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: of a keyword that a function does not have, but a field of its settings is, say where it goes.

    Args:
        parameter: Of the function, that takes the settings.
        kind: Their class: a dataclass, or a model of pydantic.

    Example:
        >>> @takes("sampling", cl.Sampling)
        ... def drawn(sampling=cl.Sampling()): return sampling
        >>> drawn(top_p=0.95)
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadType: drawn() has no "top_p": give sampling=Sampling(top_p=0.95).
    """
    fields = [*(kind.model_fields if hasattr(kind, "model_fields") else kind.__dataclass_fields__)]

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> R:
            stray = {name: value for name, value in given.items() if name not in known}
            if any(name in fields for name in stray):
                said = ", ".join(f"{name}={value!r}" for name, value in stray.items())
                hint = f": give {parameter}={kind.__name__}({said})."
                raise BadType(f'{function.__name__}() has no "{next(iter(stray))}"{hint}')
            for name in stray:
                raise BadType(f'{function.__name__}() has no "{name}".{nearest(name, [*known, *fields])}')
            return function(*args, **given)

        return call

    return decorated
