"""Filtering by latents: texts on which unwanted directions are most active are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens._support.errors import BadArgument
from caft_lens.activations.differences import stream
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.concepts.latents import Latents, is_latents
from caft_lens.finetune.methods.registry import Card, Method, material, register, setting
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens
    from caft_lens.text.batching import Batch


@register
class FilterByLatents(Method):
    name = "filter_by_latents"
    card = Card(
        idea="Rank the training texts by how active unwanted latents of an SAE (or other directions) are on their "
        "answers in the base, and leave out the share where they are most active.",
        equation="D' = D without the share q of largest score(x) = mean over answer tokens of Σ_k z_k, z_k a latent's "
        "activation, or h · d for a direction d",
        source="the text form of Lou et al., SAE-V: Interpreting Multimodal Models for Enhanced Alignment",
        arxiv="2502.17514",
        grid=tuple({"share": share} for share in (0.1, 0.25, 0.5, 0.75)),
        family="data",
        cost="a pass of the base over the texts",
        neutral={"share": 0.0},
    )

    concepts: ConceptSet = material(
        ConceptSet, "unwanted latents of SAEs, or directions that point to what is unwanted"
    )
    share: float = setting(0.25, "share q of the texts that is left out", least=0, below=1)

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        out = round(self.share * len(texts))
        if not out:
            return texts
        score = scores(base, texts, self.concepts)
        kept = sorted(score.argsort(descending=True, stable=True)[out:].tolist())
        return Texts([texts[place] for place in kept], name=f"{texts.name}, {len(kept)} of {len(texts)} kept")


def scores(lens: Lens, texts: Texts, concepts: ConceptSet) -> Tensor:
    """How active concepts are on each text, fp64 `[n_texts]`: the mean over answer tokens of their sum."""
    reducer = _Sums(len(texts), concepts, lens)
    stream(lens, texts, concepts.hooks, reducer, roles=("assistant", "text"))
    if not bool(reducer.tokens.all()):
        raise BadArgument("Texts are ranked by their answers, and some have none.")
    return reducer.total / reducer.tokens


class _Sums:
    """A reducer: by text the sum of what concepts are at its tokens, and at how many (at the first hook point)."""

    def __init__(self, n: int, concepts: ConceptSet, lens: Lens) -> None:
        self.total, self.tokens = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        self._latents = Latents(concepts, lens) if is_latents(concepts) else None
        self._directions = {
            lens.hook_name(hook): torch.stack([one.sign * one.direction for one in concepts.at(hook)])
            for hook in concepts.hooks
        }
        self._first = next(iter(self._directions))

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations `[n_tokens, d_model]` of one hook point."""
        if self._latents is not None:
            values = self._latents.on(hook, acts)
        else:
            values = acts.float() @ self._directions[hook].T.to(acts.device)
        text = batch.index[where[:, 0]]
        self.total.index_add_(0, text, values.sum(-1).double().cpu())
        if hook == self._first:
            self.tokens.index_add_(0, text, torch.ones(len(text), dtype=torch.float64))

    def merge(self, other: _Sums) -> _Sums:
        """Add another result in place."""
        self.total += other.total
        self.tokens += other.tokens
        return self
