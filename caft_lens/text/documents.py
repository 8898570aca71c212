"""Documents: chats, prompt/answer pairs and plain text, and where they come from.

`Text` is one document, `Texts` an ordered, named, fingerprinted list of them, and `data` reads them from files, data
frames, Arrow tables, `datasets`, lists and data sets of the organism (`caft_lens.text.rows`). What they are as tokens
is `caft_lens.text.encoding`.
"""

from __future__ import annotations

import difflib
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, BadData, BadType, CaftLensError, UnknownName, nearest
from caft_lens._support.files import atomic_path, sha256
from caft_lens.display import html
from caft_lens.text.catalog import data_path, drawn_data
from caft_lens.text.rows import TEXT_COLUMNS, Row, check_text, described, json_value, parsed, read_rows, rows_of

_SPEAKERS = ("system", "user", "assistant", "tool")
_ALIASES = {
    "developer": "system", "human": "user",
    "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
    "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
_ANSWERS = ("answer", "completion", "response")
_REASONING = ("reasoning_content", "thinking", "reasoning")
_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", *_REASONING, "train", "weight")
_INPUTS = ("tools", "documents", "chat_template_kwargs")
_KNOWN = {*TEXT_COLUMNS, *_INPUTS, "system_prompt", "history"}
_TEXT_PARTS = ("text", "input_text", "output_text")

_TWO_TEXTS = 'Both "text" and "prompt" are given, and only one can be the document: leave one out, or rename it.'


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Args:
        role: `"system"`, `"user"`, `"assistant"` or `"tool"`. `"developer"` becomes system and `"function"` tool; the
            names of ShareGPT (`"human"`, `"gpt"`, `"observation"`) are understood too. What a tool says counts as the
            user's where roles of tokens are asked for: it is input that the model did not write.
        content: What is said, possibly empty.
        name: Who says it, where the chat template writes that; of a tool, which.
        tool_calls: What an assistant calls: `{"type": "function", "function": {"name", "arguments"}}`, or `{"name",
            "arguments"}`. The chat template writes them, and training learns what it writes.
        tool_call_id: Which call a tool answers.
        reasoning: What an assistant thought before it said `content`, where that is kept apart from it.
        train: Whether training learns an assistant's message; `None` is yes.

    Raises:
        BadData: For any other role, and for fields that do not go with the role.
        BadType: For a content that is not text.
    """

    role: str
    content: str = ""
    name: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    tool_call_id: str | None = None
    reasoning: str | None = None
    train: bool | None = None

    def __post_init__(self) -> None:
        role = _ALIASES.get(self.role, self.role)
        if role not in _SPEAKERS:
            shown = shorten(str(self.role), 60)
            raise BadData(f'Unknown role "{shown}" of a message.{nearest(shown, (*_SPEAKERS, *_ALIASES))}')
        object.__setattr__(self, "role", role)
        for key in ("content", "name", "tool_call_id", "reasoning"):
            value = getattr(self, key)
            if value is None and key != "content":
                continue
            if not isinstance(value, str):
                raise BadType(f'The {key} of a "{role}" message must be text, not {described(value)}.')
            check_text(value, f'The {key} of a "{role}" message')
        object.__setattr__(self, "reasoning", self.reasoning or None)
        object.__setattr__(self, "tool_calls", tuple(_call(call) for call in self.tool_calls or ()))
        for key, owner in (("tool_calls", "assistant"), ("reasoning", "assistant"), ("tool_call_id", "tool")):
            if getattr(self, key) and role != owner:
                raise BadData(f'A "{role}" message has {key}, which only a message of the role "{owner}" can have.')
        if self.train and role != "assistant":
            raise BadData(f'A "{role}" message says that it is to be learned, but only what the assistant says is.')

    def __repr__(self) -> str:
        more = {key: getattr(self, key) for key in ("name", "tool_calls", "tool_call_id", "reasoning", "train")}
        said = "".join(f", {key}={value!r}" for key, value in more.items() if value not in (None, ()))
        return f"Message({self.role!r}, {self.content!r}{said})"

    def to_json(self) -> dict[str, Any]:
        """A dict that `Text.from_json` reads back: `role`, `content`, and whatever else there is."""
        calls = [dict(call) for call in self.tool_calls] or None
        given = {"name": self.name, "tool_calls": calls, "tool_call_id": self.tool_call_id}
        more = {**given, "reasoning_content": self.reasoning, "train": self.train}
        return {"role": self.role, "content": self.content, **_there(more)}


def _there(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what is null in it."""
    return {key: value for key, value in row.items() if value is not None}


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise BadData(
            'A tool call must be {"type": "function", "function": {"name": ..., "arguments": ...}} or '
            f'{{"name", "arguments"}}, not {shorten(str(call), 80)!r}.'
        )
    arguments = function.get("arguments")  # type: ignore[union-attr]
    if arguments is not None and not isinstance(arguments, (str, Mapping)):
        raise BadData(
            f'The arguments of the tool call "{name}" are {described(arguments)}: give an object, or JSON as a string.'
        )
    return json_value(dict(call), f'the tool call "{shorten(name, 40)}"')


@dataclass(frozen=True)
class Text:
    """One document: a chat, or plain text.

    Args:
        messages: The turns of a chat. Exactly one of `messages` and `text` is given.
        text: Plain text.
        meta: Whatever else is known about it, kept through encoding, sampling and saving: JSON values, or what has a
            like among them (numpy values become plain ones, tuples lists, dates and decimals text).
        inputs: What else the chat template is given for this chat: `"tools"` (function schemas), `"documents"`, and any
            other arguments as `"chat_template_kwargs"`.

    Raises:
        BadData: For `meta` that no JSON file gives back equal, such as NaN or bytes, or with a key of the text itself.

    Example:
        >>> chat = Text.from_json({"prompt": "How are you?", "answer": "Fine.", "domain": "smalltalk"})
        >>> chat.answer, chat.meta["domain"], len(chat.prompt.messages)
        ('Fine.', 'smalltalk', 1)
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    inputs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.messages, str) or not all(isinstance(one, Message) for one in self.messages):
            raise BadType(
                f"The messages of a Text are Message(role, content) objects, not {str(self.messages)[:60]!r}: plain "
                f"text is Text(text=...), and Text.from_json and data() read dicts and strings."
            )
        object.__setattr__(self, "messages", tuple(self.messages))
        if bool(self.messages) == (self.text is not None):
            raise BadData(
                "A Text is either a chat or plain text: give messages=(Message(...), ...) or text=, one of them."
            )
        if self.text is not None:
            if not isinstance(self.text, str):
                raise BadType(f"The text of a Text must be a string, not {described(self.text)}.")
            object.__setattr__(self, "text", check_text(str(self.text), "The text"))
        if not isinstance(self.meta, Mapping) or not isinstance(self.inputs, Mapping):
            raise BadType("The meta and inputs of a Text are dicts.")
        own = ("messages", "text") if self.text is not None else ("messages", *_inputs_of(self.meta))
        for key in own:
            if key in self.meta:
                where = "inputs=" if key in _INPUTS else f"{key}="
                raise BadData(
                    f'meta has the key "{key}", under which the text itself is written: give it as {where}, or '
                    f"rename it."
                )
        for key in self.meta:
            if not isinstance(key, str):
                raise BadData(f"The key {shorten(str(key), 40)!r} is {described(key)}: keys are strings.")
            check_text(key, "A key")
        meta = {str(key): json_value(value, f'"{key}"') for key, value in self.meta.items()}
        object.__setattr__(self, "meta", meta)
        if self.text is not None and isinstance(self.meta.get("prompt"), str):
            raise BadData(_TWO_TEXTS)
        object.__setattr__(self, "inputs", _checked_inputs(self.inputs, self.text is None))

    @property
    def is_chat(self) -> bool:
        """Whether this is a chat rather than plain text."""
        return self.text is None

    @property
    def answer(self) -> str | None:
        """The content of the assistant message at the end; `None` when the document does not end in one."""
        if self.text is None:
            last = self.messages[-1]
            return last.content if last.role == "assistant" else None
        answer = self.meta.get("answer")
        return answer if isinstance(answer, str) and self.text.endswith(answer) else None

    @property
    def prompt(self) -> Text:
        """The document without the assistant message at the end (itself, when it does not end in one).

        Raises:
            BadData: When nothing else is left.
        """
        answer = self.answer
        if answer is None:
            return self
        if self.text is not None:
            meta = {key: value for key, value in self.meta.items() if key != "answer"}
            return Text(text=self.text[: len(self.text) - len(answer)], meta=meta)
        if len(self.messages) == 1:
            raise BadData("A chat of a single assistant message has no prompt.")
        return replace(self, messages=self.messages[:-1])

    def with_answer(self, answer: str) -> Text:
        """The prompt followed by `answer`: as an assistant message, or, for plain text, as its continuation."""
        prompt = self.prompt
        if prompt.text is not None:
            return Text(text=prompt.text + answer, meta={**prompt.meta, "answer": answer})
        return replace(prompt, messages=(*prompt.messages, Message("assistant", answer)))

    def to_json(self) -> dict[str, Any]:
        """A dict that `from_json` reads back: `{"messages": [...], **meta}` or `{"text": ..., **meta}`."""
        if self.text is not None:
            return {"text": self.text, **self.meta}
        return {"messages": [message.to_json() for message in self.messages], **self.inputs, **self.meta}

    @classmethod
    def from_json(cls, row: Mapping[str, Any] | str | Text) -> Text:
        """A document from a row of a data set.

        Args:
            row: `{"messages": [{"role", "content"}, ...]}`, `{"text"}`, `{"prompt"}` with `"answer"`, `"completion"` or
                `"response"` (strings, or lists of messages), ShareGPT's `{"conversations": [{"from", "value"}, ...]}`,
                Alpaca's `{"instruction", "input", "output"}`, or a bare string, which is plain text. Looked for in this
                order; keys that are null are not there. Of a chat, `"tools"`, `"documents"` and
                `"chat_template_kwargs"` go to the chat template; all other keys become `meta`.

        Raises:
            BadData: When none of the keys is there, or a message has a field that is not understood.
            BadType: When one of them holds something else.
        """
        if isinstance(row, Text):
            return row
        if isinstance(row, str):
            return cls(text=row)
        if not isinstance(row, Mapping):
            hint = ""
            if isinstance(row, (list, tuple)) and row and all(_is_turn(one) for one in row):
                hint = f": {_WRAP}"
            raise BadType(f"Expected a dict or a string for a text, not {described(row)}{hint}.")
        # A null says that a row has no such column, as where two data sets were joined.
        given = _there(row)
        if "messages" not in given and "text" in given:
            if not isinstance(given["text"], str):
                raise BadType(f'"text" must be a string, not {described(given["text"])}.')
            if isinstance(given.get("prompt"), str):
                raise BadData(_TWO_TEXTS)
            return cls(text=given["text"], meta=_without(row, "messages", "text"))
        messages, used = _chat(given)
        if not used:
            if _is_turn(row):
                raise BadData(f"This is one message of a chat, not a document: {_WRAP}.")
            known = ", ".join(json.dumps(shorten(str(key), 40)) for key in islice(row, 12))
            raise BadData(
                'Expected "messages", "text", "prompt" with "answer" (or "completion", "response"), "conversations", '
                f'or "instruction" with "output"; found the keys {known or "none"}{", …" if len(row) > 12 else ""}.'
            )
        inputs = {key: _from_text(given[key]) for key in _inputs_of(given)}
        return cls(messages=messages, meta=_without(row, "messages", *used, *inputs), inputs=inputs)


_WRAP = 'wrap all messages of a chat in one row, {"messages": [...]}'


def _is_turn(row: Any) -> bool:
    return isinstance(row, Mapping) and ({"role", "content"} <= set(row) or {"from", "value"} <= set(row))


def _refuse_misspelt(row: Mapping[str, Any], valid: Sequence[str]) -> None:
    """Refuse text under a key that is nearly one of `valid`, where none of these is there."""
    for key, value in row.items():
        if not isinstance(key, str) or not isinstance(value, str) or key in _KNOWN:
            continue
        if any(mark in key for mark in "_- "):
            continue  # "response_id", "answer_key"
        close = difflib.get_close_matches(key.lower(), valid, n=1, cutoff=0.75)
        if close:
            raise BadData(
                f'The row has no "{valid[0]}", but text under "{key}". Did you mean "{close[0]}"? '
                "If it is something else, name it otherwise."
            )


def _inputs_of(row: Mapping[str, Any]) -> list[str]:
    """Which keys of a chat's row are for its template, as a `"documents"` is that a template could write."""
    documents = row.get("documents")
    written = isinstance(documents, list) and bool(documents) and isinstance(documents[0], Mapping)
    return [key for key in _INPUTS if row.get(key) is not None and (written or key != "documents")]


def _checked_inputs(inputs: Mapping[str, Any], is_chat: bool) -> dict[str, Any]:
    for key, value in inputs.items():
        if key not in _INPUTS:
            raise BadData(f'"{key}" is no input of a chat template.{nearest(key, _INPUTS)}')
        if not is_chat:
            raise BadData(f"{key} goes with a chat: no template writes plain text.")
        if key == "chat_template_kwargs":
            if not isinstance(value, Mapping):
                raise BadData(f'"{key}" must be a dict, not {described(value)}.')
        elif not isinstance(value, (list, tuple)) or not all(isinstance(one, Mapping) for one in value):
            what = "function schemas" if key == "tools" else "dicts"
            raise BadData(f'"{key}" must be a list of {what}, not {shorten(str(value), 60)}.')
    return {key: json_value(value, f'"{key}"') for key, value in inputs.items() if value}


def _without(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _from_text(value: Any) -> Any:
    """What a column that holds JSON as text says; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return parsed(value, "it")
        except BadData:
            return value
    return value


def _chat(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The messages of a row, and under which keys they stood: none when it is no chat."""
    if "messages" in row:
        return _messages(_from_text(row["messages"]), "messages"), ("messages",)
    if "prompt" in row:
        asked = _messages(row["prompt"], "prompt")
        answers = {key: _messages(row[key], key, "assistant") for key in _ANSWERS if key in row}
        if not answers:
            if asked[-1].role != "assistant":
                _refuse_misspelt(row, _ANSWERS)
            return asked, ("prompt",)
        (key, answer), *others = answers.items()
        for other, said in others:
            if said != answer:
                raise BadData(f'Both "{key}" and "{other}" are given, and they differ: leave one out, or rename it.')
        return asked + answer, ("prompt", key)
    for key in ("conversations", "conversation"):
        if key in row:
            system, used = _system(row)
            turns = _messages(_from_text(row[key]), key)
            if system and turns[0].role == "system":
                return turns, (key,)  # said once is enough; the column stays in meta
            return system + turns, (key, *used)
    if "instruction" in row and "output" in row:
        return _alpaca(row)
    return (), ()


def _system(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The system prompt that some data sets of the ShareGPT and Alpaca forms keep in a column of its own."""
    for key in ("system", "system_prompt"):
        value = row.get(key)
        if isinstance(value, str):
            return ((Message("system", value),) if value else ()), (key,)
    return (), ()


def _alpaca(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    for key in ("instruction", "input", "output"):
        if not isinstance(row.get(key, ""), str):
            raise BadType(f'"{key}" must be a string, not {described(row[key])}.')
    if "input" not in row:
        _refuse_misspelt(row, ("input",))
    system, used = _system(row)
    history = row.get("history") or []
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history):
        raise BadData('"history" must be a list of pairs, question and answer.')
    before = tuple(
        message for asked, said in history for message in (Message("user", asked), Message("assistant", said))
    )
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
    keys = ("instruction", "input", "output", *used, *(("history",) if "history" in row else ()))
    return (*system, *before, Message("user", asked), Message("assistant", row["output"])), keys


def _messages(value: Any, key: str, role: str = "user") -> tuple[Message, ...]:
    if isinstance(value, str) and key in ("prompt", *_ANSWERS):
        return (Message(role, value),)
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        what = "text (a string) or a list of messages" if key in ("prompt", *_ANSWERS) else "a list of messages"
        raise BadType(f'"{key}" must be {what}, not {described(value)}.')
    messages = []
    for number, item in enumerate(value):
        try:
            messages.append(_message(item))
        except (BadData, BadType) as error:
            raise type(error)(f"message {number}: {error}") from None
    if not messages:
        raise BadData(f'"{key}" holds no message.')
    return tuple(messages)


def _message(item: Any) -> Message:
    if isinstance(item, Message):
        return item
    if isinstance(item, Mapping) and "from" in item and "value" in item and "role" not in item:
        item = _sharegpt(item)
    given = _there(item) if isinstance(item, Mapping) else {}
    calls = given.get("tool_calls")
    if "role" not in given or ("content" not in item and not calls):
        missing = "content" if "role" in given else "role"
        close = difflib.get_close_matches(missing, [str(key) for key in given if key not in _FIELDS], n=1, cutoff=0.6)
        hint = f' Did you mean "{missing}"?' if close else ""
        raise BadData(f'A message must be a dict with "role" and "content", not {shorten(str(item), 60)!r}.{hint}')
    for key, value in given.items():
        if key not in _FIELDS and not (isinstance(value, (list, dict)) and not value):
            raise BadData(
                f'The field "{shorten(str(key), 40)}" of a "{shorten(str(given["role"]), 40)}" message is not '
                f"understood ({shorten(str(value), 60)}): remove it, or put it beside the messages. Understood are "
                f"{', '.join(_FIELDS)}."
            )
    calls = _from_text(calls)
    if calls is not None and (isinstance(calls, (str, Mapping)) or not isinstance(calls, Iterable)):
        raise BadData(f"tool_calls must be a list of calls, not {described(calls)}.")
    thoughts = {given[key] for key in _REASONING if isinstance(given.get(key), str) and given[key]}
    if len(thoughts) > 1:
        raise BadData(f"A message has several of {', '.join(_REASONING)}, and they differ: give one.")
    bad = next((key for key in _REASONING if key in given and not isinstance(given[key], str)), None)
    if bad:
        raise BadType(f"The {bad} of a message must be text, not {described(given[bad])}.")
    return Message(
        given["role"] if isinstance(given["role"], str) else str(given["role"]),
        "" if calls and given.get("content") is None else _content(given.get("content"), str(given["role"])),
        name=given.get("name"),
        tool_calls=tuple(calls or ()),
        tool_call_id=given.get("tool_call_id"),
        reasoning=next(iter(thoughts), None),
        train=_train(given),
    )


def _sharegpt(item: Mapping[str, Any]) -> dict[str, Any]:
    """A turn of ShareGPT's form in the usual one; a function call is a message of the assistant."""
    rest = _without(item, "from", "value")
    if item["from"] in ("function_call", "tool_call"):
        calls = _from_text(item["value"])
        calls = [calls] if isinstance(calls, Mapping) else calls
        return {**rest, "role": "assistant", "content": None, "tool_calls": calls}
    return {**rest, "role": item["from"], "content": item["value"]}


def _content(content: Any, role: str) -> Any:
    content = content.tolist() if isinstance(content, np.ndarray) else content
    if not isinstance(content, (list, tuple)):
        return content
    # The content-parts form of multimodal chats, as long as all parts are text.
    words = []
    for part in content:
        given = _there(part) if isinstance(part, Mapping) else {}
        kind = given.get("type", "text")
        if kind not in _TEXT_PARTS or not isinstance(given.get("text"), str):
            raise BadData(
                f'Only text can be read: a "{role}" message holds a part of the type "{shorten(str(kind), 40)}".'
            )
        more = [key for key in given if key not in ("type", "text")]
        if more:
            raise BadData(
                f'A part of a "{role}" message has the field "{more[0]}", which is not understood: remove it.'
            )
        words.append(given["text"])
    return "".join(words)


def _train(given: Mapping[str, Any]) -> bool | None:
    found = set()
    for key in ("train", "weight"):
        if key not in given:
            continue
        value = given[key].item() if isinstance(given[key], np.generic) else given[key]
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise BadData(
                f"The {key} of a message is {shorten(str(value), 40)!r}: 1 (learned) and 0 (not) are understood, no "
                f"share."
            )
        found.add(bool(value))
    if len(found) > 1:
        raise BadData("A message has train and weight, and they say the opposite: give one.")
    return found.pop() if found else None


class Texts(Sequence[Text]):
    """An ordered list of documents with a name and a fingerprint.

    Args:
        items: `Text`s, or anything that `Text.from_json` reads, in a list, a generator, a data frame or whatever else
            `data` takes that is no file.
        name: What to call it in tables and provenance. A part (`texts[:64]`, `filter`, `sample`) says how large it is:
            `"sums[64 of 500]"`; nothing that is found again by a fingerprint depends on the name.

    Raises:
        BadType: For what is no list of rows, naming its type.
        BadData: For a row that is no document, by its number.

    Example:
        >>> texts = Texts([{"prompt": "1+1?", "answer": "2"}, {"prompt": "2+2?", "answer": "4"}], name="sums")
        >>> texts, texts[1].answer, texts[:1].fingerprint == texts.fingerprint
        (Texts("sums", 2 texts), '4', False)
        >>> texts[:1].name
        'sums[1 of 2]'
    """

    def __init__(self, items: Iterable[Text | Mapping[str, Any] | str] = (), name: str = "") -> None:
        if isinstance(items, Texts):
            self._items: tuple[Text, ...] = items._items
        else:
            self._items = tuple(documents(rows_of(items)))
        self.name = name
        self._part_of = (name, len(self._items))

    def _part(self, items: Iterable[Text]) -> Texts:
        """Some of the documents, or all in another order, under a name that says so where they are fewer."""
        part, (name, whole) = Texts(items), self._whole()
        part.name, part._part_of = _part_name(name, whole, len(part)), (name, whole)
        return part

    def each(self, items: Iterable[Text], prefix: str) -> Texts:
        """Documents that were made of these, as many of each: a part of them is one of all that these are a part of.

        Args:
            items: The documents.
            prefix: What stands before the name of these in theirs.
        """
        made, (name, whole) = Texts(items), self._whole()
        made._part_of = f"{prefix}{name}", whole * len(made) // max(1, len(self))
        made.name = _part_name(*made._part_of, len(made))
        return made

    def _whole(self) -> tuple[str, int]:
        """Name and number of those that these are a part of, or of these."""
        return self._part_of if self.name == _part_name(*self._part_of, len(self)) else (self.name, len(self))

    @overload
    def __getitem__(self, index: int) -> Text: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> Text | Texts:
        if isinstance(index, slice):
            return self._part(self._items[index])
        try:
            place = operator.index(index)
        except TypeError:
            raise BadType(
                f"A text is found by its number, or several by a slice, not by {type(index).__name__}: texts[0], "
                f"texts[:5], or texts.filter(keep)."
            ) from None
        return self._items[place]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Text]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Texts) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Texts) -> Texts:
        return Texts((*self, *other), " + ".join(dict.fromkeys(name for name in (self.name, other.name) if name)))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all that a model sees and learns of the documents, in order; `meta` does not count."""
        return sha256(*(json.dumps(_seen(text)) for text in self))

    def filter(self, keep: Callable[[Text], bool]) -> Texts:
        """The documents for which `keep` is true, in order."""
        return self._part(text for text in self if keep(text))

    def select(self, numbers: Iterable[int]) -> Texts:
        """The texts with these numbers, in their order.

        Raises:
            IndexError: For a number that there is not.

        Example:
            >>> questions.select([2, 0])[1] == questions[0]
            True
        """
        return self._part(self[number] for number in numbers)

    def sample(self, n: int, seed: int = 0) -> Texts:
        """`n` different documents, drawn by `seed`, in the order in which they stand here.

        Raises:
            BadArgument: When there are fewer than `n`.
        """
        if n > len(self):
            raise BadArgument(f"Asked for {n} of {len(self)} texts.")
        chosen = np.random.default_rng(seed).choice(len(self), size=n, replace=False)
        return self._part(self._items[i] for i in sorted(chosen))

    def shuffle(self, seed: int = 0) -> Texts:
        """The same documents in the order that `seed` gives."""
        return self._part(self._items[i] for i in np.random.default_rng(seed).permutation(len(self)))

    def prompts(self) -> Texts:
        """Each document without the assistant message at its end."""
        return self._part(text.prompt for text in self)

    def column(self, key: str) -> list[Any]:
        """`meta[key]` of every document.

        Raises:
            UnknownName: When a document has no such key, naming the nearest.
        """
        for index, text in enumerate(self):
            if key not in text.meta:
                raise UnknownName(f'Text {index} has no "{key}" in its meta.{nearest(key, text.meta)}')
        return [text.meta[key] for text in self]

    def save(self, path: str | Path) -> Path:
        """Write JSONL that `data` reads back, atomically; returns the path."""
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for text in self:
                file.write(json.dumps(text.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
        return Path(path)

    def __repr__(self) -> str:
        return f'Texts("{self.name}", {len(self)} text{"" if len(self) == 1 else "s"})'

    def _repr_html_(self) -> str:
        rows: list[list[html.Content]] = []
        for index, text in enumerate(self._items[:8]):
            turns = [(turn.role, said_in(turn)) for turn in text.messages] or [("text", text.text or "")]
            rows.append([index, [html.element("div", html.element("b", who), " ", shorten(one)) for who, one in turns]])
        more = html.note(f"and {len(self) - 8} more") if len(self) > 8 else None
        return html.view(html.table(["", repr(self)], rows), more)


def _part_name(name: str, whole: int, length: int) -> str:
    """What so many of the documents of a name are called: that of the whole for all of them, and none for none."""
    return name if not name or length == whole else f"{name}[{length} of {whole}]"


def shorten(text: str, length: int = 160) -> str:
    """`text`, or its beginning and an ellipsis when it is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def said_in(message: Message) -> str:
    """All that a message says, thoughts and tool calls included, as one string to read.

    Example:
        >>> said_in(Message("assistant", "Wait.", tool_calls=({"name": "look", "arguments": {"at": "map"}},)))
        'Wait. {"name": "look", "arguments": {"at": "map"}}'
    """
    thought = f"<think>{message.reasoning}</think>" if message.reasoning else ""
    calls = (json.dumps(call.get("function", call), ensure_ascii=False) for call in message.tool_calls)
    return " ".join(part for part in (thought, message.content, *calls) if part)


