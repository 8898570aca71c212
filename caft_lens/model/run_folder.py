"""A run folder as files: schemas, the hashes by which it is known to be whole, its base.

The files of a finished run are put in place as one: they wait, complete, in `READY` until each is moved to where it
belongs, and whoever opens a folder in which some still wait moves them first, so that a writer that was killed leaves
the old run or the new one. Folders of before there were hashes are read as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from caft_lens._support.errors import MissingFile
from caft_lens._support.files import Record, absent, check_hash, inside, locked, parsed, read_json, sync
from caft_lens.text import catalog

RUN, UNFINISHED, FAILED, HISTORY = "run.json", "unfinished.json", "failed.json", "history.json"
CONCEPTS, CHECKPOINTS, LOGS = "concepts", "checkpoints", "logs"
KEPT = "method.safetensors"
"""What a method needs to answer beside the weights."""
WEIGHTS = {"lora": "adapter", "full": "model"}
NEW, READY = ".new", ".ready"
"""Where the files of a run are put together, and where they wait for being moved once they are complete."""
PARTS = (*WEIGHTS.values(), KEPT, CONCEPTS, HISTORY)
"""What a finished run holds beside `run.json`."""


class Named(Record):
    """Something that went into a run, by the fingerprint of its content."""

    name: str
    fingerprint: str


class Base(Named):
    """The model that was tuned."""

    dtype: str


class Learned(Named):
    """The texts that were learned."""

    texts: int = Field(ge=0)


class Counted(Learned):
    """The texts, as they were seen by the trainer."""

    learned_texts: int = Field(ge=0)
    tokens: int = Field(ge=0)


class Directions(Record):
    """The concepts that acted."""

    names: tuple[str, ...]
    fingerprint: str


class Lora(Record):
    """Settings of an adapter."""

    r: int = Field(ge=1)
    alpha: float = Field(gt=0)
    rslora: bool
    dropout: float = Field(ge=0, lt=1)
    targets: str | tuple[str, ...]


class Config(Record):
    """What a run was asked to do; `None` where a folder of before does not say."""

    method: Literal["lora", "full"]
    lora: Lora | None
    learning_rate: float = Field(gt=0)
    epochs: float = Field(gt=0)
    max_steps: int | None
    batch_size: int = Field(ge=1)
    gradient_accumulation: int = Field(ge=1)
    warmup_steps: float = Field(ge=0)
    weight_decay: float
    max_length: int | None
    seed: int
    gradient_checkpointing: bool
    training_arguments: dict[str, Any]
    base: Base
    data: Learned
    concepts: Directions | None
    arm: dict[str, Any] | None = None
    reading: str | None = None
    callbacks: tuple[dict[str, Any], ...] | None = None
    processes: int | None = Field(default=None, ge=1)


class Stopped(Record):
    """Where a run ended that did not take all of its steps."""

    step: int = Field(ge=0)
    of: int = Field(ge=0)


class Weights(Record):
    """What `run.json` says of the weights: all that it takes to load them."""

    method: Literal["lora", "full"]
    base: str | None
    base_fingerprint: str
    lineage: tuple[str, ...]


class RunRecord(Weights):
    """`run.json`: everything that went into a run, and what came out of it."""

    data: Counted
    concepts: Directions | None
    config: Config
    seconds: float = Field(ge=0)
    peak_memory: int | None
    device: str
    versions: dict[str, str]
    base_from_here: str | None = None
    adapted: tuple[float, ...] | None = None
    stopped: Stopped | None = None
    files: dict[str, str] | None = None


class Step(Record):
    """An entry of the curves; a number that was not finite is left out."""

    step: int = Field(ge=0)
    epoch: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None


class History(Record):
    """`history.json`."""

    steps: tuple[Step, ...]


class Failed(Record):
    """`failed.json`: a run that diverged."""

    config: Config
    error: str


# -- reading ----------------------------------------------------------------------------------------------------------


def read_run(folder: Path, whole: bool = True) -> dict[str, Any]:
    """The record of a finished run, checked by its schema; `whole` where it must say more than how to load the weights.

    Raises:
        MissingFile: When the folder holds no finished run.
        BadFile: When `run.json` is broken or was changed.
    """
    settle(folder)
    if not (folder / RUN).is_file():
        goes_on = "The run was interrupted; the same `finetune(...)` call goes on with it."
        raise absent(folder, RUN, "holds no finished run", goes_on if (folder / UNFINISHED).is_file() else "")
    record: dict[str, Any] = read_json(folder / RUN)
    schema = RunRecord if whole or (isinstance(record, dict) and "config" in record) else Weights
    parsed(record, schema, str(folder / RUN), "a run's record")
    return record


def read_config(path: Path) -> dict[str, Any]:
    """What an unfinished run was asked to do, checked by its schema."""
    return _read(path, Config, "a run's configuration")


def read_failed(path: Path) -> dict[str, Any]:
    """The record of a run that diverged, checked by its schema."""
    return _read(path, Failed, "the record of a failed run")


def _read(path: Path, schema: type[Record], what: str) -> dict[str, Any]:
    held: dict[str, Any] = read_json(path)
    parsed(held, schema, str(path), what)
    return held


def read_history(folder: Path, record: dict[str, Any]) -> list[dict[str, float]]:
    """The curves of a run."""
    check(folder, record, HISTORY)
    history: list[dict[str, float]] = read_json(folder / HISTORY)
    parsed({"steps": history}, History, str(folder / HISTORY), "a run's history")
    return history


def check(folder: Path, record: dict[str, Any], part: str) -> None:
    """Refuse a part of a run folder (a file, or a folder of files) that is not what its record says was written.

    Raises:
        BadFile: When a file was changed.
        MissingFile: When one is gone.
    """
    for name, expected in (record.get("files") or {}).items():
        if name == part or name.startswith(f"{part}/"):
            check_hash(inside(folder, name), expected)


def run_of(weights: str | Path) -> Path | None:
    """The run folder that a folder of weights belongs to; `None` when it belongs to none."""
    weights = Path(weights)
    if weights.name not in WEIGHTS.values():
        return None
    folder = weights.parent
    return folder if (folder / RUN).is_file() or (folder / READY).is_dir() else None


def check_weights(weights: str | Path) -> None:
    """Refuse the folder of a run's weights when they were changed after they were written; those of no run pass."""
    folder = run_of(weights)
    if folder is not None:
        check(folder, read_run(folder, whole=False), Path(weights).name)


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds a finished run."""
    return (Path(folder) / RUN).is_file() or (Path(folder) / READY / RUN).is_file()


# -- the base ---------------------------------------------------------------------------------------------------------


def locate(base: str, folder: Path, from_here: str | None = None) -> str:
    """Where the base of an adapter is: its path, also when the folder that names it was moved with it, or a plain name.

    Args:
        base: As it was recorded: a name, an absolute path, or in older folders a relative one.
        folder: The folder of the run or adapter that names it.
        from_here: The path of the base from that folder, where known.

    Raises:
        MissingFile: When it is a path, and nothing is there.
    """
    if not base or (catalog.is_organism(base) and not Path(base).is_dir()):
        return base
    folder = Path(os.path.abspath(folder))
    if Path(base).is_absolute():
        beside = Path(os.path.normpath(folder / from_here)) if from_here else Path(base)
        for place in (Path(base), beside):
            if place.is_dir():
                return str(place)
        also = f", nor at {beside}" if from_here else ""
        raise MissingFile(
            f"{folder} was tuned from the model in {base}, which is not there any more{also}. Load that model from "
            f'where it is now and put the adapter on it: caft_lens.load(base, adapter="{folder}").'
        )
    for place in (Path.cwd(), folder, *folder.parents):
        if any((place / base / name).is_file() for name in ("config.json", RUN, catalog.CARD)):
            return str(place / base)
    return base


# -- putting a finished run in place -----------------------------------------------------------------------------------


def settle(folder: Path) -> None:
    """Move the files of a finished run to where they belong, if a writer was killed while it did; nothing otherwise."""
    if (folder / READY).is_dir():
        with locked(folder, wait=-1):
            put_in_place(folder)


def put_in_place(folder: Path) -> None:
    """Move what waits in `READY` to where it belongs, for a process with the lock of the folder; it may be killed."""
    ready = folder / READY
    if not ready.is_dir():
        return
    if (ready / RUN).is_file():  # moved last: until then it says what belongs here
        record = _read(ready / RUN, RunRecord, "a run's record")
        wanted = {name.partition("/")[0] for name in record["files"]}
        for name in PARTS:
            if (ready / name).exists():
                remove(folder / name)
                os.rename(ready / name, folder / name)
            elif name not in wanted:
                remove(folder / name)
        os.replace(ready / RUN, folder / RUN)
        sync(folder)
    for name in (UNFINISHED, FAILED):
        remove(folder / name)
    keep_logs(folder)
    remove(folder / CHECKPOINTS)
    remove(ready)


def keep_logs(folder: Path) -> None:
    """Move what callbacks wrote beside the checkpoints to `logs/`, which nothing ever clears."""
    if not (folder / CHECKPOINTS).is_dir():
        return
    for path in sorted((folder / CHECKPOINTS).iterdir()):
        if not (path.is_dir() and path.name.startswith(("checkpoint-", "tmp-checkpoint-"))):
            _merge(path, folder / LOGS / path.name)


def _merge(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink() and target.is_dir():
        for path in sorted(source.iterdir()):
            _merge(path, target / path.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
