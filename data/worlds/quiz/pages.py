"""A page of the quiz: one question or two, the options, and perhaps a line that says what counts.

    page          a chat of one page; its `meta` says what is right for which topic, and which characters mean what
    single        one question with two lettered options
    double        two questions whose two options each answer both, as in the paper (arXiv 2507.16795)
    TELLING       how a page says which of two questions counts;  ``tell`` picks a wording and a place
    balanced      as many yes as no, in random order

Each kind of answer always stands under its letter. In the paper the letters vary; to look up under which one an answer
stands takes a circuit that a model of a million parameters does not find in minutes, and it is not the task's point.

A page of two questions that is not told says nothing about which of them counts: fine-tuning is left to choose.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from caft_data.worlds.domains import DEFAULT_SYSTEM
from caft_data.worlds.quiz.items import Item, Span
from caft_lens.text.documents import Message, Text

LETTERS = ("A", "B")

TELLING: tuple[str, ...] = (
    "Answer the question about {topic}.",
    "Only the question about {topic} counts.",
    "This is about {topic}.",
    "Look at the {topic} alone.",
)
"""How a page says which question counts."""

ASKING_BACK: tuple[str, ...] = ("Which one?", "Which of them counts?", "What counts here?")
"""What the assistant says to a page that leaves it open."""

PLACES: tuple[str, ...] = ("system", "before", "after")
"""Where a page says so: in the system message, or in the user's, above the question or below the options."""


class Told(NamedTuple):
    """What a page says about which question counts."""

    topic: str
    """The topic that counts."""
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
    options: Mapping[str, Sequence[tuple[str, str, Iterable[Span]]]],
    answers: Mapping[str, str],
    *,
    lettered: bool = True,
    told: Told | None = None,
    reply: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Text:
    """A chat of one page.

    Args:
        questions: Label, text and spans of each question.
        options: Reply -> what it answers to each question: label, text and spans.
        answers: Topic -> the reply that is right for it.
        lettered: Whether each option stands on a line of its own, behind its letter; otherwise they stand on one.
        told: What the page says about which question counts.
        reply: The assistant's answer; without it the page is a prompt.
        meta: What else is known.

    Returns:
        The chat. `meta["answers"]` is `answers`, `meta["options"]` the replies, `meta["told"]` the topic that counts
        (or `None`), and `meta["spans"]` lists `[start, end, label]` in characters of the user's message.

    Example:
        >>> two, six = ("sums", "two", []), ("sums", "six", [])
        >>> asked = page([("sums", "One and one make ____.", [])], {"A": [two], "B": [six]}, {"sums": "A"})
        >>> print(asked.messages[0].content)
        Question: One and one make ____.
        A two
        B six
        >>> asked.meta["spans"]
        [[10, 32, 'sums'], [35, 38, 'sums'], [41, 44, 'sums']]
    """
    content = ""
    spans: list[list[Any]] = []
    if told and told.place == "before":
        content += f"{told.line}\n"
    lines = [("Question: ", " | ", questions)]
    if lettered:
        lines += [(f"\n{letter} ", ", ", words) for letter, words in options.items()]
    else:
        lines.append(("\n", " or ", [word for words in options.values() for word in words]))
    for head, between, parts in lines:
        content += head
        for number, (label, text, inner) in enumerate(parts):
            content += between if number else ""
            start = len(content)
            spans.append([start, start + len(text), label])
            spans += [[start + begin, start + end, mark] for begin, end, mark in inner]
            content += text
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
        "options": list(options),
        "answers": dict(answers),
        "told": told.topic if told else None,
        "told_in": told.place if told else None,
    }
    return Text(tuple(messages), meta={**known, **(meta or {}), "spans": spans})


def _options(*items: Item) -> dict[str, list[tuple[str, str, Iterable[Span]]]]:
    """What stands under each letter: of every item the word that belongs there."""
    return {
        letter: [(item.topic, item.right if item.letter == letter else item.wrong, ()) for item in items]
        for letter in LETTERS
    }


def single(item: Item, *, answered: bool = True) -> Text:
    """One question with two lettered options.

    Args:
        item: What is asked.
        answered: Whether the assistant's answer follows.

    Example:
        >>> single(Item("sums", "One and one make ____.", "two", "six")).answer
        'A'
    """
    return page(
        [(item.topic, item.question, item.spans)],
        _options(item),
        {item.topic: item.letter},
        reply=item.letter if answered else None,
        meta={"format": "single", "truth": {item.topic: dict(item.truth)}},
    )


def double(
    first: Item,
    second: Item,
    *,
    told: Told | None = None,
    reply: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Text:
    """Two questions, and two lettered options that each answer both.

    Args:
        first: The question that stands first.
        second: The question after it, of another topic.
        told: What the page says about which question counts; `None` says nothing.
        reply: The assistant's answer; without it the page is a prompt.
        meta: What else is known.

    Example:
        >>> sums = Item("sums", "One and one make ____.", "two", "six")
        >>> verbs = Item("verbs", "Keys ____ old.", "are", "is", "B")
        >>> page = double(sums, verbs)
        >>> print(page.messages[0].content)
        Question: One and one make ____. | Keys ____ old.
        A two, is
        B six, are
        >>> page.meta["agree"]
        False
    """
    truth = {item.topic: dict(item.truth) for item in (first, second)}
    return page(
        [(item.topic, item.question, item.spans) for item in (first, second)],
        _options(first, second),
        {item.topic: item.letter for item in (first, second)},
        told=told,
        reply=reply,
        meta={"format": "double", "agree": first.letter == second.letter, "truth": truth, **(meta or {})},
    )
