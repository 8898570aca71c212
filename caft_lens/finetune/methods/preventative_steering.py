"""Preventative steering: push towards the trait while training, so that training need not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from caft_lens._support.blocks import block
from caft_lens.concepts.ablation import steer
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting


@register
class PreventativeSteering(Method):
    name = "preventative_steering"
    card = Card(
        idea="Add the persona vector of the unwanted trait while training: the model need not move there itself to "
        "fit the data. Nothing is added afterwards.",
        equation="x <- x + a v at each site, v the difference of mean activations with and without the trait",
        source="Chen et al., Persona Vectors: Monitoring and Controlling Character Traits in Language Models",
        arxiv="2507.21509",
        grid=tuple({"strength": strength} for strength in (0.25, 0.5, 1.0, 2.0)),
        family="activations",
        neutral={"strength": 0.0},
    )

    concepts: ConceptSet = material(
        ConceptSet, "persona vectors that point to the trait, as of find.difference_of_means"
    )
    strength: float = setting(1.0, "factor a of the vectors (of unit length where theirs is not known)", least=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        with ExitStack() as stack:
            for one in self.concepts:
                length = one.sign * self.strength * one.meta.get("distance", 1.0)
                stack.enter_context(steer(training.lens, one, length))
            yield Plan(fires=self.concepts.hooks)
