"""Writing a run folder: who may, what is in the way, where an interrupted run goes on.

`claim` holds a folder for one run and says whether the run is there already. Whatever is replaced goes only when the
new run is complete. `Whole` seals a checkpoint; `last_whole_checkpoint` takes the newest that is whole.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from caft_lens._support import renamed
from caft_lens._support.errors import BadFile, Busy, CaftLensError, Diverged, Occupied
from caft_lens._support.files import SEAL, file_hash, hashes, locked, read_json, sha256, sync, write_json
from caft_lens._support.progress import progress
from caft_lens.model.run_folder import (  # fmt: skip
    CHECKPOINTS,
    FAILED,
    NEW,
    PARTS,
    READY,
    RUN,
    UNFINISHED,
    keep_logs,
    put_in_place,
    read_config,
    read_failed,
    read_run,
    remove,
)

WHOLE = "whole"
"""The file that seals a checkpoint: the hashes of all others, and the run that it is of."""
POLL = 0.5
"""Seconds between two looks whether another process has left a folder."""
UNKNOWN = ("reading", "callbacks", "processes")
"""What configurations of before do not say: missing, it is unknown rather than different."""
WORDS = {
    "reading": "the tokenizer or its chat template (reading) is another: {0} there, {1} asked",
    "processes": "it was trained by {0} processes together, {1} asked",
}
HASHED = {
    "data": "it was trained on other texts",
    "base": "it was tuned from another model",
    "concepts": "other concepts acted in training",
}
"""What differs, in words, where it has a hash."""


# -- whose the folder is -----------------------------------------------------------------------------------------------


def claim(held: ExitStack, folder: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
    """Hold a folder for a run and make it ready; true when it holds that run already, finished.

    The lock is kept until `held` is closed.

    Raises:
        Occupied: When the folder holds another run, or files that are not of one.
        Busy: When another process is training another run there.
        Diverged: When this run is on record as one that diverged.
    """
    _wait(held, folder, config, overwrite)
    held.callback(_leave, folder)
    try:
        put_in_place(folder)
    except BadFile:
        if not overwrite:
            raise
        remove(folder / READY)
    if resume and (folder / FAILED).is_file():
        failed = _read(read_failed, folder / FAILED, overwrite)
        if failed is not None and not differences(failed["config"], config):
            error = Diverged(failed["error"])
            error.add_note(f"{folder} has this on record; resume=False tries again.")
            raise error
    finished, begun = (folder / RUN).is_file(), (folder / UNFINISHED).is_file()
    known = finished or begun or (folder / FAILED).is_file()
    if not known and any((folder / name).exists() for name in (*PARTS, CHECKPOINTS)):
        raise Occupied(f"{folder} holds files that are not of a run; choose another folder for out=.")
    if finished:
        record = _read(lambda _: read_run(folder), folder / RUN, overwrite)
        if record is not None:
            different = differences(record["config"], config) + _cut_short(record)
            if resume and not different:
                return True
            if not overwrite:
                raise _occupied(folder, different, finished)
    elif begun and _whole(folder / CHECKPOINTS):
        # An attempt that got nowhere (a mistake in an argument, say) is nothing to protect.
        earlier = _read(read_config, folder / UNFINISHED, overwrite)
        different = [] if earlier is None else differences(earlier, config)
        if different and not overwrite:
            raise _occupied(folder, different, finished)
    _begin(folder, config, resume)
    return False


def _wait(held: ExitStack, folder: Path, config: dict[str, Any], overwrite: bool) -> None:
    """Take the lock; what trains the same run there is waited for, another one is not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    bar = None
    try:
        while True:
            try:
                held.enter_context(locked(folder, wait=POLL, doing="is being trained into"))
                return
            except Busy as busy:
                running = None
                with suppress(CaftLensError):
                    running = read_config(folder / UNFINISHED)
                if running is not None and (different := differences(running, config)):
                    if overwrite:
                        raise
                    raise Occupied(f"{busy} What is trained there is another run: {'; '.join(different)}.") from None
                if bar is None:
                    bar = progress(total=1, desc=f"waiting for what trains into {folder.name}", unit="run")
                bar.refresh()
    finally:
        if bar is not None:
            bar.close()


def _leave(folder: Path) -> None:
    """An attempt that ends with nothing to go on from leaves nothing that looks like an interrupted run."""
    if (folder / READY).exists() or not folder.is_dir():
        return
    remove(folder / NEW)
    if not _whole(folder / CHECKPOINTS):
        keep_logs(folder)
        remove(folder / CHECKPOINTS)
        remove(folder / UNFINISHED)
        with suppress(OSError):
            folder.rmdir()  # if it is empty


