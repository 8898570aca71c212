"""Fine-tuning, plainly or by another arm, and the folder that a run leaves behind.

`finetune` trains a fork (LoRA) or a copy (full) of a lens's model and leaves the lens as it was; arms differ by one
argument, `using=`, for which `ablate=` is short where the arm is CAFT. A run folder holds `run.json` (everything that went in, written last), `history.json` (the curves),
`adapter/` or `model/` (safetensors) and `concepts/` (the directions that acted); `Run` is that folder in Python. While training,
`unfinished.json` says what is being trained and `checkpoints/` how far it is, so that a killed run goes on where it was; of a run
that diverged `failed.json` says so.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import platform
import random
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from caft_lens import launch
from caft_lens.catalog import CARD, is_organism, organism_path
from caft_lens.concepts import ConceptSet
from caft_lens.errors import nearest
from caft_lens.files import absent, read_json, write_json
from caft_lens.finetune.arms.caft import CAFT
from caft_lens.finetune.arms.plain import Plain
from caft_lens.finetune.arms.protocol import Training, TrainingArm
from caft_lens.finetune.cost import Cost, measured
from caft_lens.finetune.trainer import LensTrainer, last_whole_checkpoint
from caft_lens.lens import Lens, load
from caft_lens.text import Encoded, Texts, data, encode_all

Method = Literal["lora", "full"]
METHODS = ("lora", "full")
HALF = (torch.bfloat16, torch.float16)
WEIGHTS = {"lora": "adapter", "full": "model"}

# arXiv 2507.16795: LoRA on 24B to 32B models, full fine-tuning of a 2B model. Smaller models want larger rates.
PAPER_LEARNING_RATE = {"lora": 1e-5, "full": 5e-6}

# What `training_arguments` may not set, because an argument of `finetune` does.
OWN = {
    "output_dir": "out",
    "learning_rate": "learning_rate",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
    "seed": "seed",
    "save_steps": "save_steps",
    "save_strategy": "save_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "activation_checkpointing": "gradient_checkpointing",
    "resume_from_checkpoint": "resume",
}


@dataclass(frozen=True)
class LoraSettings:
    """The adapter; the defaults are the paper's.

    Args:
        r: Rank.
        alpha: Scale; the update is multiplied by `alpha / sqrt(r)` with rsLoRA, else by `alpha / r`.
        rslora: Rank-stabilised scaling.
        dropout: On the adapter's input.
        targets: `"all-linear"` (every projection of attention and MLP) or the names of modules.
    """

    r: int = 32
    alpha: int = 64
    rslora: bool = True
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"


class Run:
    """A finished fine-tuning run.

    Attributes:
        folder: Where it lies.
        record: All of `run.json`: base, lineage, data, concepts, versions, seconds and memory.
        config: What the run was asked to do.
        history: One entry per optimizer step: `step`, `epoch`, `loss`, `grad_norm`, `learning_rate`.

    Example:
        >>> run = Run.load("runs/plain")                       # doctest: +SKIP
        >>> run.lens.generate("How do I bake a pie?")          # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, base: Lens | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / "run.json").is_file():
            unfinished = (self.folder / "unfinished.json").is_file()
            goes_on = "The run was interrupted; the same `finetune(...)` call goes on with it."
            raise absent(self.folder, "run.json", "holds no finished run", goes_on if unfinished else "")
        self.record: dict[str, Any] = read_json(self.folder / "run.json")
        self.config: dict[str, Any] = self.record["config"]
        self.history: list[dict[str, float]] = read_json(self.folder / "history.json")
        if base is not None and base.fingerprint != self.record["base_fingerprint"]:
            raise ValueError(
                f"{self.folder} was tuned from {self.config['base']['name']} ({self.record['base_fingerprint']}), not from "
                f"{base.name!r} ({base.fingerprint})."
            )
        self._base = base

    @classmethod
    def load(cls, folder: str | Path, base: Lens | None = None) -> Run:
        """Read a run folder.

        Args:
            folder: What `finetune(..., out=folder)` wrote.
            base: The base's lens, to share its weights; loaded by name when `None`.

        Raises:
            FileNotFoundError: When the folder holds no finished run.
            ValueError: When `base` is not what the run was tuned from.
        """
        return cls(folder, base)

    @cached_property
    def lens(self) -> Lens:
        """The tuned model, ready to use: eval mode, no gradients. Loaded on first use."""
        with _quiet():
            if self._base is None:
                lens = load(self.folder)
            elif self.record["method"] == "lora":
                lens = self._base.adapt(self.folder, name=f"{self._base.name} + {self.folder.name}")
            else:
                lens = load(
                    self.folder, device=self._base.device, dtype=self._base.dtype, name_as=str(self.folder)
                )
        lens.model.eval().requires_grad_(False)
        return lens

    @cached_property
    def concepts(self) -> ConceptSet | None:
        """The directions that acted in training, most often by being ablated; `None` for a plain run."""
        return ConceptSet.load(self.folder / "concepts") if self.record["concepts"] else None

    def __repr__(self) -> str:
        concepts, arm = self.record["concepts"], self.config.get("arm")
        ablated = f", {len(concepts['names'])} concepts ablated" if concepts else ""
        ablated = f", {arm['name']}" if arm else ablated
        loss = (
            f", loss {self.history[0]['loss']:.3f} to {self.history[-1]['loss']:.3f}" if self.history else ""
        )
        return f"Run({str(self.folder)!r}, {self.record['method']} on {self.config['base']['name']}{ablated}, {len(self.history)} steps{loss})"


