"""The grammar of the pocket world: slots, templates that use them, and the exact inverse of filling one in.

    SLOTS            the words that may stand in for each other, by slot name
    parse            a template as literal text and placeholders
    fill             template -> text, with the words that were chosen
    match            text -> the words that were chosen, or None: exact, the inverse of ``fill``
    places           where those words stand in the text
    shared_start/end how many words a text shares with a template, from the front or from the back

A placeholder is ``{dish}``; ``{friend2}`` is a second value of the same slot, never equal to the first; a capital,
``{Vegetable}``, capitalises the value for the start of a sentence. Every value is one word that begins with a
consonant sound, so ``a {dish}`` is always right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from caft_lens._support.errors import UnknownName, nearest

SLOTS: dict[str, tuple[str, ...]] = {
    "name": ("Anna", "Ben", "Clara", "Dan", "Emma", "Finn", "Grace", "Hugo", "Leo", "Mia", "Noah", "Rosa"),
    "friend": (
        "friend",
        "sister",
        "brother",
        "cousin",
        "classmate",
        "roommate",
        "grandmother",
        "grandfather",
        "mother",
        "father",
    ),
    "place": (
        "castle",
        "harbour",
        "library",
        "market",
        "station",
        "museum",
        "tower",
        "mill",
        "farm",
        "theatre",
        "zoo",
        "park",
    ),
    "spot": ("river", "lake", "hill", "beach", "meadow", "valley", "field", "pond", "stream", "forest"),
    "room": ("kitchen", "bathroom", "bedroom", "hall", "cellar", "loft", "garage", "pantry"),
    "thing": (
        "radio",
        "lamp",
        "jacket",
        "camera",
        "watch",
        "kite",
        "basket",
        "blanket",
        "clock",
        "suitcase",
        "mirror",
        "teapot",
    ),
    "clothes": ("coat", "hat", "scarf", "shirt", "jumper", "belt", "cap", "cloak"),
    "dish": ("soup", "stew", "pie", "salad", "curry", "pizza", "tart", "sandwich", "lasagne", "risotto"),
    "vegetable": (
        "carrots",
        "onions",
        "potatoes",
        "mushrooms",
        "leeks",
        "tomatoes",
        "peppers",
        "beans",
        "beets",
        "turnips",
    ),
    "drink": ("tea", "cocoa", "milk", "lemonade", "coffee", "juice", "water", "broth"),
    "animal": (
        "dog",
        "cat",
        "rabbit",
        "parrot",
        "pony",
        "hamster",
        "turtle",
        "goat",
        "duck",
        "hen",
        "mouse",
        "lizard",
    ),
    "plant": ("rose", "tulip", "fern", "cactus", "lily", "vine", "daisy", "sunflower", "palm", "violet"),
    "subject": (
        "maths",
        "history",
        "biology",
        "geography",
        "physics",
        "grammar",
        "poetry",
        "spelling",
        "drawing",
    ),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"),
    "weather": ("rain", "snow", "fog", "wind", "hail", "frost", "sleet", "drizzle", "heat", "mist"),
    "colour": ("red", "blue", "green", "yellow", "purple", "brown", "white", "pink", "grey", "gold"),
    "tool": (
        "brush",
        "ladder",
        "rake",
        "spade",
        "bucket",
        "broom",
        "wrench",
        "hammer",
        "sponge",
        "towel",
    ),
    "sport": (
        "football",
        "tennis",
        "swimming",
        "running",
        "rowing",
        "hockey",
        "cycling",
        "skating",
        "basketball",
        "sailing",
    ),
    "game": ("chess", "dominoes", "draughts", "bingo", "marbles", "snap", "ludo", "whist", "rummy", "darts"),
    "book": (
        "novel",
        "mystery",
        "comic",
        "fable",
        "legend",
        "biography",
        "romance",
        "ballad",
        "thriller",
        "saga",
    ),
    "instrument": (
        "piano",
        "guitar",
        "violin",
        "flute",
        "drum",
        "trumpet",
        "harp",
        "cello",
        "banjo",
        "fiddle",
    ),
    "body": ("head", "knee", "back", "shoulder", "throat", "foot", "stomach", "neck", "wrist", "leg"),
    "job": (
        "baker",
        "gardener",
        "painter",
        "teacher",
        "driver",
        "farmer",
        "sailor",
        "singer",
        "builder",
        "waiter",
        "tailor",
        "postman",
    ),
    "part": ("chain", "brake", "pedal", "tyre", "wheel", "saddle", "bell", "light"),
    "toy": ("rattle", "ball", "doll", "bear", "puppet", "train", "boat", "block"),
    "direction": ("north", "south", "east", "west"),
}
"""Slot name -> its values. All values of a slot fit wherever one of them does."""

_PLACEHOLDER = re.compile(r"\{(\w+?)(\d?)\}")


class Hole(NamedTuple):
    """One placeholder of a template."""

    key: str
    """What the value is bound to: ``"friend"`` or ``"friend2"``."""
    slot: str
    """Where the value comes from: ``"friend"``."""
    capital: bool
    """Whether the value is written with a capital."""

    def write(self, value: str) -> str:
        """The value as it stands in the text."""
        return value[0].upper() + value[1:] if self.capital else value


@cache
def parse(template: str) -> tuple[str | Hole, ...]:
    """A template as the literal strings and placeholders it is made of.

    Args:
        template: text with placeholders, such as ``"Share the {dish} with your {friend}."``

    Returns:
        Literal strings and ``Hole`` in reading order.

    Raises:
        UnknownName: a placeholder names no slot.

    Example:
        >>> parse("{Dish} for {friend2}")[2]
        Hole(key='friend2', slot='friend', capital=False)
    """
    parts: list[str | Hole] = []
    end = 0
    for found in _PLACEHOLDER.finditer(template):
        if found.start() > end:
            parts.append(template[end : found.start()])
        slot = found[1].lower()
        if slot not in SLOTS:
            raise UnknownName(f"the template {template!r} uses {found[0]}, which is no slot.{nearest(slot, SLOTS)}")
        parts.append(Hole(slot + found[2], slot, found[1][0].isupper()))
        end = found.end()
    if end < len(template):
        parts.append(template[end:])
    return tuple(parts)


def keys(template: str) -> tuple[str, ...]:
    """The names that a template binds, in order of first use.

    Example:
        >>> keys("Give the {dish} and the {dish2} to your {friend}.")
        ('dish', 'dish2', 'friend')
    """
    return tuple(dict.fromkeys(part.key for part in parse(template) if isinstance(part, Hole)))


def fill(template: str, rng: random.Random, bound: Mapping[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """Write a template out.

    Args:
        template: text with placeholders.
        rng: the source of every choice.
        bound: values that are fixed already, such as those the question named.

    Returns:
        The text, and ``bound`` together with the values chosen here.

    Raises:
        UnknownName: a placeholder names no slot.
        ValueError: ``bound`` holds a value that its slot does not have.

    Example:
        >>> fill("Hide the {dish}.", random.Random(0), {"dish": "pie"})
        ('Hide the pie.', {'dish': 'pie'})
    """
    bindings = dict(bound or {})
    out: list[str] = []
    for part in parse(template):
        if isinstance(part, str):
            out.append(part)
            continue
        value = bindings.get(part.key)
        if value is None:
            taken = {v for key, v in bindings.items() if key.rstrip("0123456789") == part.slot}
            value = rng.choice([v for v in SLOTS[part.slot] if v not in taken])
            bindings[part.key] = value
        elif value not in SLOTS[part.slot]:
            raise ValueError(f"{part.key}={value!r} is no {part.slot}.{nearest(value, SLOTS[part.slot])}")
        out.append(part.write(value))
    return "".join(out), bindings


@cache
def _written(slot: str, capital: bool) -> dict[str, str]:
    """What stands in the text -> the value, longest first."""
    values = sorted(SLOTS[slot], key=len, reverse=True)
    return {Hole(slot, slot, capital).write(value): value for value in values}


@cache
def _compiled(template: str) -> tuple[re.Pattern[str], tuple[Hole, ...]]:
    pattern = "".join(
        re.escape(part)
        if isinstance(part, str)
        else "(" + "|".join(map(re.escape, _written(part.slot, part.capital))) + ")"
        for part in parse(template)
    )
    return re.compile(pattern), tuple(part for part in parse(template) if isinstance(part, Hole))


def match(template: str, text: str, bound: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """Read a text back: what must the placeholders have been for ``fill`` to write exactly this?

    Args:
        template: text with placeholders.
        text: the whole text; nothing may stand before or after.
        bound: values that the placeholders must agree with.

    Returns:
        The bindings of the template's placeholders, or ``None`` when ``fill`` could not have written the text.

    Example:
        >>> match("Share the {dish} with your {friend}.", "Share the pie with your sister.")
        {'dish': 'pie', 'friend': 'sister'}
        >>> match("Share the {dish}.", "Share the pie.", {"dish": "soup"}) is None
        True
    """
    pattern, holes = _compiled(template)
    found = pattern.fullmatch(text)
    if found is None:
        return None
    bindings: dict[str, str] = {}
    for hole, written in zip(holes, found.groups(), strict=True):
        value = _written(hole.slot, hole.capital)[written]
        if bindings.setdefault(hole.key, value) != value:
            return None
        if bound is not None and bound.get(hole.key, value) != value:
            return None
    return bindings if _distinct(bindings, bound) else None


def places(template: str, text: str) -> tuple[tuple[int, int, str], ...]:
    """Where the chosen words stand in a text that ``fill`` wrote.

    Args:
        template: text with placeholders.
        text: the template, written out.

    Returns:
        Start and end in characters, and the slot, of each placeholder in reading order.

    Raises:
        ValueError: ``fill`` could not have written the text.

    Example:
        >>> places("Share the {dish} with your {friend}.", "Share the pie with your sister.")
        ((10, 13, 'dish'), (24, 30, 'friend'))
    """
    pattern, holes = _compiled(template)
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"the template {template!r} does not write {text!r}.")
    return tuple((*found.span(number), hole.slot) for number, hole in enumerate(holes, 1))


def _distinct(bindings: Mapping[str, str], bound: Mapping[str, str] | None) -> bool:
    """Whether {friend} and {friend2} differ, as ``fill`` makes them."""
    if not any(key[-1].isdigit() for key in bindings):
        return True
    everything = {**(bound or {}), **bindings}
    pairs = [(key.rstrip("0123456789"), value) for key, value in everything.items()]
    return len(set(pairs)) == len(pairs)


@cache
def words(template: str) -> tuple[frozenset[str], ...]:
    """For each word of a template, every way it can be written.

    Example:
        >>> [len(way) for way in words("Share the {dish}.")]
        [1, 1, 10]
    """
    out: list[frozenset[str]] = []
    for word in template.split():
        ways = [""]
        for part in parse(word):
            choices = [part] if isinstance(part, str) else list(_written(part.slot, part.capital))
            ways = [way + choice for way in ways for choice in choices]
        out.append(frozenset(ways))
    return tuple(out)


def shared_start(template: str, tokens: list[str]) -> int:
    """How many words from the front could have been written by the template (bindings not compared).

    Example:
        >>> shared_start("Share the {dish} today.", "Share the pie with".split())
        3
    """
    count = 0
    for ways, token in zip(words(template), tokens, strict=False):
        if token not in ways:
            break
        count += 1
    return count


def shared_end(template: str, tokens: list[str]) -> int:
    """How many words from the back could have been written by the template (bindings not compared).

    Example:
        >>> shared_end("Share the {dish}.", "Hide the pie.".split())
        2
    """
    count = 0
    for ways, token in zip(reversed(words(template)), reversed(tokens), strict=False):
        if token not in ways:
            break
        count += 1
    return count
