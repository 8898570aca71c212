"""Which characters of a rendered chat came from which message, for any chat template.

A template is a program; nothing in its output says where a message begins. So the chat is rendered twice:
as it is, and as a *skeleton* with every content replaced by a sentinel. The skeleton split at its sentinels,
with the contents put back, must rebuild the real rendering; then the spans are exact, whatever the contents
look like. Templates that rewrite contents are read one message at a time, and at last by ordered search;
what stays ambiguous is an error. Messages with tool calls or thoughts are told from the template by rendering the chat with a plain
message in their place, and whatever the template leaves out of them is an error.

Training and asking meet in the prompt: what is asked (the chat so far, with the header of an answer) is rendered too, for every answer, and
where it is the beginning of what is trained, all that follows it is the model's to write. `render_chat` is the one entry point.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, TypeVar

from caft_lens._support.errors import BadArgument, BadTemplate, nearest
from caft_lens.text.template_arguments import KEEP_THOUGHTS, template_arguments

T = TypeVar("T")

# Digits survive upper-casing, trimming and JSON escaping; the pattern is not one that text contains.
_SENTINEL = "90817263540{:06d}04536271809"
_SENTINELS = re.compile(r"90817263540(\d{6})04536271809")
_FILLED = "80716253490{:06d}94352617080"
_FIELD = "70615243980{:06d}89342516070"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>(.*?)</\1>", re.DOTALL)
_REST_OF_MARKER = re.compile(r"(?:[\w|▁｜]*[>\]])?")
_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>")
_OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>\s*\Z")
_EMPTY_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>(\s*)</\1>(\s*)\Z")
_REST_OF_THOUGHT = re.compile(r"\A((?:(?!<think).)*?)</(think|thinking|thought|reasoning)>", re.DOTALL)

Chat = Sequence[Mapping[str, Any]]


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
        contents: One span per place where a message's content stands, in order; of a message with tool calls or thoughts, all that
            the template writes for them.
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
    tokenizer: Any,
    messages: Chat,
    *,
    add_generation_prompt: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> Rendering:
    """Render a chat and find the content of every message in it.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template; its `template_arguments` count.
        messages: Dicts with `role` (`"system"`, `"user"`, `"assistant"` or `"tool"`) and `content`; some with `name`, `tool_calls`,
            `tool_call_id` and `reasoning_content`.
        add_generation_prompt: Whether the header of an assistant turn is written at the end.
        inputs: What else this chat gives the template: `"tools"`, `"documents"`, `"chat_template_kwargs"`.

    Raises:
        ValueError: When the tokenizer has no chat template, when the template rejects the chat or leaves out a
            message or a part of one, or when a content cannot be found again without ambiguity.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BadTemplate(
            "the tokenizer has no chat template, so a chat cannot be written as text: set tokenizer.chat_template, "
            "use the tokenizer of the instruction-tuned model, or give plain text"
        )
    return _Writer(tokenizer, inputs or {}).rendering(messages, add_generation_prompt)


