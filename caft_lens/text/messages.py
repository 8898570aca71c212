"""Messages as a chat template gets them: thoughts inline or left out, tool calls in its form, placeholders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Chat = Sequence[Mapping[str, Any]]

FILLED = "80716253490{:06d}94352617080"
THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>(.*?)</\1>", re.DOTALL)
END_OF_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>")
OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>\s*\Z")
EMPTY_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>(\s*)</\1>(\s*)\Z")
REST_OF_THOUGHT = re.compile(r"\A((?:(?!<think).)*?)</(think|thinking|thought|reasoning)>", re.DOTALL)


@dataclass
class Prepared:
    """Messages as the template gets them.

    Attributes:
        messages: What the template gets.
        filled: Messages of which the template gets a placeholder, and what stands before their content in its place.
        rich: Messages that are more than their content: with tool calls or thoughts that the template writes itself.
    """

    messages: list[dict[str, Any]]
    filled: dict[int, str] = field(default_factory=dict)
    rich: list[int] = field(default_factory=list)


def with_contents(chat: Prepared, contents: Sequence[str]) -> list[dict[str, Any]]:
    messages = []
    for number, (message, content) in enumerate(zip(chat.messages, contents, strict=True)):
        if number in chat.filled:
            content = FILLED.format(number)
        # A message without words may have none at all beside its tool calls, which some templates tell apart.
        messages.append(message if message["content"] is None and not content else {**message, "content": content})
    return messages


def fill(
    text: str, chat: Prepared, contents: Sequence[str], marks: tuple[tuple[int, int], ...] = ()
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The contents in place of their placeholders, and marked spans moved with them."""
    for number, before in chat.filled.items():
        place = FILLED.format(number)
        content = before + contents[number]
        while (at := text.find(place)) >= 0:
            start, content = _joined(text[:at], content)
            shift = len(content) - (at + len(place) - start)
            marks = tuple(
                (s if s <= start else s + shift if s >= at else start, e if e <= at else e + shift) for s, e in marks
            )
            text = text[:start] + content + text[at + len(place) :]
    return text, marks


def _joined(before: str, content: str) -> tuple[int, str]:
    """Where in `before` a content goes, and how: one that begins with a thought into the empty or opened one there."""
    thought = THOUGHT.match(content)
    opened = OPEN_THOUGHT.search(before)
    if opened and content.startswith(opened.group().rstrip()):
        return opened.start(), content
    empty = EMPTY_THOUGHT.search(before)
    if not thought or not empty or empty[1] != thought[1]:
        return len(before), content
    if not thought[2].strip():
        return empty.start(), content
    half = len(empty[2]) // 2
    inner = f"{empty[2][:half]}{thought[2].strip()}{empty[2][half:]}"
    return empty.start(), f"<{empty[1]}>{inner}</{empty[1]}>{empty[3]}{content[thought.end() :].lstrip()}"


def has_thoughts(message: Mapping[str, Any]) -> bool:
    """Whether an assistant's message holds a thought."""
    if message["role"] != "assistant":
        return False
    content = message["content"] or ""
    if message.get("reasoning_content") or not END_OF_THOUGHT.search(content):
        return bool(message.get("reasoning_content"))
    rest = REST_OF_THOUGHT.match(content)
    return any(found[2].strip() for found in THOUGHT.finditer(content)) or bool(rest and rest[1].strip())


def without_thoughts(message: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in message.items() if key != "reasoning_content"}
    content = rest["content"]
    if rest["role"] != "assistant" or not content or not END_OF_THOUGHT.search(content):
        return rest
    without = REST_OF_THOUGHT.sub("", THOUGHT.sub("", content))
    return {**rest, "content": without.lstrip("\n") if without != content else content}


def with_thought_inline(message: Mapping[str, Any]) -> str:
    """An assistant's message with its thought written before the words, as reasoning models do."""
    content = message["content"] or ""
    thought = message.get("reasoning_content")
    if thought:
        return f"<think>\n{thought.strip()}\n</think>\n\n{content}"
    return content if THOUGHT.search(content) else f"<think>\n{content}"  # a thought that the prompt had opened


def forms(messages: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The forms that templates want tool calls in: arguments as an object or a string, no words as null or as ""."""
    if not any(message.get("tool_calls") for message in messages):
        return [list(messages)]
    kinds = product((True, False), (None, ""))
    return [[_form(message, as_object, empty) for message in messages] for as_object, empty in kinds]


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