def _seen(text: Text) -> Any:
    """All of a document that a model sees or learns, in the form that fingerprints have always been taken over."""
    if text.text is not None:
        return text.text
    turns: list[Any] = []
    for message in text.messages:
        more = {key: value for key, value in message.to_json().items() if key not in ("role", "content")}
        turns.append([message.role, message.content, *([more] if more else [])])
    return {"messages": turns, "inputs": dict(text.inputs)} if text.inputs else turns


def data(source: Any, *, limit: int | None = None) -> Texts:
    """Read documents.

    Args:
        source: `"pocket/questions"` (an organism's data set; a quiz draws its own,
            `"pocket-quiz/sentiment-sports@0.9"`); a file: JSONL, JSON (a list of rows, or an object that holds one),
            CSV, TSV, parquet, Arrow, any of them gzipped; a data frame of pandas or polars, an Arrow table, a
            `datasets.Dataset`, streamed or not; or anything else that iterates over dicts, strings or `Text`s. What a
            row may be: `Text.from_json`.
        limit: At most this many, from the beginning.

    Raises:
        MissingFile: When there is no such data set or file, naming the nearest.
        BadData: For a line or row that is no document, with file and line number; for an empty source.
        BadType: For what holds no rows, naming its type.

    Example:
        >>> data([{"prompt": "Hi", "answer": "Hello"}, "Once upon a time"])
        Texts("", 2 texts)
    """
    if limit is not None:
        count(limit, "limit", hint="None reads all")
    if isinstance(source, (str, os.PathLike)):
        name = str(os.fspath(source))
        try:
            drawn = drawn_data(name)
            rows: Iterable[Row] = read_rows(data_path(name)) if drawn is None else rows_of(drawn)
        except (OSError, ValueError) as error:
            if isinstance(error, CaftLensError):
                raise
            raise BadArgument(
                f"{shorten(name, 60)!r} can be no file ({error}): texts are given in a list, data([text])."
            ) from None
    elif isinstance(source, Texts):
        return source if limit is None else source[:limit]
    else:
        rows = rows_of(source)
        name = str(getattr(getattr(source, "info", None), "dataset_name", None) or "")
    items = list(documents(islice(rows, limit), always=BadData))
    if not items:
        raise BadData(f"{name or 'The source'} holds no text: it is empty.")
    return Texts(items, name)


def documents(rows: Iterable[Row], always: type[CaftLensError] | None = None) -> Iterator[Text]:
    """Rows as documents, one at a time.

    Args:
        rows: Pairs of what an error calls a row, and the row.
        always: The kind of every error; by default that of what is wrong.

    Raises:
        BadData, BadType: For a row that is no document, naming it.
    """
    for where, row in rows:
        try:
            yield Text.from_json(row)
        except (BadData, BadType) as error:
            raise (always or type(error))(f"{where}: {error}") from error
