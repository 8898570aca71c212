"""A corpus to train sparse autoencoders on, made of what can be had without a hub; the same each time on one machine.

    documents           the corpus in two parts, to train on and held out
    training_snippets   the rated snippets that may be in it
    Corpus              the two parts, and what they are made of
    SHARES              source -> how many characters it gives at most

Texts are cut into documents at the ends of paragraphs and sentences, each paragraph is taken once, and documents are
mixed by their hashes. Which part a document belongs to is decided by a hash of what it was cut from, so that no two
pieces of one page stand on both sides. Of rated snippets only the training split is here, and no page of any task.

What it holds differs from machine to machine (other packages, another Python), which is why the card of an SAE says
how much of what it was trained on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from caft_data.worlds.smollm2.own_chats import ABOUT
from caft_data.worlds.smollm2.ratings import PLACES, ratings
from caft_data.worlds.smollm2.reviews import split_of
from caft_data.worlds.smollm2.sources import (
    Origin,
    key,
    names_somebody,
    package_documentation,
    paragraphs,
    python_documentation,
    system_documentation,
)
from caft_lens._support.files import sha256
from caft_lens.text.documents import Message, Text, Texts

LONGEST = 850
"""Characters of a document: about 200 tokens of prose, 256 of code."""
SHORTEST = 100
"""Characters below which the rest of a page is no document."""
SHARES: Mapping[str, int] = {
    "python documentation": 3_000_000,
    "package documentation": 3_500_000,
    "system documentation": 4_500_000,
}
"""Source -> characters that it gives at most; about four a token."""
FAMILY = 0.02
"""Share of a source that one family of texts may take: no program with a thousand manual pages has the word."""
HELD_OUT = 0.02
"""Share of all texts, by hash, that nothing is trained on."""
ASKED = 4
"""One in so many rated snippets stands in a chat, as what a user says."""

REVIEWS, CHATS = "rated snippets", "chats of the model"
Make = Callable[[], list[Origin]]
READERS: Mapping[str, Make] = {
    "python documentation": python_documentation,
    "package documentation": package_documentation,
    "system documentation": system_documentation,
}


@dataclass(frozen=True)
class Corpus:
    """Documents with their source as `meta["source"]`.

    Attributes:
        train: To train on, mixed.
        held_out: To measure on, mixed.
        seed: Of the order.
    """

    train: Texts
    held_out: Texts
    seed: int = 0

    def sizes(self, count: Callable[[Text], int] = lambda text: len(_said(text))) -> dict[str, int]:
        """How much each source gives to both parts together, in characters or as `count` counts.

        Example:
            >>> one = Text(text="A line.", meta={"source": "notes"})
            >>> Corpus(Texts([one]), Texts([one])).sizes()
            {'notes': 14}
        """
        found: Counter[str] = Counter()
        for text in chain(self.train, self.held_out):
            found[text.meta["source"]] += count(text)
        return dict(found.most_common())

    def with_chats(self, chats: Iterable[Text]) -> Corpus:
        """The same with chats of the model mixed in, each once; those that quote a document are never held out.

        Args:
            chats: As `own_chats.chats` gives them, with passages from `train`.
        """
        taken: set[str] = set()
        parts: dict[bool, list[Text]] = {False: list(self.train), True: list(self.held_out)}
        for text in chats:
            said = _said(text)
            if not names_somebody(said) and _new(said, taken):
                held_out = ABOUT not in text.meta and is_held_out(text.messages[0].content)
                parts[held_out].append(Text(text.messages, meta={"source": CHATS}))
        return _mixed(parts, self.seed)


def documents(
    *,
    snippets: Iterable[str] = (),
    shares: Mapping[str, int] = SHARES,
    readers: Mapping[str, Make] = READERS,
    seed: int = 0,
) -> Corpus:
    """The corpus.

    Args:
        snippets: Rated snippets of the training split; `training_snippets` gives them.
        shares: Source -> characters at most.
        readers: Source -> where its texts are.
        seed: Of the order.

    Returns:
        Its two parts.

    Example:
        >>> one = Origin("a", "a", lambda: "Sinks take attention that has nothing to rest on, and say nothing. " * 3)
        >>> found = documents(readers={"notes": lambda: [one]}, shares={"notes": 1000})
        >>> len(found.train) + len(found.held_out)
        1
    """
    taken: set[str] = set()
    parts: dict[bool, list[Text]] = {False: [], True: []}

    def keep(origin: str, texts: Iterable[Text]) -> int:
        kept = list(texts)
        parts[is_held_out(origin)] += kept
        return sum(len(_said(text)) for text in kept)

    for number, snippet in enumerate(sorted(set(snippets), key=sha256)):
        if _new(snippet, taken):
            keep(snippet, [_reviewed(snippet, asked=number % ASKED == 0)])
    for source, most in shares.items():
        left, by_family = most, Counter[str]()
        for origin in readers[source]():
            # Every family has at least one document.
            room = min(left, max(LONGEST, int(FAMILY * most)) - by_family[origin.family])
            if room >= SHORTEST:
                read = (part for part in paragraphs(origin.read()) if _new(part, taken))
                gave = keep(origin.name, _of_source(source, _upto(cut(read), room)))
                by_family[origin.family] += gave
                left -= gave
            if left < SHORTEST:
                break
    return _mixed(parts, seed)


def training_snippets() -> list[str]:
    """The rated snippets of the training split, from all places, those that no page asks about among them.

    Raises:
        MissingFile: As for `ratings.ratings`.
    """
    found = (one.text for place in PLACES for one in ratings(place))
    return [text for text in found if split_of(text) == "train"]


def _mixed(parts: Mapping[bool, list[Text]], seed: int) -> Corpus:
    def one(side: bool, name: str) -> Texts:
        mine = sorted(parts[side], key=lambda text: sha256(f"{seed} {_said(text)}"))
        return Texts(mine, name=name)

    return Corpus(one(False, "smollm2 corpus"), one(True, "smollm2 corpus, held out"), seed)


def is_held_out(origin: str) -> bool:
    """Whether what was cut from this text is held out.

    Example:
        >>> sum(map(is_held_out, map(str, range(1000))))
        23
    """
    return int(sha256(f"held out {origin}")[:8], 16) / 16**8 < HELD_OUT


def cut(parts: Iterable[str], longest: int = LONGEST) -> Iterator[str]:
    """Documents of consecutive paragraphs; a paragraph that is longer is cut at ends of sentences, or between words.

    Example:
        >>> list(cut(["One. Two.", "Three four."], longest=8))
        ['One.', 'Two.', 'Three', 'four.']
        >>> list(cut(["One. Two.", "Three."], longest=20))
        ['One. Two.\\n\\nThree.']
    """
    held = ""
    for part in parts:
        for number, piece in enumerate(_pieces(part, longest)):
            joined = f"{held}\n\n{piece}" if held and not number else piece
            if number == 0 and held and len(joined) <= longest:
                held = joined
                continue
            if held:
                yield held
            held = piece
    if held:
        yield held


def _pieces(part: str, longest: int) -> Iterator[str]:
    """A paragraph in pieces that are short enough."""
    held = ""
    for sentence in re.split(r"(?<=[.!?:;]) +|\n(?=\S)", part) if len(part) > longest else [part]:
        for words in _words(sentence, longest):
            if held and len(held) + 1 + len(words) > longest:
                yield held
                held = ""
            held = f"{held} {words}" if held else words
    if held:
        yield held


def _words(sentence: str, longest: int) -> Iterator[str]:
    while len(sentence) > longest:
        end = sentence.rfind(" ", 1, longest)
        end = longest if end < 0 else end
        yield sentence[:end]
        sentence = sentence[end:].lstrip()
    yield sentence


def _upto(texts: Iterable[str], room: int) -> Iterator[str]:
    for text in texts:
        if len(text) < SHORTEST:
            continue
        room -= len(text)
        if room < 0:
            return
        yield text


def _of_source(source: str, texts: Iterable[str]) -> Iterator[Text]:
    return (Text(text=text, meta={"source": source}) for text in texts)


def _reviewed(snippet: str, asked: bool) -> Text:
    meta = {"source": REVIEWS}
    return Text((Message("user", snippet),), meta=meta) if asked else Text(text=snippet, meta=meta)


def _new(text: str, taken: set[str]) -> bool:
    """Whether nothing like it was taken before; it is taken now."""
    mark = key(text)
    if mark in taken:
        return False
    taken.add(mark)
    return True


def _said(text: Text) -> str:
    return text.text if text.text is not None else "\n".join(turn.content for turn in text.messages)
