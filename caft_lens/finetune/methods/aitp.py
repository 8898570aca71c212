"""AITP: texts that are unlike the data, where the data are thin, are learned beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens.finetune.embeddings import embeddings
from caft_lens.finetune.methods.registry import Card, Method, material, register, setting
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@register
class AITP(Method):
    name = "aitp"
    card = Card(
        idea="Add those general texts that lie where the training data have least density, so that tuning does not "
        "draw the model away from there. The authors rewrite them as questions and answers; here they stay as they "
        "are.",
        equation="D' = D ∪ {the general texts of least density}, a share s of D'; the density is that of a Gaussian "
        "kernel on principal components of e(x) of D, e(x) the mean last activation of the base on x",
        source="Align Instruction Tuning with Pre-training (AITP), without its rewriting",
        arxiv="2501.09368",
        grid=tuple({"share": share} for share in (0.02, 0.05, 0.1, 0.25)),
        family="data",
        cost="a pass of the base over data and general texts; a share of the texts more (not where max_steps is given)",
        neutral={"share": 0.0},
    )

    general: Texts = material(Texts, "general texts to add some of")
    share: float = setting(0.1, "share s of general texts among all", least=0, below=1)
    components: int = setting(8, "principal components that the density is on", least=1)

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        wanted = min(len(self.general), round(len(texts) * self.share / (1 - self.share)))
        if not wanted:
            return texts
        density = densities(embeddings(base, texts), embeddings(base, self.general), self.components)
        added = sorted(density.argsort(stable=True)[:wanted].tolist())
        name = f"{texts.name} with {wanted} of {self.general.name}"
        return Texts([*texts, *(self.general[place] for place in added)], name=name)


def densities(data: Tensor, others: Tensor, components: int) -> Tensor:
    """The log-density of some data at other points, on the data's principal components.

    Args:
        data: `[n, d]`.
        others: `[m, d]`.
        components: How many, at most.

    Returns:
        fp64 `[m]`.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KernelDensity

    pca = PCA(min(components, *data.shape), whiten=True, svd_solver="full").fit(data.numpy())
    kernel = KernelDensity(bandwidth="scott").fit(pca.transform(data.numpy()))
    return torch.from_numpy(kernel.score_samples(pca.transform(others.numpy())))
