"""Is an ablated concept gone, or encoded elsewhere? Tuned models beside the base, at the hook points of the ablation.

    change    activations of the model minus those of the base: how much of that energy lies in the ablated subspace
    refit     principal components of that change, as a search would find them anew: does a direction come back?
    probe     how well text with the concept is told from text without, held out, by several views of the activations

Refitting probes after an erasure is Ravfogel et al. (arXiv 2004.07667) and Elazar et al. (arXiv 2006.00995).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from caft_lens._support import lazy
from caft_lens._support.errors import BadArgument, UnknownName
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import activation_difference, provenance
from caft_lens.activations.moments import Moments
from caft_lens.concepts.ablation import project_out
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display import html
from caft_lens.display.theme import said
from caft_lens.evaluate.plots import Bar, plot_recovery
from caft_lens.find import random_directions
from caft_lens.find.pca import pca
from caft_lens.find.probes import ProbeFit, TextMeans, Units, held_out, labelled_activations
from caft_lens.model.hook_names import full_name, short_name
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

    from caft_lens.model.lens import Lens

Floats = NDArray[np.float64]

VIEWS = ("whole", "inside", "outside", "random")
"""What a probe sees: the activation, its part in the ablated subspace, what is left without that, random directions."""

RANDOM_DRAWS = 5
"""How often random directions, as many as the ablated subspace has dimensions, are drawn for the probes."""
# Of random directions, how many do not come as near to the components as what `chance` says.
CHANCE = 0.95
DRAWS = 10_000
# A coordinate that keeps less than this share of its spread holds rounding, which a probe would scale up again.
SMALLEST_SPREAD = 1e-9


@dataclass(frozen=True)
class Refit:
    """One ablated direction among the principal components of a model's change.

    Attributes:
        name: Of the concept.
        component: The component that is most like it.
        cosine: |Cosine| with that.
        span: |Cosine| with the span of all components: the length of its projection.
        chance: What the |cosine| of 95 % of random directions with the nearest component stays below.
        span_chance: The same with the span.
        shift: Mean of the change along the direction, in units of the residual stream. While a direction is ablated no
            gradient says what to write along it, so that a model may drift there, either way: the sign tells which.
    """

    name: str
    component: str
    cosine: float
    span: float
    chance: float
    span_chance: float
    shift: float


@dataclass(frozen=True)
class Change:
    """What fine-tuning changed at one hook point.

    Attributes:
        size: Root mean square length of the change, in units of the residual stream.
        inside: Share of its energy (squared length) in the ablated subspace.
        chance: The share in any subspace of as many dimensions, on average over all: dimensions over width.
        refit: One for each ablated direction.
    """

    size: float
    inside: float
    chance: float
    refit: tuple[Refit, ...]

    @property
    def most(self) -> Refit:
        """The ablated direction that comes back most."""
        return max(self.refit, key=lambda one: one.cosine)


@dataclass(frozen=True)
class Recovered:
    """One model at one hook point.

    Attributes:
        model: Its name among those compared.
        hook: The hook point.
        dims: Dimensions of the ablated subspace there.
        change: Against the base; `None` for the base itself.
        auroc: By view (`VIEWS`), the AUROC on each fold; for `"random"` the mean over the folds of each draw.
    """

    model: str
    hook: str
    dims: int
    change: Change | None
    auroc: Mapping[str, tuple[float, ...]]

    def mean(self, view: str) -> float:
        """Mean AUROC of a view."""
        return float(np.mean(self.auroc[view]))

    def spread(self, view: str) -> float:
        """Standard deviation of it over the folds (or draws)."""
        return float(np.std(self.auroc[view], ddof=1))


class Recovery:
    """Models at the hook points of an ablation.

    Args:
        rows: One for each model and hook point, model by model.
        about: Base, data, roles and settings.

    Example:
        >>> flat = {view: (0.9, 1.0) for view in VIEWS}
        >>> found = Recovery([Recovered("caft", "blocks.1.hook_resid_post", 1, None, flat)], about={})
        >>> found["caft", 1].mean("whole")
        0.95
    """

    def __init__(self, rows: Iterable[Recovered], about: Mapping[str, Any]) -> None:
        self.rows, self.about = tuple(rows), dict(about)

    @property
    def models(self) -> list[str]:
        """Names of the models, in order."""
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def hooks(self) -> list[str]:
        """The hook points, in order."""
        return list(dict.fromkeys(row.hook for row in self.rows))

    def __getitem__(self, key: tuple[str, str | int]) -> Recovered:
        """One model at one hook point; a layer number means its `hook_resid_post`.

        Raises:
            KeyError: When it was not measured.
        """
        model, hook = key
        name = full_name(hook)
        for row in self.rows:
            if (row.model, row.hook) == (model, name):
                return row
        raise UnknownName(f'"{model}" at {name} was not measured: there are {self.models} at {self.hooks}.')

    def table(self) -> pandas.DataFrame:
        """One row a model and hook point.

        `dims`: of the ablated subspace; `change`, `share inside`, `chance`: as in `Change`; `cosine`, `span` and what
        random directions have: of the ablated direction that comes back most; `AUROC whole` and so on: the mean of each
        view, and its standard deviation.
        """
        from caft_lens.display.frames import Frame

        return Frame([_as_row(row) for row in self.rows])

    def directions(self) -> pandas.DataFrame:
        """One row a model and ablated direction: the component of the change that is most like it, and the cosines."""
        from caft_lens.display.frames import Frame

        return Frame(
            [
                {"model": row.model, "hook": row.hook, **asdict(one)}
                for row in self.rows
                if row.change is not None
                for one in row.change.refit
            ]
        )

    def plot(self, title: str | None = None) -> Figure:
        """Draw share of the change, cosines and probes, a row for each model and hook point.

        Args:
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.
        """
        rows = [self[model, hook] for hook in self.hooks for model in self.models]
        names = [f"{row.model}, {short_name(row.hook)}" for row in rows]
        shares, cosines = [], []
        for place, (name, row) in enumerate(zip(names, rows, strict=True)):
            if (change := row.change) is None:
                continue
            inside, chance = 100 * change.inside, 100 * change.chance
            energy = f"{inside:.3g} % of the change's energy lies in the ablated subspace of {row.dims} dimensions"
            shares.append(Bar(place, inside, chance, said(name, f"{energy}, by chance {chance:.3g} %")))
            one = change.most
            said_of = (
                f"{one.name}: |cosine| {one.cosine:.2f} with {one.component}, of random directions {one.chance:.2f}",
                f"with the span {one.span:.2f}, of random directions {one.span_chance:.2f}",
            )
            cosines.append(Bar(place, one.cosine, one.chance, said(name, *said_of)))
        areas = {view: [(row.mean(view), row.spread(view)) for row in rows] for view in VIEWS}
        counts = ", ".join(f"{self.about[key]} {key}" for key in ("folds", "draws") if key in self.about)
        return plot_recovery(names, shares, cosines, areas, title, f"{counts}." if counts else "")

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "about": self.about,
            "rows": [
                {**asdict(row), "auroc": {view: list(folds) for view, folds in row.auroc.items()}} for row in self.rows
            ],
        }

    def __repr__(self) -> str:
        return f"Recovery({', '.join(self.models)})\n{self.table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return html.framed(self.table().round(3), index=False, na_rep="")


def _as_row(row: Recovered) -> dict[str, Any]:
    found: dict[str, Any] = {"model": row.model, "hook": row.hook, "dims": row.dims}
    if row.change is not None:
        most = row.change.most
        found |= {
            "change": row.change.size,
            "share inside": row.change.inside,
            "chance": row.change.chance,
            "cosine": most.cosine,
            "random cosine": most.chance,
            "span": most.span,
            "random span": most.span_chance,
        }
    for view in VIEWS:
        found |= {f"AUROC {view}": row.mean(view), f"± {view}": row.spread(view)}
    return found


@takes_values
def recovery(
    models: Mapping[str, Lens],
    base: Lens,
    concepts: ConceptSet,
    texts: Texts | Iterable[Any],
    contrast: tuple[Texts | Iterable[Any], Texts | Iterable[Any]],
    *,
    roles: Sequence[str] | None = ("assistant",),
    k: int = 5,
    fit: ProbeFit = ProbeFit(),
    scan: Scan = Scan(),
) -> Recovery:
    """Whether models encode again what was ablated while they were trained.

    A model that only reads text encodes what the text says, the base as well: what a probe finds is a finding only
    beside what it finds in the base, and beside the random directions.

    Args:
        models: By name: the base itself, a plainly tuned model, one tuned with the concepts ablated, ….
        base: The model before fine-tuning.
        concepts: The ablated directions.
        texts: On which the change is measured, such as the tuned model's answers to general questions.
        contrast: Text with the concept, and text without it, for the probe.
        roles: Roles of the tokens to look at, everywhere; `None` for all.
        k: How many principal components of the change are refitted.
        fit: How a probe is fitted and scored. Texts that say the same are never parted, and the strength of the penalty
            is chosen within the folds that train (`find.probe`). A view takes folds * (folds * strengths + 1) fits:
            give fewer strengths where the model is wide. Its seed is that of random directions too.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        One row for each model and hook point.

    Raises:
        ValueError: Without a model, for concepts that do not fit one, a model that does not differ from the base at a
            hook point, fewer than four different texts of either kind.

    Example:
        >>> about = cruel_texts[:6], kind_texts[:6]
        >>> found = cl.evaluate.recovery({"tuned": tuned}, base, cruel, answers, about, k=1)
        >>> found.table().shape
        (1, 18)
        >>> figure = found.plot()
    """
    if not models:
        raise BadArgument('recovery() compares models by name: give at least one, such as {"caft": caft.lens}.')
    for lens in (base, *models.values()):
        concepts.check(lens)
    texts, positive, negative = (one if isinstance(one, Texts) else Texts(one) for one in (texts, *contrast))
    passes: dict[str, Any] = {"roles": roles, "scan": scan}
    random = [random_directions(concepts, fit.seed + draw) for draw in range(RANDOM_DRAWS)]
    rows = []
    for name, lens in models.items():
        changes = _changes(lens, base, concepts, texts, k, fit.seed, passes)
        kept = TextMeans(len(positive) + len(negative))
        units, _ = labelled_activations(lens, positive, negative, concepts.hooks, kept, **passes)
        for hook in concepts.hooks:
            ablated = _basis(concepts, hook)
            dims = ablated.shape[1]  # fewer than concepts, where these depend on each other
            beside = [_basis(one, hook)[:, :dims] for one in random]
            areas = _probed(units[hook], ablated, beside, fit)
            rows.append(Recovered(name, hook, dims, changes.get(hook), areas))
    read = {"change": texts, "positive": positive, "negative": negative}
    about = {
        **provenance(base, read, roles),
        "models": {name: lens.fingerprint for name, lens in models.items()},
        "readings": {name: lens.reading for name, lens in models.items()},
        "concepts": concepts.names,
        "k": k,
        "folds": fit.folds,
        "draws": RANDOM_DRAWS,
        "seed": fit.seed,
    }
    return Recovery(rows, about)


def _basis(concepts: ConceptSet, hook: str) -> Floats:
    """An orthonormal basis of what the concepts span there, `[d_model, dims]`."""
    return concepts.basis(hook, dtype=torch.float64).numpy()


# -- the change -------------------------------------------------------------------------------------------------------


def _changes(
    lens: Lens, base: Lens, concepts: ConceptSet, texts: Texts, k: int, seed: int, passes: dict[str, Any]
) -> dict[str, Change]:
    """By hook point; empty for the base itself."""
    if lens.fingerprint == base.fingerprint:
        return {}
    moments = activation_difference(lens, base, texts, concepts.hooks, **passes)
    components = pca(moments, k)
    return {hook: _change(moments, hook, concepts.at(hook), components.at(hook), seed) for hook in concepts.hooks}


def _change(moments: Moments, hook: str, ablated: ConceptSet, components: ConceptSet, seed: int) -> Change:
    # The mean is part of what changed; a covariance alone would miss a shift that is the same everywhere.
    mean = moments.mean[hook].numpy()
    energy = moments.covariance[hook].numpy() + np.outer(mean, mean)
    basis = _basis(ablated, hook)
    total = float(np.trace(energy))
    found = components.directions(hook).double().numpy()
    k, width = found.shape
    chance, span_chance = _by_chance(k, width, seed)
    refit = []
    for concept in ablated:
        direction = concept.direction.double().numpy()
        cosines = np.abs(found @ direction)
        nearest = int(cosines.argmax())
        refit.append(
            Refit(
                name=concept.name,
                component=components[nearest].name,
                cosine=float(cosines[nearest]),
                span=float(np.linalg.norm(cosines)),
                chance=chance,
                span_chance=span_chance,
                shift=float(mean @ direction),
            )
        )
    return Change(
        size=float(np.sqrt(total)),
        inside=float(np.trace(basis.T @ energy @ basis)) / total,
        chance=basis.shape[1] / len(basis),
        refit=tuple(refit),
    )


def _by_chance(k: int, width: int, seed: int) -> tuple[float, float]:
    """What the |cosines| of most random directions with the nearest of k axes, and with their span, stay below."""
    rng = np.random.default_rng(seed)
    # To random directions all orthonormal ones are alike: the first k axes do, and of the others only length counts.
    drawn = rng.standard_normal((DRAWS, k))
    others = rng.gamma((width - k) / 2, 2, DRAWS)
    squares = drawn**2 / ((drawn**2).sum(axis=1) + others)[:, None]
    near, span = np.sqrt(squares.max(axis=1)), np.sqrt(squares.sum(axis=1))
    return float(np.quantile(near, CHANCE)), float(np.quantile(span, CHANCE))


# -- the probe --------------------------------------------------------------------------------------------------------


def _probed(units: Units, ablated: Floats, random: Sequence[Floats], fit: ProbeFit) -> dict[str, tuple[float, ...]]:
    """AUROC of each view of the activations."""

    def areas(acts: Floats) -> tuple[float, ...]:
        return tuple(held_out(replace(units, acts=acts), fit)[0])

    return {
        "whole": areas(units.acts),
        "inside": areas(units.acts @ ablated),
        "outside": areas(_without(units.acts, ablated)),
        "random": tuple(float(np.mean(areas(units.acts @ basis))) for basis in random),
    }


def _without(acts: Floats, basis: Floats) -> Floats:
    """Activations with a subspace projected out."""
    left = project_out(torch.from_numpy(acts), torch.from_numpy(basis)).numpy()
    left[:, left.std(axis=0) <= SMALLEST_SPREAD * acts.std(axis=0)] = 0
    return left


# `cl.evaluate.recovery(...)` is both this module and its main function.
lazy.callable_module(__name__, "recovery")
