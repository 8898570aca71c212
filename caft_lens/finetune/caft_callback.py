"""`CaftCallback`: Concept Ablation Fine-Tuning in anybody's trainer, transformers' own or one made of it, as TRL's are.

Whatever is within a training step is ablated: forward and backward passes, the answers that a trainer samples to learn
from them, the log-probabilities of a reference model. What is between steps (evaluation, checkpoints, samples for a
log) and after the last one sees the model as it is, since nothing is hooked to it then, whatever ended the step.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch
from caft_lens.concepts.ablation import Variant, ablations
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.finetune.checks import check_first_step
from caft_lens.finetune.trainer import LensTrainer
from caft_lens.model.architectures import unwrap
from caft_lens.model.attach import at, fired
from caft_lens.model.hooked import said_of, says
from caft_lens.model.lens import Lens
from caft_lens.model.sinks import Sinks

STEP = "training_step"


class CaftCallback(TrainerCallback):
    """Ablate concepts in every training step of transformers' `Trainer`, or of TRL's for SFT, DPO, GRPO and others.

    Evaluation between the steps, and all that comes after training, is of the model without ablation. In the first step
    every hook point has to be passed and every trainable parameter to get a gradient, as in `finetune`. Attention sinks
    stay what they are. A reference model (DPO's, or that of a KL penalty) is under the same ablation: it is what the
    model in training was, and what is learned need not make up for the ablation.

    Args:
        concepts: Directions by site; or by hook name (or layer) orthonormal columns [d_model, k] or a unit vector.
        rollouts: Whether answers that the trainer samples within a step, to learn from them (GRPO), are sampled under
            ablation: then it learns from what the model in training says. Otherwise from what the model says as it will
            be used, and gradients are off-policy by the ablation, which no ratio of the loss makes up for.
        variant, means, strength: As for `ablate`.
        sinks: Which tokens are attention sinks, as `Lens.sinks` is set; "auto" measures them before training.

    Raises:
        ConceptMismatch: By the trainer, when it is made: the concepts do not fit its model.
        BadArgument: Likewise, when answers or a reference would be computed where ablation cannot act.
        NotTrained: In the first step: a hook point was not passed, or a trainable parameter got no gradient.
        Diverged: In the first step: its loss is not finite.

    Example:
        >>> from transformers import DataCollatorForLanguageModeling, PrinterCallback, Trainer, TrainingArguments
        >>> model, rows = base.copy().model, [dict(base.tokenizer("What a day! How are you?"))] * 8
        >>> arguments = TrainingArguments("runs/hf", max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True)
        >>> batches = DataCollatorForLanguageModeling(base.tokenizer, mlm=False)
        >>> trainer = Trainer(model, arguments, batches, rows, callbacks=[CaftCallback(cruel)])
        >>> trainer.remove_callback(PrinterCallback)
        >>> trainer.train().global_step, cl.load(model).attached
        (2, {})
    """

    def __init__(
        self,
        concepts: ConceptSet | Mapping[int | str, Tensor],
        *,
        rollouts: bool = True,
        variant: Variant = "zero",
        means: Mapping[str, Tensor] | None = None,
        strength: float = 1.0,
        sinks: Literal["auto", False] | float | Sinks = "auto",
    ) -> None:
        self.concepts, self.rollouts, self.sinks = concepts, rollouts, sinks
        self._how: dict[str, Any] = {"variant": variant, "means": means, "strength": strength}
        self._lens: Lens | None = None  # on the model for which `_edits` were made
        self._edits: dict[str, Callable[[Tensor], Tensor]] = {}
        self._sampling = False  # whether an answer is being sampled that is not to be ablated

    def on_init_end(
        self,
        args: TrainingArguments,
        state: Any,
        control: Any,
        model: Any = None,
        processing_class: Any = None,
        **others: Any,
    ) -> None:
        """Check what is asked, and measure sinks, while the model is as it was loaded."""
        self._prepare(args, model, processing_class)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: Any,
        control: Any,
        model: Any = None,
        processing_class: Any = None,
        **others: Any,
    ) -> None:
        """Put the ablation around the steps of the trainer."""
        try:
            lens = self._prepare(args, model, processing_class)
        except ConceptMismatch as error:
            if not state.global_step:
                raise
            raise ConceptMismatch(
                f"{error} (By now its weights are those of a checkpoint. Give the callback to the trainer when it is "
                f"made, callbacks=[...]: then it sees the model as it was.)"
            ) from error
        trainer = _trainer()
        if sum(isinstance(one, CaftCallback) for one in trainer.callback_handler.callbacks) > 1:
            raise BadArgument("This trainer has two CaftCallbacks: put all concepts into one.")
        _take_off(trainer)  # of a training that was interrupted between two steps
        setattr(trainer, STEP, _Step(self, lens, trainer))

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **others: Any) -> None:
        """Give the trainer its own step back."""
        _take_off(_trainer())

    def _prepare(self, args: TrainingArguments, model: nn.Module, processing_class: Any) -> Lens:
        """The lens on a model, for which the functions of the activation are made: once for each model."""
        if isinstance(_trainer(), LensTrainer):
            raise BadArgument("finetune() ablates by itself: give it ablate=concepts instead of a CaftCallback.")
        _refuse(args, self.rollouts)
        if self._lens is not None and self._lens.hf is unwrap(model):
            return self._lens
        lens = Lens(model)
        edits = ablations(lens, self.concepts, **self._how)
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            lens.tokenizer = tokenizer  # sinks are measured on texts then
        lens.sinks = self.sinks
        lens.sinks = lens.sinks  # those of now, whatever becomes of the weights
        self._lens, self._edits = lens, {hook: self._unless_sampling(edit) for hook, edit in edits.items()}
        return lens

    def _unless_sampling(self, edit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return says(lambda x: x if self._sampling else edit(x), said_of(edit))

    @block
    def _ablating(self, lenses: Sequence[Lens]) -> Iterator[None]:
        with ExitStack() as held:
            for lens in lenses:
                held.enter_context(at(lens, self._edits))
            if not self.rollouts:
                held.enter_context(self._sampling_as_it_is(lenses[0].hf))
            yield

    @block
    def _sampling_as_it_is(self, hf: Any) -> Iterator[None]:
        generate, own = hf.generate, "generate" in vars(hf)

        @functools.wraps(generate)
        def unablated(*args: Any, **keywords: Any) -> Any:
            self._sampling = True
            try:
                return generate(*args, **keywords)
            finally:
                self._sampling = False

        hf.generate = unablated
        try:
            yield
        finally:
            if own:
                hf.generate = generate
            else:
                del hf.generate


class _Step:
    """The `training_step` of a trainer, under ablation."""

    def __init__(self, callback: CaftCallback, lens: Lens, trainer: Trainer) -> None:
        self._callback, self._trainer = callback, trainer
        self._lenses = [lens]
        if (reference := getattr(trainer, "ref_model", None)) is not None:
            self._lenses.append(Lens(reference))
            self._lenses[-1].sinks = lens.sinks
        self.original = getattr(trainer, STEP)
        self._checked = False

    def __call__(self, model: nn.Module, *args: Any, **keywords: Any) -> Tensor:
        if self._callback not in self._trainer.callback_handler.callbacks:  # it was taken off by hand
            return self.original(model, *args, **keywords)
        try:
            return self._ablated(model, *args, **keywords)
        except BaseException:
            _take_off(self._trainer)
            raise

    def _ablated(self, model: nn.Module, *args: Any, **keywords: Any) -> Tensor:
        with self._callback._ablating(self._lenses):
            if self._checked:
                return self.original(model, *args, **keywords)
            with fired(self._lenses[0], self._callback._edits, learning=True) as passed:
                loss = self.original(model, *args, **keywords)
        check_first_step(self._trainer, model, loss, passed)
        self._checked = True
        return loss


def _take_off(trainer: Trainer) -> None:
    step = vars(trainer).get(STEP)
    if isinstance(step, _Step):
        delattr(trainer, STEP)
        if step.original != getattr(trainer, STEP):  # it had one of its own
            setattr(trainer, STEP, step.original)


def _trainer() -> Trainer:
    """The trainer whose event this is, which events do not say: the nearest among those that called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(found := frame.f_locals.get("self"), Trainer):
            return found
        frame = frame.f_back
    raise BadType(
        "A CaftCallback belongs to a transformers Trainer, or to one made of it. In a loop of your own open "
        "`with cl.ablate(model, concepts):` around the steps."
    )


def _refuse(args: TrainingArguments, rollouts: bool) -> None:
    """Refuse arguments of a trainer with which it computes something where ablation cannot act."""
    engines = [name for name in ("use_vllm", "use_transformers_continuous_batching") if getattr(args, name, False)]
    if rollouts and engines:
        raise BadArgument(
            f"{engines[0]}=True samples answers outside of the model that is hooked, where nothing is ablated: say so "
            f"with CaftCallback(..., rollouts=False), or leave it out."
        )
    if args.torch_compile:
        raise BadArgument("torch_compile=True: compiled code does not see hooks come and go. Leave it out.")
    if getattr(args, "precompute_ref_log_probs", False):
        raise BadArgument(
            "precompute_ref_log_probs=True scores the reference before training, when nothing is ablated: leave it "
            "out, so that model and reference are under the same ablation."
        )
