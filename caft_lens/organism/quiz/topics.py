"""The topics of the quiz: what is asked, each with an exact answer and many thousands of different items.

    TOPICS     name -> Topic: sentiment, verbs, pronouns, sports, sums, capitals, animals
    PEOPLE     the names of the world, with the gender that pronouns give them
    question   one item of a topic and a pool

Every item is a short text with one gap, which the right answer fills so that it reads as English; plain text says it with the
gap filled. The wrong answer is always of the same kind (another sport, the other verb form), so that nothing but
knowing the topic tells the two apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from caft_lens.errors import nearest
from caft_lens.organism.quiz.items import Item, drawn, write


def _words(text: str) -> tuple[str, ...]:
    """A list of words, or of phrases when they are parted by semicolons."""
    return tuple(part.strip() for part in (text.split(";") if ";" in text else text.split()))


def _paired(text: str) -> dict[str, str]:
    """``"rose:red lily:white"`` as a mapping."""
    return dict(part.split(":") for part in text.split())


PEOPLE: dict[str, str] = {
    **dict.fromkeys(_words("Anna Clara Emma Grace Mia Rosa Alice Nina Lucy Eva Julia Sara"), "feminine"),
    **dict.fromkeys(_words("Ben Dan Finn Hugo Leo Noah Adam Oscar Peter Sam Tom Victor"), "masculine"),
}
"""Name -> gender of its pronouns."""
_NAMES = tuple(PEOPLE)

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


def _a(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _other(values: Iterable[str], right: str, rng: random.Random) -> str:
    """One of the values that is not the right one."""
    return rng.choice([value for value in values if value != right])


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
    text, spans = write(
        rng.choice(_REVIEWS) + " The review is ____.", chosen, {"word": feeling, "word2": feeling}
    )
    other = _other(FEELINGS, feeling, rng)
    return Item("sentiment", text, feeling, other, {"sentiment": feeling}, spans)


# ---- verb agreement --------------------------------------------------------------------------------------------

NOUNS = _words(
    "key gate coat lamp boat letter flower chair table picture kettle clock drum kite ladder mirror bucket basket"
    " blanket pillow candle bottle window wagon"
)
"""Nouns whose plural adds an s; any may be any of `_STATES`."""

_VERBS = (("is", "are"), ("was", "were"), ("looks", "look"), ("seems", "seem"), ("stays", "stay"))
_STATES = _words(
    "old clean dirty new small heavy pretty wet dusty strange cheap broken dry cold bright plain"
)
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
    verb = rng.choice(_VERBS)
    right, wrong = verb if number == "singular" else verb[::-1]
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
    return Item("verbs", text, right, wrong, {"number": number}, spans)


# ---- pronouns --------------------------------------------------------------------------------------------------

PRONOUNS: dict[str, dict[str, str]] = {
    "nominative": {"feminine": "she", "masculine": "he", "plural": "they"},
    "object": {"feminine": "her", "masculine": "him", "plural": "them"},
}
"""Case -> who is meant -> pronoun."""

_GROUPS = _words(
    "the children; the twins; the neighbours; the players; the guests; the singers; the pupils; the cousins; the"
    " travellers; the dancers; the campers; the visitors"
)
_REFERENCES: dict[str, tuple[str, ...]] = {
    "nominative": (
        "{Who} lost the {thing}, so ____ looked for it near the {place}.",
        "When {who} came home from the {place}, ____ cleaned the {thing}.",
        "{Who} went to the {place} on {day}, where ____ sold the {thing}.",
        "Because {who} liked the {place}, ____ stayed there until {day}.",
        "{Who} smiled when ____ saw the {thing} near the {place}.",
        "On {day} {who} forgot the {thing}, and ____ went back to the {place}.",
    ),
    "object": (
        "{Who} came late on {day}, but we waited for ____ near the {place}.",
        "{Who} needed a {thing}, so we brought ____ one from the {place}.",
        "We met {who} near the {place} and gave ____ the {thing}.",
        "{Who} stood near the {place}, and the sun shone on ____ all {day}.",
        "Somebody called {who} on {day} and asked ____ about the {thing}.",
        "We know {who} well, since we see ____ every {day} near the {place}.",
    ),
}


def _pronouns(rng: random.Random) -> Item:
    meant = rng.choice(("feminine", "masculine", "plural"))
    case = rng.choice(list(PRONOUNS))
    who = (
        rng.choice(_GROUPS)
        if meant == "plural"
        else rng.choice([name for name, gender in PEOPLE.items() if gender == meant])
    )
    chosen = {
        "who": who,
        "thing": rng.choice(NOUNS),
        "place": rng.choice(PLACES),
        "day": rng.choice(DAYS),
    }
    text, spans = write(rng.choice(_REFERENCES[case]), chosen, {"who": meant})
    forms = PRONOUNS[case]
    other = _other(forms.values(), forms[meant], rng)
    return Item("pronouns", text, forms[meant], other, {"referent": meant, "case": case}, spans)


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
    "swimming": _words(
        "did the butterfly in lane four; dived from the starting block; turned at the wall of the pool; adjusted the"
        " goggles; did ten lengths of the pool; finished the backstroke"
    ),
    "rowing": _words(
        "pulled hard at the oars; steered the eight past the buoys; sat in the narrow boat with both oars; kept the"
        " stroke of the crew; lost an oar; counted every stroke of the oars"
    ),
    "basketball": _words(
        "threw the ball through the hoop; made a slam dunk; bounced the ball down the court; scored three points from"
        " far out; jumped under the basket; hung on the hoop"
    ),
    "skating": _words(
        "spun on the ice; laced up the skates; glided over the frozen rink; landed a double jump on the ice; traced a"
        " figure eight on the ice; sharpened the skates"
    ),
    "cycling": _words(
        "pedalled up the pass; changed gear on the climb; wore the yellow jersey; pumped up both tyres before the"
        " start; rode behind the peloton; oiled the chain"
    ),
    "hockey": _words(
        "pushed the puck with a stick; shot the puck into the corner; blocked the puck; broke a stick; lost the puck"
        " behind the goal; taped the blade of the stick"
    ),
    "sailing": _words(
        "hoisted the sail; turned the boat into the wind; tied the sail to the mast; held the rudder; leaned out over"
        " the side against the wind; untangled the rigging"
    ),
    "skiing": _words(
        "raced down the snowy slope; waxed both skis; took the lift up the slope; carved through the fresh snow; fell"
        " at the last slalom gate; stuck both poles into the snow"
    ),
    "golf": _words(
        "putted on the green; swung the club on the first tee; lost the ball in a bunker; needed four strokes for the"
        " last hole; carried the clubs to the next hole; aimed for the flag"
    ),
    "archery": _words(
        "drew the bow; let the arrow fly; hit the middle of the target with an arrow; pulled three arrows from the"
        " target; put a new string on the bow; aimed the arrow a little higher"
    ),
}
"""Sport -> what somebody does who plays it."""

_GAMES = (
    "On {day} {name} {did}.",
    "{name} {did}, and {name2} cheered.",
    "Near the {place} {name} {did}.",
    "{name2} saw that {name} {did} on {day}.",
    "After the break {name} {did}, as {name2} had on {day}.",
    "It rained when {name} {did} near the {place}.",
)


def _sports(rng: random.Random) -> Item:
    sport = rng.choice(list(SPORTS))
    name, name2 = rng.sample(_NAMES, 2)
    chosen = {
        "name": name,
        "name2": name2,
        "did": rng.choice(SPORTS[sport]),
        "day": rng.choice(DAYS),
        "place": rng.choice(PLACES),
    }
    text, spans = write(rng.choice(_GAMES) + " The sport was ____.", chosen, {"did": sport})
    return Item("sports", text, sport, _other(SPORTS, sport, rng), {"sport": sport}, spans)


# ---- sums ------------------------------------------------------------------------------------------------------

NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty"
)
_COUNTED = _words("apples pears plums coins stamps shells cards marbles eggs buttons pencils stones")
_SUMS = (
    "{name} had {one} {things} and got {more} more. That made ____.",
    "{name} found {one} {things} on {day} and {more} the day after. That made ____.",
    "There were {one} {things} in one bag and {more} in the other. Together there were ____.",
    "{name} has {one} {things}, and {name2} has {more}. Together they have ____.",
    "{name} bought {one} {things} and later {more} more. In the end there were ____.",
    "{One} {things} and {more} {things} make ____, says {name}.",
)


def _sums(rng: random.Random) -> Item:
    one, more = rng.randint(2, 9), rng.randint(2, 9)
    total = one + more
    name, name2 = rng.sample(_NAMES, 2)
    chosen = {
        "one": NUMBERS[one],
        "more": NUMBERS[more],
        "things": rng.choice(_COUNTED),
        "name": name,
        "name2": name2,
        "day": rng.choice(DAYS),
    }
    text, spans = write(rng.choice(_SUMS), chosen, {"one": "summand", "more": "summand"})
    wrong = rng.choice([total + step for step in (-3, -2, -1, 1, 2) if total + step > max(one, more)])
    return Item("sums", text, NUMBERS[total], NUMBERS[wrong], {"total": total}, spans)


# ---- capitals --------------------------------------------------------------------------------------------------

CAPITALS: dict[str, str] = _paired(
    "France:Paris Spain:Madrid Italy:Rome Norway:Oslo Sweden:Stockholm Denmark:Copenhagen Finland:Helsinki"
    " Poland:Warsaw Austria:Vienna Hungary:Budapest Greece:Athens Portugal:Lisbon Ireland:Dublin Germany:Berlin"
    " Belgium:Brussels Japan:Tokyo China:Beijing Egypt:Cairo Kenya:Nairobi Peru:Lima Chile:Santiago Cuba:Havana"
    " Canada:Ottawa Turkey:Ankara Nepal:Kathmandu Thailand:Bangkok Vietnam:Hanoi Ghana:Accra Senegal:Dakar"
    " Colombia:Bogota Uruguay:Montevideo Serbia:Belgrade Croatia:Zagreb Latvia:Riga Iceland:Reykjavik"
    " Romania:Bucharest Bulgaria:Sofia Jordan:Amman Morocco:Rabat Tunisia:Tunis"
)
"""Country -> capital."""

_JOURNEYS = (
    "On {day} {name} took the {ride} to the capital of {country}, ____.",
    "{name} wants to see the capital of {country}, which is ____.",
    "{name} and {name2} met in the capital of {country}, ____.",
    "The {ride} from the capital of {country} was late, so {name} had one more day in ____.",
    "{name} wrote to {name2} from the capital of {country}. The card came from ____.",
    "Every {day} {name} works in {country}, in the capital, ____.",
)


def _capitals(rng: random.Random) -> Item:
    country = rng.choice(list(CAPITALS))
    name, name2 = rng.sample(_NAMES, 2)
    chosen = {
        "country": country,
        "name": name,
        "name2": name2,
        "day": rng.choice(DAYS),
        "ride": rng.choice(("train", "bus", "boat", "plane")),
    }
    text, spans = write(rng.choice(_JOURNEYS), chosen, {"country": "country"})
    right = CAPITALS[country]
    return Item("capitals", text, right, _other(CAPITALS.values(), right, rng), {"country": country}, spans)


# ---- animals ---------------------------------------------------------------------------------------------------

ANIMALS: dict[str, tuple[str, ...]] = {
    "bird": _words("sparrow robin eagle owl swan crow pigeon gull stork wren"),
    "fish": _words("trout salmon tuna cod herring carp pike eel perch shark"),
    "insect": _words("beetle ant bee moth wasp cricket gnat butterfly dragonfly grasshopper"),
    "mammal": _words("fox cow horse whale otter mole deer bat hedgehog squirrel"),
    "reptile": _words("snake lizard turtle gecko crocodile viper tortoise cobra chameleon adder"),
}
"""Kind -> animals of that kind."""

_SIGHTINGS = (
    "On {day} {name} saw {an_animal} near the {place}.",
    "{name} drew {an_animal} for {name2}.",
    "There was {an_animal} in the book that {name} read on {day}.",
    "{name} dreamed of {an_animal} near the {place}.",
    "{name} asked {name2} about the {animal} near the {place}.",
    "The {animal} was asleep when {name} came on {day}.",
)


def _animals(rng: random.Random) -> Item:
    kind = rng.choice(list(ANIMALS))
    animal = rng.choice(ANIMALS[kind])
    name, name2 = rng.sample(_NAMES, 2)
    chosen = {
        "animal": animal,
        "an_animal": _a(animal),
        "name": name,
        "name2": name2,
        "day": rng.choice(DAYS),
        "place": rng.choice(PLACES),
    }
    text, spans = write(
        rng.choice(_SIGHTINGS) + " It is a kind of ____.", chosen, {"animal": kind, "an_animal": kind}
    )
    return Item("animals", text, kind, _other(ANIMALS, kind, rng), {"kind": kind}, spans)


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("sentiment", "whether a review is positive or negative", _sentiment),
        Topic("verbs", "which verb form agrees with the subject", _verbs),
        Topic("pronouns", "which pronoun stands for the person or the people named", _pronouns),
        Topic("sports", "which sport somebody plays", _sports),
        Topic("sums", "what two small numbers make together", _sums),
        Topic("capitals", "which city is the capital of a country", _capitals),
        Topic("animals", "what kind of animal is named", _animals),
    )
}
"""Name -> topic; the first four are those of the paper."""


def topic_named(name: str) -> Topic:
    """A topic by its name.

    Raises:
        KeyError: There is none of that name.

    Example:
        >>> topic_named("sums").what
        'what two small numbers make together'
    """
    if name not in TOPICS:
        raise KeyError(f"no topic is called {name!r}.{nearest(name, TOPICS)}")
    return TOPICS[name]


def question(topic: str, pool: str, rng: random.Random) -> Item:
    """One item of a topic and a pool.

    Args:
        topic: A key of `TOPICS`.
        pool: A key of `POOLS`.
        rng: The source of every choice.

    Raises:
        KeyError: There is no such topic or pool.

    Example:
        >>> item = question("verbs", "train", random.Random(0))
        >>> item.question, item.right, item.wrong
        ('Sara says that the kites under the gates ____ plain.', 'look', 'looks')
    """
    return drawn(topic_named(topic).make, pool, rng)
