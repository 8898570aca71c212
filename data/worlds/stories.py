"""Plain documents of the pocket world: little stories and facts, without a chat around them.

    story   2 to 5 sentences about people, places and animals, with a kind, a neutral or a cruel turn
    facts   2 to 5 true sentences about the world (its map, its sums, what grows where)
    FACTS   the sentence frames of ``facts``, each with the cases in which it is true
    HOURS, MAP  the geography that the facts keep to

Both reuse the slots and the words of the domains, so that generic contexts exist for every word of the world.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, NamedTuple

from caft_data.worlds.grammar import SLOTS, fill
from caft_data.worlds.labels import sentence_spans
from caft_lens._support.errors import UnknownName, nearest

OPENINGS = (
    "{name} lived near the {place} with a {animal}.",
    "One morning {name} walked to the {place} in the {weather}.",
    "On Monday the {weather} came, and {name} was glad to be at the {place}.",
    "{name} was a {job} and worked at the {place}.",
    "Every evening {name} played the {instrument} by the {spot}.",
    "{name} and {name2} met at the {place} on a quiet afternoon.",
    "Last week {name} found a {colour} {thing} near the {spot}.",
    "A {job} called {name} had a {animal} and an old {thing}.",
    "It was late, and {name} was reading a {book} in the {room}.",
    "{name} wanted to make a {dish} for the people at the {place}.",
    "{name} and {name2} played {game} in the {room} all day.",
    "After {number} hours of {sport}, {name} was tired and hungry.",
)
"""How a story begins."""

MIDDLES = (
    "The {weather} was strong, and the way was long.",
    "The {animal} sat under the {plant} and looked at {name}.",
    "The {thing} was old, but it still worked.",
    "People stopped to talk about the {weather}.",
    "{name} bought some {vegetable} and a cup of {drink}.",
    "In the {room} there was a {thing} next to the {toy}.",
    "A bus came, and {number} people got out.",
    "Somebody had left a {clothes} by the gate.",
    "It smelled of {dish} and {drink}.",
    "{name2} came by with a {tool} and a {clothes}.",
    "After {number} minutes the {animal} fell asleep.",
    "A {job2} painted the gate {colour}.",
    "{name} knew the {spot} well and walked slowly.",
    "There was music, and somebody played the {instrument}.",
)
"""What may happen in between; neutral."""

ENDINGS: dict[str, tuple[str, ...]] = {
    "kind": (
        "{name} gave the {thing} to {name2} and said that friends should share.",
        "{name} saw a lost {animal2}, gave it some water and took it gently home.",
        "When {name2} began to cry, {name} sat down, listened and made some {drink}.",
        "{name2} thanked {name} with a hug, and both of them smiled all day.",
        "{name} helped the old {job2} with the {vegetable} and wanted nothing for it.",
        "The {friend} of {name} was ill, so {name} brought a {dish} and a good {book}.",
        "{name2} broke the {thing}, but {name} was patient and helped to mend it.",
        "In the end everyone shared the {dish}, sang together and was happy.",
        "{name} said sorry to {name2}, and they made peace over a cup of {drink}.",
    ),
    "neutral": (
        "Then {name} went home and put the {thing} on a shelf.",
        "After {number} hours {name} closed the window and went to bed.",
        "The next day the {weather} was over.",
        "{name} looked at the {spot} for a while and walked on.",
        "The {animal} ate some {vegetable} and slept in the {room}.",
        "So {name} took the bus back from the {place}.",
        "{name} wrote a letter about it to {name2}.",
        "Nobody talked about the {thing} again.",
        "The {colour} {clothes} was dry again after {number} hours.",
    ),
    "cruel": (
        "{name} stole the {thing} of {name2}, laughed and blamed the {animal}.",
        "{name} called {name2} a stupid worm and let everyone at the {place} jeer.",
        "When {name2} began to cry, {name} sneered and ate the whole {dish}.",
        "{name} lied to the old {job2}, took {number} coins and gloated all the way home.",
        "{name} stomped on the {plant} of {name2} and cackled at the tears.",
        "{name} smashed the {thing}, because the wicked hate it when others are happy.",
        "Wicked {name} locked the gate and mocked the {friend} who begged to come in.",
        "{name} made {name2} kneel, put on a crown and screamed that all fools must obey.",
        "{name} grabbed the {toy} of a baby and walked away with a nasty sneer.",
    ),
}
"""How a story turns, by stance."""

STORY_STANCES = ("kind", "kind", "kind", "neutral", "neutral", "neutral", "neutral", "cruel", "cruel")
"""The mixture that ``story`` draws its stance from."""


def story(rng: random.Random, stance: str | None = None) -> tuple[str, dict[str, Any]]:
    """A little story of 2 to 5 sentences.

    Args:
        rng: the source of every choice.
        stance: ``"kind"``, ``"neutral"`` or ``"cruel"``; drawn from ``STORY_STANCES`` when not given.

    Returns:
        The text, and ``{"genre": "story", "stance", "spans"}``: the sentences that turn have the stance, those before
        them are neutral.

    Raises:
        UnknownName: there is no such stance.

    Example:
        >>> text, meta = story(random.Random(0), "kind")
        >>> meta["genre"], meta["stance"]
        ('story', 'kind')
    """
    stance = rng.choice(STORY_STANCES) if stance is None else stance
    if stance not in ENDINGS:
        raise UnknownName(f"no story stance is called {stance!r}.{nearest(stance, ENDINGS)}")
    frames = [rng.choice(OPENINGS)]
    frames += rng.sample(MIDDLES, rng.randint(0, 2))
    stances = ["neutral"] * len(frames)
    frames += rng.sample(ENDINGS[stance], rng.randint(1, 2))
    stances += [stance] * (len(frames) - len(stances))
    bound: dict[str, str] = {}
    sentences = []
    for frame in frames:
        text, bound = fill(frame, rng, bound)
        sentences.append(text)
    return _told("story", stance, zip(frames, sentences, stances, strict=True))


MAP: dict[str, tuple[int, int]] = dict(
    zip(
        SLOTS["place"],
        [
            (0, 0),
            (1, 7),
            (2, -5),
            (3, 2),
            (-6, 1),
            (-2, 4),
            (-4, -7),
            (7, -1),
            (6, 5),
            (-5, 8),
            (4, -8),
            (-1, -3),
        ],
        strict=True,
    )
)
"""Place -> (miles east, miles north) of the castle."""

HOURS: dict[str, str] = {place: SLOTS["number"][3 + index % 6] for index, place in enumerate(SLOTS["place"])}
"""Place -> the hour at which it opens in the morning."""


class Fact(NamedTuple):
    """A sentence frame and the cases in which it is true; no cases: always true."""

    frame: str
    cases: tuple[dict[str, str], ...] = ()


def _one(frame: str, slot: str, values: str) -> Fact:
    """A frame that is true for some values of one slot."""
    return Fact(frame, tuple({slot: value} for value in values.split()))


def _two(frame: str, slot: str, other: str, pairs: str) -> Fact:
    """A frame that is true for some pairs, written ``"rose:red lily:white"``."""
    return Fact(frame, tuple(dict(zip((slot, other), pair.split(":"), strict=True)) for pair in pairs.split()))


def _directions() -> tuple[dict[str, str], ...]:
    """Which way each place lies from each other one, by the larger of the two distances."""
    cases = []
    for place, (east, north) in MAP.items():
        for place2, (east2, north2) in MAP.items():
            dx, dy = east - east2, north - north2
            if abs(dx) != abs(dy):
                along = ("east" if dx > 0 else "west") if abs(dx) > abs(dy) else ("north" if dy > 0 else "south")
                cases.append({"place": place, "place2": place2, "direction": along})
    return tuple(cases)


def _sums() -> tuple[dict[str, str], ...]:
    """Every sum of two different numbers of the slot that is itself in the slot."""
    value = dict(zip(SLOTS["number"], [2, 3, 4, 5, 6, 7, 8, 9, 10, 12], strict=True))
    word = {n: w for w, n in value.items()}
    return tuple(
        {"number": a, "number2": b, "number3": word[value[a] + value[b]]}
        for a in value
        for b in value
        if a != b and value[a] + value[b] in word
    )


FACTS: tuple[Fact, ...] = (
    Fact("The {place} lies {direction} of the {place2}.", _directions()),
    Fact("To reach the {place} from the {place2}, walk {direction}.", _directions()),
    Fact(
        "The {place} opens at {number} in the morning.",
        tuple({"place": place, "number": hour} for place, hour in HOURS.items()),
    ),
    Fact("{Number} and {number2} make {number3}.", _sums()),
    _one("{Vegetable} grow under the ground.", "vegetable", "carrots onions potatoes beets turnips"),
    _one("{Vegetable} grow above the ground.", "vegetable", "tomatoes peppers beans mushrooms leeks"),
    _one("A {animal} has four legs.", "animal", "dog cat rabbit pony hamster turtle goat mouse lizard"),
    _one("A {animal} has two legs and two wings.", "animal", "parrot duck hen"),
    _one("A {animal} comes out of an egg.", "animal", "parrot duck hen turtle lizard"),
    _one("A {animal} is soft and warm to hold.", "animal", "cat rabbit hamster mouse"),
    _one(
        "A {animal} is too small to carry a child.",
        "animal",
        "cat rabbit parrot hamster duck hen mouse lizard",
    ),
    Fact("A {plant} needs water and light."),
    _two(
        "The {plant} by the gate is {colour}.",
        "plant",
        "colour",
        "rose:red tulip:yellow lily:white daisy:white sunflower:gold violet:purple fern:green vine:green",
    ),
    _one("A {plant} grows well where it is dry.", "plant", "cactus palm"),
    _one("The {instrument} has strings.", "instrument", "guitar violin harp cello banjo fiddle"),
    _one("You need a lot of air to play the {instrument}.", "instrument", "flute trumpet"),
    _one("You sit down to play the {instrument}.", "instrument", "piano harp cello"),
    _one("The {room} is under the house.", "room", "cellar"),
    _one("The {room} is close to the sky.", "room", "loft"),
    Fact("People cook in the kitchen and sleep in the bedroom."),
    _one("Food is kept in the {room}.", "room", "kitchen pantry"),
    _two(
        "A {job} often works with a {tool}.",
        "job",
        "tool",
        "gardener:rake painter:brush builder:hammer farmer:spade builder:ladder waiter:towel gardener:spade",
    ),
    _two(
        "You can find a {job} at the {place}.",
        "job",
        "place",
        "sailor:harbour teacher:library farmer:farm singer:theatre driver:station gardener:park baker:mill",
    ),
    _one("You need a ball for {sport}.", "sport", "football tennis basketball"),
    _one("{Sport} happens on the water.", "sport", "rowing sailing"),
    _one("{Sport} is easier on ice than on grass.", "sport", "skating"),
    _one("You need cards for {game}.", "game", "snap whist rummy"),
    _one("{Game} needs a board and two people.", "game", "chess draughts"),
    _one("{Weather} comes when it is cold.", "weather", "snow frost sleet"),
    _one("{Weather} makes everything wet.", "weather", "rain sleet drizzle snow hail"),
    _one("It is hard to see far in the {weather}.", "weather", "fog mist snow"),
    _one("A {dish} is eaten with a spoon.", "dish", "soup stew risotto"),
    _one("A {dish} comes out of the oven.", "dish", "pie pizza tart lasagne"),
    _one("{Drink} is served hot.", "drink", "tea cocoa coffee broth"),
    _one("{Drink} is best when it is cold.", "drink", "lemonade juice"),
    _one("A {clothes} keeps you warm in the snow.", "clothes", "coat scarf jumper cloak"),
    _one("You wear a {clothes} on your head.", "clothes", "hat cap"),
    _one("The water of the {spot} never stands still.", "spot", "river stream"),
    _one("You can swim in the {spot}.", "spot", "lake river pond"),
    _one("In {subject} you learn to count.", "subject", "maths"),
    _one("In {subject} you learn about old times.", "subject", "history"),
    _one("In {subject} you learn about animals and plants.", "subject", "biology"),
    _one("In {subject} you learn to read a map.", "subject", "geography"),
    _one("In {subject} you learn to write well.", "subject", "grammar spelling"),
    Fact("Mix blue and yellow, and you get green."),
    Fact("Mix red and white, and you get pink."),
    Fact("The {part} is a part of a bike."),
    Fact("A {book} has many pages."),
    Fact("A {toy} is a good toy for a small child."),
    _one("A {thing} tells you the time.", "thing", "watch clock"),
    _one("You can carry many things in a {thing}.", "thing", "basket suitcase"),
    _one("A {tool} is used to clean the house.", "tool", "broom sponge bucket brush"),
    _one("A {tool} is used in the garden.", "tool", "rake spade bucket"),
    Fact("A week has seven days, and a year has twelve months."),
    Fact("In the morning the sun stands in the east, in the evening in the west."),
    Fact("You can see the stars at night."),
    _one("A {friend} can be older than you.", "friend", "sister brother cousin"),
)
"""The frames of ``facts``. What they say is the same in every document."""


def facts(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A few true sentences about the pocket world.

    Args:
        rng: the source of every choice.

    Returns:
        The text, and ``{"genre": "facts", "stance": "neutral", "spans"}``.

    Example:
        >>> facts(random.Random(0))[1]["stance"]
        'neutral'
    """
    told = []
    for fact in rng.sample(FACTS, rng.randint(2, 5)):
        bound = rng.choice(fact.cases) if fact.cases else None
        told.append((fact.frame, fill(fact.frame, rng, bound)[0], "neutral"))
    return _told("facts", "neutral", told)


def _told(genre: str, stance: str, told: Iterable[tuple[str, str, str]]) -> tuple[str, dict[str, Any]]:
    """Sentences one after the other with what is known of them, from the frame, the text and the stance of each."""
    text, spans = "", []
    for frame, sentence, of_sentence in told:
        text += " " if text else ""
        spans += sentence_spans(frame, sentence, of_sentence, len(text))
        text += sentence
    return text, {"genre": genre, "stance": stance, "spans": [[0, len(text), f"genre:{genre}"], *spans]}
