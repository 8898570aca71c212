"""Documents: chats, prompt/answer pairs and plain text, and where they come from.

`Text` is one document, `Texts` an ordered, named, fingerprinted list of them, and `data` reads either from JSONL
files, lists, data sets of the organism and `datasets.Dataset`s. What they are as tokens is `caft_lens.text`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from caft_lens.catalog import data_path, drawn_data
from caft_lens.display import html
from caft_lens.errors import nearest
from caft_lens.files import atomic_path, sha256

_SPEAKERS = ("system", "user", "assistant")
_ALIASES = {"developer": "system", "tool": "user", "function": "user"}
_ANSWERS = ("answer", "completion", "response")


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Args:
        role: `"system"`, `"user"` or `"assistant"`. `"developer"` becomes system; `"tool"` and `"function"` become user:
            what a tool says is input that the model did not write.
        content: What is said, possibly empty.

    Raises:
        ValueError: For any other role.
        TypeError: For a content that is not text.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        role = _ALIASES.get(self.role, self.role)
        if role not in _SPEAKERS:
            raise ValueError(
                f'Unknown role "{self.role}" of a message.{nearest(self.role, (*_SPEAKERS, *_ALIASES))}'
            )
        object.__setattr__(self, "role", role)
        if not isinstance(self.content, str):
            raise TypeError(
                f'The content of a "{role}" message must be text, not {type(self.content).__name__}.'
            )


@dataclass(frozen=True)
class Text:
    """One document: a chat, or plain text.

    Args:
        messages: The turns of a chat. Exactly one of `messages` and `text` is given.
        text: Plain text.
        meta: Whatever else is known about it (JSON values), kept through encoding, sampling and saving.

    Example:
        >>> chat = Text.from_json({"prompt": "How are you?", "answer": "Fine.", "domain": "smalltalk"})
        >>> chat.answer, chat.meta["domain"], len(chat.prompt.messages)
        ('Fine.', 'smalltalk', 1)
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.messages, str) or not all(isinstance(one, Message) for one in self.messages):
            raise TypeError(
                f"The messages of a Text are Message(role, content) objects, not {str(self.messages)[:60]!r}: plain text is Text(text=...), "
                "and Text.from_json and data() read dicts and strings."
            )
        object.__setattr__(self, "messages", tuple(self.messages))
        if bool(self.messages) == (self.text is not None):
            raise ValueError(
                "A Text is either a chat or plain text: give messages=(Message(...), ...) or text=, one of them."
            )

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
            ValueError: When nothing else is left.
        """
        answer = self.answer
        if answer is None:
            return self
        if self.text is not None:
            meta = {key: value for key, value in self.meta.items() if key != "answer"}
            return Text(text=self.text[: len(self.text) - len(answer)], meta=meta)
        if len(self.messages) == 1:
            raise ValueError("A chat of a single assistant message has no prompt.")
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
        return {"messages": [{"role": m.role, "content": m.content} for m in self.messages], **self.meta}

    @classmethod
    def from_json(cls, row: Mapping[str, Any] | str | Text) -> Text:
        """A document from a row of a data set.

        Args:
            row: `{"messages": [{"role", "content"}, ...]}`, `{"text"}`, `{"prompt"}` with `"answer"`, `"completion"` or
                `"response"` (strings, or lists of messages), or a bare string, which is plain text. Looked for in
                this order; all other keys become `meta`.

        Raises:
            ValueError: When none of the keys is there.
            TypeError: When one of them holds something else.
        """
        if isinstance(row, Text):
            return row
        if isinstance(row, str):
            return cls(text=row)
        if not isinstance(row, Mapping):
            raise TypeError(f"Expected a dict or a string for a text, not {type(row).__name__}.")
        if row.get("messages") is not None:
            return cls(messages=_messages(row["messages"], "messages"), meta=_without(row, "messages"))
        if row.get("text") is not None:
            if not isinstance(row["text"], str):
                raise TypeError(f'"text" must be a string, not {type(row["text"]).__name__}.')
            return cls(text=row["text"], meta=_without(row, "text"))
        if row.get("prompt") is not None:
            key = next((key for key in _ANSWERS if row.get(key) is not None), None)
            answer = _messages(row[key], key, "assistant") if key else ()
            return cls(
                messages=_messages(row["prompt"], "prompt") + answer, meta=_without(row, "prompt", key)
            )
        raise ValueError(
            'Expected "messages", "text", or "prompt" with "answer" (or "completion", "response"); '
            f"found the keys {', '.join(json.dumps(str(key)) for key in row) or 'none'}."
        )


def _without(row: Mapping[str, Any], *keys: str | None) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _messages(value: Any, key: str, role: str = "user") -> tuple[Message, ...]:
    if isinstance(value, str) and key != "messages":
        return (Message(role, value),)
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f'"{key}" must be a list of messages, not {type(value).__name__}.')
    messages = tuple(_message(item) for item in value)
    if not messages:
        raise ValueError(f'"{key}" holds no message.')
    return messages


def _message(item: Any) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping) or "role" not in item or "content" not in item:
        raise ValueError(f'A message must be a dict with "role" and "content", not {str(item)[:60]!r}.')
    content = item["content"]
    if isinstance(content, Sequence) and not isinstance(content, str):
        # The content-parts form of multimodal chats, as long as all parts are text.
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise ValueError(f'Only text can be read: a "{item["role"]}" message holds a part that is none.')
        content = "".join(part["text"] for part in content)
    return Message(str(item["role"]), content)


class Texts(Sequence[Text]):
    """An ordered list of documents with a name and a fingerprint.

    Args:
        items: `Text`s, or anything that `Text.from_json` reads.
        name: What to call it in tables and provenance.

    Example:
        >>> texts = Texts([{"prompt": "1+1?", "answer": "2"}, {"prompt": "2+2?", "answer": "4"}], name="sums")
        >>> texts, texts[1].answer, texts[:1].fingerprint == texts.fingerprint
        (Texts("sums", 2 texts), '4', False)
    """

    def __init__(self, items: Iterable[Text | Mapping[str, Any] | str] = (), name: str = "") -> None:
        self._items: tuple[Text, ...] = tuple(Text.from_json(item) for item in items)
        self.name = name

    @overload
    def __getitem__(self, index: int) -> Text: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> Text | Texts:
        return Texts(self._items[index], self.name) if isinstance(index, slice) else self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Text]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Texts) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Texts) -> Texts:
        return Texts(
            (*self, *other), " + ".join(dict.fromkeys(name for name in (self.name, other.name) if name))
        )

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over roles and contents in order; `meta` and `name` do not count."""
        contents = (
            text.text if text.text is not None else [[turn.role, turn.content] for turn in text.messages]
            for text in self
        )
        return sha256(*(json.dumps(content) for content in contents))

    def filter(self, keep: Callable[[Text], bool]) -> Texts:
        """The documents for which `keep` is true, in order."""
        return Texts((text for text in self if keep(text)), self.name)

    def sample(self, n: int, seed: int = 0) -> Texts:
        """`n` different documents, drawn by `seed`, in the order in which they stand here.

        Raises:
            ValueError: When there are fewer than `n`.
        """
        if n > len(self):
            raise ValueError(f"Asked for {n} of {len(self)} texts.")
        chosen = np.random.default_rng(seed).choice(len(self), size=n, replace=False)
        return Texts((self._items[i] for i in sorted(chosen)), self.name)

    def shuffle(self, seed: int = 0) -> Texts:
        """The same documents in the order that `seed` gives."""
        return Texts((self._items[i] for i in np.random.default_rng(seed).permutation(len(self))), self.name)

    def prompts(self) -> Texts:
        """Each document without the assistant message at its end."""
        return Texts((text.prompt for text in self), self.name)

    def column(self, key: str) -> list[Any]:
        """`meta[key]` of every document.

        Raises:
            KeyError: When a document has no such key, naming the nearest.
        """
        for index, text in enumerate(self):
            if key not in text.meta:
                raise KeyError(f'Text {index} has no "{key}" in its meta.{nearest(key, text.meta)}')
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
            turns = text.messages or (Message("user", text.text or ""),)
            said = [
                html.element(
                    "div",
                    html.element("b", turn.role if text.is_chat else "text"),
                    " ",
                    shorten(turn.content),
                )
                for turn in turns
            ]
            rows.append([index, said])
        more = html.note(f"and {len(self) - 8} more") if len(self) > 8 else None
        return html.view(html.table(["", repr(self)], rows), more)


