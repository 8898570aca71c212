"""Which characters of a rendered chat came from which message, for any chat template.

A template is a program; nothing in its output says where a message begins. So the chat is rendered twice:
as it is, and as a *skeleton* with every content replaced by a sentinel. The skeleton split at its sentinels,
with the contents put back, must rebuild the real rendering; then the spans are exact, whatever the contents
look like. Templates that rewrite contents are read one message at a time, and at last by ordered search;
what stays ambiguous is an error. `render_chat` is the one entry point.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

from caft_lens.errors import nearest

T = TypeVar("T")

# Digits survive upper-casing, trimming and JSON escaping; the pattern is not one that text contains.
_SENTINEL = "90817263540{:04d}04536271809"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True)
class Span:
    """Characters `[start, end)` of a rendering that are the content of message number `message`."""

    start: int
    end: int
    message: int


@dataclass(frozen=True)
class Rendering:
    """A rendered chat and what its characters are.

    Attributes:
        text: The chat as the template writes it.
        contents: One span per place where a message's content stands, in order.
        closings: For each assistant content, `(start, end)` of the template text that closes the turn; `end` is -1
            where the template cannot tell (a chat that goes on after it), and the first special token is meant.
        marked: Spans inside `{% generation %}` blocks; `None` when the template has none.
    """

    text: str
    contents: tuple[Span, ...]
    closings: tuple[tuple[int, int, int], ...]
    marked: tuple[tuple[int, int], ...] | None


def render_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False
) -> Rendering:
    """Render a chat and find the content of every message in it.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        messages: Dicts with `role` (`"system"`, `"user"` or `"assistant"`) and `content`.
        add_generation_prompt: Whether the header of an assistant turn is written at the end.

    Raises:
        ValueError: When the tokenizer has no chat template, when the template rejects the chat or leaves out a
            message, or when a content cannot be found again without ambiguity.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template, so a chat cannot be written as text: set tokenizer.chat_template, "
            "use the tokenizer of the instruction-tuned model, or give plain text"
        )

    special, template = tokenizer.special_tokens_map, tokenizer.get_chat_template()
    chat_of = lambda contents: [  # noqa: E731
        {**message, "content": content} for message, content in zip(messages, contents, strict=True)
    ]
    roles = [message["role"] for message in messages]
    contents = [message["content"] for message in messages]
    skeletons = _skeletons((template, tuple(sorted(special.items())), tuple(roles), add_generation_prompt))

    def render(contents: Sequence[str]) -> str:
        if (known := skeletons.get(tuple(contents))) is None:
            known = tokenizer.apply_chat_template(
                chat_of(contents), tokenize=False, add_generation_prompt=add_generation_prompt
            )
            if all(content.startswith(_SENTINEL[:11]) for content in contents):
                skeletons[tuple(contents)] = known
        return known

    marked = None
    if _GENERATION.search(template):
        text, marked = _render_or_explain(
            lambda: _render_marked(template, chat_of(contents), add_generation_prompt, special), roles
        )
    else:
        text = _render_or_explain(lambda: render(contents), roles)
    spans = find_contents(text, contents, roles, render)
    return Rendering(
        text=text,
        contents=tuple(spans),
        closings=tuple(_closings(text, spans, roles, open_end=add_generation_prompt)),
        marked=marked,
    )


@lru_cache(maxsize=64)
def _skeletons(key: Hashable) -> dict[tuple[str, ...], str]:
    """What one template wrote for chats of one shape with nothing but sentinels in them; chats of a data set share it."""
    return {}


def find_contents(
    text: str, contents: Sequence[str], roles: Sequence[str], render: Callable[[Sequence[str]], str]
) -> list[Span]:
    """Spans of `contents` in `text`, which `render(contents)` wrote.

    Args:
        text: The rendering with the real contents.
        contents: What the messages say.
        roles: Who says it; only for error messages.
        render: Renders the same chat with other contents.

    Returns:
        Spans in the order of the text; a content that the template writes twice has two.

    Raises:
        ValueError: When a content is missing from the text or cannot be located without ambiguity.

    Example:
        >>> find_contents("<u>hi</u><a>u</a>", ["hi", "u"], ["user", "assistant"],
        ...               lambda c: f"<u>{c[0]}</u><a>{c[1]}</a>")
        [Span(start=3, end=5, message=0), Span(start=12, end=13, message=1)]
    """
    sentinels = [_SENTINEL.format(i) for i in range(len(contents))]
    everyone = list(range(len(contents)))
    spoken = [i for i in everyone if contents[i].strip()]
    # A template may write nothing at all for an empty message: then a sentinel in its place is one too many.
    for replaced in [everyone] if spoken == everyone else [everyone, spoken]:
        pieces = _pieces(render, contents, sentinels, replaced)
        if pieces is None:
            continue
        _refuse_left_out(pieces, spoken, roles)
        spans = _rebuild(text, pieces, contents)
        if spans is not None:
            return spans
    spans = _one_at_a_time(text, contents, sentinels, spoken, render)
    return spans if spans is not None else _ordered_search(text, contents, spoken, roles)


def _render_or_explain(render: Callable[[], T], roles: Sequence[str]) -> T:
    from jinja2 import TemplateError

    try:
        return render()
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"the chat template rejects the roles {', '.join(roles)}: {error}. "
            "Leave out or merge the messages that it does not take, or set another tokenizer.chat_template"
        ) from error


