"""Answers that are one of a few options: what a model gives each of them. `scoring.py` asks the model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from caft_lens._support.errors import BadArgument, BadType


@dataclass(frozen=True)
class OptionScores:
    """What a model gives each option of one prompt.

    Attributes:
        log_probabilities: Option to the log of its probability as the answer's beginning, in nats, summed over tokens.

    Example:
        >>> import math
        >>> scores = OptionScores({"he": math.log(0.6), "she": math.log(0.2)})
        >>> scores.best, round(scores.probabilities["he"], 2), round(scores.mass, 2)
        ('he', 0.75, 0.8)
    """

    log_probabilities: dict[str, float]

    @property
    def best(self) -> str:
        """The most probable option; of equal ones the first."""
        return max(self.log_probabilities, key=lambda option: self.log_probabilities[option])

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each option among the options: they sum to 1."""
        highest = max(self.log_probabilities.values())
        shares = {option: math.exp(log - highest) for option, log in self.log_probabilities.items()}
        total = sum(shares.values())
        return {option: share / total for option, share in shares.items()}

    @property
    def mass(self) -> float:
        """The probability that the answer begins with any of them, 0 to 1: small where it would say something else."""
        return sum(math.exp(log) for log in self.log_probabilities.values())


def check_options(options: Any, where: str) -> tuple[str, ...]:
    """Options as a tuple.

    Args:
        options: At least two different strings that are not empty.
        where: Whose they are, for the error.

    Raises:
        BadType, BadArgument: When they are something else.
    """
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise BadType(f'The options of {where} are a list of strings, such as ["A", "B"], not {options!r}.')
    given = tuple(options)
    if not all(isinstance(one, str) for one in given):
        raise BadType(f'The options of {where} are strings, such as ["A", "B"], not {list(given)!r}.')
    if len(given) < 2 or len(set(given)) < len(given) or not all(one.strip() for one in given):
        raise BadArgument(f"The options of {where} are at least two different ones, none empty, not {list(given)!r}.")
    return given
