"""A direction as a weighted sum of a few SAE latents, and back."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from torch import Tensor

from caft_lens._support.arguments import count, one_of
from caft_lens._support.by_name import ByName
from caft_lens._support.errors import BadArgument, ConceptMismatch
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.display.frames import Frame
from caft_lens.find.sae import latent_concept, latent_name, sae_records, saes_by_hook
from caft_lens.saes.cards import sae_name

if TYPE_CHECKING:
    from sae_lens import SAE

Floats = NDArray[np.floating]
Method = Literal["omp", "cosine"]
# Directions are unit vectors in float32: what is left below this share of the squared length is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Part:
    """One latent of a decomposition.

    Attributes:
        latent: Its number in the SAE, from 0.
        coefficient: Its weight in the sum of all parts, of unit decoder directions; its sign is the end it writes to.
        cosine: Of its decoder direction with the concept's.
        explained: Share of the concept's squared length that this latent and those before it explain together, 0 to 1.
        chance: The same of random directions, on average, with as many latents; `None` where none were drawn.
    """

    latent: int
    coefficient: float
    cosine: float
    explained: float
    chance: float | None = None


@dataclass(frozen=True)
class Decomposition:
    """One concept as a sum of latents, in the order in which they were taken.

    Attributes:
        concept: What was decomposed.
        parts: The latents.
        rows: Their unit decoder directions, `[n_parts, d_model]`.
        provenance: Of the set that the concept is from, with the SAEs.
    """

    concept: Concept
    parts: tuple[Part, ...]
    rows: Tensor = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def explained(self) -> float:
        """Share of the squared length that all parts explain: the squared cosine of `back()` with the concept."""
        return self.parts[-1].explained

    def names(self) -> list[str]:
        """The latents' names, as `find.sae` gives them: `"L1.latent417"`."""
        return [latent_name(self.concept.hook, part.latent) for part in self.parts]

    def table(self) -> pandas.DataFrame:
        """One row a latent: name, coefficient, cosine, share explained so far, and the same by chance."""
        named = zip(self.names(), self.parts, strict=True)
        return Frame({"concept": self.concept.name, "name": name, **dataclasses.asdict(part)} for name, part in named)

    def latents(self) -> ConceptSet:
        """The latents as concepts, named as by `find.sae`, scored by their coefficients, the largest magnitude first.

        The direction is the decoder's whichever sign the coefficient has: a latent fires at one end only. `sign` is +1.

        Example:
            >>> parts = cl.find.decompose(concepts, saes, k=3)["L2.pc0"]
            >>> len(parts.latents()), parts.latents().hooks
            (3, ['blocks.2.hook_resid_post'])
        """
        return Decompositions([self], self.provenance).latents()

    def back(self) -> Concept:
        """The direction that the latents make up, named `"L1.pc0.latents"`, scored by its cosine with the concept."""
        coefficients = torch.tensor([part.coefficient for part in self.parts], dtype=torch.float64)
        direction = coefficients @ self.rows.double()
        cosine = float(direction @ self.concept.direction.double() / direction.norm())
        return Concept(
            f"{self.concept.name}.latents",
            self.concept.hook,
            direction,
            source="decomposition",
            rank=self.concept.rank,
            score=cosine,
            score_name=f"cosine with {self.concept.name}",
            sign=self.concept.sign,
            label=self.concept.label,
            meta={"coefficients": {n: p.coefficient for n, p in zip(self.names(), self.parts, strict=True)}},
        )

    def _repr_html_(self) -> str:
        return html.framed(self.table(), index=False, float_format="{:.3f}".format)


