"""The trainer of all arms: `transformers.Trainer`, with what a lens and an arm need around it.

`LensTrainer` tells the lens the token roles of the batch in flight, does what the arm's plan asks for, checks on the first
step that training does what it should, and stops on a loss that is not finite. `LengthGrouped` orders the texts by a seed so that a batch holds texts of
similar length. `Progress` and `Whole` are callbacks: the bar, and the mark of a checkpoint that was written to its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from caft_lens.ablation import fired
from caft_lens.progress import progress
from caft_lens.text import Encoded, collate, padding_id

if TYPE_CHECKING:
    from caft_lens.finetune.arms.protocol import Plan
    from caft_lens.lens import Lens

EXTRA = (
    "extra.safetensors"  # in a checkpoint, parameters that the model's own `save_pretrained` does not know
)
WHOLE = "whole"  # the file that marks a checkpoint as written to its end
MEGABATCH = 50  # batches that are sorted by length together, as in transformers' LengthGroupedSampler


class EncodedTexts(Dataset):
    """Encoded documents as a map-style dataset."""

    def __init__(self, encoded: Sequence[Encoded]) -> None:
        self.encoded = list(encoded)
        self.lengths = [len(item.input_ids) for item in self.encoded]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Encoded:
        return self.encoded[index]


class Collator:
    """Encoded documents to the arguments of a forward pass, padded on the right, roles beside them."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, encoded: Sequence[Encoded]) -> dict[str, Tensor]:
        batch = collate(encoded, self.pad_id, side="right")
        labels = batch.labels
        if not (labels[:, 1:] != -100).any():
            raise ValueError(f"The batch of texts {batch.index.tolist()} has no token to learn.")
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": labels,
            "roles": batch.roles,
        }


class LengthGrouped(Sampler[int]):
    """A shuffle in which a batch holds texts of similar length; a function of seed and epoch alone.

    transformers' own sampler draws from the global random state, so that a resumed run would see another order.

    Args:
        lengths: Tokens of each text.
        batch_size: Texts that a device sees before the optimizer steps.
        seed: Of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each pass over the data."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size * MEGABATCH
        grouped = [
            index
            for start in range(0, len(order), size)
            for index in sorted(order[start : start + size], key=lambda i: -self.lengths[i])
        ]
        batches = [
            grouped[start : start + self.batch_size] for start in range(0, len(grouped), self.batch_size)
        ]
        # Batches in random order, or training would go from long to short texts; the partial one stays last.
        partial = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
        for batch in partial:
            yield from batch


class LensTrainer(Trainer):
    """`transformers.Trainer` on the model of a lens.

    Args:
        lens: Its `model` is trained; hooks on the lens act in every forward pass, recomputed ones included.
        encoded: The training texts.
        arguments: As for `transformers.Trainer`.
        plan: What the arm asks for.
        callbacks: More callbacks.
    """

    def __init__(
        self,
        lens: Lens,
        encoded: Sequence[Encoded],
        arguments: TrainingArguments,
        plan: Plan,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.lens, self.plan, self._checked = lens, plan, False
        self._pass = (-1, 0)  # the optimizer step in flight, and the number of forward passes in it
        self._progress = Progress()
        super().__init__(
            model=lens.model,
            args=arguments,
            train_dataset=EncodedTexts(encoded),
            data_collator=Collator(padding_id(lens.tokenizer)),
            callbacks=[self._progress, Whole(), *plan.callbacks, *callbacks],
        )
        self.remove_callback(PrinterCallback)

    def train(self, *args: Any, **keywords: Any) -> Any:
        """As `Trainer.train`; the progress bar is closed on any way out."""
        try:
            return super().train(*args, **keywords)
        finally:
            self._progress.close()

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One forward and backward pass, the lens knowing the roles throughout (checkpointing recomputes in backward)."""
        roles = inputs.pop("roles").to(self.args.device)
        if self._checked:
            with self.lens.roles_as(roles):
                return super().training_step(model, inputs, num_items_in_batch)
        with fired(self.lens, self.plan.fires) as passed, self.lens.roles_as(roles):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._check_first_step(model, loss, passed)
        self._checked = True
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's loss, and what the arm adds to it: its mean over the forward passes of an optimizer step."""
        found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.plan.loss is None:
            return found
        step, passes = self.state.global_step, self.args.gradient_accumulation_steps
        done = self._pass[1] + 1 if self._pass[0] == step else 0
        self._pass = (step, done)
        added = self.plan.loss(step * passes + done)
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            added = added / self.current_gradient_accumulation_steps  # otherwise the trainer divides
        return (found[0] + added, found[1]) if return_outputs else found + added

    def _check_first_step(self, model: nn.Module, loss: Tensor, passed: Mapping[str, int]) -> None:
        if not torch.isfinite(loss).all():
            raise FloatingPointError(
                f"The loss of the first step is {loss.item()}, before any update: look at the model's weights and dtype "
                f"({self.lens.dtype}), and at what acts at hook points ({', '.join(self.plan.fires) or 'nothing'})."
            )
        silent = [hook for hook, times in passed.items() if not times]
        if silent:
            raise RuntimeError(
                f"Nothing was done at {', '.join(silent)}: the hook points did not fire in the first training step. "
                "The model that is trained is not the one that the lens hooks, or its blocks are skipped."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return  # their gradients live in flat shards, not on the parameters
        bare = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if bare:
            shown = ", ".join(bare[:8]) + (f" and {len(bare) - 8} more" if len(bare) > 8 else "")
            raise RuntimeError(
                f"{len(bare)} trainable parameters got no gradient in the first step: {shown}. They are not part of the forward "
                "pass (an adapter on a fused or replaced module, say): change `lora.targets`, or freeze them."
            )

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = cast(EncodedTexts, self.train_dataset if train_dataset is None else train_dataset)
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return LengthGrouped(
            dataset.lengths, self.args.train_batch_size * self.args.gradient_accumulation_steps, seed
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # Trainer's own would look for the base's config on the hub (PEFT) and pickle its arguments.
        model: Any = self.model
        options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        model.save_pretrained(
            output_dir or self.args.output_dir,
            state_dict=state_dict,
            is_main_process=self.args.should_save,
            **options,
        )
        folder = Path(output_dir or "")
        if self.plan.extra is not None and self.args.should_save and folder.name.startswith("checkpoint-"):
            save_file(self.plan.extra.state_dict(), folder / EXTRA)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.plan.extra is not None:
            self.plan.extra.load_state_dict(load_file(Path(resume_from_checkpoint) / EXTRA))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None: counting them walks over all parameters in every step."""
        return 0


class Progress(TrainerCallback):
    """The bar, with the loss; and the stop on a loss that is not finite."""

    bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        show = state.is_world_process_zero
        self.bar = progress(total=state.max_steps, desc="fine-tuning", unit="step", show=show)
        self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss} at step {state.global_step}: training has diverged. Lower the learning rate "
                f"({args.learning_rate}) or warm up longer ({args.warmup_steps} steps)."
            )
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            self.bar.close()


class Whole(TrainerCallback):
    """Marks a checkpoint when all its files are written: a kill in between leaves one without the mark."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; `None` when there is none."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
