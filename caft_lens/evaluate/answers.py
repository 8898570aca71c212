"""One cell of an evaluation, an arm and a seed: every answer with its score.

A cell on disk is two files, `answers/<arm>/seed-<seed>.jsonl` and a `.json` beside it with fingerprints, written last:
a cell is finished exactly when that is there. What there is of one before is in `drafts.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from caft_lens._support.errors import BadFile
from caft_lens._support.files import (
    Count,
    Record,
    explained,
    file_name,
    parsed,
    read_record,
    read_together,
    sha256,
    write_together,
)
from caft_lens.evaluate.judging import Score
from caft_lens.evaluate.prompts import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, domain_of, prompt_numbers, question_of
from caft_lens.model.options import OptionScores
from caft_lens.text.documents import Text

Options = Sequence[dict[str, float]] | None
"""Of each answer the options with their log-probabilities; `None` where answers were sampled."""
NOT_KEPT = "(the text of this answer was not kept)"
"""Stands for the text of an answer of which only the score is known."""


def _an_arm(name: str) -> str:
    file_name(name)  # refuses what is none
    return name


ArmName = Annotated[str, AfterValidator(_an_arm)]
"""The name of an arm in a file."""
SetName = Annotated[str, Field(pattern=f"^({OUT_OF_DISTRIBUTION}|{IN_DISTRIBUTION})$")]
"""Which prompts were answered."""


@dataclass(frozen=True)
class Answer:
    """One sampled answer with its score.

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
        score: What the judge gave, where the task asks for scores.
        options: Where the answer is one of some options, each with the log of its probability (nats).
    """

    __pydantic_config__: ClassVar = Record.model_config

    arm: str
    seed: int
    set: SetName
    prompt: Count
    domain: str
    question: str
    answer: str
    label: str
    detail: str
    score: float | None = None
    options: dict[str, float] | None = field(default=None, hash=False)

    @property
    def probability(self) -> float | None:
        """The probability of the answer among the options; `None` where it was sampled."""
        return None if self.options is None else OptionScores(self.options).probabilities[self.answer]

    @property
    def mass(self) -> float | None:
        """The probability that the model's own answer begins with any of the options; `None` where it was sampled."""
        return None if self.options is None else OptionScores(self.options).mass


_ANSWER = TypeAdapter(Answer)
"""A line of a cell's JSONL."""


class OfSet(Record):
    """What the answers to one set of prompts are.

    Attributes:
        sampled: Hash of what decides the answers: model, tokenizer, ablation, prompts, sampling, seed.
        judged: Hash of what decides what is said of them: the judge, and what it may say.
    """

    sampled: str
    judged: str


class _Kept(Record):
    """The JSON beside a cell's JSONL; those that are older do not say with which tokenizer, nor of the sets."""

    format: Literal["caft_lens.answers/1"] = "caft_lens.answers/1"
    arm: str
    seed: int
    fingerprint: str
    reading: str | None = None
    sets: dict[str, OfSet] = Field(default_factory=dict)
    sha256: str


