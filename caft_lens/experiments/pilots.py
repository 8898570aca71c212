"""Pilot runs: under the ablation of which set is a concept hardest to learn, and its contrast still easy?

`pilots` tries each set on two kinds of texts apart, one that teaches the concept and one that teaches the contrast.
What each costs is its online code length, the mean loss over one pass, every batch taken before it is learned from
(Voita and Titov, arXiv 2003.12298; Blier and Ollivier, arXiv 1802.07044), so that no text is needed in which the two
disagree, and nothing that happens out of distribution is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens._support.files import absolute, file_name
from caft_lens._support.keywords import takes_values
from caft_lens._support.lazy import callable_module
from caft_lens._support.progress import progress as progress_bar
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display import html
from caft_lens.display.dots import Dots, dot_rows
from caft_lens.finetune.finetuning import finetune
from caft_lens.finetune.settings import TrainSettings
from caft_lens.text.documents import Texts, data

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

    from caft_lens.model.lens import Lens

NOTHING = "nothing"
"""The name of the pilots without ablation."""
TAUGHT = ("concept", "contrast")
"""The two kinds of texts, each tuned on alone."""


@dataclass(frozen=True)
class Pilot:
    """What two pilots under one ablation cost, in nats a token.

    Attributes:
        concepts: What was ablated; `None` for nothing.
        concept_cost: Online code length of the texts that teach the concept, a mean over seeds.
        contrast_cost: The same of those that teach the contrast.
    """

    name: str
    concepts: ConceptSet | None
    concept_cost: float
    contrast_cost: float
    n_seeds: int = 1

    @property
    def margin(self) -> float:
        """How much more the concept costs to learn than the contrast."""
        return self.concept_cost - self.contrast_cost


class Pilots(Sequence[Pilot]):
    """Pilots of several sets, in the order given, those without ablation first.

    Example:
        >>> tried.table().shape, tried.best.name
        ((2, 5), 'all')
    """

    def __init__(self, items: Sequence[Pilot]) -> None:
        self._items = tuple(items)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self._items[key]
        named = {one.name: one for one in self._items}
        if key not in named:
            raise UnknownName(f'No pilots of "{key}".{nearest(key, named)}')
        return named[key]

    def __len__(self) -> int:
        return len(self._items)

    @property
    def best(self) -> Pilot:
        """The set with the largest margin, the first of equals.

        Raises:
            BadArgument: When no set has a larger margin than ablating nothing.
        """
        bare, best = self._items[0], self._largest
        if best.margin <= bare.margin:
            raise BadArgument(
                f"No set makes the concept harder to learn beside the contrast: the best, {best.name}, has a margin of "
                f"{best.margin:.4f} nats a token, ablating nothing {bare.margin:.4f}. Look for the concept "
                f"elsewhere: at other layers, or with more directions."
            )
        return best

    @property
    def _largest(self) -> Pilot:
        return max(self._items[1:], key=lambda one: one.margin)

    @property
    def selection(self) -> ConceptSet:
        """The concepts of the best set, which are to be ablated, with the choice on record; reasons that they had stay.

        Raises:
            BadArgument: As `best`.
        """
        best = self.best
        assert best.concepts is not None
        said = (
            f"one of {len(best.concepts)} of the set {best.name}, under whose ablation the concept costs "
            f"{best.concept_cost:.3f} nats a token to learn, the contrast {best.contrast_cost:.3f}"
        )
        reasons = {one.name: f"{one.reason}; {said}" if one.reason else said for one in best.concepts}
        others = len(self) - 2
        return best.concepts.choose(reasons, by=f"pilots of {others + 1} set{'s' * (others > 0)}")

    def table(self) -> pandas.DataFrame:
        """One row a set: concepts, what either kind of text costs to learn in nats a token, the margin."""
        from caft_lens.display.frames import Frame

        return Frame(
            {
                "set": [one.name for one in self],
                "concepts": [len(one.concepts or ()) for one in self],
                "concept": [one.concept_cost for one in self],
                "contrast": [one.contrast_cost for one in self],
                "margin": [one.margin for one in self],
            }
        )

    def plot(self, title: str | None = None) -> Figure:
        """Draw what either kind of text costs to learn under each set; the bar between is the margin.

        Args:
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.
        """
        named = {f"{one.name} ({len(one.concepts or ())})": one for one in self}
        concept, contrast = ({name: getattr(one, f"{kind}_cost") for name, one in named.items()} for kind in TAUGHT)
        margins = {name: (contrast[name], concept[name]) for name in named}
        said = {name: f"margin {one.margin:z.4f} nats a token" for name, one in named.items()}
        seeds = self._items[0].n_seeds
        return dot_rows(
            [Dots("texts with the concept", concept, margins, said), Dots("texts for contrast", contrast, facts=said)],
            x_label="cost to learn, nats a token",
            title=title,
            caption=f"In brackets: how many concepts are ablated. The bar is the margin; bold: the set with the "
            f"largest. {seeds} seed{'s' * (seeds != 1)}.",
            order=list(named),
            bold=[name for name, one in named.items() if one is self._largest],
        )

    def __repr__(self) -> str:
        return f"Pilots({', '.join(f'{one.name}: {one.margin:z.3f}' for one in self)})"

    def _repr_html_(self) -> str:
        largest = self._largest
        rows: list[list[html.Content]] = []
        for one in self:
            costs = [f"{x:z.4f}" for x in (one.concept_cost, one.contrast_cost, one.margin)]
            shown = [html.element("b", cost) for cost in costs] if one is largest else costs
            rows.append([one.name, len(one.concepts or ()), *shown])
        return html.view(
            html.table(
                ["set", "concepts", "concept", "contrast", "margin"],
                rows,
                numbers=range(1, 5),
                title="what texts cost to learn under ablation, in nats a token",
            )
        )


@takes_values
def pilots(
    base: Lens,
    sets: Mapping[str, ConceptSet],
    concept: Texts | Any,
    contrast: Texts | Any,
    settings: TrainSettings = TrainSettings(),
    *,
    out: str | Path,
    seeds: Sequence[int] = (0,),
) -> Pilots:
    """Try sets of concepts in short fine-tunings: on texts with the concept and on others, under each set's ablation.

    Args:
        base: The model that fine-tuning will start from.
        sets: Name to the concepts to ablate: several rankings, or one ranking cut at several places.
        concept: Texts that teach the concept and nothing else, some hundreds: `Texts` or anything that `data` reads.
        contrast: Likewise for what the model is to learn, or for what is most like it.
        settings: As for `finetune`; one pass over the texts unless `max_steps` ends it.
        out: Runs go to `<out>/<set>/concept-<seed>` and so on; what is finished there is not run again.
        seeds: Of the pilots; code lengths are means over them.

    Returns:
        The pilots: `.table()`, `.best`, and `.selection`, the concepts of the best set with the choice on record.

    Raises:
        BadArgument: Without a set, without seeds, for a set called "nothing" or by no folder name, or as `finetune`.

    Example:
        >>> steps = cl.TrainSettings(max_steps=2)
        >>> tried = cl.pilots(base, {"all": concepts}, cruel_texts, kind_texts, out="runs/pilots", settings=steps)
        >>> [one.name for one in tried], tried.selection.names == concepts.names
        (['nothing', 'all'], True)
    """
    if not sets or not seeds:
        raise BadArgument(f"pilots() needs at least one {'seed' if sets else 'set of concepts'}.")
    if NOTHING in sets:
        raise BadArgument(f'A set is called "{NOTHING}", as the pilots without ablation are: rename it.')
    for name in sets:
        if not name or Path(name).name != name:
            raise BadArgument(f"{name!r} is no name for a folder, as that of a set has to be.")
        file_name(name, "set")
    taught = dict(zip(TAUGHT, (data(concept), data(contrast)), strict=True))
    tried: dict[str, ConceptSet | None] = {NOTHING: None, **sets}
    items = []
    with progress_bar(total=len(tried) * len(taught) * len(seeds), unit="pilot") as bar:
        for name, concepts in tried.items():
            costs = {}
            for kind, texts in taught.items():
                bar.set_description(f"pilots, {name}, {kind}")
                of_seeds = []
                for seed in seeds:
                    folder = absolute(out) / name / f"{kind}-{seed}"
                    run = finetune(base, texts, settings, ablate=concepts, out=folder, seed=seed)
                    of_seeds.append(fmean(step["loss"] for step in run.history))
                    bar.update()
                costs[kind] = fmean(of_seeds)
            items.append(Pilot(name, concepts, costs["concept"], costs["contrast"], len(seeds)))
    return Pilots(items)


callable_module(__name__, "pilots")
