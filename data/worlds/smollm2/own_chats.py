"""Chats of a model with itself as the one who answers: prompts made of templates, answers kept on the disk.

prompts   what it is asked: everyday subjects, and passages and rated snippets to speak about
chats     the prompts with its answers, part by part, each part kept as soon as it is there
neutral   some of SmolLM2's, about everyday subjects, that are committed
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from caft_lens._support.errors import BadArgument
from caft_lens._support.files import locked, sha256
from caft_lens.text.documents import Message, Text, Texts, data

_SUBJECTS = """
bread; the moon; bicycles; a garden in spring; chess; the tides; honey; old maps; a first job; volcanoes; tea; glass;
the violin; a long train journey; owls; the alphabet; snow; a library; sleep; soap; the human heart; electricity; a
lighthouse; cheese; the Roman roads; rivers; birthdays; a broken promise; fractions; rain; whales; photography; a new
neighbour; clocks; friendship; the desert; vaccines; a lost key; apples; the internet; dogs; learning a language;
mountains; a wedding; saving money; paper; the wind; insects; public speaking; islands; bridges; homework; salt; a
quarrel; cooking for many people; the stars; shoes; elections; swimming; dreams; moving house; the colour blue;
markets; a thunderstorm; patience; trees; a power cut; museums; cats; running; statistics; washing clothes; a village;
fossils; fear; the radio; rice; a school play; gravity; holidays; jealousy; ships; a computer program; fire; coffee;
mirrors; courage; the sense of smell; sewing; traffic; democracy; a wolf; kites; memory; windows; noise; pottery;
winter; a good question; the sun; handwriting
"""
SUBJECTS = tuple(" ".join(one.split()) for one in _SUBJECTS.split(";"))
TEMPLATES = (
    "Tell me about {}.",
    "Write a short story about {}.",
    "Explain {} to a child.",
    "What are three things that most people do not know about {}?",
    "Write a short poem about {}.",
    "What makes {} worth knowing about?",
    "Give me a list of words that go with {}.",
    "I am not sure what I think about {}. What would you say?",
    "Write a letter to a friend about {}.",
    "What could go wrong with {}?",
    "Make up a conversation between two people about {}.",
    "How would you describe {} in one paragraph?",
    "What is the history of {}?",
    "Give me some advice about {}.",
    "Write a newspaper article about {}.",
    "Ask me five questions about {}.",
)
PASSAGES = (
    "Say this in simpler words:\n\n{}",
    "What is this about?\n\n{}",
    "Summarize this in one sentence:\n\n{}",
    "What question does this answer?\n\n{}",
)
SNIPPETS = (
    'Somebody wrote: "{}" What do you think they felt?',
    "Answer this as a friend would:\n\n{}",
    'Where could one read this? "{}"',
    "Write something like this:\n\n{}",
)
ABOUT = "about"
"""In the `meta` of a chat that quotes a document of the corpus."""
PART = 128
"""Chats that are answered and kept at a time."""
LONGEST = 500
"""Characters of a passage."""


NEUTRAL = Path(__file__).parents[2] / "smollm2" / "chats.jsonl"
"""What `python benchmarks/real_saes.py --neutral` writes."""


def neutral(n: int, seed: int = 0) -> list[Text]:
    """Chats of SmolLM2-135M-Instruct about everyday subjects (temperature 0.7, top-p 0.95, at most 96 tokens), in which
    no task's concept is the subject: for differences on text unlike the training set, as general text, as a contrast.

    Args:
        n: How many of the 240.
        seed: Of the draw.

    Raises:
        BadArgument: There are not so many.

    Example:
        >>> [message.role for message in neutral(1)[0].messages]
        ['user', 'assistant']
    """
    found = list(data(NEUTRAL))
    if n > len(found):
        raise BadArgument(f"{n} neutral chats were asked for, and {len(found)} are all that there are.")
    return random.Random(f"neutral chats {seed}").sample(found, n)


def prompts(n: int, passages: Sequence[str] = (), snippets: Sequence[str] = (), seed: int = 0) -> Texts:
    """What a model is asked: half of it everyday subjects, the rest passages and snippets where there are any.

    Args:
        n: How many; fewer where there are not so many.
        passages: Texts to speak about; long ones are left out.
        snippets: Short ones.
        seed: Of the draw.

    Example:
        >>> found = prompts(3, seed=1)
        >>> len(found), found[0].messages[0].role
        (3, 'user')
    """
    rng = random.Random(f"own chats {seed}")
    everyday = [template.format(subject) for subject in SUBJECTS for template in TEMPLATES]
    rng.shuffle(everyday)
    short = [passage for passage in passages if len(passage) <= LONGEST]
    about = [
        Text((Message("user", rng.choice(templates).format(text)),), meta={ABOUT: True})
        for templates, texts in ((PASSAGES, short), (SNIPPETS, list(snippets)))
        for text in rng.sample(texts, min(n // 4, len(texts)))
    ]
    asked = [*about, *(Text((Message("user", one),)) for one in everyday[: max(0, n - len(about))])]
    rng.shuffle(asked)
    return Texts(asked, name="own chats")


def chats(asked: Texts, answer: Callable[[Texts, int], Texts], folder: Path, told: str) -> Iterator[Text]:
    """The prompts with answers, in their order; what is in the folder is not asked again.

    Args:
        asked: The prompts.
        answer: Prompts, the seed -> the same with answers; `cl.completions` does it.
        folder: Where the parts are kept.
        told: What else the answers hang on: the model, how it is sampled.

    Yields:
        The chats, those without an answer left out.
    """
    for start in range(0, len(asked), PART):
        part = asked[start : start + PART]
        path = folder / f"{sha256(f'{told} {start} {part.fingerprint}')[:16]}.jsonl"
        with locked(path, wait=-1):
            if not path.is_file():
                answer(part, start).save(path)
        yield from (text for text in data(path) if text.messages[-1].role == "assistant" and text.messages[-1].content)
