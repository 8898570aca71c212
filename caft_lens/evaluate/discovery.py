"""Was the concept found? Ranked directions against labels that say which documents, or tokens, have it.

In a world whose concepts are known, finding them can be scored. Each direction is a score on held-out documents, its mean
over the tokens of interest, and its AUROC says how well that score tells documents with the concept from those without.
Ablation takes out a line, whichever way it points, so the better end counts (`separation`). A hit is a direction that
separates at 0.9 or more, and better than every one of 1,000 random directions at the same hook point: where the concept
is all over the residual stream, chance finds it too. Over a ranked list hits give precision at k and average precision.

Text is streamed; what stays in memory is a row of `d_model` numbers a document, or a sample of tokens of fixed size, so
that any number of directions can be scored in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from caft_lens._support import lazy
from caft_lens._support.errors import nearest
from caft_lens.activations.differences import activation_difference, provenance, stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.evaluate.plots import Stem, plot_ranked
from caft_lens.evaluate.statistics import CONFIDENCE, Interval, ends
from caft_lens.find import neurons, pca, random_directions
from caft_lens.find.probes import lots
from caft_lens.text.batching import Batch, Scan
from caft_lens.text.documents import Text, Texts

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

    from caft_lens.model.lens import Lens

Floats = NDArray[np.float64]
RESAMPLES = 1_000
# Scores of units along directions that are held at a time: 32 MB.
BLOCK = 4_000_000


@dataclass(frozen=True)
class RankedDirection:
    """One direction against the labels.

    Attributes:
        name: Of the concept.
        hook: Its hook point.
        rank: Its place in the ranked list, from 0.
        auroc: Of the score along the direction (turned by the concept's `sign`): chance that something with the concept
            scores above something without.
        low: Lower end of its 95 % interval, from resampled documents (or tokens), with and without the concept apart.
        high: Upper end.
        random: The largest separation of the random directions at this hook point.
        hit: Whether it found the concept.
        intended: AUROC for the concept that is to stay, where its labels were given: a direction that separates both takes
            out both.
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
        >>> rows = [RankedDirection(f"L1.pc{rank}", hook, rank, area, 0.5, 1.0, 0.7, hit=area > 0.9) for rank, area in enumerate((0.6, 0.95))]
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
            raise KeyError(f'No list "{method}" was scored.{nearest(method, self._methods)}')
        return list(self._methods[method])

    def precision(self, method: str, k: int = 10) -> float:
        """Share of hits among the first `k`, or among all where the list is shorter.

        Raises:
            ValueError: When `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"precision(k={k}): expected at least 1 direction.")
        first = self[method][:k]
        return sum(row.hit for row in first) / len(first)

    def average_precision(self, method: str) -> float:
        """Mean over the hits of the precision down to each; 0 without a hit."""
        hits = np.array([row.hit for row in self[method]], dtype=np.float64)
        if not hits.any():
            return 0.0
        return float(((hits.cumsum() / np.arange(1, len(hits) + 1)) * hits).sum() / hits.sum())

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
                raise KeyError(f'The list "{method}" has no direction "{name}".{nearest(name, known)}')
        rows = [replace(row, effect=effects.get(name, row.effect)) for name, row in known.items()]
        return Discovery({**self._methods, method: rows}, self.about, self.seconds)

    def table(self, k: int = 10) -> pandas.DataFrame:
        """One row a method: directions, hits, rank of the first hit, precision at `k`, average precision, best separation.

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
            title: Above the figure.

        Returns:
            A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.
        """
        lists = {
            name: [Stem(row.name, row.separation, row.random, row.hit, _facts(row)) for row in rows]
            for name, rows in self._methods.items()
        }
        counted = f"{self.about['positive']:,} {self.about.get('unit', 'text')}s with the concept, {self.about['negative']:,} without."
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
                        {name: value for name, value in _as_json(row).items() if value is not None}
                        for row in rows
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


def discovery(
    lens: Lens,
    concepts: ConceptSet | Mapping[str, ConceptSet],
    texts: Texts,
    labels: Callable[[Text], Any] | Sequence[Any],
    *,
    intended: Callable[[Text], Any] | Sequence[Any] | None = None,
    seconds: Mapping[str, float] | None = None,
    threshold: float = 0.9,
    n_random: int = 1000,
    roles: Sequence[str] | None = ("assistant",),
    max_tokens: int = 20_000,
    seed: int = 0,
    scan: Scan = Scan(),
) -> Discovery:
    """Score ranked directions against the truth on held-out documents.

    Lists over several hook points are read across them: the first of every hook point, then the second of every one.

    Args:
        lens: The model that reads the documents; the directions have to fit it.
        concepts: One ranked list, or several by name; each concept's `rank` is its place at its hook point.
        texts: Documents that took no part in finding the directions.
        labels: For each document whether it has the concept (`None`: it does not count), as a function of the document or a
            sequence; or for each document a sequence of that, one for every token of it. A document's score is the mean over
            its tokens of these roles; a token's is its own.
        intended: Likewise, for the concept that is to stay: each direction's AUROC for it is given beside.
        seconds: What each method took, by name, for the tables.
        threshold: What a hit separates at, at least.
        n_random: Random directions at every hook point, all of which a hit surpasses.
        roles: Tokens that count; `None` for all.
        max_tokens: With labels of tokens: how many, drawn evenly over all that are labelled.
        seed: Of random directions, drawn tokens and resampling.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        ValueError: When the documents are those that the directions were found on; when there are not as many labels as
            documents, or all are alike; when there is no list, or one does not fit the model.

    Example:
        >>> held_out = cl.data("pocket/corpus")                                                     # doctest: +SKIP
        >>> discovery(base, concepts, held_out, lambda text: text.meta["stance"] == "cruel").table()  # doctest: +SKIP
    """
    if not 0.5 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: an AUROC lies between 0.5 (chance) and 1.")
    if n_random < 1:
        raise ValueError(f"n_random={n_random}: a hit has to surpass at least 1 random direction.")
    lists = {"concepts": concepts} if isinstance(concepts, ConceptSet) else dict(concepts)
    if not lists:
        raise ValueError("No list to score: give a ConceptSet, or several by name.")
    for name, one in lists.items():
        one.check(lens)
        _refuse_seen(name, one, texts)
    truth = _truth(labels, texts)
    hooks = list(dict.fromkeys(hook for one in lists.values() for hook in one.hooks))
    units = _units(truth, max_tokens, seed)
    staying = None if intended is None else _units(_truth(intended, texts), max_tokens, seed)
    stream(
        lens, texts, hooks, [units] if staying is None else [units, staying],
        roles=roles, scan=scan,
    )  # fmt: skip
    chance = {hook: _chance(*units.matrix(hook), n_random, seed) for hook in hooks}
    methods = {
        name: _score_list(one, {hook: units.matrix(hook) for hook in one.hooks}, chance, threshold, seed)
        for name, one in lists.items()
    }
    if staying is not None:
        for name, one in lists.items():
            areas = _areas(one, {hook: staying.matrix(hook) for hook in one.hooks})
            methods[name] = [replace(row, intended=areas[row.name]) for row in methods[name]]
    has = units.matrix(hooks[0])[1]
    about = {
        **provenance(lens, texts, roles),
        "unit": units.unit,
        "positive": int(has.sum()),
        "negative": int((~has).sum()),
        "threshold": threshold,
        "n_random": n_random,
        "seed": seed,
    }
    return Discovery(methods, about, seconds)


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
        >>> lists = {"sae": latents, **baselines(plain.lens, base, answers, [1, 2])}  # doctest: +SKIP
        >>> discovery(base, lists, held_out, is_cruel).table()                         # doctest: +SKIP
    """
    diff = activation_difference(tuned, base, texts, layers, roles=roles)
    plain = Moments(provenance={**diff.provenance, "method": "activations"})
    stream(tuned, texts, diff.hooks, plain, roles=roles)
    components = pca(plain, k)
    return {
        "random": random_directions(components, seed),
        "PCA of activations": ConceptSet(
            components, {**components.provenance, "method": "pca of plain activations"}
        ),
        "neurons": neurons(diff, k),
    }


# -- what is scored ---------------------------------------------------------------------------------------------------


class _Documents:
    """A reducer: the mean activation of every labelled document."""

    unit = "document"

    def __init__(self, truth: Sequence[bool | None]) -> None:
        self.rows = np.array([number for number, has in enumerate(truth) if has is not None])
        self.has = np.array([bool(truth[number]) for number in self.rows])
        self._row = np.full(len(truth), -1)
        self._row[self.rows] = np.arange(len(self.rows))
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        if hook not in self._sums:
            self._sums[hook] = torch.zeros(len(self.rows), acts.shape[1])
            self._counts[hook] = torch.zeros(len(self.rows))
        row = torch.from_numpy(self._row)[batch.index[where[:, 0]]]
        wanted = row >= 0
        self._sums[hook].index_add_(0, row[wanted], acts.float().cpu()[wanted])
        self._counts[hook].index_add_(0, row[wanted], torch.ones(int(wanted.sum())))

    def merge(self, other: _Documents) -> _Documents:
        for hook, sums in other._sums.items():
            self._sums[hook] = self._sums.get(hook, 0) + sums
            self._counts[hook] = self._counts.get(hook, 0) + other._counts[hook]
        return self

    def matrix(self, hook: str) -> tuple[Floats, NDArray[np.bool_]]:
        """Scores' raw material `[n, d_model]` and which of them have the concept `[n]`; documents without a token are out."""
        counts = self._counts[hook].numpy()
        there = counts > 0
        acts = self._sums[hook].double().numpy()[there] / counts[there, None]
        return acts, _both(self.has[there], "documents with a token of these roles")


class _Tokens:
    """A reducer: an even sample of the labelled tokens, the same whatever the order in which they come."""

    unit = "token"

    def __init__(self, truth: Sequence[Sequence[bool | None]], size: int, seed: int) -> None:
        self.truth, self.size, self.seed = truth, size, seed
        self._kept: dict[str, tuple[Floats, NDArray[Any], NDArray[np.bool_]]] = {}

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        index = batch.index[where[:, 0]].numpy()
        position = batch.position_ids[where[:, 0], where[:, 1]].numpy()
        labels = [self._label(*place) for place in zip(index.tolist(), position.tolist(), strict=True)]
        wanted = np.array([label is not None for label in labels], dtype=bool)
        # Every token draws a lot by its place alone, and the smallest stay: the sample does not depend on batches.
        places = index.astype(np.uint64) << np.uint64(32) | position.astype(np.uint64)
        drawn = lots(places[wanted], self.seed)
        has = np.array([label for label in labels if label is not None], dtype=bool)
        self._keep(hook, acts.float().cpu().numpy()[wanted], drawn, has)

    def _label(self, index: int, position: int) -> bool | None:
        labels = self.truth[index]
        if position >= len(labels):
            raise ValueError(
                f"Text {index} has a token at position {position}, but {len(labels)} labels: give one for every token."
            )
        return labels[position]

    def _keep(self, hook: str, acts: Any, drawn: NDArray[Any], has: NDArray[np.bool_]) -> None:
        if hook in self._kept:
            before = self._kept[hook]
            acts, drawn, has = (np.concatenate(two) for two in zip(before, (acts, drawn, has), strict=True))
        first = np.argsort(drawn, kind="stable")[: self.size]
        self._kept[hook] = (acts[first], drawn[first], has[first])

    def merge(self, other: _Tokens) -> _Tokens:
        for hook, kept in other._kept.items():
            self._keep(hook, *kept)
        return self

    def matrix(self, hook: str) -> tuple[Floats, NDArray[np.bool_]]:
        acts, _, has = self._kept[hook]
        return acts.astype(np.float64), _both(has, "labelled tokens of these roles")


def _units(truth: Sequence[Any], max_tokens: int, seed: int) -> _Documents | _Tokens:
    return _Tokens(truth, max_tokens, seed) if _is_per_token(truth) else _Documents(truth)


def _truth(labels: Callable[[Text], Any] | Sequence[Any], texts: Texts) -> list[Any]:
    truth = [labels(text) for text in texts] if callable(labels) else list(labels)
    if len(truth) != len(texts):
        raise ValueError(
            f"{len(truth)} labels for {len(texts)} texts: give one for each, `None` where it does not count."
        )
    for number, label in enumerate(truth):
        if not isinstance(label, bool | np.bool_ | None) and not _is_row(label):
            raise ValueError(
                f"The label of text {number} is {label!r}: expected True, False or None, or one of these for every token."
            )
    kinds = {_is_row(label) for label in truth}
    if len(kinds) > 1:
        raise ValueError("Some labels are of documents and some of tokens: give one kind.")
    return truth


def _is_row(label: Any) -> bool:
    return isinstance(label, Sequence | np.ndarray) and not isinstance(label, str)


def _is_per_token(truth: Sequence[Any]) -> bool:
    return bool(truth) and _is_row(truth[0])


def _both(has: NDArray[np.bool_], what: str) -> NDArray[np.bool_]:
    positive, negative = int(has.sum()), int((~has).sum())
    if not positive or not negative:
        raise ValueError(
            f"Of {len(has)} {what}, {positive} have the concept and {negative} do not: there have to be some of both."
        )
    return has


def _refuse_seen(name: str, concepts: ConceptSet, texts: Texts) -> None:
    if texts.fingerprint in _fingerprints(concepts.provenance.get("data")):
        raise ValueError(
            f'The directions of "{name}" were found on these very documents ({texts.name or "unnamed"}): score them on others.'
        )


def _fingerprints(data: Any) -> set[str]:
    """Those of all data sets that a provenance names, however it nests them."""
    if isinstance(data, Mapping):
        return {str(data.get("fingerprint"))}.union(*(_fingerprints(value) for value in data.values()))
    return set().union(*map(_fingerprints, data)) if isinstance(data, list) else set()


# -- scores -----------------------------------------------------------------------------------------------------------


def auroc(scores: ArrayLike, has: ArrayLike) -> Floats:
    """Areas under the ROC curve: the chance that something with the concept scores above something without, ties half.

    Args:
        scores: `[n]`, or `[n, k]` for k of them at once.
        has: Which of the n have the concept, bool `[n]`.

    Returns:
        `[k]`, as `sklearn.metrics.roc_auc_score` gives one by one.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
        array([0.75])
    """
    from scipy.stats import rankdata

    columns = np.asarray(scores, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    labels = _both(np.asarray(has, dtype=bool), "scores")
    positive, negative = int(labels.sum()), int((~labels).sum())
    # Mann and Whitney's U from the ranks of those with the concept.
    ranks = rankdata(columns, axis=0)[labels].sum(axis=0)
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def auroc_interval(
    scores: ArrayLike,
    has: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """The bootstrap interval of an AUROC; those with and those without the concept are drawn apart.

    Args:
        scores: `[n]`.
        has: Bool `[n]`.
        resamples: How many.
        confidence: Share of intervals that should contain the truth.
        seed: Of the resampling.

    Returns:
        Lower and upper end.
    """
    labels = _both(np.asarray(has, dtype=bool), "scores")
    return _interval(
        np.asarray(scores, dtype=np.float64), labels, _draws(labels, resamples, seed), confidence
    )


def _draws(has: NDArray[np.bool_], resamples: int, seed: int) -> NDArray[np.uint8]:
    """How often each is drawn in each resample, `[resamples, n]`: the same for all directions, so drawn once."""
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, len(has)), dtype=np.uint8)
    block = max(1, BLOCK // len(has))
    for start in range(0, resamples, block):
        rows = slice(start, min(start + block, resamples))
        for side in (has, ~has):
            n = int(side.sum())
            draws[rows, side] = rng.multinomial(n, np.full(n, 1 / n), size=rows.stop - start)
    return draws


def _interval(
    scores: Floats, has: NDArray[np.bool_], draws: NDArray[np.uint8], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    order = np.argsort(scores, kind="stable")
    _, first = np.unique(scores[order], return_index=True)
    sorted_has = has[order]
    found = np.empty(len(draws))
    block = max(1, BLOCK // len(scores))
    for start in range(0, len(draws), block):
        drawn = draws[start : start + block, order].astype(np.float64)
        # Equal scores are one place each, of which half is below itself.
        with_it, without = (
            np.add.reduceat(drawn * side, first, axis=1) for side in (sorted_has, ~sorted_has)
        )
        below = without.cumsum(axis=1) - without / 2
        found[start : start + block] = (with_it * below).sum(axis=1) / (has.sum() * (~has).sum())
    return ends(found, confidence)


def _chance(acts: Floats, has: NDArray[np.bool_], n_random: int, seed: int) -> float:
    """The largest separation of `n_random` random directions."""
    rng = np.random.default_rng(seed)
    best = 0.5
    block = max(1, BLOCK // len(acts))
    for start in range(0, n_random, block):
        directions = rng.standard_normal((min(block, n_random - start), acts.shape[1]))
        found = auroc(acts @ directions.T, has)
        best = max(best, float(np.maximum(found, 1 - found).max()))
    return best


def _score_list(
    concepts: ConceptSet,
    units: Mapping[str, tuple[Floats, NDArray[np.bool_]]],
    chance: Mapping[str, float],
    threshold: float,
    seed: int,
) -> list[RankedDirection]:
    draws = {hook: _draws(has, RESAMPLES, seed) for hook, (_, has) in units.items()}
    rows = []
    for rank, concept in enumerate(_across(concepts)):
        acts, has = units[concept.hook]
        scores = acts @ (concept.sign * concept.direction.double().numpy())
        area = float(auroc(scores, has)[0])
        low, high = _interval(scores, has, draws[concept.hook])
        separation = max(area, 1 - area)
        hit = separation >= threshold and separation > chance[concept.hook]
        rows.append(
            RankedDirection(concept.name, concept.hook, rank, area, low, high, chance[concept.hook], hit)
        )
    return rows


def _areas(concepts: ConceptSet, units: Mapping[str, tuple[Floats, NDArray[np.bool_]]]) -> dict[str, float]:
    """The AUROC of every direction, by name."""
    found = {}
    for concept in concepts:
        acts, has = units[concept.hook]
        found[concept.name] = float(auroc(acts @ (concept.sign * concept.direction.double().numpy()), has)[0])
    return found


def _across(concepts: Iterable[Concept]) -> list[Concept]:
    """The first of every hook point, then the second, …"""
    return sorted(concepts, key=lambda concept: concept.rank)


# `cl.evaluate.discovery(...)` is both this module and its main function.
lazy.callable_module(__name__, "discovery")
