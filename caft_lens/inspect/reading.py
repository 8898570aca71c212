"""How concepts are read: a direction by the projection of activations on it, a latent by what its SAE encodes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch
from caft_lens.activations.differences import AtItsHooks, Passed, stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.find.sae import latent_concept, latent_name, saes_by_hook
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text

if TYPE_CHECKING:
    from sae_lens import SAE

# A concept is a latent of an SAE if their directions agree this closely: more than rounding to bfloat16 costs, less
# than any other latent has.
SAME_DIRECTION = 0.9999


@dataclass(frozen=True)
class Reading:
    """How concepts are read: which of them are latents of SAEs, and which are directions.

    Attributes:
        saes: By hook point.
        latents: Name to the hook point and number of each latent.
        directions: The other concepts.
        given: The concepts of a set by name, in order; empty where all latents of SAEs are read.
    """

    saes: Mapping[str, SAE]
    latents: Mapping[str, tuple[str, int]]
    directions: Sequence[Concept] = ()
    given: Mapping[str, Concept] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return list(self.given or self.latents)

    @property
    def numbers(self) -> dict[str, list[int]]:
        """The latents at each hook point of an SAE."""
        numbers: dict[str, list[int]] = {hook: [] for hook in self.saes}
        for hook, latent in self.latents.values():
            numbers[hook].append(latent)
        return numbers

    @property
    def rows(self) -> dict[str, Tensor]:
        """The directions at each hook point, `[n_directions, d_model]`."""
        hooks = dict.fromkeys(concept.hook for concept in self.directions)
        return {hook: torch.stack([one.direction for one in self.directions if one.hook == hook]) for hook in hooks}

    @property
    def row_of(self) -> dict[str, tuple[str, int]]:
        """Name of each direction to its hook point and its row there."""
        seen: dict[str, int] = {}
        rows = {}
        for one in self.directions:
            rows[one.name] = (one.hook, seen.get(one.hook, 0))
            seen[one.hook] = rows[one.name][1] + 1
        return rows

    def only(self, names: Container[str]) -> Reading:
        """How to read some of the concepts."""
        latents = {name: place for name, place in self.latents.items() if name in names}
        hooks = {hook for hook, _ in latents.values()}
        return Reading(
            {hook: one for hook, one in self.saes.items() if hook in hooks},
            latents,
            tuple(one for one in self.directions if one.name in names),
            {name: one for name, one in self.given.items() if name in names},
        )

    def concept(self, name: str, score: float = 0.0, score_name: str = "") -> Concept:
        """One of the concepts; a latent that was not given as one has the direction of its decoder."""
        if name in self.given:
            return self.given[name]
        hook, latent = self.latents[name]
        row = self.saes[hook].W_dec[latent]
        return latent_concept(hook, latent, row, rank=latent, score=score, score_name=score_name)


def reading(lens: Lens, concepts: ConceptSet | SAE | Sequence[SAE], saes: SAE | Sequence[SAE] | None = None) -> Reading:
    """How to read concepts: by latent activation where they are latents of the SAEs, else by projection.

    Args:
        lens: The model that reads.
        concepts: A set; or SAEs, for all their latents.
        saes: SAEs whose latents may be among the concepts of a set.

    Raises:
        BadType: When `concepts` is neither.
        ValueError: When something does not fit the model, or none of the concepts is a latent of `saes`.
    """
    if not isinstance(concepts, ConceptSet):
        several = concepts if isinstance(concepts, (list, tuple)) else [concepts]
        wrong = next((one for one in several if not hasattr(one, "W_dec")), None)
        if wrong is not None:
            raise BadType(
                f"Expected a ConceptSet, an SAE or a list of SAEs, not {type(wrong).__name__}: `load_sae` gives SAEs, "
                "`ConceptSet([...])` makes a set."
            )
        if saes is not None:
            raise BadArgument("saes= goes with a ConceptSet; all latents of SAEs are read without it.")
        at = saes_by_hook(several, lens)
        return Reading(at, every_latent(at))
    concepts.check(lens)
    at = {} if saes is None else saes_by_hook(saes, lens)
    latents = {one.name: (one.hook, one.meta["latent"]) for one in concepts if _is_latent(one, at)}
    if at and not latents:
        raise ConceptMismatch(
            f"None of the {len(concepts)} concepts is a latent of the SAEs at {', '.join(at)}: their directions are "
            f"not those of these decoders. Without saes= they are read by projection."
        )
    directions = tuple(one for one in concepts if one.name not in latents)
    given = {one.name: one for one in concepts}
    return Reading(at, latents, directions, given).only(given)


def every_latent(saes: Mapping[str, SAE], latents: Mapping[str, Tensor] | None = None) -> dict[str, tuple[str, int]]:
    """Names of latents, as `find.sae` gives them, to hook point and number; none without a decoder direction."""
    names: dict[str, tuple[str, int]] = {}
    for hook, one in saes.items():
        directed = (one.W_dec.detach().norm(dim=1) > 0).tolist()
        wanted = range(len(directed)) if latents is None else latents[hook].tolist()
        names |= {latent_name(hook, latent): (hook, latent) for latent in wanted if directed[latent]}
    return names


def _is_latent(concept: Concept, saes: Mapping[str, SAE]) -> bool:
    latent, one = concept.meta.get("latent"), saes.get(concept.hook)
    if concept.source != "sae" or one is None or not isinstance(latent, int) or not 0 <= latent < one.cfg.d_sae:
        return False
    row = one.W_dec[latent].detach().float().cpu()
    return float(row @ concept.direction) > SAME_DIRECTION * float(row.norm())


def read_once(
    lens: Lens, texts: Iterable[Text], reducers: Sequence[Any], roles: Sequence[str] | None, scan: Scan
) -> Passed:
    """One pass for reducers that are each fed at their own hook points only; arguments as for `stream`."""
    hooks = list(dict.fromkeys(hook for one in reducers for hook in one.hooks))
    return stream(lens, texts, hooks, [AtItsHooks(one) for one in reducers], roles=roles, scan=scan)
