"""Fine-tunings that kill themselves: a script, since a test cannot be killed. Forked from one process, imports are paid
once.

`python killed_runs.py FOLDER` trains into FOLDER/kills/killed over an older run, is killed at five points on the way,
and prints after each one which run the folder holds; in the end the same is trained undisturbed beside it. Then pairs
of them are started at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_lens
from transformers import TrainerCallback

from caft_lens._support.errors import CaftLensError
from caft_lens.finetune import LoraSettings, Run, TrainSettings, finetune
from caft_lens.finetune import folder as place
from caft_lens.finetune.trainer import LensTrainer
from caft_lens.model import run_folder
from caft_lens.text.documents import Texts

OLD, NEW = 1e-3, 2e-3
TEXTS = Texts([{"prompt": f"How are you {i}?", "answer": "Fine " * (i % 5 + 1)} for i in range(24)], "toy")


def trained(folder: Path, rate: float = NEW, seed: int = 0, **more: Any) -> Run:
    return finetune(
        tiny_lens(),
        TEXTS,
        TrainSettings(
            learning_rate=rate,
            batch_size=4,
            epochs=2,
            warmup_steps=0,
            save_steps=3,
            lora=LoraSettings(r=4, alpha=8, dropout=0.2),
            training_arguments={"lr_scheduler_type": "constant"},
            **more,
        ),
        out=folder,
        seed=seed,
    )


def kill(*args: Any, **keywords: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt(TrainerCallback):
    changes_training = False

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == self.step:
            kill()


def while_a_checkpoint_is_written() -> None:
    LensTrainer._save_rng_state = kill  # type: ignore[method-assign]


def after_the_last_checkpoint() -> None:
    place.finish = kill


def when_all_is_there_and_nothing_in_its_place() -> None:
    real = place.put_in_place
    place.put_in_place = lambda folder: kill() if (folder / run_folder.READY).is_dir() else real(folder)  # type: ignore[assignment]


def when_the_weights_are_in_their_place_and_the_record_is_not() -> None:
    real = os.replace
    run_folder.os.replace = lambda a, b: kill() if Path(a).parent.name == run_folder.READY else real(a, b)  # type: ignore[assignment]


POINTS: list[tuple[str, Callable[[], Any], list[TrainerCallback]]] = [
    ("before the first checkpoint", lambda: None, [KillAt(2)]),
    ("between two checkpoints", lambda: None, [KillAt(5)]),
    ("while a checkpoint is written", while_a_checkpoint_is_written, []),
    ("after the last checkpoint", after_the_last_checkpoint, []),
    ("all there, nothing in its place", when_all_is_there_and_nothing_in_its_place, []),
    ("half in its place", when_the_weights_are_in_their_place_and_the_record_is_not, []),
]


def forked(do: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            do()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def found(folder: Path) -> Any:
    """The rate of the run that a folder holds, its weights read; `None` for an error."""
    try:
        run = Run.load(folder, base=tiny_lens())
        return [run.config["learning_rate"], run.lens.fingerprint]
    except CaftLensError:
        traceback.print_exc()
        return None


def kills(folder: Path) -> None:
    old = trained(folder / "killed", OLD)
    said: list[Any] = [["old", 0, [OLD, old.lens.fingerprint]]]
    for name, break_, callbacks in POINTS:

        def attempt(break_: Any = break_, callbacks: Any = callbacks) -> None:
            break_()
            trained(folder / "killed", overwrite=True, callbacks=callbacks)

        status = ended(forked(attempt))
        steps = sorted(path.name for path in (folder / "killed/checkpoints").glob("checkpoint-*"))
        said.append([name, status, found(folder / "killed"), steps])
        if name == "all there, nothing in its place":
            ended(forked(lambda: trained(folder / "killed", OLD, overwrite=True)))  # and from the start
    run, whole = trained(folder / "killed", overwrite=True), trained(folder / "whole")
    said.append(["end", 0, [NEW, run.lens.fingerprint], run.history == whole.history])
    said.append(["whole", 0, [NEW, whole.lens.fingerprint]])
    print(json.dumps(said), flush=True)


def race(folder: Path) -> None:
    """Pairs that train at once: the same run, another seed of it, and another one that may replace what is there."""
    said = []
    for number, other in enumerate([{}, {"seed": 1}, {"seed": 1, "overwrite": True}]):
        out = folder / str(number)
        pair = [forked(lambda o=out: trained(o)), forked(lambda o=out, w=other: trained(o, **w))]
        codes = sorted(map(ended, pair))
        run = Run.load(out, base=tiny_lens())
        alone = trained(folder / f"alone-{run.config['seed']}", seed=run.config["seed"])
        said.append(
            [
                codes,
                run.config["seed"],
                run.lens.fingerprint == alone.lens.fingerprint,
                run.history == alone.history,
            ]
        )
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for do in (kills, race):
        do(Path(sys.argv[1]) / do.__name__)
