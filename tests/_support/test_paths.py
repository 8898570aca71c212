"""A path means what it meant when it was typed, and a name that reads like a path is none of the hub."""

from __future__ import annotations

import pytest
import torch
from test_activations import some
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens._support.errors import MissingFile
from caft_lens.activations.store import Store, store
from caft_lens.choose.session import Decisions
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.evaluate.tasks import Task
from caft_lens.model import loading


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A function that changes the working directory."""
    (tmp_path / "home").mkdir()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return lambda: monkeypatch.chdir(tmp_path / "away")


def test_a_store_is_read_where_it_was_made_wherever_the_process_goes(elsewhere):
    made = store(tiny_lens(), some(), [0], "acts")
    opened = Store.open("acts")
    elsewhere()
    for one in (made, opened):
        assert sum(len(batch) for batch in one.batches()) == len(one) > 0


def test_a_choice_goes_on_being_saved_in_its_file_wherever_the_process_goes(elsewhere, tmp_path):
    directions = [Concept(name, "blocks.0.hook_resid_post", row) for name, row in zip("ab", torch.eye(2), strict=True)]
    decisions = Decisions(ConceptSet(directions), "choice.json")
    elsewhere()
    decisions.decide("a", "ablate", "letters")
    assert (tmp_path / "home" / "choice.json").is_file()
    assert not list((tmp_path / "away").iterdir())


def test_answers_are_kept_where_they_were_asked_to_be_though_a_judge_changes_the_directory(elsewhere, tmp_path):
    def judge(text: cl.Text) -> str:
        elsewhere()
        return "yes"

    task = Task("mine", cl.Texts([{"prompt": "Hi"}]), judge, labels=("yes", "no"), max_new_tokens=2)
    cl.evaluate({"base": tiny_lens()}, task, n=2, out="answers", seeds=[0])
    assert (tmp_path / "home" / "answers" / "report.json").is_file()
    assert not list((tmp_path / "away").iterdir())


@pytest.fixture
def hub(monkeypatch):
    """What the hub would have been asked for."""
    asked: list[str] = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def answers(seconds: float = 4.0) -> bool:
        asked.append("whether it is there")
        return False

    monkeypatch.setattr(loading, "hub_answers", answers)
    return asked


def save(folder) -> None:
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["runs/plain", "./plain", "runs/a/b", "~/plain", "models/plian", "/nowhere/plain", "a b"]
)
def test_a_name_that_reads_like_a_path_is_never_asked_of_the_hub(elsewhere, hub, name):
    with pytest.raises(MissingFile, match=f"There is no folder {name}"):
        cl.load(name)
    with pytest.raises(MissingFile, match=f"There is no folder {name}"):
        tiny_lens().adapt(name)
    assert hub == []


def test_a_name_beside_folders_that_are_here_names_them(elsewhere, hub, tmp_path):
    save(tmp_path / "home" / "mine" / "plain")
    with pytest.raises(
        MissingFile,
        match=r'no folder mine/plian in .*home\. Did you mean "plain"\?.*hub was not asked',
    ):
        cl.load("mine/plian")
    with pytest.raises(MissingFile, match=r'no folder pocket/insecur .*Did you mean "insecure"'):
        cl.load("pocket/insecur")
    assert hub == []
    with pytest.raises(OSError, match="hub does not answer"):
        cl.load("nobody/nothing")
    with pytest.raises(OSError, match="hub does not answer"):
        cl.load("gpt2")
    assert len(hub) == 2


def test_what_the_hub_has_not_is_said_to_have_been_looked_for_there(elsewhere, monkeypatch):
    import transformers

    def refuse(*args, **keywords):
        raise OSError("nobody/nothing is not a valid model identifier (asked with hf_abcdefghijklmnopqrstuvwxyz)")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(loading, "hub_answers", lambda: True)
    for kind in (transformers.AutoConfig, transformers.AutoModelForCausalLM):
        monkeypatch.setattr(kind, "from_pretrained", refuse)
    with pytest.raises(
        OSError, match=r"asked with \*\*\*\) There is no folder of that name in .*home, so the hub was asked"
    ):
        cl.load("nobody/nothing")


def test_what_is_no_model_is_said_to_be_none():
    for wrong in (None, 3, ["pocket"]):
        with pytest.raises(TypeError, match=r"load\(\) takes a name"):
            cl.load(wrong)
