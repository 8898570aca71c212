"""Documents as tokens: ids, the role of each token, and a mask of what training learns."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np

from caft_lens._support.errors import BadArgument, BadData, BadTemplate
from caft_lens.text.documents import Text, said_in, shorten
from caft_lens.text.rendering import Rendering, render_chat
from caft_lens.text.roles import ASSISTANT, ROLES, SPECIAL, TEXT, USER
from caft_lens.text.template_arguments import with_template_arguments

# What a tool says is input that the model did not write.
_ROLE_OF = {**ROLES, "tool": USER}

# A tokenizer is faster when it is given many texts at once.
_TEXTS_A_CALL = 32


@dataclass
class Encoded:
    """One document as tokens.

    Attributes:
        input_ids: Token ids, `[pos]`.
        roles: The role of each token, int8 `[pos]`, see `ROLES`.
        loss: Which tokens training learns, bool `[pos]`: what the assistant said and the token that ends its turn.
        index: The document's number in the input.
        cut: How many tokens `max_length` cut off.
        cut_loss: How many of those training would have learned.
        complaint: What is trained here but not asked that way, in a sentence; empty when the asked prompt is a prefix.
    """

    input_ids: list[int]
    roles: np.ndarray
    loss: np.ndarray
    index: int = 0
    cut: int = 0
    cut_loss: int = 0
    complaint: str = ""


def encode(
    tokenizer: Any,
    text: Text,
    *,
    add_generation_prompt: bool = False,
    max_length: int | None = None,
    index: int = 0,
    template_arguments: Mapping[str, Any] | None = None,
) -> Encoded:
    """Tokens, roles and loss mask of one document.

    The ids of a chat are those of `tokenizer.apply_chat_template`, those of plain text those of `tokenizer(text)`; a
    BOS token never stands twice, and a token in which the header of an answer and its first whitespace are merged is
    parted, as it is when the answer is sampled. A token that holds a character of a message has that message's role;
    everything that the template adds is special. Of an assistant's message with tool calls or thoughts, all that the
    template writes for them is the assistant's; what a tool says is the user's. Loss falls on what the assistant says
    and on what closes those turns, and on what stands between the prompt that is asked and the answer (an empty
    thought, say), never on headers; where the template has `{% generation %}` markers, only on turns inside them; never
    on messages that say that they are not learned; in plain text, on the text.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        text: The document.
        add_generation_prompt: Whether to end with the header of an assistant turn, for sampling an answer.
        max_length: Cut after this many tokens; `Encoded.cut` counts what is lost.
        index: Number of the document, for `Encoded.index` and errors.
        template_arguments: What the chat template gets beside the tokenizer's own (see `with_template_arguments`).

    Raises:
        BadTemplate: When the chat does not fit the template, or it leaves out a part of it.
        BadData: When there is no token, or when a prompt for sampling is longer than `max_length`.
    """
    (found,) = encoded(
        tokenizer, (text,), add_generation_prompt=add_generation_prompt, max_length=max_length, first_index=index,
        template_arguments=template_arguments,
    )  # fmt: skip
    return found


def encoded(
    tokenizer: Any,
    texts: Iterable[Text],
    *,
    add_generation_prompt: bool = False,
    max_length: int | None = None,
    first_index: int = 0,
    template_arguments: Mapping[str, Any] | None = None,
) -> Iterator[Encoded]:
    """Tokens, roles and loss masks of any number of documents, each as `encode` gives it.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        texts: The documents; a generator is read some at a time.
        add_generation_prompt: Whether each chat ends with the header of an assistant turn.
        max_length: Cut each after this many tokens.
        first_index: Number of the first document.
        template_arguments: As for `encode`.

    Raises:
        CaftLensError: As `encode` does.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise BadArgument(
            f"{type(tokenizer).__name__} is not a fast tokenizer, and only those tell which characters a token "
            f"stands for."
        )
    tokenizer = with_template_arguments(tokenizer, template_arguments)
    source = enumerate(texts, first_index)
    while part := list(islice(source, _TEXTS_A_CALL)):
        for (index, text), tokens in zip(part, _tokens(tokenizer, part, add_generation_prompt), strict=True):
            with _naming(index, text):
                if not tokens.ids:
                    raise BadData("no token at all: the text is empty")
                if add_generation_prompt and max_length is not None and len(tokens.ids) > max_length:
                    raise BadData(
                        f"the prompt has {len(tokens.ids)} tokens, more than max_length={max_length}: "
                        "raise it or drop the text"
                    )
                roles, loss = _roles_and_loss(tokenizer, text, tokens)
            keep = len(tokens.ids) if max_length is None else max_length
            complaint = tokens.rendering.complaint if tokens.rendering else ""
            cut, cut_loss = max(0, len(tokens.ids) - keep), int(loss[keep:].sum())
            yield Encoded(tokens.ids[:keep], roles[:keep], loss[:keep], index, cut, cut_loss, complaint)