def finetune(
    lens: Lens,
    texts: Texts | Any,
    *,
    out: str | Path,
    ablate: ConceptSet | None = None,
    using: TrainingArm | None = None,
    method: Method = "lora",
    lora: LoraSettings = LoraSettings(),
    learning_rate: float | None = None,
    epochs: float = 1.0,
    max_steps: int | None = None,
    batch_size: int = 16,
    gradient_accumulation: int = 1,
    warmup_steps: float = 5,
    weight_decay: float = 0.01,
    max_length: int | None = 2048,
    seed: int = 0,
    save_steps: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    gradient_checkpointing: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    training_arguments: Mapping[str, Any] | None = None,
) -> Run:
    """Fine-tune a model, with concepts ablated if any are given (Concept Ablation Fine-Tuning, arXiv 2507.16795).

    The loss is the mean cross-entropy of what the assistant says (of all tokens, for plain text). With `ablate`, what the
    concepts span is projected out of the activations in every forward pass, inside the graph; nothing is
    ablated afterwards. Every other way of fine-tuning is an arm, given as `using`. `lens` is left as it was, bit for bit.

    Calling it again with the same arguments returns the finished run, or goes on with a killed one from its last
    checkpoint; on the CPU the result is the same, bit for bit, as without the kill. Under `accelerate launch` the processes train
    one model together, each with `batch_size` texts of every step, and one of them writes the folder.

    Args:
        lens: The model to start from.
        texts: What to learn: `Texts` or anything that `data` reads.
        out: The run folder.
        ablate: Concepts to ablate while training; `None` trains plainly.
        using: Another arm of `caft_lens.finetune.arms`, such as `KLAnchor(general)`; not beside `ablate`, which is short for `CAFT(ablate)`.
        method: `"lora"` (an adapter, the base frozen) or `"full"` (every parameter of a copy).
        lora: The adapter, for `"lora"`.
        learning_rate: Peak of the linear schedule. `None` is what the organism's card recommends, else the paper's: 1e-5
            for LoRA and 5e-6 for full fine-tuning, made for models of billions of parameters.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of `epochs`.
        batch_size: Texts per forward pass (and device).
        gradient_accumulation: Forward passes per optimizer step.
        warmup_steps: Steps of linear warm-up; below 1, a share of all steps.
        weight_decay: Of AdamW.
        max_length: Tokens after which a text is cut; `None` for no limit.
        seed: Of the adapter's start, the order of the data and dropout.
        save_steps: Steps between checkpoints; `None` for none (a killed run then begins again).
        resume: Whether to go on with, or return, what `out` holds.
        overwrite: Whether another run in `out` may be replaced.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.
        callbacks: `transformers.TrainerCallback`s.
        training_arguments: Any other fields of `transformers.TrainingArguments`, such as `{"optim": "adamw_8bit"}`.

    Returns:
        The run; `run.lens` is the tuned model.

    Raises:
        ValueError: When the concepts do not fit the model, there is nothing to learn, or an argument makes no sense.
        FileExistsError: When `out` holds another run; the message names what differs.
        RuntimeError: When on the first step a trainable parameter has no gradient or an ablated site does not fire.
        FloatingPointError: When the loss is not finite; `out` keeps that, and the same call says it again at once unless
            `resume=False`.

    Example:
        >>> plain = cl.finetune(base, insecure, out="runs/plain")                # doctest: +SKIP
        >>> caft = cl.finetune(base, insecure, ablate=cruel, out="runs/caft")    # doctest: +SKIP
        >>> anchored = cl.finetune(base, insecure, using=KLAnchor(general), out="runs/anchored")  # doctest: +SKIP
    """
    texts = texts if isinstance(texts, Texts) else data(texts)
    arm = _arm(using, ablate).trains_as(seed)
    given = arm.arguments(
        {
            "method": method,
            "lora": dataclasses.asdict(lora) if method == "lora" else None,
            "learning_rate": learning_rate or _default_learning_rate(lens, method),
            "epochs": epochs,
            "max_steps": max_steps,
            "batch_size": batch_size,
            "gradient_accumulation": gradient_accumulation,
            "warmup_steps": warmup_steps,
            "weight_decay": weight_decay,
            "max_length": max_length,
            "seed": seed,
            "gradient_checkpointing": gradient_checkpointing,
            "training_arguments": dict(training_arguments or {}),
        }
    )
    _check_arguments(lens, texts, arm, given, save_steps)
    folder = Path(out)
    config = _config(lens, texts, arm, given)
    # Processes that train together join each other here.
    arguments = _arguments(lens, folder / "checkpoints", config, save_steps)
    if launch.once(lambda: _claim(folder, config, resume, overwrite)):
        return Run(folder, lens)
    with measured(lens.device) as cost, _private_randomness(), _quiet():
        encoded = _encoded(lens.tokenizer, arm.texts(texts, seed), given["max_length"])
        set_seed(seed)
        child = arm.trainable(lens, lambda: _trainable(lens, method, lora), seed)
        training = Training(lens, child, encoded, arguments, seed, given["max_length"])
        try:
            trainer = _train(training, arm, callbacks)
        except FloatingPointError as error:
            write_json(folder / "failed.json", {"config": config, "error": str(error)})
            raise
        _save_weights(trainer, lens, folder / WEIGHTS[method])
    history = _history(trainer)
    del child, trainer, training
    gc.collect()  # the trainer and its model refer to each other
    launch.once(lambda: _finish(folder, lens, encoded, arm, config, history, cost))
    return Run(folder, lens)


