"""Processes that `accelerate launch` or `torchrun` started.

Fine-tuning one model they train it together, as `transformers.Trainer` does, and what must happen once (claiming the
run folder, writing the record) the first does, `once`. In an experiment or a contest each process trains models of its
own, `alone`, and `whole` keeps two from working on the same one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from caft_lens._support.blocks import block
from caft_lens._support.errors import Busy
from caft_lens._support.files import let_go, take

JOINED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""By these variables a process finds the others that it was started with."""
SHARING = "CAFT_LENS_LAUNCHED"
"""Set, to rank and size, in a process that was made `alone`."""


def place() -> tuple[int, int]:
    """The number of this process, from 0, and how many were launched together; `(0, 1)` where none were.

    From the launcher's variables, since accelerate's `PartialState` would make the process join the others.
    """
    shared = os.environ.get(SHARING, "")
    if shared:
        rank, _, size = shared.partition("/")
        return int(rank), int(size)
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@block
def alone() -> Iterator[None]:
    """A block in which this process works by itself, on an accelerator of its own, though it was launched with others.

    Without others, nothing. Open it before anything is put on a GPU: of several the process sees from then on the one
    with its local number. `caft-lens contest` does.

    Raises:
        Busy: When the process has joined the others already, or uses GPUs that it would share.
    """
    rank, size = place()
    if size == 1 or SHARING in os.environ:
        yield
        return
    if _joined():
        raise Busy(
            "This process has joined the others that it was launched with, so it cannot train models of its own: run "
            "the experiment before anything that makes an Accelerator or trains one model together."
        )
    kept = {name: os.environ.pop(name) for name in JOINED if name in os.environ}
    try:
        _own_gpu(int(kept.get("LOCAL_RANK", 0)))
        os.environ[SHARING] = f"{rank}/{size}"
        yield
    finally:
        os.environ.pop(SHARING, None)
        os.environ.update(kept)


def _own_gpu(local_rank: int) -> None:
    seen = torch.cuda.device_count() if torch.backends.cuda.is_built() else 0
    if seen < 2:
        return
    if torch.cuda.is_initialized():
        raise Busy(
            "Models are on GPUs already, and every process would train on the same one: put `with "
            "caft_lens._support.processes.alone():` around all of the script, before a model is loaded, or start it "
            "by `accelerate launch -m caft_lens contest recipe.yaml`."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    known = [name for name in visible if name.strip()] or [str(number) for number in range(seen)]
    os.environ["CUDA_VISIBLE_DEVICES"] = known[local_rank % len(known)]


def end_with(parent: int) -> None:
    """Let this process end when the one that started it (by number) is gone or killed: nobody waits for its work."""
    import psutil

    def watch() -> None:
        try:
            starter = psutil.Process(parent)
            while starter.is_running() and starter.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        except psutil.NoSuchProcess:
            pass
        os._exit(1)

    name = f"ends with {parent}"
    if all(thread.name != name for thread in threading.enumerate()):
        threading.Thread(target=watch, name=name, daemon=True).start()


def once(do: Callable[[], Any]) -> Any:
    """What the first process does for all that train together; all get its result, or its error."""
    state = _joined()
    if state is None or state.num_processes == 1:
        return do()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = do()
        except Exception as error:  # the others would wait for ever
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _joined() -> PartialState | None:
    """The processes that this one has joined, if any: a `PartialState` made before would join them."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return PartialState() if joined else None


@block
def whole(path: str | Path, *, wait: bool) -> Iterator[bool]:
    """A block that one process on this file system can be in at a time; a process that dies leaves it.

    With `wait` it waits for another process to leave; otherwise the block yields whether this one is in.
    """
    lock = take(Path(path), -1 if wait else 0)
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        let_go(lock)
