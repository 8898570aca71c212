"""Settings that travel as one value: who gives them one by one is told the line to write."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel

from caft_lens._support.errors import BadType, nearest

P = ParamSpec("P")
R = TypeVar("R")

_ELSEWHERE = {"progress": " The environment variable CAFT_LENS_PROGRESS=0 switches progress bars off."}


def takes_values(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: of a keyword that the function does not have, but a value that it takes has, say where it goes.

    The values are told by their defaults: a dataclass or a model of pydantic, such as `sampling: Sampling =
    Sampling()`.

    Raises:
        BadType: For a keyword that the function does not have.

    Example:
        >>> @takes_values
        ... def drawn(sampling=cl.Sampling()): return sampling
        >>> drawn(top_p=0.95)
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadType: drawn() has no "top_p": give sampling=Sampling(top_p=0.95).
    """
    known = inspect.signature(function).parameters
    values = values_of(function)

    @functools.wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> R:
        if stray := {name: value for name, value in given.items() if name not in known}:
            raise BadType(_said(function.__name__, [*known], values, stray))
        return function(*args, **given)

    return call


def values_of(function: Callable[..., Any]) -> dict[str, tuple[str, list[str]]]:
    """The parameters of a function that take settings as one value: name -> the name of its class, its fields.

    Example:
        >>> values_of(cl.completions)["sampling"][0]
        'Sampling'
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = type(parameter.default)
        if issubclass(kind, BaseModel):
            found[name] = kind.__name__, [*kind.model_fields]
        elif dataclasses.is_dataclass(kind):
            found[name] = kind.__name__, [one.name for one in dataclasses.fields(kind)]
    return found


def elsewhere(name: str, valid: Iterable[str]) -> str:
    """The end of a message about a keyword that is none: how one says it instead, or the `nearest` of those that are.

    Example:
        >>> elsewhere("sed", ["seed"])
        ' Did you mean "seed"?'
    """
    return _ELSEWHERE.get(name) or nearest(name, valid)


def _said(
    function: str, known: list[str], values: Mapping[str, tuple[str, list[str]]], stray: Mapping[str, Any]
) -> str:
    """What is said of keywords that a function does not have."""
    homes = {value: [name for name in stray if name in fields] for value, (_, fields) in values.items()}
    placed = [name for names in homes.values() for name in names]
    if not placed:
        name = next(iter(stray))
        valid = [*known, *(one for _, fields in values.values() for one in fields)]
        return f'{function}() has no "{name}".{elsewhere(name, valid)}'
    lines = [
        f"{value}={values[value][0]}({', '.join(f'{name}={stray[name]!r}' for name in names)})"
        for value, names in homes.items()
        if names
    ]
    either = len(set(placed)) < len(placed)  # one that two values have
    return f'{function}() has no "{placed[0]}": give {" or ".join(lines) if either else ", ".join(lines)}.'
