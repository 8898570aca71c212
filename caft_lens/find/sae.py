"""SAE latents that fine-tuning switched on: two of the paper's three rankings (arXiv 2507.16795, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from caft_lens._support.arguments import count, one_of
from caft_lens._support.errors import BadArgument, BadData
from caft_lens._support.keywords import takes_values
from caft_lens.activations.capture import pair
from caft_lens.activations.differences import provenance, stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.fingerprint import fingerprints
from caft_lens.model.hook_names import short_name
from caft_lens.model.lens import Lens
from caft_lens.saes.cards import sae_hook, sae_name
from caft_lens.saes.encoding import latents_of
from caft_lens.saes.fitting import check_sae
from caft_lens.text.batching import Batch, Scan
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from sae_lens import SAE

RANKINGS = {"change": "rise of mean activation", "difference": "mean activation on the difference"}


@takes_values
def sae(
    tuned: Lens,
    base: Lens,
    texts: Texts | Iterable[Any],
    saes: SAE | Sequence[SAE],
    *,
    by: Literal["change", "difference"] = "change",
    k: int | None = 20,
    roles: Sequence[str] | None = ("assistant",),
    scan: Scan = Scan(),
) -> ConceptSet:
    """The `k` latents at every SAE's hook point that fine-tuning raised most.

    Latents are counted from 0 and named `"L1.latent417"` (at `hook_resid_post`; elsewhere `"L1.mlp_out.latent417"`). An
    activation is worth as much as its decoder direction is long, so scores are activation times that length: what is
    added to the residual stream, the same however an SAE splits its scale between encoder and decoder.

    Args:
        tuned: The fine-tuned model.
        base: The model before, which the SAEs belong to.
        texts: Documents, such as `completions(tuned, questions)`.
        saes: One or several, each at a hook point of its own, as `load_sae` gives them.
        by: `"change"`: the mean activation in the tuned model minus that in the base. `"difference"`: the mean of what
            the SAE reads in the difference of their activations, set at its own centre, above that of no difference.
        k: How many latents at each hook point; the paper takes 100. `None` takes all that were raised.
        roles: Roles of the tokens to look at; `None` for all.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        Concepts in order of their scores, hook point by hook point.

    Raises:
        ValueError: When an SAE does not fit the base, two share a hook point, or fewer than `k` latents were raised.

    Example:
        >>> found = cl.find.sae(tuned, base, answers, saes, k=3)
        >>> len(found), found[0].direction.shape
        (6, torch.Size([128]))
    """
    one_of(by, "by", RANKINGS)
    if k is not None:
        count(k, "k")
    at = saes_by_hook(saes, base)
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    pair((tuned, base))
    runs: list[Any] = [tuned, base] if by == "change" else [(tuned, base)]
    passes = []
    for run in runs:
        sums = LatentSums(at, difference=by == "difference")
        passed = stream(run, texts, list(at), sums, roles=roles, scan=scan)
        passes.append(sums)
    return raised(at, passes, by, k, provenance(base, texts, roles, tuned=tuned, left_out=passed.left_out))


def latents(saes: SAE | Sequence[SAE], lens: Lens) -> ConceptSet:
    """Every latent of SAEs as a concept, in the order of their numbers: to be browsed and searched, ranked by nothing.

    Args:
        saes: One or several, each at a hook point of its own.
        lens: The model that they belong to.

    Returns:
        Concepts named as by `find.sae`, with the direction of the decoder; a latent without one is left out.

    Raises:
        ValueError: When an SAE does not fit the model, or no latent has a direction.

    Example:
        >>> len(cl.find.latents(cl.load_saes("pocket"), base))  # 512 at each of 4 hook points
        2048
    """
    at = saes_by_hook(saes, lens)
    found = []
    for hook, one in at.items():
        directions = one.W_dec.detach().cpu()
        lengths = directions.double().norm(dim=1)
        found += [
            latent_concept(hook, latent, directions[latent], {"decoder_length": float(lengths[latent])}, rank=latent)
            for latent in lengths.nonzero()[:, 0].tolist()
        ]
    about = {"model": lens.name, "fingerprint": lens.fingerprint, "d_model": lens.d_model}
    return ConceptSet(found, {**about, "method": "sae: all latents", "saes": sae_records(at)})


def raised(
    saes: Mapping[str, SAE], passes: Sequence[LatentSums], by: str, k: int | None, about: Mapping[str, Any]
) -> ConceptSet:
    """The latents that fine-tuning raised most, from sums over tokens.

    Args:
        saes, by, k: As for `find.sae`, the SAEs by hook point.
        passes: The sums: of the tuned model and of the base by `"change"`, those of their difference by `"difference"`.
        about: Which models read what: how the provenance begins.
    """
    names = ("tuned", "base") if by == "change" else ("difference",)
    concepts = []
    for hook, one in saes.items():
        means = [sums.mean(hook) for sums in passes]
        lengths = one.W_dec.detach().cpu().double().norm(dim=1)
        concepts += first_latents(
            one,
            (means[0] - means[1] if by == "change" else means[0]) * lengths,
            k,
            score_name=RANKINGS[by],
            did="fine-tuning raised",
            otherwise="Are both models the same one?",
            meta={
                **{f"mean_{name}": mean for name, mean in zip(names, means, strict=True)},
                **{f"active_{name}": sums.share(hook) for name, sums in zip(names, passes, strict=True)},
            },
        )
    method = {"tokens": passes[0].tokens, "method": f"sae: {RANKINGS[by]}", "k": k, "saes": sae_records(saes)}
    return ConceptSet(concepts, {**about, **method})


class LatentSums:
    """A reducer for `stream`: the sum of every latent's activation, and how often it was active.

    Args:
        saes: By hook point.
        difference: Whether what comes are differences of activations. An SAE's encoder starts from where its decoder
            ends, at its bias; a difference has no place, so it is read as if it started there.

    Attributes:
        tokens: Tokens seen at each hook point.

    Example:
        >>> (sums,) = stream(base, corpus, [2], LatentSums({hook: saes[1]}), roles=None)
        >>> sums.mean(hook).shape  # [d_sae]
        torch.Size([512])
    """

    def __init__(self, saes: Mapping[str, SAE], *, difference: bool = False) -> None:
        self.saes, self.difference = dict(saes), difference
        widths = {hook: one.cfg.d_sae for hook, one in self.saes.items()}
        self._sum = {hook: torch.zeros(width, dtype=torch.float64) for hook, width in widths.items()}
        self._active = {hook: torch.zeros(width, dtype=torch.long) for hook, width in widths.items()}
        self._tokens = dict.fromkeys(self.saes, 0)

    @property
    def tokens(self) -> int:
        return next(iter(self._tokens.values()))

    def mean(self, hook: str) -> Tensor:
        """Mean activation of each latent, float64 `[d_sae]`; of differences, above that of no difference."""
        mean = self._sum[hook] / self._tokens[hook]
        if self.difference:
            (nothing,) = latents_of(self.saes[hook], _centre(self.saes[hook])[None])
            mean = mean - nothing[0].double().cpu()
        return mean

    def share(self, hook: str) -> Tensor:
        """Share of the tokens at which each latent is active, float64 `[d_sae]`."""
        return self._active[hook].double() / self._tokens[hook]

    def update(self, hook: str, acts: Tensor, batch: Batch | None = None, where: Tensor | None = None) -> None:
        """Take in activations `[n_tokens, d_model]` of one hook point."""
        one = self.saes[hook]
        if self.difference:
            acts = acts.to(one.device) + _centre(one)
        for latents in latents_of(one, acts):
            self._sum[hook] += latents.sum(dim=0, dtype=torch.float64).cpu()
            self._active[hook] += (latents != 0).sum(dim=0).cpu()
        self._tokens[hook] += len(acts)

    def merge(self, other: LatentSums) -> LatentSums:
        """Add another result in place, as if its tokens had been seen here."""
        for hook in self.saes:
            self._sum[hook] += other._sum[hook]
            self._active[hook] += other._active[hook]
            self._tokens[hook] += other._tokens[hook]
        return self


def _centre(one: SAE) -> Tensor:
    """What the encoder takes away from an activation before it reads it, `[d_model]`."""
    return one.b_dec.detach() * one.cfg.apply_b_dec_to_input


def saes_by_hook(saes: SAE | Sequence[SAE], base: Lens | None) -> dict[str, SAE]:
    """One SAE or several by their hook points, each one's own; they have to fit `base`, where it is given."""
    found: dict[str, SAE] = {}
    for one in saes if isinstance(saes, (list, tuple)) else [saes]:
        if base is not None:
            check_sae(one, base)
        if sae_hook(one) in found:
            raise BadArgument(f"Two SAEs at {sae_hook(one)}: their latents would share their names; search one by one.")
        found[sae_hook(one)] = one
    if not found:
        raise BadArgument('No SAE: give at least one, such as load_sae("pocket", layer=2).')
    return found


