"""How answers are drawn from a model, as one value that travels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from caft_lens._support.arguments import count, not_negative, seed_of, share

_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "max_new_tokens": count,
    "temperature": partial(not_negative, hint="0 is greedy"),
    "top_p": partial(share, hint="None samples from all tokens"),
    "top_k": partial(count, hint="None samples from all tokens"),
    "seed": seed_of,
    "batch_size": count,
}


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; what is `None` is left to whoever samples.

    Attributes:
        max_new_tokens: How many tokens at most.
        temperature: 0 is greedy.
        top_p: Sample from the most probable tokens that together have this probability (nucleus sampling, Holtzman et
            al., 2020); 1 from all.
        top_k: Sample from so many of the most probable tokens.
        seed: Same seed, same prompts and settings: same text.
        batch_size: How many prompts run at once.

    Raises:
        BadArgument: For a number out of its range.

    Example:
        >>> Sampling(top_p=0.95).over(Sampling(temperature=0.7, top_p=0.5, seed=3))
        Sampling(temperature=0.7, top_p=0.95, seed=3)
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.said().items():
            _CHECKS[name](value, name)

    def said(self) -> dict[str, Any]:
        """What is not `None`, by name."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in given.items() if value is not None}

    def over(self, other: Sampling) -> Sampling:
        """This one, and where it says nothing the other."""
        return Sampling(**{**other.said(), **self.said()})

    def __repr__(self) -> str:
        return f"Sampling({', '.join(f'{name}={value!r}' for name, value in self.said().items())})"
