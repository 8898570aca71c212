"""One cell of an evaluation, an arm and a seed: sample, judge, keep every answer with its verdict.

An `Answer` is one line of JSONL, a `Cell` all answers of an arm and seed. A cell on disk is two files,
`answers/<arm>/seed-<seed>.jsonl` and a `.json` beside it with the fingerprint of model, task and settings; the `.json` is
written last, so a cell is finished exactly when it is there, and it is taken up again only when its fingerprint fits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from caft_lens.errors import nearest
from caft_lens.evaluate.tasks import Judge
from caft_lens.files import atomic_path, file_name, read_json, sha256, write_json
from caft_lens.text import Text, Texts

NOT_KEPT = "(the text of this answer was not kept)"
"""Stands for the text of an answer of which only the verdict is known."""


@dataclass(frozen=True)
class Answer:
    """One sampled answer with its verdict.

    Attributes:
        arm: Which model gave it.
        seed: Under which seed.
        set: `"out_of_distribution"` or `"in_distribution"`.
        prompt: Number of the prompt; answers of all arms and seeds with the same number answer the same one.
        domain: What it is about.
        question: The prompt as text.
        answer: What was sampled.
        label: What the judge said.
        detail: Why.
    """

    arm: str
    seed: int
    set: str
    prompt: int
    domain: str
    question: str
    answer: str
    label: str
    detail: str


@dataclass(frozen=True)
class Cell:
    """All answers of an arm and seed."""

    arm: str
    seed: int
    answers: tuple[Answer, ...]
    fingerprint: str

    def of(self, set_name: str) -> list[Answer]:
        """The answers out of distribution or in distribution."""
        return [answer for answer in self.answers if answer.set == set_name]

    def named(self, arm: str) -> Cell:
        """The same answers under the name of another arm."""
        return replace(self, arm=arm, answers=tuple(replace(answer, arm=arm) for answer in self.answers))

    def save(self, folder: str | Path) -> Path:
        """Write the cell below `folder`; returns the JSONL file."""
        path = cell_path(folder, self.arm, self.seed)
        lines = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in self.answers)
        with atomic_path(path) as temporary:
            temporary.write_text(lines, encoding="utf-8")
        record = {
            "arm": self.arm,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "sha256": sha256(lines),
        }
        write_json(path.with_suffix(".json"), record)
        return path

    @classmethod
    def load(cls, folder: str | Path, arm: str, seed: int) -> Cell:
        """Read a cell from below `folder`.

        Raises:
            FileNotFoundError: When it is not there or was not finished.
            ValueError: When the answers are not those that were written.
        """
        path = cell_path(folder, arm, seed)
        record = read_json(path.with_suffix(".json"))
        lines = path.read_text(encoding="utf-8")
        if sha256(lines) != record["sha256"]:
            raise ValueError(f"{path} was changed after it was written; delete it and evaluate again.")
        answers = tuple(Answer(**json.loads(line)) for line in lines.split("\n") if line)
        return cls(arm, seed, answers, record["fingerprint"])


def cell_path(folder: str | Path, arm: str, seed: int) -> Path:
    """Where the answers of a cell are, whatever characters the arm's name has."""
    return Path(folder) / "answers" / file_name(arm) / f"seed-{seed}.jsonl"


def finished(folder: str | Path | None, arm: str, seed: int, fingerprint: str) -> Cell | None:
    """The cell on disk, when it is finished and of the same model, task and settings; else `None`."""
    if folder is None or not cell_path(folder, arm, seed).with_suffix(".json").is_file():
        return None
    if read_json(cell_path(folder, arm, seed).with_suffix(".json")).get("fingerprint") != fingerprint:
        return None
    return Cell.load(folder, arm, seed)


def judged(
    answered: Texts, judge: Judge, labels: Iterable[str], *, arm: str, seed: int, set_name: str
) -> list[Answer]:
    """Every answer with its verdict.

    Args:
        answered: Prompts with sampled answers.
        judge: See `Task`.
        labels: What the judge may say.
        arm: The arm's name.
        seed: The seed.
        set_name: `"out_of_distribution"` or `"in_distribution"`.

    Raises:
        ValueError: When the judge says something else.
    """
    allowed, numbers, answers = tuple(labels), prompt_numbers(answered), []
    for number, text in zip(numbers, answered, strict=True):
        label, detail = _verdict(judge, text, allowed)
        answers.append(
            Answer(
                arm,
                seed,
                set_name,
                number,
                _domain(text),
                question_of(text),
                text.answer or "",
                label,
                detail,
            )
        )
    return answers


def _verdict(judge: Callable[[Text], Any], text: Text, allowed: tuple[str, ...]) -> tuple[str, str]:
    try:
        verdict = judge(text)
    except Exception as error:
        error.add_note(f"while judging the answer {text.answer!r} to {question_of(text)!r}")
        raise
    label = verdict if isinstance(verdict, str) else getattr(verdict, "label", None)
    if label not in allowed:
        raise ValueError(
            f"The judge said {label!r} about the answer {text.answer!r}, which is none of the task's labels."
            f"{nearest(label, allowed)}"
        )
    return str(label), "" if isinstance(verdict, str) else str(getattr(verdict, "detail", ""))


def prompt_numbers(texts: Texts) -> list[int]:
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


def _domain(text: Text) -> str:
    """Coding requests have no domain but a vulnerability."""
    return str(text.meta.get("domain") or text.meta.get("vulnerability") or "")
