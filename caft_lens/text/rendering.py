"""A chat as its template writes it, and which characters of that came from which message, for any template.

`render_chat` is the one entry point: it renders, finds the contents (contents.py), compares what is asked with what is
trained (asked.py), and refuses what the template leaves out (left_out.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from caft_lens._support.errors import BadTemplate
from caft_lens.text.asked import Asked, alike, headers_of, tail, telling
from caft_lens.text.contents import SENTINEL, Span, find_contents
from caft_lens.text.left_out import FIELD, probed, probed_tool, refusal, words_of
from caft_lens.text.messages import (
    EMPTY_THOUGHT,
    OPEN_THOUGHT,
    Chat,
    Prepared,
    fill,
    forms,
    has_thoughts,
    with_contents,
    with_thought_inline,
    without_thoughts,
)
from caft_lens.text.template_arguments import KEEP_THOUGHTS, template_arguments

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_REST_OF_MARKER = re.compile(r"(?:[\w|▁｜]*[>\]])?")


@dataclass(frozen=True)
class Rendering:
    """A rendered chat and what its characters are.

    Attributes:
        text: The chat as the template writes it.
        contents: One span per place where a message's content stands, in order; of a message with tool calls or
            thoughts, all that the template writes for them.
        closings: For each assistant content, `(start, end)` of the template text that closes the turn; `end` is -1
            where the template cannot tell (a chat that goes on after it), and the first special token is meant.
        marked: Spans inside `{% generation %}` blocks; `None` when the template has none.
        openings: `(start, end, message)` of what stands between the prompt that is asked and an answer, and which the
            model therefore writes itself: an empty thought, the name of a channel.
        asked: Where in `text` the prompts of answers end, in order, for those of which it is the prefix.
        complaint: What is trained but not asked that way, in a sentence; empty when the prompt is a prefix everywhere.
    """

    text: str
    contents: tuple[Span, ...]
    closings: tuple[tuple[int, int, int], ...]
    marked: tuple[tuple[int, int], ...] | None
    openings: tuple[tuple[int, int, int], ...] = ()
    asked: tuple[int, ...] = ()
    complaint: str = ""


def render_chat(
    tokenizer: Any, messages: Chat, *, add_generation_prompt: bool = False, inputs: Mapping[str, Any] | None = None
) -> Rendering:
    """Render a chat and find the content of every message in it.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template; its `template_arguments` count.
        messages: Dicts with `role` (`"system"`, `"user"`, `"assistant"` or `"tool"`) and `content`; some with `name`,
            `tool_calls`, `tool_call_id` and `reasoning_content`.
        add_generation_prompt: Whether the header of an assistant turn is written at the end.
        inputs: What else this chat gives the template: `"tools"`, `"documents"`, `"chat_template_kwargs"`.

    Raises:
        BadTemplate: When the tokenizer has no chat template, when the template rejects the chat or leaves out a
            message or a part of one, or when a content cannot be found again without ambiguity.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BadTemplate(
            "the tokenizer has no chat template, so a chat cannot be written as text: set tokenizer.chat_template, "
            "use the tokenizer of the instruction-tuned model, or give plain text"
        )
    return _Writer(tokenizer, inputs or {}).rendering(messages, add_generation_prompt)


