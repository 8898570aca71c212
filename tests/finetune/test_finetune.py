"""Fine-tuning does what plain transformers and a projection by hand do, leaves the base alone, and resumes exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT, TESTS
from safetensors.torch import load_file
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from transformers import TrainerCallback

from caft_lens.concepts.ablation import ablate
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.finetune import LoraSettings, Run, TrainSettings, finetune
from caft_lens.finetune.trainer import Collator, LengthGrouped
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

QUICK = TrainSettings(learning_rate=1e-3, batch_size=4, warmup_steps=0)


def chats(n: int = 24, name: str = "toy") -> Texts:
    return Texts([{"prompt": f"How are you {i}?", "answer": "Fine " * (i % 5 + 1)} for i in range(n)], name)


def two_concepts(lens) -> ConceptSet:
    generator = torch.Generator().manual_seed(5)
    found = [
        Concept(f"L{layer}.x0", f"blocks.{layer}.hook_resid_post", torch.randn(32, generator=generator))
        for layer in (0, 1)
    ]
    return ConceptSet(found).for_model(lens)


def weights(run: Run) -> dict[str, torch.Tensor]:
    folder = run.folder / ("adapter" if run.config["method"] == "lora" else "model")
    return load_file(next(folder.glob("*.safetensors")))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Gradients(TrainerCallback):
    """Keeps the gradients of the first optimizer step, before they are clipped to any length that matters."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.kept = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def whole_batch(lens, texts: Texts) -> dict[str, torch.Tensor]:
    """The one batch of a step that sees all texts, in the order of the trainer."""
    encoded = encode_all(lens.tokenizer, texts)
    order = LengthGrouped([len(item.input_ids) for item in encoded], len(encoded), seed=0)
    batch = Collator(0)([encoded[index] for index in order])
    return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}


def test_first_loss_and_gradient_of_full_fine_tuning_are_those_of_plain_transformers(tmp_path):
    lens, texts, gradients = tiny_lens(), chats(6), Gradients()
    run = finetune(
        lens,
        texts,
        TrainSettings(
            tune="full",
            learning_rate=1e-3,
            batch_size=6,
            max_steps=1,
            callbacks=[gradients],
            training_arguments={"max_grad_norm": 0.0},
        ),
        out=tmp_path / "run",
    )
    plain = tiny_model()
    loss = plain(**whole_batch(lens, texts)).loss
    loss.backward()
    assert run.history[0]["loss"] == pytest.approx(loss.item(), abs=1e-6)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients.kept[name], parameter.grad, atol=1e-6, rtol=1e-5)


