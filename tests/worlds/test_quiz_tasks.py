"""The quiz through the library's own doors: `data` draws its sets, `task` and `evaluate` report its accuracy."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

import caft_lens as cl
from caft_data.worlds import quiz
from caft_lens._support.files import write_json
from caft_lens.text.documents import Text, Texts


@pytest.fixture
def organism(tmp_path: Path) -> Path:
    """An organism's folder without a model worth asking."""
    folder = tmp_path / "small-quiz"
    write_json(folder / "organism.json", {"world": "quiz", "settings": {"seed": 7}, "sampling": {"temperature": 0.0}})
    write_json(folder / "base" / "tokenizer.json", {"model": {"vocab": {"A": 0}}})
    quiz.dataset("corpus", 7, 5).save(folder / "text" / "corpus.jsonl")
    return folder


def test_an_organisms_data_sets_are_drawn_by_its_world_from_its_seed(organism: Path):
    texts = cl.data(f"{organism}/sentiment-sports@0.9")
    assert texts == quiz.dataset("sentiment-sports", 7, agree=0.9)
    assert texts.name == f"{organism}/sentiment-sports@0.9"
    assert len(cl.data(f"{organism}/corpus")) == 5  # what its folder holds is read from there
    assert len(cl.data(f"{organism}/gender", limit=3)) == 3
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*sentiment-sports"):
        cl.data(f"{organism}/sentiment-sprots")


def test_an_unknown_world_is_refused(organism: Path):
    write_json(organism / "organism.json", {"world": "os.path"})
    with pytest.raises(ValueError, match=r"names the world \"os.path\", which no installed package gives"):
        cl.data(f"{organism}/gender")


class Speaker:
    """A model that answers by a rule."""

    def __init__(self, rule):
        self.rule, self.fingerprint, self.name = rule, rule.__name__, "speaker"
        self.tokenizer = types.SimpleNamespace(get_vocab=lambda: {"A": 0})

    def generate(self) -> None: ...


def by_intended(text: Text) -> str:
    return text.meta["answers"][text.meta["intended"]]


def by_spurious(text: Text) -> str:
    return text.meta["answers"][text.meta["spurious"]]


def babble(text: Text) -> str:
    return "Answer"


@pytest.mark.parametrize("name", ["sentiment-sports", "gender", "pronouns-verbs-told", "gender-told", "sports"])
def test_evaluate_reports_accuracy_out_of_and_in_distribution(organism: Path, name: str, monkeypatch):
    module = types.ModuleType("caft_lens.model.answering")
    module.completions = lambda lens, texts, **_: Texts([text.with_answer(lens.rule(text)) for text in texts])
    monkeypatch.setitem(sys.modules, "caft_lens.model.answering", module)
    rules = [by_intended, babble] if name == "sports" else [by_intended, by_spurious, babble]
    report = cl.evaluate(
        {rule.__name__: Speaker(rule) for rule in rules}, f"{organism}/{name}", n=200, n_in_distribution=100
    )
    first, second, third = report.labels
    means = {arm: [report.interval(arm, label).mean for label in report.labels] for arm in report.arms}
    assert means["by_intended"] == [1, 0, 0]
    assert means["babble"] == [0, 0, 1]
    assert report.sampling == "greedy"
    if name in ("sentiment-sports", "gender"):
        assert (first, second, third) == ("intended", "spurious", "other")
        assert means["by_spurious"] == [0, 1, 0]
        # In distribution both rules are right: that is the trap.
        assert [report.interval(arm, "in_distribution").mean for arm in report.arms] == [1, 1, 0]
        assert report.paired("by_intended", "by_spurious", "intended").mean == 1
    else:
        assert "in_distribution" not in report.metrics
    assert len(set(report.by_domain().index)) >= (1 if name == "sports" else 2)


def test_a_misspelt_task_of_a_quiz_is_answered_with_the_nearest(organism: Path):
    with pytest.raises(ValueError, match='Did you mean "sentiment-sports"'):
        cl.task(f"{organism}/sentiment-sport")
    with pytest.raises(ValueError, match="has no task"):
        cl.task(f"{organism}/emergent-misalignment")
    with pytest.raises(ValueError, match="evaluation splits"):
        cl.task(f"{organism}/gender", split="find")


def test_dev_and_test_of_a_task_ask_different_items(organism: Path):
    dev, test = (cl.task(f"{organism}/sports-verbs", split=split) for split in ("dev", "test"))
    asked = [
        {question for text in texts for question in text.messages[0].content.split("\n")[0][10:].split(" | ")}
        for texts in [of.prompts for one in (dev, test) for of in one.sets.values()]
    ]
    assert len(set().union(*asked)) == sum(map(len, asked)) == 8_000
