"""What is exported, for type checkers and for `caft_lens._support.lazy.attach`."""

from .ablation import Ablated as Ablated
from .ablation import ablate as ablate
from .ablation import ablated as ablated
from .ablation import steer as steer
from .concept_set import Concept as Concept
from .concept_set import ConceptSet as ConceptSet
from .interventions import intervene as intervene
from .orthogonal import orthogonal_to_sinks as orthogonal_to_sinks
