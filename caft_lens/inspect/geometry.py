"""How directions lie to one another, across layers: the cosine of every pair, and the neighbours of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas
import torch
from einops import einsum
from numpy.typing import NDArray

from caft_lens._support.arguments import count, one_of
from caft_lens._support.errors import BadArgument, ConceptMismatch
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display.frames import Frame
from caft_lens.display.heat_maps import Shades, heat_map
from caft_lens.display.theme import short

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Order = Literal["layer", "cluster"]

# More labels than this on an axis would not be readable.
_LABELS = 60
# Directions that are compared at a time.
_PIECE = 4096


@dataclass(frozen=True)
class Cosines:
    """Cosines of all pairs of some concepts.

    Attributes:
        concepts: In the order of the rows.
        values: `[n_concepts, n_concepts]`, float64, -1 to 1.
    """

    concepts: tuple[Concept, ...]
    values: NDArray[np.float64]

    def table(self) -> pandas.DataFrame:
        """The cosines, concepts by concepts, by name."""
        names = [concept.name for concept in self.concepts]
        return Frame(self.values, index=names, columns=names)

    def order(self, by: Order = "layer") -> list[int]:
        """The concepts' places in the order in which `plot` draws them.

        Args:
            by: `"layer"`, within a hook point as they stand; or `"cluster"`, by average linkage of 1 - |cosine|, for
                which both ends count alike, with the leaves in optimal order (scipy).

        Raises:
            ValueError: For another order.
        """
        one_of(by, "order", get_args(Order))
        if by == "layer":
            return sorted(range(len(self.concepts)), key=lambda i: (self.concepts[i].layer, self.concepts[i].site))
        if len(self.concepts) < 3:
            return list(range(len(self.concepts)))
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        distances = 1 - np.abs(self.values)
        np.fill_diagonal(distances, 0)
        tree = linkage(squareform(distances.clip(min=0), checks=False), method="average", optimal_ordering=True)
        return leaves_list(tree).tolist()

    def plot(self, order: Order = "layer", title: str | None = None) -> Figure:
        """Draw them as a map, blue for -1, white for 0, orange for +1.

        Args:
            order: `"layer"`, with a line between hook points, or `"cluster"` (see `order`).
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.
        """
        places = self.order(order)
        chosen = [self.concepts[place] for place in places]
        names = [f"{c.name} {c.label}".strip() for c in chosen]
        groups = [c.hook for c in chosen]
        borders = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]] if order == "layer" else []
        ticks = [short(name, 40) for name in names]
        if len(names) > _LABELS:
            ticks = _one_a_group(groups) if order == "layer" else [""] * len(names)
        width = self.concepts[0].direction.numel()
        ordered = "by layer; lines part hook points" if order == "layer" else "by clusters of 1 − |cosine|"
        return heat_map(
            self.values[np.ix_(places, places)],
            names,
            names,
            shades=Shades("Cosine", limit=1.0),
            title=title,
            caption=f"{len(chosen)} directions, ordered {ordered}.\nOf random directions of this width, 95 % lie "
            f"within ±{1.96 / width**0.5:.2f}.",
            ticks=(ticks, ticks),
            borders=(borders, borders),
        )

    def __repr__(self) -> str:
        shown = self.table().round(2).to_string(max_rows=12, max_cols=12)
        return f"Cosines({len(self.concepts)} concept{'s' * (len(self.concepts) != 1)})\n{shown}"

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {**self.plot()._repr_mimebundle_(), "text/plain": repr(self)}


def cosines(concepts: ConceptSet | Sequence[Concept]) -> Cosines:
    """The cosine of every two of some concepts, whatever their layers.

    Args:
        concepts: Directions of one width, up to a few hundred for a map that can be read.

    Raises:
        ValueError: When there is none, or widths differ.

    Example:
        >>> x, y = torch.eye(2)
        >>> pair = [Concept("L0.a", "blocks.0.hook_resid_post", x), Concept("L1.b", "blocks.1.hook_resid_post", x + y)]
        >>> cosines(pair).table().loc["L0.a", "L1.b"].round(3)
        np.float64(0.707)
        >>> figure = cosines(concepts).plot(order="cluster")
    """
    chosen = tuple(concepts)
    if not chosen:
        raise BadArgument("cosines() needs at least one concept.")
    widths = sorted({concept.direction.numel() for concept in chosen})
    if len(widths) > 1:
        raise ConceptMismatch(f"Directions of widths {widths} have no cosines: they are of different models or sites.")
    rows = torch.stack([concept.direction for concept in chosen]).double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    cosines = einsum(rows, rows, "one d_model, other d_model -> one other")
    return Cosines(chosen, cosines.clamp(-1, 1).numpy())


def neighbours(concepts: Sequence[Concept], concept: Concept, k: int = 8) -> list[tuple[Concept, float]]:
    """The concepts whose directions are most like one, or most like its opposite, whatever their layers.

    Args:
        concepts: Where to look; thousands are fine. The concept itself is left out.
        concept: The one.
        k: How many at most.

    Returns:
        Concepts with their cosines, the largest magnitude first.

    Raises:
        ValueError: For fewer than one, or when widths differ.

    Example:
        >>> x, y = torch.eye(2)
        >>> rows = {"a": x, "b": x + y, "c": -x}
        >>> a, b, c = (Concept(name, "blocks.0.hook_resid_post", row) for name, row in rows.items())
        >>> [(one.name, round(cosine, 3)) for one, cosine in neighbours([a, b, c], a)]
        [('c', -1.0), ('b', 0.707)]
    """
    count(k, "k")
    others = [one for one in concepts if one is not concept]
    width = concept.direction.numel()
    strange = next((one for one in others if one.direction.numel() != width), None)
    if strange is not None:
        widths = f'"{strange.name}" is {strange.direction.numel()} wide, "{concept.name}" {width}'
        raise ConceptMismatch(f"{widths}: they come from different models.")
    # In pieces: a second copy of a wide SAE's decoder need not be held.
    pieces = [
        torch.stack([one.direction for one in others[start : start + _PIECE]]) @ concept.direction
        for start in range(0, len(others), _PIECE)
    ]
    if not pieces:
        return []
    cosines = torch.cat(pieces).clamp(-1, 1)
    best = cosines.abs().sort(descending=True, stable=True).indices[:k].tolist()
    return [(others[place], float(cosines[place])) for place in best]


def _one_a_group(groups: Sequence[str]) -> list[str]:
    """A label in the middle of every run of equal names, and none elsewhere."""
    labels: list[str] = []
    for name, run in groupby(groups):
        size = len(list(run))
        labels += [name if place == (size - 1) // 2 else "" for place in range(size)]
    return labels
