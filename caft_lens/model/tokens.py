"""What a tensor of tokens needs around it: a mask where padding can be told, roles under a cache, a loss."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import cross_entropy

from caft_lens._support.errors import BadArgument, BadData
from caft_lens.text.roles import ASSISTANT


def infer_attention_mask(tokens: Tensor, tokenizer: Any) -> Tensor:
    """Which tokens are text, where that can be told from the tokens alone.

    Padding to the longest row leaves that row without any. So where the padding token also begins or ends texts (BOS or
    EOS), equally many of it at the edge of every row are text, and anything else could be either.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    is_pad = tokens == pad if pad is not None else torch.zeros_like(tokens, dtype=torch.bool)
    if not is_pad.any():
        return torch.ones_like(tokens)
    left = is_pad.long().cumprod(-1).bool()
    right = is_pad.long().flip(-1).cumprod(-1).flip(-1).bool()
    edge = left | right
    shared = pad in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    if shared and all(len(side.sum(-1).unique()) == 1 for side in (left, right)):
        return torch.ones_like(tokens)
    if shared or bool((is_pad & ~edge).any()) or bool(edge.all(-1).any()):
        why = "also begins or ends texts" if shared else "stands inside a text or fills a whole row"
        raise BadData(
            f"Cannot tell padding from text: the padding token {tokenizer.pad_token!r} {why}. Pass attention_mask= "
            f"[batch, pos] with the tokens, or the texts themselves."
        )
    return (~edge).long()


def roles_in_flight(roles: Tensor, batch: int, past: int, pos: int, growing: bool) -> Tensor:
    """The part of `roles` that a pass over `pos` tokens after `past` cached ones sees."""
    rows, known = roles.shape
    if batch % rows:
        raise BadArgument(f"Roles are given for {rows} rows, but the model runs on {batch}.")
    if known != pos and not past and not growing:
        raise BadArgument(f"Roles are given for {known} tokens a row, but the model runs on {pos}.")
    seen = roles[:, past : past + pos]
    if seen.shape[1] < pos:
        seen = torch.cat([seen, seen.new_full((rows, pos - seen.shape[1]), ASSISTANT)], 1)
    return seen if batch == rows else repeat(seen, "row pos -> (row copy) pos", copy=batch // rows)


def next_token_loss(logits: Tensor, tokens: Tensor, mask: Tensor, learnt: Tensor, *, per_token: bool = False) -> Tensor:
    """Cross-entropy of each next token, in nats and fp32.

    Args:
        logits: [batch, pos, d_vocab].
        tokens: [batch, pos].
        mask: 1 where there is a token, 0 where there is padding, [batch, pos].
        learnt: Which tokens count as targets, [batch, pos].
        per_token: Instead of the mean, [batch, pos - 1], 0 where a token does not count.

    Raises:
        BadData: When no token counts.
    """
    device = logits.device
    counts = (mask[:, :-1].bool() & mask[:, 1:].bool() & learnt[:, 1:].bool()).to(device)
    if not counts.any():
        raise BadData("No token to take a loss on: give texts of two tokens or more, or chats with an answer.")
    targets = tokens[:, 1:].to(device).masked_fill(~counts, -100)
    rows = rearrange(logits[:, :-1].float(), "batch pos d_vocab -> (batch pos) d_vocab")
    losses = cross_entropy(rows, targets.flatten(), ignore_index=-100, reduction="none")
    losses = rearrange(losses, "(batch pos) -> batch pos", batch=len(targets))
    return losses if per_token else losses.sum() / counts.sum()
