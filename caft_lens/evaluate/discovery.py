"""Was the concept found? Ranked directions against labels that say which documents, or tokens, have it.

Each direction is a score on held-out documents, of which the AUROC is taken (docs/concepts/discovery.md). A hit
separates at 0.9 or more, whichever way it points, and better than every one of 1,000 random directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caft_lens._support import lazy
from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, BadData, UnknownName, nearest
from caft_lens._support.intervals import Interval
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import activation_difference, provenance, stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.evaluate.auroc import BLOCK, RESAMPLES, Floats, auroc, draws, interval
from caft_lens.evaluate.labelled import labelled, truth_of
from caft_lens.evaluate.plots import Stem, plot_ranked
from caft_lens.find import neurons, pca, random_directions
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text, Texts

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

    from caft_lens.model.lens import Lens

Scored = tuple[Floats, NDArray[np.bool_]]
"""Activations `[n, d_model]` of documents or tokens at a hook point, and which of them have the concept."""


@dataclass(frozen=True)
class HitRule:
    """What makes a direction a hit.

    Attributes:
        threshold: What it separates at, at least.
        n_random: Random directions at every hook point, all of which it surpasses.
        seed: Of these, of drawn tokens and of resampling.

    Raises:
        ValueError: For a threshold that is no AUROC of a better end, or no random direction.
    """

    threshold: float = 0.9
    n_random: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.threshold <= 1:
            raise BadArgument(f"threshold={self.threshold}: an AUROC lies between 0.5 (chance) and 1.")
        count(self.n_random, "n_random", hint="random directions that a hit surpasses")


@dataclass(frozen=True)
class RankedDirection:
    """One direction against the labels.

    Attributes:
        rank: Its place in the ranked list, from 0.
        auroc: Of the score along the direction (turned by the concept's `sign`).
        low, high: Ends of its 95 % interval, from resampled documents (or tokens), with and without the concept apart.
        random: The largest separation of the random directions at this hook point.
        hit: Whether it found the concept.
        intended: AUROC for the concept that is to stay, where its labels were given.
        effect: Change of the task's result when this direction alone is ablated in fine-tuning, where that was tried.
    """

    name: str
    hook: str
    rank: int
    auroc: float
    low: float
    high: float
    random: float
    hit: bool
    intended: float | None = None
    effect: Interval | None = None

    @property
    def separation(self) -> float:
        """The AUROC of the better end, 0.5 to 1."""
        return max(self.auroc, 1 - self.auroc)


class Discovery:
    """Ranked lists of directions, scored.

    Args:
        methods: By name, the directions of each in ranked order.
        about: What they were scored against: data, labels, how many of each, threshold.
        seconds: What each method took to find its list, where that was measured.

    Example:
        >>> hook = "blocks.1.hook_resid_post"
        >>> rows = [
        ...     RankedDirection(f"L1.pc{rank}", hook, rank, area, 0.5, 1.0, 0.7, hit=area > 0.9)
        ...     for rank, area in enumerate((0.6, 0.95))
        ... ]
        >>> found = Discovery({"pca": rows}, about={"positive": 40, "negative": 60})
        >>> found.precision("pca", k=2), found.average_precision("pca")
        (0.5, 0.5)
    """

    def __init__(
        self,
        methods: Mapping[str, Sequence[RankedDirection]],
        about: Mapping[str, Any],
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        self._methods = {name: list(rows) for name, rows in methods.items()}
        self.about = dict(about)
        self.seconds = dict(seconds or {})
        for name in self.seconds:
            self[name]  # raises for a list that was not scored

    @property
    def methods(self) -> list[str]:
        """Names of the ranked lists."""
        return list(self._methods)

    def __getitem__(self, method: str) -> list[RankedDirection]:
        """The directions of one list, in ranked order.

        Raises:
            KeyError: For an unknown list, with the nearest.
        """
        if method not in self._methods:
            raise UnknownName(f'No list "{method}" was scored.{nearest(method, self._methods)}')
        return list(self._methods[method])

    def precision(self, method: str, k: int = 10) -> float:
        """Share of hits among the first `k`, or among all where the list is shorter.

        Raises:
            ValueError: When `k` is below 1.
        """
        if k < 1:
            raise BadArgument(f"precision(k={k}): expected at least 1 direction.")
        first = self[method][:k]
        return sum(row.hit for row in first) / len(first)

    def average_precision(self, method: str) -> float:
        """Mean over the hits of the precision down to each; 0 without a hit."""
        hits = np.array([row.hit for row in self[method]], dtype=np.float64)
        if not hits.any():
            return 0.0
        return float(((hits.cumsum() / np.arange(1, len(hits) + 1)) * hits).sum() / hits.sum())

    def with_seconds(self, seconds: Mapping[str, float]) -> Discovery:
        """The same with what each method took to find its list, by name, for the tables.

        Raises:
            KeyError: For a list that was not scored, with the nearest.
        """
        return Discovery(self._methods, self.about, seconds)

    def with_effects(self, method: str, effects: Mapping[str, Interval]) -> Discovery:
        """The same with the causal effect of each direction of a list that was tried, as `causal_effects` gives them.

        Args:
            method: Name of the list.
            effects: Name of a direction -> change of the task's result when it alone is ablated in fine-tuning.

        Raises:
            KeyError: For an unknown list, or a direction that is not in it, with the nearest.
        """
        known = {row.name: row for row in self[method]}
        for name in effects:
            if name not in known:
                raise UnknownName(f'The list "{method}" has no direction "{name}".{nearest(name, known)}')
        rows = [replace(row, effect=effects.get(name, row.effect)) for name, row in known.items()]
        return Discovery({**self._methods, method: rows}, self.about, self.seconds)

    def table(self, k: int = 10) -> pandas.DataFrame:
        """One row a method: directions, hits, rank of the first, precision at `k`, average precision, best separation.

        Where they are known also the seconds that it took, and the largest effect of a direction of it.
        """
        from caft_lens.display.frames import Frame

        rows = []
        for method, scored in self._methods.items():
            first = next((row.rank for row in scored if row.hit), None)
            best = max(scored, key=lambda row: row.separation)
            effects = [row.effect.mean for row in scored if row.effect is not None]
            rows.append(
                {
                    "method": method,
                    "directions": len(scored),
                    "hits": sum(row.hit for row in scored),
                    "first hit": first,
                    f"precision at {k}": self.precision(method, k),
                    "average precision": self.average_precision(method),
                    "best": best.name,
                    "best separation": best.separation,
                    "best random": best.random,
                    **({"seconds": self.seconds.get(method)} if self.seconds else {}),
                    **({"largest effect": max(effects, key=abs)} if effects else {}),
                }
            )
        return Frame(rows).astype({"first hit": "Int64"})

    def directions(self, method: str) -> pandas.DataFrame:
        """One row a direction, in ranked order."""
        from caft_lens.display.frames import Frame

        return Frame([_as_row(row) for row in self[method]]).dropna(axis=1, how="all")

    def plot(self, title: str | None = None) -> Figure:
        """Draw how well the directions of every list separate, in ranked order, beside the best random one.

        Args:
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.
        """
        lists = {
            name: [Stem(row.name, row.separation, row.random, row.hit, _facts(row)) for row in rows]
            for name, rows in self._methods.items()
        }
        counted = (
            f"{self.about['positive']:,} {self.about.get('unit', 'text')}s with the concept, "
            f"{self.about['negative']:,} without."
        )
        return plot_ranked(lists, title, counted)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "about": self.about,
            "methods": {
                method: {
                    "average_precision": self.average_precision(method),
                    "precision_at_10": self.precision(method, 10),
                    **({"seconds": self.seconds[method]} if method in self.seconds else {}),
                    "directions": [
                        {name: value for name, value in _as_json(row).items() if value is not None} for row in rows
                    ],
                }
                for method, rows in self._methods.items()
            },
        }

    def __repr__(self) -> str:
        head = f"Discovery({self.about['positive']} with the concept, {self.about['negative']} without)"
        return f"{head}\n{self.table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return html.framed(self.table())


def _facts(row: RankedDirection) -> list[str]:
    """What hovering says of a direction besides its separation."""
    facts = [f"AUROC {row.auroc:.2f} ({row.low:.2f} to {row.high:.2f}), 95 % interval", row.hook]
    if row.effect is not None:
        facts.append(f"ablated alone in fine-tuning it changes the result by {row.effect}")
    return facts


def _as_json(row: RankedDirection) -> dict[str, Any]:
    effect = None if row.effect is None else row.effect.to_json()
    return {**asdict(row), "effect": effect, "separation": row.separation}


def _as_row(row: RankedDirection) -> dict[str, Any]:
    found = _as_json(row)
    effect = found.pop("effect") or {}
    columns = {"mean": "effect", "low": "effect low", "high": "effect high"}
    return {**found, **{column: effect.get(end) for end, column in columns.items()}}


@takes_values
def discovery(
    lens: Lens,
    concepts: ConceptSet | Mapping[str, ConceptSet],
    texts: Texts,
    labels: Callable[[Text], Any] | Sequence[Any],
    *,
    intended: Callable[[Text], Any] | Sequence[Any] | None = None,
    rule: HitRule = HitRule(),
    roles: Sequence[str] | None = ("assistant",),
    max_tokens: int = 20_000,
    scan: Scan = Scan(),
) -> Discovery:
    """Score ranked directions against the truth on held-out documents.

    Lists over several hook points are read across them: the first of every hook point, then the second of every one.

    Args:
        lens: The model that reads the documents; the directions have to fit it.
        concepts: One ranked list, or several by name; each concept's `rank` is its place at its hook point.
        texts: Documents that took no part in finding the directions.
        labels: For each document whether it has the concept (`None`: it does not count), as a function of the document
            or a sequence; or for each document a sequence of that, one for every token of it. A document's score is the
            mean over its tokens of these roles; a token's is its own.
        intended: Likewise, for the concept that is to stay: each direction's AUROC for it is given beside.
        rule: What makes a direction a hit.
        roles: Tokens that count; `None` for all.
        max_tokens: With labels of tokens: how many, drawn evenly over all that are labelled.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        ValueError: When the documents are those that the directions were found on; when there are not as many labels as
            documents, or all are alike; when there is no list, or one does not fit the model.

    Example:
        >>> found = discovery(base, concepts, held_out, lambda text: text.meta["stance"] == "cruel")
        >>> found.table()[["method", "directions"]]
             method  directions
        0  concepts           6
    """
    lists = {"concepts": concepts} if isinstance(concepts, ConceptSet) else dict(concepts)
    if not lists:
        raise BadArgument("No list to score: give a ConceptSet, or several by name.")
    for name, one in lists.items():
        one.check(lens)
        _refuse_seen(name, one, texts)
    hooks = list(dict.fromkeys(hook for one in lists.values() for hook in one.hooks))
    kept = labelled(truth_of(labels, texts), max_tokens, rule.seed)
    staying = None if intended is None else labelled(truth_of(intended, texts), max_tokens, rule.seed)
    stream(lens, texts, hooks, [kept] if staying is None else [kept, staying], roles=roles, scan=scan)
    scored = {hook: kept.scored(hook) for hook in hooks}
    chance = {hook: _chance(*scored[hook], rule) for hook in hooks}
    methods = {name: _score_list(one, scored, chance, rule) for name, one in lists.items()}
    if staying is not None:
        scored_too = {hook: staying.scored(hook) for hook in hooks}
        for name, one in lists.items():
            areas = _areas(one, scored_too)
            methods[name] = [replace(row, intended=areas[row.name]) for row in methods[name]]
    _, has = scored[hooks[0]]
    about = {
        **provenance(lens, texts, roles),
        "unit": kept.unit,
        "positive": int(has.sum()),
        "negative": int((~has).sum()),
        **asdict(rule),
    }
    return Discovery(methods, about)


def baselines(
    tuned: Lens,
    base: Lens,
    texts: Texts,
    layers: Sequence[int | str] | None = None,
    *,
    k: int = 10,
    seed: int = 0,
    roles: Sequence[str] | None = ("assistant",),
) -> dict[str, ConceptSet]:
    """What a method has to beat: random directions, PCA of plain activations, raw neurons, `k` of each at a hook point.

    Args:
        tuned: The fine-tuned model, whose activations are taken.
        base: The model before.
        texts: The documents that the methods searched.
        layers: Layer numbers or hook points; all layers by default.
        k: How many at each.
        seed: Of the random directions.
        roles: Tokens that count; `None` for all.

    Example:
        >>> lists = {"pca": concepts, **baselines(tuned, base, answers, [1, 2], k=3)}
        >>> {name: len(directions) for name, directions in lists.items()}
        {'pca': 6, 'random': 6, 'PCA of activations': 6, 'neurons': 6}
    """
    diff = activation_difference(tuned, base, texts, layers, roles=roles)
    plain = Moments(provenance={**diff.provenance, "method": "activations"})
    stream(tuned, texts, diff.hooks, plain, roles=roles)
    components = pca(plain, k)
    return {
        "random": random_directions(components, seed),
        "PCA of activations": ConceptSet(components, {**components.provenance, "method": "pca of plain activations"}),
        "neurons": neurons(diff, k),
    }


def _refuse_seen(name: str, concepts: ConceptSet, texts: Texts) -> None:
    if texts.fingerprint in _fingerprints(concepts.provenance.get("data")):
        raise BadData(
            f'The directions of "{name}" were found on these very documents ({texts.name or "unnamed"}): score them '
            f"on others."
        )


def _fingerprints(data: Any) -> set[str]:
    """Those of all data sets that a provenance names, however it nests them."""
    if isinstance(data, Mapping):
        return {str(data.get("fingerprint"))}.union(*(_fingerprints(value) for value in data.values()))
    return set().union(*map(_fingerprints, data)) if isinstance(data, list) else set()


def _chance(acts: Floats, has: NDArray[np.bool_], rule: HitRule) -> float:
    """The largest separation of random directions."""
    rng = np.random.default_rng(rule.seed)
    best = 0.5
    block = max(1, BLOCK // len(acts))
    for start in range(0, rule.n_random, block):
        directions = rng.standard_normal((min(block, rule.n_random - start), acts.shape[1]))
        found = auroc(acts @ directions.T, has)
        best = max(best, float(np.maximum(found, 1 - found).max()))
    return best


def _score_list(
    concepts: ConceptSet, scored: Mapping[str, Scored], chance: Mapping[str, float], rule: HitRule
) -> list[RankedDirection]:
    areas = _areas(concepts, scored)
    drawn = {hook: draws(scored[hook][1], RESAMPLES, rule.seed) for hook in concepts.hooks}
    rows = []
    # The first of every hook point, then the second, …
    for rank, concept in enumerate(sorted(concepts, key=lambda one: one.rank)):
        hook, area = concept.hook, areas[concept.name]
        low, high = interval(_scores(concept, scored), scored[hook][1], drawn[hook])
        separation = max(area, 1 - area)
        hit = separation >= rule.threshold and separation > chance[hook]
        rows.append(RankedDirection(concept.name, hook, rank, area, low, high, chance[hook], hit))
    return rows


def _areas(concepts: ConceptSet, scored: Mapping[str, Scored]) -> dict[str, float]:
    """The AUROC of every direction, by name."""
    return {one.name: float(auroc(_scores(one, scored), scored[one.hook][1])[0]) for one in concepts}


def _scores(concept: Concept, scored: Mapping[str, Scored]) -> Floats:
    """Of every document or token, along a direction."""
    return scored[concept.hook][0] @ (concept.sign * concept.direction.double().numpy())


# `cl.evaluate.discovery(...)` is both this module and its main function.
lazy.callable_module(__name__, "discovery")
