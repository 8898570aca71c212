"""How the scores of ranked concepts fall, hook point by hook point; of principal components, a scree plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display.theme import DEPTH, PAPER, VERMILION, at, axes, bold, faded, figure, note, room_for_key, said
from caft_lens.model.hook_names import short_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star", "pentagon", "hexagon")
EDGE = {"color": PAPER, "width": 0.7}
# More hook points than this are not told apart by name.
LEGIBLE = 12


def scores(
    concepts: ConceptSet | Mapping[str, ConceptSet], *, mark: Iterable[str] = (), title: str | None = None
) -> Figure:
    """Draw what concepts were ranked by against their rank, a line a hook point: a few stand out, or many are alike.

    Args:
        concepts: One ranked list, or several by name, each in a panel of its own.
        mark: Names of concepts to ring and name, in every panel that has them.
        title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.

    Raises:
        UnknownName: For a name in `mark` that is in none of the lists, with the nearest.
        ValueError: Without a list, or when the concepts of one were ranked by different things or by nothing.

    Example:
        >>> figure = cl.inspect.scores(concepts, mark=["L1.pc0"])
    """
    lists = {"": concepts} if isinstance(concepts, ConceptSet) else dict(concepts)
    if not lists:
        raise BadArgument("scores() needs at least one list of concepts.")
    measures = {name: _measure(name, one) for name, one in lists.items()}
    marked = [mark] if isinstance(mark, str) else list(mark)
    known = {name for one in lists.values() for name in one.names}
    for name in marked:
        if name not in known:
            raise UnknownName(f'scores(mark=): no concept "{name}" here.{nearest(name, sorted(known))}')
    hooks = list(dict.fromkeys(hook for one in lists.values() for hook in one.hooks))
    keyed = 1 < len(hooks) <= LEGIBLE
    drawn = figure(
        [380 if len(lists) > 1 else 460] * len(lists),
        [230],
        title=title,
        headings=list(lists),
        left=70,
        between=(76, 0),
        caption="Ringed: chosen." if marked else "",
        right=room_for_key(map(short_name, hooks)) if keyed else 24,
    )
    for place, (name, one) in enumerate(lists.items()):
        _panel(drawn, place, one, [one[other] for other in marked if other in one])
        x = {"title": "rank at its hook point", "dtick": max(1, -(-max(concept.rank for concept in one) // 10))}
        zero = {"rangemode": "tozero"} if min(concept.score for concept in one) >= 0 else {}
        axes(drawn, place, x=x, y={"title": measures[name], **zero})
    return drawn.update_layout(showlegend=keyed)


def _measure(name: str, one: ConceptSet) -> str:
    """What the concepts of a list were ranked by."""
    named = list(dict.fromkeys(concept.score_name for concept in one))
    if named == [""] or len(named) > 1:
        which = f'of "{name}" ' if name else ""
        what = f"ranked by {', '.join(said or 'nothing' for said in named)}"
        raise BadArgument(f"scores(): the concepts {which}are {what}: draw the list of one method.")
    return named[0]


def _panel(drawn: Figure, place: int, one: ConceptSet, marked: list[Concept]) -> None:
    for number, hook in enumerate(one.hooks):
        here = one.at(hook)
        colour = DEPTH[round((len(DEPTH) - 1) * number / max(1, len(one.hooks) - 1))]
        drawn.add_scatter(
            x=[concept.rank for concept in here],
            y=[concept.score for concept in here],
            mode="lines+markers",
            name=short_name(hook),
            line={"color": colour, "width": 1.6},
            marker={"symbol": MARKERS[number % len(MARKERS)], "size": 7.5, "color": colour, "line": EDGE},
            hoverinfo="text",
            showlegend=place == 0,
            legendgroup=short_name(hook),
            hovertext=[
                said(c.name, f"rank {c.rank} at {hook}", f"{c.score_name}: {c.score:.4g}", c.label) for c in here
            ],
            **at(place),
        )
    if marked:
        drawn.add_scatter(
            x=[concept.rank for concept in marked],
            y=[concept.score for concept in marked],
            mode="markers",
            hoverinfo="skip",
            showlegend=False,
            marker={"symbol": "circle-open", "size": 17, "color": VERMILION, "line": {"width": 2}},
            **at(place),
        )
    beside = {f"{axis[0]}ref": name for axis, name in at(place).items()}
    for concept in marked:
        around = {"xshift": 11, "yshift": 11, "bgcolor": faded(PAPER, 0.7)}
        note(drawn, bold(concept.name), concept.rank, concept.score, **beside, **around)
