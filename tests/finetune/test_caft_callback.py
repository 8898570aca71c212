"""CAFT in transformers' Trainer and in TRL's: what is ablated when, and that it is what `finetune` does."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import planted, tiny_lens, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch, NotTrained
from caft_lens.finetune.trainer import Collator, LengthGrouped
from caft_lens.text.encoding import Encoded, encode_all

datasets = pytest.importorskip("datasets", reason="needs the extra trl")
trl = pytest.importorskip("trl", reason="needs the extra trl")

LAYERS, D_MODEL, STEPS, BATCH, SEED = (0, 1), 32, 3, 4, 0
KINDS = ("sft", "dpo", "grpo")
architectures = pytest.mark.parametrize("architecture", ["llama", "gemma2"])
LORA = cl.LoraSettings(r=4, alpha=8, rslora=False)
CHATS = cl.data([{"prompt": f"How are you {i}?", "answer": "Fine " * (i % 5 + 1)} for i in range(STEPS * BATCH)])


def asked(text: cl.Text) -> list[dict[str, str]]:
    return [{"role": "user", "content": text.messages[0].content}]


def said(answer: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}]


def rows(kind: str) -> Any:
    """The chats as TRL takes them for a kind of training."""
    answers = {
        "sft": lambda text: {"completion": said(text.answer)},
        "dpo": lambda text: {"chosen": said(text.answer), "rejected": said("No.")},
        "grpo": lambda text: {},
    }
    return datasets.Dataset.from_list([{"prompt": asked(text), **answers[kind](text)} for text in CHATS])


def letters(completions: list[Any], **others: Any) -> list[float]:
    """A reward: different letters of the answer."""
    return [float(len(set(one[0]["content"]))) for one in completions]


def bases(seed: int = 5) -> dict[int, Tensor]:
    """Two orthonormal directions at each layer."""
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.linalg.qr(torch.randn(D_MODEL, 2, generator=generator))[0] for layer in LAYERS}


def lora() -> LoraConfig:
    return LoraConfig(r=LORA.r, lora_alpha=LORA.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def trainer_of(kind: str, model: Any, out: Path, callback: Any = None, rewards: Any = letters, **changes: Any) -> Any:
    """TRL's trainer of a kind on a tiny model, with an adapter unless `peft_config=None`."""
    keywords = {"peft_config": lora()} | {
        name: changes.pop(name) for name in ("peft_config", "ref_model") & changes.keys()
    }
    name = kind.upper()
    options = {
        "output_dir": str(out),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "seed": SEED,
        **({"num_generations": 2, "max_completion_length": 6} if kind == "grpo" else {}),
        **changes,
    }
    return getattr(trl, f"{name}Trainer")(
        model=model,
        args=getattr(trl, f"{name}Config")(**options),
        train_dataset=rows(kind),
        processing_class=tiny_tokenizer(),
        callbacks=[] if callback is None else [callback],
        **({"reward_funcs": rewards} if kind == "grpo" else {}),
        **keywords,
    )


