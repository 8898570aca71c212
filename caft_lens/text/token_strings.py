"""What tokens say, as strings that make up the text when joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no whole character."""
# What each token says when it is decoded alone, by tokenizer.
_ALONE: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token `[pos]` adds to the text: spaces are kept, and a character of several tokens stands at its last.

    Joined, they make up the text.
    """
    # Where tokens are decoded alike alone and in a row, one decoding of the row shows it: as a rule, and much quicker.
    alone = _ALONE.setdefault(tokenizer, {})
    known = [alone[one] if one in alone else alone.setdefault(one, _decoded(tokenizer, [one])) for one in ids]
    if not any(BROKEN in one for one in known) and "".join(known) == _decoded(tokenizer, ids):
        return known
    found: list[str] = []
    shown = ""
    for end in range(1, len(ids) + 1):
        text = _decoded(tokenizer, ids[:end])
        whole = not text.endswith(BROKEN) or end == len(ids)
        found.append(text[len(shown) :] if whole else "")
        shown = text if whole else shown
    return found


def token_string(tokenizer: Any, number: int) -> str:
    """What one token says; a token that is but a part of a character is its name in the vocabulary."""
    text = _decoded(tokenizer, [number])
    broken = not text or BROKEN in text
    return str(tokenizer.convert_ids_to_tokens(number)) if broken else text


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