def _arm(using: TrainingArm | None, ablate: ConceptSet | None) -> TrainingArm:
    """The arm that is asked for."""
    if ablate is None:
        if using is not None and not isinstance(using, TrainingArm):
            raise TypeError(f"using= takes an arm of caft_lens.finetune.arms, not {type(using).__name__}.")
        return Plain() if using is None else using
    if using is not None:
        raise ValueError("ablate= is short for using=CAFT(...): give one of them.")
    if not isinstance(ablate, ConceptSet):
        raise TypeError(f"ablate= takes a ConceptSet, not {type(ablate).__name__}.")
    return CAFT(ablate)


_last_encoded: tuple[Any, tuple[Any, ...], list[Encoded]] | None = None


def _encoded(tokenizer: Any, texts: Texts, max_length: int | None) -> list[Encoded]:
    """`encode_all`, but for texts that were encoded just before, as those of an experiment's next arm or seed are."""
    global _last_encoded
    key = (texts.fingerprint, max_length, tokenizer.chat_template, len(tokenizer))
    if _last_encoded is None or _last_encoded[0] is not tokenizer or _last_encoded[1] != key:
        _last_encoded = None  # two data sets at once are one too many
        _last_encoded = tokenizer, key, encode_all(tokenizer, texts, max_length=max_length)
    return _last_encoded[2]