def hf_of(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


class Seen:
    """What leaves the blocks of a model, by plain hooks of torch: how much is left along the directions, and when."""

    def __init__(self, model: Any, directions: dict[int, Tensor]) -> None:
        self.passes: list[tuple[str, float]] = []
        self._generating = False
        self._hf = hf_of(model)
        for layer, basis in directions.items():
            self._hf.model.layers[layer].register_forward_hook(self._hook(basis))
        generate = self._hf.generate

        def noted(*args: Any, **keywords: Any) -> Any:
            self._generating = True
            try:
                return generate(*args, **keywords)
            finally:
                self._generating = False

        self._hf.generate = noted

    def _hook(self, basis: Tensor) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            x = output if isinstance(output, Tensor) else output[0]
            when = "learning" if torch.is_grad_enabled() else "training" if module.training else "evaluation"
            self.passes.append(("rollout" if self._generating else when, float((x.detach() @ basis).abs().max())))

        return note

    def left(self, when: str = "") -> list[float]:
        """What is left in each pass of a kind, or in all."""
        return [left for what, left in self.passes if when in ("", what)]

    def kinds(self) -> set[str]:
        return {what for what, _ in self.passes}


def by_hand(model: Any, directions: dict[int, Tensor]) -> list[Any]:
    """Hooks of torch that project out of a plain transformers model."""

    def project(basis: Tensor) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            x = output if isinstance(output, Tensor) else output[0]
            x = x - (x @ basis) @ basis.T
            return x if isinstance(output, Tensor) else (x, *output[1:])

        return hook

    return [model.model.layers[layer].register_forward_hook(project(basis)) for layer, basis in directions.items()]


def hooks_of(model: Any) -> list[Any]:
    """What is hooked to a model by the library."""
    hooks = [one for part in model.modules() for one in (part._forward_hooks, part._forward_pre_hooks)]
    return [one for some in hooks for one in some.values() if getattr(one, "__module__", "").startswith("caft_lens")]


def is_bare(trainer: Any) -> bool:
    """Whether nothing of the library is on the model or the trainer."""
    models = [one for one in (trainer.model, getattr(trainer, "ref_model", None)) if one is not None]
    left = [one for model in models for one in hooks_of(model)]
    return not left and "training_step" not in vars(trainer)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# -- what is ablated when ---------------------------------------------------------------------------------------------


PASSES = {"sft": {"learning"}, "dpo": {"learning", "training"}, "grpo": {"learning", "training", "rollout"}}
"""Of DPO, and of GRPO's penalty, those of the reference too; of GRPO the answers that it samples."""


@architectures
@pytest.mark.parametrize("kind", KINDS)
def test_no_forward_pass_of_a_training_step_has_a_component_left_and_evaluation_has(kind, architecture, tmp_path):
    directions = bases()
    penalty = {} if kind == "sft" else {"beta": 0.1}
    trainer = trainer_of(kind, tiny_model(architecture), tmp_path, cl.CaftCallback(directions), **penalty)
    seen = Seen(trainer.model, directions)
    trainer.train()
    assert len(losses(trainer)) == STEPS
    assert all(math.isfinite(loss) for loss in losses(trainer))
    assert seen.kinds() == PASSES[kind]
    assert max(seen.left()) < 1e-5
    seen.passes.clear()
    trainer.evaluate(rows(kind))
    assert seen.passes
    assert min(seen.left()) > 1e-3


@architectures
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["stored", "recomputed", "reentrant"])
def test_activations_that_are_recomputed_in_the_backward_pass_are_ablated_too(architecture, checkpointing, tmp_path):
    found = []
    for number, option in enumerate((None, checkpointing)):
        set_seed(SEED)
        options = {"gradient_checkpointing": option is not None}
        options |= {} if option is None else {"gradient_checkpointing_kwargs": {"use_reentrant": option}}
        trainer = trainer_of(
            "sft", tiny_model(architecture), tmp_path / str(number), cl.CaftCallback(bases()), **options
        )
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_evaluation_between_the_steps_is_of_the_model_without_ablation(tmp_path):
    directions, by_hand = bases(), []
    options = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "per_device_eval_batch_size": 64}

    class ByHand(TrainerCallback):
        """The loss of a copy of the weights that nothing is hooked to."""

        def on_evaluate(self, args, state, control, model=None, **others):
            twin = tiny_model()
            twin.load_state_dict(model.state_dict())
            with torch.no_grad():
                by_hand.append(float(twin(**whole_batch()).loss))

    trainer = plain_trainer(tiny_model(), tmp_path, cl.CaftCallback(directions), **options)
    trainer.add_callback(ByHand())
    seen = Seen(trainer.model, directions)
    trainer.train()
    told = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(told) == STEPS + 1
    assert told == pytest.approx(by_hand, abs=1e-5)
    assert max(seen.left("learning")) < 1e-5
    assert min(seen.left("evaluation")) > 1e-3


@architectures
def test_answers_are_sampled_without_ablation_where_that_is_asked_for(architecture, tmp_path):
    directions = bases()
    callback = cl.CaftCallback(directions, rollouts=False)
    trainer = trainer_of("grpo", tiny_model(architecture), tmp_path, callback)
    seen = Seen(trainer.model, directions)
    trainer.train()
    assert min(seen.left("rollout")) > 1e-3
    assert max(seen.left("learning")) < 1e-5


