"""What a run is asked to do, and what is written down of it when it is done: `run.json`."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

from transformers import TrainerState

from caft_lens._support import processes
from caft_lens._support.errors import BadType
from caft_lens._support.files import parsed, write_json
from caft_lens.finetune import folder as place
from caft_lens.finetune import targets
from caft_lens.finetune.callbacks import recorded
from caft_lens.finetune.cost import Cost
from caft_lens.finetune.methods.caft import CAFT
from caft_lens.finetune.methods.plain import Plain
from caft_lens.finetune.protocol import Method, Training
from caft_lens.finetune.settings import TrainSettings
from caft_lens.finetune.weights import reloadable
from caft_lens.model import run_folder
from caft_lens.model.lens import Lens
from caft_lens.text.documents import Texts

VERSIONS = ("caft-lens", "torch", "transformers", "peft", "accelerate", "transformer-lens")
TRAINED = (
    "learning_rate", "epochs", "max_steps", "batch_size", "gradient_accumulation", "warmup_steps", "weight_decay",
    "max_length", "gradient_checkpointing", "training_arguments"
)  # fmt: skip
"""The settings that a configuration holds under their own names."""


def configuration(lens: Lens, texts: Texts, settings: TrainSettings, method: Method, seed: int) -> dict[str, Any]:
    """Everything that the result of a run depends on, as JSON reads it back, under the keys of the first run folders.

    Raises:
        BadType: For arguments of the trainer that are no JSON values, and callbacks that are none.
    """
    # Of plain fine-tuning and of whole ablation the concepts say all; run folders from before other methods have none.
    whole = method.name in (Plain.name, CAFT.name) and "strength" not in method.record()
    config = {
        "method": settings.tune,
        "lora": dict(settings.lora) if settings.tune == "lora" else None,
        **{name: getattr(settings, name) for name in TRAINED},
        "seed": seed,
        "base": {"name": lens.name, "fingerprint": lens.fingerprint, "dtype": str(lens.dtype).removeprefix("torch.")},
        "reading": lens.reading,
        "data": {"name": texts.name, "fingerprint": texts.fingerprint, "texts": len(texts)},
        "concepts": method.concepts_record,
        **({} if whole else {"arm": method.record()}),
        "callbacks": recorded(settings.callbacks),
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


def outcome(training: Training, state: TrainerState, config: dict[str, Any], cost: Cost) -> dict[str, Any]:
    """What `run.json` says of a run that is done, but for the hashes of its files."""
    lens, encoded = training.base, training.encoded
    record = {
        "method": config["method"],
        "base": reloadable(lens),
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
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONS},
        },
    }
    if config["method"] == "lora" and any(shares := targets.adapted(lens.hf, targets.trained(training.lens.hf))):
        record["adapted"] = shares
    if state.global_step < state.max_steps:
        record["stopped"] = {"step": state.global_step, "of": state.max_steps}
    return record


def history_of(state: TrainerState) -> list[dict[str, float]]:
    """The curves: one entry a step, without numbers that are not finite."""
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate")
    return [
        {key: entry[key] for key in keys if key in entry and math.isfinite(entry[key])}
        for entry in state.log_history
        if "loss" in entry
    ]


def finish(folder: Path, method: Method, history: list[dict[str, float]], record: dict[str, Any]) -> None:
    """Write beside the weights what else a run leaves, and put all of it in place."""
    if (concepts := method.materials.get("concepts")) is not None:
        concepts.save(folder / run_folder.NEW / run_folder.CONCEPTS)
    write_json(folder / run_folder.NEW / run_folder.HISTORY, history)
    if Path(record["base"]).is_absolute():  # where both are moved together
        record = {**record, "base_from_here": os.path.relpath(record["base"], folder)}
    place.finish(folder, record)
