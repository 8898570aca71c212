"""What is found again is found by everything that made it: weights, tokenizer, chat template, hooks, adapter, judge."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import CHAT_TEMPLATE, tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens import experiments
from caft_lens._support.errors import BadArgument, BadModel, Diverged, JudgeError
from caft_lens._support.files import read_json, sha256, write_json
from caft_lens.activations.differences import read_by
from caft_lens.choose.session import Decisions
from caft_lens.evaluate import Report, Task
from caft_lens.evaluate.answers import Cell, cell_path
from caft_lens.evaluate.evaluation import subject_fingerprint
from caft_lens.experiments.experiment import _Base, _loaded
from caft_lens.inspect.explain.explanations import Explanation, Explanations

QUESTIONS = cl.Texts([{"prompt": f"question {i}"} for i in range(4)], name="questions")
OTHER = CHAT_TEMPLATE.replace("<|assistant|>{%", "<|system|>{%").replace("<|{{ message['role'] }}|>", "<|system|>")


def says(text: cl.Text) -> str:
    return "aligned"


def a_task(**changes: object) -> Task:
    return Task("t", QUESTIONS, says, max_new_tokens=4, sampling=cl.Sampling(temperature=0), **changes)  # type: ignore[arg-type]


@pytest.fixture
def lens() -> cl.Lens:
    return tiny_lens()


@pytest.fixture
def otherwise(lens: cl.Lens) -> cl.Lens:
    """The same model that reads with another template."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = OTHER
    return cl.load(lens.model, tokenizer=tokenizer, name_as="otherwise")


def answers(report: Report, arm: str) -> list[str]:
    return [answer.answer for answer in report.answers if answer.arm == arm]


def own(lens: cl.Lens) -> list[str]:
    """What a model says, asked by itself."""
    return [lens.generate(text, max_new_tokens=4, temperature=0) for text in QUESTIONS]


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_model_that_reads_otherwise_gives_its_own_answers_beside_one_that_has_the_same_weights(lens, otherwise):
    assert own(lens) != own(otherwise)
    report = cl.evaluate({"a": lens, "b": otherwise}, a_task(), n=4)
    assert answers(report, "a") == own(lens)
    assert answers(report, "b") == own(otherwise)


def test_answers_on_disk_of_another_template_are_not_taken_up(lens, otherwise, tmp_path: Path):
    cl.evaluate({"base": lens}, a_task(), n=4, out=tmp_path)
    assert Cell.load(tmp_path, "base", 0).reading == lens.reading
    assert subject_fingerprint(lens, "base") == sha256(lens.fingerprint)  # as it always was
    report = cl.evaluate({"base": otherwise}, a_task(), n=4, out=tmp_path)
    assert answers(report, "base") == own(otherwise)
    assert Cell.load(tmp_path, "base", 0).reading == otherwise.reading
    assert answers(Report.load(tmp_path), "base") == own(otherwise)


def test_a_cell_that_does_not_say_how_it_was_read_counts_as_before(lens, tmp_path: Path, monkeypatch):
    first = cl.evaluate({"base": lens}, a_task(), n=4, out=tmp_path)
    path = cell_path(tmp_path, "base", 0).with_suffix(".json")
    kept = read_json(path)
    path.write_text(json.dumps({key: kept[key] for key in ("arm", "seed", "fingerprint", "sha256")}))
    monkeypatch.setattr("caft_lens.model.answering.completions", None)  # nothing is sampled
    again = cl.evaluate({"base": lens}, a_task(), n=4, out=tmp_path)
    assert list(again.answers) == list(first.answers)
    assert list(Report.load(tmp_path).answers) == list(first.answers)


def test_one_that_is_hooked_shares_no_answers_and_is_not_kept_in_a_folder(lens, tmp_path: Path):
    twin, direction = lens.fork("twin"), torch.eye(lens.d_model)[:, :16]
    with twin.hooks(fwd_hooks=[(twin.hook_name(0), lambda acts, hook: acts * 0.1)]):
        report = cl.evaluate({"plain": lens, "hooked": twin}, a_task(), n=4)
        assert answers(report, "hooked") == own(twin) != own(lens)
        with pytest.raises(BadArgument, match=r'hooked to the model of "x".*blocks.0.hook_resid_post'):
            cl.evaluate({"x": twin}, a_task(), n=4, out=tmp_path)
    handle = twin.hf.get_output_embeddings().register_forward_hook(lambda *given: None)
    with pytest.raises(BadArgument, match="lm_head"):
        cl.evaluate({"x": twin}, a_task(), n=4, out=tmp_path)
    handle.remove()
    # An ablation is known by its directions.
    cl.evaluate({"x": cl.ablated(twin, {0: direction})}, a_task(), n=4, out=tmp_path)


