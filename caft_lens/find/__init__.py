"""Finding candidate directions: each function returns a ConceptSet that knows where it came from.

pca.py          principal components of activation differences
sae.py          SAE latents that fine-tuning raised
attribution.py  SAE latents that support an answer, found on the base alone
means.py        difference of the means over two sets of text
probes.py       linear probes between two sets of text
neurons.py      the baseline: coordinates of the residual stream
random.py       the control: random directions, as many as were chosen
routes.py       several of these from one pass, and several lists as one
by_words.py     among concepts that were found: by words of what is known of them
by_example.py   the same by texts that they should fire on
decompose.py    a direction as a few SAE latents, and back
compare.py      ranked lists side by side
"""

from __future__ import annotations

from caft_lens.find.attribution import attribution
from caft_lens.find.by_example import by_example
from caft_lens.find.by_words import ConceptIndex, Matches, search
from caft_lens.find.compare import Comparison, compare
from caft_lens.find.decompose import Decomposition, Decompositions, decompose
from caft_lens.find.means import difference_of_means
from caft_lens.find.neurons import neurons
from caft_lens.find.pca import pca
from caft_lens.find.probes import ProbeFit, probe
from caft_lens.find.random import random_directions
from caft_lens.find.routes import merge, routes
from caft_lens.find.sae import latents, sae

__all__ = [
    "Comparison",
    "ConceptIndex",
    "Decomposition",
    "Decompositions",
    "Matches",
    "ProbeFit",
    "attribution",
    "by_example",
    "compare",
    "decompose",
    "difference_of_means",
    "latents",
    "merge",
    "neurons",
    "pca",
    "probe",
    "random_directions",
    "routes",
    "sae",
    "search",
]