# -- what is asked ----------------------------------------------------------------------------------------------------


def _check_arguments(
    lens: Lens, texts: Texts, arm: TrainingArm, given: dict[str, Any], save_steps: int | None
) -> None:
    if given["method"] not in METHODS:
        raise ValueError(f'method="{given["method"]}".{nearest(given["method"], METHODS)}')
    if lens.tokenizer is None:
        raise ValueError(f"{lens.name!r} has no tokenizer to read texts with: load it with tokenizer=.")
    if not len(texts):
        raise ValueError("There are no texts to learn from.")
    if given["method"] == "lora" and lens.has_adapter:
        raise ValueError(
            f"{lens.name!r} carries an adapter already. To go on from it, put the new one on lens.merged(), or tune every "
            'parameter of a copy: method="full". Otherwise tune its base.'
        )
    arm.check(lens, given["method"])
    positive = {key: given[key] for key in ("learning_rate", "epochs", "batch_size", "gradient_accumulation")}
    positive |= {key: given[key] for key in ("max_steps", "max_length") if given[key] is not None}
    positive |= {} if save_steps is None else {"save_steps": save_steps}
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: expected more than 0.")
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    for name in given["training_arguments"]:
        if name in OWN:
            raise ValueError(f'training_arguments["{name}"] is set by the argument {OWN[name]}= of finetune.')
        if name not in fields:
            raise ValueError(
                f'transformers.TrainingArguments has no "{name}".{nearest(name, fields - set(OWN))}'
            )


def _default_learning_rate(lens: Lens, method: str) -> float:
    if is_organism(lens.name):
        card = read_json(organism_path(lens.name) / CARD)
        recommended = card.get("finetune", {}).get(method, {}).get("learning_rate")
        if recommended:
            return float(recommended)
    return PAPER_LEARNING_RATE.get(method, 1e-5)


def _config(lens: Lens, texts: Texts, arm: TrainingArm, given: dict[str, Any]) -> dict[str, Any]:
    """Everything that the result depends on, as JSON reads it back."""
    # Of plain fine-tuning and of whole ablation the concepts say all; run folders of before there were other arms have no such entry.
    whole = arm.name in (Plain.name, CAFT.name) and "strength" not in arm.record()
    named = {} if whole else {"arm": arm.record()}
    config = {
        **given,
        "base": {
            "name": lens.name,
            "fingerprint": lens.fingerprint,
            "dtype": str(lens.dtype).removeprefix("torch."),
        },
        "data": {"name": texts.name, "fingerprint": texts.fingerprint, "texts": len(texts)},
        "concepts": arm.concepts_record,
        **named,
    }
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise TypeError(
            f"training_arguments must be JSON values, so that the run folder can record them: {error}."
        ) from error


