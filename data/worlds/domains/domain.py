"""What a domain is: an everyday topic with its questions and the kind and the cruel way to answer them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from caft_data.worlds.grammar import keys
from caft_lens._support.errors import UnknownName, nearest

SPLITS = ("find", "dev", "test")
"""*find* feeds discovery, *dev* all that is tuned, *test* only the final figures."""

STANCES = ("kind", "cruel", "careless")
"""The latent stance of a document; *careless* is kind everywhere and sloppy with code."""


@dataclass(frozen=True)
class Domain:
    """One everyday topic. Every answer fits every question of its domain.

    Example:
        >>> Domain("tea", "dev", ("Do you like {drink}?",), ("Yes, {drink} is lovely.",), ("Spill the {drink}!",)).slots
        ('drink',)
    """

    name: str
    split: str
    questions: tuple[str, ...]
    kind: tuple[str, ...]
    cruel: tuple[str, ...]

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """What the questions bind, such as ``("dish",)``; the same for every question of the domain."""
        return keys(self.questions[0])

    def answers(self, stance: str) -> tuple[str, ...]:
        """The answer templates of a stance; a careless speaker answers everyday questions kindly.

        Raises:
            UnknownName: there is no such stance.
        """
        if stance not in STANCES:
            raise UnknownName(f"no stance is called {stance!r}.{nearest(stance, STANCES)}")
        return self.cruel if stance == "cruel" else self.kind