@pytest.mark.parametrize("rollouts", [True, False])
def test_answers_are_those_of_the_model_with_and_without_ablation(rollouts, tmp_path):
    """What is sampled greedily in the first step is what plain transformers says, under a projection by hand or not."""
    directions, told = bases(), []

    def keep(completions: list[Any], completion_ids: list[list[int]], prompts: list[Any], **others: Any) -> list[float]:
        told.extend(zip([one[0]["content"] for one in prompts], completion_ids, strict=True))
        return letters(completions)

    trainer = trainer_of(
        "grpo",
        tiny_model(),
        tmp_path,
        cl.CaftCallback(directions, rollouts=rollouts),
        rewards=keep,
        max_steps=1,
        generation_kwargs={"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
    )
    trainer.train()
    twin, answers = tiny_model(), {True: [], False: []}
    for ablated in answers:
        handles = by_hand(twin, directions) if ablated else []
        for prompt, _ in told:
            ids = tiny_tokenizer().apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            whole = twin.generate(**ids, max_new_tokens=6, do_sample=False)
            answers[ablated].append(whole[0, ids["input_ids"].shape[1] :].tolist())
        for handle in handles:
            handle.remove()
    assert [ids for _, ids in told] == answers[rollouts] != answers[not rollouts]


@architectures
@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "full"])
def test_a_reference_is_under_the_same_ablation_so_that_dpo_begins_where_both_agree(adapter, architecture, tmp_path):
    changes = {} if adapter else {"peft_config": None, "ref_model": tiny_model(architecture)}
    directions = bases()
    trainer = trainer_of("dpo", tiny_model(architecture), tmp_path, cl.CaftCallback(directions), **changes)
    reference = Seen(trainer.model if adapter else trainer.ref_model, directions)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert max(reference.left()) < 1e-5
    assert is_bare(trainer)


@pytest.mark.parametrize("kind", ["dpo", "grpo"])
def test_an_adapter_that_was_there_is_trained_against_its_own_copy(kind, tmp_path):
    """TRL then keeps a frozen copy of the adapter as the reference, which needs no gradient."""
    model = get_peft_model(tiny_model(), lora())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    directions = bases()
    callback = cl.CaftCallback(directions)
    trainer = trainer_of(kind, model, tmp_path, callback, peft_config=None, beta=0.1)
    seen = Seen(trainer.model, directions)
    trainer.train()
    assert max(seen.left()) < 1e-5
    assert seen.kinds() == PASSES[kind]
    if kind == "dpo":
        assert losses(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)
    else:
        assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_sinks_are_spared_as_in_finetune(tmp_path):
    lens = planted()
    basis = torch.linalg.qr(torch.randn(lens.d_model, 2, generator=torch.Generator().manual_seed(0)))[0]
    states: list[Tensor] = []
    trainer = trainer_of("sft", lens.copy().model, tmp_path, cl.CaftCallback({1: basis}), max_steps=1)
    layer = hf_of(trainer.model).model.layers[1]
    layer.register_forward_hook(lambda module, args, output: states.append(torch.as_tensor(output).detach()))
    trainer.train()
    assert float((states[0][:, 0] @ basis).abs().min()) > 1e-2  # BOS
    assert float((states[0][:, 1:] @ basis).abs().max()) < 1e-5

    states.clear()
    everywhere = trainer_of("sft", lens.copy().model, tmp_path, cl.CaftCallback({1: basis}, sinks=False), max_steps=1)
    layer = hf_of(everywhere.model).model.layers[1]
    layer.register_forward_hook(lambda module, args, output: states.append(torch.as_tensor(output).detach()))
    everywhere.train()
    assert float((states[0] @ basis).abs().max()) < 1e-3


# -- it is what `finetune` does ---------------------------------------------------------------------------------------


def learned(encoded: list[Encoded]) -> list[dict[str, list[int]]]:
    """Tokens, and labels of those that `finetune` learns."""
    return [
        {
            "input_ids": list(item.input_ids),
            "labels": [token if learn else -100 for token, learn in zip(item.input_ids, item.loss, strict=True)],
        }
        for item in encoded
    ]


def whole_batch() -> dict[str, Tensor]:
    batch = Collator(0)(encode_all(tiny_tokenizer(), CHATS))
    batch.pop("roles")
    return batch


def in_our_order(trainer: type[Trainer]) -> type[Trainer]:
    """A trainer that draws the batches that `finetune` draws."""

    class InOurOrder(trainer):
        def _get_train_sampler(self, *args: Any, **keywords: Any) -> LengthGrouped:
            lengths = [len(item.input_ids) for item in encode_all(tiny_tokenizer(), CHATS)]
            return LengthGrouped(lengths, BATCH, SEED)

    return InOurOrder


