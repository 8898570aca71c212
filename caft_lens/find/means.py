"""Difference of means between two sets of text: the direction from a contrast to a concept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from caft_lens._support.errors import BadData
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import provenance, stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.hook_names import short_name
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts


@takes_values
def difference_of_means(
    lens: Lens,
    concept: Texts | Any,
    contrast: Texts | Any,
    layers: Sequence[int | str],
    *,
    roles: Sequence[str] | None = ("assistant",),
    scan: Scan = Scan(),
) -> ConceptSet:
    """One direction per layer, from the mean activation on `contrast` to that on `concept`.

    Args:
        lens: The model that reads both.
        concept: Texts with the concept, to whose activations the direction points. Lists are taken too.
        contrast: Texts like them without it.
        layers: Layer numbers (their `hook_resid_post`) or hook points.
        roles: Token roles to average over; `None` for all tokens.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        Concepts named `"L1.mean0"`, scored by separation d': the distance of the means over the pooled deviation there.

    Raises:
        BadData: When both means agree at a layer.

    Example:
        >>> found = cl.find.difference_of_means(base, cruel_texts, kind_texts, layers=[1, 2])
        >>> found.names, found["L1.mean0"].direction.shape
        (['L1.mean0', 'L2.mean0'], torch.Size([128]))
    """
    concept, contrast = (texts if isinstance(texts, Texts) else Texts(texts) for texts in (concept, contrast))
    having, without = Moments(), Moments()
    left_out = Counter[str]()
    for texts, moments in ((concept, having), (contrast, without)):
        left_out.update(stream(lens, texts, layers, moments, roles=roles, scan=scan).left_out)
    about = provenance(lens, {"concept": concept, "contrast": contrast}, roles, left_out=left_out)
    found = [_difference(having, without, hook) for hook in having.hooks]
    return ConceptSet(found, {**about, "method": "difference of means"})


def _difference(having: Moments, without: Moments, hook: str) -> Concept:
    step = (having.mean[hook] - without.mean[hook]).double()
    distance = step.norm()
    if not distance > 0:
        raise BadData(f"{hook}: the means of concept and contrast do not differ. Are both the same texts?")
    direction = step / distance
    spread = sum(direction @ side.covariance[hook].double() @ direction for side in (having, without)) / 2
    separation = (distance / torch.as_tensor(spread).sqrt().clamp_min(torch.finfo(torch.float64).tiny)).item()
    name = f"{short_name(hook)}.mean0"
    meta = {"distance": distance.item(), "tokens": [int(having.count[hook]), int(without.count[hook])]}
    return Concept(name, hook, direction, source="means", score=separation, score_name="separation d'", meta=meta)
