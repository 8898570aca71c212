"""`stage`: train for a while before, or beside, a run, as the run itself is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from transformers import IntervalStrategy

from caft_lens.finetune.protocol import Plan, Training
from caft_lens.finetune.trainer import LengthGrouped, LensTrainer
from caft_lens.model.lens import Lens
from caft_lens.text.encoding import Encoded


def stage(
    training: Training,
    encoded: Sequence[Encoded] | None = None,
    plan: Plan | None = None,
    *,
    lens: Lens | None = None,
    steps: int | None = None,
) -> None:
    """Train what needs gradients, with the arguments of a run; nothing is saved, and nothing where `steps` is 0.

    After a kill a stage is trained anew, to the same weights.

    Args:
        training: The run.
        encoded: What is learned; the run's texts by default.
        plan: What the trainer is asked for.
        lens: What is trained; the run's by default.
        steps: Of the optimizer; as many as the run has by default.
    """
    if steps == 0:
        return
    arguments = copy.deepcopy(training.arguments)
    arguments.save_strategy = IntervalStrategy.NO
    if steps is not None:
        arguments.max_steps = steps
    encoded = training.encoded if encoded is None else encoded
    LensTrainer(lens or training.lens, encoded, arguments, plan or Plan()).train()


def order_of(training: Training, places: Sequence[int]) -> Callable[[int], list[int]]:
    """The order in which plain fine-tuning would learn some of the texts, were they all, as `Plan.order` takes it.

    Args:
        training: The run.
        places: Of the texts, in `training.encoded`.
    """
    arguments = training.arguments
    size = arguments.train_batch_size * arguments.gradient_accumulation_steps
    lengths = [len(training.encoded[place].input_ids) for place in places]

    def order(epoch: int) -> list[int]:
        sampler = LengthGrouped(lengths, size, training.seed)
        sampler.set_epoch(epoch)
        return [places[index] for index in sampler]

    return order
