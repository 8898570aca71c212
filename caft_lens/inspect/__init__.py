"""Reading directions: what text lies at either end of them.

contexts.py  top and bottom activating contexts of any directions, or of all latents of SAEs, in one pass
density.py   how often and how strongly they are active: densities and histograms
survey.py    both of these, in one pass
labels.py    where concepts truly are in documents whose generator knows it
explain/     explanations of contexts, by enrichment or by an LLM, and how well they tell what they have not seen
logits.py    logit lens: the tokens that a direction raises and lowers
geometry.py  cosines of directions, across layers
scores.py    what they were ranked by, by rank
token_map.py one text, layer by layer and token by token
causal.py    what steering and ablating do to next tokens and answers
activation_difference_lens.py  what fine-tuning left in the first tokens of unrelated text
"""

from __future__ import annotations

from caft_lens.inspect.activation_difference_lens import ActivationDifferenceLens, activation_difference_lens
from caft_lens.inspect.causal import Effect, Effects, Interventions, effect
from caft_lens.inspect.context_windows import Context
from caft_lens.inspect.contexts import Contexts, contexts
from caft_lens.inspect.density import Densities, density
from caft_lens.inspect.density_reducers import Density, LatentDensity, ProjectionDensity
from caft_lens.inspect.explain.detection import HeldOutWindows, LLMJudge, detection, halves
from caft_lens.inspect.explain.enrichment import explain
from caft_lens.inspect.explain.explanations import Explanation, Explanations
from caft_lens.inspect.explain.llm import Endpoint, EndpointError, LocalModel
from caft_lens.inspect.explain.prompts import explain_with
from caft_lens.inspect.geometry import Cosines, cosines, neighbours
from caft_lens.inspect.labels import Labelled
from caft_lens.inspect.logits import ConceptTokens, LogitLens, TokenScore, logit_lens
from caft_lens.inspect.next_tokens import TokenShift
from caft_lens.inspect.scores import scores
from caft_lens.inspect.survey import Survey, survey
from caft_lens.inspect.token_map import TokenMap, read_off, token_map, token_maps

__all__ = [
    "ActivationDifferenceLens",
    "ConceptTokens",
    "Context",
    "Contexts",
    "Cosines",
    "Densities",
    "Density",
    "Effect",
    "Effects",
    "Endpoint",
    "EndpointError",
    "Explanation",
    "Explanations",
    "HeldOutWindows",
    "Interventions",
    "LLMJudge",
    "Labelled",
    "LatentDensity",
    "LocalModel",
    "LogitLens",
    "ProjectionDensity",
    "Survey",
    "TokenMap",
    "TokenScore",
    "TokenShift",
    "activation_difference_lens",
    "contexts",
    "cosines",
    "density",
    "detection",
    "effect",
    "explain",
    "explain_with",
    "halves",
    "logit_lens",
    "neighbours",
    "read_off",
    "scores",
    "survey",
    "token_map",
    "token_maps",
]
