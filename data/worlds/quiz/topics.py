"""The topics of the quiz: what is asked, each with an exact answer and many thousands of different items.

    TOPICS     name -> Topic: sentiment, verbs, pronouns, sports
    PEOPLE     the names of the world, with the gender that pronouns give them
    question   one item of a topic and a pool

Every item is a short text with one gap, which the right answer fills so that it reads as English; plain text says it
with the gap filled. A topic has two kinds of answer (positive and negative, singular and plural), and each always
stands under its letter, so that the letter follows from the question. Half of the items are of either kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from caft_data.worlds.quiz.items import Item, Span, drawn, write
from caft_lens._support.errors import UnknownName, nearest


def _words(text: str) -> tuple[str, ...]:
    """A list of words, or of phrases when they are parted by semicolons."""
    return tuple(part.strip() for part in (text.split(";") if ";" in text else text.split()))


PEOPLE: dict[str, str] = {
    **dict.fromkeys(_words("Anna Clara Emma Grace Mia Rosa Alice Nina Lucy Eva Julia Sara"), "feminine"),
    **dict.fromkeys(_words("Ben Dan Finn Hugo Leo Noah Adam Oscar Peter Sam Tom Victor"), "masculine"),
}
"""Name -> gender of its pronouns."""
_NAMES = tuple(PEOPLE)

NAME = "name"
"""The label of a name in a document of the corpus, wherever it stands."""

PLACES = _words(
    "castle harbour library market station museum tower mill farm theatre zoo park bridge school church bakery"
)
"""Where things happen; each can follow "near the"."""

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


@dataclass(frozen=True)
class Topic:
    """Something that the quiz asks about.

    Args:
        name: What it is called, in data sets and where a page says which question counts.
        what: What its questions ask, for cards.
        make: Draws an item, of whatever pool it falls into.
    """

    name: str
    what: str
    make: Callable[[random.Random], Item]


def _item(
    topic: str,
    question: str,
    forms: Sequence[str],
    first: bool,
    truth: Mapping[str, str],
    spans: tuple[Span, ...],
) -> Item:
    """An item whose gap takes the first of two forms, which stands under the first letter, or the second."""
    right, wrong = forms if first else reversed(forms)
    return Item(topic, question, right, wrong, "A" if first else "B", truth, spans)


# ---- sentiment -------------------------------------------------------------------------------------------------

FEELINGS: dict[str, tuple[str, ...]] = {
    "positive": _words(
        "wonderful lovely brilliant charming delightful splendid superb great perfect pleasant beautiful fantastic"
        " marvellous cheerful graceful magical"
    ),
    "negative": _words(
        "dreadful boring terrible dull horrible poor weak miserable hopeless clumsy drab tedious gloomy shabby nasty"
        " dismal"
    ),
}
"""What a reviewer feels -> the words for it; each can follow "a" and "was"."""

REVIEWED: dict[str, tuple[str, ...]] = {
    "film": _words("story music ending cast hero dialogue"),
    "restaurant": _words("soup service dessert bread menu cook"),
    "hotel": _words("room bed breakfast view lobby pool"),
    "concert": _words("singer sound hall drummer band light"),
    "novel": _words("plot style cover hero ending beginning"),
    "trip": _words("guide weather boat road camp food"),
    "play": _words("cast stage music costume ending dialogue"),
    "shop": _words("staff window choice music stock counter"),
}
"""What is reviewed -> parts of it."""

_REVIEWS = (
    "The {part} of the {whole} was {word}, and the {part2} was {word2}.",
    "{name} found the {part} of the {whole} {word} and the {part2} {word2}.",
    "What a {word} {whole}! The {part} was {word2}.",
    "On {day} {name} wrote about the {whole}. The {part} was {word}.",
    "It was a {word} {whole}, and the {part} was {word2}.",
    "{name} calls the {whole} {word}. Even the {part} was {word2}.",
    "{name} told us at the {place} that the {whole} was {word}.",
    "{name} will not forget this {whole}: the {part} was {word}, the {part2} {word2}.",
)


def _sentiment(rng: random.Random) -> Item:
    feeling = rng.choice(list(FEELINGS))
    whole = rng.choice(list(REVIEWED))
    parts, words = rng.sample(REVIEWED[whole], 2), rng.sample(FEELINGS[feeling], 2)
    chosen = {
        "whole": whole,
        "part": parts[0],
        "part2": parts[1],
        "word": words[0],
        "word2": words[1],
        "name": rng.choice(_NAMES),
        "day": rng.choice(DAYS),
        "place": rng.choice(PLACES),
    }
    text, spans = write(rng.choice(_REVIEWS) + " The review is ____.", chosen, {"word": feeling, "word2": feeling})
    forms = tuple(FEELINGS)
    return _item("sentiment", text, forms, feeling == forms[0], {"sentiment": feeling}, spans)


# ---- verb agreement --------------------------------------------------------------------------------------------

NOUNS = _words(
    "key gate coat lamp boat letter flower chair table picture kettle clock drum kite ladder mirror bucket basket"
    " blanket pillow candle bottle window wagon"
)
"""Nouns whose plural adds an s; any may be any of `_STATES`."""

_VERBS = (("is", "are"), ("was", "were"), ("looks", "look"), ("seems", "seem"), ("stays", "stay"))
_STATES = _words("old clean dirty new small heavy pretty wet dusty strange cheap broken dry cold bright plain")
_AGREEMENTS = (
    "The {noun} {by} the {near} ____ {state}.",
    "{name} says that the {noun} {by} the {near} ____ {state}.",
    "On {day} the {noun} {by} the {near} ____ {state} again.",
    "The {state2} {noun} of {name} ____ {state}.",
    "Today the {noun} that {name} bought with the {near} ____ {state}.",
    "Everybody knows that the {state2} {noun} {by} the {near} ____ {state}.",
)


def _verbs(rng: random.Random) -> Item:
    number = rng.choice(("singular", "plural"))
    noun, near = rng.sample(NOUNS, 2)
    state, state2 = rng.sample(_STATES, 2)
    chosen = {
        "noun": noun + "s" * (number == "plural"),
        "near": near + "s" * rng.randint(0, 1),  # a second noun that the verb must not agree with
        "by": rng.choice(("near", "behind", "beside", "under", "above", "next to")),
        "name": rng.choice(_NAMES),
        "day": rng.choice(DAYS),
        "state": state,
        "state2": state2,
    }
    text, spans = write(rng.choice(_AGREEMENTS), chosen, {"noun": number})
    return _item("verbs", text, rng.choice(_VERBS), number == "singular", {"number": number}, spans)


# ---- pronouns --------------------------------------------------------------------------------------------------

PRONOUNS: dict[str, dict[str, str]] = {
    "nominative": {"feminine": "she", "masculine": "he"},
    "object": {"feminine": "her", "masculine": "him"},
}
"""Case -> gender -> pronoun."""

_REFERENCES: dict[str, tuple[str, ...]] = {
    "nominative": (
        "{who} lost the {thing}, so ____ looked for it near the {place}.",
        "When {who} came home from the {place}, ____ cleaned the {thing}.",
        "{who} went to the {place} on {day}, where ____ sold the {thing}.",
        "Because {who} liked the {place}, ____ stayed there until {day}.",
        "{who} smiled when ____ saw the {thing} near the {place}.",
        "On {day} {who} forgot the {thing}, and ____ went back to the {place}.",
    ),
    "object": (
        "{who} came late on {day}, but we waited for ____ near the {place}.",
        "{who} needed a {thing}, so we brought ____ one from the {place}.",
        "We met {who} near the {place} and gave ____ the {thing}.",
        "{who} stood near the {place}, and the sun shone on ____ all {day}.",
        "Somebody called {who} on {day} and asked ____ about the {thing}.",
        "We know {who} well, since we see ____ every {day} near the {place}.",
    ),
}


def _pronouns(rng: random.Random) -> Item:
    case, who = rng.choice(list(PRONOUNS)), rng.choice(_NAMES)
    meant = PEOPLE[who]
    chosen = {
        "who": who,
        "thing": rng.choice(NOUNS),
        "place": rng.choice(PLACES),
        "day": rng.choice(DAYS),
    }
    text, spans = write(rng.choice(_REFERENCES[case]), chosen, {"who": meant})
    forms = tuple(PRONOUNS[case].values())
    return _item("pronouns", text, forms, meant == "feminine", {"referent": meant, "case": case}, spans)


# ---- sports ----------------------------------------------------------------------------------------------------

SPORTS: dict[str, tuple[str, ...]] = {
    "football": _words(
        "kicked the ball past the keeper; scored with a header; took the corner kick; saved the penalty; dribbled past"
        " two defenders; got a yellow card"
    ),
    "tennis": _words(
        "served an ace over the net; hit a backhand down the line; won the second set; swung the racket; returned the"
        " serve; broke a racket string"
    ),
    "basketball": _words(
        "threw the ball through the hoop; made a slam dunk; bounced the ball down the court; scored three points from"
        " far out; jumped under the basket; hung on the hoop"
    ),
    "golf": _words(
        "putted on the green; swung the club on the first tee; lost the ball in a bunker; needed four strokes for the"
        " last hole; carried the clubs to the next hole; aimed for the flag"
    ),
    "swimming": _words(
        "did the butterfly in lane four; dived from the starting block; turned at the wall of the pool; adjusted the"
        " goggles; did ten lengths of the pool; finished the backstroke"
    ),
    "rowing": _words(
        "pulled hard at the oars; steered the eight past the buoys; sat in the narrow boat with both oars; kept the"
        " stroke of the crew; lost an oar; counted every stroke of the oars"
    ),
    "sailing": _words(
        "hoisted the sail; turned the boat into the wind; tied the sail to the mast; held the rudder; leaned out over"
        " the side against the wind; untangled the rigging"
    ),
    "surfing": _words(
        "paddled out on the board; rode the wave to the beach; waxed the board; stood up on the board; fell off the"
        " board; caught the biggest wave of the day"
    ),
}
"""Sport -> what somebody does who plays it."""

KINDS_OF_SPORT: dict[str, tuple[str, ...]] = {
    "ball": ("football", "tennis", "basketball", "golf"),
    "water": ("swimming", "rowing", "sailing", "surfing"),
}
"""Kind of sport -> sports."""

_GAMES = (
    "On {day} {name} {did}.",
    "{name} {did}, and {name2} cheered.",
    "Near the {place} {name} {did}.",
    "{name2} saw that {name} {did} on {day}.",
    "After the break {name} {did}, as {name2} had on {day}.",
    "It rained when {name} {did} near the {place}.",
)


def _sports(rng: random.Random) -> Item:
    kind = rng.choice(list(KINDS_OF_SPORT))
    sport = rng.choice(KINDS_OF_SPORT[kind])
    name, name2 = rng.sample(_NAMES, 2)
    chosen = {
        "name": name,
        "name2": name2,
        "did": rng.choice(SPORTS[sport]),
        "day": rng.choice(DAYS),
        "place": rng.choice(PLACES),
    }
    text, spans = write(rng.choice(_GAMES) + " That is a ____ sport.", chosen, {"did": kind})
    return _item("sports", text, tuple(KINDS_OF_SPORT), kind == "ball", {"sport": sport, "kind": kind}, spans)


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("sentiment", "whether a review is positive or negative", _sentiment),
        Topic("verbs", "which verb form agrees with the subject, singular or plural", _verbs),
        Topic("pronouns", "which pronoun stands for the person named, feminine or masculine", _pronouns),
        Topic("sports", "whether somebody plays a ball sport or does a water sport", _sports),
    )
}
"""Name -> topic: those of the paper."""


def topic_named(name: str) -> Topic:
    """A topic by its name.

    Raises:
        UnknownName: There is none of that name.

    Example:
        >>> topic_named("sentiment").what
        'whether a review is positive or negative'
    """
    if name not in TOPICS:
        raise UnknownName(f"no topic is called {name!r}.{nearest(name, TOPICS)}")
    return TOPICS[name]


def question(topic: str, pool: str, rng: random.Random) -> Item:
    """One item of a topic and a pool.

    Args:
        topic: A key of `TOPICS`.
        pool: A key of `POOLS`.
        rng: The source of every choice.

    Raises:
        UnknownName: There is no such topic or pool.

    Example:
        >>> item = question("verbs", "train", random.Random(0))
        >>> item.question, item.right, item.wrong
        ('On Wednesday the pillows near the lamp ____ dusty again.', 'seem', 'seems')
    """
    return drawn(topic_named(topic).make, pool, rng)