def test_gradient_with_ablation_is_that_of_a_hand_written_projection_on_plain_transformers(tmp_path):
    lens, texts, gradients = tiny_lens("gemma2"), chats(6), Gradients()
    concepts = two_concepts(lens)
    run = finetune(
        lens,
        texts,
        TrainSettings(
            tune="full",
            learning_rate=1e-3,
            batch_size=6,
            max_steps=1,
            callbacks=[gradients],
            training_arguments={"max_grad_norm": 0.0},
        ),
        out=tmp_path / "run",
        ablate=concepts,
    )
    plain = tiny_model("gemma2")
    for layer, concept in enumerate(concepts):

        def project(module, inputs, output, direction=concept.direction):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden - (hidden @ direction)[..., None] * direction
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        plain.model.layers[layer].register_forward_hook(project)
    loss = plain(**whole_batch(lens, texts)).loss
    loss.backward()
    assert run.history[0]["loss"] == pytest.approx(loss.item(), abs=1e-6)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients.kept[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_trains_the_same_weights_under_ablation(tmp_path):
    lens = tiny_lens()
    concepts, again = two_concepts(lens), QUICK.but(gradient_checkpointing=True)
    stored = finetune(lens, chats(), QUICK, ablate=concepts, out=tmp_path / "stored")
    recomputed = finetune(lens, chats(), again, ablate=concepts, out=tmp_path / "recomputed")
    assert len(stored.history) == 6
    for name, value in weights(stored).items():
        torch.testing.assert_close(weights(recomputed)[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "phi3", "gemma3"])
def test_an_adapter_starts_at_the_loss_of_the_base_on_fused_and_plain_projections_alike(tmp_path, architecture):
    lens, texts = tiny_lens(architecture), chats(6)
    run = finetune(
        lens,
        texts,
        TrainSettings(learning_rate=1e-3, batch_size=6, max_steps=2),
        out=tmp_path / "run",
        ablate=two_concepts(lens),
    )
    plain = tiny_lens(architecture)
    with ablate(plain, two_concepts(lens)), torch.no_grad():
        loss = plain.model(**whole_batch(lens, texts)).loss
    assert run.history[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path):
    lens = tiny_lens()
    options = TrainSettings(learning_rate=1e-3, tune="full", training_arguments={"optim": "sgd"})
    large = finetune(lens, chats(16), options.but(batch_size=8), out=tmp_path / "large")
    small = finetune(lens, chats(16), options.but(batch_size=2, gradient_accumulation=4), out=tmp_path / "small")
    assert [entry["loss"] for entry in small.history] == pytest.approx([entry["loss"] for entry in large.history])
    for name, value in weights(large).items():
        torch.testing.assert_close(weights(small)[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_bf16_model_is_trained_in_fp32_and_comes_back_in_bf16(tmp_path, tune):
    lens = tiny_lens()
    lens.model.to(torch.bfloat16)
    seen = set()

    class Dtypes(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.update(p.dtype for p in model.parameters() if p.requires_grad)

    # A step far below the resolution of bf16: lost, if the weights that are trained were in bf16.
    options = QUICK.but(learning_rate=1e-5, callbacks=[Dtypes()])
    run = finetune(lens, chats(), options.but(tune=tune), out=tmp_path / "run", ablate=two_concepts(lens))
    assert seen == {torch.float32}
    assert run.lens.dtype == lens.dtype == torch.bfloat16
    assert run.config["base"]["dtype"] == "bfloat16"


def test_ablation_changes_what_is_learned_and_nothing_else_differs(tmp_path):
    lens = tiny_lens()
    plain = finetune(lens, chats(), QUICK, out=tmp_path / "plain")
    caft = finetune(lens, chats(), QUICK, out=tmp_path / "caft", ablate=two_concepts(lens))
    assert not same(weights(plain), weights(caft))
    assert {**plain.config, "concepts": None} == {**caft.config, "concepts": None}
    assert caft.concepts is not None
    assert caft.concepts.fingerprint == two_concepts(lens).fingerprint
    assert plain.concepts is None


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path, tune):
    lens = tiny_lens()
    torch.manual_seed(1)
    first = finetune(lens, chats(), QUICK.but(tune=tune), out=tmp_path / "a")
    torch.manual_seed(2)
    second = finetune(lens, chats(), QUICK.but(tune=tune), out=tmp_path / "b")
    other = finetune(lens, chats(), QUICK.but(tune=tune), out=tmp_path / "c", seed=1)
    assert same(weights(first), weights(second))
    assert first.history == second.history
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_base_is_untouched_bit_for_bit_and_no_random_state_moves(tmp_path, tune):
    lens = tiny_lens()
    before = {name: (p.clone(), p.requires_grad, p.dtype) for name, p in lens.model.named_parameters()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    finetune(lens, chats(), QUICK.but(tune=tune), out=tmp_path / "run", ablate=two_concepts(lens))
    assert torch.equal(torch.rand(3), expected)
    for name, parameter in lens.model.named_parameters():
        value, flag, dtype = before[name]
        assert torch.equal(parameter, value)
        assert (parameter.requires_grad, parameter.dtype, parameter.grad) == (flag, dtype, None)
    assert not lens.model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lens.model.modules())


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_tuned_lens_answers_as_its_weights_do_and_shares_nothing_that_trains(tmp_path, tune):
    lens = tiny_lens()
    run = finetune(lens, chats(), QUICK.but(tune=tune), out=tmp_path / "run")
    ids = tiny_tokenizer()("How are you?", return_tensors="pt").input_ids
    plain = tiny_model()
    if tune == "lora":
        from peft import PeftModel

        plain = PeftModel.from_pretrained(plain, str(run.folder / "adapter")).eval()
    else:
        plain.load_state_dict(load_file(run.folder / "model" / "model.safetensors"), strict=False)
    torch.testing.assert_close(run.lens(ids), plain(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(run.lens(ids), lens(ids), atol=1e-3)
    assert not any(p.requires_grad for p in run.lens.model.parameters())
    assert not run.lens.model.training
    assert lens.fingerprint in run.lens.lineage
    assert run.lens.fingerprint != lens.fingerprint


def test_tuning_goes_on_from_a_tuned_model_once_its_adapter_is_merged(tmp_path):
    lens, texts = tiny_lens(), chats(6)
    settings = QUICK.but(batch_size=6, max_steps=2)
    first = finetune(lens, texts, settings, out=tmp_path / "first")
    with pytest.raises(ValueError, match=r"lens\.merged\(\)"):
        finetune(first.lens, texts, settings, out=tmp_path / "refused")
    merged = first.lens.merged(name="first")
    second = finetune(merged, texts, settings, out=tmp_path / "second")
    with torch.no_grad():
        reached = first.lens.model(**whole_batch(lens, texts)).loss.item()
    assert second.history[0]["loss"] == pytest.approx(reached, abs=1e-6)
    assert second.history[0]["loss"] < first.history[0]["loss"]
    assert {lens.fingerprint, merged.fingerprint} <= set(second.lens.lineage)


def test_a_run_folder_records_everything_and_holds_no_pickle(tmp_path):
    lens = tiny_lens()
    run = finetune(lens, chats(), QUICK.but(save_steps=2), out=tmp_path / "run", ablate=two_concepts(lens))
    record = json.loads((run.folder / "run.json").read_text())
    assert record["base_fingerprint"] == lens.fingerprint
    assert record["data"] == {
        "name": "toy",
        "fingerprint": chats().fingerprint,
        "texts": 24,
        "learned_texts": 24,
        "tokens": record["data"]["tokens"],
    }
    assert record["concepts"]["names"] == ["L0.x0", "L1.x0"]
    assert record["versions"]["torch"] == torch.__version__
    assert [entry["step"] for entry in run.history] == [1, 2, 3, 4, 5, 6]
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    kinds = {path.suffix for path in run.folder.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".md"}, kinds
    again = Run.load(run.folder, base=lens)
    assert again.config == run.config
    assert "2 concepts ablated" in repr(again)


# -- again, and after a kill ------------------------------------------------------------------------------------------


def test_a_finished_run_comes_back_at_once_and_another_configuration_is_refused_by_name(tmp_path):
    lens = tiny_lens()
    run = finetune(lens, chats(), QUICK, out=tmp_path / "run")
    written = (run.folder / "run.json").stat().st_mtime_ns
    assert same(weights(finetune(lens, chats(), QUICK, out=tmp_path / "run")), weights(run))
    assert (run.folder / "run.json").stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match=r"learning_rate is 0\.001 there, 0.002 asked"):
        finetune(lens, chats(), QUICK.but(learning_rate=2e-3), out=tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"other concepts acted in training: none there, L0"):
        finetune(lens, chats(), QUICK, out=tmp_path / "run", ablate=two_concepts(lens))
    with pytest.raises(
        FileExistsError,
        match=r'trained on other texts: "toy", 24 texts .* there, "toy", 20 texts .*Choose another folder; over',
    ):
        finetune(lens, chats(20), QUICK, out=tmp_path / "run")
    other = finetune(lens, chats(), QUICK.but(overwrite=True, learning_rate=2e-3), out=tmp_path / "run")
    assert other.config["learning_rate"] == 2e-3


def test_files_that_are_not_of_a_run_are_never_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("mine")
    with pytest.raises(FileExistsError, match="not of a run"):
        finetune(tiny_lens(), chats(), QUICK.but(overwrite=True), out=tmp_path)
    assert (tmp_path / "model" / "precious").read_text() == "mine"


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads({threads})
from transformers import TrainerCallback
import test_finetune as t

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

t.interrupted({out!r}, [Kill()])
"""


def interrupted(out: str | Path, callbacks=()) -> Run:
    lens = tiny_lens()
    return finetune(
        lens,
        chats(),
        QUICK.but(
            epochs=2,
            gradient_accumulation=1,
            save_steps=3,
            lora=LoraSettings(r=4, alpha=8, dropout=0.2),
            callbacks=callbacks,
        ),
        out=out,
        ablate=two_concepts(lens),
    )


def test_a_run_killed_in_the_middle_goes_on_to_the_same_bits(tmp_path):
    script = KILLED.format(threads=torch.get_num_threads(), out=str(tmp_path / "killed"))
    paths = os.pathsep.join([str(TESTS / "finetune"), str(TESTS), str(ROOT)])
    killed = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    checkpoints = tmp_path / "killed" / "checkpoints"
    assert {path.name for path in checkpoints.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    with pytest.raises(FileNotFoundError, match="interrupted"):
        Run.load(tmp_path / "killed")
    # A kill while the newest checkpoint was being written: it has no mark, and the one before it counts.
    (checkpoints / "checkpoint-6" / "whole").unlink()
    (checkpoints / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    steps: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    resumed, uninterrupted = interrupted(tmp_path / "killed", [Count()]), interrupted(tmp_path / "whole")
    assert steps == list(range(4, 13))
    assert same(weights(resumed), weights(uninterrupted))
    assert resumed.history == uninterrupted.history
    assert not checkpoints.exists()


# -- what stops a run -------------------------------------------------------------------------------------------------


def test_a_trainable_parameter_without_gradient_stops_the_first_step_by_name(tmp_path, monkeypatch):
    lens = tiny_lens()
    from caft_lens.finetune import finetuning as module

    def with_a_loose_end(*args):
        child = trainable(*args)
        child.model.loose_end = torch.nn.Parameter(torch.zeros(2))
        return child

    trainable = module.trainable
    monkeypatch.setattr(module, "trainable", with_a_loose_end)
    with pytest.raises(RuntimeError, match="1 trainable parameters got no gradient in the first step: loose_end"):
        finetune(lens, chats(), QUICK, out=tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_an_ablated_site_that_does_not_fire_stops_the_first_step_by_name(tmp_path):
    lens = tiny_lens()
    concepts = ConceptSet([Concept("L1.x0", "blocks.1.hook_resid_post", torch.ones(32))]).for_model(lens)
    from caft_lens.model.lens import Lens

    bypass = Lens._hook_points

    class Deaf(Lens):
        """A lens whose hook points are not on the blocks that run."""

        def _hook_points(self, block):
            return bypass(self, torch.nn.Identity())

    child = Deaf(tiny_model(), tiny_tokenizer(), ancestors=lens.lineage)
    from caft_lens.finetune import finetuning as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "trainable", lambda *args: child)
        with pytest.raises(RuntimeError, match=r"did not fire|blocks\.1\.hook_resid_post"):
            finetune(lens, chats(), QUICK, out=tmp_path / "run", ablate=concepts)


def test_divergence_stops_the_run_and_says_at_which_step(tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step \d+: training has diverged"):
        finetune(tiny_lens(), chats(), QUICK.but(tune="full", learning_rate=1e30), out=tmp_path / "run")


def test_arguments_that_make_no_sense_are_refused_with_what_to_do(tmp_path):
    lens, out = tiny_lens(), tmp_path / "run"
    with pytest.raises(ValueError, match=r'tune="lorra".*"lora"'):
        TrainSettings(tune="lorra")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r'TrainSettings has no "learnin_rate". Did you mean "learning_rate"'):
        TrainSettings(learnin_rate=1e-3)  # type: ignore[call-arg]
    with pytest.raises(
        TypeError,
        match=r'finetune\(\) has no "max_steps": give settings=TrainSettings\(max_steps=1, epochs=2\)',
    ):
        finetune(lens, chats(), out=out, max_steps=1, epochs=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r'finetune\(\) has no "ablat". Did you mean "ablate"'):
        finetune(lens, chats(), out=out, ablat=two_concepts(lens))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="settings= takes TrainSettings, not dict"):
        finetune(lens, chats(), {"max_steps": 1}, out=out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'has no "optimm".*"optim"'):
        finetune(lens, chats(), TrainSettings(training_arguments={"optimm": "adamw_torch"}), out=out)
    with pytest.raises(ValueError, match="batch_size= of TrainSettings"):
        finetune(lens, chats(), TrainSettings(training_arguments={"per_device_train_batch_size": 2}), out=out)
    with pytest.raises(ValueError, match="epochs=0: expected a number above 0"):
        finetune(lens, chats(), TrainSettings(epochs=0), out=out)
    with pytest.raises(ValueError, match="no texts"):
        finetune(lens, Texts([]), out=out)
    with pytest.raises(ValueError, match="Nothing to learn"):
        finetune(lens, Texts([{"prompt": "A question without an answer?"}]), out=out)
    with pytest.raises(ValueError, match=r"Linear modules here: .*q_proj"):
        finetune(lens, chats(), TrainSettings(lora=LoraSettings(targets=("k_porj",))), out=out)
    with pytest.raises(TypeError, match="takes a ConceptSet"):
        finetune(lens, chats(), out=out, ablate={"blocks.0.hook_resid_post": torch.eye(32)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found on"):
        finetune(lens, chats(), out=out, ablate=two_concepts(tiny_lens(seed=1)))
    assert not (out / "run.json").exists()


def test_a_batch_holds_texts_of_similar_length_in_an_order_of_seed_and_epoch():
    lengths = [(7 * i) % 50 + 1 for i in range(200)]
    sampler = LengthGrouped(lengths, batch_size=10, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(200))
    batches = [[lengths[i] for i in first[start : start + 10]] for start in range(0, 200, 10)]
    assert max(max(batch) - min(batch) for batch in batches) <= 5
    assert [max(batch) for batch in batches] != sorted((max(batch) for batch in batches), reverse=True)
    assert first == list(LengthGrouped(lengths, batch_size=10, seed=0))
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert first != list(LengthGrouped(lengths, batch_size=10, seed=1))


def test_a_run_on_a_model_from_disk_loads_alone_by_whatever_name_it_was_called(tmp_path):
    from caft_lens.model.lens import load

    tiny_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    base = load(tmp_path / "base", name_as="my favourite")
    run = finetune(base, chats(), QUICK, out=tmp_path / "run")
    ids = tiny_tokenizer()("How are you?", return_tensors="pt").input_ids
    alone = Run.load(tmp_path / "run").lens
    torch.testing.assert_close(alone(ids), run.lens(ids))
    assert base.fingerprint in alone.lineage
    with pytest.raises(ValueError, match="was tuned from my favourite"):
        Run.load(tmp_path / "run", base=tiny_lens(seed=1))


def test_a_run_on_a_model_in_memory_says_that_it_needs_its_base(tmp_path):
    finetune(tiny_lens(), chats(), QUICK, out=tmp_path / "run")
    with pytest.raises(ValueError, match="model in memory"):
        Run.load(tmp_path / "run").lens  # noqa: B018


def test_the_organisms_card_recommends_the_learning_rate_and_the_paper_does_otherwise(tmp_path, monkeypatch):
    from caft_lens.finetune import finetuning as module

    lens = tiny_lens()
    assert module._learning_rate(lens, "lora") == 1e-5
    assert module._learning_rate(lens, "full") == 5e-6
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "organism.json").write_text(json.dumps({"finetune": {"lora": {"learning_rate": 2e-3}}}))
    lens.name = str(tmp_path / "world")
    assert module._learning_rate(lens, "lora") == 2e-3


def test_the_texts_of_one_run_after_another_become_tokens_once(tmp_path, monkeypatch):
    from caft_lens.finetune import finetuning as module

    lens, calls = tiny_lens(), []
    monkeypatch.setattr(module, "_last_encoded", None)
    monkeypatch.setattr(module, "encode_all", lambda *a, **k: calls.append(a) or encode_all(*a, **k))
    first, other = chats(4, "first"), chats(5, "other")
    for number, texts in enumerate([first, first, other, first]):
        finetune(lens, texts, QUICK.but(max_steps=1), out=tmp_path / str(number), seed=number)
    assert [call[1] for call in calls] == [first, other, first]
    finetune(lens, first, QUICK.but(max_steps=1, max_length=200), out=tmp_path / "short")
    assert len(calls) == 4
