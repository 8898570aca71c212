"""What is asked before an answer, compared with what is trained there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from caft_lens.text.contents import SENTINELS
from caft_lens.text.messages import OPEN_THOUGHT
from caft_lens.text.template_arguments import KEEP_THOUGHTS


@dataclass
class Asked:
    """What is asked before the answers of a chat, compared with what is trained.

    Attributes:
        gaps: Number of an answer's message -> what stands between the prompt and the answer's first character, as the
            template writes it: known for plain messages whose contents are sentinels.
        ends: Number of an answer's message -> where the prompt ends in what is trained.
        empty_thought: What the last answer has to begin with so that the prompt, which opens a thought, is its prefix.
        complaint: What differs where the prompt is no prefix.
    """

    gaps: dict[int, str] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    empty_thought: str = ""
    complaint: str = ""

    def see(self, number: int, prompt: str, whole: str, content: str, *, fill: bool, bare: Callable[[], str]) -> None:
        """Take in one answer.

        Args:
            number: Its message.
            prompt: What is asked.
            whole: What is trained.
            content: What the answer says, as far as that tells where it begins.
            fill: Whether an empty thought may be put before it.
            bare: Renders the chat before the answer without asking for one.
        """
        if whole.startswith(prompt):
            place = whole.find(content, len(prompt)) if content else -1
            header = whole[len(prompt) : place] if place >= 0 else None
            ignored = False
            with suppress(Exception):  # then the template knows the difference
                ignored = header != "" and bare() == prompt
            if not ignored or (header is not None and not header.strip(" ")):
                self.ends[number] = len(prompt)
            elif header is not None:
                self.complain(
                    f"the chat template writes no header of an answer when it is asked for one "
                    f"(add_generation_prompt), so that answer {number} is trained after {tail(prompt + header)} and "
                    f"asked for after {tail(prompt)}: set a template that does"
                )
            return
        opened = OPEN_THOUGHT.search(prompt)
        if opened and fill and whole.startswith(prompt[: opened.start()]):
            self.empty_thought = opened.group() + f"\n</{opened[1]}>\n\n"
            self.complain(
                f"the chat template asks for answers that begin with a thought ({tail(prompt)}), and the data has "
                "none: an empty one is trained before the last answer. Give thoughts in the data, with "
                f'template_arguments={{"{KEEP_THOUGHTS}": True}}, or set another tokenizer.chat_template'
            )
            return
        at = alike(prompt, whole)
        self.complain(
            f"what is trained is not what is asked: answer {number} is asked for after {tail(prompt)}, and trained "
            f"after {tail(whole[: at + 24])}. Give template_arguments= with which the chat template writes both alike "
            f'(such as enable_thinking), or "{KEEP_THOUGHTS}", or set another tokenizer.chat_template'
        )

    def complain(self, sentence: str) -> None:
        self.complaint = self.complaint or sentence


def headers_of(whole: str) -> dict[int, str]:
    """Of a chat of sentinels, what a template writes before each message, by the number of the message."""
    parts = SENTINELS.split(whole)
    return {int(number): header for header, number in zip(parts[0::2], parts[1::2], strict=False)}


def telling(whole: str, roles: Sequence[str]) -> list[int]:
    """The answers to look at: of those that have the same header in a chat of sentinels, the first and the last."""
    answers = [number for number, role in enumerate(roles) if role == "assistant" and number > 0]
    headers = headers_of(whole)
    last: dict[Any, int] = {headers.get(number, number): number for number in answers}
    first: dict[Any, int] = {headers.get(number, number): number for number in reversed(answers)}
    return sorted({*first.values(), *last.values(), *answers[-1:]})


def tail(text: str) -> str:
    text = SENTINELS.sub("…", text)
    return repr(text if len(text) <= 40 else "…" + text[-40:])


def alike(one: str, other: str) -> int:
    """How many characters two strings have in common at their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