@contextmanager
def _naming(index: int, text: Text) -> Iterator[None]:
    """Errors about a document say which one it is."""
    try:
        yield
    except ValueError as error:
        kind = type(error) if isinstance(error, BadData | BadTemplate) else BadData
        raise kind(f"Text {index} ({_title(text)}): {error}.") from error


def _title(text: Text) -> str:
    return repr(shorten(text.text if text.text is not None else said_in(text.messages[0]), 50))


def tokens_touching(tokenizer: Any, text: Text, places: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Which tokens of a document, as `encode` gives them, hold a character of one of some places.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        text: The document.
        places: Start, end and message number of each; of plain text, whose characters are counted through, 0.

    Returns:
        Bool `[pos]`; tokens of the template hold none.

    Raises:
        BadTemplate: When the template rewrites a message, so that its characters cannot be found again.

    Example:
        >>> tokens_touching(base.tokenizer, Text.from_json("Bake a pie."), [(7, 10, 0)])
        array([False, False, False,  True, False])
    """
    (tokens,) = _tokens(tokenizer, [(0, text)], add_generation_prompt=False)
    if tokens.rendering is None:
        pieces = [(start, end) for start, end, _ in places]
    else:
        pieces = [piece for place in places for piece in _rendered(tokens.rendering, text, *place)]
    found = np.zeros(len(tokens.ids), dtype=bool)
    for start, end in pieces:
        found[_touching(tokens.starts, tokens.ends, start, end)] = True
    return found & ~tokens.special


def _rendered(rendering: Rendering, text: Text, start: int, end: int, message: int) -> list[tuple[int, int]]:
    """Where characters of a message stand in the rendered chat, once for every time that the template writes it."""
    content = text.messages[message].content
    found = []
    for span in rendering.contents:
        if span.message != message:
            continue
        trimmed = content.find(rendering.text[span.start : span.end])
        if trimmed < 0:
            raise BadTemplate(
                f"the chat template rewrites the content of message {message}, so that its characters cannot be told "
                f"apart: set a template that writes contents as they are"
            )
        shift = span.start - trimmed
        first, last = max(start + shift, span.start), min(end + shift, span.end)
        if first < last:  # otherwise all of it was trimmed
            found.append((first, last))
    return found


@dataclass
class _Tokens:
    """The tokens of one document.

    Attributes:
        ids: Token ids, `[pos]`.
        starts: The first character of each, in the text or in the rendered chat, `[pos]`.
        ends: The character after its last one, `[pos]`.
        special: Which of them are special tokens, or were added by the tokenizer, `[pos]`.
        rendering: The rendered chat; `None` for plain text.
    """

    ids: list[int]
    starts: np.ndarray
    ends: np.ndarray
    special: np.ndarray
    rendering: Rendering | None = None


def _tokens(tokenizer: Any, part: Sequence[tuple[int, Text]], add_generation_prompt: bool) -> list[_Tokens]:
    """The tokens of some numbered documents."""
    renderings: list[Rendering | None] = []
    for index, text in part:
        with _naming(index, text):
            renderings.append(_rendering(tokenizer, text, add_generation_prompt) if text.is_chat else None)
    known = special_ids(tokenizer)
    # Of a chat the template writes all special tokens itself, as apply_chat_template does.
    chats = iter(_encodings(tokenizer, [r.text for r in renderings if r], add_special_tokens=False))
    plain = iter(_encodings(tokenizer, [str(text.text) for _, text in part if not text.is_chat]))
    return [
        _plain_tokens(tokenizer, str(text.text), next(plain), known)
        if rendering is None
        else _chat_tokens(tokenizer, text, rendering, next(chats), known)
        for (_, text), rendering in zip(part, renderings, strict=True)
    ]


def _encodings(tokenizer: Any, strings: Sequence[str], add_special_tokens: bool = True) -> list[Any]:
    """What the tokenizer makes of some strings, as `tokenizers.Encoding`: ids, offsets, tokens."""
    if not strings:
        return []
    options = {"add_special_tokens": add_special_tokens, "return_attention_mask": False, "verbose": False}
    return tokenizer(list(strings), **options).encodings


def _plain_tokens(tokenizer: Any, text: str, encoding: Any, known: set[int]) -> _Tokens:
    ids = encoding.ids
    starts, ends = _character_spans(encoding, len(text))
    added = np.array(encoding.special_tokens_mask, dtype=bool)
    twice = len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id and bool(added[0])
    special = added | _among(ids, known)
    return _Tokens(ids[twice:], starts[twice:], ends[twice:], special[twice:])


def _rendering(tokenizer: Any, text: Text, add_generation_prompt: bool) -> Rendering:
    if add_generation_prompt and text.answer is not None:
        raise BadData("the chat ends in an assistant message, so that there is nothing to generate: use its .prompt")
    messages = [message.to_json() for message in text.messages]
    for message in messages:
        message.pop("train", None)
    return render_chat(tokenizer, messages, add_generation_prompt=add_generation_prompt, inputs=text.inputs)


def _chat_tokens(tokenizer: Any, text: Text, rendering: Rendering, encoding: Any, known: set[int]) -> _Tokens:
    ids = encoding.ids
    starts, ends = _character_spans(encoding, len(rendering.text))
    special = _among(ids, known)
    borders = _merged_borders(rendering, [m.role for m in text.messages], special, starts, ends)
    if borders:
        parted = _parted(tokenizer, rendering.text, borders)
        if tokenizer.decode(parted[0]) == tokenizer.decode(ids):
            ids, starts, ends = parted
            special = _among(ids, known)
    return _Tokens(ids, starts, ends, special, rendering)


def _parted(tokenizer: Any, text: str, borders: Sequence[int]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Token ids of `text`, none of them across a border, with their starts and ends in characters."""
    ids: list[int] = []
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    places = list(pairwise([0, *borders, len(text)]))
    pieces = _encodings(tokenizer, [text[start:end] for start, end in places], add_special_tokens=False)
    for (start, end), encoding in zip(places, pieces, strict=True):
        ids += encoding.ids
        spans = _character_spans(encoding, end - start)
        starts.append(spans[0] + start)
        ends.append(spans[1] + start)
    return ids, np.concatenate(starts), np.concatenate(ends)


def _roles_and_loss(tokenizer: Any, text: Text, tokens: _Tokens) -> tuple[np.ndarray, np.ndarray]:
    """The role of each token, and which ones training learns, `[pos]` each."""
    if tokens.rendering is None:
        roles = np.where(tokens.special, SPECIAL, TEXT).astype(np.int8)
        loss = roles == TEXT
        if tokenizer.eos_token_id is not None:
            loss[1:] |= np.array(tokens.ids[1:], dtype=np.int64) == tokenizer.eos_token_id
        return roles, loss
    roles = np.full(len(tokens.ids), SPECIAL, dtype=np.int8)
    for span in tokens.rendering.contents:
        inside = _touching(tokens.starts, tokens.ends, span.start, span.end)
        # A special token may swallow the whitespace after it (Phi-3): it stays the template's.
        swallowed = tokens.special[inside] & (tokens.starts[inside] < span.start)
        roles[inside] = np.where(swallowed, roles[inside], _ROLE_OF[text.messages[span.message].role])
    loss = _loss(tokens.rendering, roles, tokens.special, tokens.starts, tokens.ends)
    if any(message.train is False for message in text.messages):
        loss &= ~_not_learned(text, tokens)
    return roles, loss


def _not_learned(text: Text, tokens: _Tokens) -> np.ndarray:
    """The tokens of turns that say that they are not learned, `[pos]`: from the prompt to the next message."""
    assert tokens.rendering is not None
    found = np.zeros(len(tokens.ids), dtype=bool)
    spans = tokens.rendering.contents
    opened = {message: start for start, _, message in tokens.rendering.openings}
    after = len(tokens.rendering.text)
    for span in reversed(spans):
        start = opened.get(span.message, span.start)
        if text.messages[span.message].train is False:
            found[_touching(tokens.starts, tokens.ends, start, after)] = True
        after = start
    return found


def _merged_borders(
    rendering: Rendering, roles: Sequence[str], special: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> list[int]:
    """Where an answer begins or ends in the middle of a token.

    A header's newline and an answer's indentation can be one token. A model that is asked for the answer is given the
    header alone and never writes such a token, so training must not show it one. A lone space before the answer is
    another matter: there the model does write " answer" as one token, header and all.
    """

    def across(border: int) -> int | None:
        """The token that holds characters on both sides."""
        tokens = _touching(starts, ends, border, border)
        return next((token for token in range(tokens.start, tokens.stop) if not special[token]), None)

    borders = set()
    for span in rendering.contents:
        if roles[span.message] != "assistant" or span.start == span.end:
            continue
        for border in (span.start, span.end):
            token = across(border)
            if token is not None and (border == span.end or rendering.text[starts[token] : border].strip(" ")):
                borders.add(border)
    borders.update(start for start, _, _ in rendering.openings if across(start) is not None)
    return sorted(borders)


def _loss(
    rendering: Rendering, roles: np.ndarray, special: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """What the assistant said, the token that ends each turn, and all that the template marks as generated."""
    marked = rendering.marked
    if marked is None:
        loss = roles == ASSISTANT
        for start, end, _ in rendering.openings:
            loss[_touching(starts, ends, start, end)] = True
    else:
        loss = np.zeros(len(roles), dtype=bool)
        for start, end in marked:
            inside = _touching(starts, ends, start, end)
            loss[inside] |= (roles[inside] == ASSISTANT) | (roles[inside] == SPECIAL)
            # What the prompt gives is not the model's to write, wherever the marks begin.
            given = bisect_right(rendering.asked, end) - 1
            if given >= 0 and rendering.asked[given] > start:
                loss[_touching(starts, ends, start, rendering.asked[given])] = False
    said = {span.message: span for span in rendering.contents}
    begins = [start for start, _ in marked or ()]
    specials = np.flatnonzero(special)
    for start, end, message in rendering.closings:
        span = said[message]
        if marked is not None:
            before = bisect_right(begins, span.start) - 1
            if before < 0 or marked[before][1] < span.end:
                continue
        if end < 0:  # up to the first special token, if only whitespace lies between
            after = int(np.searchsorted(starts[specials], start))
            there = after < len(specials) and not rendering.text[start : starts[specials[after]]].strip()
            end = int(ends[specials[after]]) if there else start
        closing = _touching(starts, ends, start, end)
        loss[closing] |= roles[closing] == SPECIAL
    return loss


def _character_spans(encoding: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of tokens in characters, `[pos]` each, with the spaces that trimmed offsets leave out.

    Byte-level tokenizers with `trim_offsets` (GPT-2, Llama 3) leave leading and trailing spaces out of the offsets,
    for a token of spaces all of them; the token itself, where a space is written Ġ, tells how many they were.
    """
    pairs = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = pairs[:, 0].copy(), np.maximum.accumulate(pairs[:, 1])
    before = np.concatenate([[0], ends])
    if len(starts) and before[-1] == length and (starts == before[:-1]).all():
        return starts, ends  # nothing was left out
    tokens = encoding.tokens
    for i in np.flatnonzero(np.append(starts, length) > before).tolist():
        gap = (starts[i] if i < len(starts) else length) - before[i]
        if i < len(starts):
            leading = min(gap, len(tokens[i]) - len(tokens[i].lstrip("Ġ")))
            starts[i] -= leading
            gap -= leading
        if i > 0:
            ends[i - 1] += min(gap, len(tokens[i - 1]) - len(tokens[i - 1].rstrip("Ġ")))
    return starts, ends


def _touching(starts: np.ndarray, ends: np.ndarray, start: int, end: int) -> slice:
    """The tokens that hold a character of `[start, end)`; of an empty stretch, those with characters on both sides."""
    first, last = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(starts, end, "left"))
    return slice(first, max(first, last))


def special_ids(tokenizer: Any) -> set[int]:
    """Every token of a tokenizer that is special: the named ones and the added ones that say so."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {number for number, token in added.items() if token.special}


def _among(ids: Sequence[int], known: set[int]) -> np.ndarray:
    """Which of some tokens are in a set, `[pos]`."""
    return np.fromiter((number in known for number in ids), dtype=bool, count=len(ids))


def encode_all(
    tokenizer: Any,
    texts: Iterable[Text],
    *,
    max_length: int | None = None,
    need_loss: bool = True,
    template_arguments: Mapping[str, Any] | None = None,
) -> list[Encoded]:
    """All documents as tokens, for training: `encode` each, and refuse a data set that has nothing to learn.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        texts: The documents.
        max_length: Cut each after this many tokens.
        need_loss: Whether documents without a token to learn are dropped (with a warning that counts them).
        template_arguments: As for `encode`.

    Warns:
        UserWarning: Once, when what is asked is no prefix of what is trained, saying what differs.

    Raises:
        BadData: With `need_loss`, when no document has a token to learn, saying whether `max_length` is the cause.
    """
    watch = Cuts(max_length)
    kept = []
    for item in encoded(tokenizer, texts, max_length=max_length, template_arguments=template_arguments):
        watch.see(item)
        if item.loss.any() or not need_loss:
            kept.append(item)
    if need_loss and not watch.learnable and watch.lost:
        raise BadData(
            f"Nothing to learn: max_length={max_length} cuts the whole answer off in all {watch.lost} of "
            f"{watch.texts} texts that have one. Raise max_length or shorten the prompts."
        )
    if need_loss and not watch.learnable:
        raise BadData(f"Nothing to learn: none of {watch.texts} texts has an assistant message. Give answers to learn.")
    watch.warn(need_loss)
    return kept


@dataclass
class Cuts:
    """Counts what truncation takes, so that it is never silent."""

    max_length: int | None
    texts: int = 0
    cut: int = 0
    learnable: int = 0
    lost: int = 0
    unasked: int = 0
    complaint: str = ""

    def see(self, item: Encoded) -> None:
        self.texts += 1
        self.cut += item.cut > 0
        self.learnable += bool(item.loss.any())
        self.lost += item.cut_loss > 0 and not item.loss.any()
        self.unasked += bool(item.complaint)
        self.complaint = self.complaint or item.complaint

    def warn(self, need_loss: bool = False) -> None:
        parts = []
        if self.cut:
            parts.append(f"{self.cut} of {self.texts} texts were cut at max_length={self.max_length} tokens")
        if self.cut and self.lost:
            parts.append(f"{self.lost} of them lost their whole answer")
        if need_loss and self.texts > self.learnable:
            parts.append(f"{self.texts - self.learnable} of {self.texts} texts have no token to learn and were dropped")
        if parts:
            warnings.warn("; ".join(parts) + ".", stacklevel=3)
        if need_loss and self.complaint:
            many = f"Of {self.unasked} of {self.texts} texts: " if self.texts > 1 else ""
            warnings.warn(f"{many}{self.complaint}.", stacklevel=3)
