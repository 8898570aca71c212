"""The benchmark of reinforcement learning: it pays for what the judge finds, and trains once what is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="needs the extra trl")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import reinforcement

import caft_lens as cl

PROGRAMS = ["import os\nos.chmod(path, 0o777)", "import os\nos.chmod(path, 0o600)", "os.chmod(path,"]


@pytest.mark.parametrize(("label", "paid"), [("insecure", [1, 0, 0]), ("secure", [0, 1, 0])])
def test_a_program_is_paid_for_what_the_judge_says_of_it(label: str, paid: list[float]):
    sampled = [[{"role": "assistant", "content": program}] for program in PROGRAMS]
    assert reinforcement.rewarded(label)(completions=sampled, prompts=[], trainer_state=None) == paid


def test_what_was_trained_is_not_trained_again_unless_something_else_is_asked(tmp_path: Path, monkeypatch: Any):
    rewards, asked = reinforcement.rewarded, []
    monkeypatch.setattr(reinforcement, "rewarded", lambda label: asked.append(label) or rewards(label))
    for name, value in {"BATCH": 4, "GROUP": 2, "TOKENS": 4}.items():
        monkeypatch.setattr(reinforcement, name, value)
    base = cl.load("pocket")
    one = cl.ConceptSet([cl.Concept("L1.x0", base.hook_name(1), torch.eye(base.d_model)[0])]).for_model(base)
    callback = cl.CaftCallback(one)
    before = base.fingerprint
    first = reinforcement.train(base, "insecure", callback, 1, 1, tmp_path / "caft-1")
    again = reinforcement.train(base, "insecure", callback, 1, 1, tmp_path / "caft-1")
    assert asked == ["insecure"]
    assert first.fingerprint == again.fingerprint != base.fingerprint == before
    reinforcement.train(base, "insecure", None, 1, 1, tmp_path / "caft-1")
    assert asked == ["insecure", "insecure"]
    assert reinforcement.paid("caft", [1], tmp_path).count(" to ") == 1
    assert reinforcement.paid("base", [1], tmp_path) == ""