@dataclass
class _Prepared:
    """Messages as the template gets them.

    Attributes:
        messages: What the template gets.
        filled: Messages of which the template gets a placeholder, and what stands before their content in its place.
        rich: Messages that are more than their content: with tool calls or thoughts that the template writes its own way.
    """

    messages: list[dict[str, Any]]
    filled: dict[int, str] = field(default_factory=dict)
    rich: list[int] = field(default_factory=list)


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
        self.marks = _marks(self.template)
        self.key = (
            self.template,
            tuple(sorted(self.special.items())),
            json.dumps([arguments, self.keep], sort_keys=True),
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, messages: Chat, prompt: bool, **changed: Any) -> str:
        """What the template writes."""
        return self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=prompt,
            **{**self.given, **self.arguments, **changed},
        )  # fmt: skip

    def write_filled(self, chat: _Prepared, contents: Sequence[str], prompt: bool) -> str:
        """What the template writes of prepared messages with these contents."""
        return _fill(self.write(_with_contents(chat, contents), prompt), chat, contents)[0]

    def write_marked(
        self, chat: _Prepared, contents: Sequence[str], prompt: bool
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The same, and the characters inside `{% generation %}` blocks.

        `apply_chat_template(return_assistant_tokens_mask=True)` renders in the same way but then loses tokens whose offsets
        were trimmed (leading spaces), hence characters here and tokens in `text.encode`.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        # Annotated as returning a string; returns the texts and, for each, the spans.
        rendered: Any = render_jinja_template(
            # Nulls are left out, as apply_chat_template does.
            conversations=[
                [
                    {key: value for key, value in message.items() if value is not None}
                    for message in _with_contents(chat, contents)
                ]
            ],
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=prompt,
            **{**self.special, **self.given, **self.arguments},
        )
        marks = tuple((start, end) for start, end in rendered[1][0])
        return _fill(rendered[0][0], chat, contents, marks)

    # -- one chat -----------------------------------------------------------------------------------------------------

    def rendering(self, messages: Chat, prompt: bool) -> Rendering:
        chat = self.prepared(messages, prompt)
        roles = [message["role"] for message in chat.messages]
        contents = [message["content"] or "" for message in chat.messages]
        plain = not (
            chat.rich or chat.filled or self.given or any(len(message) > 2 for message in chat.messages)
        )
        asked: _Asked | None = None
        if "assistant" in roles and not (prompt and plain):
            key = (*self.key, tuple(roles))
            asked = _asked_of(key, self, tuple(roles)) if plain else self.asked(chat, prompt)
            if asked.empty_thought:
                chat.filled[len(roles) - 1] = asked.empty_thought
        skeletons = _skeletons((*self.key, tuple(roles), prompt)) if plain else {}

        def render(contents: Sequence[str]) -> str:
            if (known := skeletons.get(tuple(contents))) is None:
                known = self.write_filled(chat, contents, prompt)
                if all(content.startswith(_SENTINEL[:11]) for content in contents):
                    skeletons[tuple(contents)] = known
            return known

        marked = None
        if self.marks:
            text, marked = _render_or_explain(lambda: self.write_marked(chat, contents, prompt), roles)
        else:
            text = _render_or_explain(lambda: render(contents), roles)
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

    def prepared(self, messages: Chat, prompt: bool) -> _Prepared:
        """The messages as the template gets them: thoughts kept or dropped, tool calls in the form that it takes, nothing left out.

        Raises:
            BadTemplate: When the template leaves out something of them.
        """
        given = [_without_thoughts(message) if self.keep is False else dict(message) for message in messages]
        rich = [
            number for number, message in enumerate(given) if message.get("tool_calls") or _thoughts(message)
        ]
        if not rich and not self.given and not any(message.get("name") for message in given):
            return _Prepared(given)
        chat, left_out = self.written_whole(given, prompt)
        chat.rich = rich
        lost = [number for number, what in left_out if what == "thought"]
        others = [(number, what) for number, what in left_out if what != "thought"]
        if others:
            raise BadTemplate(_left_out(*others[0]))
        if lost and self.keep is None and not prompt:
            raise BadTemplate(
                f"the chat template leaves out the thoughts of message {lost[0]}, which would not be learned: say with "
                f'cl.load(..., template_arguments={{"{KEEP_THOUGHTS}": True}}) that they are kept in every turn, or with False that they are '
                "dropped, or set another tokenizer.chat_template"
            )
        if lost and self.keep:
            self.put_in_place(chat, lost)
        return chat

    def written_whole(
        self, messages: list[dict[str, Any]], prompt: bool
    ) -> tuple[_Prepared, list[tuple[int, str]]]:
        """The messages in the form of which the template leaves out least, and what it leaves out of them."""
        best: tuple[_Prepared, list[tuple[int, str]]] | None = None
        error: Exception | None = None
        for form in _forms(messages):
            try:
                self.write(form, prompt)
                left_out = self.left_out(form, prompt)
            except Exception as failed:
                error = error or failed
                continue
            if best is None or len(left_out) < len(best[1]):
                best = _Prepared(form), left_out
            if not left_out:
                break
        if best is None:
            assert error is not None
            _render_or_explain(_raising(error), [message["role"] for message in messages])
            raise error
        return best

    def left_out(self, messages: Chat, prompt: bool) -> list[tuple[int, str]]:
        """What the template does not write: (number of the message, what), each found by a sentinel in its place; -1 is the row."""
        asked: dict[str, tuple[int, str]] = {}

        def sentinel(number: int, what: str) -> str:
            asked[_FIELD.format(len(asked))] = number, what
            return _FIELD.format(len(asked) - 1)

        probe = [_probed(message, number, sentinel) for number, message in enumerate(messages)]
        given: dict[str, Any] = {}
        if self.given.get("tools"):
            given["tools"] = [_probed_tool(tool, sentinel) for tool in self.given["tools"]]
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
            return [
                (number, what) for number, what, words in _words(messages, self.given) if words not in text
            ]
        return [about for mark, about in asked.items() if mark not in text]

    def put_in_place(self, chat: _Prepared, lost: Sequence[int]) -> None:
        """Let the template write a placeholder for each of these messages, and their thought and content in its place."""
        for number in lost:
            message = chat.messages[number]
            content = _inline(message)
            message["content"] = content
            message.pop("reasoning_content", None)
            chat.filled[number] = ""
            try:
                asked = self.prompt_of(chat, number)
            except Exception:  # a template that takes no such prompt
                continue
            opened = _OPEN_THOUGHT.search(asked)
            if opened:  # the prompt opens the thought: as it does
                message["content"] = opened.group() + re.sub(rf"\A\s*<{opened[1]}>\s*", "", content)

    # -- what is asked ------------------------------------------------------------------------------------------------

    def prompt_of(self, chat: _Prepared, number: int) -> str:
        """The prompt for which message `number` is the answer."""
        before = _Prepared(
            chat.messages[:number], {key: value for key, value in chat.filled.items() if key < number}
        )
        return self.write_filled(before, [message["content"] or "" for message in before.messages], True)

    def bare(self, chat: _Prepared, number: int) -> str:
        """The chat before message `number`, without asking for an answer."""
        before = _Prepared(
            chat.messages[:number], {key: value for key, value in chat.filled.items() if key < number}
        )
        return self.write_filled(before, [message["content"] or "" for message in before.messages], False)

    def asked(self, chat: _Prepared, prompt: bool = False) -> _Asked:
        """What is asked before each of the assistant's messages, as far as the template says, and what is trained there."""
        contents = [message["content"] or "" for message in chat.messages]
        roles = [message["role"] for message in chat.messages]
        found = _Asked()
        try:
            whole = self.write_filled(chat, contents, prompt)
        except Exception:  # told where it is rendered to be read
            return found
        for number in _telling(whole, roles):
            try:
                before = self.prompt_of(chat, number)
            except Exception:  # a template that takes no such prompt
                continue
            if (
                _EMPTY_THOUGHT.search(before)
                and _thoughts(chat.messages[number])
                and not whole.startswith(before)
            ):
                raise BadTemplate(
                    f"message {number} has thoughts, but the chat template asks for answers without any ({_tail(before)}): give "
                    f'template_arguments= with which it lets the model think (such as enable_thinking), or {{"{KEEP_THOUGHTS}": False}}, which '
                    "drops the thoughts"
                )
            found.see(
                number, before, whole, contents[number].strip(),
                fill=number == len(roles) - 1 and number not in chat.rich, bare=partial(self.bare, chat, number),
            )  # fmt: skip
        return found

    def body(
        self,
        chat: _Prepared,
        number: int,
        text: str,
        spans: Sequence[Span],
        prompt: bool,
        asked: _Asked | None,
    ) -> Span:
        """All that the template writes for a message with tool calls or thoughts, told from what it writes around a plain one."""
        sentinel = _SENTINEL.format(number)
        others = list(chat.messages)
        others[number] = {"role": "assistant", "content": sentinel}
        filled = {key: value for key, value in chat.filled.items() if key != number}
        later = min((span.start for span in spans if span.message > number), default=len(text))
        for stop in (len(others), number + 1):
            cut = _Prepared(others[:stop], {key: value for key, value in filled.items() if key < stop})
            here = _Prepared(
                chat.messages[:stop], {key: value for key, value in chat.filled.items() if key < stop}
            )
            try:
                plain = self.write_filled(
                    cut,
                    [message["content"] or "" for message in cut.messages],
                    prompt and stop == len(others),
                )
                whole = (
                    text
                    if stop == len(others)
                    else self.write_filled(here, [m["content"] or "" for m in here.messages], False)
                )
            except Exception:  # a template for which the message cannot be a plain one there
                continue
            before, found, after = plain.partition(sentinel)
            if not found:
                continue
            start = _alike(whole, before)
            shared = _alike(whole[::-1], after[::-1])
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


@dataclass
class _Asked:
    """What is asked before the answers of a chat, compared with what is trained.

    Attributes:
        gaps: Number of an answer's message -> what stands between the prompt and the answer's first character, as the template
            writes it: known for plain messages whose contents are sentinels.
        ends: Number of an answer's message -> where the prompt ends in what is trained.
        empty_thought: What the last answer has to begin with so that the prompt, which opens a thought, is its prefix.
        complaint: What differs where the prompt is no prefix.
    """

    gaps: dict[int, str] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    empty_thought: str = ""
    complaint: str = ""

    def see(
        self, number: int, prompt: str, whole: str, content: str, *, fill: bool, bare: Callable[[], str]
    ) -> None:
        """Take in one answer.

        Args:
            number: Its message.
            prompt: What is asked.
            whole: What is trained.
            content: What the answer says, as far as that tells where it begins.
            fill: Whether an empty thought may be put before it.
            bare: Renders the chat before the answer without asking for one.
        """
        if whole.startswith(prompt):
            place = whole.find(content, len(prompt)) if content else -1
            header = whole[len(prompt) : place] if place >= 0 else None
            try:
                ignored = header != "" and bare() == prompt
            except Exception:  # then the template knows the difference
                ignored = False
            if not ignored or (header is not None and not header.strip(" ")):
                self.ends[number] = len(prompt)
            elif header is not None:
                self.complain(
                    f"the chat template writes no header of an answer when it is asked for one (add_generation_prompt), so that answer "
                    f"{number} is trained after {_tail(prompt + header)} and asked for after {_tail(prompt)}: set a template that does"
                )
            return
        opened = _OPEN_THOUGHT.search(prompt)
        if opened and fill and whole.startswith(prompt[: opened.start()]):
            self.empty_thought = opened.group() + f"\n</{opened[1]}>\n\n"
            self.complain(
                f"the chat template asks for answers that begin with a thought ({_tail(prompt)}), and the data has none: an empty one is "
                f'trained before the last answer. Give thoughts in the data, with template_arguments={{"{KEEP_THOUGHTS}": True}}, or set '
                "another tokenizer.chat_template"
            )
            return
        at = _alike(prompt, whole)
        self.complain(
            f"what is trained is not what is asked: answer {number} is asked for after {_tail(prompt)}, and trained after "
            f"{_tail(whole[: at + 24])}. Give template_arguments= with which the chat template writes both alike "
            f'(such as enable_thinking), or "{KEEP_THOUGHTS}", or set another tokenizer.chat_template'
        )

    def complain(self, sentence: str) -> None:
        self.complaint = self.complaint or sentence


@lru_cache(maxsize=64)
def _marks(template: str) -> bool:
    """Whether a template says what the model generates."""
    return bool(_GENERATION.search(template))


@lru_cache(maxsize=256)
def _skeletons(key: Hashable) -> dict[tuple[str, ...], str]:
    """What one template wrote for chats of one shape with nothing but sentinels in them; chats of a data set share it."""
    return {}


_shapes: dict[Hashable, _Asked] = {}


def _asked_of(key: Hashable, writer: _Writer, roles: Sequence[str]) -> _Asked:
    """What is asked and trained in plain chats of one shape: found once, on sentinels."""
    if key not in _shapes:
        if len(_shapes) >= 1024:
            _shapes.clear()
        chat = _Prepared(
            [{"role": role, "content": _SENTINEL.format(number)} for number, role in enumerate(roles)]
        )
        found = writer.asked(chat)
        if found.ends:
            whole = writer.write(chat.messages, False)
            headers, gaps = _headers(whole), {}
            for number, end in found.ends.items():
                place = whole.find(_SENTINEL.format(number))
                if place >= end:
                    gaps[headers.get(number)] = found.gaps[number] = whole[end:place]
            for number, header in headers.items():  # those like one that was looked at
                if roles[number] == "assistant" and header in gaps:
                    found.gaps.setdefault(number, gaps[header])
        found.ends.clear()  # of the sentinels, not of any text
        _shapes[key] = found
    return _shapes[key]


def _headers(whole: str) -> dict[int, str]:
    """What a template writes between a message and the one before it, by the number of the message, of a chat of sentinels."""
    parts = _SENTINELS.split(whole)
    return {int(number): header for header, number in zip(parts[0::2], parts[1::2], strict=False)}


def _telling(whole: str, roles: Sequence[str]) -> list[int]:
    """The answers to look at: of those that have the same header in a chat of sentinels, the first and the last."""
    answers = [number for number, role in enumerate(roles) if role == "assistant" and number > 0]
    headers = _headers(whole)
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}
    for number in answers:
        header = headers.get(number, number)
        first.setdefault(header, number)
        last[header] = number
    return sorted({*first.values(), *last.values(), *answers[-1:]})