class Decompositions(ByName[Decomposition]):
    """Decompositions by the name of the concept, in the order of the set.

    Args:
        items: At least one.
        provenance: Of the set that was decomposed, with the SAEs.
        skipped: Names of the concepts at hook points without an SAE.
    """

    _what = "decomposition"

    def __init__(
        self, items: Sequence[Decomposition], provenance: Mapping[str, Any], skipped: Sequence[str] = ()
    ) -> None:
        self._items = {item.concept.name: item for item in items}
        self.provenance, self.skipped = dict(provenance), list(skipped)

    def table(self) -> pandas.DataFrame:
        """One row a concept and latent, as `Decomposition.table`."""
        return pandas.concat([item.table() for item in self.values()], ignore_index=True)

    def latents(self) -> ConceptSet:
        """The latents of all concepts, each once: where it has the largest coefficient, of whichever sign."""
        found: dict[str, Concept] = {}
        for item in self.values():
            for rank, (part, row) in enumerate(zip(item.parts, item.rows, strict=True)):
                about = {"of": item.concept.name, "cosine": part.cosine}
                known = {"rank": rank, "score": part.coefficient, "score_name": f"coefficient in {item.concept.name}"}
                concept = latent_concept(item.concept.hook, part.latent, row, about, **known)
                if concept.name not in found or abs(concept.score) > abs(found[concept.name].score):
                    found[concept.name] = concept
        largest = sorted(found.values(), key=lambda concept: -abs(concept.score))
        ordered = [
            dataclasses.replace(concept, rank=rank)
            for hook in dict.fromkeys(item.concept.hook for item in self.values())
            for rank, concept in enumerate(one for one in largest if one.hook == hook)
        ]
        return ConceptSet(ordered, {**self.provenance, "method": "latents of directions"})

    def back(self) -> ConceptSet:
        """Every direction as its latents make it up, as `Decomposition.back`."""
        about = {**self.provenance, "method": "directions from latents"}
        return ConceptSet([item.back() for item in self.values()], about)

    def __repr__(self) -> str:
        skipped = f"; no SAE for {', '.join(self.skipped)}" if self.skipped else ""
        shown = ", ".join(f"{name}: {item.explained:.0%}" for name, item in self.items())
        return f"Decompositions({shown} explained{skipped})"

    def _repr_html_(self) -> str:
        return html.framed(self.table(), index=False, float_format="{:.3f}".format)


def decompose(
    concepts: ConceptSet,
    saes: SAE | Sequence[SAE],
    k: int = 10,
    *,
    method: Method = "omp",
    n_random: int = 20,
    seed: int = 0,
) -> Decompositions:
    """The latents whose decoder directions make up each concept, for every concept at an SAE's hook point.

    Args:
        concepts: Directions of any source.
        saes: One or several, each at a hook point of its own.
        k: At most so many latents each; fewer where fewer give the direction exactly.
        method: `"omp"`: orthogonal matching pursuit. `"cosine"`: the latents with the largest |cosine|, weights fitted
            together; simpler, but latents that say the same are all taken.
        n_random: How many random directions stand for chance at each hook point; 0 for none.
        seed: Of the random directions.

    Returns:
        Decompositions by concept; those at other hook points are named in `skipped`.

    Raises:
        ValueError: When no SAE is at a concept's hook point, one has another width or belongs to another model than the
            concepts, or `k` is more than the width or the number of latents.

    Example:
        >>> parts = cl.find.decompose(concepts, saes, k=3)
        >>> parts["L2.pc0"].table()[["name", "coefficient", "explained"]].round(2)
                   name  coefficient  explained
        0  L2.latent228        -0.41       0.17
        1  L2.latent341         0.28       0.23
        2  L2.latent494         0.26       0.30
        >>> with cl.ablate(base, parts.latents()):
        ...     answer = base.generate("How do I bake a pie?")

    Source:
        Pati, Rezaiifar and Krishnaprasad, "Orthogonal matching pursuit" (1993).
    """
    one_of(method, "method", get_args(Method))
    at = saes_by_hook(saes, None)
    here = [concept for concept in concepts if concept.hook in at]
    if not here:
        raise ConceptMismatch(
            f"No concept is where an SAE is: concepts at {', '.join(concepts.hooks)}, SAEs at {', '.join(at)}."
        )
    used = {concept.hook: at[concept.hook] for concept in here}
    for one in used.values():
        _check_fits(one, concepts, k)
    provenance = {**concepts.provenance, "decomposed": concepts.names, "saes": sae_records(used), "k": k}
    found = {}
    for hook, one in used.items():
        # Unit decoder directions as columns; zero for a latent that writes nothing.
        rows = one.W_dec.detach().cpu().double()
        atoms = (rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)).numpy().T
        chance = _chance(atoms, k, method, n_random, seed)
        for concept in (one for one in here if one.hook == hook):
            found[concept.name] = _decomposed(concept, atoms, k, method, chance, provenance)
    skipped = [concept.name for concept in concepts if concept.hook not in at]
    return Decompositions([found[concept.name] for concept in here], provenance, skipped)