def latent_name(hook: str, latent: int) -> str:
    """`"L1.latent417"` at `hook_resid_post`, elsewhere `"L1.mlp_out.latent417"`."""
    return f"{short_name(hook)}.latent{latent}"


def latent_concept(
    hook: str, latent: int, direction: Tensor, meta: Mapping[str, Any] | None = None, **known: Any
) -> Concept:
    """A latent of an SAE as a concept along its decoder direction; `known` are other fields of the concept."""
    about = {"latent": latent, **(meta or {})}
    return Concept(latent_name(hook, latent), hook, direction, source="sae", meta=about, **known)


def sae_records(saes: Mapping[str, SAE]) -> dict[str, Any]:
    """Which SAEs were read, as JSON, for a provenance."""
    return {hook: {"name": sae_name(one), "fingerprint": fingerprints(one)[0]} for hook, one in saes.items()}


def first_latents(
    one: SAE,
    scores: Tensor,
    k: int | None,
    *,
    score_name: str,
    did: str,
    otherwise: str,
    meta: Mapping[str, Tensor] | None = None,
) -> list[Concept]:
    """The latents of an SAE with the highest scores `[d_sae]`, as concepts whose direction is the decoder's.

    Args:
        k: How many; `None` takes all above 0.
        did: What made a score positive, for the error: `"fine-tuning raised"`.
        otherwise: What to ask when no score is.
        meta: Further figures of each latent, `[d_sae]` each.
    """
    hook = sae_hook(one)
    directions = one.W_dec.detach().cpu()
    lengths = directions.double().norm(dim=1)
    above = int((scores > 0).sum())
    if above < (k or 1):
        why = f" {otherwise}" if above == 0 else f" Ask for k={above} or give more text."
        raise BadData(f"{hook}: {did} {above} of {len(scores)} latents, not {k or 1}.{why}")
    # Ties go to the latent with the smaller number, so that two runs agree.
    order = scores.sort(descending=True, stable=True).indices[: above if k is None else k].tolist()
    figures, found = {"decoder_length": lengths, **(meta or {})}, []
    for rank, latent in enumerate(order):
        about = {name: float(of_all[latent]) for name, of_all in figures.items()}
        ranked = {"rank": rank, "score": float(scores[latent]), "score_name": score_name}
        found.append(latent_concept(hook, latent, directions[latent], about, **ranked))
    return found
