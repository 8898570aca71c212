"""Choosing by hand which concepts to ablate, or taking over what was chosen otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from caft_lens._support.errors import BadArgument, ConceptMismatch
from caft_lens.choose.choice import Choice
from caft_lens.concepts.concept_set import ConceptSet


def choose(
    concepts: ConceptSet,
    ablate: Mapping[str, str] | Choice,
    leave: Mapping[str, str] | None = None,
    *,
    by: str | None = None,
) -> ConceptSet:
    """Choose by hand which concepts to ablate, and which to leave in the model: `ConceptSet.choose` as a verb.

    Args:
        concepts: The candidates.
        ablate: Name to the reason for ablating it; or an automatic choice or a consensus among these candidates, which
            is taken as it is.
        leave: Name to the reason for leaving it in the model. What is in neither is recorded as not considered.
        by: Who chose; the name of the user's account when `None`.

    Returns:
        Those to ablate, with the choice in `provenance["choices"]`.

    Raises:
        UnknownName: For an unknown name, with the nearest.
        ValueError: When nothing is chosen, a reason is empty, a name is both to be ablated and left, or a choice is
            among other concepts.

    Example:
        >>> chosen = cl.choose(concepts, {"L1.pc1": "cruel at the top, kind at the bottom"}, {"L1.pc0": "code"})
        >>> chosen.names
        ['L1.pc1']
    """
    if not isinstance(ablate, Choice):
        return concepts.choose(ablate, leave, by=by)
    if leave or by:
        raise BadArgument("A choice says itself what is left and who chose. To change it: choice.overrule(…).")
    if ablate.concepts.fingerprint != concepts.fingerprint:
        raise ConceptMismatch(f"{ablate!r} was made among other concepts than these {len(concepts)}.")
    return ablate.selection
