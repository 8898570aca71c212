"""`Latents`: those latents of SAEs that a set of concepts names, as what they are on activations, with gradients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caft_lens._support.errors import BadModel, ConceptMismatch
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.fingerprint import fingerprints
from caft_lens.saes.loading import load_sae
from caft_lens.text import catalog

if TYPE_CHECKING:
    from sae_lens import SAE

    from caft_lens.model.lens import Lens


class Latents:
    """The latents that concepts are, by hook point; their SAEs are loaded from where the set says that they came from.

    Args:
        concepts: Latents, as `find.sae`, `find.latents` or attribution gives them, or chosen from such.
        lens: The model that they belong to.

    Attributes:
        hooks: Their hook points.

    Raises:
        ConceptMismatch: When one of them is no latent, or the set does not say of which SAEs.
        BadModel: When an SAE has changed since, or does not fit the model.
        MissingFile: When it is not there any more.

    Example:
        >>> some = cl.find.latents(cl.load_saes("pocket", [1, 2], lens=base), base)[:3]
        >>> latents = Latents(some, base)
        >>> latents.hooks, latents.on("blocks.1.hook_resid_post", torch.zeros(4, 128)).shape  # [n_tokens, n_latents]
        (['blocks.1.hook_resid_post'], torch.Size([4, 3]))
    """

    def __init__(self, concepts: ConceptSet, lens: Lens) -> None:
        check_latents(concepts)
        self.hooks = [lens.hook_name(hook) for hook in concepts.hooks]
        records = concepts.provenance["saes"]
        self._saes = {hook: _loaded(records[hook], hook, lens) for hook in concepts.hooks}
        self._numbers = {
            hook: torch.tensor([one.meta["latent"] for one in concepts.at(hook)], device=self._saes[hook].device)
            for hook in concepts.hooks
        }
        self._signs = {hook: torch.tensor([float(one.sign) for one in concepts.at(hook)]) for hook in concepts.hooks}

    def on(self, hook: str, acts: Tensor) -> Tensor:
        """What the latents at a hook point are on activations `[..., d_model]`, fp32 `[..., n_latents]`."""
        sae = self._saes[hook]
        return sae.encode(acts.to(sae.device, torch.float32))[..., self._numbers[hook]]

    def signs(self, hook: str) -> Tensor:
        """1 for latents that are unwanted where they are active, -1 for those whose absence is, `[n_latents]`."""
        return self._signs[hook].to(self._saes[hook].device)


def is_latents(concepts: ConceptSet) -> bool:
    """Whether concepts are latents of SAEs that their set names."""
    return _other(concepts) is None


def check_latents(concepts: ConceptSet) -> None:
    """Refuse concepts that are no latents of SAEs that the set names.

    Raises:
        ConceptMismatch: Naming the first.
    """
    if (one := _other(concepts)) is not None:
        raise ConceptMismatch(
            f'The concept "{one.name}" is no latent of an SAE that its set names: give what find.sae or find.latents '
            "found, or what was chosen from it."
        )


def _other(concepts: ConceptSet) -> Concept | None:
    """The first that is no such latent."""
    known = concepts.provenance.get("saes") or {}
    return next((one for one in concepts if "latent" not in one.meta or one.hook not in known), None)


def _loaded(record: dict[str, str], hook: str, lens: Lens) -> SAE:
    """The SAE that a provenance names, if it is still the same."""
    name = record["name"]
    world, _, rest = name.partition("/saes/")
    if rest == hook and catalog.sae_folder(world) != Path(world):
        sae = load_sae(world, layer=hook, lens=lens)
    elif Path(name).is_dir():
        sae = load_sae(name, lens=lens)
    else:
        release, _, number = name.partition("/")
        sae = load_sae(release, number, lens=lens)
    if fingerprints(sae)[0] != record["fingerprint"]:
        raise BadModel(f"The SAE {name} has other weights than when its latents were found: find them anew.")
    return sae
