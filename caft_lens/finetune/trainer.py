"""The trainer of all methods: `transformers.Trainer`, with what a lens and a method need around it.

`LensTrainer` tells the lens the token roles of the batch in flight, does what the method's plan asks for, checks on the
first step that training does what it should, and stops on a loss that is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from caft_lens._support.blocks import random_state
from caft_lens._support.errors import BadData, Diverged
from caft_lens._support.progress import progress
from caft_lens.finetune.checks import check_first_step
from caft_lens.finetune.folder import at_its_end
from caft_lens.finetune.step import Pass
from caft_lens.model.attach import fired
from caft_lens.model.partial_logits import Only, places_of
from caft_lens.text.batching import Batch, collate, padding_id
from caft_lens.text.encoding import Encoded

if TYPE_CHECKING:
    from caft_lens.finetune.protocol import Plan
    from caft_lens.model.lens import Lens

EXTRA = "extra.safetensors"  # in a checkpoint, parameters that the model's own `save_pretrained` does not know
LOOK = 10
"""Steps between two looks at whether a loss was not finite: each look waits for the device."""
NEVER = 2**62
LARGE_VOCABULARY = 2**13
"""From so many tokens on, the logits of tokens that are not learned are worth leaving out."""
MEGABATCH = 50  # batches that are sorted by length together, as in transformers' LengthGroupedSampler


class Collator:
    """Encoded documents to the arguments of a forward pass, padded on the right, roles beside them."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, encoded: Sequence[Encoded]) -> dict[str, Tensor]:
        batch = collate(encoded, self.pad_id, side="right")
        labels = batch.labels
        if not (labels[:, 1:] != -100).any():
            raise BadData(f"The batch of texts {batch.index.tolist()} has no token to learn.")
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": labels,
            "roles": batch.roles,
            "index": batch.index,
        }


