"""Random directions: as many as were chosen, drawn blindly, show how much an effect owes to ablation as such."""

from __future__ import annotations

import torch

from caft_lens._support.errors import BadArgument
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.hook_names import short_name


def random_directions(like: ConceptSet, seed: int) -> ConceptSet:
    """Random orthonormal directions, as many per hook point as `like` has.

    Args:
        like: The set that they stand in for; width, hook points and the model's stamp are taken from it.
        seed: Of the draw.

    Returns:
        Concepts named `"L1.random0"`, ….

    Raises:
        BadArgument: When a hook point holds more concepts than the model is wide.

    Example:
        >>> chosen = ConceptSet([Concept("L1.pc0", "blocks.1.hook_resid_post", torch.ones(4))])
        >>> random_directions(chosen, seed=0).names
        ['L1.random0']
    """
    generator = torch.Generator().manual_seed(seed)
    concepts = []
    for hook in like.hooks:
        k, width = like.directions(hook).shape
        if k > width:
            raise BadArgument(f"{hook}: {k} concepts, but only {width} directions can be orthogonal.")
        columns, corner = torch.linalg.qr(torch.randn(width, k, generator=generator, dtype=torch.float64))
        columns = columns * corner.diagonal().sign()  # LAPACK fixes signs in its own way, which is not uniform
        for rank in range(k):
            name = f"{short_name(hook)}.random{rank}"
            concepts.append(Concept(name, hook, columns[:, rank], source="random", rank=rank, meta={"seed": seed}))
    stamp = {k: v for k, v in like.provenance.items() if k in ("model", "fingerprint", "reading", "d_model")}
    return ConceptSet(concepts, {**stamp, "method": "random", "seed": seed, "like": like.names})
