"""How the scores of ranked concepts fall, hook point by hook point: a few that stand out, or many alike.

Of principal components this is the share of variance that each explains (a scree plot), of latents whatever they were ranked by.
What stands out is not what is meant: `mark` rings the concepts that a reader chose, wherever in the list they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from caft_lens._support.errors import nearest
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display.theme import BLUE, FAINT, INK, QUIET, VERMILION, shown_figure
from caft_lens.model.hook_names import short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "os^Dv<>P*X"
# More hook points than this are not told apart by name.
LEGIBLE = 12


def scores(
    concepts: ConceptSet | Mapping[str, ConceptSet],
    *,
    mark: Iterable[str] = (),
    title: str | None = None,
) -> Figure:
    """Draw what concepts were ranked by against their rank, a line a hook point.

    Args:
        concepts: One ranked list, or several by name, each in a panel of its own.
        mark: Names of concepts to ring and name, in every panel that has them.
        title: Above the figure.

    Returns:
        A figure of its own, not pyplot's: the last line of a cell shows it, `savefig` keeps it.

    Raises:
        KeyError: For a name in `mark` that is in none of the lists, with the nearest.
        ValueError: Without a list, or when the concepts of one were ranked by different things or by nothing.

    Example:
        >>> figure = cl.inspect.scores(concepts, mark=["L1.pc0"])
    """
    lists = {"": concepts} if isinstance(concepts, ConceptSet) else dict(concepts)
    if not lists:
        raise ValueError("scores() needs at least one list of concepts.")
    measures = {name: _measure(name, one) for name, one in lists.items()}
    marked = [mark] if isinstance(mark, str) else list(mark)
    known = {name for one in lists.values() for name in one.names}
    for name in marked:
        if name not in known:
            raise KeyError(f'scores(mark=): no concept "{name}" here.{nearest(name, sorted(known))}')
    figure = shown_figure(
        figsize=(1.2 + 4.4 * len(lists), 3.3 + (0.35 if title else 0)), layout="constrained"
    )
    panels = figure.subplots(1, len(lists), squeeze=False)[0]
    for axes, (name, one) in zip(panels, lists.items(), strict=True):
        _panel(axes, one, [one[other] for other in marked if other in one])
        axes.set_title(name, loc="left", fontsize=10, color=INK)
        axes.set_ylabel(measures[name], fontsize=9, color=INK)
    hooks = list(dict.fromkeys(hook for one in lists.values() for hook in one.hooks))
    if 1 < len(hooks) <= LEGIBLE:
        panels[-1].legend(fontsize=8.5, frameon=False, labelcolor=INK)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def _measure(name: str, one: ConceptSet) -> str:
    """What the concepts of a list were ranked by."""
    named = list(dict.fromkeys(concept.score_name for concept in one))
    if named == [""] or len(named) > 1:
        which = f'of "{name}" ' if name else ""
        what = f"ranked by {', '.join(said or 'nothing' for said in named)}"
        raise ValueError(f"scores(): the concepts {which}are {what}: draw the list of one method.")
    return named[0]


def _panel(axes: Any, one: ConceptSet, marked: list[Concept]) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patheffects import withStroke

    # From light to dark with depth, so that layers stay in order in grey as well.
    shade = LinearSegmentedColormap.from_list("depth", ["#8CC3E8", BLUE, "#00263D"])
    for place, hook in enumerate(one.hooks):
        here = one.at(hook)
        axes.plot(
            [concept.rank for concept in here],
            [concept.score for concept in here],
            color=shade(place / max(1, len(one.hooks) - 1)),
            marker=MARKERS[place % len(MARKERS)],
            markersize=4.5,
            linewidth=1.2,
            label=short_name(hook),
        )
    axes.margins(y=0.12)  # room for the names of what stands highest
    for concept in marked:
        axes.plot(concept.rank, concept.score, "o", markersize=12, mfc="none", mec=VERMILION, mew=1.6)
        axes.annotate(
            concept.name,
            (concept.rank, concept.score),
            xytext=(8, 7),
            textcoords="offset points",
            fontsize=9,
            color=VERMILION,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    axes.set_xlabel("rank at its hook point", fontsize=9, color=INK)
    if min(concept.score for concept in one) >= 0:
        axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(length=0, labelsize=8.5, colors=QUIET)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
