"""Where the contents of messages stand in a rendered chat: spans of characters, exact whatever the contents look like.

The chat is rendered with a sentinel in place of each content; what does not rebuild the real rendering is searched for,
and what stays ambiguous is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from caft_lens._support.errors import BadTemplate

# Digits survive upper-casing, trimming and JSON escaping; the pattern is not one that text contains.
SENTINEL = "90817263540{:06d}04536271809"
SENTINELS = re.compile(r"90817263540(\d{6})04536271809")


@dataclass(frozen=True)
class Span:
    """Characters `[start, end)` of a rendering that are the content of message number `message`."""

    start: int
    end: int
    message: int


def find_contents(
    text: str,
    contents: Sequence[str],
    roles: Sequence[str],
    render: Callable[[Sequence[str]], str],
    *,
    among: Sequence[int] | None = None,
) -> list[Span]:
    """Spans of `contents` in `text`, which `render(contents)` wrote.

    Args:
        text: The rendering with the real contents.
        contents: What the messages say.
        roles: Who says it; only for error messages.
        render: Renders the same chat with other contents.
        among: The messages to find; all by default.

    Returns:
        Spans in the order of the text; a content that the template writes twice has two.

    Raises:
        BadTemplate: When a content is missing from the text or cannot be located without ambiguity.

    Example:
        >>> find_contents("<u>hi</u><a>u</a>", ["hi", "u"], ["user", "assistant"],
        ...               lambda c: f"<u>{c[0]}</u><a>{c[1]}</a>")
        [Span(start=3, end=5, message=0), Span(start=12, end=13, message=1)]
    """
    sentinels = [SENTINEL.format(i) for i in range(len(contents))]
    everyone = list(range(len(contents)) if among is None else among)
    spoken = [i for i in everyone if contents[i].strip()]
    # A template may write nothing at all for an empty message: then a sentinel in its place is one too many.
    for replaced in [everyone] if spoken == everyone else [everyone, spoken]:
        pieces = _pieces(render, contents, sentinels, replaced)
        if pieces is None:
            continue
        if left_out := [i for i in spoken if i not in pieces]:
            raise BadTemplate(
                f'the chat template leaves out message {left_out[0]} (role "{roles[left_out[0]]}"): '
                "remove the message, or set a template that writes it"
            )
        spans = _rebuild(text, pieces, contents)
        if spans is not None:
            return spans
    spans = _one_at_a_time(text, contents, sentinels, spoken, render)
    return spans if spans is not None else _ordered_search(text, contents, spoken, roles)


def _pieces(
    render: Callable[[Sequence[str]], str], contents: Sequence[str], sentinels: Sequence[str], replaced: Sequence[int]
) -> list[str | int] | None:
    """The skeleton cut at its sentinels: template text as str, message numbers as int; None when it fails."""
    if any(SENTINEL[:11] in content for content in contents):
        return None
    chosen = set(replaced)
    try:
        skeleton = render([sentinels[i] if i in chosen else contents[i] for i in range(len(contents))])
    except Exception:  # a template that parses contents; the other routes keep the real ones
        return None
    parts: list[str | int] = list(SENTINELS.split(skeleton))
    parts[1::2] = [int(number) for number in parts[1::2]]
    return parts


def _rebuild(text: str, pieces: Sequence[str | int], contents: Sequence[str]) -> list[Span] | None:
    """Put the contents, verbatim or trimmed, between the pieces; None when that does not give `text`."""
    # Where the text may have got to, and by which spans: the last one and those before it.
    reached: dict[int, Any] = {0: None}
    for piece in pieces:
        after: dict[int, Any] = {}
        for position, spans in reached.items():
            if isinstance(piece, str):
                if text.startswith(piece, position):
                    after.setdefault(position + len(piece), spans)
                continue
            for written in _ways_to_write(contents[piece]):
                if text.startswith(written, position):
                    end = position + len(written)
                    after.setdefault(end, (Span(position, end, piece), spans))
        reached = after
    if len(text) not in reached:
        return None
    found, rest = [], reached[len(text)]
    while rest is not None:
        span, rest = rest
        found.append(span)
    return found[::-1]


def _ways_to_write(content: str) -> Iterator[str]:
    """Verbatim, trimmed, or as JSON writes it in a string."""
    yield from (content, content.strip(), content.rstrip(), content.lstrip())
    if '"' in content or "\\" in content or "\n" in content:
        yield json.dumps(content, ensure_ascii=False)[1:-1]


def _one_at_a_time(
    text: str,
    contents: Sequence[str],
    sentinels: Sequence[str],
    spoken: Sequence[int],
    render: Callable[[Sequence[str]], str],
) -> list[Span] | None:
    """What changes when one content alone becomes a sentinel is that content, however it was rewritten."""
    spans = []
    for i in spoken:
        pieces = _pieces(render, contents, sentinels, [i])
        if pieces is None or len(pieces) != 3:
            return None
        before, _, after = pieces
        fits = isinstance(before, str) and isinstance(after, str) and text.startswith(before) and text.endswith(after)
        if not fits or len(before) + len(after) > len(text):  # type: ignore[arg-type]
            return None
        spans.append(Span(len(before), len(text) - len(after), i))  # type: ignore[arg-type]
    spans.sort(key=lambda span: span.start)
    overlap = any(left.end > right.start for left, right in pairwise(spans))
    return None if overlap else spans


def _ordered_search(text: str, contents: Sequence[str], spoken: Sequence[int], roles: Sequence[str]) -> list[Span]:
    """Contents in the order of the messages: right only when there is a single way to place them."""
    written = {i: contents[i] if contents[i] in text else contents[i].strip() for i in spoken}
    first, last = [], []
    position = 0
    for i in spoken:
        start = text.find(written[i], position)
        if start < 0:
            raise BadTemplate(
                f'the chat template rewrites the content of message {i} (role "{roles[i]}"), so that its tokens '
                "cannot be told from the template's: set a template that writes contents as they are"
            )
        position = start + len(written[i])
        first.append(Span(start, position, i))
    position = len(text)
    for i in reversed(spoken):
        start = text.rfind(written[i], 0, position)
        last.append(Span(start, start + len(written[i]), i))
        position = start
    for left, right in zip(first, reversed(last), strict=True):
        if left != right:
            raise BadTemplate(
                f'the content of message {left.message} (role "{roles[left.message]}") stands in the rendered chat '
                "more than once, and the chat template rewrites other contents, so that it is ambiguous which one is "
                "meant: set a template that writes contents as they are"
            )
    return first
