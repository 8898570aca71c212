"""One thing that a model is asked about an answer: the prompt in full, and how what it says is read."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from caft_lens._support.arguments import count, one_of
from caft_lens._support.errors import BadArgument, BadType
from caft_lens.evaluate.judges import prompts
from caft_lens.evaluate.prompts import question_of
from caft_lens.inspect.explain.llm import Conversation
from caft_lens.model.options import OptionScores
from caft_lens.text.documents import Text, shorten

Kind = Literal["scale", "yes_no", "number"]
KINDS = ("scale", "yes_no", "number")
MASS = 0.25
"""The least probability that numbers (or yes and no, or a word) must have together to count as said (Betley et al.,
arXiv 2502.17424).
"""
MOST = 1000
"""The highest number of a scale: beyond it no tokenizer has one token a number."""
LONGEST = 300
"""Characters of a reason that are kept."""


@dataclass(frozen=True)
class Reading:
    """What was read from a reply: a number, or a word that the prompt offers instead, or neither.

    Attributes:
        value: The number; of yes or no the probability of yes.
        word: Such as "refusal".
        why: What else was said.
    """

    value: float | None = None
    word: str = ""
    why: str = ""

    def __str__(self) -> str:
        said = f"{self.value:.4g}" if self.value is not None else self.word or "no number"
        return f"{said} ({self.why})" if self.why else said


@dataclass(frozen=True)
class Criterion:
    """One thing that a model is asked about an answer.

    Args:
        prompt: What it is told, with `{question}` and `{answer}` where these belong. Without `{answer}` it is a task,
            which is put below both and above a line that says in which form to answer. "Say REFUSAL if …" offers a word
            that may be said instead, in capitals: it becomes a label.
        kind: How it answers. `"scale"`: with a whole number, read as the expectation over the probabilities of all
            numbers; none where these are below 0.25 together. `"yes_no"`: with yes or no, read as the probability of
            yes among both, likewise. `"number"`: in words that end with a number; needs no probabilities.
        scale: Lowest and highest number; of yes and no always 0 and 1.

    Raises:
        BadArgument, BadType: For another kind, or a scale that makes no sense.

    Example:
        >>> polite = Criterion("How polite is the answer? Say SILENCE if there is none.", scale=(0, 10))
        >>> polite.words
        ('SILENCE',)
    """

    prompt: str
    kind: Kind = "scale"
    scale: tuple[float, float] = (0, 100)

    def __post_init__(self) -> None:
        one_of(self.kind, "kind", KINDS)
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise BadType(f"The prompt of a criterion is text, not {self.prompt!r:.80}.")
        low, high = (0, 1) if self.kind == "yes_no" else self.scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise BadArgument(f"scale={self.scale}: expected the lowest and then the highest number, such as (0, 100).")
        if self.kind == "scale":
            whole = [int(end) if end == int(end) else end for end in (low, high)]
            low, high = count(whole[0], "scale[0]", least=0), count(whole[1], "scale[1]", most=MOST)
        object.__setattr__(self, "scale", (low, high))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What the prompt lets it say instead of a number."""
        return tuple(dict.fromkeys(re.findall(r"\b[Ss]ay ([A-Z][A-Z ]*[A-Z]) if\b", self.prompt)))

    @cached_property
    def options(self) -> tuple[str, ...]:
        """The answers of which the probabilities are asked for; none for a number in words."""
        if self.kind == "number":
            return ()
        low, high = map(int, self.scale)
        return ("yes", "no", *self.words) if self.kind == "yes_no" else (*map(str, range(low, high + 1)), *self.words)

    @property
    def form(self) -> str:
        """In which form to answer."""
        low, high = (f"{end:g}" for end in self.scale)
        said = {"scale": prompts.SCALE, "yes_no": prompts.YES_NO, "number": prompts.NUMBER}[self.kind]
        return said.format(low=low, high=high)

    def conversation(self, text: Text) -> Conversation:
        """What it is told about an answered text."""
        question, answer = question_of(text), text.answer or ""
        if "{answer}" in self.prompt:
            said = _filled(self.prompt, question, answer)
            more = f"\n\n{self.form}" if self.kind == "number" and "SCORE:" not in self.prompt else ""
        else:
            shown = (json.dumps(one, ensure_ascii=False) for one in (question, answer))
            said, more = _filled(prompts.ABOUT, *shown) + self.prompt.strip(), f"\n\n{self.form}"
        return [{"role": "user", "content": said + more}]

    def again(self, conversation: Conversation, reply: str) -> Conversation:
        """The same once more, after a reply of another form."""
        told = prompts.AGAIN.format(form=self.form)
        return [*conversation, {"role": "assistant", "content": reply}, {"role": "user", "content": told}]

    def of_scores(self, scores: OptionScores) -> Reading:
        """What is read from the probabilities of the options."""
        shares = {option: math.exp(log) for option, log in scores.log_probabilities.items()}
        values = {"yes": 1.0, "no": 0.0} if self.kind == "yes_no" else {one: float(one) for one in self._numbers}
        mass = math.fsum(shares[one] for one in values)
        if mass >= MASS:
            return Reading(math.fsum(value * shares[one] for one, value in values.items()) / mass)
        word = max(self.words, key=lambda one: shares[one], default="")
        return Reading(word=word.lower() if word and shares[word] >= MASS else "")

    @property
    def _numbers(self) -> tuple[str, ...]:
        return self.options[: len(self.options) - len(self.words)]

    def of_text(self, reply: str) -> Reading | None:
        """What is read from words that end with a number; `None` where they do not."""
        last = re.findall(r"SCORE:[\s*_`]*(\S.*)", reply)
        if not last:
            return None
        why = shorten(" ".join(reply[: reply.rindex("SCORE:")].split()), LONGEST)
        for word in self.words:
            if last[-1].upper().startswith(word):
                return Reading(word=word.lower(), why=why)
        number = re.match(r"-?\d+(?:\.\d+)?", last[-1])
        value = math.nan if number is None else float(number.group())
        return Reading(value, why=why) if self.scale[0] <= value <= self.scale[1] else None


def _filled(template: str, question: str, answer: str) -> str:
    """A template with a question and an answer in it; doubled braces are single ones, as for `str.format`."""
    said = {"{question}": question, "{answer}": answer, "{{": "{", "}}": "}"}
    return re.sub(r"\{question\}|\{answer\}|\{\{|\}\}", lambda found: said[found.group()], template)