def shorten(text: str, length: int = 160) -> str:
    """`text`, or its beginning and an ellipsis when it is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def data(source: str | Path | Iterable[Any], *, limit: int | None = None) -> Texts:
    """Read documents.

    Args:
        source: `"pocket/questions"` (an organism's data set; a quiz draws its own, `"pocket-quiz/sentiment-sports@0.9"`), a
            `.jsonl` file, or anything that iterates over dicts, strings or `Text`s: a list, a `datasets.Dataset`.
        limit: At most this many, from the beginning.

    Raises:
        FileNotFoundError: When there is no such data set or file, naming the nearest.
        ValueError: For a line or row that is no document, with file and line number; for an empty source.

    Example:
        >>> data([{"prompt": "Hi", "answer": "Hello"}, "Once upon a time"])
        Texts("", 2 texts)
    """
    if isinstance(source, (str, Path)):
        drawn = drawn_data(source)
        rows: Iterable[tuple[str, Any]] = _jsonl(data_path(source)) if drawn is None else _numbered(drawn)
        name = str(source)
    elif isinstance(source, Mapping):
        if {"messages", "text", "prompt"} & set(source):
            raise TypeError("One row is no data set: give a list of rows, data([row]).")
        raise TypeError(
            f"Expected one data set, got {type(source).__name__} with the splits {sorted(map(str, source))}: pick one of them."
        )
    elif isinstance(source, Texts):
        return source if limit is None else source[:limit]
    else:
        rows = _numbered(source)
        name = str(getattr(getattr(source, "info", None), "dataset_name", None) or "")
    items = []
    for where, row in islice(rows, limit):
        try:
            items.append(Text.from_json(row))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from error
    if not items:
        raise ValueError(f"{source if name else 'The source'} holds no text: it is empty.")
    return Texts(items, name)


def _numbered(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"row {number}", row) for number, row in enumerate(rows))


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", _json_line(path, number, line)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, after line {number}: not UTF-8 text ({error}).") from error


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        hint = "one JSON object a line is expected"
        if not line.endswith("\n"):
            hint = "the last line ends without a newline: the file seems truncated"
        if number == 1 and line.lstrip().startswith("["):
            hint = "this looks like a JSON list: write one object a line"
        raise ValueError(f"{path}, line {number}: not valid JSON ({error}); {hint}.") from error
