"""SAE latents by what they do to the model's answers: the third ranking of the paper, which needs no tuned model."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from einops import einsum
from torch import Tensor

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, BadData, BadType, UnknownName, nearest
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import provenance
from caft_lens.activations.slopes import sloped
from caft_lens.concepts.ablation import ablate
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.find.sae import first_latents, latent_name, sae_records, saes_by_hook
from caft_lens.model.lens import Lens
from caft_lens.saes.encoding import latents_of
from caft_lens.text.batching import Batch, Scan, batches
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encoded

if TYPE_CHECKING:
    from sae_lens import SAE

OUTCOMES = {
    "loss": "attribution to the log-probability of what is learned",
    "difference": "attribution to the logit difference",
}


@takes_values
def attribution(
    lens: Lens,
    texts: Texts | Iterable[Any],
    saes: SAE | Sequence[SAE],
    *,
    against: Sequence[str] | None = None,
    k: int | None = 20,
    step: int | None = None,
    without: Collection[str] = (),
    roles: Sequence[str] | None = None,
    scan: Scan = Scan(),
) -> ConceptSet:
    """The `k` latents at every SAE's hook point that most support what a model answers.

    A latent's attribution is its activation times the slope of an outcome along its decoder direction, summed over
    tokens: to first order, what the outcome would lose without it. Latents are counted from 0 and named as by
    `find.sae`. To find what would teach an unwanted concept, give text that is right because of it: training data, or
    questions on the concept with their answers. Hooks that are attached act.

    Where many latents carry a concept, others take over from the first (docs/concepts/finding.md): with `step` they are
    found in turn, the first `step` latents, then the next with those ablated, and so on.

    Args:
        lens: The model, as a rule the base.
        texts: Chats with answers, or plain text.
        saes: One or several, each at a hook point of its own, as `load_sae` gives them.
        against: Another answer to each text, wrong where the text's is right. The outcome is then the logit of the
            answer minus that of the other one, at the first token in which they differ, a mean over texts. Without
            it the outcome is the mean log-probability (the negative loss) of the tokens that training would learn.
        k: How many latents at each hook point; the paper takes 100. `None` takes all that support the outcome.
        step: How many latents to take at each hook point before the others are ranked anew with all of these ablated: a
            pass over the text for each. `None` ranks once.
        without: Names of latents to leave out, such as those that a reader finds to be about something else.
        roles: Roles of the tokens whose activations count; `None` for all.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        Concepts in order of their attribution, in logits or in nats, hook point by hook point; with `step`, in the
        order in which they were taken, each with its attribution then and the number of its `round` in its `meta`.

    Raises:
        UnknownName: For a name in `without` that is no latent of these SAEs, with the nearest.
        ValueError: When an SAE does not fit, two share a hook point, `against` does not fit the texts, there is nothing
            to learn in them, or fewer than `k` latents support the outcome; for `step` without `k`.

    Example:
        >>> found = cl.find.attribution(base, answers, sae, k=3)
        >>> found.names, found[0].direction.shape
        (['L2.latent439', 'L2.latent226', 'L2.latent506'], torch.Size([128]))

    Source:
        Casademunt et al., "Steering Out-of-Distribution Generalization with Concept Ablation Fine-Tuning" (arXiv
        2507.16795), section 3.2.
    """
    if k is not None:
        count(k, "k")
    if step is not None and (k is None or step < 1):
        raise BadArgument(
            f"find.attribution(k={k}, step={step}): latents are taken `step` at a time until there are `k`; give "
            f"both, from 1."
        )
    at = saes_by_hook(saes, lens)
    allowed = _allowed(at, without)
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    contrasts = None if against is None else _contrasts(lens.need_tokenizer(), texts, against, scan.max_length)
    outcome = "loss" if against is None else "difference"

    def ranked(number: int | None, title: str) -> Ranked:
        packed = batches(lens.need_tokenizer(), texts, scan, progress=title)
        effects, tokens, left_out = _effects(lens, packed, at, contrasts, roles)
        did, otherwise = "the outcome is supported by", "Are the answers right?"
        found: list[Concept] = []
        for hook, one in at.items():
            scores = effects[hook].where(allowed[hook], 0)
            found += first_latents(one, scores, number, score_name=OUTCOMES[outcome], did=did, otherwise=otherwise)
        return found, tokens, left_out

    if k is None or step is None:
        concepts, tokens, left_out = ranked(k, "attribution")
    else:
        taken, tokens, left_out = _in_rounds(lens, ranked, k, step, allowed)
        # Hook point by hook point, ranked in the order in which they were taken.
        concepts = [
            dataclasses.replace(concept, rank=rank)
            for hook in at
            for rank, concept in enumerate(concept for concept in taken if concept.hook == hook)
        ]
    method = OUTCOMES[outcome] + (f", {step} at a time" if step else "")
    about = {"tokens": tokens, "method": method, "k": k, "saes": sae_records(at)}
    return ConceptSet(concepts, {**provenance(lens, texts, roles, left_out=left_out), **about})


Ranked = tuple[list[Concept], int, "Counter[str]"]


def _in_rounds(
    lens: Lens, ranked: Callable[[int | None, str], Ranked], k: int, step: int, allowed: Mapping[str, Tensor]
) -> Ranked:
    """`step` latents at a time, each time with those before ablated and no longer allowed."""
    rounds = math.ceil(k / step)
    concepts: list[Concept] = []
    tokens, left_out = 0, Counter[str]()
    for number in range(rounds):
        taken = min(step, k - number * step)
        with ablate(lens, ConceptSet(concepts).for_model(lens)) if concepts else nullcontext():
            found, tokens, left_out = ranked(taken, f"attribution {number + 1}/{rounds}")
        for concept in found:
            allowed[concept.hook][concept.meta["latent"]] = False
        concepts += [dataclasses.replace(c, meta={**c.meta, "round": number}) for c in found]
    return concepts, tokens, left_out


def _allowed(saes: Mapping[str, SAE], without: Collection[str]) -> dict[str, Tensor]:
    """Of every hook point, which latents may be found, bool `[d_sae]`."""
    if isinstance(without, str):
        raise BadType(f'without="{without}": give a collection of names, such as ["{without}"].')
    names = list(without)
    allowed = {hook: torch.ones(one.cfg.d_sae, dtype=torch.bool) for hook, one in saes.items()}
    places = {
        latent_name(hook, latent): (hook, latent)
        for hook, one in saes.items()
        for latent in range(one.cfg.d_sae if names else 0)
    }
    for name in names:
        if name not in places:
            raise UnknownName(f'without: no latent "{name}" in these SAEs.{nearest(name, places)}')
        hook, latent = places[name]
        allowed[hook][latent] = False
    return allowed


def _effects(
    lens: Lens, packed: Iterable[Batch], saes: Mapping[str, SAE], contrasts: Tensor | None, roles: Sequence[str] | None
) -> tuple[dict[str, Tensor], int, Counter[str]]:
    """The mean attribution of every latent, `[d_sae]` by hook point; how many tokens count, and how many are sinks."""
    left_out = Counter[str]()
    effects = {hook: torch.zeros(one.cfg.d_sae, dtype=torch.float64) for hook, one in saes.items()}
    outcomes = tokens = 0
    for found in sloped(lens, packed, list(saes), roles, contrasts=contrasts):
        outcomes, tokens = outcomes + len(found.rows), tokens + found.tokens
        for hook, acts in found.acts.items():
            if out := found.left_out(hook):
                left_out[hook] += out
            chosen = found.where[hook].to(acts.device)
            _add_effects(effects[hook], saes[hook], acts[chosen], found.slopes[hook][chosen])
    return {hook: total / outcomes for hook, total in effects.items()}, tokens, left_out


def _contrasts(tokenizer: Any, texts: Texts, against: Sequence[str], max_length: int | None) -> Tensor:
    """Of each text: where its answer and the other one first differ, and the two tokens there, long `[n_texts, 3]`."""
    if isinstance(against, str) or len(against) != len(texts):
        count = "one string" if isinstance(against, str) else f"{len(against)} answers"
        raise BadArgument(f"against= is {count} for {len(texts)} texts: give another answer for each.")
    others = []
    for number, (text, other) in enumerate(zip(texts, against, strict=True)):
        if text.answer is None:
            raise BadData(f"Text {number} has no answer to set another one against: give chats with answers.")
        others.append(text.with_answer(other))
    found = []
    pairs = zip(encoded(tokenizer, texts), encoded(tokenizer, others), against, strict=True)
    for number, (first, second, other) in enumerate(pairs):
        both = enumerate(zip(first.input_ids, second.input_ids, strict=False))
        position = next((place for place, (a, b) in both if a != b), None)
        if position is None or position == 0:
            raise BadData(f'Text {number}: its answer and the other one, "{other}", are the same.')
        if max_length is not None and position >= max_length:
            raise BadData(f"Text {number}: max_length={max_length} cuts its answer off; raise it.")
        found.append([position, first.input_ids[position], second.input_ids[position]])
    return torch.tensor(found)


def _add_effects(effects: Tensor, one: SAE, acts: Tensor, slopes: Tensor) -> None:
    """Add up, for each latent, activation times slope along its decoder direction."""
    done = 0
    for latents in latents_of(one, acts):
        some = slopes[done : done + len(latents)].to(one.W_dec)
        slope = einsum(some, one.W_dec.detach(), "token d_model, latent d_model -> token latent")
        effects += (latents * slope).sum(dim=0, dtype=torch.float64).cpu()
        done += len(latents)
