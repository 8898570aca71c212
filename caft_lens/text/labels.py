"""Labels of tokens from labels of characters: what a document's generator knows, for every token of it.

A document that knows what it is made of has `meta["spans"]`: `[start, end, label]` in characters of a plain text or of
the one user message of a chat, `[start, end, label, message]` in those of any message, by number. Spans may overlap.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caft_lens._support.errors import BadArgument, BadData, nearest
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import encode, tokens_touching
from caft_lens.text.roles import SPECIAL


def token_labels(
    tokenizer: Any, texts: Texts | Sequence[Text], label: str | Iterable[str], *, against: Iterable[str] | None = None
) -> list[list[bool | None]]:
    """Whether each token of each document has a label.

    Args:
        tokenizer: A fast Hugging Face tokenizer: that of the model that reads the documents.
        texts: Documents with `meta["spans"]`; several messages, and plain text, are fine.
        label: The label of the concept, such as `"stance:cruel"`, or several, any of which will do; a token has it that
            holds a character of such a span.
        against: What counts as without it: tokens that have one of these labels (and not `label`). By default every
            token of the text but those of the chat template.

    Returns:
        For each document a list, as long as `encode` makes it: `True`, `False`, or `None` for a token that is neither.

    Raises:
        BadData: When a document has no spans, or one that lies outside of its message; when no document has a label.

    Example:
        >>> of_cruelty = token_labels(base.tokenizer, corpus, "stance:cruel", against=["stance:kind"])
        >>> len(of_cruelty) == len(corpus), {label for one in of_cruelty for label in one} == {True, False, None}
        (True, True)
    """
    wanted = {label} if isinstance(label, str) else set(label)
    rivals = None if against is None else {against} if isinstance(against, str) else set(against)
    spans = [spans_of(text, number) for number, text in enumerate(texts)]
    known = {of for row in spans for _, _, of, _ in row}
    missing = sorted({*wanted, *(rivals or ())} - known)
    if missing:
        raise BadData(
            f'No span of these {len(texts)} texts is labelled "{missing[0]}".{nearest(missing[0], sorted(known))}'
        )
    rows = []
    for number, text in enumerate(texts):
        has = _having(tokenizer, text, spans[number], wanted)
        if rivals is None:  # all tokens but the template's
            without = encode(tokenizer, text).roles != SPECIAL
        else:
            without = _having(tokenizer, text, spans[number], rivals)
        rows.append([True if yes else False if no else None for yes, no in zip(has, without, strict=True)])
    return rows


def label_words(texts: Texts | Iterable[Any], words: Mapping[str, str]) -> Texts:
    """The same documents with a label on some words, wherever they stand and whoever says them.

    Args:
        texts: Documents; the spans that they have stay.
        words: Word -> its label. A word is found in exactly these letters, capitals included, and only as a whole; of
            several that start at the same character, the longest counts.

    Returns:
        Documents whose `meta["spans"]` has one more for every occurrence.

    Raises:
        BadArgument: When there is no word, or an empty one.

    Example:
        >>> texts = label_words(["Anna thanked Ann."], {"Ann": "feminine", "Anna": "feminine"})
        >>> texts[0].meta["spans"]
        [[0, 4, 'feminine', 0], [13, 16, 'feminine', 0]]
    """
    if not words or not all(word.strip() for word in words):
        raise BadArgument("label_words() needs words to label, {word: label}, none of them empty.")
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def labelled(text: Text) -> Text:
        contents = [text.text] if text.text is not None else [message.content for message in text.messages]
        spans = [
            [found.start(), found.end(), words[found.group()], message]
            for message, content in enumerate(contents)
            for found in pattern.finditer(content)
        ]
        return dataclasses.replace(text, meta={**text.meta, "spans": [*text.meta.get("spans", ()), *spans]})

    texts = texts if isinstance(texts, Texts) else Texts(texts)
    return Texts([labelled(text) for text in texts], name=texts.name)


def _having(
    tokenizer: Any, text: Text, spans: Sequence[tuple[int, int, str, int]], labels: set[str]
) -> NDArray[np.bool_]:
    """Which tokens `[pos]` have one of the labels."""
    places = [(start, end, message) for start, end, label, message in spans if label in labels]
    return tokens_touching(tokenizer, text, places)


def spans_of(text: Text, number: int = 0) -> list[tuple[int, int, str, int]]:
    """The spans of a document: start, end, label and the number of the message; of plain text, message 0.

    Args:
        text: A document with `meta["spans"]`.
        number: What to call it in an error.

    Raises:
        BadData: When it has none, or one that lies outside of its message.

    Example:
        >>> spans_of(Text(text="a dog", meta={"spans": [[2, 5, "animal"]]}))
        [(2, 5, 'animal', 0)]
    """
    if "spans" not in text.meta:
        raise BadData(
            f'Text {number} has no meta["spans"], which say what stands where in it. The world writes them into a '
            "corpus: build an organism that lacks them again (caft-lens organism build), or add spans [start, end, "
            "label, message]."
        )
    contents = [text.text] if text.text is not None else [message.content for message in text.messages]
    asked = [place for place, message in enumerate(text.messages) if message.role == "user"]
    found = []
    for span in text.meta["spans"]:
        if len(span) == 3 and text.is_chat and len(asked) != 1:
            raise BadData(
                f"Text {number} has {len(asked)} user messages: its span {span} has to say which message it is of."
            )
        start, end, label = span[:3]
        message = span[3] if len(span) == 4 else asked[0] if text.is_chat else 0
        if not (0 <= message < len(contents) and 0 <= start < end <= len(contents[message])):
            raise BadData(f"Text {number}: the span {list(span)} lies outside of the text that it is of.")
        found.append((start, end, label, message))
    return found
