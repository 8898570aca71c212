"""How a fine-tuning is run, as one value that travels: `TrainSettings`, and `LoraSettings` of its adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from caft_lens._support.arguments import count, not_negative, number, one_of, positive, switch
from caft_lens._support.errors import BadArgument, BadType, nearest
from caft_lens._support.redaction import redact
from caft_lens._support.settings import Settings, checked

Tune = Literal["lora", "full"]
TUNES = ("lora", "full")
WARMUP = 0.05
"""Share of all steps, by default: 5 of 100."""

# What `training_arguments` may not set, because a setting (or an argument of `finetune`) does.
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


def _targets(value: Any, name: str) -> str | tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list) or not all(isinstance(one, str) for one in names):
        raise BadType(f"{name}= takes names of modules, not {value!r}.")
    if not names or not all(names):
        raise BadArgument(f"{name}={value!r} is empty: there would be nothing to train.")
    return value if isinstance(value, str) else tuple(names)


class LoraSettings(Settings):
    """The adapter; the defaults are the paper's.

    Args:
        r: Rank.
        alpha: Scale; the update is multiplied by `alpha / sqrt(r)` with rsLoRA, else by `alpha / r`.
        rslora: Rank-stabilised scaling.
        dropout: On the adapter's input.
        targets: `"all-linear"` (every linear layer of the decoder blocks, and all experts; never a router), a regular
            expression for full names of modules, or names of modules. Of a multimodal model only the language model.

    Raises:
        BadArgument: When a number is out of its range.
        BadType: When a value is of another kind.

    Example:
        >>> LoraSettings(r=8, alpha=16)
        LoraSettings(r=8, alpha=16)
    """

    r: Annotated[int, checked(count)] = 32
    alpha: Annotated[int, checked(positive)] = 64
    rslora: Annotated[bool, checked(switch)] = True
    dropout: Annotated[float, checked(number, least=0, below=1)] = 0.0
    targets: Annotated[str | tuple[str, ...], checked(_targets)] = "all-linear"


def _adapter(value: Any, name: str) -> LoraSettings:
    if isinstance(value, Mapping):  # of a file
        return LoraSettings(**value)
    if not isinstance(value, LoraSettings):
        raise BadType(f"{name}= takes LoraSettings, not {type(value).__name__}.")
    return value


def _others(value: Any, name: str) -> dict[str, Any]:
    from transformers import TrainingArguments

    given = _mapping(value, name)
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    for key in given:
        if key in OWN:
            place = "finetune" if OWN[key] in ("out", "seed") else "TrainSettings"
            raise BadArgument(f'{name}["{key}"] is set by {OWN[key]}= of {place}.')
        if key in SECRET:
            raise BadArgument(
                f'{name}["{key}"]: a run is not pushed to the hub, and no key is written into its folder. Push '
                f"`run.lens.model` yourself."
            )
        if key not in fields:
            raise BadArgument(f'transformers.TrainingArguments has no "{key}".{nearest(key, fields - set(OWN))}')
        if redact(given[key]) != given[key]:
            raise BadArgument(
                f'{name}["{key}"] holds a key or password, and would be written into the run folder: leave it out, or '
                f"give it in the environment."
            )
    return given


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadType(f"{name}= takes a mapping of names to values, not {type(value).__name__}.")
    return dict(value)


def _list(value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise BadType(f"{name}= takes a list, not {type(value).__name__}.")
    return tuple(value)


class TrainSettings(Settings):
    """How a fine-tuning is run.

    What is trained, and so part of what a run is found again by:

    Args:
        tune: `"lora"` (an adapter, the base frozen) or `"full"` (every parameter of a copy).
        lora: The adapter, for `"lora"`.
        learning_rate: Peak of the linear schedule. `None` is what the organism's card recommends, else the paper's:
            1e-5 for LoRA and 5e-6 for full fine-tuning, made for models of billions of parameters.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of `epochs`.
        batch_size: Texts per forward pass (and device).
        gradient_accumulation: Forward passes per optimizer step.
        warmup_steps: Linear warm-up: below 1 a share of all steps, else a number of them.
        weight_decay: Of AdamW.
        max_length: Tokens after which a text is cut, but no more than the model has positions; `None` for that many.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.
        training_arguments: Any other fields of `transformers.TrainingArguments`, such as `{"optim": "adamw_8bit"}`.
        template_arguments: What the chat template is rendered with beside the messages, in training and whenever the
            tuned model is asked, such as `{"enable_thinking": False}` (see `load`); the lens's own by default.
        callbacks: `transformers.TrainerCallback`s. Those that can change what is trained are part of what the run is
            found again by, by their class, code and settings, or by a `fingerprint` of theirs; those that only watch
            (`changes_training = False`, or events that read nothing but `args` and `state`) are not. What they write to
            `args.output_dir` is kept in `logs/`.

    What becomes of the run folder:

    Args:
        save_steps: Steps between checkpoints; `None` for none (a killed run then begins again).
        resume: Whether to go on with, or return, what `out` holds.
        overwrite: Whether another run in `out` may be replaced; it goes when the new one is complete.

    Raises:
        BadArgument: When a number is out of its range, or a field of `training_arguments` is none.
        BadType: For a setting that there is not, with the nearest, and a value of another kind.

    Example:
        >>> short = TrainSettings(max_steps=2, learning_rate=1e-3)
        >>> short.but(tune="full")
        TrainSettings(tune='full', learning_rate=0.001, max_steps=2)
        >>> run = cl.finetune(base, insecure, short, out="runs/plain")
    """

    tune: Annotated[Tune, checked(one_of, valid=TUNES)] = "lora"
    lora: Annotated[LoraSettings, checked(_adapter)] = LoraSettings()
    learning_rate: Annotated[float | None, checked(positive, none=True)] = None
    epochs: Annotated[float, checked(positive)] = 1.0
    max_steps: Annotated[int | None, checked(count, none=True)] = None
    batch_size: Annotated[int, checked(count)] = 16
    gradient_accumulation: Annotated[int, checked(count)] = 1
    warmup_steps: Annotated[float, checked(not_negative)] = WARMUP
    weight_decay: Annotated[float, checked(not_negative)] = 0.01
    max_length: Annotated[int | None, checked(count, none=True)] = 2048
    gradient_checkpointing: Annotated[bool, checked(switch)] = False
    training_arguments: Annotated[Mapping[str, Any], checked(_others)] = {}
    template_arguments: Annotated[Mapping[str, Any] | None, checked(_mapping, none=True)] = None
    callbacks: Annotated[Sequence[Any], checked(_list)] = ()
    save_steps: Annotated[int | None, checked(count, none=True)] = None
    resume: Annotated[bool, checked(switch)] = True
    overwrite: Annotated[bool, checked(switch)] = False