def _read(read: Callable[[Path], dict[str, Any]], path: Path, overwrite: bool) -> dict[str, Any] | None:
    """What a file of an earlier run says; `None` for one that is broken, where it may be replaced."""
    try:
        return read(path)
    except BadFile as error:
        if overwrite:
            return None
        raise BadFile(f"{error} overwrite=True trains anew.") from None


def _begin(folder: Path, config: dict[str, Any], resume: bool) -> None:
    # The configuration first: from then on checkpoints of another run do not count, and a kill leaves nothing unknown.
    folder.mkdir(parents=True, exist_ok=True)
    asked, keep = identity(config), None
    if resume and (folder / UNFINISHED).is_file():
        with suppress(BadFile):
            earlier = read_config(folder / UNFINISHED)
            if not differences(earlier, config):
                keep = last_whole_checkpoint(folder / CHECKPOINTS, identity(earlier))
                asked = identity(earlier)
                config = earlier if keep is not None else config
        if keep is None and _whole(folder / CHECKPOINTS):
            warnings.warn(f"No checkpoint in {folder / CHECKPOINTS} is whole: training begins anew.", stacklevel=2)
    write_json(folder / UNFINISHED, config)
    keep_logs(folder)
    for path in _checkpoints(folder / CHECKPOINTS):
        older = keep is not None and _step(path) < _step(keep) and _seal(path) == asked
        if path != keep and not older:
            remove(path)
    for name in (FAILED, NEW):
        remove(folder / name)


def _occupied(folder: Path, different: list[str], finished: bool) -> Occupied:
    what = f"another run: {'; '.join(different)}" if different else "this run, finished"
    hint = "Choose another folder" if different else "resume=True returns it"
    also = " (the old one goes when the new one is complete)" if finished else ""
    return Occupied(f"{folder} holds {what}. {hint}; overwrite=True replaces it{also}.")


def _cut_short(record: Mapping[str, Any]) -> list[str]:
    """Of a run that ended early though nothing on record says why."""
    stopped, config = record.get("stopped"), record["config"]
    if stopped is None or config.get("callbacks") or config.get("arm"):
        return []
    return [f"it stopped at step {stopped['step']} of {stopped['of']}"]


def identity(config: Mapping[str, Any]) -> str:
    """A hash of what a run is asked to do, by which its checkpoints know it."""
    return sha256(json.dumps(config, sort_keys=True))


def differences(earlier: Any, asked: Any, where: str = "") -> list[str]:
    """What two configurations disagree in, in words; the name of what has a hash does not count, the hash does.

    Example:
        >>> here, there = {"name": "a", "fingerprint": "1"}, {"name": "b", "fingerprint": "1"}
        >>> differences({"seed": 0, "base": here}, {"seed": 1, "base": there})
        ['seed is 0 there, 1 asked']
        >>> there, here = ({"name": "a", "fingerprint": mark, "texts": 8} for mark in ("1", "2"))
        >>> differences({"data": there}, {"data": here})
        ['it was trained on other texts: "a", 8 texts (fingerprint 1) there, "a", 8 texts (fingerprint 2) asked']
    """
    if _hashed(earlier, asked) and (earlier or {}).get("fingerprint") != (asked or {}).get("fingerprint"):
        there, here = ({"dtype": (one or {}).get("dtype")} for one in (earlier, asked))
        said = f"{HASHED.get(where, f'{where} is another')}: {_named(earlier)} there, {_named(asked)} asked"
        return [said, *differences(there, here, where)]
    if isinstance(earlier, dict) and isinstance(asked, dict):
        hashed = "fingerprint" in asked
        keys = [key for key in dict.fromkeys([*earlier, *asked]) if not (hashed and key == "name")]
        if not where:
            keys = [key for key in keys if key not in UNKNOWN or earlier.get(key) is not None]
            if _warmup(earlier) is not None and _warmup(earlier) == _warmup(asked):
                keys = [key for key in keys if key != "warmup_steps"]
        return [
            said for key in keys for said in differences(earlier.get(key), asked.get(key), f"{where}.{key}".lstrip("."))
        ]
    if where == "callbacks" and isinstance(asked, list) and isinstance(earlier, list):
        return _other_callbacks(earlier, asked)
    if earlier == asked:
        return []
    if where in WORDS:
        return [WORDS[where].format(earlier, asked)]
    key, dot, rest = where.partition(".")
    where = f"{renamed.RUNS.get(key, key)}{dot}{rest}"
    return [f"{where} is {earlier!r} there, {asked!r} asked"]


def _hashed(earlier: Any, asked: Any) -> bool:
    """Whether two values are texts, models or concepts, known by a hash; one of them may be none."""
    one = asked if isinstance(asked, dict) else earlier
    alike = all(value is None or isinstance(value, dict) for value in (earlier, asked))
    return isinstance(one, dict) and "fingerprint" in one and alike