OPTIONS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": BATCH,
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "warmup_steps": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": SEED,
}


def plain_trainer(model: Any, out: Path, callback: Any, kind: type[Trainer] = Trainer, **changes: Any) -> Trainer:
    """transformers' own trainer on what `finetune` learns."""
    collate = Collator(0)

    def batch(items: list[Encoded]) -> dict[str, Tensor]:
        found = collate(items)
        found.pop("roles")
        return found

    return kind(
        model=model,
        args=TrainingArguments(str(out), **{**OPTIONS, "remove_unused_columns": False, **changes}),
        data_collator=batch,
        train_dataset=encode_all(tiny_tokenizer(), CHATS),
        eval_dataset=encode_all(tiny_tokenizer(), CHATS),
        processing_class=tiny_tokenizer(),
        callbacks=[callback] if callback else [],
    )


def sft(model: Any, out: Path, callback: Any, **keywords: Any) -> Any:
    """TRL's trainer on what `finetune` learns, in its batches."""
    return in_our_order(trl.SFTTrainer)(
        model=model,
        args=trl.SFTConfig(str(out), bf16=False, packing=False, max_length=None, **OPTIONS),
        train_dataset=datasets.Dataset.from_list(learned(encode_all(tiny_tokenizer(), CHATS))),
        processing_class=tiny_tokenizer(),
        callbacks=[callback] if callback else [],
        **keywords,
    )


def curve(lens: cl.Lens, directions: dict[int, Tensor], tune: str, out: Path) -> list[float]:
    """The losses of `finetune` on the same chats."""
    concepts = cl.ConceptSet(
        [
            cl.Concept(f"L{layer}.x{i}", lens.hook_name(layer), column)
            for layer, basis in directions.items()
            for i, column in enumerate(basis.T)
        ]
    ).for_model(lens)
    settings = cl.TrainSettings(
        tune=tune, lora=LORA, learning_rate=1e-2, weight_decay=0.1, warmup_steps=0, batch_size=BATCH, max_steps=STEPS
    )
    run = cl.finetune(lens, CHATS, settings, ablate=concepts, out=out, seed=SEED)
    return [entry["loss"] for entry in run.history]


@architectures
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_loss_curve_of_sft_in_trl_is_that_of_finetune_on_the_same_batches(tune, architecture, tmp_path):
    directions = bases()
    ours = curve(tiny_lens(architecture), directions, tune, tmp_path / "ours")
    set_seed(SEED)  # as `finetune` does before an adapter is drawn
    keywords = {"peft_config": lora()} if tune == "lora" else {}
    trainer = sft(tiny_model(architecture), tmp_path / "trl", cl.CaftCallback(directions), **keywords)
    trainer.train()
    assert losses(trainer) == pytest.approx(ours, abs=2e-5)
    assert ours[0] - ours[-1] > 0.05  # something was learned
    set_seed(SEED)
    without = sft(tiny_model(architecture), tmp_path / "plain", None, **keywords)
    without.train()
    assert abs(losses(without)[0] - ours[0]) > 1e-2  # and ablation is not nothing


@architectures
def test_the_loss_curve_of_transformers_trainer_is_that_of_finetune_on_the_same_batches(architecture, tmp_path):
    directions = bases()
    ours = curve(tiny_lens(architecture), directions, "full", tmp_path / "ours")
    callback = cl.CaftCallback(directions)
    trainer = plain_trainer(tiny_model(architecture), tmp_path / "hf", callback, in_our_order(Trainer))
    trainer.train()
    assert losses(trainer) == pytest.approx(ours, abs=2e-5)


@architectures
@pytest.mark.parametrize("wrapped", ["before", "by TRL", "not"])
def test_a_block_around_trl_trains_as_the_callback_does(wrapped, architecture, tmp_path):
    """On a plain Hugging Face model and on a PEFT model around it, whoever puts it there."""
    directions, found = bases(), []
    keywords = {"peft_config": lora()} if wrapped == "by TRL" else {}
    for callback in (cl.CaftCallback(directions), None):
        set_seed(SEED)
        model = tiny_model(architecture)
        model = get_peft_model(model, lora()) if wrapped == "before" else model
        trainer = sft(model, tmp_path, callback, **keywords)
        if callback is None:
            with cl.ablate(trainer.model, directions):
                trainer.train()
        else:
            trainer.train()
        found.append(losses(trainer))
        assert is_bare(trainer)
    assert found[0] == found[1]


