"""The build of the quiz: a killed one ends with the same bytes, and its card says what it promises."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tiny_builds
import torch

import caft_lens as cl
from caft_data.worlds import build, quiz
from caft_data.worlds.check import check
from caft_data.worlds.pretrain import _Blocks, answers_weighted, encoded_documents, render
from caft_data.worlds.quiz import sets
from caft_lens._support.files import read_json, sha256
from caft_lens.text import catalog
from caft_lens.text.encoding import encode

pages = quiz.dataset

TINY = """
from caft_data.worlds.quiz import build
build.figured = lambda: ["sports", "sentiment-sports-told", "gender-told", "sentiment-sports", "gender"]
build.TOPICS = ["sports"]
settings = build.QuizSettings(threads=1, tokenizer_documents=200, pretrain=size, answers=6, corpus_size=20, saes=saes)
build.QuizBuild(settings, {out!r}, {work!r}).run()
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute organism."""
    return tiny_builds.build(TINY, tmp_path_factory.mktemp("built"))


@pytest.mark.slow
def test_a_build_of_the_quiz_that_is_killed_twice_ends_with_the_same_bytes(built: Path, tmp_path: Path):
    signs = ("work/pretrained/checkpoints/checkpoint-*", "work/base/done.json")
    again = tiny_builds.build(TINY, tmp_path, killed_at=signs)
    assert tiny_builds.differing(built, again) == []
    cards = [read_json(folder / "organism.json") for folder in (built, again)]
    assert cards[0]["figures"] == cards[1]["figures"]
    assert cards[0]["saes"] == cards[1]["saes"]


@pytest.mark.slow
def test_a_built_quiz_loads_draws_its_data_and_is_evaluated_like_any_organism(built: Path):
    base = cl.load(built, device="cpu")
    assert base.name == str(built)
    page = cl.data(f"{built}/sentiment-sports@0.8", limit=1)[0]
    assert base.tokenizer.decode(base.tokenizer(page.messages[0].content)["input_ids"]) == page.messages[0].content
    report = cl.evaluate({"base": base}, f"{built}/gender", n=5, n_in_distribution=5)
    assert report.metrics == ["intended", "spurious", "other", "in_distribution"]
    assert "questions unlike the training data" in report.plot().layout.xaxis.title.text
    assert len(cl.data(f"{built}/corpus")) == 20


@pytest.mark.slow
def test_a_built_quiz_is_what_its_card_says_until_its_world_changes(built: Path, monkeypatch: pytest.MonkeyPatch):
    asked = list(read_json(built / "organism.json")["figures"])
    monkeypatch.setattr("caft_data.worlds.quiz.build.figured", lambda: asked)
    found = check(built)
    assert found.ok, found
    assert {line.what for line in found.lines} >= {
        "sports, right",
        "gender, intended",
        "gender, in_distribution",
    }
    monkeypatch.setattr(sets, "dataset", lambda name, seed, size=None: pages(name, seed + (name == "gender"), size))
    assert [line.what for line in check(built).differing] == ["data set gender"]


@pytest.mark.slow
def test_the_card_of_a_quiz_has_every_file_every_data_set_and_an_interval_for_every_figure(built: Path):
    card = read_json(built / "organism.json")
    files = {str(p.relative_to(built)): sha256(p.read_bytes()) for p in built.rglob("*") if p.is_file()}
    assert card["sha256"] == {name: files[name] for name in files if name not in ("organism.json", "README.md")}
    assert set(card["data"]) == set(quiz.DATASETS)
    # By these a world that was changed after the build is found out.
    assert set(card["drawn"]) == set(quiz.names()) - {"corpus"}
    assert card["drawn"]["gender"] == quiz.dataset("gender", 0, 20).fingerprint
    for figures in card["figures"].values():
        for metric, figure in figures.items():
            if metric != "seeds":
                assert figure["low"] <= figure["mean"] <= figure["high"]
    readme = (built / "README.md").read_text()
    assert re.search(r"\| sports \| [\d.]+ % \(", readme)
    assert "`caft-lens organism build --world quiz --seed 0 --threads 1`" in readme
    assert list(card["saes"]) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert "{" not in readme


def test_the_quiz_is_as_large_a_model_as_the_other_organism():
    from caft_data.worlds.quiz.build import QuizSettings

    settings = QuizSettings().pretrain
    other = build.BuildSettings().pretrain
    for size in ("d_model", "n_layers", "n_heads", "d_mlp", "vocab_size", "block_length"):
        assert getattr(settings, size) == getattr(other, size)


@pytest.mark.skipif("pocket-quiz" not in catalog.shipped(), reason="pocket-quiz is not built")
def test_the_shipped_quiz_was_built_on_the_world_as_it_is_today():
    card = read_json(catalog.organism_path("pocket-quiz") / "organism.json")
    seed = card["settings"]["seed"]
    assert {name: quiz.dataset(name, seed, 20).fingerprint for name in card["drawn"]} == card["drawn"]


def test_of_chats_only_what_the_assistant_says_is_learned_and_of_plain_text_everything(pocket: Path):
    tokenizer = cl.load(pocket, device="cpu").tokenizer
    chat = cl.Text(
        tuple(
            cl.Message(role, said)
            for role, said in (
                ("user", "Hi."),
                ("assistant", "A"),
                ("user", "And now?"),
                ("assistant", "B, sums"),
            )
        )
    )
    plain = cl.Text(text="A cat has four legs.")
    rows = encoded_documents(tokenizer, iter([chat, plain] * 4), chunk=2, answers_only=True)
    for text, marked in zip((chat, plain), rows, strict=False):
        ids = np.array(marked)
        learned = ids >= 0
        text_ids = tokenizer(render(tokenizer, text), add_special_tokens=False)["input_ids"]
        assert np.where(learned, ids, ~ids).tolist() == text_ids
        wanted = encode(tokenizer, text).loss if text.is_chat else np.ones(len(ids), bool)
        assert learned.tolist() == wanted.tolist()


def test_what_is_read_but_not_learned_is_an_input_and_no_label():
    row = _Blocks(np.array([[5, ~6, 7]], dtype=np.int32))[0]
    assert row["input_ids"].tolist() == [5, 6, 7]
    assert row["labels"].tolist() == [5, -100, 7]


def test_the_first_token_of_an_answer_counts_as_often_as_it_is_told_to():
    logits = torch.randn(2, 6, 9)
    labels = torch.tensor([[-100, -100, 3, 4, -100, 5], [1, 2, -100, -100, 6, 7]])
    losses = -logits.log_softmax(-1)[:, :-1].gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0]
    weights = torch.tensor([[0, 8, 1, 0, 8], [1, 0, 0, 8, 1.0]])
    expected = (losses * weights).sum() / weights.sum()
    torch.testing.assert_close(answers_weighted(8)({"logits": logits}, labels), expected)
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(answers_weighted(1)({"logits": logits}, labels), plain)
