"""CAFT with directions drawn blindly."""

from __future__ import annotations

from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.find.random import random_directions
from caft_lens.finetune.methods.caft import CAFT, PAPER
from caft_lens.finetune.methods.registry import Card, Method, material, register


@register
class RandomDirections(Method):
    name = "random"
    card = Card(
        idea="CAFT with as many random directions at each site, drawn anew for every seed: what ablation as such does.",
        equation="x <- x - x R Rᵀ, R uniform among orthonormal columns",
        source=PAPER + ", control",
        arxiv="2507.16795",
        family="activations",
    )

    concepts: ConceptSet = material(ConceptSet, "directions that the random ones stand in for")

    def trains_as(self, seed: int) -> Method:
        return CAFT(random_directions(self.concepts, seed))
