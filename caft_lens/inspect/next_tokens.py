"""The distribution of the next token: what it is, how far two lie apart, and which tokens moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from caft_lens.model.architectures import evaluating
from caft_lens.model.generation import encode_prompts
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Batch, pack, padding_id
from caft_lens.text.documents import Text, Texts
from caft_lens.text.token_strings import token_string


@dataclass(frozen=True)
class TokenShift:
    """A token whose probability to come next changed.

    Attributes:
        token: What it says.
        before: Its probability without the change, 0 to 1.
        after: Its probability with it.
    """

    token: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """Probability after minus before."""
        return self.after - self.before


def next_tokens(lens: Lens, prompts: str | Text | Texts | Sequence[str | Text]) -> Tensor:
    """Log-probabilities of the token after each prompt, fp32 `[prompt, d_vocab]`, under whatever hooks are attached.

    Example:
        >>> next_tokens(base, "How do I bake a pie?").shape
        torch.Size([1, 2048])
    """
    items = [replace(item, index=i) for i, item in enumerate(encode_prompts(lens, prompts, None))]
    found = torch.empty(len(items), lens.d_vocab)
    for batch in pack(items, padding_id(lens.tokenizer)):
        found[batch.index] = next_of_batch(lens, batch).cpu()
    return found


@torch.inference_mode()
def next_of_batch(lens: Lens, batch: Batch) -> Tensor:
    """Log-probabilities of the token after each row, fp32 `[batch, d_vocab]`."""
    with evaluating(lens.model):
        resid = lens(batch, stop_at_layer=lens.n_layers)
        rows, last = torch.arange(len(batch)), batch.attention_mask.sum(dim=-1) - 1
        # Logits only where they are read: a vocabulary is wide.
        resid = resid[rows.to(resid.device), last.to(resid.device)]
        return lens.unembed(resid).float().log_softmax(dim=-1)


def divergence(plain: Tensor, changed: Tensor) -> Tensor:
    """KL(plain ‖ changed) of log-probabilities `[..., d_vocab]`, in nats, `[...]`, never below 0.

    Example:
        >>> divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(0.1438)
    """
    return (plain.exp() * (plain - changed)).sum(dim=-1).clamp_min(0)


def shifts(
    tokenizer: Any, before: Tensor, after: Tensor, k: int
) -> tuple[tuple[TokenShift, ...], tuple[TokenShift, ...]]:
    """The at most `k` tokens whose probability rises most, and those whose falls most.

    Args:
        tokenizer: A Hugging Face tokenizer, which says what the tokens are.
        before, after: Probabilities, `[d_vocab]`.
    """
    words = min(len(tokenizer), len(before))
    before, after = before[:words], after[:words]

    def largest(sign: int) -> tuple[TokenShift, ...]:
        found = (sign * (after - before)).topk(min(k, words)).indices
        rows = zip(found.tolist(), before[found].tolist(), after[found].tolist(), strict=True)
        moved = (TokenShift(token_string(tokenizer, token), p, q) for token, p, q in rows)
        return tuple(one for one in moved if sign * one.change > 0)

    return largest(1), largest(-1)
