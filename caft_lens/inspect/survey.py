"""Everything that one reads of concepts on a corpus, in one pass: contexts and densities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caft_lens._support.keywords import takes_values
from caft_lens.activations.top_windows import Rank, TopWindows
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.inspect.contexts import Contexts, collected
from caft_lens.inspect.density import Densities
from caft_lens.inspect.density_reducers import LatentDensity, ProjectionDensity
from caft_lens.inspect.reading import read_once, reading
from caft_lens.model.lens import Lens
from caft_lens.saes.top_latents import Latents, TopLatents
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True)
class Survey:
    """What one reads of concepts.

    Attributes:
        contexts: Where they are most and least active.
        densities: How often and how strongly.
    """

    contexts: Contexts
    densities: Densities


@takes_values
def survey(
    lens: Lens,
    concepts: ConceptSet | SAE | Sequence[SAE],
    texts: Sequence[Text],
    *,
    saes: SAE | Sequence[SAE] | None = None,
    k: int = 10,
    roles: Sequence[str] | None = None,
    window: tuple[int, int] = (12, 6),
    rank: Rank = "peak",
    scan: Scan = Scan(),
) -> Survey:
    """Contexts and densities of concepts, from one pass.

    Args:
        lens: The model that reads.
        concepts: Directions; or an SAE, or several at a hook point each, for all their latents.
        texts: The corpus.
        saes: SAEs whose latents are among the concepts, as for `contexts`.
        k: How many contexts at each end.
        roles: Roles of the tokens to look at; `None` for all.
        window: How many tokens to show before and after the peak.
        rank: By what texts are ranked, as for `contexts`.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        BadType: As `contexts`.
        ValueError: As `contexts`.

    Example:
        >>> read = cl.inspect.survey(base, concepts, corpus)
        >>> len(read.contexts["L1.pc1"].top), read.densities["L1.pc1"].quantile(0.99) > 0
        (10, True)
    """
    read = reading(lens, concepts, saes)
    reducers: list[Any] = []
    latents = latent_density = directions = direction_density = None
    if read.saes:
        latents = TopLatents(read.saes, k=k, window=window, rank=rank, latents=read.numbers)
        latent_density = LatentDensity(read.saes, read.numbers)
        reducers.append(Latents(latents, latent_density))
    if read.directions:
        directions = TopWindows(read.rows, k=k, window=window, rank=rank)
        direction_density = ProjectionDensity(read.rows)
        reducers += [directions, direction_density]
    read_once(lens, texts, reducers, roles, scan)
    densities = [one for one in (latent_density, direction_density) if one is not None]
    return Survey(collected(lens, texts, read, latents, directions), Densities.of(*densities, names=read))
