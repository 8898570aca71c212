"""What is trained, an adapter over a model's weights or a copy of them, and what is kept of it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from caft_lens._support.errors import BadModel, CaftLensError
from caft_lens.finetune import targets
from caft_lens.finetune.settings import LoraSettings, TrainSettings
from caft_lens.finetune.trainer import LensTrainer
from caft_lens.model import run_folder
from caft_lens.model.lens import Lens
from caft_lens.text.catalog import is_organism, shipped

HALF = (torch.bfloat16, torch.float16)


def trainable(lens: Lens, settings: TrainSettings) -> Lens:
    """A lens on what is trained: an adapter over the shared weights, or a copy of them."""
    if settings.tune == "lora":
        return _with_adapter(lens, settings.lora)
    child = lens.merged() if lens.has_adapter else lens.copy()  # a model of its own, which loads without the adapter
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
    child.model.peft_config["default"].base_model_name_or_path = reloadable(lens)
    return child


def save_weights(trainer: LensTrainer, lens: Lens, folder: Path) -> None:
    """The adapter, or the model in the number format of its base, with the tokenizer beside it; safetensors."""
    if folder.name == "model":
        trainer.lens.model.to(lens.dtype)
    trainer.save_model(str(folder))
    if trainer.args.should_save:
        lens.tokenizer.save_pretrained(folder, save_jinja_files=False)  # the template goes into its JSON
        (folder / "README.md").unlink(missing_ok=True)  # an empty form for the hub


def reloadable(lens: Lens) -> str:
    """The name by which `load` finds this model again, absolute where it is a path; `""` for one made in memory."""
    name = loadable(lens)
    if name in shipped():
        return name
    if not (is_organism(name) or run_folder.is_run(name)):
        name = getattr(lens.hf.config, "_name_or_path", "")
    return os.path.abspath(name) if name and Path(name).is_dir() else name


def loadable(lens: Lens) -> str:
    """Its name, or, of the model of a run, the folder that it was read from."""
    return lens.name if lens.kept_in is None else str(lens.kept_in)