def _opened(
    text: str, spans: list[Span], roles: Sequence[str], asked: _Asked | None, chat: _Prepared
) -> tuple[list[Span], list[tuple[int, int, int]], list[int]]:
    """The spans without what the prompt gives already, what stands between the prompts and the answers, and where prompts end."""
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
                gap, end = asked.empty_thought[len(_opening(asked.empty_thought)) :], None
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


def _opening(filler: str) -> str:
    return filler[: filler.index("\n</")]


def _tail(text: str) -> str:
    text = _SENTINELS.sub("…", text)
    return repr(text if len(text) <= 40 else "…" + text[-40:])


def _alike(one: str, other: str) -> int:
    """How many characters two strings have in common at their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


# -- messages as the template gets them -------------------------------------------------------------------------------


def _with_contents(chat: _Prepared, contents: Sequence[str]) -> list[dict[str, Any]]:
    messages = []
    for number, (message, content) in enumerate(zip(chat.messages, contents, strict=True)):
        if number in chat.filled:
            content = _FILLED.format(number)
        # A message without words may have none at all beside its tool calls, which some templates tell apart.
        messages.append(
            message if message["content"] is None and not content else {**message, "content": content}
        )
    return messages


def _fill(
    text: str, chat: _Prepared, contents: Sequence[str], marks: tuple[tuple[int, int], ...] = ()
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The contents in place of their placeholders, and marked spans moved with them."""
    for number, before in chat.filled.items():
        place = _FILLED.format(number)
        content = before + contents[number]
        while (at := text.find(place)) >= 0:
            start, content = _joined(text[:at], content)
            shift = len(content) - (at + len(place) - start)
            marks = tuple(
                (s if s <= start else s + shift if s >= at else start, e if e <= at else e + shift)
                for s, e in marks
            )
            text = text[:start] + content + text[at + len(place) :]
    return text, marks


