"""A cell that is not finished yet: a judge that fails, or a kill, loses nothing that was done.

    seed-0.<set>.sampled.json     the answers to a set of prompts, written before anybody judges them
    seed-0.<set>.verdicts.jsonl   a line for each answer that was judged, as soon as it was

Both say what they are of: model, prompts and sampling the one, judge and form besides the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from caft_lens._support.errors import BadFile
from caft_lens._support.files import Record, atomic_path, read_record, write_record
from caft_lens.evaluate.answers import Options
from caft_lens.evaluate.judging import Score

SAMPLED, JUDGED = ".sampled.json", ".verdicts.jsonl"


class _Sampled(Record):
    of: str
    answers: tuple[str, ...]
    options: tuple[dict[str, float], ...] | None = None


class _First(Record):
    of: str


class _Line(Record):
    answer: int
    label: str
    detail: str = ""
    score: float | None = None


class Draft:
    """What is there of a cell.

    Args:
        path: The JSONL file of the finished cell, beside which drafts lie; `None` keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._open: TextIO | None = None

    def sampled(self, set_name: str, of: str, n: int) -> tuple[list[str], Options] | None:
        """The answers to a set of prompts, when they are there and of what is asked for, with their options."""
        path = self._file(set_name, SAMPLED)
        if path is None or not path.is_file():
            return None
        with suppress(BadFile):  # it can be sampled again
            kept = read_record(path, _Sampled, "sampled answers")
            if kept.of == of and len(kept.answers) == n:
                return list(kept.answers), kept.options
        return None

    def keep_sampled(self, set_name: str, of: str, answers: Sequence[str], options: Options) -> None:
        """Keep answers before they are judged."""
        if path := self._file(set_name, SAMPLED):
            kept = _Sampled(of=of, answers=tuple(answers), options=None if options is None else tuple(options))
            write_record(path, kept)

    def judged(self, set_name: str, of: str, n: int) -> dict[int, Score]:
        """What was said of answers so far, by their numbers; from now on `keep_judged` adds to it."""
        path = self._file(set_name, JUDGED)
        if path is None:
            return {}
        self.close()
        known = {number: said for number, said in _read(path, of) if 0 <= number < n}
        with atomic_path(path) as temporary:  # without half a line at its end, or anything of another judge
            lines = [_First(of=of).model_dump(), *(_row(number, said) for number, said in known.items())]
            temporary.write_text("".join(map(_line, lines)), encoding="utf-8")
        self._open = path.open("a", encoding="utf-8")
        return known

    def keep_judged(self, number: int, said: Score) -> None:
        """Keep what was said of one answer."""
        if self._open is not None:
            self._open.write(_line(_row(number, said)))
            self._open.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def clear(self) -> None:
        """Remove temporary files of a writer that was killed; only for whoever holds the lock of the cell."""
        if self._path is not None:
            for left in self._path.parent.glob(f".{self._path.stem}.*"):
                if left.suffix in (".json", ".jsonl"):
                    left.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove what is there: the cell is finished."""
        self.close()
        if self._path is not None:
            for ending in (SAMPLED, JUDGED):
                for left in self._path.parent.glob(f"{self._path.stem}.*{ending}"):
                    left.unlink(missing_ok=True)

    def _file(self, set_name: str, ending: str) -> Path | None:
        return None if self._path is None else self._path.with_suffix(f".{set_name}{ending}")


def _row(number: int, said: Score) -> dict[str, object]:
    return _Line(answer=number, label=said.label, detail=said.detail, score=said.score).model_dump(exclude_none=True)


def _line(row: object) -> str:
    # Pairs of surrogates as escapes: whatever a model or a judge wrote can be written.
    return json.dumps(row) + "\n"


def _read(path: Path, of: str) -> Iterator[tuple[int, Score]]:
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    try:
        if _First.model_validate_json(lines[0]).of != of:
            return
        for line in lines[1:]:
            one = _Line.model_validate_json(line)
            yield one.answer, Score(one.label, one.detail, one.score)
    except ValidationError:
        return  # the end, or half a line that was being written