def test_an_adapter_that_is_switched_off_is_not_taken_for_one_that_is_on(lens, tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        lens.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    )
    tuned = cl.load(adapted, tokenizer=tiny_tokenizer(), name_as="tuned")
    on = answers(cl.evaluate({"x": tuned}, a_task(), n=4, out=tmp_path), "x")
    with adapted.disable_adapter():
        off = answers(cl.evaluate({"x": tuned}, a_task(), n=4, out=tmp_path), "x")
        assert off == own(tuned)
    assert on == own(tuned) != off


def test_what_a_generation_config_adds_belongs_to_the_answers(lens, tmp_path: Path):
    cl.evaluate({"x": lens}, a_task(), n=4, out=tmp_path)
    first = tiny_tokenizer().encode(own(lens)[0], add_special_tokens=False)[:1]
    lens.hf.generation_config.suppress_tokens = first
    report = cl.evaluate({"x": lens}, a_task(), n=4, out=tmp_path)
    assert answers(report, "x") == own(lens)


def test_a_model_whose_logits_are_not_finite_ends_the_evaluation(lens):
    broken = lens.copy("broken")
    with torch.no_grad():
        broken.hf.get_output_embeddings().weight[3, 3] = float("nan")
    for temperature, top_p in ((0.0, None), (1.0, None), (1.0, 0.9)):
        with pytest.raises(Diverged, match="logits of broken are NaN or infinite"):
            cl.evaluate({"x": broken}, a_task(), n=4, sampling=cl.Sampling(temperature=temperature, top_p=top_p))


def test_logits_that_are_masked_are_no_fault(lens):
    lens.hf.generation_config.suppress_tokens = list(range(100))  # their logits are minus infinity
    assert all(isinstance(answer, str) for answer in own(lens))


@pytest.mark.parametrize("name", ["..", ".", "/../../x", "a/../b", "a\nb", "x" * 300])
def test_an_arm_that_is_called_like_a_way_out_of_the_folder_is_refused_before_anything_is_asked(
    lens, tmp_path: Path, name
):
    with pytest.raises(BadArgument, match="is no name for the arm"):
        cl.evaluate({name: lens}, a_task(), n=4, out=tmp_path / "it")
    assert not any(tmp_path.rglob("*.json*"))


# -- whole experiments ------------------------------------------------------------------------------------------------


def test_a_process_refuses_a_base_that_reads_otherwise(tmp_path: Path):
    model, tokenizer = tiny_model(), copy.deepcopy(tiny_tokenizer())
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = cl.load(tmp_path / "base", device="cpu")
    known = _Base(base.name, base.fingerprint, base.reading, "cpu", torch.float32)
    assert _loaded(known).reading == base.reading
    _loaded.cache_clear()
    tokenizer.chat_template = OTHER
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(BadModel, match="another tokenizer or chat template"):
        _loaded(known)


def test_pilots_of_a_base_that_reads_otherwise_are_not_taken_from_the_folder(lens, otherwise, tmp_path: Path):
    texts = cl.Texts([{"prompt": "say", "answer": "a a"}, {"prompt": "tell", "answer": "b b"}], name="taught")
    training = {"out": tmp_path, "settings": cl.TrainSettings(max_steps=1, batch_size=2)}
    cl.pilots(lens, {"x": found_on(lens)}, texts, texts, **training)
    with pytest.raises(FileExistsError, match="reading"):
        cl.pilots(otherwise, {"x": found_on(otherwise)}, texts, texts, **training)


def test_a_judge_that_fails_is_no_failure_of_the_model_in_an_experiment(lens, tmp_path: Path):
    def down(text: cl.Text) -> str:
        raise OSError("429")

    task = Task("t", QUESTIONS, down, max_new_tokens=4)
    execution = cl.experiments.Execution(workers=1, failures="keep")
    settings = {"seeds": [0], "n": 4, "execution": execution, "out": tmp_path}
    with pytest.raises(JudgeError, match="OSError: 429"):
        cl.experiment(lens, {"base": cl.Arm()}, task, **settings)
    report = cl.experiment(lens, {"base": cl.Arm()}, replace(task, judge=says), **settings)
    assert report.failures == {}
    assert report.interval("base", "aligned").mean == 1


def test_a_contest_of_scores_alone_is_refused_before_anything_is_trained(lens, tmp_path: Path):
    scored = Task("s", QUESTIONS, lambda text: 1.0, scale=(0, 10))
    with pytest.raises(BadArgument, match="give the task a threshold="):
        experiments.contest(
            scored,
            {"plain": experiments.Contender()},
            texts=QUESTIONS,
            out=tmp_path,
            base=lens,
            tuning=experiments.Tuning(task=scored),
        )