def _check_fits(one: SAE, concepts: ConceptSet, k: int) -> None:
    width, theirs = int(concepts.provenance["d_model"]), int(one.cfg.d_in)
    if width != theirs:
        raise ConceptMismatch(f"SAE {sae_name(one)} is {theirs} wide, the concepts are {width} wide: another model.")
    trained, found = one.cfg.metadata.model_fingerprint, concepts.provenance.get("fingerprint")
    if trained is not None and found is not None and trained != found:
        raise ConceptMismatch(
            f"The SAE {sae_name(one)} belongs to another model ({trained}) than the concepts "
            f"({concepts.provenance.get('model', 'unnamed')}, {found}). If you do mean to compare them, "
            "concepts.for_model(lens) or saes.for_model(sae, lens) says so."
        )
    count(k, "k", most=min(width, one.cfg.d_sae), hint=f"There are {one.cfg.d_sae} latents, {width} wide.")


def _path(atoms: Floats, target: Floats, k: int, method: Method) -> tuple[NDArray[np.intp], list[Floats]]:
    """Latents in the order in which they are taken, and the weights of the first 1, 2, … of them."""
    if method == "cosine":
        order = np.argsort(-np.abs(atoms.T @ target), kind="stable")[:k]
    else:
        order = _pursuit(atoms, target, k)
    weights: list[Floats] = []
    for n in range(1, len(order) + 1):
        chosen = atoms[:, order[:n]]
        weights.append(np.linalg.lstsq(chosen, target, rcond=None)[0])
        if np.square(target - chosen @ weights[-1]).sum() <= ROUNDING:
            break  # what is left is rounding, and latents that fit it mean nothing
    return order[: len(weights)], weights


def _pursuit(atoms: Floats, target: Floats, k: int) -> NDArray[np.intp]:
    """The latents that orthogonal matching pursuit takes, in order."""
    from sklearn.linear_model import orthogonal_mp

    with warnings.catch_warnings():
        # It says so when nothing is left to explain: that is success here.
        warnings.filterwarnings("ignore", "Orthogonal matching pursuit ended prematurely", RuntimeWarning)
        chosen = np.flatnonzero(orthogonal_mp(atoms, target, n_nonzero_coefs=k, precompute=False))
        if len(chosen) == 0:
            raise BadArgument("A direction is orthogonal to the decoder direction of every latent of its SAE.")
        # scikit-learn's path over all latents would be [d_sae, d_sae]. Among those it took, the pursuit runs as it ran
        # among all, so that a second run over these few gives the order.
        path = orthogonal_mp(atoms[:, chosen], target, n_nonzero_coefs=len(chosen), precompute=False, return_path=True)
    nonzero = np.atleast_2d(path.T if path.ndim == 2 else path[None]) != 0
    first = np.where(nonzero.any(axis=0), nonzero.argmax(axis=0), len(nonzero))
    return chosen[np.argsort(first, kind="stable")]


def _explained(atoms: Floats, target: Floats, order: NDArray[np.intp], weights: Sequence[Floats]) -> Floats:
    """Share of the target's squared length that the first 1, 2, … latents explain."""
    left = [np.square(target - atoms[:, order[: len(w)]] @ w).sum() for w in weights]
    return 1 - np.array(left) / np.square(target).sum()


def _chance(atoms: Floats, k: int, method: Method, n_random: int, seed: int) -> Floats | None:
    """What 1, 2, … `k` latents explain of random directions, a mean, `[k]`."""
    if n_random < 1:
        return None
    rng = np.random.default_rng(seed)
    total = np.zeros(k)
    for _ in range(n_random):
        target = rng.standard_normal(len(atoms))
        target /= np.linalg.norm(target)
        shares = _explained(atoms, target, *_path(atoms, target, k, method))
        total += np.pad(shares, (0, k - len(shares)), mode="edge")
    return total / n_random


def _decomposed(
    concept: Concept, atoms: Floats, k: int, method: Method, chance: Floats | None, provenance: Mapping[str, Any]
) -> Decomposition:
    target = concept.direction.double().numpy()
    order, weights = _path(atoms, target, k, method)
    shares = _explained(atoms, target, order, weights)
    parts = tuple(
        Part(
            latent=int(latent),
            coefficient=float(weights[-1][place]),
            cosine=float(atoms[:, latent] @ target / np.linalg.norm(target)),
            explained=float(shares[place]),
            chance=None if chance is None else float(chance[place]),
        )
        for place, latent in enumerate(order)
    )
    rows = torch.from_numpy(np.ascontiguousarray(atoms[:, order].T)).float()
    return Decomposition(concept, parts, rows, provenance)
