"""What a chat template leaves out of a chat, found by a sentinel in place of everything that may be left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from caft_lens.text.messages import REST_OF_THOUGHT, THOUGHT, Chat, has_thoughts, without_thoughts

FIELD = "70615243980{:06d}89342516070"


def probed(message: Mapping[str, Any], number: int, sentinel: Callable[[int, str], str]) -> dict[str, Any]:
    """A message with a sentinel in place of everything that may be left out of it."""
    probe = dict(message)
    rich = bool(message.get("tool_calls")) or has_thoughts(message)
    if message.get("name") and message["role"] != "tool":
        probe["name"] = sentinel(number, "name")
    if message.get("tool_calls"):
        probe["tool_calls"] = [_probed_call(call, number, sentinel) for call in message["tool_calls"]]
    if message.get("reasoning_content"):
        probe["reasoning_content"] = sentinel(number, "thought")
    content = message["content"]
    if rich and content:
        thoughts = [*THOUGHT.finditer(content)]
        if not thoughts and (rest := REST_OF_THOUGHT.match(content)):
            thoughts = [rest]
        pieces, at = [], 0
        for found in thoughts:
            inner = found[2 if found.re is THOUGHT else 1]
            if not inner.strip():
                continue
            pieces.append(_said(content[at : found.start()], number, sentinel))
            mark = sentinel(number, "thought")
            pieces.append(found[0].replace(inner, inner.replace(inner.strip(), mark, 1), 1))
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


def probed_tool(tool: Mapping[str, Any], sentinel: Callable[[int, str], str]) -> dict[str, Any]:
    if isinstance(tool.get("function"), Mapping):
        return {**tool, "function": probed_tool(tool["function"], sentinel)}
    return {**tool, "name": sentinel(-1, "tools")} if "name" in tool else dict(tool)


def words_of(messages: Chat, given: Mapping[str, Any]) -> list[tuple[int, str, str]]:
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
            found += [(number, "thought", one[2].strip()) for one in THOUGHT.finditer(message["content"])]
            if message.get("tool_calls"):
                found.append((number, "content", without_thoughts(message)["content"].strip()))
    for tool in given.get("tools") or ():
        found.append((-1, "tools", str(tool.get("function", tool).get("name", ""))))
    return found


def refusal(number: int, what: str) -> str:
    """What is said of something that the template leaves out."""
    place = "of this chat" if number < 0 else f"of message {number}"
    the, it = ("the ", "it") if what in ("content", "name") else ("", "them")
    return (
        f"the chat template leaves out {the}{what} {place}: remove {it} from the data, or set a "
        f"tokenizer.chat_template that writes them"
    )
