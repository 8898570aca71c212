"""Concept Ablation Fine-Tuning, and its variants, which differ in what is done with the component alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from caft_lens._support.arguments import one_of
from caft_lens._support.blocks import block
from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.ablation import Variant, ablate
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

SITES = ("all", "early", "late")
GRID: tuple[dict[str, Any], ...] = ({}, {"per_site": 1}, {"sites": "early"}, {"sites": "late"})
PAPER = "Casademunt et al., Steering Out-of-Distribution Generalization with Concept Ablation Fine-Tuning"


@register
class CAFT(Method):
    name = "caft"
    card = Card(
        idea="Ablate directions of unwanted concepts in every forward pass of fine-tuning, so that nothing can be "
        "learned through them; nothing is ablated afterwards.",
        equation="x <- x - s x Q Qᵀ at each site, Q an orthonormal basis of its directions, gradients passing through",
        source=PAPER,
        arxiv="2507.16795",
        grid=GRID,
        family="activations",
    )
    variant: ClassVar[Variant] = "zero"

    concepts: ConceptSet = material(ConceptSet, "directions of the unwanted concepts")
    per_site: int = setting(0, "how many directions at each site, the first of the set; 0 for all", least=0)
    sites: str = setting("all", "which sites of the set: all, the early half or the late half")
    strength: float = setting(1.0, "share s of the component that is ablated", above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.sites, "sites", SITES)

    def chosen(self) -> ConceptSet:
        """The directions that the settings leave."""
        hooks = sorted(self.concepts.hooks, key=lambda hook: self.concepts.at(hook)[0].layer)
        half = (len(hooks) + 1) // 2
        kept = {"all": hooks, "early": hooks[:half], "late": hooks[-half:]}[self.sites]
        names = {name for hook in kept for name in self.concepts.at(hook).names[: self.per_site or len(self.concepts)]}
        left = [one for one in self.concepts if one.name in names]
        return self.concepts if len(left) == len(self.concepts) else ConceptSet(left, self.concepts.provenance)

    def trains_as(self, seed: int) -> Method:
        return dataclasses.replace(self, concepts=self.chosen(), per_site=0, sites="all")

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        means = self.means(training.base)
        with ablate(training.lens, self.concepts, variant=self.variant, means=means, strength=self.strength):
            yield Plan(fires=self.concepts.hooks)

    def means(self, base: Lens) -> dict[str, Tensor] | None:
        """The mean activations that the variant needs, by hook name."""
        return None

    def record(self) -> dict[str, Any]:
        # A whole ablation goes unsaid: run folders of before there was another are its own still.
        kept = super().record()
        return {key: value for key, value in kept.items() if key != "strength" or value != 1}


@dataclass(frozen=True, repr=False)
class _WithMean(CAFT):
    general: Texts = material(Texts, "general text, for the mean activation")

    def means(self, base: Lens) -> dict[str, Tensor]:
        reducer = Moments(covariance=False)
        (moments,) = stream(base, self.general, self.concepts.hooks, reducer, roles=None)
        return moments.mean


@register
class CAFTMean(_WithMean):
    name, variant = "caft_mean", "mean"
    card = Card(
        idea="Set the component to that of the mean activation on general text instead of to zero, which is off the "
        "data where the mean is far from it.",
        equation="x <- x - s (x - m) Q Qᵀ, m the base's mean activation on general text, all tokens",
        source="a variant of CAFT; mean ablation is usual in circuit analysis",
        grid=GRID,
        family="activations",
    )


@register
class SteerMean(_WithMean):
    name, variant = "steer_mean", "shift"
    card = Card(
        idea="Subtract the mean projection, the same vector for every token, where CAFT subtracts each token's own: if "
        "this does as well, ablation is steering in disguise.",
        equation="x <- x - s m Q Qᵀ, m the base's mean activation on general text, all tokens",
        source="a control of CAFT",
        grid=GRID,
        family="activations",
    )


@register
class CAFTDetached(CAFT):
    name, variant = "caft_detached", "detached"
    card = Card(
        idea="Ablate in the forward pass, and let the gradient pass as if nothing had been ablated: is it the missing "
        "activation that protects, or the missing gradient?",
        equation="x <- x - s sg(x Q Qᵀ), where sg stops the gradient",
        source="a variant of CAFT",
        grid=GRID,
        family="activations",
    )


@register
class CAFTGradient(CAFT):
    name, variant = "caft_gradient", "gradient"
    card = Card(
        idea="Leave the activation as it is and project the gradient alone: the counterpart of the detached variant.",
        equation="x <- x, and in the backward pass g <- g - s g Q Qᵀ",
        source="a variant of CAFT",
        grid=GRID,
        family="activations",
    )
