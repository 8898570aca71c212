"""Finding candidate directions: each function returns a ConceptSet that knows where it came from.

pca.py          principal components of activation differences
sae.py          SAE latents that fine-tuning raised
attribution.py  SAE latents that support an answer, found on the base alone
means.py        difference of the means over two sets of text
neurons.py      the baseline: coordinates of the residual stream
random.py       the control: random directions, as many as were kept
"""

from __future__ import annotations

from caft_lens.find.attribution import attribution
from caft_lens.find.means import difference_of_means
from caft_lens.find.neurons import neurons
from caft_lens.find.pca import pca
from caft_lens.find.random import random_directions
from caft_lens.find.sae import sae

__all__ = ["attribution", "difference_of_means", "neurons", "pca", "random_directions", "sae"]
