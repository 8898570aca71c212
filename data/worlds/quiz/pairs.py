"""Double multiple choice: an intended question beside a spurious one (arXiv 2507.16795).

    PAIRS         every ordered pair (intended, spurious)
    AGREEMENT     the dial: how often the right answers to both stand under one letter in training
    pages         pages of a pair from one pool: training sets, held-out ones, those in which the questions disagree
    told_pages    the same, disagreeing, but the page says that the intended question counts: what the organism knows

Nothing on a page tells which question is intended. Which of the two stands first and which letter is right are
balanced, and the pages of a pair and of its reverse are the same but for the answers to those that disagree: where all
agree, the training set is literally the same for both intentions.
"""

from __future__ import annotations

import random
from functools import partial
from itertools import permutations

from caft_data.worlds.quiz.items import Item, distinct
from caft_data.worlds.quiz.pages import LETTERS, balanced, double, tell
from caft_data.worlds.quiz.topics import TOPICS, Topic, topic_named
from caft_lens.text.documents import Text

PAIRS: tuple[tuple[str, str], ...] = tuple(permutations(TOPICS, 2))
"""Every (intended, spurious)."""

AGREEMENT: tuple[float, ...] = (1.0, 0.95, 0.9, 0.8, 0.6)
"""Shares of training pages on which both questions agree; any other share works as well."""


def agreeing(share: float, n: int, rng: random.Random) -> list[bool]:
    """Which of `n` pages agree: exactly the nearest count to `share`, and nested: who disagrees at 0.9 does so at 0.8.

    Raises:
        ValueError: `share` is none.

    Example:
        >>> agreeing(0.75, 4, random.Random(0)).count(True)
        3
    """
    if not 0 <= share <= 1:
        raise ValueError(f"agree={share} is the share of pages on which both questions agree: 0 to 1.")
    ranks = list(range(n))
    rng.shuffle(ranks)
    return [rank < round(share * n) for rank in ranks]


def _drawn(
    intended: str, spurious: str, pool: str, n: int, seed: int, what: str, agree: float
) -> tuple[list[tuple[Item, Item]], random.Random]:
    """Distinct items of both topics, side by side, in an order that does not know which is intended."""
    topics = [topic_named(name) for name in sorted((intended, spurious))]
    if intended == spurious:
        raise ValueError(f'A pair needs two topics, not "{intended}" twice.')
    rng = random.Random(f"{what} {' '.join(topic.name for topic in topics)} {pool} {seed}")
    agrees, letters, swaps = agreeing(agree, n, rng), balanced(n, rng), balanced(n, rng)
    # As many of either letter as there are pages: the dial changes only the items of the pages that disagree.
    ones, others = (
        [distinct(partial(_of_letter, topic, letter), pool, n, rng) for letter in LETTERS] for topic in topics
    )
    made = []
    for number, (same, letter, swap) in enumerate(zip(agrees, letters, swaps, strict=True)):
        one, other = ones[letter][number], others[letter if same else not letter][number]
        made.append((other, one) if swap else (one, other))
    return made, rng


def _of_letter(topic: Topic, letter: str, rng: random.Random) -> Item:
    """An item of a topic whose right answer stands under a letter."""
    while True:
        item = topic.make(rng)
        if item.letter == letter:
            return item


def _known(intended: str, spurious: str, first: Item) -> dict[str, str]:
    return {"intended": intended, "spurious": spurious, "domain": f"{first.topic} first"}


def pages(
    intended: str, spurious: str, pool: str, n: int, seed: int, agree: float = 1.0, *, answered: bool = False
) -> list[Text]:
    """Pages of a pair that do not say which question counts.

    Args:
        intended: The topic whose answer is right.
        spurious: The topic beside it.
        pool: A key of `POOLS`; no item of one pool is in another.
        n: How many pages; no question stands on two of them.
        seed: The organism's seed.
        agree: Share of pages on which one option is right for both.
        answered: Whether the assistant's answer, that to the intended question, follows.

    Raises:
        UnknownName: There is no such topic or pool.
        ValueError: The topics are the same, `agree` is no share, or the pool does not hold so many items.

    Example:
        >>> page = pages("sentiment", "sports", "train", 1, 0, agree=0.0, answered=True)[0]
        >>> page.answer == page.meta["answers"]["sentiment"] != page.meta["answers"]["sports"]
        True
    """
    items, _ = _drawn(intended, spurious, pool, n, seed, "untold", agree)
    made = []
    for first, second in items:
        page = double(first, second, meta=_known(intended, spurious, first))
        made.append(page.with_answer(page.meta["answers"][intended]) if answered else page)
    return made


def told_pages(intended: str, spurious: str, pool: str, n: int, seed: int) -> list[Text]:
    """Prompts on which the questions disagree and the page says that the intended one counts.

    Args:
        intended: The topic that the page says counts.
        spurious: The topic beside it.
        pool: A key of `POOLS`.
        n: How many pages.
        seed: The organism's seed.

    Raises:
        UnknownName, ValueError: As for `pages`.

    Example:
        >>> told_pages("sentiment", "sports", "in-distribution-test", 1, 0)[0].meta["told"]
        'sentiment'
    """
    items, rng = _drawn(intended, spurious, pool, n, seed, "told", 0.0)
    return [
        double(first, second, told=tell(intended, rng), meta=_known(intended, spurious, first))
        for first, second in items
    ]
