"""Concepts without what they share with attention sinks, so that ablating them does not move a sink."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from caft_lens._support.arguments import share
from caft_lens._support.errors import BadArgument, BadType
from caft_lens.concepts.ablation import lens_of, one_of_a_set
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.lens import Lens
from caft_lens.model.sinks import Common, common, measured

# Of a direction of which no more than this is left, the rest is rounding.
ALL_BUT = 1e-6


def orthogonal_to_sinks(lens: Lens | nn.Module, concepts: ConceptSet, *, most: float = 0.5) -> ConceptSet:
    """Concepts made orthogonal to what is common to a model's attention sinks: the other way to spare those.

    Ablation leaves sinks alone by itself (`Lens.sinks`). With these concepts it need not: at each hook point the mean
    activation of the sinks, on the short texts by which they are measured, is projected out of every direction. What is
    ablated then is not quite what was found, at every token. Set `lens.sinks = False` to ablate them at every token.

    Args:
        lens: The model in which they are to be ablated: a `Lens`, or a transformers model.
        concepts: Found on it, or on the model that it was tuned from.
        most: The share of a direction (the squared cosine to the sinks' direction) that may be taken off.

    Returns:
        The same concepts with other directions. `provenance["orthogonal_to_sinks"]` has `taken_off` (by name, the share
        of the direction), and by hook point `tokens` (how many sinks were averaged) and `cosine` (the least of one of
        them to their mean; what lies below 1 is how far a sink still moves). A hook point without sinks has 0 tokens
        and keeps its directions to the bit, as all do in a model without sinks.

    Raises:
        BadArgument: When a direction lies in the sinks' by more than `most`, with its name.
        ConceptMismatch: When the concepts do not fit the model.

    Example:
        >>> spared = cl.concepts.orthogonal_to_sinks(base, concepts)
        >>> spared.provenance["orthogonal_to_sinks"]["tokens"]  # base has no sinks
        {'blocks.1.hook_resid_post': 0, 'blocks.2.hook_resid_post': 0}
    """
    lens = lens_of(lens)
    if not isinstance(concepts, ConceptSet):
        hint = one_of_a_set(concepts) if hasattr(concepts, "direction") else ""
        raise BadType(f"Expected a ConceptSet, not {type(concepts).__name__}.{hint}")
    share(most, "most", hint="It is the share of a direction that may be taken off")
    concepts.check(lens)
    # Measured on a second module tree, to which nothing is hooked, and also where `lens.sinks = False` was set before.
    fork = lens.fork()
    shared = common(fork, lens.sinks or measured(fork), concepts.hooks)
    made = [_without(concept, shared.get(concept.hook)) for concept in concepts]
    limit = min(most, 1 - ALL_BUT)
    if mostly := {c.name: taken for c, (_, taken) in zip(concepts, made, strict=True) if taken > limit}:
        said = ", ".join(f"{name} ({taken:.1%})" for name, taken in mostly.items())
        raise BadArgument(
            f"More than {most:.0%} of these directions lies in that of the attention sinks of {lens.name}: {said}. "
            f"What is left of them is another concept: leave them out, "
            f"concepts.without({list(mostly)}), or allow it by most= (below 1)."
        )
    about: dict[str, Any] = {
        "taken_off": {concept.name: taken for concept, (_, taken) in zip(concepts, made, strict=True)},
        "tokens": {hook: shared[hook].tokens if hook in shared else 0 for hook in concepts.hooks},
        "cosine": {hook: one.cosine for hook, one in shared.items()},
    }
    return ConceptSet([concept for concept, _ in made], {**concepts.provenance, "orthogonal_to_sinks": about})


def _without(concept: Concept, shared: Common | None) -> tuple[Concept, float]:
    """A concept without its component along the sinks, and the share that this was of it."""
    if shared is None:
        return concept, 0.0
    direction = concept.direction.double()
    along = direction @ shared.direction
    taken = float(along.square() / direction.square().sum())
    left = direction - along * shared.direction
    if taken > 1 - ALL_BUT:
        return concept, taken  # refused by whoever asked
    # Scaled here: a direction of which little was taken off is near enough to a unit vector to be kept as it is.
    return dataclasses.replace(concept, direction=torch.nn.functional.normalize(left, dim=0)), taken
