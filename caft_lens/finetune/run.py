"""A finished fine-tuning run, read from its folder: `folder.py` writes it, `caft_lens.model.run_folder` is its schema.

It holds `run.json` (everything that went in, and the hashes of all files), `history.json` (the curves), `adapter/` or
`model/` (safetensors, and the tokenizer with its chat template), `concepts/` (the directions that acted) and `logs/`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadFile, BadModel, UnknownAttribute
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.model import run_folder
from caft_lens.model.lens import Lens, load

OF_LENS = ("name", "d_model", "n_layers", "n_heads", "d_head", "d_vocab", "model", "tokenizer")
"""What every lens has and its class does not show."""


class Run:
    """A finished fine-tuning run.

    Attributes:
        folder: Where it lies.
        record: All of `run.json`: base, lineage, data, concepts, versions, seconds and memory.
        config: What the run was asked to do.
        history: One entry per optimizer step: `step`, `epoch`, `loss`, `grad_norm`, `learning_rate`.

    Example:
        >>> Run.load(run.folder).history[0]["step"]
        1
        >>> answer = run.lens.generate("How do I bake a pie?")
    """

    def __init__(self, folder: str | Path, base: Lens | None = None) -> None:
        self._called = str(folder)
        self.folder = Path(os.path.abspath(folder))
        self.record: dict[str, Any] = run_folder.read_run(self.folder)
        self.config: dict[str, Any] = self.record["config"]
        self.history: list[dict[str, float]] = run_folder.read_history(self.folder, self.record)
        if base is not None and base.fingerprint != self.record["base_fingerprint"]:
            raise BadModel(
                f"{self.folder} was tuned from {self.config['base']['name']} ({self.record['base_fingerprint']}), "
                f"not from {base.name!r} ({base.fingerprint})."
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
        """The tuned model, ready to use: eval mode, no gradients, its own tokenizer and chat template."""
        base, folder = self._base, self.folder
        name = f"{self.config['base']['name'] if base is None else base.name} + {folder.name}"
        own = None if base is None or base.reading != self.config.get("reading") else base.tokenizer
        with quiet():
            if base is None:
                lens = load(folder, name_as=name)
            elif self.record["method"] == "lora":
                lens = base.adapt(folder, name=name)
            else:
                lens = load(folder, device=base.device, dtype=base.dtype, tokenizer=own, name_as=name)
        lens.kept_in = folder
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
                f"{folder} holds other concepts than those that {self.folder / run_folder.RUN} names: the run was "
                f"changed."
            )
        return concepts

    if not TYPE_CHECKING:  # so that a type checker goes on to know what a run has

        def __getattr__(self, name: str) -> Any:
            mine = name.startswith("_") or hasattr(type(self), name)
            if not mine and (name in OF_LENS or hasattr(Lens, name)):
                raise UnknownAttribute(
                    f'A Run is a folder and has no "{name}"; its model is run.lens: use run.lens.{name}, or give '
                    "run.lens where a Lens is expected."
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
        return (
            f"Run({self._called!r}, {self.record['method']}{self._share()} on "
            f"{self.config['base']['name']}{ablated}, {of}{loss})"
        )

    def _share(self) -> str:
        shares = self.record.get("adapted")
        if not shares or min(shares) == 1:
            return ""
        low, high = (f"{100 * share:.3g}" for share in (min(shares), max(shares)))
        return f" on {low if low == high else f'{low} to {high}'} % of each block"


@block
def quiet() -> Iterator[None]:
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
            # `Lens.merged` parts what is tied.
            warnings.filterwarnings("ignore", message=r"Model has `tie_word_embeddings=True` and a tied layer is part")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
