"""Raw neurons: the coordinates of the residual stream, the baseline that looks for no direction at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadData
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.hook_names import short_name

if TYPE_CHECKING:
    from caft_lens.activations.moments import Moments


def neurons(diff: Moments, k: int = 10) -> ConceptSet:
    """The `k` coordinates at every hook point of `diff` whose mean activation fine-tuning changed most.

    Coordinates are counted from 0 and named `"L1.neuron17"`.

    Args:
        diff: Moments of activation differences, from `activation_difference`, at any number of hook points.
        k: How many at each.

    Returns:
        Concepts along the axes, pointing to where the mean went, scored by the size of its change.

    Raises:
        ValueError: When `k` coordinates that changed do not exist.

    Example:
        >>> from caft_lens.activations.differences import Moments
        >>> diff = Moments()
        >>> diff.update("blocks.1.hook_resid_post", torch.tensor([[1.0, -5.0, 0.0], [1.0, -3.0, 0.5]]))
        >>> neurons(diff, k=2)[0].name, neurons(diff, k=2)[0].direction.tolist()
        ('L1.neuron1', [0.0, -1.0, 0.0])
    """
    count(k, "k")
    concepts = [concept for hook in diff.hooks for concept in _largest(diff, hook, k)]
    return ConceptSet(concepts, {**diff.provenance, "method": "neurons", "k": k})


def _largest(diff: Moments, hook: str, k: int) -> list[Concept]:
    change = diff.mean[hook].double()
    changed = int((change != 0).sum())
    if changed < k:
        raise BadData(f"{hook}: the mean changed along {changed} of {len(change)} coordinates, not {k}.")
    order = change.abs().sort(descending=True, stable=True).indices[:k].tolist()
    axes = torch.diag(change.sign())
    return [
        Concept(
            name=f"{short_name(hook)}.neuron{place}",
            hook=hook,
            direction=axes[place],
            source="neurons",
            rank=rank,
            score=float(change[place].abs()),
            score_name="change of mean activation",
            meta={"coordinate": place, "tokens": int(diff.count[hook])},
        )
        for rank, place in enumerate(order)
    ]