class LengthGrouped(Sampler[int]):
    """A shuffle in which a batch holds texts of similar length; a function of seed and epoch alone.

    transformers' own sampler draws from the global random state, so that a resumed run would see another order.
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
        batches = [grouped[start : start + self.batch_size] for start in range(0, len(grouped), self.batch_size)]
        # Batches in random order, or training would go from long to short texts; the partial one stays last.
        partial = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
        for batch in partial:
            yield from batch


class Ordered(Sampler[int]):
    """Texts in an order that is a function of the epoch."""

    def __init__(self, order: Callable[[int], Sequence[int]]) -> None:
        self.order, self.epoch = order, 0
        self._length = len(order(0))

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each pass over the data."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch))


class LensTrainer(Trainer):
    """`transformers.Trainer` on the model of a lens: its hooks act in every forward pass, recomputed ones included."""

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
        self._diverged: Tensor | None = None  # the first step whose loss was not finite, on the device
        self._at_its_end = False
        self._in_flight: Batch
        self._learned_alone = lens.d_vocab >= LARGE_VOCABULARY
        super().__init__(
            model=lens.model,
            args=arguments,
            train_dataset=list(encoded),
            data_collator=Collator(padding_id(lens.tokenizer)),
            callbacks=[self._progress, *plan.callbacks, *callbacks],
        )
        self.remove_callback(PrinterCallback)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **keywords: Any) -> Any:
        """As `Trainer.train`; a run that had come to its end takes no step more, and the progress bar is always closed.

        Raises:
            Diverged: When a loss, or a weight in the end, is not finite, however seldom the loss is logged.
        """
        self._at_its_end = resume_from_checkpoint is not None and at_its_end(Path(resume_from_checkpoint))
        try:
            result = super().train(resume_from_checkpoint, *args, **keywords)
            self._look()
            return result
        finally:
            self._progress.close()

    def _run_epoch(self, *args: Any, **keywords: Any) -> None:
        if self._at_its_end:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **keywords)

    def check_weights(self) -> None:
        """Refuse trained weights that are not finite.

        Raises:
            Diverged: Naming how many.
        """
        flags = [
            (~torch.isfinite(p.detach())).any()
            for name, p in self.lens.model.named_parameters()
            if p.is_floating_point() and (p.requires_grad or ".lora_" in name)
        ]
        if not flags:
            return
        bad = torch.stack([flag.to(self.args.device) for flag in flags]).sum()[None]
        if int(self.accelerator.gather(bad).sum()):
            raise Diverged(
                f"Training has diverged: after step {self.state.global_step} weights are not finite. Lower the "
                f"learning rate ({self.args.learning_rate}) or warm up longer "
                f"(warmup_steps={self.args.warmup_steps:g})."
            )

    def _note(self, loss: Tensor) -> None:
        """Keep, without waiting for the device, the first step whose loss was not finite; look now and then."""
        step = torch.where(torch.isfinite(loss.detach()).all(), NEVER, self.state.global_step + 1)
        self._diverged = step if self._diverged is None else torch.minimum(self._diverged, step)
        if self.state.global_step % LOOK == LOOK - 1 and self.accelerator.sync_gradients:
            self._look()

    def _look(self) -> None:
        if self._diverged is None:
            return
        first = int(self.accelerator.gather(self._diverged[None]).min())
        if first < NEVER:
            raise diverged(first, self.args)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; the lens knows the roles throughout, for checkpointing too."""
        learned, roles, index = inputs["labels"] != -100, inputs.pop("roles"), inputs.pop("index")
        batch = Batch(inputs["input_ids"], inputs["attention_mask"], roles, learned, index)
        step, passes = self.state.global_step, self.args.gradient_accumulation_steps
        self._pass = (step, self._pass[1] + 1 if self._pass[0] == step else 0)
        read = self.plan.before(batch, step * passes + self._pass[1]) if self.plan.before is not None else None
        if read is not None:
            inputs["input_ids"] = batch.input_ids = read
        self._in_flight = batch.to(self.args.device)
        if self._checked:
            with self.lens.roles_as(self._in_flight.roles):
                loss = super().training_step(model, inputs, num_items_in_batch)
            self._note(loss)
            return loss
        with fired(self.lens, self.plan.fires, learning=True) as passed, self.lens.roles_as(self._in_flight.roles):
            loss = super().training_step(model, inputs, num_items_in_batch)
        check_first_step(self, model, loss, passed)
        self._checked = True
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's loss, or what the method makes of it."""
        if self.plan.loss is None:
            return self._model_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = self._model_loss(model, inputs, True, num_items_in_batch)
        # Further passes draw random numbers of their own: those of training are the ones that it has without them.
        with random_state(device=self.args.device):
            loss = self.plan.loss(self._as_seen(loss, outputs["logits"], inputs["labels"], num_items_in_batch))
        return (loss, outputs) if return_outputs else loss

    def _as_seen(self, loss: Tensor, logits: Tensor, labels: Tensor, n_items: Any) -> Pass:
        """The pass in flight, as the method's loss sees it."""
        learned = labels[:, 1:] != -100
        alone = logits.shape[:2] == (1, int(learned.sum()) + 1)
        logits = logits[0, :-1] if alone else logits[:, :-1][learned.to(logits.device)]
        scaled = self.model_accepts_loss_kwargs and n_items is not None  # otherwise the trainer divides by the passes
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1

        def mean(values: Tensor) -> Tensor:
            return values.sum() / n_items * processes if scaled else values.mean()

        def share(number: Tensor) -> Tensor:
            return number / self.current_gradient_accumulation_steps if scaled else number

        step, done = self._pass
        number = step * self.args.gradient_accumulation_steps + done
        return Pass(number, self.lens, self._in_flight, labels[:, 1:][learned], loss, logits, mean, share)

    def _model_loss(self, model: nn.Module, inputs: dict[str, Any], *rest: Any) -> Any:
        """The loss that the model itself computes, its unembedding seeing learned tokens alone where that pays."""
        whole = super().compute_loss
        if not self._learned_alone:
            return whole(model, inputs, *rest)
        labels = inputs["labels"]
        learned = torch.zeros_like(labels, dtype=torch.bool)
        learned[:, :-1] = labels[:, 1:] != -100
        places = places_of(learned)
        # The model shifts labels by one: each stands behind the token that it is predicted from, and a last row of
        # logits, which predicts nothing, makes room for that.
        nothing = labels.new_full((1,), -100)
        some = {**inputs, "labels": torch.cat([nothing, labels[:, 1:][learned[:, :-1]]])[None]}
        try:
            with (only := Only(self.lens, torch.cat([places, places[-1:]]))):
                found = whole(model, some, *rest)
        except (ValueError, RuntimeError, IndexError):
            if self._checked:
                raise
            only.acted = False
        if not only.acted:  # an architecture that does not call its unembedding, or pairs labels with all tokens
            self._learned_alone = False
            return whole(model, inputs, *rest)
        return found

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.plan.order is not None:
            return Ordered(self.plan.order)
        encoded = cast(list[Encoded], train_dataset or self.train_dataset)
        lengths = [len(item.input_ids) for item in encoded]
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return LengthGrouped(lengths, self.args.train_batch_size * self.args.gradient_accumulation_steps, seed)

    def _save_checkpoint(self, *args: Any, **keywords: Any) -> None:
        self._look()  # what has diverged is nothing to go on from
        super()._save_checkpoint(*args, **keywords)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # Trainer's own would look for the base's config on the hub (PEFT) and pickle its arguments.
        model: Any = self.model
        options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        model.save_pretrained(
            output_dir or self.args.output_dir, state_dict=state_dict, is_main_process=self.args.should_save, **options
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


def diverged(step: int, arguments: TrainingArguments, loss: float = math.nan) -> Diverged:
    """The error of a loss that is not finite."""
    return Diverged(
        f"The loss is {loss} at step {step}: training has diverged. Lower the learning rate "
        f"({arguments.learning_rate}) or warm up longer (warmup_steps={arguments.warmup_steps:g})."
    )


class Progress(TrainerCallback):
    """The bar, with the loss, from before the first step; and the stop on a logged loss that is not finite."""

    bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        show = state.is_world_process_zero
        self.bar = progress(total=state.max_steps, desc="fine-tuning", unit="step", show=show)
        self.bar.delay = 0.0  # the first step may take minutes
        self.bar.update(state.global_step)
        self.bar.refresh()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise diverged(state.global_step, args, loss)
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            self.bar.close()
