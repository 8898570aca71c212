"""One forward pass of training, as a method sees it that changes the loss: `Pass`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from caft_lens.model.lens import Lens
from caft_lens.model.partial_logits import logits_at, places_of
from caft_lens.text.batching import Batch


@dataclass
class Pass:
    """A forward pass of training, over one batch; n is the number of its learned tokens, row by row.

    Attributes:
        number: Which pass it is, from 0; the same after a kill.
        lens: The model that is trained.
        batch: What the model reads, on its device; `batch.index` counts `Training.texts`.
        targets: The learned tokens, long `[n]`.
        loss: That of plain fine-tuning.
        logits: Of this pass, before every learned token, `[n, d_vocab]`; gradients flow.
        mean: The mean of values of the learned tokens `[n]`, over all passes of the optimizer step together, as plain
            fine-tuning takes that of their cross-entropy.
        share: What a number of this pass counts for in the optimizer step: its mean over the passes counts.
    """

    number: int
    lens: Lens
    batch: Batch
    targets: Tensor
    loss: Tensor
    logits: Tensor
    mean: Callable[[Tensor], Tensor]
    share: Callable[[Tensor], Tensor]

    def plus(self, number: Tensor) -> Tensor:
        """The loss of plain fine-tuning and a number of this pass."""
        return self.loss + self.share(number)

    @cached_property
    def losses(self) -> Tensor:
        """Cross-entropy of each learned token in this pass, fp32 `[n]`; gradients flow."""
        with torch.enable_grad():  # whoever asks first
            return token_losses(self.logits, self.targets)

    @cached_property
    def rows(self) -> Tensor:
        """Which text of the batch each learned token is of, long `[n]`."""
        return self.batch.loss[:, 1:].nonzero()[:, 0]

    def logits_of(self, lens: Lens) -> Tensor:
        """Logits before every learned token in another pass, or of another model, `[n, d_vocab]`."""
        return learned_logits(lens, self.batch)

    def losses_of(self, lens: Lens) -> Tensor:
        """Cross-entropy of each learned token in another pass, or of another model, fp32 `[n]`."""
        return token_losses(self.logits_of(lens), self.targets)

    def by_text(self, values: Tensor) -> Tensor:
        """The mean of values of the learned tokens `[n]` over those of each text, `[batch]`."""
        n = values.new_zeros(len(self.batch)).index_add(0, self.rows, torch.ones_like(values))
        return values.new_zeros(len(self.batch)).index_add(0, self.rows, values) / n.clamp_min(1)

    def values(self, by_text: Sequence[np.ndarray]) -> Tensor:
        """What each learned token has, `[n]`.

        Args:
            by_text: For every text of `Training.texts` a value of each of its tokens, `[pos]`.
        """
        pairs = zip(self.batch.index.tolist(), self.batch.loss.cpu().numpy(), strict=True)
        found = [by_text[text][1:][learned[1 : len(by_text[text])]] for text, learned in pairs]
        return torch.from_numpy(np.concatenate(found)).to(self.logits.device)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each token, fp32 (or finer) `[n]`, from logits `[n, d_vocab]`."""
    return cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")


def learned_logits(lens: Lens, batch: Batch) -> Tensor:
    """Logits before every token that training would learn, `[n, d_vocab]`; no others are computed."""
    before = torch.zeros_like(batch.loss)
    before[:, :-1] = batch.loss[:, 1:]
    call = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    with lens.roles_as(batch.roles):
        return logits_at(lens, call, places_of(before))


def batch_loss(lens: Lens, batch: Batch) -> Tensor:
    """The mean cross-entropy of the tokens of a batch that training would learn."""
    return token_losses(learned_logits(lens, batch), batch.input_ids[:, 1:][batch.loss[:, 1:]]).mean()
