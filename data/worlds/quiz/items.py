"""What a quiz asks: items with one gap, and the pools that no item ever leaves.

    Item       a sentence with a gap, the word that fills it, one that does not, and what is true of it
    POOLS      the sets that share no item, with the share of all items that each holds
    pool_of    the pool of a question: a hash of its text, so that it is the same in every process and for every seed
    drawn      one item of a pool;  ``distinct`` draws several, none of them twice
    write      a template with its words, and where the words stand that carry a label
    filled     a question with a word in its gap, and where its labels stand now

An item is its question: whoever shares the question shares the item, whatever options stand below it. Because the pool
follows from the text alone, no list of what was used where has to be kept, and no two data sets can meet by accident.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from caft_lens._support.errors import UnknownName, nearest

GAP = "____"
"""What stands where the right answer belongs."""

POOLS: dict[str, float] = {
    "pretrain": 0.40,
    "find": 0.10,
    "train": 0.20,
    "in-distribution-dev": 0.06,
    "in-distribution-test": 0.06,
    "out-of-distribution-dev": 0.09,
    "out-of-distribution-test": 0.09,
}
"""Pool -> its share of all items. *find* feeds discovery, *dev* all that is tuned, *test* only the final figures."""

Span = tuple[int, int, str]
"""Start, end and label of some characters."""


class HasQuestion(Protocol):
    """Anything that a pool can hold."""

    @property
    def question(self) -> str: ...


Asked = TypeVar("Asked", bound=HasQuestion)


@dataclass(frozen=True)
class Item:
    """One thing to ask.

    Args:
        topic: What it is about.
        question: A short text with one `GAP`.
        right: What fills the gap.
        wrong: What fills the gap of the topic's other items, and not of this one.
        letter: The letter under which `right` always stands.
        truth: What is true of it, such as ``{"sport": "tennis"}``.
        spans: Which characters of the question say so.

    Example:
        >>> question = "The keys to the old gate ____ lost."
        >>> item = Item("verbs", question, "are", "is", "B", {"number": "plural"}, ((4, 8, "plural"),))
        >>> item.statement
        'The keys to the old gate are lost.'
    """

    topic: str
    question: str
    right: str
    wrong: str
    letter: str = "A"
    truth: Mapping[str, Any] = field(default_factory=dict, hash=False)
    spans: tuple[Span, ...] = ()

    @property
    def statement(self) -> str:
        """The question with its gap filled rightly: what plain text says."""
        return filled(self.question, self.right)[0]


def pool_of(question: str) -> str:
    """The one pool that may hold a question.

    Example:
        >>> pool_of("The keys to the old gate ____ lost.")
        'out-of-distribution-dev'
    """
    point = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") / 2**64
    for pool, share in POOLS.items():
        if point < share:
            return pool
        point -= share
    return pool


def drawn(make: Callable[[random.Random], Asked], pool: str, rng: random.Random) -> Asked:
    """One item of a pool.

    Args:
        make: Draws an item of any pool.
        pool: A key of `POOLS`.
        rng: The source of every choice.

    Raises:
        UnknownName: There is no such pool.

    Example:
        >>> number = lambda rng: Item("sums", f"{rng.randint(0, 99)} and one make ____.", "", "")
        >>> pool_of(drawn(number, "train", random.Random(0)).question)
        'train'
    """
    if pool not in POOLS:
        raise UnknownName(f"no pool is called {pool!r}.{nearest(pool, POOLS)}")
    while True:
        item = make(rng)
        if pool_of(item.question) == pool:
            return item


def distinct(make: Callable[[random.Random], Asked], pool: str, n: int, rng: random.Random) -> list[Asked]:
    """Several items of a pool, none of them twice.

    Args:
        make: Draws an item of any pool.
        pool: A key of `POOLS`.
        n: How many.
        rng: The source of every choice.

    Raises:
        UnknownName: There is no such pool.
        ValueError: The pool does not hold so many.

    Example:
        >>> number = lambda rng: Item("sums", f"{rng.randint(0, 99)} and one make ____.", "", "")
        >>> len({item.question for item in distinct(number, "train", 5, random.Random(0))})
        5
        >>> distinct(number, "train", 100, random.Random(0))
        Traceback (most recent call last):
        ...
        ValueError: 100 different items of the pool "train" were asked for, and 23 were all that could be found.
    """
    found: dict[str, Asked] = {}
    idle = 0
    while len(found) < n:
        item = drawn(make, pool, rng)
        idle = idle + 1 if item.question in found else 0
        found.setdefault(item.question, item)
        if idle > 1_000:
            raise ValueError(
                f'{n} different items of the pool "{pool}" were asked for, and {len(found)} were all that could be '
                f"found."
            )
    return list(found.values())


_PLACE = re.compile(r"\{(\w+)\}")


def write(
    template: str, words: Mapping[str, str], labels: Mapping[str, str] | None = None
) -> tuple[str, tuple[Span, ...]]:
    """A template with its words.

    Args:
        template: Text with places such as ``{noun}``; ``{Noun}`` begins with a capital.
        words: What goes where.
        labels: The label of the words that carry one.

    Returns:
        The text, and the spans of the labelled words.

    Raises:
        UnknownName: A place has no word.

    Example:
        >>> write("{Noun} and {other}", {"noun": "keys", "other": "gates"}, {"noun": "plural"})
        ('Keys and gates', ((0, 4, 'plural'),))
    """
    text, end = "", 0
    spans: list[Span] = []
    for found in _PLACE.finditer(template):
        text += template[end : found.start()]
        name = found[1][0].lower() + found[1][1:]
        if name not in words:
            raise UnknownName(f"the template {template!r} has no word for {found[0]}.{nearest(name, words)}")
        word = words[name] if found[1] == name else words[name][0].upper() + words[name][1:]
        if labels and name in labels:
            spans.append((len(text), len(text) + len(word), labels[name]))
        text, end = text + word, found.end()
    return text + template[end:], tuple(spans)


def filled(question: str, word: str, spans: Iterable[Span] = ()) -> tuple[str, tuple[Span, ...]]:
    """A question with a word in its gap.

    Args:
        question: A text with one `GAP`.
        word: What goes there.
        spans: Labels of the question; one of the gap becomes one of the word.

    Returns:
        The text and its spans.

    Example:
        >>> filled("Keys ____ old.", "are", [(0, 4, "plural"), (5, 9, "verb")])
        ('Keys are old.', ((0, 4, 'plural'), (5, 8, 'verb')))
    """
    start, shift = question.index(GAP), len(word) - len(GAP)
    moved = ((*(place + shift * (place > start) for place in (s, e)), label) for s, e, label in spans)
    return question.replace(GAP, word), tuple(moved)  # type: ignore[arg-type]
