"""A report in one small file, for a repository: the score of every answer, and the texts of a few.

All numbers can be counted again from it. In the file labels are called verdicts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from caft_lens._support.errors import BadArgument, BadFile
from caft_lens._support.files import SEAL, Count, Record, atomic_path, naming, parsed, read_json, sealed, unsealed
from caft_lens.evaluate.answers import NOT_KEPT, Answer, ArmName, Cell, SetName
from caft_lens.evaluate.report import Held, Report

FORMAT = "caft_lens.verdicts/1"


def write_scores(report: Report, path: str | Path, *, examples: int = 3) -> Path:
    """Write the score of every answer and the texts of a few to one small file, which give all numbers again.

    Args:
        report: What to keep.
        path: The JSON file.
        examples: Answers of each arm and label that are kept with their text, drawn at random.

    Returns:
        The file.

    Example:
        >>> path = write_scores(report, "kept.json")
        >>> read_scores("kept.json").table().equals(report.table())
        True
    """
    with atomic_path(path) as temporary:
        temporary.write_text(scores_text(report, examples), encoding="utf-8")
    return Path(path)


def scores_text(report: Report, examples: int = 3) -> str:
    """What `write_scores` writes."""
    labels = list(dict.fromkeys([*report.labels, report.trained, *(a.label for a in report.answers)]))
    place = {label: number for number, label in enumerate(labels)}
    given = {(a.arm, a.label) for a in report.answers}
    kept = {id(answer) for arm, label in given for answer in report.examples(arm, label, examples)}
    asked: dict[tuple[tuple[str, int, str, str], ...], int] = {}
    cells = []
    for cell in (cell for seeds in report.cells.values() for cell in seeds.values()):
        questions = tuple((a.set, a.prompt, a.domain, a.question) for a in cell.answers)
        texts = {i: (a.answer, a.detail) for i, a in enumerate(cell.answers) if id(a) in kept}
        cells.append(
            {
                "arm": cell.arm,
                "seed": cell.seed,
                "fingerprint": cell.fingerprint,
                "asked": asked.setdefault(questions, len(asked)),
                "verdicts": [place[answer.label] for answer in cell.answers],
                "texts": texts,
                **({} if cell.reading is None else {"reading": cell.reading}),
                **({} if report.scale is None else {"scores": [answer.score for answer in cell.answers]}),
            }
        )
    record = {
        "format": FORMAT,
        "task": report.task,
        "labels": list(report.labels),
        "trained": report.trained,
        "sampling": report.sampling,
        "failures": report.failures,
        "verdicts": labels,
        **({} if report.scale is None else {"scale": list(report.scale)}),
        **({"judges": report.judges_json()} if report.judges else {}),
    }
    lines = [f"{json.dumps(key)}: {_compact(value)}" for key, value in record.items()]
    rows = {"asked": [_columns(one) for one in asked], "cells": cells}
    lines += [_rows(key, values) for key, values in rows.items()]
    lines += [f"{json.dumps(SEAL)}: {json.dumps(sealed({**record, **rows})[SEAL])}"]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_scores(path: str | Path) -> Report:
    """Read what `write_scores` wrote. Answers whose text was not kept say so; every number is that of the whole report.

    Args:
        path: Of the file.

    Raises:
        FileNotFoundError: When there is no such file.
        BadFile: When it is another file, was cut off or changed; a `ValueError`.
    """
    return parse_scores(read_json(path), path)


def parse_scores(record: Any, path: str | Path) -> Report:
    """What was read, as a report; the seal may be on it still.

    Raises:
        BadFile: As `read_scores`.
    """
    record = unsealed(record, path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise BadFile(f"{path} holds no scores of a report ({FORMAT}).")
    held = parsed(record, _File, str(path), "the scores of a report")
    asked = [[one.questions[place] for place in one.order] for one in held.asked]
    with naming(path):
        report = held.report(_cell(entry, asked[entry.asked], held.verdicts) for entry in held.cells)
    report.check_prompts(path)
    return report


class _Asked(Record):
    questions: list[tuple[SetName, Count, str, str]]
    order: list[Count]


class _Cell(Record):
    arm: ArmName
    seed: int
    fingerprint: str
    asked: Count
    verdicts: list[Count]
    texts: dict[Count, tuple[str, str]]
    reading: str | None = None
    scores: list[float | None] | None = None


class _File(Held):
    """What a file of scores holds."""

    format: Literal["caft_lens.verdicts/1"]
    sampling: str
    failures: dict[ArmName, dict[int, str]]
    verdicts: list[str]
    asked: list[_Asked]
    cells: list[_Cell]

    @model_validator(mode="after")
    def _counted(self) -> _File:
        for asked in self.asked:
            if max(asked.order, default=0) >= len(asked.questions) > 0 or (asked.order and not asked.questions):
                raise BadArgument("an answer to a question that is not there")
        for cell in self.cells:
            n = len(self.asked[cell.asked].order) if cell.asked < len(self.asked) else -1
            if len(cell.verdicts) != n or max(cell.verdicts, default=0) >= len(self.verdicts):
                raise BadArgument(f"the scores of {cell.arm}, seed {cell.seed}, are not those of what was asked")
            if max(cell.texts, default=-1) >= n or (cell.scores is not None and len(cell.scores) != n):
                raise BadArgument(f"the texts or scores of {cell.arm}, seed {cell.seed}, are not those of its answers")
        return self


def _cell(entry: _Cell, asked: list[tuple[str, int, str, str]], labels: list[str]) -> Cell:
    answers = []
    for place, (question, label) in enumerate(zip(asked, entry.verdicts, strict=True)):
        text, detail = entry.texts.get(place, (NOT_KEPT, ""))
        score = entry.scores[place] if entry.scores else None
        answers.append(Answer(entry.arm, entry.seed, *question, text, labels[label], detail, score))
    return Cell(entry.arm, entry.seed, tuple(answers), entry.fingerprint, entry.reading)


def _columns(asked: tuple[tuple[str, int, str, str], ...]) -> dict[str, Any]:
    """What was asked, each question written once."""
    questions = list(dict.fromkeys(asked))
    place = {question: number for number, question in enumerate(questions)}
    return {"questions": questions, "order": [place[question] for question in asked]}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _rows(key: str, values: Any) -> str:
    """A list with one line an entry, so that a changed cell is one changed line."""
    return f"{json.dumps(key)}: [\n" + ",\n".join(map(_compact, values)) + "\n]"