def _named(value: Mapping[str, Any] | None) -> str:
    """Texts, a model or concepts as a person knows them, and the hash."""
    if value is None:
        return "none"
    names = value.get("names")
    if isinstance(names, list):
        said = ", ".join(map(str, names[:6])) + (", …" if len(names) > 6 else "")
    elif "texts" in value:
        said = f'"{value.get("name") or "unnamed"}", {value["texts"]} texts'
    else:
        said = f'"{value.get("name")}"'
    return f"{said} (fingerprint {value.get('fingerprint')})"


def _warmup(config: Mapping[str, Any]) -> int | None:
    """Steps of warm-up, where the number of all steps is known."""
    share, steps = config.get("warmup_steps"), config.get("max_steps")
    if share is None or not steps:
        return None
    return int(share) if share >= 1 else math.ceil(share * steps)


def _other_callbacks(earlier: list[dict[str, Any]], asked: list[dict[str, Any]]) -> list[str]:
    unsure = [one for one in asked if one.get("unknown")]
    if earlier == asked and not unsure:
        return []
    if earlier == asked:
        return [
            f"the callback {one['class']} may be another one, since its {', '.join(one['unknown'])} cannot be "
            f"compared: give it a `fingerprint`, or `changes_training = False` if it only watches"
            for one in unsure
        ]
    there, here = (", ".join(one["class"].rpartition(".")[2] for one in some) or "none" for some in (earlier, asked))
    more = " with other settings or other code" if there == here else ""
    return [
        f"callbacks that can change training: {there} there, {here} asked{more} (`changes_training = False` on one "
        f"says that it only watches)"
    ]


# -- checkpoints -------------------------------------------------------------------------------------------------------


class Whole(TrainerCallback):
    """Seals a checkpoint of the run `of` when all its files are written: after a kill there is no seal."""

    def __init__(self, of: str = "") -> None:
        self.of = of

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # every process has files of its own in it
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        remove(folder / WHOLE)
        files = hashes(folder)
        for name in files:
            sync(folder / name)
        write_json(folder / WHOLE, {"of": self.of, "files": files})


def last_whole_checkpoint(folder: Path, of: str | None = None) -> Path | None:
    """The newest checkpoint (of the run `of`) all of whose files are what was written; `None` when there is none."""
    for path in sorted(_checkpoints(folder), key=_step, reverse=True):
        if _is_whole(path, of):
            return path
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*checkpoint-*") if path.is_dir()]


def _whole(folder: Path) -> bool:
    """Whether there is a checkpoint that was written to its end; its files are not read."""
    return any((path / WHOLE).is_file() for path in _checkpoints(folder))


def _step(path: Path) -> int:
    number = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(number[1]) if number else -1


def _seal(path: Path) -> str | None:
    with suppress(CaftLensError, OSError, AttributeError):
        return read_json(path / WHOLE).get("of")
    return None


def _is_whole(path: Path, of: str | None) -> bool:
    if _step(path) < 0 or not (path / WHOLE).is_file():
        return False
    try:
        seal = read_json(path / WHOLE)
        if not isinstance(seal, dict) or not isinstance(seal.get("files"), dict) or SEAL in seal:
            return False
        if of is not None and seal.get("of") != of:
            return False
        # A checkpoint without the states of optimizer and random numbers would go on differently.
        complete = "trainer_state.json" in seal["files"] and any(n.startswith("rng_state") for n in seal["files"])
        return complete and all(file_hash(path / name) == known for name, known in seal["files"].items())
    except (CaftLensError, OSError):
        return False


def at_its_end(checkpoint: Path) -> bool:
    """Whether nothing is left to train after a checkpoint: all steps are done, or training was stopped."""
    state = read_json(checkpoint / "trainer_state.json")
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {})
    stopped = isinstance(control, dict) and control.get("args", {}).get("should_training_stop", False)
    return bool(stopped) or state["global_step"] >= state["max_steps"]


def failed(folder: Path, config: dict[str, Any], error: str) -> None:
    """Record that a run diverged; its checkpoints are nothing to go on from."""
    write_json(folder / FAILED, {"config": config, "error": error})
    keep_logs(folder)
    for name in (CHECKPOINTS, UNFINISHED):
        remove(folder / name)


# -- the finished run --------------------------------------------------------------------------------------------------


def finish(folder: Path, record: dict[str, Any]) -> None:
    """Make what lies in `NEW` the run of a folder, whose lock the caller has: its record last, then all as one."""
    new = folder / NEW
    files = hashes(new)
    write_json(new / RUN, {**record, "files": files})
    for path in (*(new / name for name in files), *(one for one in new.rglob("*") if one.is_dir()), new):
        sync(path)
    (new).rename(folder / READY)
    sync(folder)
    put_in_place(folder)
