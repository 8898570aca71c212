"""Concepts: directions that know where they came from, and what can be done with them in a model.

concept_set     `Concept`, `ConceptSet`
ablation        `ablate`, `steer`: at inference and in training by one and the same hook
interventions   `intervene`: several at once
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.concepts.ablation import Ablated as Ablated
    from caft_lens.concepts.ablation import ablate as ablate
    from caft_lens.concepts.ablation import ablated as ablated
    from caft_lens.concepts.ablation import steer as steer
    from caft_lens.concepts.concept_set import Concept as Concept
    from caft_lens.concepts.concept_set import ConceptSet as ConceptSet
    from caft_lens.concepts.interventions import intervene as intervene

__getattr__, __dir__, __all__ = lazy.exports(
    __name__,
    {
        "Concept": "caft_lens.concepts.concept_set",
        "ConceptSet": "caft_lens.concepts.concept_set",
        "Ablated": "caft_lens.concepts.ablation",
        "ablate": "caft_lens.concepts.ablation",
        "ablated": "caft_lens.concepts.ablation",
        "steer": "caft_lens.concepts.ablation",
        "intervene": "caft_lens.concepts.interventions",
    },
)
