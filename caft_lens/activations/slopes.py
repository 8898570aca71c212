"""Activations, and the slope of an outcome along them: a forward and a backward pass for each batch.

The outcome is the log-probability of what training would learn, or how far one answer is ahead of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from caft_lens._support.errors import BadData
from caft_lens.model.architectures import evaluating
from caft_lens.text.batching import Batch

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@dataclass
class Sloped:
    """One batch.

    Attributes:
        batch: The batch, on the CPU.
        outcomes: Value of each outcome, fp32 `[n_outcomes]`, on the CPU.
        rows: The text of each in the batch, long `[n_outcomes]`.
        tokens: How many tokens have one of the wanted roles.
        where: By hook name, which of these are no attention sinks, bool `[batch, pos]`, on the CPU.
        acts: Activations by hook name, `[batch, pos, d_model]`, on the device of their layer.
        slopes: Likewise, the slope of the sum of the outcomes along them.
        gradients: Likewise, along each of the parameters that were given.
    """

    batch: Batch
    outcomes: Tensor
    rows: Tensor
    tokens: int
    where: dict[str, Tensor] = field(default_factory=dict)
    acts: dict[str, Tensor] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)
    gradients: list[Tensor] = field(default_factory=list)

    def left_out(self, hook: str) -> int:
        """How many of the wanted tokens are attention sinks at a hook point."""
        return self.tokens - int(self.where[hook].sum())

    def by_text(self, hook: str) -> Tensor:
        """The slope summed over the tokens of each text that count, fp32 `[batch, d_model]`, on the CPU."""
        slopes = self.slopes[hook]
        return (slopes.float() * self.where[hook].to(slopes.device)[..., None]).sum(dim=1).cpu()


def sloped(
    lens: Lens,
    batches: Iterable[Batch],
    hooks: Sequence[str],
    roles: Sequence[str] | None,
    *,
    contrasts: Tensor | None = None,
    parameters: Sequence[nn.Parameter] = (),
) -> Iterator[Sloped]:
    """Run batches forward and backward; what has nothing to learn is not run.

    Args:
        lens: The model. Hooks that are attached act.
        batches: Of tokens that it knows.
        hooks: Full names, as `hook_names` gives them; nothing before the first of them takes part in the backward pass.
        roles: Roles of the tokens that count; `None` for all that are not padding.
        contrasts: For each text of the pass a position, the token that is right there and one that is not, long
            `[n_texts, 3]`: the outcome is then how far the one's logit is above the other's. Without it the outcomes
            are the log-probabilities of all tokens that training would learn.
        parameters: What slopes are wanted along besides, such as those of an adapter; they take part in the pass.

    Raises:
        BadData: When there was nothing to learn in any text, or no token of these roles.
    """
    sinks, seen, tokens = lens.sinks, 0, 0
    with evaluating(lens.model):
        for batch in batches:
            rows, before, better, worse = _places(batch, contrasts)
            if len(rows) == 0:
                continue
            found = _backward(lens, batch, hooks, (rows, before, better, worse), parameters)
            wanted = batch.mask(roles)
            found.tokens = int(wanted.sum())
            seen, tokens = seen + len(rows), tokens + found.tokens
            for hook, acts in found.acts.items():
                out = sinks.among(hook, acts, batch)
                found.where[hook] = wanted if out is None else wanted & ~out
            yield found
    if seen == 0:
        raise BadData("Nothing to attribute: no text has an answer, or any text that training would learn.")
    if tokens == 0:
        raise BadData(f"Nothing to attribute to: no token has a role of {list(roles or ())}.")


def _places(batch: Batch, contrasts: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Where outcomes are read off: rows, positions before the token in question, that token, and the one against it."""
    if contrasts is not None:
        position, better, worse = contrasts[batch.index].unbind(dim=1)
        return torch.arange(len(batch)), position - 1, better, worse
    counts = batch.loss[:, 1:] & batch.attention_mask[:, :-1].bool() & batch.attention_mask[:, 1:].bool()
    rows, before = counts.nonzero(as_tuple=True)
    return rows, before, batch.input_ids[rows, before + 1], None


def _backward(
    lens: Lens,
    batch: Batch,
    hooks: Sequence[str],
    places: tuple[Tensor, Tensor, Tensor, Tensor | None],
    parameters: Sequence[nn.Parameter],
) -> Sloped:
    rows, before, better, worse = places
    kept: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any) -> Tensor:
        # Nothing before the first of the hook points takes part in the backward pass.
        kept[hook.name] = activation if activation.requires_grad else activation.detach().requires_grad_()
        return kept[hook.name]

    with torch.enable_grad(), lens.hooks([(hook, keep) for hook in hooks]):
        resid = lens(batch, stop_at_layer=lens.n_layers)
        # Logits only where an outcome is read: a vocabulary is wide.
        logits = lens.unembed(resid[rows.to(resid.device), before.to(resid.device)]).float()
        if worse is None:
            logits = logits.log_softmax(dim=-1)
        outcome = logits.gather(1, better.to(logits.device)[:, None])
        if worse is not None:
            outcome = outcome - logits.gather(1, worse.to(logits.device)[:, None])
        slopes = torch.autograd.grad(outcome.sum(), [*kept.values(), *parameters])
    return Sloped(
        batch,
        outcome.detach()[:, 0].cpu(),
        rows,
        tokens=0,
        acts={hook: acts.detach() for hook, acts in kept.items()},
        slopes=dict(zip(kept, slopes, strict=False)),
        gradients=list(slopes[len(kept) :]),
    )