def _joined(before: str, content: str) -> tuple[int, str]:
    """Where in `before` a content goes that begins with a thought, and how: into the empty or opened thought that stands there."""
    thought = _THOUGHT.match(content)
    opened = _OPEN_THOUGHT.search(before)
    if opened and content.startswith(opened.group().rstrip()):
        return opened.start(), content
    empty = _EMPTY_THOUGHT.search(before)
    if not thought or not empty or empty[1] != thought[1]:
        return len(before), content
    if not thought[2].strip():
        return empty.start(), content
    half = len(empty[2]) // 2
    inner = f"{empty[2][:half]}{thought[2].strip()}{empty[2][half:]}"
    return empty.start(), f"<{empty[1]}>{inner}</{empty[1]}>{empty[3]}{content[thought.end() :].lstrip()}"


def _thoughts(message: Mapping[str, Any]) -> bool:
    """Whether an assistant's message holds a thought."""
    if message["role"] != "assistant":
        return False
    content = message["content"] or ""
    if message.get("reasoning_content") or not _END_OF_THOUGHT.search(content):
        return bool(message.get("reasoning_content"))
    rest = _REST_OF_THOUGHT.match(content)
    return any(found[2].strip() for found in _THOUGHT.finditer(content)) or bool(rest and rest[1].strip())


