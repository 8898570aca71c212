"""Whole experiments: the same runs and answers however many processes, each model trained once, clear refusals."""

from __future__ import annotations

import json
import re

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer
from tqdm.std import tqdm

import caft_lens as cl
from caft_lens._support import progress
from caft_lens.evaluate import InDistribution, Score, Task
from caft_lens.experiments import Execution
from caft_lens.finetune import methods as ways_of

TRAINING = {"settings": cl.TrainSettings(max_steps=3, learning_rate=1e-2)}
ASKED = {"n": 6, "n_in_distribution": 4, "seeds": [0, 1]}


def says_a(text: cl.Text) -> Score:
    return Score("with a" if "a" in (text.answer or "") else "without", "")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return cl.load(tmp_path / "model", device="cpu")


@pytest.fixture
def task():
    asked = cl.Texts([{"prompt": f"question {i}", "answer": ""} for i in range(6)])
    asked = cl.Texts([text.prompt for text in asked], name="asked")
    return Task(
        "letters",
        asked,
        says_a,
        labels=("with a", "without"),
        max_new_tokens=8,
        in_distribution=InDistribution(asked, says_a, ("with a", "without"), "with a", 8),
    )


def directions(base: cl.Lens, seed: int) -> cl.ConceptSet:
    generator = torch.Generator().manual_seed(seed)
    return cl.ConceptSet(
        [cl.Concept("L1.x", "blocks.1.hook_resid_post", torch.randn(base.d_model, generator=generator))]
    ).for_model(base)


@pytest.fixture
def arms(base):
    texts = cl.Texts([{"prompt": f"say {i}", "answer": "a a a a"} for i in range(8)], name="taught")
    return {
        "base": cl.Arm(),
        "plain": cl.Arm(texts),
        "caft": cl.Arm(texts, ablate=[directions(base, 0), directions(base, 1)]),
        "test_time": cl.Arm(texts, ablate_at_test=directions(base, 0)),
    }