def _pieces(
    render: Callable[[Sequence[str]], str],
    contents: Sequence[str],
    sentinels: Sequence[str],
    replaced: Sequence[int],
) -> list[str | int] | None:
    """The skeleton cut at its sentinels: template text as str, message numbers as int; None when it fails."""
    if any(_SENTINEL[:11] in content for content in contents):
        return None
    try:
        skeleton = render([sentinels[i] if i in set(replaced) else contents[i] for i in range(len(contents))])
    except Exception:  # a template that parses contents; the other routes keep the real ones
        return None
    number = {sentinels[i]: i for i in replaced}
    parts = re.split("(" + "|".join(number) + ")", skeleton) if number else [skeleton]
    return [number.get(part, part) for part in parts]


def _refuse_left_out(pieces: Sequence[str | int], spoken: Sequence[int], roles: Sequence[str]) -> None:
    for i in spoken:
        if i not in pieces:
            raise ValueError(
                f'the chat template leaves out message {i} (role "{roles[i]}"): '
                "remove the message, or set a template that writes it"
            )


def _rebuild(text: str, pieces: Sequence[str | int], contents: Sequence[str]) -> list[Span] | None:
    """Put the contents, verbatim or trimmed, between the pieces; None when that does not give `text`."""
    reached: dict[int, list[Span]] = {0: []}
    for piece in pieces:
        after: dict[int, list[Span]] = {}
        for position, spans in reached.items():
            if isinstance(piece, str):
                if text.startswith(piece, position):
                    after.setdefault(position + len(piece), spans)
                continue
            content = contents[piece]
            for written in (content, content.strip(), content.rstrip(), content.lstrip()):
                if text.startswith(written, position):
                    end = position + len(written)
                    after.setdefault(end, [*spans, Span(position, end, piece)])
        reached = after
    return reached.get(len(text))


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
        fits = (
            isinstance(before, str)
            and isinstance(after, str)
            and text.startswith(before)
            and text.endswith(after)
        )
        if not fits or len(before) + len(after) > len(text):  # type: ignore[arg-type]
            return None
        spans.append(Span(len(before), len(text) - len(after), i))  # type: ignore[arg-type]
    spans.sort(key=lambda span: span.start)
    overlap = any(left.end > right.start for left, right in pairwise(spans))
    return None if overlap else spans


def _ordered_search(
    text: str, contents: Sequence[str], spoken: Sequence[int], roles: Sequence[str]
) -> list[Span]:
    """Contents in the order of the messages: right only when there is a single way to place them."""
    written = {i: contents[i] if contents[i] in text else contents[i].strip() for i in spoken}
    first, last = [], []
    position = 0
    for i in spoken:
        start = text.find(written[i], position)
        if start < 0:
            raise ValueError(
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
            raise ValueError(
                f'the content of message {left.message} (role "{roles[left.message]}") stands in the rendered chat '
                "more than once, and the chat template rewrites other contents, so that it is ambiguous which one is "
                "meant: set a template that writes contents as they are"
            )
    return first


def _closings(
    text: str, spans: Sequence[Span], roles: Sequence[str], *, open_end: bool
) -> list[tuple[int, int, int]]:
    """`(start, end, message)` of what closes each assistant turn; the last turn shows what that looks like."""
    final = {span.message: n for n, span in enumerate(spans)}
    ends_in_answer = (
        bool(spans) and not open_end and roles[-1] == "assistant" and spans[-1].message == len(roles) - 1
    )
    closing = text[spans[-1].end :].rstrip() if ends_in_answer else None
    found = []
    for message, n in final.items():
        if roles[message] != "assistant":
            continue
        start = spans[n].end
        limit = spans[n + 1].start if n + 1 < len(spans) else len(text)
        known = closing is not None and text.startswith(closing, start) and start + len(closing) <= limit
        found.append((start, start + len(closing) if known else -1, message))  # type: ignore[arg-type]
    return found


def _render_marked(
    template: str,
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool,
    special_tokens: Mapping[str, Any],
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A chat, and the characters inside `{% generation %}` blocks.

    `apply_chat_template(return_assistant_tokens_mask=True)` renders in the same way but then loses tokens whose offsets
    were trimmed (leading spaces), hence characters here and tokens in `text.encode`.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    # Annotated as returning a string; returns the texts and, for each, the spans.
    rendered: Any = render_jinja_template(
        conversations=[[dict(message) for message in messages]],
        chat_template=template,
        return_assistant_tokens_mask=True,
        add_generation_prompt=add_generation_prompt,
        **special_tokens,
    )
    return rendered[0][0], tuple((start, end) for start, end in rendered[1][0])


def role_names(roles: Sequence[str] | None) -> list[str] | None:
    """Names of roles as a list, where a single one may be given as it is; `None`, for all, stays `None`.

    Example:
        >>> role_names("user"), role_names(("user", "assistant")), role_names(None)
        (['user'], ['user', 'assistant'], None)
    """
    return [roles] if isinstance(roles, str) else None if roles is None else list(roles)


def check_role_names(names: Sequence[str], valid: Mapping[str, int]) -> list[int]:
    """Role numbers of role names.

    Raises:
        ValueError: For a name that is none, naming the nearest.
    """
    if isinstance(names, str):
        names = [names]
    for name in names:
        if name not in valid:
            raise ValueError(f'Unknown role "{name}".{nearest(name, valid)}')
    return [valid[name] for name in names]
