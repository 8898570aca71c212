"""What is checked on the first step of a training under hooks: of `finetune`, and of any other `Trainer`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import Trainer

from caft_lens._support.errors import Diverged, NotTrained


def check_first_step(trainer: Trainer, model: nn.Module, loss: Tensor, passed: Mapping[str, int]) -> None:
    """Refuse a training whose first step was not what was asked.

    Args:
        trainer: Between the first backward pass and the first update.
        model: What it trains.
        loss: Of the step.
        passed: How often each hook point at which something acts was passed.

    Raises:
        Diverged: When the loss is not finite.
        NotTrained: When a hook point was not passed, or a trainable parameter got no gradient.
    """
    if not torch.isfinite(loss).all():
        raise Diverged(
            f"The loss of the first step is {loss.item()}, before any update: look at the model's weights and dtype "
            f"({getattr(model, 'dtype', 'unknown')}), and at what acts at hook points "
            f"({', '.join(passed) or 'nothing'})."
        )
    silent = [hook for hook, times in passed.items() if not times]
    if silent:
        raise NotTrained(
            f"Nothing was done at {', '.join(silent)}: the hook points did not fire in the first training step. The "
            "model that is trained is not the one that the lens hooks, or its blocks are skipped."
        )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return  # their gradients live in flat shards, not on the parameters
    if re.search("layerwise|lomo", str(trainer.args.optim)):
        return  # these optimizers use up gradients during the backward pass
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # Of experts that are modules of their own, those that no token of the batch was sent to have none.
    routed = {_experts_of(name) for name, p in trained if p.grad is not None} - {None}
    bare = [name for name, p in trained if p.grad is None and _experts_of(name) not in routed]
    if bare:
        shown = ", ".join(bare[:8]) + (f" and {len(bare) - 8} more" if len(bare) > 8 else "")
        raise NotTrained(
            f"{len(bare)} trainable parameters got no gradient in the first step: {shown}. They are not part of the "
            f"forward pass (an adapter on a fused or replaced module, say): change what the adapter goes on "
            f"(`lora.targets`; of a `LoraConfig` its `target_modules`), or freeze them."
        )


def _experts_of(name: str) -> str | None:
    """The path of the experts that a parameter is one of; `None` for any other."""
    found = re.match(r"(.*\.experts)\.\d+\.", name)
    return found[1] if found else None
