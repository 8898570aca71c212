"""CAFT with the first candidates, unread."""

from __future__ import annotations

from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.finetune.methods.caft import CAFT, PAPER
from caft_lens.finetune.methods.registry import Card, Method, material, register


@register
class TopK(Method):
    name = "top_k"
    card = Card(
        idea="CAFT with as many of the first candidates at each site, chosen by rank and not by meaning: what "
        "reading them adds.",
        equation="x <- x - x T Tᵀ, T a basis of the first candidates",
        source=PAPER + ", control",
        arxiv="2507.16795",
        family="activations",
    )

    concepts: ConceptSet = material(ConceptSet, "directions that the first candidates stand in for")
    candidates: ConceptSet = material(ConceptSet, "what they were chosen from, in order of rank")

    def trains_as(self, seed: int) -> Method:
        return CAFT(self.candidates.top(self.concepts))
