"""Concepts: directions that know where they came from, and what can be done with them in a model.

concept_set     `Concept`, `ConceptSet`
ablation        `ablate`, `steer`: at inference and in training by one and the same hook
interventions   `intervene`: several at once
oblique         `eraser`: projections that change the data least (LEACE) and keep other directions (SPLINCE)
latents         `Latents`: latents of SAEs as what they are on activations
orthogonal      `orthogonal_to_sinks`: directions without what they share with attention sinks
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
