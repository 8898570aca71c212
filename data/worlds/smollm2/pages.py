"""A page with options to choose from, as words or as letters that stand for them.

FORMS     "word" and "letter"
page      a chat of one page; its `meta` says what is right for which topic and which characters mean what
balanced  as many yes as no, in random order
agreeing  which pages agree: exactly the share that was asked for
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from caft_data.worlds.quiz.pages import LETTERS, balanced
from caft_data.worlds.quiz.pairs import agreeing
from caft_lens.text.documents import Message, Text

__all__ = ["FORMS", "LETTERS", "agreeing", "balanced", "page"]

FORMS = ("word", "letter")
"""How a page is answered."""

Span = tuple[int, int, str]


def page(
    question: str,
    words: Sequence[str],
    answers: Mapping[str, str],
    *,
    form: str = "word",
    spans: Iterable[Span] = (),
    labels: Mapping[str, Sequence[str]] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Text:
    """A prompt: a question, and the options in their order.

    Args:
        question: What stands above the options.
        words: The options.
        answers: Topic -> the word that is right for it.
        form: ``"word"``: the options stand on one line and one of them is the answer; ``"letter"``: each stands on a
            line of its own, and its letter is the answer.
        spans: What characters of the question are about.
        labels: Word -> labels of the characters of that option.
        meta: What else is known.

    Returns:
        The prompt. `meta["options"]` is what there is to reply, `meta["answers"]` the reply that is right for each
        topic, `meta["spans"]` `[start, end, label]` in characters of the user's message.

    Raises:
        ValueError: There is no such form.

    Example:
        >>> asked = page("Fill the gap: Keys ____ old.", ["are", "is"], {"verbs": "are"}, form="letter")
        >>> print(asked.messages[0].content)
        Fill the gap: Keys ____ old.
        A: are
        B: is
        Answer with the letter.
        >>> asked.meta["options"], asked.meta["answers"]
        (['A', 'B'], {'verbs': 'A'})
    """
    if form not in FORMS:
        raise ValueError(f'form="{form}": a page is answered by "word" or by "letter".')
    content, found = question, [list(span) for span in spans]
    lettered = form == "letter"
    replies = dict(zip(words, LETTERS if lettered else words, strict=True))
    for number, (word, reply) in enumerate(replies.items()):
        content += f"\n{reply}: " if lettered else " or " if number else "\n"
        found += [[len(content), len(content) + len(word), label] for label in (labels or {}).get(word, ())]
        content += word
    content += "\nAnswer with the letter." if lettered else "? Answer with one word."
    known = {
        "genre": "smollm2",
        "form": form,
        "options": list(replies.values()),
        "answers": {topic: replies[word] for topic, word in answers.items()},
    }
    return Text((Message("user", content),), meta={**known, **(meta or {}), "spans": found})
