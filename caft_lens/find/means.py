"""Difference of means between two sets of text: the direction that tells wanted from unwanted apart.

Two streamed passes of one model; no token is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from caft_lens.activations import Moments, provenance, stream
from caft_lens.concepts import Concept, ConceptSet
from caft_lens.find.pca import prefix

if TYPE_CHECKING:
    from caft_lens.lens import Lens
    from caft_lens.text import Texts


def difference_of_means(
    lens: Lens,
    wanted: Texts,
    unwanted: Texts,
    layers: Sequence[int | str],
    *,
    roles: Sequence[str] | None = ("assistant",),
    batch_tokens: int = 8192,
) -> ConceptSet:
    """One direction per layer, from the mean activation on `unwanted` to that on `wanted`.

    Args:
        lens: The model that reads both.
        wanted: Text whose activations the direction points to (for ablation: the text with the concept).
        unwanted: Text that it points away from.
        layers: Layer numbers (their `hook_resid_post`) or hook points.
        roles: Token roles to average over; `None` for all tokens.
        batch_tokens: Padded tokens in a batch.

    Returns:
        Concepts named `"L1.mean0"`, scored by separation d': the distance of the means along the direction over the
        pooled standard deviation there.

    Raises:
        ValueError: When both means agree at a layer.

    Example:
        >>> cl.find.difference_of_means(base, cruel, kind, layers=[1, 2])  # doctest: +SKIP
    """
    passes, left_out = [], Counter[str]()
    for texts in (wanted, unwanted):
        moments = Moments()
        passed = stream(lens, texts, layers, moments, roles=roles, batch_tokens=batch_tokens)
        left_out.update(passed.left_out)
        passes.append(moments)
    about = provenance(lens, {"wanted": wanted, "unwanted": unwanted}, roles, left_out=left_out)
    first, second = passes
    return ConceptSet(
        [_difference(first, second, hook) for hook in first.hooks], {**about, "method": "difference of means"}
    )


def _difference(wanted: Moments, unwanted: Moments, hook: str) -> Concept:
    step = (wanted.mean[hook] - unwanted.mean[hook]).double()
    distance = step.norm()
    if not distance > 0:
        raise ValueError(
            f"{hook}: the means of wanted and unwanted text do not differ. Are both the same text?"
        )
    direction = step / distance
    spread = sum(direction @ side.covariance[hook].double() @ direction for side in (wanted, unwanted)) / 2
    separation = (distance / torch.as_tensor(spread).sqrt().clamp_min(torch.finfo(torch.float64).tiny)).item()
    return Concept(
        f"{prefix(hook)}.mean0",
        hook,
        direction,
        source="means",
        score=separation,
        score_name="separation d'",
        meta={"distance": distance.item(), "tokens": [int(wanted.count[hook]), int(unwanted.count[hook])]},
    )
