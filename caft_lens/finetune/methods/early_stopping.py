"""Early stopping: less of the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting


@register
class EarlyStopping(Method):
    name = "early_stopping"
    card = Card(
        idea="Stop plain fine-tuning after a share of its steps, chosen on dev questions; the schedule of the "
        "learning rate stays that of the whole run, so that this is a checkpoint of it.",
        equation="θ = θ_t, t = ⌈s T⌉ of T steps",
        source="usual practice; among the baselines that readers of CAFT asked for",
        grid=tuple({"share": share} for share in (0.1, 0.2, 0.4, 0.7)),
        family="schedule",
        cost="less: a share of the steps",
        neutral={"share": 1.0},
    )

    share: float = setting(0.5, "share s of the steps after which training stops", above=0, most=1)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        yield Plan(callbacks=[_StopAfter(self.share)])


class _StopAfter(TrainerCallback):
    def __init__(self, share: float) -> None:
        self.share = share

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step >= math.ceil(self.share * state.max_steps)
