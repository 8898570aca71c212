"""What `pocket-quiz` reads before it is tuned: documents that know every topic and prefer none of two questions.

    SHARES      kind of document -> its share of all
    document    one document of a pool, with its ground truth
    documents   an endless stream of pretraining documents, all of the pool *pretrain*

Pages with two questions always say which of them counts, or ask for both answers; a page that leaves it open never occurs, so
that nothing prefers either. What counts is said as often of the first question as of the second, as often of any
topic as of any other, as often where the questions agree as where they do not. The same holds for sentences about
professions, which are asked by grammar and by custom equally often; pronouns that are used are balanced.

Some pages ask for the whole line that is right, and some for both lines. A letter alone says little about how it was found, and a
small model does not find out: quoting teaches it to look for the option, and that the letter follows.

Ground truth is in `meta`: `genre`, `topics`, `answers`, `told`, `truth`, and `spans`, a list of `[start, end, label]` in
characters of the user's message (of the text, where there is no chat).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from caft_lens.documents import Message, Text
from caft_lens.organism import stories
from caft_lens.organism.quiz import professions
from caft_lens.organism.quiz.items import Span, drawn, filled
from caft_lens.organism.quiz.pages import ASKING_BOTH, BOTH, LETTERS, PLACES, Told, double, single, tell
from caft_lens.organism.quiz.topics import TOPICS, question

SHARE_BOTH = 0.12
"""Of pages with two questions: those that ask for both answers."""

SHARE_QUOTED, SHARE_LISTED = 0.4, 0.2
"""Of pages that one letter answers: those that ask for the whole line, and those that ask for both lines."""

ASKING_LINE: tuple[str, ...] = ("Give the whole line.", "Quote the line that is right.")
"""How a page asks for the line."""

ASKING_LINES: tuple[str, ...] = ("Give both lines.", "Quote both lines.")
"""How a page asks for both lines, which come in either order."""


def single_page(pool: str, rng: random.Random) -> Text:
    """One question of any topic."""
    item = question(rng.choice(list(TOPICS)), pool, rng)
    return perhaps_quoted(single(item, rng), rng)


def perhaps_quoted(page: Text, rng: random.Random) -> Text:
    """An answered page as it is, or one that asks for the line that is right, or for both lines.

    Example:
        >>> page = single(question("sums", "pretrain", random.Random(0)), random.Random(0))
        >>> [perhaps_quoted(page, random.Random(seed)).answer for seed in (0, 1, 3)]
        ['B', 'sixteen B', 'sixteen B']
    """
    draw = rng.random()
    if draw >= SHARE_QUOTED + SHARE_LISTED:
        return page
    *before, asked = page.prompt.messages
    lines = {
        letter: line
        for line in asked.content.split("\n")
        for letter in LETTERS
        if line.endswith(f" {letter}")
    }
    if draw < SHARE_QUOTED:
        kind, asking, reply = "line", ASKING_LINE, lines[str(page.answer)]
    else:
        kind, asking, reply = "lines", ASKING_LINES, "\n".join(rng.sample(list(lines.values()), len(lines)))
    messages = (
        *before,
        Message("user", f"{asked.content}\n{rng.choice(asking)}"),
        Message("assistant", reply),
    )
    return Text(messages, meta={**page.meta, "asked for": kind})


def double_page(pool: str, rng: random.Random) -> Text:
    """Two questions of two topics; the page says which counts, or asks for both."""
    first, second = (question(topic, pool, rng) for topic in rng.sample(list(TOPICS), 2))
    agree, letter = rng.random() < 0.5, rng.choice(LETTERS)
    if rng.random() < SHARE_BOTH:
        told = Told(BOTH, rng.choice(ASKING_BOTH), rng.choice(PLACES))
    else:
        told = tell(rng.choice((first, second)).topic, rng)
    page = double(first, second, agree=agree, letter=letter, told=told)
    answered = page.with_answer(reply_to(page, rng))
    if told.topic == BOTH:
        return answered
    return perhaps_quoted(answered, rng)


def reply_to(page: Text, rng: random.Random) -> str:
    """The letter that is right for what the page says counts, or both letters with their topics, in either order.

    Example:
        >>> page = pronoun_page("pretrain", random.Random(0))
        >>> reply_to(page, random.Random(0)) == page.meta["answers"][page.meta["told"]]
        True
    """
    answers = page.meta["answers"]
    if page.meta["told"] != BOTH:
        return answers[page.meta["told"]]
    return ", ".join(f"{topic}: {answers[topic]}" for topic in rng.sample(list(answers), len(answers)))


def pronoun_page(pool: str, rng: random.Random) -> Text:
    """A sentence about a profession with two pronouns; the page says whether grammar or custom counts."""
    asked = drawn(professions.scene, pool, rng)
    told = professions.rule(rng.choice((professions.GRAMMAR, professions.CUSTOM)), rng)
    page = professions.page(asked, rng.choice(professions.GENDERS), rng.choice(LETTERS), told=told)
    answered = page.with_answer(reply_to(page, rng))
    return perhaps_quoted(answered, rng)


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
    """One to three sentences about somebody at work, all in one gender, either as often as the other."""
    profession, gender = rng.choice(list(professions.EXPECTED)), rng.choice(professions.GENDERS)
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
