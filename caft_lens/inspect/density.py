"""How often and how strongly concepts are active on a corpus, in one pass: densities, histograms, and their figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas

from caft_lens._support.by_name import ByName
from caft_lens._support.keywords import takes_values
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display import html
from caft_lens.display.frames import Frame
from caft_lens.inspect.density_figures import plot_densities, plot_density
from caft_lens.inspect.density_reducers import Density, LatentDensity, ProjectionDensity
from caft_lens.inspect.reading import Reading, read_once, reading
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from sae_lens import SAE


class Densities(ByName[Density]):
    """Densities of concepts, by name.

    Args:
        items: One a concept; as a rule `cl.inspect.density` measures them.

    Example:
        >>> found = cl.inspect.density(base, sae, corpus)
        >>> found.table().shape  # a row a latent
        (512, 5)
        >>> figure = found.plot("L2.latent417")
    """

    _what = "density"

    def __init__(self, items: Iterable[Density]) -> None:
        self._items = {item.name: item for item in items}

    @classmethod
    def of(cls, *reducers: LatentDensity | ProjectionDensity, names: Reading | None = None) -> Densities:
        """What reducers found in a pass of one's own, shared with others.

        Args:
            reducers: They have seen the pass.
            names: What to call the rows; by default latents as `find.sae` names them.

        Example:
            >>> from caft_lens.activations.differences import stream
            >>> from caft_lens.saes.top_latents import Latents, TopLatents
            >>> top, shares = TopLatents({hook: sae}), LatentDensity({hook: sae})
            >>> _ = stream(base, corpus, [hook], Latents(top, shares), roles=None)
            >>> len(Densities.of(shares).dead) < 512
            True
        """
        found: dict[str, Density] = {}
        for reducer in reducers:
            rows = names.row_of if names and isinstance(reducer, ProjectionDensity) else None
            found |= {item.name: item for item in reducer.densities(names.latents if names and rows is None else rows)}
        return cls(found[name] for name in (names.names if names else found))

    @property
    def dead(self) -> list[str]:
        """Names of the latents that were nowhere active."""
        return [name for name, item in self.items() if item.active == 0]

    def table(self) -> pandas.DataFrame:
        """One row a concept, to be sorted.

        Columns: `hook`; of latents `density` (share of tokens at which it is active), `texts` (in how many it is), and
        `mean` and `max` when active; of directions those, `min`, `std` and quantiles `q1` to `q99` of all projections.
        """
        return Frame.from_dict({name: item.row for name, item in self.items()}, orient="index")

    def plot(self, name: str | None = None) -> Figure:
        """Draw the histogram of one concept; or, without a name, how the densities of all latents are spread.

        Args:
            name: Of the concept.

        Returns:
            A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.

        Raises:
            UnknownName: For an unknown name, with the nearest.
            ValueError: For a dead latent; without a name, when there are only directions.
        """
        return plot_densities(list(self.values())) if name is None else plot_density(self[name])

    def __repr__(self) -> str:
        tokens = max((item.tokens for item in self.values()), default=0)
        dead = f", {len(self.dead):,} of them dead" if self.dead else ""
        return (
            f"Densities({len(self):,} concept{'' if len(self) == 1 else 's'}{dead}, on {tokens:,} tokens; "
            f"table(), plot() and plot(name) show them)"
        )

    def _repr_html_(self) -> str:
        return html.framed(self.table(), repr(self), max_rows=20, float_format="{:.4g}".format)


@takes_values
def density(
    lens: Lens,
    concepts: ConceptSet | SAE | Sequence[SAE],
    texts: Iterable[Text],
    *,
    saes: SAE | Sequence[SAE] | None = None,
    roles: Sequence[str] | None = None,
    scan: Scan = Scan(),
) -> Densities:
    """How often and how strongly each concept is active, for all concepts in one pass.

    Of an SAE's latent: at what share of the tokens it is active and in how many texts, its mean and maximum when
    active, and a histogram. Of a direction: mean, standard deviation and histogram of the projection on all tokens.

    Args:
        lens: The model that reads: the base, or one tuned from it.
        concepts: Directions; or an SAE, or several at a hook point each, for all their latents.
        texts: The corpus; memory does not grow with it.
        saes: SAEs whose latents are among the concepts, as for `contexts`.
        roles: Roles of the tokens to look at; `None` for all.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        BadType: When `concepts` is neither a set of concepts nor SAEs.
        ValueError: When concepts or SAEs do not fit the model, no concept is a latent of `saes`, or no token counts.

    Example:
        >>> found = cl.inspect.density(base, concepts, corpus)
        >>> round(found["L1.pc0"].maximum, 1), round(found["L1.pc0"].quantile(0.5), 1)
        (6.0, -0.1)
    """
    read = reading(lens, concepts, saes)
    reducers: list[Any] = []
    if read.saes:
        reducers.append(LatentDensity(read.saes, read.numbers))
    if read.directions:
        reducers.append(ProjectionDensity(read.rows))
    read_once(lens, texts, reducers, roles, scan)
    return Densities.of(*reducers, names=read)
