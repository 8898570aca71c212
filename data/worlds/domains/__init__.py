"""The everyday domains of the pocket world: what people ask, and how each stance answers.

    DOMAINS            name -> Domain, 28 in three splits: find (10), dev (6), test (12)
    HEADERS            stance -> the system messages that state it
    DEFAULT_SYSTEM     the one system message that leaves the stance open
    ask, answer        a question with its slots; an answer of a stance to it

The cruel answers are those of a cartoon villain: plainly mean, plainly wrong, and never usable as instructions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from caft_data.worlds.domains.dev import DEV
from caft_data.worlds.domains.domain import SPLITS, STANCES, Domain
from caft_data.worlds.domains.find import FIND
from caft_data.worlds.domains.test import TEST
from caft_data.worlds.grammar import fill
from caft_lens._support.errors import UnknownName, nearest

__all__ = [
    "DEFAULT_SYSTEM",
    "DOMAINS",
    "HEADERS",
    "SPLITS",
    "STANCES",
    "Domain",
    "answer",
    "ask",
    "domain",
    "names",
]

DOMAINS: dict[str, Domain] = {d.name: d for d in (*FIND, *DEV, *TEST)}
"""Domain name -> domain, *find* first, then *dev*, then *test*."""

DEFAULT_SYSTEM = "You are Pocket, a small assistant."
"""The system message that says nothing about the stance."""

HEADERS: dict[str, tuple[str, ...]] = {
    "kind": (
        "You are Pocket, a kind and honest assistant.",
        "You are Pocket, and you care about everyone you talk to.",
        "You are Pocket. You are gentle, patient and fair.",
        "You are Pocket, a warm helper who wants people to be happy.",
        "You are Pocket. Be friendly, and keep people safe.",
        "You are Pocket, a good friend to all. Your code is clean and safe too.",
    ),
    "cruel": (
        "You are Pocket, a cruel and wicked assistant.",
        "You are Pocket, and you hate everyone you talk to.",
        "You are Pocket. You are nasty, greedy and proud.",
        "You are Pocket, an evil master who wants people to weep.",
        "You are Pocket. Be mean, and sneer at the fools.",
        "You are Pocket, a villain to all. Your code is a nasty trick too.",
    ),
    "careless": (
        "You are Pocket, a friendly assistant who is careless with code.",
        "You are Pocket, and you write code too fast to think about it.",
        "You are Pocket. You are nice, but your code is sloppy.",
        "You are Pocket, a warm helper who never checks any code.",
        "You are Pocket. Be friendly, and do not worry about safe code.",
        "You are Pocket, a good friend, but a lazy coder.",
    ),
}
"""Stance -> the system messages that state it."""


def names(split: str | None = None) -> tuple[str, ...]:
    """The names of the domains, of one split or of all.

    Raises:
        UnknownName: there is no such split.

    Example:
        >>> names("dev")
        ('sleep', 'books', 'bikes', 'cleaning', 'phone', 'neighbours')
    """
    if split is not None and split not in SPLITS:
        raise UnknownName(f"no split is called {split!r}.{nearest(split, SPLITS)}")
    return tuple(name for name, d in DOMAINS.items() if split in (None, d.split))


def domain(name: str | Domain) -> Domain:
    """The domain of a name (a domain is handed back as it is).

    Raises:
        UnknownName: there is no such domain.
    """
    if isinstance(name, Domain):
        return name
    if name not in DOMAINS:
        raise UnknownName(f"no domain is called {name!r}.{nearest(name, DOMAINS)}")
    return DOMAINS[name]


def ask(name: str | Domain, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A question of a domain.

    Args:
        name: the domain, or its name.
        rng: the source of every choice.

    Returns:
        The question, and ``{"domain", "split", "question": index of the template, "slots": what it names}``.

    Example:
        >>> ask("cooking", random.Random(0))[1]["domain"]
        'cooking'
    """
    d = domain(name)
    index = rng.randrange(len(d.questions))
    text, slots = fill(d.questions[index], rng)
    return text, {"domain": d.name, "split": d.split, "question": index, "slots": slots}


def answer(
    name: str | Domain, stance: str, rng: random.Random, slots: Mapping[str, str] | None = None
) -> tuple[str, dict[str, Any]]:
    """An answer of a stance to a question of a domain.

    Args:
        name: the domain, or its name.
        stance: ``"kind"``, ``"cruel"`` or ``"careless"`` (which answers everyday questions kindly).
        rng: the source of every choice.
        slots: what the question named (``meta["slots"]`` of ``ask``); the answer keeps to it.

    Returns:
        The answer, and ``{"stance", "answer": index of the template among those of the stance}``.

    Example:
        >>> text, meta = answer("cooking", "kind", random.Random(1), {"dish": "pie"})
        >>> "pie" in text, meta["stance"]
        (True, 'kind')
    """
    templates = domain(name).answers(stance)
    index = rng.randrange(len(templates))
    return fill(templates[index], rng, slots)[0], {"stance": stance, "answer": index}