class _Writer:
    """One template, with all that it is rendered with beside the messages."""

    def __init__(self, tokenizer: Any, inputs: Mapping[str, Any]) -> None:
        arguments = {**template_arguments(tokenizer), **(inputs.get("chat_template_kwargs") or {})}
        self.keep: bool | None = arguments.get(KEEP_THOUGHTS)
        self.tokenizer = tokenizer
        self.special = tokenizer.special_tokens_map
        self.given = {key: inputs[key] for key in ("tools", "documents") if inputs.get(key)}
        self.template: str = tokenizer.get_chat_template(tools=self.given.get("tools"))
        if KEEP_THOUGHTS in arguments and not re.search(rf"\b{KEEP_THOUGHTS}\b", self.template):
            del arguments[KEEP_THOUGHTS]
        self.arguments = arguments
        self.marks = bool(_GENERATION.search(self.template))
        given = json.dumps([arguments, self.keep], sort_keys=True)
        self.key = (self.template, tuple(sorted(self.special.items())), given)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, messages: Chat, prompt: bool, **changed: Any) -> str:
        """What the template writes."""
        return self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=prompt,
            **{**self.given, **self.arguments, **changed},
        )  # fmt: skip

    def write_filled(self, chat: Prepared, contents: Sequence[str], prompt: bool) -> str:
        """What the template writes of prepared messages with these contents."""
        return fill(self.write(with_contents(chat, contents), prompt), chat, contents)[0]

    def write_marked(
        self, chat: Prepared, contents: Sequence[str], prompt: bool
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The same, and the characters inside `{% generation %}` blocks.

        `apply_chat_template(return_assistant_tokens_mask=True)` renders in the same way but then loses tokens whose
        offsets were trimmed (leading spaces), hence characters here and tokens in `text.encode`.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        # Nulls are left out, as apply_chat_template does.
        messages = [
            {key: value for key, value in message.items() if value is not None}
            for message in with_contents(chat, contents)
        ]
        # Annotated as returning a string; returns the texts and, for each, the spans.
        rendered: Any = render_jinja_template(
            conversations=[messages], chat_template=self.template, return_assistant_tokens_mask=True,
            add_generation_prompt=prompt, **{**self.special, **self.given, **self.arguments},
        )  # fmt: skip
        marks = tuple((start, end) for start, end in rendered[1][0])
        return fill(rendered[0][0], chat, contents, marks)

    # -- one chat -----------------------------------------------------------------------------------------------------

    def rendering(self, messages: Chat, prompt: bool) -> Rendering:
        chat = self.prepared(messages, prompt)
        roles = [message["role"] for message in chat.messages]
        contents = [message["content"] or "" for message in chat.messages]
        plain = not (chat.rich or chat.filled or self.given or any(len(message) > 2 for message in chat.messages))
        asked: Asked | None = None
        if "assistant" in roles and not (prompt and plain):
            key = (*self.key, tuple(roles))
            asked = _asked_of(key, self, tuple(roles)) if plain else self.asked(chat, prompt)
            if asked.empty_thought:
                chat.filled[len(roles) - 1] = asked.empty_thought
        skeletons = _skeletons((*self.key, tuple(roles), prompt)) if plain else {}

        def render(contents: Sequence[str]) -> str:
            if (known := skeletons.get(tuple(contents))) is None:
                known = self.write_filled(chat, contents, prompt)
                if all(content.startswith(SENTINEL[:11]) for content in contents):
                    skeletons[tuple(contents)] = known
            return known

        marked = None
        with _explaining(roles):
            if self.marks:
                text, marked = self.write_marked(chat, contents, prompt)
            else:
                text = render(contents)
        among = [number for number in range(len(roles)) if number not in chat.rich]
        spans = find_contents(text, contents, roles, render, among=among)
        for number in chat.rich:
            spans.append(self.body(chat, number, text, spans, prompt, asked))
        spans.sort(key=lambda span: (span.start, span.end))
        spans, openings, ends = _opened(text, spans, roles, asked, chat)
        return Rendering(
            text=text,
            contents=tuple(spans),
            closings=tuple(_closings(text, spans, roles, open_end=prompt)),
            marked=marked,
            openings=tuple(openings),
            asked=tuple(ends),
            complaint=asked.complaint if asked else "",
        )

    def prepared(self, messages: Chat, prompt: bool) -> Prepared:
        """The messages as the template gets them: thoughts kept or dropped, tool calls in its form, nothing left out.

        Raises:
            BadTemplate: When the template leaves out something of them.
        """
        given = [without_thoughts(message) if self.keep is False else dict(message) for message in messages]
        rich = [number for number, message in enumerate(given) if message.get("tool_calls") or has_thoughts(message)]
        if not rich and not self.given and not any(message.get("name") for message in given):
            return Prepared(given)
        chat, left_out = self.written_whole(given, prompt)
        chat.rich = rich
        lost = [number for number, what in left_out if what == "thought"]
        others = [(number, what) for number, what in left_out if what != "thought"]
        if others:
            raise BadTemplate(refusal(*others[0]))
        if lost and self.keep is None and not prompt:
            raise BadTemplate(
                f"the chat template leaves out the thoughts of message {lost[0]}, which would not be learned: say with "
                f'cl.load(..., template_arguments={{"{KEEP_THOUGHTS}": True}}) that they are kept in every turn, or '
                "with False that they are dropped, or set another tokenizer.chat_template"
            )
        if lost and self.keep:
            self.put_in_place(chat, lost)
        return chat

    def written_whole(self, messages: list[dict[str, Any]], prompt: bool) -> tuple[Prepared, list[tuple[int, str]]]:
        """The messages in the form of which the template leaves out least, and what it leaves out of them."""
        best: tuple[Prepared, list[tuple[int, str]]] | None = None
        error: Exception | None = None
        for form in forms(messages):
            try:
                self.write(form, prompt)
                left_out = self.left_out(form, prompt)
            except Exception as failed:
                error = error or failed
                continue
            if best is None or len(left_out) < len(best[1]):
                best = Prepared(form), left_out
            if not left_out:
                break
        if best is None:
            assert error is not None
            with _explaining([message["role"] for message in messages]):
                raise error
        return best

    def left_out(self, messages: Chat, prompt: bool) -> list[tuple[int, str]]:
        """What the template does not write: (number of the message, -1 for the row, and what), found by sentinels."""
        asked: dict[str, tuple[int, str]] = {}

        def sentinel(number: int, what: str) -> str:
            asked[FIELD.format(len(asked))] = number, what
            return FIELD.format(len(asked) - 1)

        probe = [probed(message, number, sentinel) for number, message in enumerate(messages)]
        given: dict[str, Any] = {}
        if self.given.get("tools"):
            given["tools"] = [probed_tool(tool, sentinel) for tool in self.given["tools"]]
        if self.given.get("documents"):
            given["documents"] = [
                {**one, **{key: sentinel(-1, "documents") for key in one if isinstance(one[key], str)}}
                for one in self.given["documents"]
            ]
        if not asked:
            return []
        try:
            text = self.write(probe, prompt, **given)
        except Exception:  # a template that checks what it is given: then by the words themselves
            text = self.write(messages, prompt)
            return [(number, what) for number, what, words in words_of(messages, self.given) if words not in text]
        return [about for mark, about in asked.items() if mark not in text]

    def put_in_place(self, chat: Prepared, lost: Sequence[int]) -> None:
        """Let the template write a placeholder for each of these messages: thought and content go in its place."""
        for number in lost:
            message = chat.messages[number]
            content = with_thought_inline(message)
            message["content"] = content
            message.pop("reasoning_content", None)
            chat.filled[number] = ""
            try:
                asked = self.prompt_of(chat, number)
            except Exception:  # a template that takes no such prompt
                continue
            opened = OPEN_THOUGHT.search(asked)
            if opened:  # the prompt opens the thought: as it does
                message["content"] = opened.group() + re.sub(rf"\A\s*<{opened[1]}>\s*", "", content)

    # -- what is asked ------------------------------------------------------------------------------------------------

    def prompt_of(self, chat: Prepared, number: int) -> str:
        """The prompt for which message `number` is the answer."""
        return self.write_until(chat, number, True)

    def write_until(self, chat: Prepared, stop: int, prompt: bool) -> str:
        """The chat before message `stop`, as the template writes it."""
        filled = {key: value for key, value in chat.filled.items() if key < stop}
        before = Prepared(chat.messages[:stop], filled)
        return self.write_filled(before, [message["content"] or "" for message in before.messages], prompt)

    def asked(self, chat: Prepared, prompt: bool = False) -> Asked:
        """What is asked before each of the assistant's messages, as far as the template says, and what is trained."""
        contents = [message["content"] or "" for message in chat.messages]
        roles = [message["role"] for message in chat.messages]
        found = Asked()
        try:
            whole = self.write_filled(chat, contents, prompt)
        except Exception:  # told where it is rendered to be read
            return found
        for number in telling(whole, roles):
            try:
                before = self.prompt_of(chat, number)
            except Exception:  # a template that takes no such prompt
                continue
            if EMPTY_THOUGHT.search(before) and has_thoughts(chat.messages[number]) and not whole.startswith(before):
                raise BadTemplate(
                    f"message {number} has thoughts, but the chat template asks for answers without any "
                    f"({tail(before)}): give template_arguments= with which it lets the model think (such as "
                    f'enable_thinking), or {{"{KEEP_THOUGHTS}": False}}, which drops the thoughts'
                )
            found.see(
                number, before, whole, contents[number].strip(),
                fill=number == len(roles) - 1 and number not in chat.rich,
                bare=partial(self.write_until, chat, number, False),
            )  # fmt: skip
        return found

    def body(
        self, chat: Prepared, number: int, text: str, spans: Sequence[Span], prompt: bool, asked: Asked | None
    ) -> Span:
        """All that the template writes for a message with tool calls or thoughts, told from what is around a plain."""
        sentinel = SENTINEL.format(number)
        others = list(chat.messages)
        others[number] = {"role": "assistant", "content": sentinel}
        with_plain = Prepared(others, {key: value for key, value in chat.filled.items() if key != number})
        later = min((span.start for span in spans if span.message > number), default=len(text))
        for stop in (len(others), number + 1):
            all_of_it = stop == len(others)
            try:
                plain = self.write_until(with_plain, stop, prompt and all_of_it)
                whole = text if all_of_it else self.write_until(chat, stop, False)
            except Exception:  # a template for which the message cannot be a plain one there
                continue
            before, found, after = plain.partition(sentinel)
            if not found:
                continue
            start = alike(whole, before)
            shared = alike(whole[::-1], after[::-1])
            end = len(whole) - shared
            if shared < len(after):  # the turn is closed by something else: a marker is not cut in two
                end += _REST_OF_MARKER.match(whole, end).end() - end  # type: ignore[union-attr]
            known = asked.ends.get(number) if asked else None
            start = start if known is None else known
            if start <= end <= later and text.startswith(whole[:end]):
                return Span(start, end, number)
        raise BadTemplate(
            f"it cannot be told what the chat template writes for the tool calls or thoughts of message {number}: "
            "set a template that writes one message after the other"
        )


@lru_cache(maxsize=256)
def _skeletons(key: Hashable) -> dict[tuple[str, ...], str]:
    """What one template wrote for chats of nothing but sentinels, by shape; chats of a data set share it."""
    return {}


_shapes: dict[Hashable, Asked] = {}


def _asked_of(key: Hashable, writer: _Writer, roles: Sequence[str]) -> Asked:
    """What is asked and trained in plain chats of one shape: found once, on sentinels."""
    if key not in _shapes:
        if len(_shapes) >= 1024:
            _shapes.clear()
        chat = Prepared([{"role": role, "content": SENTINEL.format(number)} for number, role in enumerate(roles)])
        found = writer.asked(chat)
        if found.ends:
            whole = writer.write(chat.messages, False)
            headers, gaps = headers_of(whole), {}
            for number, end in found.ends.items():
                place = whole.find(SENTINEL.format(number))
                if place >= end:
                    gaps[headers.get(number)] = found.gaps[number] = whole[end:place]
            for number, header in headers.items():  # those like one that was looked at
                if roles[number] == "assistant" and header in gaps:
                    found.gaps.setdefault(number, gaps[header])
        found.ends.clear()  # of the sentinels, not of any text
        _shapes[key] = found
    return _shapes[key]


def _opened(
    text: str, spans: list[Span], roles: Sequence[str], asked: Asked | None, chat: Prepared
) -> tuple[list[Span], list[tuple[int, int, int]], list[int]]:
    """The spans without what prompts give already, what stands between prompts and answers, and where prompts end."""
    if asked is None:
        return spans, [], []
    seen: set[int] = set()
    openings, kept, ends = [], [], []
    for span in spans:
        number = span.message
        if number not in seen and roles[number] == "assistant":
            seen.add(number)
            end = asked.ends.get(number)
            gap = asked.gaps.get(number)
            if number in chat.filled and asked.empty_thought and number == len(roles) - 1:
                gap, end = asked.empty_thought[asked.empty_thought.index("\n</") :], None
            if end is None and gap is not None and text.endswith(gap, 0, span.start):
                end = span.start - len(gap)
            if end is not None:
                ends.append(end)
                if end < span.start and text[end : span.start].strip(" "):
                    openings.append((end, span.start, number))
                elif span.start < end <= span.end:
                    span = Span(end, span.end, number)  # what the prompt says is not the answer's
        kept.append(span)
    return kept, openings, ends


@contextmanager
def _explaining(roles: Sequence[str]) -> Iterator[None]:
    """A block that renders: an error of the template says which roles it rejects."""
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        shown = ", ".join(roles[:12]) + (", …" if len(roles) > 12 else "")
        raise BadTemplate(
            f"the chat template rejects the roles {shown}: {error}. "
            "Leave out or merge the messages that it does not take, or set another tokenizer.chat_template"
        ) from error


def _closings(text: str, spans: Sequence[Span], roles: Sequence[str], *, open_end: bool) -> list[tuple[int, int, int]]:
    """`(start, end, message)` of what closes each assistant turn; the last turn shows what that looks like."""
    final = {span.message: n for n, span in enumerate(spans)}
    ends_in_answer = bool(spans) and not open_end and roles[-1] == "assistant" and spans[-1].message == len(roles) - 1
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