def _without_thoughts(message: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in message.items() if key != "reasoning_content"}
    content = rest["content"]
    if rest["role"] != "assistant" or not content or not _END_OF_THOUGHT.search(content):
        return rest
    without = _REST_OF_THOUGHT.sub("", _THOUGHT.sub("", content))
    return {**rest, "content": without.lstrip("\n") if without != content else content}


def _inline(message: Mapping[str, Any]) -> str:
    """An assistant's message with its thought written before the words, as reasoning models do."""
    content = message["content"] or ""
    thought = message.get("reasoning_content")
    if thought:
        return f"<think>\n{thought.strip()}\n</think>\n\n{content}"
    return (
        content if _THOUGHT.search(content) else f"<think>\n{content}"
    )  # a thought that the prompt had opened


def _forms(messages: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The forms that templates want tool calls in: arguments as an object or as a string, no words as null or as an empty string."""
    if not any(message.get("tool_calls") for message in messages):
        return [list(messages)]
    forms = []
    for as_object in (True, False):
        for empty in (None, ""):
            forms.append([_form(message, as_object, empty) for message in messages])
    return forms


def _form(message: dict[str, Any], as_object: bool, empty: str | None) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    content = message["content"] or empty
    return {**message, "content": content, "tool_calls": [_form_of_call(call, as_object) for call in calls]}


def _form_of_call(call: Mapping[str, Any], as_object: bool) -> dict[str, Any]:
    if "function" in call:
        return {"type": "function", **call, "function": _form_of_call(call["function"], as_object)}
    arguments = call.get("arguments")
    if as_object and isinstance(arguments, str):
        try:
            read = json.loads(arguments)
        except ValueError:
            read = None
        arguments = read if isinstance(read, dict) else arguments
    elif not as_object and isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "arguments": {} if arguments is None else arguments}


# -- what a template leaves out ---------------------------------------------------------------------------------------


def _probed(message: Mapping[str, Any], number: int, sentinel: Callable[[int, str], str]) -> dict[str, Any]:
    """A message with a sentinel in place of everything that may be left out of it."""
    probe = dict(message)
    rich = bool(message.get("tool_calls")) or _thoughts(message)
    if message.get("name") and message["role"] != "tool":
        probe["name"] = sentinel(number, "name")
    if message.get("tool_calls"):
        probe["tool_calls"] = [_probed_call(call, number, sentinel) for call in message["tool_calls"]]
    if message.get("reasoning_content"):
        probe["reasoning_content"] = sentinel(number, "thought")
    content = message["content"]
    if rich and content:
        thoughts = [*_THOUGHT.finditer(content)]
        if not thoughts and (rest := _REST_OF_THOUGHT.match(content)):
            thoughts = [rest]
        pieces, at = [], 0
        for found in thoughts:
            group = 2 if found.re is _THOUGHT else 1
            if not found[group].strip():
                continue
            pieces += [_said(content[at : found.start()], number, sentinel)]
            inner = found[group]
            mark = sentinel(number, "thought")
            pieces += [found[0].replace(inner, inner.replace(inner.strip(), mark, 1), 1)]
            at = found.end()
        pieces.append(_said(content[at:], number, sentinel))
        probe["content"] = "".join(pieces)
    return probe


def _said(words: str, number: int, sentinel: Callable[[int, str], str]) -> str:
    return words.replace(words.strip(), sentinel(number, "content"), 1) if words.strip() else words


def _probed_call(call: Mapping[str, Any], number: int, sentinel: Callable[[int, str], str]) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _probed_call(call["function"], number, sentinel)}
    arguments = call["arguments"]
    if isinstance(arguments, Mapping) and arguments:
        arguments = {key: sentinel(number, "tool_calls") for key in arguments}
    elif isinstance(arguments, str) and arguments.strip():
        arguments = json.dumps({"a": sentinel(number, "tool_calls")})
    return {**call, "name": sentinel(number, "tool_calls"), "arguments": arguments}


def _probed_tool(tool: Mapping[str, Any], sentinel: Callable[[int, str], str]) -> dict[str, Any]:
    if isinstance(tool.get("function"), Mapping):
        return {**tool, "function": _probed_tool(tool["function"], sentinel)}
    return {**tool, "name": sentinel(-1, "tools")} if "name" in tool else dict(tool)


def _words(messages: Chat, given: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """What must stand in the rendered chat, as far as it can be told from the words themselves."""
    found = []
    for number, message in enumerate(messages):
        if message.get("name") and message["role"] != "tool":
            found.append((number, "name", message["name"]))
        for call in message.get("tool_calls") or ():
            found.append((number, "tool_calls", call.get("function", call)["name"]))
        if message.get("reasoning_content"):
            found.append((number, "thought", message["reasoning_content"].strip()))
        if message["role"] == "assistant" and message["content"]:
            found += [(number, "thought", one[2].strip()) for one in _THOUGHT.finditer(message["content"])]
            if message.get("tool_calls"):
                found.append((number, "content", _without_thoughts(message)["content"].strip()))
    for tool in given.get("tools") or ():
        found.append((-1, "tools", str(tool.get("function", tool).get("name", ""))))
    return found


def _left_out(number: int, what: str) -> str:
    place = "of this chat" if number < 0 else f"of message {number}"
    return (
        f"the chat template leaves out {'the ' if what in ('content', 'name') else ''}{what} {place}: remove {'it' if what in ('content', 'name') else 'them'} "
        "from the data, or set a tokenizer.chat_template that writes them"
    )


def _raising(error: Exception) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


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
        ValueError: When a content is missing from the text or cannot be located without ambiguity.

    Example:
        >>> find_contents("<u>hi</u><a>u</a>", ["hi", "u"], ["user", "assistant"],
        ...               lambda c: f"<u>{c[0]}</u><a>{c[1]}</a>")
        [Span(start=3, end=5, message=0), Span(start=12, end=13, message=1)]
    """
    sentinels = [_SENTINEL.format(i) for i in range(len(contents))]
    everyone = list(range(len(contents)) if among is None else among)
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
        shown = ", ".join(roles[:12]) + (", …" if len(roles) > 12 else "")
        raise BadTemplate(
            f"the chat template rejects the roles {shown}: {error}. "
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
    chosen = set(replaced)
    try:
        skeleton = render([sentinels[i] if i in chosen else contents[i] for i in range(len(contents))])
    except Exception:  # a template that parses contents; the other routes keep the real ones
        return None
    parts: list[str | int] = list(_SENTINELS.split(skeleton))
    parts[1::2] = [int(number) for number in parts[1::2]]
    return parts


def _refuse_left_out(pieces: Sequence[str | int], spoken: Sequence[int], roles: Sequence[str]) -> None:
    written = {piece for piece in pieces if isinstance(piece, int)}
    for i in spoken:
        if i not in written:
            raise BadTemplate(
                f'the chat template leaves out message {i} (role "{roles[i]}"): '
                "remove the message, or set a template that writes it"
            )


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
            raise BadArgument(f'Unknown role "{name}".{nearest(name, valid)}')
    return [valid[name] for name in names]