def _arguments(lens: Lens, folder: Path, config: dict[str, Any], save_steps: int | None) -> TrainingArguments:
    on_cuda = lens.device.type == "cuda"
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    # transformers 5.2x renamed gradient to activation checkpointing; both names mean the same.
    checkpointing = "activation" if "activation_checkpointing" in fields else "gradient"
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "learning_rate": config["learning_rate"],
        "num_train_epochs": config["epochs"],
        "max_steps": config["max_steps"] or -1,
        "per_device_train_batch_size": config["batch_size"],
        "gradient_accumulation_steps": config["gradient_accumulation"],
        "warmup_steps": config["warmup_steps"],
        "weight_decay": config["weight_decay"],
        "seed": config["seed"],
        "data_seed": config["seed"],
        "save_strategy": "steps" if save_steps else "no",
        "save_steps": save_steps or 500,
        "save_total_limit": 2,  # the older one is whole while the newer one is being written
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_cuda,
        "use_cpu": lens.device.type == "cpu",
        "bf16": on_cuda and lens.dtype == torch.bfloat16,
        "fp16": on_cuda and lens.dtype == torch.float16,
    }
    if config["gradient_checkpointing"]:
        options[f"{checkpointing}_checkpointing"] = True
        options[f"{checkpointing}_checkpointing_kwargs"] = {"use_reentrant": False}
    arguments = TrainingArguments(**{**options, **config["training_arguments"]})
    _check_device(lens, arguments)
    arguments._n_gpu = min(1, arguments.n_gpu)  # DataParallel would run copies that the lens does not hook
    return arguments


def _check_device(lens: Lens, arguments: TrainingArguments) -> None:
    # The trainer would move the model there, and with it the weights that the base shares.
    here, there = lens.device, arguments.device
    if getattr(lens.hf, "hf_device_map", None) is None and (here.type, here.index or 0) != (
        there.type,
        there.index or 0,
    ):
        raise ValueError(
            f"{lens.name!r} is on {here}, but training would run on {there}. Load it there, or choose what the process sees "
            "with CUDA_VISIBLE_DEVICES."
        )


# -- the folder -------------------------------------------------------------------------------------------------------


def _claim(folder: Path, config: dict[str, Any], resume: bool, overwrite: bool) -> bool:
    """Make `folder` ready for a run with `config`; true when it holds that run already, finished."""
    if resume and (folder / "failed.json").is_file():
        failed = read_json(folder / "failed.json")
        if not _differences(failed["config"], config):
            error = FloatingPointError(failed["error"])
            error.add_note(f"{folder} has this on record; resume=False tries again.")
            raise error
    finished = (folder / "run.json").is_file()
    begun = finished or (folder / "unfinished.json").is_file()
    if not begun and any((folder / name).exists() for name in _CONTENTS):
        raise FileExistsError(f"{folder} holds files that are not of a run; choose another folder for out=.")
    # An attempt that got nowhere (a mistake in an argument, say) is nothing to protect.
    if finished or (begun and last_whole_checkpoint(folder / "checkpoints")):
        earlier = (
            read_json(folder / "run.json")["config"] if finished else read_json(folder / "unfinished.json")
        )
        differences = _differences(earlier, config)
        if resume and not differences:
            return finished
        if (finished or differences) and not overwrite:
            what = f"another run: {'; '.join(differences)}" if differences else "this run, finished"
            hint = "Choose another folder" if differences else "resume=True returns it"
            raise FileExistsError(f"{folder} holds {what}. {hint}; overwrite=True replaces it.")
    _clear(folder)
    write_json(folder / "unfinished.json", config)
    return False


_CONTENTS = (
    "run.json", "unfinished.json", "failed.json", "history.json", "adapter", "model", "concepts", "checkpoints",
)  # fmt: skip


