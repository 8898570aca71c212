"""Speed on a real model: nothing is timed that does not do the same work, and a missing peer says how to get it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import peers
import real_capture
import real_model
import real_training_step as training
from timing import Timings
from tiny_models import tiny_lens

import caft_lens as cl
from caft_lens.evaluate.answers import Answer, Cell
from caft_lens.evaluate.prompts import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from caft_lens.evaluate.report import Report
from caft_lens.text.batching import Batch

CHATS = cl.Texts([{"prompt": f"Question {i}?", "answer": "word " * (1 + i % 3)} for i in range(4)])


@pytest.fixture(scope="module")
def work() -> training.Work:
    return training.Work(tiny_lens("llama", n_layers=6), CHATS, 1, 4, time.perf_counter)


def test_all_trainers_begin_at_the_same_loss_with_as_many_parameters(work: training.Work):
    said = training.check_equal(work, training.contestants(training.directions(work.lens)))
    assert f"{training.TRAINER} " in said


def test_a_trainer_that_sees_other_pages_is_not_timed(work: training.Work):
    others = replace(work, texts=cl.Texts([{"prompt": "Other?", "answer": "quite another one"}] * 4))
    arms = {
        training.PLAIN: lambda work: training.ours(work, None),
        training.TRAINER: lambda _: training.with_trainer(others),
    }
    with pytest.raises(peers.NotEqual, match="begins at loss"):
        training.check_equal(work, arms)


def later(by: int) -> Callable[..., real_capture.Capture]:
    """A peer that captures so many layers after the wanted ones, in place of one that wants a tokenizer from a hub."""

    def maker(lens: cl.Lens, model: Any, wanted: Sequence[int]) -> real_capture.Capture:
        def capture(batch: Batch) -> list[Tensor]:
            found = model(batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
            return [found.hidden_states[layer + 1 + by] for layer in wanted]

        return capture

    return maker


def test_what_is_captured_is_what_transformers_computes(work: training.Work, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(real_capture.MAKERS, real_capture.BRIDGE, later(0))
    said = real_capture.check_equal(work.lens, CHATS)
    assert real_capture.READY in said
    assert real_capture.BRIDGE in said


def test_capture_at_another_layer_is_not_timed(work: training.Work, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(real_capture.MAKERS, real_capture.BRIDGE, later(-1))
    with pytest.raises(peers.NotEqual, match="something else"):
        real_capture.check_equal(work.lens, CHATS)


def test_a_peer_that_is_not_installed_has_a_row_with_the_command_that_installs_it():
    *_, last = peers.table(Timings({"bare": [1.0, 2.0]}), "bare", {"bare": 9.0}, ["other (nowhere)"]).splitlines()
    assert last == f"| other (nowhere) | not installed: `{peers.INSTALL}` | | |"


@pytest.mark.parametrize("task", ["gender"])
def test_the_two_kinds_of_prompts_of_a_question_are_all_its_pages_without_answers(task: str):
    question = real_model.QUESTIONS[task]
    sides = question.sides()
    assert sum(map(len, sides)) == len(question.pages())
    for side in sides:
        assert len(set(side.column(question.key))) == 1
        assert all(text.answer is None for text in side)
    assert all(page.answer != real_model.other_option(page) for page in question.pages())


def test_an_arm_without_a_choice_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(real_model, "HERE", tmp_path)
    assert list(real_model.arms("gender", [1])) == ["base", "plain", "kl_anchor"]


def test_a_page_keeps_the_tasks_that_are_not_measured_again():
    before = "# Title\n\nmade\n\n## gender\n\nold table\n\n## gender-authors\n\nof theirs\n"
    after = real_model.page({"gender": report("plain", "caft_means")}, [1], before)
    assert "old table" not in after
    assert "| caft_means |" in after
    assert after.endswith("## gender-authors\n\nof theirs\n")


def test_arms_are_added_to_those_that_are_committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(real_model, "HERE", tmp_path)
    report("plain", "caft_means").save(tmp_path / "results" / "real_model" / "gender")
    both = real_model.beside_committed("gender", report("kl_anchor", "plain", right=False))
    assert both.arms == ["plain", "caft_means", "kl_anchor"]
    assert both.interval("plain", "intended").mean == 0.0  # the new one
    assert both.interval("caft_means", "intended").mean == 1.0


def report(*arms: str, right: bool = True) -> Report:
    """A report on arms that answer all of some pages rightly, or none."""
    return Report([cell(arm, right) for arm in arms], labels=["intended", "spurious"], trained="right")


def cell(arm: str, right: bool) -> Cell:
    """Four answers out of distribution and four in it."""
    said = {OUT_OF_DISTRIBUTION: "intended" if right else "spurious", IN_DISTRIBUTION: "right"}
    answers = [Answer(arm, 1, of, n, "work", f"{n}?", "he", label, "") for of, label in said.items() for n in range(4)]
    return Cell(arm, 1, tuple(answers), fingerprint=f"{arm} {right}")
