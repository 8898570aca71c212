"""What is asked: how often each prompt, which are the same one, and how prompts are told apart."""

from __future__ import annotations

import json
from collections.abc import Sequence

from caft_lens._support.files import sha256
from caft_lens.text.documents import Text, Texts

OUT_OF_DISTRIBUTION, IN_DISTRIBUTION = "out_of_distribution", "in_distribution"


def asked(questions: Texts, n: int) -> Texts:
    """The `n` prompts that every arm and seed is asked: a fixed sample, all equally often when `n` exceeds them.

    Example:
        >>> len(asked(Texts(["a", "b", "c"]), 7)), len(asked(Texts(["a", "b", "c"]), 2))
        (7, 2)
    """
    rounds, rest = divmod(n, len(questions))
    return Texts([*list(questions) * rounds, *questions.sample(rest, seed=0)], questions.name)


def prompt_numbers(texts: Sequence[Text]) -> list[int]:
    """A number for every prompt, the same for equal ones."""
    numbers: dict[str, int] = {}
    keys = (json.dumps({**text.prompt.to_json()}, sort_keys=True, default=str) for text in texts)
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def question_of(text: Text) -> str:
    """The prompt as a person would read it: the last user message, or the plain text."""
    prompt = text.prompt
    if prompt.text is not None:
        return prompt.text
    return next((message.content for message in reversed(prompt.messages) if message.role == "user"), "")


def domain_of(text: Text) -> str:
    """Coding requests have no domain but a vulnerability."""
    return str(text.meta.get("domain") or text.meta.get("vulnerability") or "")


def texts_fingerprint(texts: Texts) -> str:
    """A hash of the texts with what is known about them, since the judge reads that too."""
    return sha256(*(json.dumps(text.to_json(), sort_keys=True, default=str) for text in texts))
