"""LEACE: ablation by the projection that changes the data least, instead of the orthogonal one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.oblique import eraser
from caft_lens.finetune.methods.caft import CAFT
from caft_lens.finetune.methods.registry import Card, Plan, Training, material, register, setting
from caft_lens.model.attach import at
from caft_lens.model.hooked import says
from caft_lens.text.documents import Texts

GRID: tuple[dict[str, Any], ...] = ({}, {"ridge": 0.1}, {"sites": "early"}, {"sites": "late"})


@register
class LEACE(CAFT):
    name = "leace"
    card = Card(
        idea="Ablate in every forward pass of fine-tuning by the projection that erases the directions with the least "
        "change of activations as general text has them: a direction along which they spread little costs little.",
        equation="x <- x - s (x - m) R Lᵀ, L a basis of the directions D, R of Σ⁻¹ D with Rᵀ L = 1; m and Σ mean and "
        "covariance of the base's activations on general text, all tokens",
        source="Belrose et al., LEACE: Perfect linear concept erasure in closed form (there, once it is trained)",
        arxiv="2306.03819",
        grid=GRID,
        family="activations",
        cost="a pass of the base over general text; a projection at each site",
    )

    general: Texts = material(Texts, "general text, for mean and covariance of activations")
    ridge: float = setting(1e-3, "added to Σ, as a share of its mean variance; much makes it orthogonal", above=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        moments = Moments()
        stream(training.base, self.general, self.concepts.hooks, moments, roles=None)
        edits = {}
        for hook in self.concepts.hooks:
            of, directions = training.base.hook_name(hook), self.concepts.basis(hook)
            erase = eraser(directions, moments.covariance[of], moments.mean[of], self.kept(hook), self.ridge)
            what = f"{self.name} of {directions.shape[1]} directions"
            edits[hook] = says(partial(erase, strength=self.strength), what)
        with at(training.lens, edits):
            yield Plan(fires=self.concepts.hooks)

    def kept(self, hook: str) -> Tensor | None:
        """Directions `[d_model, l]` that stay as they are at a site."""
        return None
