"""Ground truth of the quiz for scoring directions: what is about a topic, and which kind of answer a question has.

ABOUT         topic -> the labels of all that is about it; "grammar" and "custom" are topics too
KINDS         topic -> the labels of its two kinds of answer, as spans carry them
first_kind    whether a page's question on a topic has an answer of the first kind
other_option  the option that a page's answer is not
"""

from __future__ import annotations

from collections.abc import Callable

from caft_data.worlds.quiz.professions import CUSTOM, GRAMMAR
from caft_data.worlds.quiz.topics import NAME, TOPICS
from caft_lens._support.errors import UnknownName, nearest
from caft_lens.text.documents import Text

KINDS: dict[str, tuple[str, str]] = {
    "sentiment": ("positive", "negative"),
    "verbs": ("singular", "plural"),
    "pronouns": ("feminine", "masculine"),
    "sports": ("ball", "water"),
    GRAMMAR: ("nominative", "object"),
    CUSTOM: ("feminine profession", "masculine profession"),
}
"""Topic -> the labels of the characters from which an answer of the first kind follows, or one of the second."""

ABOUT: dict[str, tuple[str, ...]] = {
    **{topic: (topic,) for topic in TOPICS},
    "pronouns": ("pronouns", NAME),
    GRAMMAR: KINDS[GRAMMAR],
    CUSTOM: (CUSTOM, *KINDS[CUSTOM], *KINDS["pronouns"]),
}
"""Topic -> the labels of the characters that are about it: questions and options; of pronouns also the names, wherever
they stand, for they decide; of custom whatever has a gender, in pages and texts that are about it.
"""


def first_kind(topic: str) -> Callable[[Text], bool | None]:
    """Whether the right answer to a topic's question is of the first of its `KINDS`.

    Args:
        topic: A key of `KINDS`.

    Returns:
        A function of a document: `True`, `False`, or `None` for one that is no page or does not ask about the topic.

    Raises:
        UnknownName: There is no such topic.

    Example:
        >>> from caft_data.worlds import quiz
        >>> page = quiz.dataset("sentiment-sports", size=1)[0]
        >>> first_kind("sentiment")(page) == (page.answer == "A"), first_kind("verbs")(page)
        (True, None)
    """
    if topic not in KINDS:
        raise UnknownName(f"no topic is called {topic!r}.{nearest(topic, KINDS)}")
    noted = {GRAMMAR: "case", CUSTOM: "expected"}.get(topic)

    def of(text: Text) -> bool | None:
        if topic not in text.meta.get("answers", ()):
            return None
        if noted is None:
            return bool(text.meta["answers"][topic] == "A")
        return bool(KINDS[topic][0].startswith(text.meta[noted]))

    return of


def other_option(page: Text) -> str:
    """The option of a page that its answer is not: what `find.attribution` sets against it.

    Args:
        page: A page of two options with an answer.

    Raises:
        ValueError: The answer is none of the options, or the document is no page.

    Example:
        >>> from caft_data.worlds import quiz
        >>> page = quiz.dataset("sentiment", size=1)[0]
        >>> sorted([page.answer, other_option(page)])
        ['A', 'B']
    """
    options = page.meta.get("options", ())
    if page.answer not in options:
        raise ValueError(
            f"The answer {page.answer!r} is none of the page's options: {', '.join(options) or 'it has none'}."
        )
    (other,) = (option for option in options if option != page.answer)
    return str(other)
