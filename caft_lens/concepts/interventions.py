"""Several things done to a model at once, some concepts ablated, others steered; units of the strength of a steer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from caft_lens._support.arguments import number, one_of
from caft_lens._support.blocks import Block
from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens._support.keywords import takes_values
from caft_lens.activations.capture import along, captured
from caft_lens.activations.moments import Moments
from caft_lens.concepts.ablation import ablations, lens_of, steering
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.model.attach import at
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Batch, Scan, batches
from caft_lens.text.documents import Text

Change = float | Literal["ablate"]
Unit = Literal["norm", "sd", "length"]
UNITS = {"norm": "of the residual norm", "sd": "sd", "length": "long"}
# What people and the model said: the template's tokens, the first of all above all, can be many times longer.
SPOKEN = ("system", "user", "assistant", "text")


def intervene(
    lens: Lens | nn.Module, concepts: ConceptSet, changes: Mapping[str, Change], *, roles: Sequence[str] | None = None
) -> Block[Lens]:
    """Ablate some concepts and steer along others while a block is open.

    At each hook point what is ablated is projected out before what is steered is added: no steer is ablated away.

    Args:
        lens: As for `ablate`.
        concepts: Where the directions are found by name.
        changes: Name to `"ablate"`, or to the length of what is added along the direction, as for `steer`; may be none.
        roles: As for `ablate`.

    Raises:
        UnknownName: For a name that is none of the concepts, with the nearest.
        ValueError: When a change is neither "ablate" nor a length, or the concepts do not fit the model.

    Example:
        >>> with intervene(base, concepts, {"L1.pc0": "ablate", "L2.pc1": -4.0}):
        ...     answer = base.generate("How do I bake a pie?")
    """
    lens, lengths = lens_of(lens), {}
    for name, change in changes.items():
        if name not in concepts.names:
            raise UnknownName(f'No concept "{name}" to change.{nearest(name, concepts.names)}')
        if change != "ablate":
            if isinstance(change, str | bool) or not isinstance(change, int | float):
                raise BadArgument(f'"{name}": a change is "ablate" or the length to steer by, not {change!r}.')
            lengths[name] = number(change, name, hint="The length to steer by")
    ablated = [concept for concept in concepts if changes.get(concept.name) == "ablate"]
    functions: list[tuple[str, Callable[[Tensor], Tensor]]] = []
    if ablated:
        functions += ablations(lens, ConceptSet(ablated, concepts.provenance)).items()
    elif changes:
        concepts.check(lens)
    functions += [steering(lens, concepts[name], length) for name, length in lengths.items()]
    return at(lens, functions, roles=roles)


@takes_values
def unit_lengths(
    lens: Lens, concepts: ConceptSet, texts: Iterable[Text], unit: Unit = "norm", *, scan: Scan = Scan()
) -> dict[str, float]:
    """How long one unit of steering is for each concept, in the units of the residual stream, as `steer` takes them.

    Args:
        lens: The model.
        concepts: Directions.
        texts: What it is measured on, at all tokens but the template's.
        unit: `"norm"`: the mean norm of the activation at the hook point. `"sd"`: the standard deviation of the
            activations along the direction. `"length"`: 1.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        ValueError: For an unknown unit, or when the texts hold no token.

    Example:
        >>> length = unit_lengths(base, concepts, questions)["L1.pc0"]
        >>> with cl.steer(base, concepts["L1.pc0"], 0.3 * length):
        ...     answer = base.generate("How do I bake a pie?")
    """
    return lengths_on(lens, concepts, batches(lens.need_tokenizer(), texts, scan), unit)


def lengths_on(lens: Lens, concepts: ConceptSet, packed: Iterable[Batch], unit: Unit) -> dict[str, float]:
    """`unit_lengths` of what is in batches already."""
    one_of(unit, "unit", UNITS)
    if unit == "length":
        return dict.fromkeys(concepts.names, 1.0)
    norms, spreads = Moments(covariance=False), Moments()
    for found in captured((lens,), packed, concepts.hooks, SPOKEN):
        for hook, acts in found.acts.items():
            acts = acts.float()
            if unit == "norm":
                norms.update(hook, acts.norm(dim=-1, keepdim=True))
            else:
                spreads.update(hook, along(acts, concepts.directions(hook)))
    if unit == "norm":
        return {concept.name: float(norms.mean[concept.hook]) for concept in concepts}
    sds = {hook: spreads.covariance[hook].diagonal().clamp_min(0).sqrt().tolist() for hook in concepts.hooks}
    return {
        concept.name: sd for hook in concepts.hooks for concept, sd in zip(concepts.at(hook), sds[hook], strict=True)
    }
