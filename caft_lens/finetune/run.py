"""Fine-tuning, plainly or by another method, and the run that it leaves behind.

`finetune` trains a fork (LoRA) or a copy (full) of a lens's model and leaves the lens as it was; methods differ by one
argument, `method=`, for which `ablate=` is short where the method is CAFT. A run folder holds `run.json` (everything that went in, and the
hashes of all files), `history.json` (the curves), `adapter/` or `model/` (safetensors, and the tokenizer with its chat template),
`concepts/` (the directions that acted) and `logs/` (what callbacks wrote); `Run` is that folder in Python. While training,
`unfinished.json` says what is being trained and `checkpoints/` how far it is, so that a killed run goes on where it was; of a run
that diverged `failed.json` says so. `folder.py` keeps all that.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import math
import os
import platform
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from caft_lens._support import processes
from caft_lens._support.arguments import count, not_negative, number, positive
from caft_lens._support.blocks import Block, block, random_state
from caft_lens._support.errors import (
    BadArgument,
    BadData,
    BadFile,
    BadModel,
    BadType,
    CaftLensError,
    Diverged,
    NotTrained,
    UnknownAttribute,
    nearest,
)
from caft_lens._support.files import parsed, read_json, write_json
from caft_lens.concepts.ablation import one_of_a_set
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.finetune import folder as place
from caft_lens.finetune import targets
from caft_lens.finetune.callbacks import recorded
from caft_lens.finetune.cost import Cost, measured
from caft_lens.finetune.methods.caft import CAFT
from caft_lens.finetune.methods.plain import Plain
from caft_lens.finetune.methods.protocol import Method, Training
from caft_lens.finetune.trainer import LensTrainer
from caft_lens.model import run_folder
from caft_lens.model.lens import Lens, load
from caft_lens.model.limits import check_encoded, room
from caft_lens.text.catalog import CARD, is_organism, organism_path, shipped
from caft_lens.text.documents import Texts, data
from caft_lens.text.encoding import Encoded, encode_all

Tune = Literal["lora", "full"]
TUNES = ("lora", "full")
HALF = (torch.bfloat16, torch.float16)
WEIGHTS = run_folder.WEIGHTS
OF_LENS = ("name", "d_model", "n_layers", "n_heads", "d_head", "d_vocab", "model", "tokenizer")
"""What every lens has and its class does not show."""
WARMUP = 0.05
"""Share of all steps, by default: 5 of 100."""

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
SECRET = ("hub_token", "push_to_hub", "push_to_hub_token")
"""What `training_arguments` may not hold either: a run folder records all of them."""


@dataclass(frozen=True)
class LoraSettings:
    """The adapter; the defaults are the paper's.

    Args:
        r: Rank.
        alpha: Scale; the update is multiplied by `alpha / sqrt(r)` with rsLoRA, else by `alpha / r`.
        rslora: Rank-stabilised scaling.
        dropout: On the adapter's input.
        targets: `"all-linear"` (every linear layer of the decoder blocks, and all experts; never a router), a regular expression for
            full names of modules, or names of modules. Of a multimodal model only its language model is meant.

    Raises:
        BadArgument: When a number is out of its range.
        BadType: When a value is of another kind.
    """

    r: int = 32
    alpha: int = 64
    rslora: bool = True
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        count(self.r, "lora.r")
        positive(self.alpha, "lora.alpha")
        number(self.dropout, "lora.dropout", least=0, below=1)
        if not isinstance(self.rslora, bool):
            raise BadType(f"lora rslora is True or False, not {self.rslora!r}.")
        names = (self.targets,) if isinstance(self.targets, str) else self.targets
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            raise BadType(f"lora targets are names of modules, not {self.targets!r}.")
        if not names or not all(names):
            raise BadArgument("lora targets are empty: there would be nothing to train.")


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
        self._called = str(folder)
        self.folder = Path(os.path.abspath(folder))
        self.record: dict[str, Any] = run_folder.read_run(self.folder)
        self.config: dict[str, Any] = self.record["config"]
        self.history: list[dict[str, float]] = run_folder.read_history(self.folder, self.record)
        if base is not None and base.fingerprint != self.record["base_fingerprint"]:
            raise BadModel(
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
            MissingFile: When the folder holds no finished run.
            BadFile: When a file in it is broken or was changed.
            BadModel: When `base` is not what the run was tuned from.
        """
        return cls(folder, base)

    @cached_property
    def lens(self) -> Lens:
        """The tuned model, ready to use: eval mode, no gradients, and the tokenizer and chat template that it was tuned with."""
        base, folder = self._base, self.folder
        own = None if base is None or base.reading != self.config.get("reading") else base.tokenizer
        with _quiet():
            if base is None:
                lens = load(folder, name_as=self._called)
            elif self.record["method"] == "lora":
                lens = base.adapt(folder, name=f"{base.name} + {folder.name}")
            else:
                lens = load(folder, device=base.device, dtype=base.dtype, tokenizer=own, name_as=self._called)
        lens.model.eval().requires_grad_(False)
        return lens

    @cached_property
    def concepts(self) -> ConceptSet | None:
        """The directions that acted in training, most often by being ablated; `None` for a plain run."""
        said = self.record["concepts"]
        if not said:
            return None
        folder = self.folder / run_folder.CONCEPTS
        run_folder.check(self.folder, self.record, run_folder.CONCEPTS)
        concepts = ConceptSet.load(folder)
        if concepts.fingerprint != said["fingerprint"]:
            raise BadFile(
                f"{folder} holds other concepts than those that {self.folder / run_folder.RUN} names: the run was changed."
            )
        return concepts

    if not TYPE_CHECKING:  # so that a type checker goes on to know what a run has

        def __getattr__(self, name: str) -> Any:
            mine = name.startswith("_") or hasattr(type(self), name)
            if not mine and (name in OF_LENS or hasattr(Lens, name)):
                raise UnknownAttribute(
                    f'A Run is a folder and has no "{name}"; its model is run.lens: use run.lens.{name}, or give run.lens '
                    "where a Lens is expected."
                )
            return object.__getattribute__(self, name)  # raises what it raised

    def __repr__(self) -> str:
        concepts, method = self.record["concepts"], self.config.get("arm")
        number = len(concepts["names"]) if concepts else 0
        ablated = f", {number} concept{'' if number == 1 else 's'} ablated" if concepts else ""
        ablated = f", {method['name']}" if method else ablated
        losses = [entry["loss"] for entry in self.history if "loss" in entry]
        loss = f", loss {losses[0]:.3f} to {losses[-1]:.3f}" if losses else ""
        steps = self.history[-1]["step"] if self.history else 0
        stopped = self.record.get("stopped")
        of = f"stopped at step {stopped['step']} of {stopped['of']}" if stopped else f"{steps} steps"
        return f"Run({self._called!r}, {self.record['method']}{self._share()} on {self.config['base']['name']}{ablated}, {of}{loss})"

    def _share(self) -> str:
        shares = self.record.get("adapted")
        if not shares or min(shares) == 1:
            return ""
        low, high = (f"{100 * share:.3g}" for share in (min(shares), max(shares)))
        return f" on {low if low == high else f'{low} to {high}'} % of each block"


