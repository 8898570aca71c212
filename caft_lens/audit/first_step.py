"""The first step of fine-tuning, on all texts at once: what training changes to first order, without training.

An adapter starts at no change, so that its first step is the gradient alone: to first order what full fine-tuning would
do, seen through the adapter's random half. Of the whole data it is the step that the noise of batches averages to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from caft_lens._support.blocks import random_state
from caft_lens._support.errors import BadData
from caft_lens.finetune.settings import LoraSettings, TrainSettings
from caft_lens.finetune.weights import trainable

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


class FirstStep:
    """A model with a fresh adapter, which is the same model until the step is taken.

    Args:
        base: The model.
        lora: The adapter; its dropout is not used.
        seed: Of its random half.

    Attributes:
        lens: The model with the adapter.
    """

    def __init__(self, base: Lens, lora: LoraSettings = LoraSettings(r=32, alpha=32, rslora=False), seed: int = 0):
        with random_state():
            torch.manual_seed(seed)
            self.lens = trainable(base, TrainSettings(lora=lora.but(dropout=0.0)))
        named = [(name, p) for name, p in self.lens.model.named_parameters() if p.requires_grad]
        self._parameters = [p for name, p in named if "lora_B" in name]
        self._gradient = [torch.zeros_like(p, dtype=torch.float32) for p in self._parameters]
        self.tokens = 0

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What slopes of the log-probability are wanted along: the half of the adapter that starts at zero."""
        return self._parameters

    def add(self, gradients: Sequence[Tensor], tokens: int) -> None:
        """Take in the slopes of the log-probability of so many learned tokens, summed over them."""
        self.tokens += tokens
        for total, one in zip(self._gradient, gradients, strict=True):
            total += one

    @torch.no_grad()
    def take(self, fall: float) -> float:
        """Take the step by which the mean loss falls so much, to first order; returns its size.

        Raises:
            BadData: When the loss has no slope.
        """
        gradient = [total / max(1, self.tokens) for total in self._gradient]
        steepness = sum(float(one.double().square().sum()) for one in gradient)
        if not steepness > 0:
            raise BadData("The loss on these texts has no slope along an adapter's weights: nothing would be learned.")
        size = fall / steepness
        for parameter, one in zip(self._parameters, gradient, strict=True):
            parameter += size * one
        return size
