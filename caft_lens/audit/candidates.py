"""What an audit looks for: every latent of some SAEs, and directions that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caft_lens._support.errors import BadArgument
from caft_lens.activations.capture import along
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.find.sae import latent_concept, latent_name, sae_records, saes_by_hook
from caft_lens.saes.encoding import latents_of

if TYPE_CHECKING:
    from sae_lens import SAE

    from caft_lens.model.lens import Lens


class Candidates:
    """Latents and directions by hook point; at each the latents come first, in the order of their numbers.

    Args:
        lens: The model that they are of.
        saes: SAEs of it, each at a hook point of its own.
        concepts: Directions.

    Raises:
        BadArgument: When there is neither, or two share a name.
        ConceptMismatch: When a direction does not fit the model.
    """

    def __init__(self, lens: Lens, saes: SAE | Sequence[SAE] | None, concepts: ConceptSet | None) -> None:
        none = saes is None or (isinstance(saes, list | tuple) and not saes)
        self.saes: Mapping[str, SAE] = {} if none else saes_by_hook(saes, lens)
        self.given = concepts
        if concepts is not None:
            concepts.check(lens)
        if not self.saes and not concepts:
            raise BadArgument(
                "audit() looks for latents of saes=, or for the directions of concepts=: give one of them."
            )
        order = {hook: number for number, hook in enumerate(lens.hook_names)}
        self.hooks = sorted({*self.saes, *(concepts.hooks if concepts is not None else ())}, key=order.__getitem__)
        self._directions = {hook: self._unit(hook) for hook in self.hooks}
        self.latents = {hook: self.saes[hook].cfg.d_sae if hook in self.saes else 0 for hook in self.hooks}

    def _at(self, hook: str) -> list[Concept]:
        return [one for one in self.given or () if one.hook == hook]

    def _unit(self, hook: str) -> Tensor:
        parts = []
        if hook in self.saes:
            parts.append(torch.nn.functional.normalize(self.saes[hook].W_dec.detach().float(), dim=1).cpu())
        if given := self._at(hook):
            parts.append(torch.stack([one.direction for one in given]))
        return torch.cat(parts)

    def count(self, hook: str) -> int:
        """How many there are at a hook point."""
        return len(self._directions[hook])

    def directions(self, hook: str) -> Tensor:
        """Unit vectors, fp32 `[n, d_model]`, on the CPU."""
        return self._directions[hook]

    def of_rows(self, hook: str, acts: Tensor, rows: Tensor, n_rows: int) -> Tensor:
        """The mean of each over the tokens of a row: latents by what they add to the stream, directions by projection.

        Args:
            hook: Where.
            acts: `[n_tokens, d_model]`.
            rows: Of each token, long `[n_tokens]`.
            n_rows: How many rows the batch has.

        Returns:
            fp32 `[n_rows, n]` on the CPU; 0 for a row without tokens.
        """
        parts = []
        if hook in self.saes:
            sae = self.saes[hook]
            sums = torch.zeros(n_rows, sae.cfg.d_sae, device=sae.device)
            first = 0
            for latents in latents_of(sae, acts):
                at = rows[first : first + len(latents)].to(sae.device)
                sums.index_add_(0, at, latents.float())
                first += len(latents)
            parts.append(sums.cpu() * self.saes[hook].W_dec.detach().float().norm(dim=1).cpu())
        if given := self._at(hook):
            projected = along(acts, torch.stack([one.direction for one in given])).cpu()
            parts.append(torch.zeros(n_rows, len(given)).index_add_(0, rows, projected))
        tokens = torch.bincount(rows, minlength=n_rows).clamp(min=1)
        return torch.cat(parts, dim=1) / tokens[:, None]

    def name(self, hook: str, number: int) -> str:
        """What the candidate is called."""
        n = self.latents[hook]
        return latent_name(hook, number) if number < n else self._at(hook)[number - n].name

    def is_latent(self, hook: str, number: int) -> bool:
        """Whether it is a latent, which is active or silent, and has one end."""
        return number < self.latents[hook]

    def concept(self, hook: str, number: int, **known: Any) -> Concept:
        """The candidate as a concept."""
        n = self.latents[hook]
        if number < n:
            return latent_concept(hook, number, self.saes[hook].W_dec.detach()[number].cpu(), **known)
        one = self._at(hook)[number - n]
        return replace(one, **{**known, "meta": {**one.meta, **known.get("meta", {})}})

    def records(self) -> dict[str, Any]:
        """Which SAEs, as JSON, for a provenance."""
        return sae_records(self.saes)
