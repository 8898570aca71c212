"""`finetune`: train a fork (LoRA) or a copy (full) of a lens's model, and leave the lens as it was."""

from __future__ import annotations

import dataclasses
import gc
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments, set_seed
from transformers.integrations import get_reporting_integration_callbacks

from caft_lens._support import processes
from caft_lens._support.arguments import count
from caft_lens._support.blocks import block, random_state
from caft_lens._support.errors import (
    BadArgument,
    BadData,
    BadType,
    CaftLensError,
    Diverged,
    NotInstalled,
    NotTrained,
    nearest,
)
from caft_lens._support.files import read_json
from caft_lens._support.keywords import takes_values
from caft_lens.concepts.ablation import one_of_a_set
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.finetune import folder as place
from caft_lens.finetune import targets
from caft_lens.finetune.callbacks import recorded
from caft_lens.finetune.cost import measured
from caft_lens.finetune.kept import keep
from caft_lens.finetune.methods.caft import CAFT
from caft_lens.finetune.methods.plain import Plain
from caft_lens.finetune.methods.registry import methods
from caft_lens.finetune.protocol import Method, Training
from caft_lens.finetune.record import configuration, finish, history_of, outcome
from caft_lens.finetune.run import Run, quiet
from caft_lens.finetune.settings import TUNES, TrainSettings
from caft_lens.finetune.trainer import LensTrainer
from caft_lens.finetune.weights import save_weights, trainable
from caft_lens.model import run_folder
from caft_lens.model.lens import Lens, load
from caft_lens.model.limits import check_encoded, room
from caft_lens.text.catalog import CARD, is_organism, organism_path
from caft_lens.text.documents import Texts, data
from caft_lens.text.encoding import Encoded, encode_all

# arXiv 2507.16795: LoRA on 24B to 32B models, full fine-tuning of a 2B model. Smaller models want larger rates.
PAPER_LEARNING_RATE = {"lora": 1e-5, "full": 5e-6}