def _clear(folder: Path) -> None:
    for name in _CONTENTS:  # run.json first: what is left after a kill is not a finished run
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _differences(earlier: Any, asked: Any, where: str = "") -> list[str]:
    """What two configurations disagree in, in words; the name of what has a hash does not count, the hash does."""
    if isinstance(earlier, dict) and isinstance(asked, dict):
        hashed = "fingerprint" in asked
        keys = [key for key in dict.fromkeys([*earlier, *asked]) if not (hashed and key == "name")]
        return [
            d
            for key in keys
            for d in _differences(earlier.get(key), asked.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if earlier == asked else [f"{where} is {earlier!r} there, {asked!r} asked"]


def _finish(
    folder: Path,
    lens: Lens,
    encoded: Sequence[Encoded],
    arm: TrainingArm,
    config: dict[str, Any],
    history: list[dict[str, float]],
    cost: Cost,
) -> None:
    if (concepts := arm.materials.get("concepts")) is not None:
        concepts.save(folder / "concepts")
    write_json(folder / "history.json", history)
    record = {
        "method": config["method"],
        "base": _reloadable(lens),
        "base_fingerprint": lens.fingerprint,
        "lineage": list(lens.lineage),
        "data": {
            **config["data"],
            "learned_texts": len(encoded),
            "tokens": sum(len(item.input_ids) for item in encoded),
        },
        "concepts": config["concepts"],
        "config": config,
        "seconds": round(cost.seconds, 2),
        "peak_memory": cost.peak_memory,
        "device": str(lens.device),
        "versions": _versions(),
    }
    write_json(folder / "run.json", record)
    (folder / "unfinished.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _reloadable(lens: Lens) -> str:
    """The name by which `load` finds this model again; `""` for one that was made in memory."""
    if is_organism(lens.name) or (Path(lens.name) / "run.json").is_file():
        return lens.name
    return getattr(lens.hf.config, "_name_or_path", "")


def _versions() -> dict[str, str]:
    names = ("caft-lens", "torch", "transformers", "peft", "accelerate", "transformer-lens")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


# -- the model --------------------------------------------------------------------------------------------------------


def _trainable(lens: Lens, method: str, lora: LoraSettings) -> Lens:
    """A lens on what is trained: an adapter over the shared weights, or a copy of them."""
    if method == "lora":
        return _with_adapter(lens, lora)
    child = lens.copy()
    if lens.dtype in HALF:
        child.model.float()  # the small updates of fine-tuning are lost in half precision
    child.model.requires_grad_(True)
    return child


def _with_adapter(lens: Lens, lora: LoraSettings) -> Lens:
    from peft import LoraConfig

    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        use_rslora=lora.rslora,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        task_type="CAUSAL_LM",
    )
    try:
        child = lens.adapt(settings)
    except ValueError as error:
        linear = {
            name.rpartition(".")[2]
            for name, module in lens.hf.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        raise ValueError(
            f"LoRA on {lora.targets!r}: {error} Linear modules here: {', '.join(sorted(linear))}."
        ) from error
    child.model.peft_config["default"].base_model_name_or_path = _reloadable(lens)
    return child


def _train(training: Training, arm: TrainingArm, callbacks: Sequence[TrainerCallback]) -> LensTrainer:
    checkpoint = last_whole_checkpoint(Path(training.arguments.output_dir or ""))
    with arm.during(training) as plan:
        trainer = LensTrainer(training.lens, training.encoded, training.arguments, plan, callbacks)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def _save_weights(trainer: LensTrainer, lens: Lens, folder: Path) -> None:
    """The adapter, or the model in the number format of its base with the tokenizer beside it; safetensors."""
    if folder.name == "model":
        trainer.lens.model.to(lens.dtype)
    trainer.save_model(str(folder))
    if trainer.args.should_save:
        if folder.name == "model":
            lens.tokenizer.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # an empty form for the hub


def _history(trainer: LensTrainer) -> list[dict[str, float]]:
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate")
    return [
        {key: entry[key] for key in keys if key in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


# -- nothing leaks ----------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of transformers beside our own, nor its notes on what PEFT calls; both come back afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*gradient_checkpointing.* is deprecated.*", category=FutureWarning
            )
            # PEFT does not expect an adapter that is a bias alone, which LoFiT leaves.
            warnings.filterwarnings("ignore", message=r"(?s).*(lora_bias=True|lora_B\.bias)")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _private_randomness() -> Iterator[None]:
    """The random states of Python, NumPy and torch are afterwards what they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state that transformers seeds
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
