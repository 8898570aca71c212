"""SPLINCE: ablation that keeps what the task needs exactly, for concepts that are entangled with it."""

from __future__ import annotations

from torch import Tensor

from caft_lens._support.errors import BadArgument
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.finetune.methods.leace import GRID, LEACE
from caft_lens.finetune.methods.registry import Card, material, register
from caft_lens.model.lens import Lens


@register
class Splince(LEACE):
    name = "splince"
    card = Card(
        idea="Erase the directions as LEACE does, but by a projection that leaves the directions of the intended task "
        "exactly as they are: ablating a concept that is entangled with the task takes none of the task along.",
        equation="x <- x - s (x - m) R Lᵀ, L a basis of the directions D to erase, R of what Σ⁻¹ D and Σ⁻¹ K span and "
        "K does not touch (Rᵀ K = 0, Rᵀ L = 1), K the directions to keep",
        source="Holstege et al., Preserving Task-Relevant Information Under Linear Concept Removal (there, once it is "
        "trained, with D = Cov(x, concept) and K = Cov(x, task))",
        arxiv="2506.10703",
        grid=GRID,
        family="activations",
        cost="a pass of the base over general text; a projection at each site",
    )

    keep: ConceptSet = material(ConceptSet, "directions of the intended task, at the same sites: differences of means")

    def check(self, lens: Lens, tune: str) -> None:
        super().check(lens, tune)
        if missing := [hook for hook in self.concepts.hooks if hook not in self.keep.hooks]:
            raise BadArgument(
                f'The method "splince" keeps directions at each site that it erases at, and keep= has none at '
                f"{', '.join(missing)}."
            )

    def kept(self, hook: str) -> Tensor | None:
        return self.keep.basis(hook)