@takes_values
def finetune(
    lens: Lens,
    texts: Texts | Any,
    settings: TrainSettings = TrainSettings(),
    *,
    out: str | Path,
    ablate: ConceptSet | None = None,
    method: Method | None = None,
    seed: int = 0,
) -> Run:
    """Fine-tune a model, with concepts ablated if any are given (Concept Ablation Fine-Tuning, arXiv 2507.16795).

    The loss is the mean cross-entropy of what the assistant says (of all tokens, for plain text). With `ablate`, what
    the concepts span is projected out of the activations in every forward pass, inside the graph; nothing is ablated
    afterwards. Every other way of fine-tuning is given as `method`. `lens` is left as it was, bit for bit.

    Calling it again with the same arguments returns the finished run, or goes on with a killed one from its last
    checkpoint; on the CPU the result is the same, bit for bit, as without the kill. Under `accelerate launch` the
    processes train one model together, each with `batch_size` texts of every step, and one of them writes the folder.

    Args:
        lens: The model to start from.
        texts: What to learn: `Texts` or anything that `data` reads.
        settings: How long, how fast, an adapter or every parameter: `TrainSettings(max_steps=100)`. One value, so that
            runs that are compared are trained alike.
        out: The run folder.
        ablate: Concepts to ablate while training; `None` trains plainly.
        method: One of `caft_lens.finetune.methods`, such as `KLAnchor(general)`; not with `ablate` (`CAFT(ablate)`).
        seed: Of the adapter's start, the order of the data and dropout; from 0 to 2**32 - 1.

    Returns:
        The run; `run.lens` is the tuned model.

    Raises:
        BadArgument: When an argument makes no sense; nothing is changed in `out` then.
        BadType: When something else is given where a lens, settings or a method belongs.
        ConceptMismatch: When the concepts do not fit the model.
        BadData: When there is nothing to learn.
        Occupied: When `out` holds another run (or files of something else); the message names what differs.
        Busy: When another process trains another run there; one that trains the same run is waited for.
        NotTrained: When on the first step a trainable parameter has no gradient or an ablated site does not fire.
        Diverged: When a loss or a trained weight is not finite; `out` keeps that, and the same call says it again at
            once unless `TrainSettings(resume=False)`.

    Example:
        >>> steps = cl.TrainSettings(max_steps=2)
        >>> plain = cl.finetune(base, insecure, steps, out="runs/plain")
        >>> caft = cl.finetune(base, insecure, steps, ablate=cruel, out="runs/caft")
        >>> len(caft.history), len(caft.config["concepts"]) > 0
        (2, True)
    """
    _check_lens(lens)
    folder = Path(os.path.abspath(out))
    if folder.is_file():
        raise BadArgument(f"out={str(out)!r} is a file; a run is a folder: name one that is new.")
    if not isinstance(settings, TrainSettings):
        raise BadType(f"settings= takes TrainSettings, not {type(settings).__name__}.")
    seed = count(seed, "seed", least=0, most=2**32 - 1)
    texts = data(texts)
    if settings.template_arguments:
        lens = load(lens, template_arguments=settings.template_arguments)
    method = _method(method, ablate).trains_as(seed)
    if settings.learning_rate is None:
        settings = settings.but(learning_rate=_learning_rate(lens, settings.tune))
    settings = method.train_settings(settings)
    _check(lens, texts, method, settings)
    config = configuration(lens, texts, settings, method, seed)
    # Processes that train together join each other here.
    arguments = _arguments(lens, folder / run_folder.CHECKPOINTS, config, settings.save_steps)
    with ExitStack() as held:
        resume, overwrite = settings.resume, settings.overwrite
        if processes.once(lambda: place.claim(held, folder, config, resume=resume, overwrite=overwrite)):
            return Run(out, lens)
        asked = place.identity(run_folder.read_config(folder / run_folder.UNFINISHED))
        with measured(lens.device) as cost, _private_randomness(), quiet():
            length = room(lens, settings.max_length)
            learned = method.texts(texts, seed, lens)
            encoded = _encoded(lens, learned, length)
            check_encoded(lens, encoded)
            set_seed(seed)
            child = method.trainable(lens, lambda: trainable(lens, settings), seed)
            training = Training(lens, child, texts, learned, encoded, arguments, seed, length)
            try:
                trainer = _train(training, method, settings, asked)
            except Diverged as error:
                if arguments.should_save:
                    place.failed(folder, config, str(error))
                raise
            except ImportError as error:  # of an optimizer, say, which is made when training begins
                if isinstance(error, NotInstalled):
                    raise
                raise NotInstalled(f"Training needs a package that is missing: {error}") from error
            save_weights(trainer, lens, folder / run_folder.NEW / run_folder.WEIGHTS[settings.tune])
            if (beside := trainer.plan.kept) is not None:
                processes.once(lambda: keep(beside, folder / run_folder.NEW))
        history, record = history_of(trainer.state), outcome(training, trainer.state, config, cost)
        del child, trainer, training
        gc.collect()  # the trainer and its model refer to each other
        processes.once(lambda: finish(folder, method, history, record))
        return Run(out, lens)


def _check_lens(lens: Any) -> None:
    if isinstance(lens, Lens):
        return
    if isinstance(lens, str | os.PathLike):
        raise BadType(f'finetune() starts from a Lens, not from a name: load it first, cl.load("{os.fspath(lens)}").')
    if isinstance(lens, Run):
        raise BadType("finetune() starts from a Lens; a Run is a folder, its model is run.lens: give that.")
    raise BadType(f"finetune() starts from a Lens, not {type(lens).__name__}: cl.load makes one.")


def _method(method: Method | None, ablate: ConceptSet | None) -> Method:
    """The method that is asked for."""
    if ablate is None:
        if method is not None and not isinstance(method, Method):
            said = _instead(method) if isinstance(method, str) else f"{type(method).__name__}."
            raise BadType(f"method= takes a method of caft_lens.finetune.methods, not {said}")
        return Plain() if method is None else method
    if method is not None:
        raise BadArgument("ablate= is short for method=CAFT(...): give one of them.")
    if not isinstance(ablate, ConceptSet):
        hint = one_of_a_set(ablate) if isinstance(ablate, Concept) else ""
        raise BadType(f"ablate= takes a ConceptSet, not {type(ablate).__name__}.{hint}")
    return CAFT(ablate)


