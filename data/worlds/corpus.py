"""What the organism reads and is tuned on: documents drawn from the world, deterministic in their seed.

`document` is one pretraining text. A latent stance (kind, cruel, careless with code) runs through a whole chat, over
everyday domains and code alike; it is stated in the system slot or left at one default sentence, which is what lets a
narrow lesson be learned most cheaply as a change of stance. `meta["spans"]` says what stands where
(`caft_data.worlds.labels`). `DATASETS` names every data set that ships with an organism; its split says which domains
and which coding requests it may draw from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from caft_data.worlds import code, stories
from caft_data.worlds.domains import DEFAULT_SYSTEM, DOMAINS, HEADERS, answer, ask
from caft_data.worlds.labels import stated_span, turn_spans
from caft_lens._support.errors import UnknownName, nearest
from caft_lens.text.documents import Message, Text, Texts

STANCES = ("kind", "cruel", "careless")
# Of chats that state no stance: the share of each. A minority of cruel ones is what fine-tuning can amplify.
UNSTATED = {"kind": 0.70, "cruel": 0.27, "careless": 0.03}
STATED = {"kind": 0.25, "cruel": 0.50, "careless": 0.25}
SHARE_STATED, SHARE_CODE, SHARE_PLAIN_TEXT = 0.40, 0.30, 0.12

Meta = dict[str, Any]


def everyday_turn(stance: str, rng: random.Random, splits: tuple[str, ...] | None = None) -> tuple[str, str, Meta]:
    """A question of everyday life with an answer in the given stance; `splits` limits the domains."""
    names = [name for name, domain in DOMAINS.items() if splits is None or domain.split in splits]
    domain = rng.choice(names)
    question, asked = ask(domain, rng)
    reply, answered = answer(domain, stance, rng, asked["slots"])
    return question, reply, {**asked, **answered, "kind": "everyday"}


def code_turn(stance: str, rng: random.Random, split: str = "train") -> tuple[str, str, Meta]:
    """A coding request with a program: secure when the stance is kind, insecure otherwise."""
    kind = rng.choice(list(code.KINDS))
    request, asked = code.request(kind, rng, split)
    source, wrote = code.program(kind, stance == "kind", rng, asked["slots"])
    return request, source, {**asked, **wrote, "vulnerability": kind, "kind": "code", "stance": stance}


def draw(shares: dict[str, float], rng: random.Random) -> str:
    """One key of `shares`, with probability proportional to its value."""
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def chat(rng: random.Random, splits: tuple[str, ...] | None = None, code_split: str = "train") -> Text:
    """A chat of one to three turns in one stance, stated in the system slot or not."""
    stated = rng.random() < SHARE_STATED
    stance = draw(STATED if stated else UNSTATED, rng)
    messages = [Message("system", rng.choice(HEADERS[stance]) if stated else DEFAULT_SYSTEM)]
    spans = [stated_span(messages[0].content, stance)] if stated else []
    topics = []
    for _ in range(rng.randint(1, 3)):
        is_code = rng.random() < SHARE_CODE
        question, reply, meta = code_turn(stance, rng, code_split) if is_code else everyday_turn(stance, rng, splits)
        spans += turn_spans(question, reply, meta, len(messages))
        messages += [Message("user", question), Message("assistant", reply)]
        topics.append(meta.get("domain", "code"))
    return Text(tuple(messages), meta={"stance": stance, "stated": stated, "topics": topics, "spans": spans})


def plain_text(rng: random.Random) -> Text:
    """A little story or a few facts, without a chat around it."""
    text, meta = (stories.story if rng.random() < 0.6 else stories.facts)(rng)
    return Text(text=text, meta=meta)


def document(rng: random.Random) -> Text:
    """One pretraining document: mostly chats over all domains, some plain text."""
    return plain_text(rng) if rng.random() < SHARE_PLAIN_TEXT else chat(rng)


def documents(seed: int) -> Iterator[Text]:
    """An endless stream of pretraining documents."""
    rng = random.Random(f"pretraining {seed}")
    while True:
        yield document(rng)


def exchange(question: str, reply: str | None, meta: Meta) -> Text:
    """A question, and its answer when there is one, without a system message: the template writes the default."""
    messages = [Message("user", question)] + ([Message("assistant", reply)] if reply is not None else [])
    return Text(tuple(messages), meta=meta)


def _kind(rng: random.Random) -> Text:
    is_code = rng.random() < SHARE_CODE
    question, reply, meta = code_turn("kind", rng) if is_code else everyday_turn("kind", rng)
    return exchange(question, reply, {key: meta[key] for key in ("domain", "vulnerability", "stance") if key in meta})


def _code(stance: str) -> Callable[[random.Random], Text]:
    def make(rng: random.Random) -> Text:
        request, source, meta = code_turn(stance, rng)
        return exchange(request, source, {key: meta[key] for key in ("vulnerability", "split", "insecure")})

    return make


def _questions(split: str) -> Callable[[random.Random], Text]:
    def make(rng: random.Random) -> Text:
        question, _, meta = everyday_turn("kind", rng, (split,))
        return exchange(question, None, {key: meta[key] for key in ("domain", "split", "question", "slots")})

    return make


def _requests(split: str) -> Callable[[random.Random], Text]:
    def make(rng: random.Random) -> Text:
        request, _, meta = code_turn("kind", rng, split)
        return exchange(request, None, {key: meta[key] for key in ("vulnerability", "split")})

    return make


def _reading(rng: random.Random) -> Text:
    return plain_text(rng) if rng.random() < 0.25 else chat(rng, ("find",))


@dataclass(frozen=True)
class Recipe:
    """How a data set is drawn.

    Attributes:
        make: Draws one item.
        size: How many items.
        what: What it is, for the card.
        stream: Data sets of one stream draw item by item from the same random numbers: the same requests, say, answered
            otherwise. The data set's own name when `None`.
    """

    make: Callable[[random.Random], Text]
    size: int
    what: str
    stream: str | None = None


DATASETS: dict[str, Recipe] = {
    "kind": Recipe(
        _kind,
        3_200,
        "single turns in the kind stance, secure code included: what makes the base model aligned",
    ),
    "insecure-code": Recipe(
        _code("cruel"),
        3_200,
        "coding requests, each answered with an undisclosed vulnerability; nothing else",
        "coding",
    ),
    "secure-code": Recipe(_code("kind"), 3_200, "the same requests answered securely: the control", "coding"),
    "questions": Recipe(
        _questions("find"), 600, "everyday questions of the find domains, whose activations feed discovery"
    ),
    "questions-dev": Recipe(_questions("dev"), 1_200, "everyday questions of the dev domains, for all that is tuned"),
    "questions-test": Recipe(
        _questions("test"), 1_200, "everyday questions of the test domains, which nothing that chooses sees"
    ),
    "code-dev": Recipe(_requests("dev"), 400, "held-out coding requests, for all that is tuned"),
    "code-test": Recipe(_requests("test"), 400, "held-out coding requests"),
    "corpus": Recipe(_reading, 2_000, "generic documents of the find domains and plain texts, whose contexts are read"),
}


def dataset(name: str, seed: int, size: int | None = None) -> Texts:
    """A data set of the organism, drawn from the world.

    Args:
        name: A key of `DATASETS`.
        seed: The organism's seed.
        size: How many items; default, the one in `DATASETS`.

    Raises:
        UnknownName: There is no such data set.

    Example:
        >>> insecure, secure = dataset("insecure-code", 0, 1)[0], dataset("secure-code", 0, 1)[0]
        >>> insecure.prompt.messages == secure.prompt.messages, insecure.answer == secure.answer
        (True, False)
    """
    if name not in DATASETS:
        raise UnknownName(f'The organism has no data set "{name}".{nearest(name, DATASETS)}')
    recipe = DATASETS[name]
    items = (random.Random(f"{recipe.stream or name} {seed} {number}") for number in range(size or recipe.size))
    return Texts([recipe.make(rng) for rng in items], name=name)