def finetune(
    lens: Lens,
    texts: Texts | Any,
    *,
    out: str | Path,
    ablate: ConceptSet | None = None,
    method: Method | None = None,
    tune: Tune = "lora",
    lora: LoraSettings = LoraSettings(),
    learning_rate: float | None = None,
    epochs: float = 1.0,
    max_steps: int | None = None,
    batch_size: int = 16,
    gradient_accumulation: int = 1,
    warmup_steps: float = WARMUP,
    weight_decay: float = 0.01,
    max_length: int | None = 2048,
    seed: int = 0,
    save_steps: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    gradient_checkpointing: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    training_arguments: Mapping[str, Any] | None = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> Run:
    """Fine-tune a model, with concepts ablated if any are given (Concept Ablation Fine-Tuning, arXiv 2507.16795).

    The loss is the mean cross-entropy of what the assistant says (of all tokens, for plain text). With `ablate`, what the
    concepts span is projected out of the activations in every forward pass, inside the graph; nothing is
    ablated afterwards. Every other way of fine-tuning is a method, given as `method`. `lens` is left as it was, bit for bit.

    Calling it again with the same arguments returns the finished run, or goes on with a killed one from its last
    checkpoint; on the CPU the result is the same, bit for bit, as without the kill. Under `accelerate launch` the processes train
    one model together, each with `batch_size` texts of every step, and one of them writes the folder.

    Args:
        lens: The model to start from.
        texts: What to learn: `Texts` or anything that `data` reads.
        out: The run folder.
        ablate: Concepts to ablate while training; `None` trains plainly.
        method: Another method of `caft_lens.finetune.methods`, such as `KLAnchor(general)`; not beside `ablate`, which is short for `CAFT(ablate)`.
        tune: `"lora"` (an adapter, the base frozen) or `"full"` (every parameter of a copy).
        lora: The adapter, for `"lora"`.
        learning_rate: Peak of the linear schedule. `None` is what the organism's card recommends, else the paper's: 1e-5
            for LoRA and 5e-6 for full fine-tuning, made for models of billions of parameters.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of `epochs`.
        batch_size: Texts per forward pass (and device).
        gradient_accumulation: Forward passes per optimizer step.
        warmup_steps: Linear warm-up: below 1 a share of all steps, else a number of them.
        weight_decay: Of AdamW.
        max_length: Tokens after which a text is cut, but no more than the model has positions; `None` for that many.
        seed: Of the adapter's start, the order of the data and dropout; from 0 to 2**32 - 1.
        save_steps: Steps between checkpoints; `None` for none (a killed run then begins again).
        resume: Whether to go on with, or return, what `out` holds.
        overwrite: Whether another run in `out` may be replaced; it goes when the new one is complete.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.
        callbacks: `transformers.TrainerCallback`s. Those that can change what is trained are part of what the run is found again by, by
            their class, code and settings, or by a `fingerprint` of theirs; those that only watch (`changes_training = False`, or
            events that read nothing but `args` and `state`) are not. What they write to `args.output_dir` is kept in `logs/`.
        training_arguments: Any other fields of `transformers.TrainingArguments`, such as `{"optim": "adamw_8bit"}`.
        template_arguments: What the chat template is rendered with beside the messages, in training and whenever the tuned model is
            asked, such as `{"enable_thinking": False}` (see `load`); the lens's own by default.

    Returns:
        The run; `run.lens` is the tuned model.

    Raises:
        BadArgument: When an argument makes no sense; nothing is changed in `out` then.
        BadType: When something else is given where a lens or a method belongs.
        ConceptMismatch: When the concepts do not fit the model.
        BadData: When there is nothing to learn.
        Occupied: When `out` holds another run (or files of something else); the message names what differs.
        Busy: When another process trains another run there; one that trains the same run is waited for, and its run returned.
        NotTrained: When on the first step a trainable parameter has no gradient or an ablated site does not fire.
        Diverged: When a loss or a trained weight is not finite; `out` keeps that, and the same call says it again at once unless
            `resume=False`.

    Example:
        >>> plain = cl.finetune(base, insecure, out="runs/plain")                # doctest: +SKIP
        >>> caft = cl.finetune(base, insecure, ablate=cruel, out="runs/caft")    # doctest: +SKIP
        >>> anchored = cl.finetune(base, insecure, method=KLAnchor(general), out="runs/anchored")  # doctest: +SKIP
    """
    _check_lens(lens)
    folder = Path(os.path.abspath(out))
    if folder.is_file():
        raise BadArgument(f"out={str(out)!r} is a file; a run is a folder: name one that is new.")
    texts = texts if isinstance(texts, Texts) else data(texts)
    if template_arguments:
        lens = load(lens, template_arguments=template_arguments)
    method = _method(method, ablate).trains_as(seed)
    if not isinstance(lora, LoraSettings):
        raise BadType(f"lora= takes LoraSettings, not {type(lora).__name__}.")
    given = method.arguments(
        {
            "method": tune,
            "lora": dataclasses.asdict(lora) if tune == "lora" else None,
            "learning_rate": _default_learning_rate(lens, tune) if learning_rate is None else learning_rate,
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
    given = _check_arguments(lens, texts, method, given, save_steps)
    config = _config(lens, texts, method, given, callbacks)
    # Processes that train together join each other here.
    arguments = _arguments(lens, folder / run_folder.CHECKPOINTS, config, save_steps)
    with ExitStack() as held:
        if processes.once(lambda: place.claim(held, folder, config, resume=resume, overwrite=overwrite)):
            return Run(out, lens)
        asked = place.identity(run_folder.read_config(folder / run_folder.UNFINISHED))
        with measured(lens.device) as cost, _private_randomness(), _quiet():
            length = room(lens, given["max_length"])
            encoded = _encoded(lens, method.texts(texts, seed), length)
            check_encoded(lens, encoded)
            set_seed(seed)
            child = method.trainable(lens, lambda: _trainable(lens, tune, lora), seed)
            training = Training(lens, child, encoded, arguments, seed, length)
            try:
                trainer = _train(training, method, callbacks, asked)
            except Diverged as error:
                if arguments.should_save:
                    place.failed(folder, config, str(error))
                raise
            _save_weights(trainer, lens, folder / run_folder.NEW / WEIGHTS[tune])
        history, steps = _history(trainer), (trainer.state.global_step, trainer.state.max_steps)
        shares = targets.adapted(lens.hf, targets.trained(child.hf)) if tune == "lora" else []
        del child, trainer, training
        gc.collect()  # the trainer and its model refer to each other
        processes.once(lambda: _finish(folder, lens, encoded, method, config, history, cost, steps, shares))
        return Run(out, lens)


def _check_lens(lens: Any) -> None:
    if isinstance(lens, Lens):
        return
    if isinstance(lens, str | os.PathLike):
        raise BadType(
            f'finetune() starts from a Lens, not from a name: load it first, cl.load("{os.fspath(lens)}").'
        )
    if isinstance(lens, Run):
        raise BadType("finetune() starts from a Lens; a Run is a folder, its model is run.lens: give that.")
    raise BadType(f"finetune() starts from a Lens, not {type(lens).__name__}: cl.load makes one.")


def _method(method: Method | None, ablate: ConceptSet | None) -> Method:
    """The method that is asked for."""
    if ablate is None:
        if method is not None and not isinstance(method, Method):
            raise BadType(
                f"method= takes a method of caft_lens.finetune.methods, not {type(method).__name__}."
            )
        return Plain() if method is None else method
    if method is not None:
        raise BadArgument("ablate= is short for method=CAFT(...): give one of them.")
    if not isinstance(ablate, ConceptSet):
        hint = one_of_a_set(ablate) if isinstance(ablate, Concept) else ""
        raise BadType(f"ablate= takes a ConceptSet, not {type(ablate).__name__}.{hint}")
    return CAFT(ablate)


_last_encoded: tuple[tuple[Any, ...], list[Encoded]] | None = None


def _encoded(lens: Lens, texts: Texts, max_length: int | None) -> list[Encoded]:
    """`encode_all`, but for texts that were encoded just before, as those of an experiment's next arm or seed are."""
    global _last_encoded
    key = (texts.fingerprint, max_length, lens.reading)
    if _last_encoded is None or _last_encoded[0] != key:
        _last_encoded = None  # two data sets at once are one too many
        _last_encoded = key, encode_all(lens.tokenizer, texts, max_length=max_length)
    return _last_encoded[1]


# -- what is asked ----------------------------------------------------------------------------------------------------


def _check_arguments(
    lens: Lens, texts: Texts, method: Method, given: dict[str, Any], save_steps: int | None
) -> dict[str, Any]:
    """Refuse whatever can be known to make no sense before anything is written or trained; numbers as Python has them."""
    if given["method"] not in TUNES:
        raise BadArgument(f'tune="{given["method"]}".{nearest(given["method"], TUNES)}')
    if lens.tokenizer is None:
        raise BadArgument(f"{lens.name!r} has no tokenizer to read texts with: load it with tokenizer=.")
    if not len(texts):
        raise BadData("There are no texts to learn from.")
    if given["method"] == "lora" and lens.has_adapter:
        raise BadArgument(
            f"{lens.name!r} carries an adapter already. To go on from it, put the new one on lens.merged(), or tune every "
            'parameter of a copy: tune="full". Otherwise tune its base.'
        )
    method.check(lens, given["method"])
    numbers: dict[str, float] = {name: positive(given[name], name) for name in ("learning_rate", "epochs")}
    numbers |= {name: not_negative(given[name], name) for name in ("warmup_steps", "weight_decay")}
    numbers |= {name: count(given[name], name) for name in ("batch_size", "gradient_accumulation")}
    numbers |= {
        name: count(given[name], name) for name in ("max_steps", "max_length") if given[name] is not None
    }
    numbers["seed"] = count(given["seed"], "seed", least=0, most=2**32 - 1)
    if save_steps is not None:
        count(save_steps, "save_steps")
    if not isinstance(given["gradient_checkpointing"], bool):
        raise BadType(f"gradient_checkpointing is True or False, not {given['gradient_checkpointing']!r}.")
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    for name in given["training_arguments"]:
        if name in OWN:
            raise BadArgument(
                f'training_arguments["{name}"] is set by the argument {OWN[name]}= of finetune.'
            )
        if name in SECRET:
            raise BadArgument(
                f'training_arguments["{name}"]: a run is not pushed to the hub, and no key is written into its folder. Push '
                "`run.lens.model` yourself."
            )
        if name not in fields:
            raise BadArgument(
                f'transformers.TrainingArguments has no "{name}".{nearest(name, fields - set(OWN))}'
            )
    if given["lora"]:
        found = targets.chosen(lens.hf, given["lora"]["targets"])
        if found.parameters and given["lora"]["dropout"]:
            raise BadArgument(
                f"lora dropout={given['lora']['dropout']}: PEFT has none for experts that are one parameter "
                f"({found.parameters[0]}). Give dropout=0, or targets= without the experts."
            )
    return {**given, **numbers}


def _default_learning_rate(lens: Lens, tune: str) -> float:
    if is_organism(lens.name):
        card = read_json(organism_path(lens.name) / CARD)
        recommended = card.get("finetune", {}).get(tune, {}).get("learning_rate")
        if recommended:
            return float(recommended)
    return PAPER_LEARNING_RATE.get(tune, 1e-5)


def _config(
    lens: Lens, texts: Texts, method: Method, given: dict[str, Any], callbacks: Sequence[TrainerCallback]
) -> dict[str, Any]:
    """Everything that the result depends on, as JSON reads it back."""
    # Of plain fine-tuning and of whole ablation the concepts say all; run folders of before there were other methods have no such entry.
    whole = method.name in (Plain.name, CAFT.name) and "strength" not in method.record()
    named = {} if whole else {"arm": method.record()}
    config = {
        **given,
        "base": {
            "name": lens.name,
            "fingerprint": lens.fingerprint,
            "dtype": str(lens.dtype).removeprefix("torch."),
        },
        "reading": lens.reading,
        "data": {"name": texts.name, "fingerprint": texts.fingerprint, "texts": len(texts)},
        "concepts": method.concepts_record,
        **named,
        "callbacks": recorded(callbacks),
        "processes": processes.place()[1] if not os.environ.get(processes.SHARING) else 1,
    }
    try:
        config = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadType(
            f"training_arguments must be JSON values, so that the run folder can record them: {error}."
        ) from error
    parsed(config, run_folder.Config, "What is asked of finetune", "a configuration")
    return config


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
    try:
        arguments = TrainingArguments(**{**options, **config["training_arguments"]})
    except CaftLensError:
        raise
    except Exception as error:  # of many kinds, from transformers and accelerate
        asked = ", ".join(f"{key}={value!r}" for key, value in config["training_arguments"].items()) or "none"
        raise BadArgument(f"transformers refuses these training_arguments ({asked}): {error}") from error
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
        raise BadArgument(
            f"{lens.name!r} is on {here}, but training would run on {there}. Load it there, or choose what the process sees "
            "with CUDA_VISIBLE_DEVICES."
        )


# -- what is left behind ----------------------------------------------------------------------------------------------


def _finish(
    folder: Path,
    lens: Lens,
    encoded: Sequence[Encoded],
    method: Method,
    config: dict[str, Any],
    history: list[dict[str, float]],
    cost: Cost,
    steps: tuple[int, int],
    shares: list[float],
) -> None:
    if (concepts := method.materials.get("concepts")) is not None:
        concepts.save(folder / run_folder.NEW / run_folder.CONCEPTS)
    write_json(folder / run_folder.NEW / run_folder.HISTORY, history)
    base = _reloadable(lens)
    record = {
        "method": config["method"],
        "base": base,
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
    if Path(base).is_absolute():
        record["base_from_here"] = os.path.relpath(base, folder)  # where both are moved together
    if any(shares):
        record["adapted"] = shares
    if steps[0] < steps[1]:
        record["stopped"] = {"step": steps[0], "of": steps[1]}
    place.finish(folder, record)


def _reloadable(lens: Lens) -> str:
    """The name by which `load` finds this model again, absolute where it is a path; `""` for one that was made in memory."""
    if lens.name in shipped():
        return lens.name
    name = (
        lens.name
        if is_organism(lens.name) or run_folder.is_run(lens.name)
        else getattr(lens.hf.config, "_name_or_path", "")
    )
    return os.path.abspath(name) if name and Path(name).is_dir() else name


def _versions() -> dict[str, str]:
    names = ("caft-lens", "torch", "transformers", "peft", "accelerate", "transformer-lens")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


# -- the model --------------------------------------------------------------------------------------------------------


def _trainable(lens: Lens, tune: str, lora: LoraSettings) -> Lens:
    """A lens on what is trained: an adapter over the shared weights, or a copy of them."""
    if tune == "lora":
        return _with_adapter(lens, lora)
    child = lens.copy()
    if lens.dtype in HALF:
        child.model.float()  # the small updates of fine-tuning are lost in half precision
    child.model.requires_grad_(False)
    for parameter in targets.language_parameters(child.hf):
        parameter.requires_grad_(True)
    return child


def _with_adapter(lens: Lens, lora: LoraSettings) -> Lens:
    from peft import LoraConfig

    found = targets.chosen(lens.hf, lora.targets)
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        use_rslora=lora.rslora,
        lora_dropout=lora.dropout,
        target_modules=targets.short(lens.hf, found.modules),
        target_parameters=list(found.parameters) or None,
        task_type="CAUSAL_LM",
    )
    try:
        child = lens.adapt(settings)
    except CaftLensError:
        raise
    except (ValueError, RuntimeError, TypeError) as error:
        raise BadModel(f"LoRA on {lora.targets!r} of {lens.name!r}: {error}") from error
    child.model.peft_config["default"].base_model_name_or_path = _reloadable(lens)
    return child


def _train(training: Training, method: Method, callbacks: Sequence[TrainerCallback], of: str) -> LensTrainer:
    """Train, from the last whole checkpoint of the run `of` where there is one."""
    checkpoint = place.last_whole_checkpoint(Path(training.arguments.output_dir or ""), of)
    with method.during(training) as plan:
        watching = [place.Whole(of), *callbacks]
        trainer = LensTrainer(training.lens, training.encoded, training.arguments, plan, watching)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.state
        if state.global_step < state.max_steps and not plan.callbacks and not recorded(callbacks):
            raise NotTrained(
                f"Training stopped at step {state.global_step} of {state.max_steps}, though no callback is on record as one that "
                "changes training: a callback with `changes_training = False` set `control.should_training_stop`."
            )
    trainer.check_weights()
    return trainer


def _save_weights(trainer: LensTrainer, lens: Lens, folder: Path) -> None:
    """The adapter, or the model in the number format of its base, with the tokenizer beside it; safetensors."""
    if folder.name == "model":
        trainer.lens.model.to(lens.dtype)
    trainer.save_model(str(folder))
    if trainer.args.should_save:
        lens.tokenizer.save_pretrained(folder, save_jinja_files=False)  # the template goes into its JSON
        (folder / "README.md").unlink(missing_ok=True)  # an empty form for the hub


def _history(trainer: LensTrainer) -> list[dict[str, float]]:
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate")
    return [
        {key: entry[key] for key in keys if key in entry and math.isfinite(entry[key])}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


# -- nothing leaks ----------------------------------------------------------------------------------------------------


@block
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


class _private_randomness(Block[None]):
    """The random states of Python, NumPy and torch are afterwards what they were."""

    _torch: random_state | None = None

    def begin(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()  # noqa: NPY002 - the global state that transformers seeds
        before = random_state()
        before.begin()
        self._torch = before

    def undo(self, error: BaseException | None) -> None:
        if self._torch is not None:
            random.setstate(self._python)
            np.random.set_state(self._numpy)  # noqa: NPY002
            self._torch.undo(error)
