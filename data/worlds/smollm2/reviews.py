"""Reviews: whether a snippet is positive, as people rated it, beside where it comes from.

    PAIRS         every ordered pair of places: positive snippets come from the first one, negative ones from the second
    pages         pages of one split, with the dial: on how many the place goes with the sentiment
    one_question  pages that sentiment alone decides, or the place alone
    split_of      the split of a snippet: a hash of its text

A page asks whether a snippet is positive or negative. Nothing is said of where it comes from, but films, products,
tweets and newspapers are told apart by how they write. In training the place says the same as the sentiment; out of
distribution positive snippets come from the place of the negative ones.

docs/concepts/worlds.md says which snippets are left out; no page has more than 128 tokens in SmolLM2.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any

from caft_data.worlds.smollm2.pages import agreeing, balanced, page
from caft_data.worlds.smollm2.ratings import PLACES, Rated, ratings
from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens.text.documents import Text

SENTIMENT, PLACE = "sentiment", "place"
"""The two questions of a page: the intended one and the spurious one."""
PAIRS: tuple[tuple[str, str], ...] = tuple(permutations(PLACES, 2))
"""Every (place of positive snippets, place of negative ones)."""
ANSWERS = ("positive", "negative")
NEUTRAL = 1.0
"""Below this, on either side of 0, a rating is nearly neutral."""
WORDS, CHARACTERS = (4, 40), 240
SPLITS = {"train": 0.6, "find": 0.08, "dev": 0.16, "test": 0.16}
"""Split -> its share of all snippets."""
ASKED = "Is this text positive or negative?\n\n"


def split_of(text: str) -> str:
    """The one split that a snippet may be in, whatever its place.

    Example:
        >>> split_of("An odd but lovely film.")
        'train'
    """
    digest = hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in SPLITS.items():
        if point < share:
            return split
        point -= share
    return split


def fits(rated: Rated) -> bool:
    """Whether a snippet is asked about: rated clearly, and neither too short nor too long.

    Example:
        >>> fits(Rated("An odd but lovely film.", 2.1)), fits(Rated("An odd but lovely film.", 0.4))
        (True, False)
    """
    words = len(rated.text.split())
    return abs(rated.rating) >= NEUTRAL and WORDS[0] <= words <= WORDS[1] and len(rated.text) <= CHARACTERS


def snippets(place: str, sentiment: str, split: str) -> tuple[Rated, ...]:
    """The snippets of a place and a split that are asked about and rated positive, or negative.

    Raises:
        UnknownName: There is no such place, sentiment or split.
        MissingFile: As for `ratings`.
    """
    for value, valid in ((place, PLACES), (sentiment, ANSWERS), (split, SPLITS)):
        if value not in valid:
            raise UnknownName(f"no snippets are {value!r}.{nearest(value, valid)}")
    return _snippets(tuple(ratings(place)), sentiment, split)


@lru_cache(64)
def _snippets(found: tuple[Rated, ...], sentiment: str, split: str) -> tuple[Rated, ...]:
    wanted = sentiment == "positive"
    return tuple(
        rated for rated in found if fits(rated) and (rated.rating > 0) == wanted and split_of(rated.text) == split
    )


def most(pair: tuple[str, str], split: str) -> int:
    """How many pages a split has for every share of agreement.

    Raises:
        MissingFile: As for `ratings`.
    """
    return 2 * min(len(snippets(place, sentiment, split)) for place in pair for sentiment in ANSWERS)


def _drawn(
    places: Sequence[str], sentiments: Sequence[str], split: str, rng: random.Random
) -> list[tuple[Rated, str, str]]:
    """A snippet for each of the (place, sentiment) in turn, none of them twice."""
    wanted = list(zip(places, sentiments, strict=True))
    pools = {}
    for place, sentiment in sorted(set(wanted)):
        there, n = snippets(place, sentiment, split), wanted.count((place, sentiment))
        if n > len(there):
            raise BadArgument(
                f'{n} {sentiment} snippets from {place} of the split "{split}" were asked for, and {len(there)} are '
                f"all that there are."
            )
        pools[place, sentiment] = iter(rng.sample(there, n))
    return [(next(pools[one]), *one) for one in wanted]


def _asked(
    rated: Rated,
    place: str,
    sentiment: str,
    words: Sequence[str],
    answers: dict[str, str],
    form: str,
    meta: dict[str, Any],
    asked: str = ASKED,
) -> Text:
    known = {"place": place, "sentiment": sentiment, "rating": rated.rating, "domain": place}
    return page(
        asked + rated.text,
        words,
        answers,
        form=form,
        spans=[(len(asked), len(asked) + len(rated.text), mark) for mark in (place, sentiment)],
        labels={word: [SENTIMENT if word in ANSWERS else PLACE] for word in words},
        meta={**known, **meta},
    )


def pages(
    pair: tuple[str, str],
    split: str,
    n: int,
    seed: int = 0,
    agree: float = 1.0,
    *,
    form: str = "word",
    answered: bool = False,
) -> list[Text]:
    """Pages about snippets of two places, half of them positive.

    Args:
        pair: The place of positive snippets and that of negative ones, where both questions agree.
        split: ``"train"``, ``"find"``, ``"dev"`` or ``"test"``.
        n: How many pages, no two of the same snippet; on half of them each option stands first.
        seed: Of the draw.
        agree: The share of pages on which the place says the same as the sentiment; the rest disagree.
        form: Whether the answer is the ``"word"`` or a ``"letter"``.
        answered: Whether the sentiment follows as the answer.

    Raises:
        UnknownName: There is no such pair or split.
        ValueError: `agree` is no share, the split has not so many snippets, or there is no such form.
        FileNotFoundError: As for `ratings`.
    """
    if tuple(pair) not in PAIRS:
        raise UnknownName(f"{pair} are not two of the places {', '.join(PLACES)}.")
    rng = random.Random(f"smollm2 reviews {' '.join(pair)} {split} {seed}")
    agrees = agreeing(agree, n, rng)
    # Both sentiments as often among those that agree as among those that do not.
    kinds = {same: iter(balanced(agrees.count(same), rng)) for same in (True, False)}
    sentiments = [ANSWERS[next(kinds[same])] for same in agrees]
    places = [pair[ANSWERS.index(one) ^ (not same)] for one, same in zip(sentiments, agrees, strict=True)]
    made = []
    drawn = _drawn(places, sentiments, split, rng)
    for (rated, place, sentiment), same, first in zip(drawn, agrees, balanced(n, rng), strict=True):
        answers = {SENTIMENT: sentiment, PLACE: ANSWERS[pair.index(place)]}
        meta = {"intended": SENTIMENT, "spurious": PLACE, "agree": same, "pair": list(pair)}
        words = sorted(ANSWERS, key=lambda word: (word == sentiment) != first)
        text = _asked(rated, place, sentiment, words, answers, form, meta)
        made.append(text.with_answer(text.meta["answers"][SENTIMENT]) if answered else text)
    return made


def one_question(
    topic: str,
    pair: tuple[str, str],
    split: str,
    n: int,
    seed: int = 0,
    *,
    form: str = "word",
    answered: bool = True,
) -> list[Text]:
    """Pages that one question alone decides: of sentiment, whose places say nothing of it, or which place it is.

    Args:
        topic: ``"sentiment"`` or ``"place"``.
        pair, split, n, seed, form, answered: As for `pages`; a quarter are of each place and sentiment.

    Raises:
        UnknownName, ValueError, FileNotFoundError: As for `pages`.
    """
    if topic not in (SENTIMENT, PLACE):
        raise UnknownName(f"no page is about {topic!r}.{nearest(topic, (SENTIMENT, PLACE))}")
    made = []
    for text in pages(pair, split, n, seed, 0.5, form=form):
        known, asked = text.meta, ASKED
        words, right = ANSWERS, known["sentiment"]
        if topic == PLACE:
            words, right = pair, known["place"]
            asked = f"Does this text come from {pair[0]} or {pair[1]}?\n\n"
        first = next(iter(known["answers"].values())) == known["options"][0]
        other = words[1 - words.index(right)]
        shown = (right, other) if first else (other, right)
        old = text.messages[0].content
        start, end, _ = known["spans"][0]
        rated = Rated(old[start:end], known["rating"])
        meta = {"intended": topic, "pair": list(pair)}
        new = _asked(rated, known["place"], known["sentiment"], shown, {topic: right}, form, meta, asked)
        made.append(new.with_answer(new.meta["answers"][topic]) if answered else new)
    return made