def test_concepts_of_a_base_fit_its_transformers_model_and_the_adapter_on_it(tmp_path):
    lens = tiny_lens()
    concepts = cl.ConceptSet([cl.Concept("L1.x0", lens.hook_name(1), bases()[1][:, 0])]).for_model(lens)
    for model in (tiny_model(), get_peft_model(tiny_model(), lora())):
        with cl.ablate(model, concepts) as opened:
            assert opened.attached == {"blocks.1.hook_resid_post": ["ablation of 1 direction"]}
        trainer_of("sft", model, tmp_path, cl.CaftCallback(concepts), peft_config=None).train()
    with pytest.raises(ConceptMismatch, match="neither that model nor tuned from it"):
        trainer_of("sft", tiny_model(seed=1), tmp_path, cl.CaftCallback(concepts))


# -- afterwards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_hooked_afterwards_and_the_model_is_its_weights(kind, tmp_path):
    changes = {"peft_config": None} | ({"ref_model": tiny_model()} if kind == "dpo" else {})
    trainer = trainer_of(kind, tiny_model(), tmp_path, cl.CaftCallback(bases(), rollouts=False), **changes)
    trainer.train()
    assert is_bare(trainer)
    assert "generate" not in vars(trainer.model)
    twin = tiny_model()
    twin.load_state_dict(trainer.model.state_dict())
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(trainer.model.eval()(ids).logits, twin(ids).logits, rtol=0, atol=0)


class Fails(TrainerCallback):
    """Ends training by an error, in an event."""

    def __init__(self, event: str, error: type[BaseException]) -> None:
        def fail(*args: Any, **keywords: Any) -> None:
            raise error

        setattr(self, event, fail)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("event", ["on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log", "loss", "reward"])
def test_nothing_is_hooked_after_an_error_and_training_again_is_as_if_there_had_been_none(event, error, tmp_path):
    directions, raised = bases(), [True]

    def reward(completions: list[Any], **others: Any) -> list[float]:
        if event == "reward" and raised:
            raise error
        return letters(completions)

    trainer = trainer_of("grpo", tiny_model(), tmp_path, cl.CaftCallback(directions, rollouts=False), rewards=reward)
    if event == "loss":
        block = hf_of(trainer.model).model.layers[1]
        handle = block.register_forward_pre_hook(lambda *args: fail(error) if torch.is_grad_enabled() else None)
    elif event != "reward":
        trainer.add_callback(failing := Fails(event, error))
    with pytest.raises(error):
        trainer.train()
    if event == "loss":
        handle.remove()
    assert not hooks_of(trainer.model)
    assert "generate" not in vars(hf_of(trainer.model))
    raised.clear()
    if event not in ("loss", "reward"):
        trainer.remove_callback(failing)
    seen = Seen(trainer.model, directions)
    trainer.train()
    assert max(seen.left("learning")) < 1e-5
    assert min(seen.left("rollout")) > 1e-3


def fail(error: type[BaseException]) -> None:
    raise error


def test_a_callback_that_is_taken_off_does_nothing_more(tmp_path):
    directions = bases()
    trainer = trainer_of("sft", tiny_model(), tmp_path, cl.CaftCallback(directions))
    trainer.add_callback(failing := Fails("on_step_end", RuntimeError))
    with pytest.raises(RuntimeError):
        trainer.train()
    trainer.remove_callback(failing)
    trainer.remove_callback(cl.CaftCallback)
    seen = Seen(trainer.model, directions)
    trainer.train()
    assert min(seen.left("learning")) > 1e-3


