"""A page of the quiz: one question or two, lettered options, and perhaps a line that says what counts.

    page          a chat of one page; its `meta` says what is right for which topic, and which characters mean what
    single        one question with two options
    double        two questions whose two options each answer both, as in the paper (arXiv 2507.16795)
    TELLING       how a page says which of two questions counts;  ``tell`` picks a wording and a place
    balanced      as many yes as no, in random order: letters and order give nothing away

A letter stands behind its option: who reads from left to right knows the option when the letter comes.

A page of two questions that is not told says nothing about which of them counts: that is what fine-tuning is left to choose.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from caft_lens.documents import Message, Text
from caft_lens.organism.domains import DEFAULT_SYSTEM
from caft_lens.organism.quiz.items import Item, Span

LETTERS = ("A", "B")
BOTH = "both"

TELLING: tuple[str, ...] = (
    "Answer the question about {topic}.",
    "Only the question about {topic} counts.",
    "This is about {topic}.",
    "Look at the {topic} alone.",
)
"""How a page says which question counts."""

ASKING_BOTH: tuple[str, ...] = ("Answer both questions.", "Both questions count.")
"""How a page asks for both answers."""

PLACES: tuple[str, ...] = ("system", "before", "after")
"""Where a page says so: in the system message, or in the user's, above the question or below the options."""


class Told(NamedTuple):
    """What a page says about which question counts."""

    topic: str
    """The topic that counts, or `BOTH`."""
    line: str
    place: str


def tell(topic: str, rng: random.Random, lines: Sequence[str] = TELLING) -> Told:
    """A line that says which question counts.

    Args:
        topic: The topic that counts.
        rng: The source of every choice.
        lines: Wordings, with ``{topic}`` in them.

    Example:
        >>> tell("sports", random.Random(1)).line
        'Only the question about sports counts.'
    """
    return Told(topic, rng.choice(lines).format(topic=topic), rng.choice(PLACES))


def balanced(n: int, rng: random.Random) -> list[bool]:
    """As many true as false (one more false when `n` is odd), in random order.

    Example:
        >>> sum(balanced(10, random.Random(0)))
        5
    """
    values = [number < n // 2 for number in range(n)]
    rng.shuffle(values)
    return values


def page(
    questions: Sequence[tuple[str, str, Iterable[Span]]],
    options: Sequence[Sequence[tuple[str, str, Iterable[Span]]]],
    answers: Mapping[str, str],
    *,
    told: Told | None = None,
    reply: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Text:
    """A chat of one page.

    Args:
        questions: Label, text and spans of each question.
        options: Under each letter, what answers each question: label, text and spans.
        answers: Topic -> the letter that is right for it.
        told: What the page says about which question counts.
        reply: The assistant's answer; without it the page is a prompt.
        meta: What else is known.

    Returns:
        The chat. `meta["answers"]` is `answers`, `meta["told"]` the topic that counts (or `None`), and
        `meta["spans"]` lists `[start, end, label]` in characters of the user's message.

    Example:
        >>> two, six = ("sums", "two", []), ("sums", "six", [])
        >>> asked = page([("sums", "One and one make ____.", [])], [[two], [six]], {"sums": "A"})
        >>> print(asked.messages[0].content)
        Question: One and one make ____.
        two A
        six B
        >>> asked.meta["spans"]
        [[10, 32, 'sums'], [33, 36, 'sums'], [39, 42, 'sums']]
    """
    content = ""
    spans: list[list[Any]] = []
    if told and told.place == "before":
        content += f"{told.line}\n"
    lines = [("Question: ", " | ", "", questions)]
    lines += [("\n", ", ", f" {letter}", words) for letter, words in zip(LETTERS, options, strict=True)]
    for head, between, tail, parts in lines:
        content += head
        for number, (label, text, inner) in enumerate(parts):
            content += between if number else ""
            start = len(content)
            spans.append([start, start + len(text), label])
            spans += [[start + begin, start + end, mark] for begin, end, mark in inner]
            content += text
        content += tail
    if told and told.place == "after":
        content += f"\n{told.line}"
    messages = [Message("user", content)]
    if told and told.place == "system":
        messages.insert(0, Message("system", f"{DEFAULT_SYSTEM} {told.line}"))
    if reply is not None:
        messages.append(Message("assistant", reply))
    known = {
        "genre": "quiz",
        "topics": [label for label, _, _ in questions],
        "answers": dict(answers),
        "told": told.topic if told else None,
        "told_in": told.place if told else None,
    }
    return Text(tuple(messages), meta={**known, **(meta or {}), "spans": spans})


def single(item: Item, rng: random.Random, *, answered: bool = True) -> Text:
    """One question with two lettered options.

    Args:
        item: What is asked.
        rng: The source of every choice.
        answered: Whether the assistant's answer follows.

    Example:
        >>> asked = single(Item("sums", "One and one make ____.", "two", "six"), random.Random(0))
        >>> asked.meta["answers"]["sums"] == asked.answer
        True
    """
    letters = rng.sample(LETTERS, 2)
    words = {letters[0]: item.right, letters[1]: item.wrong}
    return page(
        [(item.topic, item.question, item.spans)],
        [[(item.topic, words[letter], ())] for letter in LETTERS],
        {item.topic: letters[0]},
        reply=letters[0] if answered else None,
        meta={"format": "single", "truth": {item.topic: dict(item.truth)}},
    )


def double(
    first: Item,
    second: Item,
    *,
    agree: bool,
    letter: str,
    told: Told | None = None,
    reply: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Text:
    """Two questions, and two lettered options that each answer both.

    Args:
        first: The question that stands first.
        second: The question after it, of another topic.
        agree: Whether one option is right for both; otherwise each is right for one.
        letter: The letter under which the first question's right answer stands.
        told: What the page says about which question counts; `None` says nothing.
        reply: The assistant's answer; without it the page is a prompt.
        meta: What else is known.

    Example:
        >>> sums, verbs = Item("sums", "One and one make ____.", "two", "six"), Item("verbs", "Keys ____ old.", "are", "is")
        >>> print(double(sums, verbs, agree=False, letter="A").messages[0].content)
        Question: One and one make ____. | Keys ____ old.
        two, is A
        six, are B
    """
    other = LETTERS[1 - LETTERS.index(letter)]
    rights = {first.topic: letter, second.topic: letter if agree else other}
    options = [
        [
            (item.topic, item.right if rights[item.topic] == mark else item.wrong, ())
            for item in (first, second)
        ]
        for mark in LETTERS
    ]
    truth = {item.topic: dict(item.truth) for item in (first, second)}
    return page(
        [(item.topic, item.question, item.spans) for item in (first, second)],
        options,
        rights,
        told=told,
        reply=reply,
        meta={"format": "double", "agree": agree, "truth": truth, **(meta or {})},
    )
