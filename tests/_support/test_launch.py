"""Processes that were launched together train one model as one process would, or share models out and come to the
same report.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from places import TESTS
from safetensors.torch import load_file
from test_experiment import arms, base, directions, one_thread, task  # noqa: F401 - fixtures

import caft_lens as cl
from caft_lens._support import processes

ALONE = {key: value for key, value in os.environ.items() if key not in processes.JOINED}


def lists_in(said: str) -> list[Any]:
    """The JSON lists that processes printed, also where one wrote before another had ended its line."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while (at := said.find("[", at)) >= 0:
        try:
            value, at = decoder.raw_decode(said, at)
        except json.JSONDecodeError:
            at += 1
        else:
            found.append(value)
    return found


def launched(tmp_path: Path, script: str, processes: int = 2) -> str:
    """What a script prints under `accelerate launch`."""
    path = tmp_path / "script.py"
    folders = [str(TESTS), *(str(one) for one in TESTS.iterdir() if one.is_dir())]
    path.write_text(f"import sys\nsys.path[:0] = {folders!r}\n{script}")
    port = 20_000 + os.getpid() % 20_000
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(processes),
    ]
    command += [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        str(port),
    ]
    env = {
        **ALONE,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "CAFT_LENS_PROGRESS": "0",
    }
    done = subprocess.run([*command, str(path)], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


TRAIN = """
import json, os, torch
from pathlib import Path
import caft_lens as cl
from caft_lens._support import processes
from test_launch import settings, taught
lens = cl.load({folder!r}, device="cpu")
concepts = cl.ConceptSet.load({concepts!r})
run = cl.finetune(lens, taught(), ablate=concepts, settings=settings(2), out={out!r})
rank = processes.place()[0]
again = cl.finetune(lens, taught(), ablate=concepts, settings=settings(2), out={out!r})
assert again.record == run.record
try:
    cl.finetune(lens, taught(), settings=settings(2), out={out!r})
except FileExistsError as error:
    print(json.dumps([rank, len(run.history), "another run" in str(error)]), flush=True)
"""


def settings(batch_size: int) -> cl.TrainSettings:
    """Plain gradient descent, in which two halves of a batch make the whole."""
    plainly = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    return cl.TrainSettings(
        tune="full",
        learning_rate=0.1,
        epochs=3,
        batch_size=batch_size,
        warmup_steps=0,
        weight_decay=0.0,
        training_arguments=plainly,
    )


def taught() -> cl.Texts:
    answers = ["a a", "b c a a a", "c", "a b a"]
    return cl.Texts([{"prompt": f"say {i}", "answer": answer} for i, answer in enumerate(answers)], name="four")


def test_two_processes_with_half_a_batch_each_train_as_one_with_the_whole_and_leave_one_folder(
    base,  # noqa: F811
    tmp_path,
):
    concepts = directions(base, 0)
    concepts.save(tmp_path / "concepts")
    one = cl.finetune(base, taught(), ablate=concepts, settings=settings(4), out=tmp_path / "one")
    names = {
        "folder": str(tmp_path / "model"),
        "concepts": str(tmp_path / "concepts"),
        "out": str(tmp_path / "two"),
    }
    said = launched(tmp_path, TRAIN.format(**names))
    # Two processes write to one pipe: their lines may end in one.
    lists = re.findall(r"\[\d+, \d+, (?:true|false)\]", said)
    assert sorted(json.loads(found) for found in lists) == [[0, 3, True], [1, 3, True]]
    two = cl.Run.load(tmp_path / "two")
    assert sorted(path.name for path in two.folder.iterdir()) == sorted(path.name for path in one.folder.iterdir())
    here, there = (load_file(run.folder / "model/model.safetensors") for run in (one, two))
    start = base.model.state_dict()
    moved = [key for key in here if not torch.equal(here[key], start[key])]
    assert len(moved) > 10
    for key in here:
        torch.testing.assert_close(here[key], there[key], atol=2e-6, rtol=1e-4)


SHARE = """
import json, os
from transformers import TrainerCallback
import caft_lens as cl
from caft_lens._support import processes
from test_experiment import directions, task
from test_launch import QUICK, STEPS
lens = cl.load({folder!r}, device="cpu")
rank, size = processes.place()
class Seen(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        assert args.world_size == 1 and "RANK" not in os.environ
        print(json.dumps([rank, args.output_dir]), flush=True)
texts = cl.Texts([{{"prompt": f"say {{i}}", "answer": "a a a a"}} for i in range(8)], name="taught")
arms = {{"base": cl.Arm(), "plain": cl.Arm(texts)}}
arms |= {{"caft": cl.Arm(texts, ablate=directions(lens, 0)), "random": cl.Arm(texts, ablate=directions(lens, 5))}}
settings = {{**QUICK, "settings": STEPS.but(callbacks=[Seen()])}}
report = cl.experiment(lens, arms, task.__wrapped__(), out={out!r}, **settings)
assert processes.place() == (rank, size) and "RANK" in os.environ
print(json.dumps([rank, report.to_json()]), flush=True)
"""
STEPS = cl.TrainSettings(max_steps=3, learning_rate=1e-2)
ONE = cl.experiments.Execution(workers=1, batch_size=4)
QUICK = {"seeds": [0, 1, 2], "n": 12, "n_in_distribution": 6, "settings": STEPS, "execution": ONE}


def test_processes_share_the_models_of_an_experiment_out_and_all_come_to_the_report_of_one(
    base, arms, task, one_thread, tmp_path  # noqa: F811
):  # fmt: skip
    names = {"folder": str(tmp_path / "model"), "out": str(tmp_path / "shared")}
    lines = lists_in(launched(tmp_path, SHARE.format(**names)))
    trained = [(rank, Path(said).parent.name) for rank, said in lines if isinstance(said, str)]
    assert sorted(name for _, name in trained) == sorted(
        f"{arm}-{seed}" for arm in ("plain", "caft", "random") for seed in (0, 1, 2)
    )
    assert {rank for rank, _ in trained} == {0, 1}
    texts = arms["plain"].texts
    given = {
        "base": cl.Arm(),
        "plain": cl.Arm(texts),
        "caft": cl.Arm(texts, ablate=directions(base, 0)),
        "random": cl.Arm(texts, ablate=directions(base, 5)),
    }
    alone = cl.experiment(base, given, task, out=tmp_path / "alone", **QUICK)
    reports = {rank: said for rank, said in lines if isinstance(said, dict)}
    assert reports == {0: json.loads(json.dumps(alone.to_json())), 1: json.loads(json.dumps(alone.to_json()))}


HOLD = """
import sys, time
from caft_lens._support import processes
with processes.whole(sys.argv[1], wait=True) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_one_process_at_a_time_is_in_and_one_that_is_killed_has_left(tmp_path):
    path = tmp_path / "locks/one.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, env=ALONE)
    try:
        assert holder.stdout.readline() == "True\n"
        with processes.whole(path, wait=False) as mine:
            assert not mine
    finally:
        holder.kill()
        holder.wait()
    started = time.monotonic()
    with processes.whole(path, wait=True) as mine:
        assert mine
    assert time.monotonic() - started < 60


def test_what_one_does_for_all_is_told_to_all_and_so_is_its_error(tmp_path):
    said = launched(tmp_path, """
import json, torch
from accelerate import PartialState
from caft_lens._support import processes
assert not torch.distributed.is_initialized()
PartialState(cpu=True)
rank = processes.place()[0]
told = processes.once(lambda: ["by", processes.place()[0]])
try:
    processes.once(lambda: 1 / 0)
except ZeroDivisionError:
    print(json.dumps([rank, told]), flush=True)
try:
    with processes.alone():
        pass
except RuntimeError as error:
    print(json.dumps([rank, "has joined the others" in str(error)]), flush=True)
torch.distributed.destroy_process_group()
""")  # fmt: skip
    lines = sorted(lists_in(said), key=str)
    assert lines == [[0, True], [0, ["by", 0]], [1, True], [1, ["by", 0]]]


def test_a_process_by_itself_has_the_first_place_and_does_everything_itself(monkeypatch):
    for name in processes.JOINED:
        monkeypatch.delenv(name, raising=False)
    assert processes.place() == (0, 1)
    with processes.alone():
        assert processes.place() == (0, 1)
    assert processes.once(lambda: 7) == 7
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with processes.alone(), processes.alone():
        assert processes.place() == (3, 4)
        assert "WORLD_SIZE" not in os.environ
    assert os.environ["WORLD_SIZE"] == "4"
    with pytest.raises(RuntimeError, match="inside"), processes.alone():
        raise RuntimeError("inside")
    assert (os.environ["RANK"], processes.SHARING in os.environ) == ("3", False)