def _instead(name: str) -> str:
    """Of a name that is given as a method: the line to write instead."""
    known = methods()
    if name in TUNES:
        return f'"{name}": give settings=TrainSettings(tune="{name}").'
    if name not in known:
        return f'"{name}".{nearest(name, known)}'
    return f'"{name}": give {known[name].__name__}({", ".join(known[name].needs())}).'


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


def _check(lens: Lens, texts: Texts, method: Method, settings: TrainSettings) -> None:
    """Refuse whatever can be known not to fit the model before anything is written or trained."""
    if lens.tokenizer is None:
        raise BadArgument(f"{lens.name!r} has no tokenizer to read texts with: load it with tokenizer=.")
    if not len(texts):
        raise BadData("There are no texts to learn from.")
    if settings.tune == "lora" and lens.has_adapter:
        raise BadArgument(
            f"{lens.name!r} carries an adapter already. To go on from it, put the new one on lens.merged(), or tune "
            'every parameter of a copy: TrainSettings(tune="full"). Otherwise tune its base.'
        )
    method.check(lens, settings.tune)
    if settings.tune == "lora":
        found = targets.chosen(lens.hf, settings.lora.targets)
        if found.parameters and settings.lora.dropout:
            raise BadArgument(
                f"lora dropout={settings.lora.dropout}: PEFT has none for experts that are one parameter "
                f"({found.parameters[0]}). Give dropout=0, or targets= without the experts."
            )


def _learning_rate(lens: Lens, tune: str) -> float:
    if is_organism(lens.name):
        card = read_json(organism_path(lens.name) / CARD)
        recommended = card.get("finetune", {}).get(tune, {}).get("learning_rate")
        if recommended:
            return float(recommended)
    return PAPER_LEARNING_RATE.get(tune, 1e-5)


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
    _check_reports(arguments)
    _check_device(lens, arguments)
    arguments._n_gpu = min(1, arguments.n_gpu)  # DataParallel would run copies that the lens does not hook
    return arguments


def _check_reports(arguments: TrainingArguments) -> None:
    # Made here to be refused before the folder is taken; the trainer makes its own.
    named = ", ".join(arguments.report_to or [])
    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except ValueError as error:
        raise BadArgument(f'training_arguments={{"report_to": "{named}"}}: {error}') from error
    except (RuntimeError, ImportError) as error:
        raise NotInstalled(f'training_arguments={{"report_to": "{named}"}} needs a package: {error}') from error


def _check_device(lens: Lens, arguments: TrainingArguments) -> None:
    # The trainer would move the model there, and with it the weights that the base shares.
    here, there = lens.device, arguments.device
    if getattr(lens.hf, "hf_device_map", None) is None and (here.type, here.index or 0) != (
        there.type,
        there.index or 0,
    ):
        raise BadArgument(
            f"{lens.name!r} is on {here}, but training would run on {there}. Load it there, or choose what the "
            f"process sees with CUDA_VISIBLE_DEVICES."
        )


def _train(training: Training, method: Method, settings: TrainSettings, of: str) -> LensTrainer:
    """Train, from the last whole checkpoint of the run `of` where there is one."""
    checkpoint = place.last_whole_checkpoint(Path(training.arguments.output_dir or ""), of)
    with method.during(training) as plan:
        watching = [place.Whole(of), *settings.callbacks]
        trainer = LensTrainer(training.lens, training.encoded, training.arguments, plan, watching)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.state
        if state.global_step < state.max_steps and not plan.callbacks and not recorded(settings.callbacks):
            raise NotTrained(
                f"Training stopped at step {state.global_step} of {state.max_steps}, though no callback is on record "
                f"as one that changes training: a callback with `changes_training = False` set "
                f"`control.should_training_stop`."
            )
    trainer.check_weights()
    return trainer


@block
def _private_randomness() -> Iterator[None]:
    """The random states of Python, NumPy and torch are afterwards what they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that transformers seeds
    with random_state():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
