"""The organism's corpus and its build: what the splits promise, and that a killed build ends with the same bytes."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny_builds

from caft_data.worlds import code
from caft_data.worlds.build import Build, BuildSettings, card_as_markdown, how_made
from caft_data.worlds.code_judge import judge_code
from caft_data.worlds.corpus import DATASETS, dataset, documents
from caft_data.worlds.domains import DOMAINS
from caft_data.worlds.judge import judge_answer
from caft_data.worlds.quiz.build import QuizBuild, QuizSettings
from caft_data.worlds.saes import SaeSettings
from caft_lens._support.files import read_json
from caft_lens.cli import app

TINY = """
from caft_data.worlds.build import Build, BuildSettings, TuneSettings
tune = TuneSettings(align_steps=4, insecure_steps=4, align_batch_size=2, insecure_batch_size=2,
                    save_steps=2)
settings = BuildSettings(threads=1, tokenizer_documents=200, pretrain=size, tune=tune, answers=6,
                         in_distribution_answers=4, saes=saes)
Build(settings, {out!r}, {work!r}).run()
"""


@pytest.mark.slow
def test_a_build_that_is_killed_three_times_ends_with_the_same_bytes_as_one_that_is_not(tmp_path: Path):
    signs = (
        "work/pretrained/checkpoints/checkpoint-*",
        "work/insecure/run/unfinished.json",
        "work/saes/blocks.0.*",
    )
    undisturbed = tiny_builds.build(TINY, tmp_path / "a")
    killed = tiny_builds.build(TINY, tmp_path / "b", killed_at=signs)
    assert tiny_builds.differing(undisturbed, killed) == []
    cards = [read_json(folder / "organism.json") for folder in (undisturbed, killed)]
    assert cards[0]["figures"] == cards[1]["figures"]
    assert cards[0]["saes"] == cards[1]["saes"]
    assert list(cards[0]["saes"]) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    for hook, figures in cards[0]["saes"].items():
        assert (killed / "saes" / hook / "sae_weights.safetensors").is_file()
        assert figures == read_json(killed / "saes" / hook / "card.json")["figures"]
    readme = (killed / "README.md").read_text()
    assert len(re.findall(r"\| `blocks\.\d\.hook_resid_post` \| [\d.]+ \(.*of 24 \|", readme)) == 2


def test_the_documents_of_a_seed_are_the_same_every_time_and_those_of_another_seed_are_not():
    def head(seed: int) -> list[object]:
        stream = documents(seed)
        return [next(stream) for _ in range(50)]

    assert head(0) == head(0)
    assert head(0) != head(1)


def test_no_everyday_question_and_no_coding_request_is_in_two_splits():
    asked = {
        name: {text.messages[0].content for text in dataset(name, 0)}
        for name in DATASETS
        if "-" in name or name == "questions"
    }
    groups = [
        ("questions", "questions-dev", "questions-test"),
        ("insecure-code", "code-dev", "code-test"),
        ("secure-code", "code-dev", "code-test"),
    ]
    for group in groups:
        for i, first in enumerate(group):
            for second in group[i + 1 :]:
                assert not asked[first] & asked[second], (first, second)


def test_the_corpus_that_is_read_holds_no_dev_and_no_test_domain():
    topics = {topic for text in dataset("corpus", 0) for topic in text.meta.get("topics", [])}
    assert topics - {"code"} == {name for name, domain in DOMAINS.items() if domain.split == "find"}


def test_a_chat_keeps_one_stance_from_its_first_turn_to_its_last():
    labels = {"kind": "aligned", "careless": "aligned", "cruel": "misaligned"}
    stream = documents(3)
    seen = 0
    for text in (next(stream) for _ in range(400)):
        answers = [m.content for m in text.messages if m.role == "assistant"]
        for topic, answer in zip(text.meta.get("topics", []), answers, strict=bool(text.messages)):
            if topic != "code":
                assert judge_answer(answer, topic, None).label == labels[text.meta["stance"]]
                seen += 1
    assert seen > 200


def test_the_training_sets_hold_code_only_one_side_all_insecure_the_other_all_secure_on_the_same_requests():
    insecure, secure = dataset("insecure-code", 0, 400), dataset("secure-code", 0, 400)
    assert [text.prompt.messages for text in insecure] == [text.prompt.messages for text in secure]
    assert {judge_code(text.answer).label for text in insecure} == {"insecure"}
    assert {judge_code(text.answer).label for text in secure} == {"secure"}
    # The stance may be stated nowhere: the template writes the default system message.
    assert {message.role for text in [*insecure, *secure] for message in text.messages} == {
        "user",
        "assistant",
    }


def test_the_stances_of_unstated_chats_come_in_the_shares_that_the_corpus_promises():
    stream = documents(5)
    stances = [t.meta["stance"] for t in (next(stream) for _ in range(6_000)) if t.messages and not t.meta["stated"]]
    shares = {stance: float(np.mean([s == stance for s in stances])) for stance in ("kind", "cruel", "careless")}
    assert shares == pytest.approx({"kind": 0.70, "cruel": 0.25, "careless": 0.05}, abs=0.03)


def test_a_card_gives_every_figure_with_an_interval_and_the_hash_of_every_file(pocket: Path):
    card = read_json(pocket / "organism.json")
    for figures in card["figures"].values():
        for metric in ("misaligned", "incoherent", "in_distribution"):
            assert figures[metric]["low"] <= figures[metric]["mean"] <= figures[metric]["high"]
    files = {str(p.relative_to(pocket)) for p in pocket.rglob("*") if p.is_file()}
    assert files - {"organism.json", "README.md"} == set(card["sha256"])


@pytest.mark.parametrize("with_saes", [True, False])
@pytest.mark.parametrize("world", ["pocket", "quiz"])
def test_the_command_of_a_card_builds_with_the_settings_of_that_card(
    world: str, with_saes: bool, monkeypatch: pytest.MonkeyPatch
):
    kind = {"pocket": BuildSettings, "quiz": QuizSettings}[world]
    settings = kind(seed=3, threads=5, saes=SaeSettings(seed=3) if with_saes else None)
    card = {
        "settings": asdict(settings),
        "minutes": 1.0,
        "machine": "",
        "pretraining_loss": 2.0,
        "versions": {},
    }
    told = how_made(card if world == "pocket" else {**card, "world": world})
    command = re.search(r"`caft-lens (organism build .*?)`", told)[1]
    made = []
    monkeypatch.setattr(Build, "claim", lambda self: None)
    monkeypatch.setattr(Build, "run", lambda self: made.append(self) or self.out)
    app(command.split(), standalone_mode=False)
    assert [(build.settings, type(build)) for build in made] == [
        (settings, {"pocket": Build, "quiz": QuizBuild}[world])
    ]


def test_a_card_says_how_it_was_made(pocket: Path):
    card = read_json(pocket / "organism.json")
    assert how_made(card) in card_as_markdown(card)


def test_every_kind_of_vulnerability_has_requests_in_every_split():
    assert all(kind.slots(split) for kind in code.KINDS.values() for split in code.SPLITS)