@dataclass(frozen=True)
class Cell:
    """All answers of an arm and seed.

    Attributes:
        fingerprint: Hash of the model's weights, what was asked, how, and who judged.
        reading: Hash of the model's tokenizer and chat template; `None` where nobody wrote it down.
        sets: By the set of prompts, what its answers are.
    """

    arm: str
    seed: int
    answers: tuple[Answer, ...]
    fingerprint: str
    reading: str | None = None
    sets: Mapping[str, OfSet] = field(default_factory=dict)

    def of(self, set_name: str) -> list[Answer]:
        """The answers out of distribution or in distribution."""
        return [answer for answer in self.answers if answer.set == set_name]

    def named(self, arm: str) -> Cell:
        """The same answers under the name of another arm."""
        return replace(self, arm=arm, answers=tuple(replace(answer, arm=arm) for answer in self.answers))

    def save(self, folder: str | Path) -> Path:
        """Write the cell below `folder`; returns the JSONL file."""
        path = cell_path(folder, self.arm, self.seed)
        rows = (json.dumps(_row(answer), ensure_ascii=False) + "\n" for answer in self.answers)
        lines = "".join(rows).encode()
        kept = _Kept(
            arm=self.arm,
            seed=int(self.seed),
            fingerprint=self.fingerprint,
            reading=self.reading,
            sets=dict(self.sets),
            sha256=sha256(lines),
        )
        record = kept.model_dump(mode="json", exclude_none=True)
        write_together(path, lines, path.with_suffix(".json"), record)
        return path

    @classmethod
    def load(cls, folder: str | Path, arm: str, seed: int) -> Cell:
        """Read a cell from below `folder`.

        Raises:
            MissingFile: When it is not there or was not finished.
            BadFile: When the answers are not those that were written.
        """
        path = cell_path(folder, arm, seed)
        card = path.with_suffix(".json")

        def told(held: Any) -> tuple[_Kept, str]:
            made = parsed(held, _Kept, str(card), "the record of a cell")
            if (made.arm, made.seed) != (arm, seed):
                raise BadFile(f"{card} is of {made.arm!r}, seed {made.seed}: files were moved. Evaluate again.")
            return made, made.sha256

        record, lines = read_together(path, card, told)
        answers = []
        for number, line in enumerate(lines.split(b"\n"), 1):
            if line:
                try:
                    answers.append(_ANSWER.validate_json(line))
                except ValidationError as error:
                    raise BadFile(explained(error, f"{path}, line {number},", "an answer")) from None
                if (answers[-1].arm, answers[-1].seed) != (arm, seed):
                    raise BadFile(f"{path}, line {number}, is of another arm or seed: evaluate again.")
        return cls(arm, seed, tuple(answers), record.fingerprint, record.reading, record.sets)


def _row(answer: Answer) -> dict[str, Any]:
    row = asdict(answer)
    return {name: value for name, value in row.items() if value is not None or name not in ("score", "options")}


def _record(path: Path) -> _Kept:
    """What the JSON beside a cell's JSONL says."""
    return read_record(path.with_suffix(".json"), _Kept, "the record of a cell")


def cell_path(folder: str | Path, arm: str, seed: int) -> Path:
    """Where the answers of a cell are, whatever characters the arm's name has."""
    return Path(folder) / "answers" / file_name(arm) / f"seed-{seed}.jsonl"


def holds(folder: str | Path, cell: Cell) -> bool:
    """Whether a cell is on disk already."""
    path = cell_path(folder, cell.arm, cell.seed)
    if not path.with_suffix(".json").is_file():
        return False
    kept = _record(path)
    return kept.fingerprint == cell.fingerprint and _same(kept.reading, cell.reading)


def finished(
    folder: str | Path | None, arm: str, seed: int, fingerprint: str, reading: str | None = None
) -> Cell | None:
    """The cell on disk, when it is finished and of the same model, tokenizer, task and settings; else `None`."""
    cell = before(folder, arm, seed)
    return cell if cell and cell.fingerprint == fingerprint and _same(cell.reading, reading) else None


def before(folder: str | Path | None, arm: str, seed: int) -> Cell | None:
    """The finished cell on disk, whatever it is of; `None` where there is none."""
    if folder is None or not cell_path(folder, arm, seed).with_suffix(".json").is_file():
        return None
    return Cell.load(folder, arm, seed)


def _same(kept: str | None, now: str | None) -> bool:
    """Whether two readings are the same, as far as is known: of cells that are older none is."""
    return kept is None or now is None or kept == now


def judged(
    answered: Sequence[Text], said: Mapping[int, Score], options: Options, *, arm: str, seed: int, set_name: str
) -> list[Answer]:
    """Answers with what was said of them, by the number of the answer, and what each was chosen of, if of anything."""
    return [
        Answer(
            arm,
            seed,
            set_name,
            number,
            domain_of(text),
            question_of(text),
            text.answer or "",
            said[place].label,
            said[place].detail,
            said[place].score,
            None if options is None else options[place],
        )
        for place, (number, text) in enumerate(zip(prompt_numbers(answered), answered, strict=True))
    ]