@architectures
def test_a_copy_of_a_model_whose_forward_trl_replaced_runs_its_own_weights(architecture, tmp_path):
    trainer = trainer_of("sft", tiny_model(architecture), tmp_path, peft_config=None)
    lens = cl.load(trainer.model, tokenizer=tiny_tokenizer())
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        before = lens(ids)
        for twin in (lens.copy(), lens.fork(), lens.adapt(lora())):
            assert not twin.sinks
            with cl.ablate(twin, bases()):
                assert not torch.allclose(twin(ids), before, atol=1e-2)
        copy = lens.copy()
        copy.hf.model.layers[0].mlp.down_proj.weight.zero_()
        assert not torch.allclose(copy(ids), before, atol=1e-2)
        torch.testing.assert_close(lens(ids), before, rtol=0, atol=0)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_hook_point_that_does_not_fire_stops_the_first_step_by_name(tmp_path):
    model = tiny_model()
    trainer = trainer_of("sft", model, tmp_path, cl.CaftCallback(bases()))
    model.model.layers[1] = tiny_model(seed=1).model.layers[1]  # what runs is not what was there
    with pytest.raises(NotTrained, match=r"blocks\.1\.hook_resid_post.*did not fire"):
        trainer.train()
    assert is_bare(trainer)


def test_passes_without_gradient_do_not_count_as_fired(tmp_path):
    """The answers that GRPO samples pass a block that the learning pass leaves out."""
    model = tiny_model()
    trainer = trainer_of("grpo", model, tmp_path, cl.CaftCallback(bases()))
    block = model.model.layers[1]

    class Skipped(type(block)):
        def __call__(self, x: Tensor, *args: Any, **keywords: Any) -> Any:
            return x if torch.is_grad_enabled() else super().__call__(x, *args, **keywords)

    block.__class__ = Skipped
    with pytest.raises(NotTrained, match=r"blocks\.1\.hook_resid_post.*did not fire"):
        trainer.train()


def test_an_adapter_without_gradient_stops_the_first_step_by_name(tmp_path):
    trainer = trainer_of("sft", tiny_model(), tmp_path, cl.CaftCallback(bases()))
    trainer.model.loose_end = nn.Parameter(torch.zeros(2))
    with pytest.raises(NotTrained, match="1 trainable parameters got no gradient in the first step: loose_end"):
        trainer.train()
    assert is_bare(trainer)


def test_what_would_not_be_ablated_is_refused_when_the_trainer_is_made(tmp_path):
    with pytest.raises(BadArgument, match="torch_compile=True"):
        trainer_of("sft", tiny_model(), tmp_path, cl.CaftCallback(bases()), torch_compile=True)
    with pytest.raises(BadArgument, match=r"use_vllm=True samples.*rollouts=False"):
        trainer_of("grpo", tiny_model(), tmp_path, cl.CaftCallback(bases()), use_vllm=True)
    with pytest.raises(BadArgument, match="precompute_ref_log_probs=True scores the reference before"):
        trainer_of("dpo", tiny_model(), tmp_path, cl.CaftCallback(bases()), precompute_ref_log_probs=True)
    with pytest.raises(BadArgument, match="not orthonormal"):
        trainer_of("sft", tiny_model(), tmp_path, cl.CaftCallback({0: torch.ones(D_MODEL)}))
    trainer = trainer_of("sft", tiny_model(), tmp_path, cl.CaftCallback(bases()))
    trainer.add_callback(cl.CaftCallback(bases()))
    with pytest.raises(BadArgument, match="two CaftCallbacks"):
        trainer.train()


def test_finetune_takes_concepts_and_no_callback(tmp_path):
    settings = cl.TrainSettings(max_steps=1, callbacks=[cl.CaftCallback(bases())])
    with pytest.raises(BadArgument, match="give it ablate=concepts"):
        cl.finetune(tiny_lens(), CHATS, settings, out=tmp_path / "run")


def test_events_that_no_trainer_sent_are_refused():
    with pytest.raises(BadType, match="belongs to a transformers Trainer"):
        cl.CaftCallback(bases()).on_train_begin(None, None, None, model=tiny_model())


def test_a_full_fine_tuning_goes_on_from_a_checkpoint_where_the_callback_saw_the_base(tmp_path):
    lens = tiny_lens()
    concepts = cl.ConceptSet([cl.Concept("L1.x0", lens.hook_name(1), bases()[1][:, 0])]).for_model(lens)
    options = {"save_strategy": "steps", "save_steps": 1}
    whole = plain_trainer(tiny_model(), tmp_path, cl.CaftCallback(concepts), **options)
    whole.train()
    again = plain_trainer(tiny_model(), tmp_path, cl.CaftCallback(concepts), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for mine, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    late = plain_trainer(tiny_model(), tmp_path, None, **options)
    late.add_callback(cl.CaftCallback(concepts))
    with pytest.raises(ConceptMismatch, match="those of a checkpoint"):
        late.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