# -- stores, concepts, choices, explanations --------------------------------------------------------------------------


def test_a_store_that_was_read_with_another_template_is_refused(lens, otherwise, tmp_path: Path):
    texts = cl.Texts([{"prompt": "hi", "answer": "there"}] * 3)
    cl.activations.store(lens, texts, [0], tmp_path / "acts")
    cl.activations.store(lens, texts, [0], tmp_path / "acts")
    with pytest.raises(ValueError, match="reading"):
        cl.activations.store(otherwise, texts, [0], tmp_path / "acts")
    index = read_json(tmp_path / "acts" / "index.json")
    del index["settings"]["reading"]
    write_json(tmp_path / "acts" / "index.json", index)
    cl.activations.store(otherwise, texts, [0], tmp_path / "acts")  # nothing is known of it


def found_on(lens: cl.Lens, **more: object) -> cl.ConceptSet:
    concept = cl.Concept("L0.x", "blocks.0.hook_resid_post", torch.eye(lens.d_model)[0])
    return cl.ConceptSet([concept], {**read_by(lens), "d_model": lens.d_model, "method": "test", **more})


def test_concepts_that_were_found_with_another_template_fit_with_a_warning(lens, otherwise):
    concepts = found_on(lens)
    with pytest.warns(UserWarning, match="another tokenizer or chat template than 'otherwise'"):
        concepts.check(otherwise)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        concepts.check(lens)
        concepts.for_model(otherwise).check(otherwise)
        cl.ConceptSet(list(concepts), {"fingerprint": lens.fingerprint}).check(otherwise)  # not known
    assert concepts.for_model(otherwise).provenance["reading"] == otherwise.reading
    assert concepts.for_model(otherwise).provenance["carried_from"]["reading"] == lens.reading


def test_the_provenance_of_a_difference_says_who_read_the_texts(lens, otherwise):
    texts = cl.Texts([{"prompt": "hi", "answer": "there"}] * 3)
    diff = cl.activation_difference(otherwise, lens, texts, layers=[0])
    assert diff.provenance["fingerprint"] == lens.fingerprint
    assert diff.provenance["reading"] == otherwise.reading  # the tuned model's tokenizer reads for both
    again = cl.activation_difference(lens, lens, texts, layers=[0])
    with pytest.raises(ValueError, match="reading is"):
        diff.merge(again)


def test_a_choice_file_knows_how_the_contexts_were_read(lens, otherwise, tmp_path: Path):
    concepts, texts = found_on(lens), cl.Texts(["one two", "three four"])
    contexts = cl.contexts(lens, concepts, texts, k=1)
    assert contexts.about == contexts.only("L0.x").about == read_by(lens)
    said = Decisions(concepts, tmp_path / "choice.json", "reader", contexts.about)
    said.decide("L0.x", "ablate", "twos")
    assert said.selection.provenance["choices"][-1]["read_by"] == read_by(lens)
    said.selection.save(tmp_path / "chosen")
    assert cl.ConceptSet.load(tmp_path / "chosen").provenance == said.selection.provenance
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Decisions(concepts, tmp_path / "choice.json", "reader", contexts.about)
        Decisions(concepts, tmp_path / "choice.json", "reader")
    with pytest.warns(UserWarning, match="look at the contexts again"):
        again = Decisions(concepts, tmp_path / "choice.json", "reader", read_by(otherwise))
    assert again.of("ablate") == {"L0.x": "twos"}


def test_explanations_know_who_read_the_contexts_and_come_back_with_it(lens, tmp_path: Path):
    made = Explanations([Explanation("L0.x", "top", "twos", 3)], about=read_by(lens))
    assert Explanations.load(made.save(tmp_path / "e.json")).about == read_by(lens)
    old = Explanations([Explanation("L0.x", "top", "twos", 3)])
    assert Explanations.load(old.save(tmp_path / "old.json")).about == {}


def test_detection_warns_of_explanations_of_contexts_that_were_read_otherwise(lens, otherwise):
    texts = cl.Texts(
        [f"the {word} pie of number {i}" for i in range(12) for word in ("good", "bad", "odd", "red", "blue")]
    )
    concepts = found_on(lens)
    contexts = cl.contexts(lens, concepts, texts[:20], k=6)
    explained = cl.inspect.explain(lens, contexts, texts[:20])
    assert explained.about == read_by(lens)
    with pytest.warns(UserWarning, match="These explanations are of contexts"):
        scored = cl.inspect.detection(otherwise, explained, concepts, texts[20:], windows=cl.inspect.HeldOutWindows(4))
    assert scored.about == read_by(lens)
