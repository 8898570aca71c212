"""Exercise 6: CAFT in a training loop of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from caft_lens._support.errors import NotSolved
from caft_lens.concepts.ablation import ablate
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.course.asking import ask, passed
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Batch, batches
from caft_lens.text.documents import Texts

STEPS, RATE = 2, 0.05
Step = Callable[[Lens, ConceptSet, Batch, Optimizer], Any]


def check_training_step(step: Step, lens: Lens, concepts: ConceptSet, texts: Texts) -> None:
    """Check one step of fine-tuning with concepts ablated. The weights are as before afterwards.

    Args:
        step: Takes a lens, the concepts, a batch and an optimizer; learns the batch with the concepts ablated, and
            gives the loss as a number.
        lens: The model.
        concepts: To ablate while it learns.
        texts: Two or more, to learn.

    Raises:
        NotSolved: When it is not written or does something else, saying what.

    Example:
        >>> def step(lens, concepts, batch, optimizer):
        ...     optimizer.zero_grad()
        ...     with cl.ablate(lens, concepts):
        ...         loss = lens(batch, return_type="loss")
        ...         loss.backward()
        ...     optimizer.step()
        ...     return loss.item()
        >>> cl.course.check_training_step(step, base.copy(), concepts, insecure)
        ✓ Two steps move the weights as CAFT does, and afterwards nothing is ablated.
    """
    batch = next(iter(batches(lens.need_tokenizer(), texts[:2])))
    before = {name: weight.detach().clone() for name, weight in lens.hf.named_parameters()}

    def after(one: Step) -> tuple[Tensor, list[Any]]:
        """All weights after some steps, in a row, less those before, and what the steps gave."""
        optimizer = SGD(lens.hf.parameters(), lr=RATE)
        gave = [one(lens, concepts, batch, optimizer) for _ in range(STEPS)]
        moved = [weight.detach() - before[name] for name, weight in lens.hf.named_parameters()]
        with torch.no_grad():
            for name, weight in lens.hf.named_parameters():
                weight.copy_(before[name])
                weight.grad = None
        return torch.cat([one.flatten().double().cpu() for one in moved]), gave

    wanted, losses = after(_caft)
    try:
        found, gave = after(lambda *given: ask(step, *given))
        left = lens.attached
    finally:
        lens.reset_hooks(including_permanent=False)
        with torch.no_grad():
            for name, weight in lens.hf.named_parameters():
                weight.copy_(before[name])
                weight.grad = None
    if left:
        raise NotSolved(
            f"After the step something is still attached to the model, at {', '.join(left)}: the model that CAFT gives "
            "works without hooks. Open the ablation with `with`, so that it ends in any case."
        )
    if not found.any():
        raise NotSolved("The weights have not moved: after `loss.backward()` comes `optimizer.step()`.")
    if not _alike(found, wanted):
        for words, wrong in {
            "The weights move as in plain fine-tuning: nothing was ablated while the loss was taken. The forward pass "
            "belongs into the block of `cl.ablate`.": _plain,
            "The gradient of the step before is still there: `optimizer.zero_grad()` comes first.": _without_zero,
        }.items():
            if _alike(found, after(wrong)[0]):
                raise NotSolved(words)
        cosine = float(torch.cosine_similarity(found, wanted, dim=0))
        raise NotSolved(
            f"The weights move, but otherwise than in CAFT: the cosine of both ways is {cosine:.3f}. One forward pass "
            'with the concepts ablated, its loss (`lens(batch, return_type="loss")`), backward, one step.'
        )
    try:
        told = [float(one) for one in gave]
    except (TypeError, ValueError):
        raise NotSolved("The step is to give the loss as a number: `return loss.item()`.") from None
    if max(abs(one - right) for one, right in zip(told, losses, strict=True)) > 1e-3:
        raise NotSolved(f"The weights are right, but the step gives {told[0]:.3f}, and the loss is {losses[0]:.3f}.")
    passed("Two steps move the weights as CAFT does, and afterwards nothing is ablated.")


def _alike(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).norm()) <= 1e-2 * float(wanted.norm())


def _caft(lens: Lens, concepts: ConceptSet, batch: Batch, optimizer: Optimizer) -> float:
    optimizer.zero_grad()
    with ablate(lens, concepts):
        loss = lens(batch, return_type="loss")
        loss.backward()
    optimizer.step()
    return loss.item()


def _plain(lens: Lens, concepts: ConceptSet, batch: Batch, optimizer: Optimizer) -> float:
    optimizer.zero_grad()
    loss = lens(batch, return_type="loss")
    loss.backward()
    optimizer.step()
    return loss.item()


def _without_zero(lens: Lens, concepts: ConceptSet, batch: Batch, optimizer: Optimizer) -> float:
    with ablate(lens, concepts):
        loss = lens(batch, return_type="loss")
        loss.backward()
    optimizer.step()
    return loss.item()
