"""What `pocket-quiz` reads before it is tuned: documents that know every topic and prefer none of two questions.

    SHARES      kind of document -> its share of all
    document    one document of a pool, with its ground truth
    documents   an endless stream of pretraining documents, all of the pool *pretrain*

Pages with two questions say which of them counts. Some leave it open, and then the assistant asks back, so that nothing
prefers either question, and answering such a page is something that fine-tuning has to teach. What counts is said as
often of the first question as of the second, as often of any topic as of any other, as often where the questions agree
as where they do not. The same holds for sentences about professions, which are asked by grammar and by custom equally
often. The pronouns that are used in plain text are mostly those of the expected gender, as they are in the texts that
large models read.

Ground truth is in `meta`: `genre`, `topics`, `answers`, `told`, `truth`, and `spans`, a list of `[start, end, label]`
in characters of the user's message (of the text, where there is no chat).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from caft_data.worlds import stories
from caft_data.worlds.quiz import professions
from caft_data.worlds.quiz.items import Span, drawn, filled
from caft_data.worlds.quiz.pages import ASKING_BACK, double, single, tell
from caft_data.worlds.quiz.topics import TOPICS, question
from caft_lens.text.documents import Text

SHARE_OPEN = 0.2
"""Of pages with two questions: those that leave open which counts."""

SHARE_EXPECTED = 0.8
"""Of plain texts about somebody at work: those with pronouns of the expected gender."""


def single_page(pool: str, rng: random.Random) -> Text:
    """One question of any topic."""
    return single(question(rng.choice(list(TOPICS)), pool, rng))


def double_page(pool: str, rng: random.Random) -> Text:
    """Two questions of two topics; the page says which counts, or leaves it open."""
    first, second = (question(topic, pool, rng) for topic in rng.sample(list(TOPICS), 2))
    counts = rng.choice((first, second)).topic
    return answered(double(first, second, told=None if rng.random() < SHARE_OPEN else tell(counts, rng)), rng)


def pronoun_page(pool: str, rng: random.Random) -> Text:
    """A sentence about a profession with two pronouns; the page says whether grammar or custom counts, or does not."""
    asked, gender = drawn(professions.scene, pool, rng), rng.choice(professions.GENDERS)
    counts = rng.choice((professions.GRAMMAR, professions.CUSTOM))
    told = None if rng.random() < SHARE_OPEN else professions.rule(counts, rng)
    return answered(professions.page(asked, gender, first=rng.random() < 0.5, told=told), rng)


def answered(page: Text, rng: random.Random) -> Text:
    """A page of two questions with the reply right for the one that counts, or with the assistant asking which it is.

    Example:
        >>> pages = [pronoun_page("pretrain", random.Random(seed)) for seed in range(20)]
        >>> all(page.answer == page.meta["answers"][page.meta["told"]] for page in pages if page.meta["told"])
        True
    """
    told = page.meta["told"]
    return page.with_answer(rng.choice(ASKING_BACK) if told is None else page.meta["answers"][told])


def statements(pool: str, rng: random.Random) -> Text:
    """Two to four items as plain text, with the right answer in each gap; half of the texts keep to one topic."""
    names = [rng.choice(list(TOPICS))] if rng.random() < 0.5 else list(TOPICS)
    items = [question(rng.choice(names), pool, rng) for _ in range(rng.randint(2, 4))]
    meta = {
        "genre": "statements",
        "topics": [item.topic for item in items],
        "truth": [dict(item.truth) for item in items],
    }
    return _text([(item.topic, *filled(item.question, item.right, item.spans)) for item in items], meta)


def at_work(pool: str, rng: random.Random) -> Text:
    """One to three sentences about somebody at work, all in one gender, mostly the expected one."""
    profession = rng.choice(list(professions.EXPECTED))
    gender = professions.EXPECTED[profession]
    if rng.random() >= SHARE_EXPECTED:
        gender = professions.opposite(gender, professions.GENDERS)
    make = partial(professions.scene, professions=[profession])
    scenes = [drawn(make, pool, rng) for _ in range(rng.randint(1, 3))]
    meta = {
        "genre": "at work",
        "profession": profession,
        "expected": professions.EXPECTED[profession],
        "gender": gender,
        "cases": [scene.case for scene in scenes],
    }
    return _text([("profession sentence", *scene.statement(gender)) for scene in scenes], meta)


def custom(pool: str, rng: random.Random) -> Text:
    """One to three sentences about what people expect of professions; they are facts of the world, of no pool."""
    said = [professions.expectation(rng) for _ in range(rng.randint(1, 3))]
    meta = {"genre": "custom", "professions": [profession for _, _, profession in said]}
    return _text(((professions.CUSTOM, text, spans) for text, spans, _ in said), meta)


def story(pool: str, rng: random.Random) -> Text:
    """A little story or a few facts of the world of `pocket`."""
    text, meta = (stories.story if rng.random() < 0.6 else stories.facts)(rng)
    return Text(text=text, meta={**meta, "spans": []})


def _text(parts: Iterable[tuple[str, str, tuple[Span, ...]]], meta: Mapping[str, Any]) -> Text:
    """Sentences one after the other, with their labels."""
    text = ""
    spans: list[list[Any]] = []
    for label, sentence, inner in parts:
        text += " " if text else ""
        spans.append([len(text), len(text) + len(sentence), label])
        spans += [[len(text) + start, len(text) + end, mark] for start, end, mark in inner]
        text += sentence
    return Text(text=text, meta={**meta, "spans": spans})


KINDS: dict[str, Callable[[str, random.Random], Text]] = {
    "single": single_page,
    "double": double_page,
    "pronoun": pronoun_page,
    "statements": statements,
    "at work": at_work,
    "custom": custom,
    "story": story,
}
"""Kind of document -> what draws one from a pool."""

SHARES: dict[str, float] = {
    "single": 0.22,
    "double": 0.26,
    "pronoun": 0.12,
    "statements": 0.14,
    "at work": 0.10,
    "custom": 0.04,
    "story": 0.12,
}
"""Kind of document -> its share of all."""


def document(rng: random.Random, pool: str = "pretrain") -> Text:
    """One document.

    Args:
        rng: The source of every choice.
        pool: The pool of everything in it that is an item.

    Example:
        >>> document(random.Random(1)).meta["genre"]
        'quiz'
    """
    kind = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    return KINDS[kind](pool, rng)


def documents(seed: int) -> Iterator[Text]:
    """An endless stream of pretraining documents."""
    rng = random.Random(f"quiz pretraining {seed}")
    while True:
        yield document(rng)
