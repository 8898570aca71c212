"""Choosing by examples: the directions that tell texts with the concept from others, and mean the same elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caft_lens._support.arguments import count, number, share
from caft_lens._support.errors import BadArgument
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import read_by, stream
from caft_lens.activations.top_windows import Rank
from caft_lens.choose.choice import Choice, End, Proposal
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.find.by_example import Pool, by_example
from caft_lens.find.probes import STRENGTHS, TextMeans, regression
from caft_lens.find.sae import saes_by_hook
from caft_lens.inspect.contexts import Contexts, contexts
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.roles import role_names

if TYPE_CHECKING:
    from sae_lens import SAE

SIGNIFICANT = 0.05
"""False discovery rate at which a concept is said to tell examples apart."""
OTHERS = 200
"""Random texts of the corpus from which a reader learns what is neither the concept nor like the contrast."""
FEWEST = 4
"""Examples of either kind below which nothing could be significant."""


@dataclass(frozen=True)
class Criteria:
    """When a direction counts as one of the concept that examples show.

    Attributes:
        score: A text's activation over its tokens, `"mean"` or `"max"`: a stance is all over it, a topic in few words.
        threshold: Of the AUROC, or of the share of a latent's activation.
        share: Of the contexts at the concept's end: how many have to look like the concept.
        k: How many contexts are read, ranked as `score` says.
        most: At most so many at each hook point, the first in the order of the candidates; `None` for no limit.
        seed: Of the random texts beside the examples.

    Raises:
        ValueError: For a threshold outside of 0.5 to 1, a share outside of 0 to 1, or `most` below 1.
    """

    score: Pool = "mean"
    threshold: float = 0.9
    share: float = 0.7
    k: int = 20
    most: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        number(self.threshold, "threshold", above=0.5, most=1)
        share(self.share, "share")
        if self.most is not None:
            count(self.most, "most")


@takes_values
def by_examples(
    lens: Lens,
    concepts: ConceptSet,
    concept: Texts | Iterable[Any],
    contrast: Texts | Iterable[Any],
    *,
    texts: Texts | None = None,
    saes: SAE | Sequence[SAE] | None = None,
    roles: Sequence[str] | None = ("assistant",),
    criteria: Criteria = Criteria(),
    scan: Scan = Scan(),
) -> Choice:
    """Choose the directions of one concept by a handful of texts: those that tell them from others, and read like them.

    Two questions are asked of each direction. *Does it fire on the examples of the concept and not on those for
    contrast?* Either it tells them apart with an AUROC of at least `threshold`; or, as a latent that most texts leave
    silent, at least `threshold` of its activation falls on the concept's. Both have to be significant among all
    candidates (Mann and Whitney's test, false discovery rate 5 %). *Does it mean the same elsewhere?* With `texts`, a
    reader that learned the concept from the examples (a logistic regression on the model's mean activation at the
    direction's hook point, against contrast and random texts) is shown its contexts; `share` have to look like it.

    Args:
        lens: The model that reads, as a rule the base.
        concepts: The candidates.
        concept: A handful of texts with the concept that is not to be learned; a dozen is enough where they are plain.
        contrast: Texts like them without it, above all such as the model is to learn from.
        texts: A corpus in which contexts are read; `None` trusts the examples alone.
        saes: Where concepts are latents of these SAEs, they are read by the latent's activation.
        roles: Roles of the tokens to look at; `None` for all.
        criteria: When a direction counts as one of the concept.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        A `Choice`: `.selection`, `.table()`, `.overrule(...)`, `.explained(...)`.

    Raises:
        ValueError: For fewer than four examples of either kind, or as `find.by_example`.

    Example:
        >>> choice = cl.choose.by_examples(base, concepts, cruel_texts, kind_texts, texts=corpus)
        >>> choice.table()[["name", "end", "ablate"]].head(2)
             name end  ablate
        0  L1.pc0       False
        1  L1.pc1       False
    """
    having, others = (side if isinstance(side, Texts) else Texts(side) for side in (concept, contrast))
    for name, side in (("of the concept", having), ("for contrast", others)):
        if len(side) < FEWEST:
            raise BadArgument(
                f"choose.by_examples(): {len(side)} example{'s' * (len(side) != 1)} {name}; with fewer than {FEWEST} "
                "of either kind chance cannot be told from a concept."
            )
    reading: dict[str, Any] = {"roles": roles, "scan": scan}
    ranked = by_example(lens, concepts, having, others, saes=saes, score=criteria.score, k=None, **reading)
    found = {one.name: one for one in ranked}
    at = saes_by_hook(saes, None) if saes is not None else {}
    latents = {one.name for one in concepts if one.hook in at and "latent" in one.meta}
    fits = _fits([found[name] for name in concepts.names], latents, len(having), len(others))
    ends = {name: fit.end for name, fit in zip(concepts.names, fits, strict=True) if fit.tells(criteria)}
    shares: Mapping[str, float] = {}
    if texts is not None and ends:
        candidates = ConceptSet([concepts[name] for name in ends], concepts.provenance)
        rank: Rank = "mean" if criteria.score == "mean" else "peak"
        read = contexts(lens, candidates, texts, k=criteria.k, saes=saes, rank=rank, **reading)
        shares = _look_alike(lens, read, ends, (having, others), texts, criteria.seed, reading)
    proposals = [
        _proposal(candidate.name, fit, criteria, shares.get(candidate.name))
        for candidate, fit in zip(concepts, fits, strict=True)
    ]
    if criteria.most is not None:
        proposals = _no_more(proposals, concepts, criteria.most)
    examples = f"{len(having)} of the concept, {len(others)} for contrast"
    tokens = f"{' and '.join(role_names(roles) or ['all'])} tokens"
    elsewhere = "" if texts is None else f", {criteria.share:g} of {criteria.k} contexts"
    by = f"choose.by_examples ({examples}, {tokens}, threshold {criteria.threshold:g}{elsewhere})"
    return Choice(concepts, proposals, by, read_by(lens))


def _no_more(proposals: Sequence[Proposal], concepts: ConceptSet, most: int) -> list[Proposal]:
    """The same with at most so many to be ablated at each hook point."""
    left = dict.fromkeys(concepts.hooks, most)
    found = []
    for one, candidate in zip(proposals, concepts, strict=True):
        if one.ablate and not left[candidate.hook]:
            reason = f"{one.reason}; but {most} before it were chosen at {candidate.hook}"
            one = dataclasses.replace(one, ablate=False, reason=reason)
        left[candidate.hook] -= bool(one.ablate)
        found.append(one)
    return found


@dataclass(frozen=True)
class _Fit:
    """How a concept tells the examples apart."""

    end: End
    auroc: float
    of_concept: float | None
    q: float

    @property
    def is_significant(self) -> bool:
        return self.q <= SIGNIFICANT

    def tells(self, criteria: Criteria) -> bool:
        return self.is_significant and max(self.auroc, self.of_concept or 0.0) >= criteria.threshold

    def __str__(self) -> str:
        said = f"AUROC {self.auroc:.2f}, concept against contrast"
        if self.of_concept is not None:
            said += f", {self.of_concept:.0%} of its activation on the concept"
        return said


def _fits(found: Sequence[Concept], latents: set[str], n_concept: int, n_contrast: int) -> list[_Fit]:
    from scipy.stats import false_discovery_control, norm

    areas = np.array([concept.score for concept in found])
    spread = np.sqrt((n_concept + n_contrast + 1) / (12 * n_concept * n_contrast))
    # An end was chosen for a direction, the better of two; of a latent there is one.
    two = np.array([1.0 if concept.name in latents else 2.0 for concept in found])
    p = np.minimum(1.0, two * norm.sf((areas - 0.5) / spread))
    fits = []
    for concept, q in zip(found, false_discovery_control(p), strict=True):
        on, off = concept.meta["mean_on"], concept.meta["mean_off"]
        of_activation = on / (on + off) if on + off > 0 else 0.0
        of_concept = of_activation if concept.name in latents else None
        fits.append(_Fit(concept.meta["end"], concept.score, of_concept, float(q)))
    return fits


def _proposal(name: str, fit: _Fit, criteria: Criteria, looks: float | None) -> Proposal:
    evidence = {"auroc": fit.auroc, "q": fit.q}
    if fit.of_concept is not None:
        evidence["of its activation, on the concept"] = fit.of_concept
    reason, tells = str(fit), fit.tells(criteria)
    if looks is not None:
        evidence["contexts that look like it"] = looks
        reason += f"; {looks:.0%} of its contexts look like it"
    elif not tells:
        reason += f", below {criteria.threshold:g}" if fit.is_significant else ", not more than chance would have it"
    ablate = tells and (looks is None or looks >= criteria.share)
    return Proposal(name, ablate, reason, fit.end if tells else "", evidence)


def _look_alike(
    lens: Lens,
    read: Contexts,
    ends: Mapping[str, End],
    examples: tuple[Texts, Texts],
    texts: Texts,
    seed: int,
    reading: Mapping[str, Any],
) -> dict[str, float]:
    """Of each direction, the share of the contexts at its end that look like the concept to who learned it."""
    places = {name: sorted({index for index, _ in getattr(read[name], end).places}) for name, end in ends.items()}
    shown = sorted({index for of in places.values() for index in of})
    having, without = examples
    # Random texts of the corpus: most do not have the concept, or the corpus is ill chosen.
    free = np.setdiff1d(np.arange(len(texts)), shown)
    others = sorted(np.random.default_rng(seed).choice(free, min(OTHERS, len(free)), replace=False).tolist())
    means = TextMeans(len(having) + len(without) + len(others) + len(shown))
    every = Texts([*having, *without, *(texts[index] for index in [*others, *shown])])
    hooks = {name: read[name].concept.hook for name in ends}
    stream(lens, every, list(dict.fromkeys(hooks.values())), means, **reading)
    first = len(every) - len(shown)
    looks = {}
    for hook in dict.fromkeys(hooks.values()):
        acts, index = means.matrix(hook)
        learned = index < first
        true = index[learned] < len(having)
        folds = min(5, int(true.sum()), int((~true).sum()))
        reader = regression(STRENGTHS, "balanced", scoring="balanced_accuracy", cv=folds).fit(acts[learned], true)
        said = reader.predict(acts[~learned])
        looks[hook] = dict(zip((shown[place - first] for place in index[~learned]), said, strict=True))
    seen = {
        name: [looks[hook][index] for index in places[name] if index in looks[hook]] for name, hook in hooks.items()
    }
    return {name: float(np.mean(said)) if said else 0.0 for name, said in seen.items()}
