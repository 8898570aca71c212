"""GOT-D: general texts that pull what the model knows towards the task are learned before it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens._support.errors import NotInstalled
from caft_lens.finetune.embeddings import embeddings
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.finetune.stages import stage
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

BLUR = 0.05
"""Weight of the entropy, as a share of the mean cost."""


@register
class GOTD(Method):
    name = "got_d"
    card = Card(
        idea="Tune first on those general texts that bring the distribution of general text nearer to the task's when "
        "there are more of them (by the gradient of the optimal transport distance), then on the task.",
        equation="score(x_i) = f_i - mean of f_j over j ≠ i, f the potential at general texts of the (debiased, "
        "entropic) OT distance between general texts and data, with cost ||e(x) - e(y)||², e(x) the mean last "
        "activation of the base on x; stage 1 on the share q of least score, stage 2 on the data",
        source="Kang et al., Get more for less: Principled Data Selection for Warming Up Fine-Tuning in LLMs",
        arxiv="2405.02774",
        grid=({"steps": 10}, {"steps": 30}, {"steps": 100}, {"steps": 30, "share": 0.5}),
        family="data",
        cost="a pass of the base over data and general texts; the steps of the first stage",
        neutral={"steps": 0},
    )

    general: Texts = material(Texts, "general texts to choose from")
    share: float = setting(0.25, "share q of the general texts that is chosen", above=0, most=1)
    steps: int = setting(30, "steps of the first stage", least=0)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        if self.steps:
            score = transport_gradient(
                embeddings(training.base, self.general), embeddings(training.base, training.texts)
            )
            wanted = max(1, round(self.share * len(self.general)))
            chosen = Texts([self.general[place] for place in score.argsort(stable=True)[:wanted].tolist()])
            encoded = encode_all(training.lens.tokenizer, chosen, max_length=training.max_length)
            stage(training, encoded, steps=self.steps)
        yield Plan()


def transport_gradient(source: Tensor, target: Tensor) -> Tensor:
    """How the optimal transport distance between points changes with more weight on each source point.

    Args:
        source: `[n, d]`.
        target: `[m, d]`.

    Returns:
        fp64 `[n]`, of mean 0: least where more weight brings both nearest; nearly flat where both are the same points.

    Raises:
        NotInstalled: Without the package POT.
    """
    try:
        from ot.bregman import sinkhorn_log
    except ImportError as error:
        raise NotInstalled('The method "got_d" needs the package POT: pip install "caft-lens[transport]".') from error
    scale = float(torch.cdist(source, target).square().mean().clamp_min(1e-12))

    def potentials(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        cost = (torch.cdist(first, second).square() / scale).numpy()
        weights = [np.full(len(points), 1 / len(points)) for points in (first, second)]
        _, found = sinkhorn_log(*weights, cost, BLUR, numItermax=1000, stopThr=1e-6, log=True, warn=False)
        return torch.from_numpy(found["log_u"]), torch.from_numpy(found["log_v"])

    # Less what the points have with themselves: the blur alone would prefer points that stand apart.
    own = potentials(source, source)
    found = BLUR * (potentials(source, target)[0] - (own[0] + own[1]) / 2)
    return (found - found.mean()) * (len(found) / max(1, len(found) - 1))