def answers_of(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.jsonl"))}


def test_two_processes_train_and_answer_exactly_as_one_does(base, arms, task, tmp_path, one_thread):
    alone = cl.experiment(base, arms, task, out=tmp_path / "one", execution=Execution(workers=1), **ASKED, **TRAINING)
    both = cl.experiment(base, arms, task, out=tmp_path / "two", execution=Execution(workers=2), **ASKED, **TRAINING)
    assert alone.to_json() == both.to_json()
    assert answers_of(tmp_path / "one") == answers_of(tmp_path / "two") != {}


def test_one_line_says_which_arm_and_seed_is_at_which_step_or_answer(base, arms, task, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.delenv("CAFT_LENS_PROGRESS", raising=False)
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    monkeypatch.setattr(
        progress, "_at_the_end_of", lambda bar: lambda words: said.append(f"{bar.n:.0f}/{bar.total} {words}")
    )
    few = {name: arms[name] for name in ("base", "caft")}
    cl.experiment(
        base,
        few,
        task,
        out=tmp_path / "shown",
        execution=Execution(workers=1, batch_size=2),
        **ASKED,
        **TRAINING,
    )
    steps = [line for line in said if "fine-tuning" in line]
    for seed, done in ((0, 2), (1, 3)):  # the base with both seeds was first
        for step in range(4):
            assert f"{done}/4 caft, seed {seed}: fine-tuning {step}/3 steps" in steps
    assert "3/4 caft, seed 1: generating 4/6 answers" in said
    assert "0/4 base, seed 0: generating 0/6 answers" in said
    said.clear()
    monkeypatch.setenv("CAFT_LENS_PROGRESS", "0")
    cl.experiment(base, few, task, out=tmp_path / "silent", execution=Execution(workers=1), **ASKED, **TRAINING)
    assert said == []


def test_other_processes_tell_what_they_do_too(base, arms, task, tmp_path, monkeypatch, one_thread):
    said: list[str] = []
    monkeypatch.delenv("CAFT_LENS_PROGRESS", raising=False)
    monkeypatch.setattr("caft_lens.experiments.experiment.LOOK", 0.01)
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda bar, words="", refresh=True: said.append(words))
    few = {name: arms[name] for name in ("plain", "caft")}
    cl.experiment(base, few, task, out=tmp_path, execution=Execution(workers=2), **ASKED, **TRAINING)
    lines = {one for words in said for one in words.split(" | ")}
    assert any(re.match(r"(plain|caft), seed [01]: (fine-tuning|evaluate|generating).* \d+/\d+", one) for one in lines)


def test_arms_that_train_alike_share_a_run_and_differ_in_what_is_ablated_at_test(base, arms, task, tmp_path):
    report = cl.experiment(base, arms, task, out=tmp_path, execution=Execution(workers=1), **ASKED, **TRAINING)
    assert list(report.arms) == list(arms)
    runs = sorted(path.parent.name for path in tmp_path.glob("*/run.json"))
    assert runs == ["caft-0", "caft-1", "plain-0", "plain-1"]
    ablated = [json.loads((tmp_path / f"caft-{seed}/run.json").read_text())["config"]["concepts"] for seed in (0, 1)]
    assert ablated[0]["fingerprint"] == directions(base, 0).fingerprint != ablated[1]["fingerprint"]
    folder = tmp_path / "evaluation"
    told = {
        arm: [json.loads(line)["answer"] for path in folder.glob(f"answers/{arm}/*.jsonl") for line in path.open()]
        for arm in ("plain", "test_time")
    }
    assert len(told["plain"]) == len(told["test_time"]) == 20
    assert told["plain"] != told["test_time"]


def test_what_is_finished_is_neither_trained_nor_sampled_again(base, arms, task, tmp_path):
    first = cl.experiment(base, arms, task, out=tmp_path, execution=Execution(workers=1), **ASKED, **TRAINING)
    before = {path: path.stat().st_mtime_ns for path in [*tmp_path.glob("*/run.json"), *tmp_path.rglob("*.jsonl")]}
    again = cl.experiment(base, arms, task, out=tmp_path, execution=Execution(workers=1), **ASKED, **TRAINING)
    assert first.to_json() == again.to_json()
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_processes_refuse_a_model_that_they_cannot_load_and_one_that_was_changed(base, arms, task, tmp_path):
    in_memory = cl.load(tiny_model("llama"), tokenizer=tiny_tokenizer(), name_as="made-here")
    plain = {"base": cl.Arm(), "other": cl.Arm(arms["plain"].texts)}
    with pytest.raises(ValueError, match=r'"made-here" cannot be loaded in another process.*workers=1'):
        cl.experiment(in_memory, plain, task, out=tmp_path, execution=Execution(workers=2), **ASKED, **TRAINING)
    with torch.no_grad():
        base.hf.lm_head.weight.mul_(2)
    changed = cl.load(base.hf, tokenizer=base.tokenizer, name_as=base.name)
    with pytest.raises(ValueError, match=r"has other weights than the lens that was given.*workers=1"):
        cl.experiment(changed, plain, task, out=tmp_path, execution=Execution(workers=2), **ASKED, **TRAINING)


def test_an_arm_that_cannot_be_is_refused_before_anything_is_trained(base, arms, task, tmp_path):
    concepts = directions(base, 0)
    with pytest.raises(ValueError, match='"x" ablates while tuning but is tuned on nothing'):
        cl.experiment(base, {"x": cl.Arm(ablate=concepts)}, task, out=tmp_path, **ASKED)
    with pytest.raises(ValueError, match=r'ablate= of the arm "x".*one for each of the seeds'):
        cl.experiment(base, {"x": cl.Arm(arms["plain"].texts, ablate=[concepts])}, task, out=tmp_path, **ASKED)
    with pytest.raises(ValueError, match="workers=0"):
        cl.experiment(base, {"x": cl.Arm()}, task, out=tmp_path, execution=Execution(workers=0), **ASKED)
    assert not list(tmp_path.glob("x-*"))


def test_arms_that_are_tuned_otherwise_share_a_run_only_with_their_like(base, arms, task, tmp_path):
    general = cl.Texts([{"prompt": "what?", "answer": "so it goes"}])
    ways = {
        "plain": arms["plain"],
        "also_plain": cl.Arm(arms["plain"].texts, method=ways_of.Plain()),
        "anchor": cl.Arm(arms["plain"].texts, method=ways_of.KLAnchor(general)),
        "caft": cl.Arm(arms["plain"].texts, method=ways_of.CAFT(directions(base, 0))),
        "same_caft": cl.Arm(arms["plain"].texts, ablate=directions(base, 0)),
        "tested": cl.Arm(arms["plain"].texts, method=ways_of.AblationAtTest(directions(base, 0))),
        "old_tested": arms["test_time"],
        "base": cl.Arm(),
    }
    report = cl.experiment(base, ways, task, out=tmp_path, execution=Execution(workers=1), **ASKED, **TRAINING)
    assert sorted(path.parent.name for path in tmp_path.glob("*/run.json")) == [
        f"{name}-{seed}" for name in ("anchor", "caft", "plain") for seed in (0, 1)
    ]
    runs = json.loads((tmp_path / "runs.json").read_text())
    assert {arm: runs[arm].get("1") for arm in ways} == {
        "plain": "plain-1", "also_plain": "plain-1", "anchor": "anchor-1", "caft": "caft-1", "same_caft": "caft-1",
        "tested": "plain-1", "old_tested": "plain-1", "base": None,
    }  # fmt: skip
    told = {arm: [answer.answer for answer in report.answers if answer.arm == arm] for arm in ways}
    assert told["plain"] == told["also_plain"] != told["tested"] == told["old_tested"]
    assert told["caft"] == told["same_caft"] != told["plain"]
    with pytest.raises(ValueError, match='"x" is tuned kl_anchor, but on nothing'):
        cl.experiment(base, {"x": cl.Arm(method=ways_of.KLAnchor(general))}, task, out=tmp_path, **ASKED)
    both = cl.Arm(arms["plain"].texts, ablate=directions(base, 0), method=ways_of.Plain())
    with pytest.raises(ValueError, match=r'"x" has ablate=, which is short for method=CAFT'):
        cl.experiment(base, {"x": both}, task, out=tmp_path, **ASKED)
    twice = cl.Arm(
        arms["plain"].texts, method=ways_of.AblationAtTest(directions(base, 0)), ablate_at_test=directions(base, 0)
    )
    with pytest.raises(ValueError, match=r'"x" has ablate_at_test=, and test_time acts at test too'):
        cl.experiment(base, {"x": twice}, task, out=tmp_path, **ASKED)


def test_a_model_that_fails_is_kept_as_a_result_or_raises_as_asked(base, arms, task, tmp_path, monkeypatch):
    def fails(texts, seed):
        if seed == 1:
            raise FloatingPointError("it diverged")
        return texts

    monkeypatch.setattr(ways_of.KLAnchor, "texts", lambda self, texts, seed, base: fails(texts, seed))
    failing = cl.Arm(arms["plain"].texts, method=ways_of.KLAnchor(cl.Texts([{"prompt": "?", "answer": "!"}])))
    both = {"fails": failing, "plain": arms["plain"]}
    options = {**ASKED, **TRAINING, "execution": Execution(workers=1)}
    keeping = {**options, "execution": Execution(workers=1, failures="keep")}
    with pytest.raises(FloatingPointError, match="it diverged"):
        cl.experiment(base, both, task, out=tmp_path / "raised", **options)
    report = cl.experiment(base, both, task, out=tmp_path / "kept", **keeping)
    assert report.failures == {"fails": {1: "FloatingPointError: it diverged"}}
    assert (report.seeds("fails"), report.seeds("plain")) == ([0], [0, 1])
    assert "fails, seed 1, failed: FloatingPointError: it diverged" in repr(report)
    assert report.paired("fails", "plain").n_seeds == 1
    loaded = cl.Report.load(tmp_path / "kept/evaluation")
    assert loaded.failures == report.failures
    only = {"fails": failing}
    with pytest.raises(ValueError, match="All failed; the first: FloatingPointError: it diverged"):
        cl.experiment(base, only, task, out=tmp_path / "none", **{**keeping, "seeds": [1]})
    with pytest.raises(ValueError, match='failures="drop"'):
        Execution(failures="drop")


def test_a_causal_effect_is_the_paired_difference_to_plain_of_ablating_that_direction_alone(base, task, arms, tmp_path):
    texts = arms["plain"].texts
    two = cl.ConceptSet(
        [*directions(base, 1), cl.Concept("L0.y", "blocks.0.hook_resid_post", torch.ones(base.d_model))]
    )
    two = two.for_model(base)
    found = cl.causal_effects(
        base, two, texts, task, out=tmp_path / "one", execution=Execution(workers=1), **ASKED, **TRAINING
    )
    only = {name: cl.Arm(texts, ablate=two.choose({name: "alone"})) for name in two.names}
    report = cl.experiment(
        base,
        {"plain": cl.Arm(texts), **only},
        task,
        out=tmp_path / "two",
        execution=Execution(workers=1),
        **ASKED,
        **TRAINING,
    )
    assert found == {name: report.paired(name, "plain") for name in two.names}
    called = cl.ConceptSet([cl.Concept("plain", "blocks.0.hook_resid_post", torch.ones(base.d_model))])
    with pytest.raises(ValueError, match='called "plain"'):
        cl.causal_effects(base, called.for_model(base), texts, task, out=tmp_path)
