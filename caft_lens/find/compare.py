"""Ranked lists of concepts side by side: do two routes find the same? What chance gives stands beside each figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np
import pandas

from caft_lens._support.arguments import number
from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch, UnknownName, nearest
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display import html
from caft_lens.display.frames import Frame
from caft_lens.display.heat_maps import LETTERS, Shades, cell_size, draw_map, room_beside, room_under
from caft_lens.display.theme import DEPTH, PAPER, axes, figure, small
from caft_lens.model.hook_names import short_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Paper to the palette's blue and beyond, lightness falling all the way: it reads in grey.
SHADES = (PAPER, DEPTH[2], DEPTH[4])
LEGIBLE = 11
"""Pixels of a cell that has room for a name beside it."""


class Comparison:
    """Lists of concepts, lined up.

    Args:
        lists: Name -> concepts, two at least, as they were cut to the first `k`.
        alike: From which |cosine| on two concepts count as the same.

    Example:
        >>> from caft_lens.concepts.concept_set import Concept
        >>> x, y, z = np.eye(3)
        >>> def found(*rows):
        ...     return ConceptSet(Concept(f"L1.c{i}", "blocks.1.hook_resid_post", row) for i, row in enumerate(rows))
        >>> both = compare({"one": found(x, y), "other": found(-y, z)})
        >>> both.matches("one", "other")[["name", "match", "cosine"]].values.tolist()
        [['L1.c0', 'L1.c0', 0.0], ['L1.c1', 'L1.c0', -1.0]]
    """

    def __init__(self, lists: Mapping[str, ConceptSet], alike: float) -> None:
        self.lists, self.alike = dict(lists), alike

    @cached_property
    def overlap(self) -> pandas.DataFrame:
        """One row for every two lists and hook point that both have.

        `overlap`: the mean squared cosine of the principal angles between the spans (`ConceptSet.overlap`); `chance`:
        its average when one span is random, the dimensions of the larger over d_model; `dims_a`, `dims_b`: dimensions.
        """
        rows = []
        for a, b in self._pairs(both_ways=False):
            for hook, share in self.lists[a].overlap(self.lists[b]).items():
                width, dims_a = self.lists[a].basis(hook).shape
                dims_b = self.lists[b].basis(hook).shape[1]
                rows.append(
                    {"a": a, "b": b, "hook": hook, "overlap": share, "chance": max(dims_a, dims_b) / width,
                     "dims_a": dims_a, "dims_b": dims_b}
                )  # fmt: skip
        return Frame(rows)

    def cosines(self, a: str, b: str, hook: str | int | None = None) -> pandas.DataFrame:
        """|Cosine| of each concept of `a` (rows) with each of `b` (columns); NaN across hook points.

        Args:
            a: A list.
            b: Another.
            hook: Only there; a layer number means its `hook_resid_post`.

        Raises:
            UnknownName: For a list or hook point that is not there.
        """
        return self._signed(a, b, hook).abs()

    def matches(self, a: str, b: str) -> pandas.DataFrame:
        """For each concept of `a` at a hook point of `b`, the one of `b` that is most like it.

        Columns: `hook`, `name`, `match`, `cosine` (negative where the two point apart: the same line, ends exchanged),
        `score` and `match_score` (each as its own method scores), `alike` (whether |cosine| is large enough to call
        them the same). One of `b` can be the match of several.
        """
        rows = []
        for hook in self._shared(a, b):
            signed = self._signed(a, b, hook).to_numpy()
            best = np.abs(signed).argmax(axis=1)
            theirs = list(self.lists[b].at(hook))
            for row, concept in enumerate(self.lists[a].at(hook)):
                match = theirs[int(best[row])]
                cosine = float(signed[row, best[row]])
                rows.append(
                    {"hook": hook, "name": concept.name, "match": match.name, "cosine": cosine,
                     "score": concept.score, "match_score": match.score, "alike": abs(cosine) >= self.alike}
                )  # fmt: skip
        return Frame(rows)

    @cached_property
    def agreement(self) -> pandas.DataFrame:
        """One row for every list against every other.

        `share`: of the concepts of `a` at hook points of `b`, how many are alike one of `b`; `chance`: the same of
        random directions; `n`: how many concepts that is of; `rank_correlation`: Spearman's, of the scores of those
        that are alike with their matches' scores, with its `p`; NaN for fewer than three of them or equal scores.
        """
        rows = []
        for a, b in self._pairs(both_ways=True):
            matches = self.matches(a, b)
            found = matches[matches["alike"]]
            correlation, p = _rank_correlation(found["score"].to_numpy(), found["match_score"].to_numpy())
            by_chance = matches["hook"].map({hook: self._by_chance(b, hook) for hook in self._shared(a, b)})
            rows.append(
                {"a": a, "b": b, "n": len(matches), "share": len(found) / len(matches),
                 "chance": float(by_chance.mean()), "rank_correlation": correlation, "p": p}
            )  # fmt: skip
        return Frame(rows)

    def plot(self, a: str | None = None, b: str | None = None, title: str | None = None) -> Figure:
        """Heat maps, one a hook point: of the overlap of every two lists, or of the |cosines| of two.

        Args:
            a: Rows of the map of |cosines|; with `b`.
            b: Its columns.
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.

        Raises:
            ValueError: When one of the two lists is given without the other.
        """
        if (a is None) != (b is None):
            raise BadArgument("plot() takes no list, for overlaps, or two, for the cosines between them.")
        return self._plot_overlap(title) if a is None or b is None else self._plot_cosines(a, b, title)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _list(self, name: str) -> ConceptSet:
        if name not in self.lists:
            raise UnknownName(f'No list "{name}" in this comparison.{nearest(name, self.lists)}')
        return self.lists[name]

    def _shared(self, a: str, b: str) -> list[str]:
        return [hook for hook in self._list(a).hooks if hook in self._list(b).hooks]

    def _pairs(self, both_ways: bool) -> list[tuple[str, str]]:
        """Every two lists that share a hook point."""
        pairs = permutations(self.lists, 2) if both_ways else combinations(self.lists, 2)
        return [(a, b) for a, b in pairs if self._shared(a, b)]

    @property
    def _hooks(self) -> list[str]:
        """Hook points that two lists share, in the order of the layers."""
        shared = {hook for a, b in self._pairs(both_ways=False) for hook in self._shared(a, b)}
        of = {concept.hook: (concept.layer, concept.site) for one in self.lists.values() for concept in one}
        return sorted(shared, key=lambda hook: of[hook])

    def _signed(self, a: str, b: str, hook: str | int | None = None) -> pandas.DataFrame:
        first, second = (self._list(name) if hook is None else self._list(name).at(hook) for name in (a, b))
        rows, columns = (np.stack([concept.direction.double().numpy() for concept in one]) for one in (first, second))
        apart = np.array([[one.hook != other.hook for other in second] for one in first])
        values = np.where(apart, np.nan, np.clip(rows @ columns.T, -1, 1))
        return Frame(values, index=first.names, columns=second.names)

    def _by_chance(self, b: str, hook: str) -> float:
        """How likely a random direction is alike one of those of `b` at a hook point, were these orthogonal."""
        from scipy.stats import beta

        n, width = self.lists[b].directions(hook).shape
        # The squared cosine with a fixed direction is Beta(1/2, (d - 1)/2) distributed.
        one = 1.0 if width == 1 else float(beta.sf(self.alike**2, 0.5, (width - 1) / 2))
        return 1.0 if one == 1 else -math.expm1(n * math.log1p(-one))

    def _plot_overlap(self, title: str | None) -> Figure:
        names = list(self.lists)
        maps, texts = [], []
        for hook in self._hooks:
            rows = self.overlap[self.overlap["hook"] == hook]
            values = np.full((len(names), len(names)), np.nan)
            words = [[""] * len(names) for _ in names]
            for a, b, share, chance in rows[["a", "b", "overlap", "chance"]].itertuples(index=False):
                for row, column in ((names.index(a), names.index(b)), (names.index(b), names.index(a))):
                    values[row, column] = share
                    words[row][column] = f"{share:.2f}<br>{small(f'{chance:.2f}', 8)}"
            maps.append((short_name(hook), names, names, values))
            texts.append(words)
        shades = Shades("overlap of the spans", limit=1.0, diverging=False, colours=SHADES)
        caption = "Overlap of the spans: mean squared cosine of the principal angles, 0 to 1; small: chance."
        return _panels(maps, shades, 46, title, caption, texts)

    def _plot_cosines(self, a: str, b: str, title: str | None) -> Figure:
        hooks = [hook for hook in self._hooks if hook in self._shared(a, b)]
        if not hooks:
            raise ConceptMismatch(f'"{a}" and "{b}" share no hook point.')
        parts = [self.cosines(a, b, hook) for hook in hooks]
        maps = [
            (short_name(hook), list(part.index), list(part.columns), part.to_numpy())
            for hook, part in zip(hooks, parts, strict=True)
        ]
        size = min(cell_size(part.shape) for part in parts)
        shades = Shades("|cosine|", limit=1.0, diverging=False, colours=SHADES)
        caption = "|Cosine| of each concept of one list with each of the other."
        return _panels(maps, shades, size, title, caption, labels=(b, a))

    def __repr__(self) -> str:
        return f"Comparison({', '.join(f'{name} ({len(one)})' for name, one in self.lists.items())})"

    def _repr_html_(self) -> str:
        overlap = self.overlap.assign(
            at=self.overlap["hook"].map(short_name),
            shown=[f"{share:.2f} ({chance:.2f})" for share, chance in self.overlap[["overlap", "chance"]].values],
        )
        spans = overlap.pivot_table("shown", ["a", "b"], "at", aggfunc="first", sort=False, fill_value="–")
        agreement = self.agreement.set_index(["a", "b"])
        rows = (
            ("Overlap of spans, share of the smaller that lies in the larger (by chance)", spans),
            (f"Agreement: share of a's concepts with |cosine| ≥ {self.alike:g} to one of b's", agreement),
        )
        return "".join(html.framed(frame, caption, float_format="{:.3g}".format, na_rep="–") for caption, frame in rows)


def compare(lists: Mapping[str, ConceptSet], *, k: int | None = None, alike: float = 0.7) -> Comparison:
    """Line up the concepts that several routes found.

    Args:
        lists: Name -> concepts, two at least, as `find.routes` gives them; some two have to share a hook point.
        k: Only the first `k` of each list at every hook point; all when `None`.
        alike: From which |cosine| on two concepts count as the same.

    Returns:
        A `Comparison`: `.overlap`, `.agreement`, `.cosines(a, b)`, `.matches(a, b)`, `.plot()`.

    Raises:
        ValueError: For fewer than two lists, other widths, no shared hook point, or `k` or `alike` out of range.

    Example:
        >>> found = cl.find.routes(tuned, base, answers, methods=["pca", "neurons"], layers=[1, 2])
        >>> cl.find.compare(found, k=10).agreement[["a", "b", "n", "share"]]
                 a        b   n  share
        0      pca  neurons  20    0.0
        1  neurons      pca  20    0.0
    """
    if len(lists) < 2:
        raise BadArgument(f"compare() takes two lists at least, {{name: concepts}}; got {len(lists)}.")
    for name, one in lists.items():
        if not isinstance(one, ConceptSet):
            raise BadType(f'compare(): "{name}" is {type(one).__name__}, expected a ConceptSet.')
    number(alike, "alike", above=0, most=1, hint="It is a |cosine|.")
    widths = {name: one.provenance["d_model"] for name, one in lists.items()}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise ConceptMismatch(f"compare(): lists of different width ({said}) come from different models.")
    found = Comparison({name: one if k is None else one.top(k) for name, one in lists.items()}, alike)
    if not found._hooks:
        places = "; ".join(f"{name} at {', '.join(one.hooks)}" for name, one in lists.items())
        raise ConceptMismatch(f"compare(): no two lists share a hook point: {places}.")
    return found


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    from scipy.stats import spearmanr

    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return math.nan, math.nan
    found = spearmanr(one, other)
    return float(found.statistic), float(found.pvalue)


def _panels(
    maps: Sequence[tuple[str, list[str], list[str], np.ndarray]],
    shades: Shades,
    size: float,
    title: str | None,
    caption: str,
    texts: Sequence[Sequence[Sequence[str]]] | None = None,
    labels: tuple[str, str] = ("", ""),
) -> Figure:
    """Maps of one scale, each with a heading, in about as many rows as columns."""
    across = math.ceil(math.sqrt(len(maps)))
    down = math.ceil(len(maps) / across)
    tall, wide = (max(values.shape[axis] for *_, values in maps) for axis in (0, 1))
    named = size >= LEGIBLE
    beside = room_beside([name for _, rows, _, _ in maps for name in rows] if named else [], labels[1])
    under = room_under([name for _, _, columns, _ in maps for name in columns] if named else [], labels[0])
    drawn = figure(
        [size * wide] * across,
        [size * tall] * down,
        title=title,
        caption=caption,
        headings=[heading for heading, *_ in maps],
        left=beside,
        right=max(96, 440 - beside - size * wide * across),
        below=under,
        between=(beside + 14, under + 2.6 * LETTERS),
    )
    for place in range(across * down):
        if place >= len(maps):
            axes(drawn, place, x={"visible": False}, y={"visible": False})
            continue
        _, rows, columns, values = maps[place]
        draw_map(
            drawn, place, values, rows, columns, shades, texts=None if texts is None else texts[place],
            ticks=None if named else ([""] * len(rows), [""] * len(columns)),
        )  # fmt: skip
        axes(drawn, place, x={"title": labels[0]}, y={"title": labels[1]})
    return drawn
