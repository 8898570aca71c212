"""`stage`: train for a while before, or beside, a run, as the run itself is trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from transformers import IntervalStrategy

from caft_lens.finetune.protocol import Plan, Training
from caft_lens.finetune.trainer import LensTrainer
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
