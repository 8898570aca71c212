"""Linear probes: the direction by which a logistic regression tells two sets of text apart.

A pass over both feeds `TextMeans` or `TokenSample`; scikit-learn fits what they kept, cross-validated.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caft_lens._support.arguments import count, one_of
from caft_lens._support.arguments import positive as above_zero
from caft_lens._support.errors import BadArgument, BadData
from caft_lens._support.keywords import takes_values
from caft_lens.activations.capture import hook_names
from caft_lens.activations.differences import provenance, stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.hook_names import short_name
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Batch, Scan
from caft_lens.text.documents import Texts

Unit = Literal["text", "token"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
# The number of a text in the upper 32 bits, of a token in it in the lower.
Places = NDArray[np.uint64]

# scikit-learn's C, the inverse of the L2 strength. Standardised activations that a line separates are often separated
# as well at every one of them; then the strongest penalty is taken.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Far more than standardised features need, so that what limits the fit is its tolerance.
STEPS = 10_000


@dataclass(frozen=True)
class ProbeFit:
    """How a probe is fitted and scored.

    Attributes:
        folds: Of the cross-validation, stratified; fewer where a fold would have fewer than two texts of either kind.
        strengths: scikit-learn's `C`, among which is chosen. A layer takes (folds + 1) * (folds * strengths + 1) fits:
            give fewer where width and number of tokens are large.
        max_tokens: How many tokens of both sets together are kept a layer, where single tokens are told apart.
        seed: Of the folds and of the sample of tokens.

    Raises:
        ValueError: For numbers that are too small, or no strength.
    """

    folds: int = 5
    strengths: Sequence[float] = STRENGTHS
    max_tokens: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        count(self.folds, "folds", least=2)
        count(self.max_tokens, "max_tokens", least=4)
        if not self.strengths:
            raise BadArgument("strengths=[]: expected at least one positive number.")
        for strength in self.strengths:
            above_zero(strength, "strengths")


@takes_values
def probe(
    lens: Lens,
    positive: Texts | Iterable[Any],
    negative: Texts | Iterable[Any],
    layers: Sequence[int | str],
    *,
    unit: Unit = "text",
    pairs: bool = False,
    roles: Sequence[str] | None = ("assistant",),
    fit: ProbeFit = ProbeFit(),
    scan: Scan = Scan(),
) -> ConceptSet:
    """One direction per layer, by which a logistic regression tells `positive` text from `negative`.

    The direction is in activation space: the regression's weight over the standard deviation of each coordinate, of
    unit length, pointing to `positive`. The strength of the L2 penalty is the one with the best AUROC in
    cross-validation, the strongest of equals; the score is that on folds which had no part in the choice (nested).

    Args:
        lens: The model that reads both.
        positive: Text with the concept.
        negative: Text without it.
        layers: Layer numbers (their `hook_resid_post`) or hook points, all read in one pass.
        unit: `"text"`: the mean activation over the tokens of each text; a row of d_model a text and layer is kept.
            `"token"`: single tokens, of both sets together a sample of `fit.max_tokens` a layer.
        pairs: Whether text i of either set are two sides of one contrast: then no fold parts them.
        roles: Roles of the tokens to look at; `None` for all.
        fit: How the regression is fitted: folds, strengths of the penalty, tokens, seed.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        Concepts named `"L1.probe0"`, scored by the mean AUROC over the outer folds. `meta`: `C`, `n` (positive and
        negative units), `n_groups`, `auroc_folds`, `auroc_std` (their standard deviation), `accuracy` (mean over the
        same folds), `intercept` (in activation units: the decision is positive where projection + intercept > 0).

    Raises:
        ValueError: For an unknown unit, pairs of unequal number, fewer than four texts (or pairs) of either kind, or
            activations that do not tell them apart at all.

    Example:
        >>> found = cl.find.probe(base, cruel_texts, kind_texts, layers=[1, 2])
        >>> found.names, found["L1.probe0"].score > 0.5
        (['L1.probe0', 'L2.probe0'], True)

    Source:
        Alain and Bengio, "Understanding intermediate layers using linear classifier probes" (arXiv 1610.01644).
    """
    one_of(unit, "unit", get_args(Unit))
    positive, negative = (side if isinstance(side, Texts) else Texts(side) for side in (positive, negative))
    if pairs and len(positive) != len(negative):
        raise BadData(f"pairs=True: {len(positive)} positive and {len(negative)} negative texts are no pairs.")
    kept = TextMeans(len(positive) + len(negative)) if unit == "text" else TokenSample(fit.max_tokens, fit.seed)
    units, left_out = labelled_activations(
        lens, positive, negative, hook_names((lens,), layers), kept, pairs=pairs, roles=roles, scan=scan
    )
    concepts = [_probe(hook, these, fit) for hook, these in units.items()]
    about = provenance(lens, {"positive": positive, "negative": negative}, roles, left_out=left_out)
    method = {"method": "linear probe", "unit": unit, "pairs": pairs, "seed": fit.seed}
    return ConceptSet(concepts, {**about, **method})


# -- what is kept of the pass -----------------------------------------------------------------------------------------


class TextMeans:
    """A reducer for `stream`: the mean activation of every text, `[n_texts, d_model]` fp32 a hook point.

    Args:
        n_texts: How many texts the pass has.

    Example:
        >>> (means,) = stream(base, corpus, [2], TextMeans(len(corpus)), roles=None)
        >>> rows, index = means.matrix("blocks.2.hook_resid_post")
        >>> rows.shape, index.shape  # [n_texts, d_model], [n_texts]
        ((60, 128), (60,))
    """

    def __init__(self, n_texts: int) -> None:
        self.n_texts = n_texts
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in `acts` `[n_tokens, d_model]` of one hook point, at rows and positions `where` `[n_tokens, 2]`."""
        if hook not in self._sums:
            self._sums[hook] = torch.zeros(self.n_texts, acts.shape[1])
            self._counts[hook] = torch.zeros(self.n_texts)
        # Summed where the activations are: a row a text travels, not one a token.
        sums = torch.zeros(len(batch), acts.shape[1], device=acts.device)
        sums.index_add_(0, where[:, 0].to(acts.device), acts.float())
        self._sums[hook].index_add_(0, batch.index, sums.cpu())
        self._counts[hook].index_add_(0, batch.index[where[:, 0]], torch.ones(len(where)))

    def merge(self, other: Self) -> Self:
        """Add the result of a pass over others of the same texts, in place."""
        for hook, sums in other._sums.items():
            self._sums[hook] = self._sums.get(hook, 0) + sums
            self._counts[hook] = self._counts.get(hook, 0) + other._counts[hook]
        return self

    def matrix(self, hook: str) -> tuple[Floats, Integers]:
        """Means `[n, d_model]` and numbers of the texts `[n]` that have a token."""
        counts = self._counts[hook].double().numpy()
        there = np.flatnonzero(counts)
        return self._sums[hook].double().numpy()[there] / counts[there, None], there


class TokenSample:
    """A reducer for `stream`: an even sample of tokens, the same whatever the order in which they come.

    Args:
        size: How many tokens are kept at each hook point.
        seed: Of the sample, which is of the same tokens at every hook point.

    Example:
        >>> (sample,) = stream(base, corpus, [2], TokenSample(1000, seed=0), roles=None)
        >>> rows, index = sample.matrix("blocks.2.hook_resid_post")
        >>> rows.shape, index.shape  # [n_tokens, d_model], [n_tokens]
        ((1000, 128), (1000,))
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seed = size, seed
        self._kept: dict[str, tuple[Tensor, Places]] = {}

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in `acts` `[n_tokens, d_model]` of one hook point, at rows and positions `where` `[n_tokens, 2]`."""
        index, position = batch.index[where[:, 0]], batch.position_ids[where[:, 0], where[:, 1]]
        places = index.numpy().astype(np.uint64) << np.uint64(32) | position.numpy().astype(np.uint64)
        # Of a batch no more than could stay leave the device.
        first = self._first(places)
        rows = acts.index_select(0, torch.from_numpy(first).to(acts.device)).float().cpu()
        self._keep(hook, rows, places[first])

    def _first(self, places: Places) -> Integers:
        return np.argsort(lots(places, self.seed), kind="stable")[: self.size]

    def _keep(self, hook: str, acts: Tensor, places: Places) -> None:
        if hook in self._kept:
            before = self._kept[hook]
            acts, places = torch.cat([before[0], acts]), np.concatenate([before[1], places])
        first = self._first(places)
        self._kept[hook] = (acts[torch.from_numpy(first)], places[first])

    def merge(self, other: Self) -> Self:
        """Add the result of a pass over others of the same texts, in place, as if they had been seen here."""
        for hook, kept in other._kept.items():
            self._keep(hook, *kept)
        return self

    def matrix(self, hook: str) -> tuple[Floats, Integers]:
        """Activations `[n, d_model]` and the number of the text that each is of `[n]`, in the order of the texts."""
        acts, places = self._kept[hook]
        order = np.argsort(places)
        return acts[torch.from_numpy(order)].double().numpy(), (places[order] >> np.uint64(32)).astype(np.int64)


def lots(places: Places, seed: int) -> Places:
    """A random number for every place in the texts, by splitmix64 (Steele et al., 2014); the smallest stay."""
    with np.errstate(over="ignore"):
        lot = places + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        lot = (lot ^ (lot >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        lot = (lot ^ (lot >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return lot ^ (lot >> np.uint64(31))


# -- the regression ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Units:
    """What is told apart at one hook point.

    Attributes:
        acts: Activations of texts or tokens, `[n, d]`.
        positive: Which of them are positive, `[n]`.
        document_groups: Numbers, equal where two of them belong together and no fold may part them, `[n]`.
    """

    acts: Floats
    positive: Flags
    document_groups: Integers

    def n_document_groups(self, side: bool) -> int:
        """How many groups of documents have a unit of this side."""
        return len(np.unique(self.document_groups[self.positive == side]))

    def __getitem__(self, rows: Integers) -> Units:
        return Units(self.acts[rows], self.positive[rows], self.document_groups[rows])


@takes_values
def labelled_activations(
    lens: Lens,
    positive: Texts,
    negative: Texts,
    hooks: Sequence[str],
    kept: TextMeans | TokenSample,
    *,
    pairs: bool = False,
    roles: Sequence[str] | None = ("assistant",),
    scan: Scan = Scan(),
) -> tuple[dict[str, Units], Mapping[str, int]]:
    """Activations of positive and of negative text at some hook points, from one pass; arguments as for `probe`.

    Args:
        hooks: Full names of hook points.
        kept: The reducer that keeps means of texts, or tokens.

    Returns:
        By hook point what is told apart, and how many tokens were left out as attention sinks.

    Raises:
        BadData: For fewer than four different texts (or pairs) of either kind.
    """
    texts = Texts([*positive, *negative])
    passed = stream(lens, texts, hooks, kept, roles=roles, scan=scan)
    grouped = document_groups(positive, negative, pairs)
    found = {}
    for hook in hooks:
        acts, index = kept.matrix(hook)
        found[hook] = Units(acts, index < len(positive), grouped[index])
        _check_enough(found[hook], "pairs" if pairs else "texts")
    missing = len(texts) - len(np.unique(index)) if isinstance(kept, TextMeans) else 0
    if missing:
        said = f"{missing} of {len(texts)} texts have no token with one of the roles and were left out."
        warnings.warn(said, stacklevel=3)
    return found, passed.left_out


def document_groups(positive: Texts, negative: Texts, pairs: bool) -> Integers:
    """A number for every text, equal where texts say the same or are two sides of a pair, `[n_texts]`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[Any, int] = {}
    same = [numbers.setdefault((text.text, text.messages), len(numbers)) for text in (*positive, *negative)]
    # Texts are joined to what they say, and to their partners; whoever is connected stays together.
    nodes = len(numbers)
    links = list(zip(same[: len(positive)], same[len(positive) :], strict=True)) if pairs else []
    first, second = np.array(links, dtype=np.int64).reshape(-1, 2).T
    joined = coo_array((np.ones(len(first)), (first, second)), shape=(nodes, nodes))
    _, group = connected_components(joined, directed=False)
    return group[np.array(same)].astype(np.int64)


def _check_enough(units: Units, what: str) -> None:
    positive, negative = units.n_document_groups(True), units.n_document_groups(False)
    if min(positive, negative) < 4:
        raise BadData(
            f"{positive} different positive and {negative} negative {what} with a token of these roles: a probe "
            "that is chosen and scored on texts that it has not seen needs at least 4 of either."
        )


def _probe(hook: str, units: Units, fit: ProbeFit) -> Concept:
    areas, accuracies = held_out(units, fit)
    found = _fitted(units, fit)
    scaler, fitted = found.best_estimator_
    weight = fitted.coef_[0] / scaler.scale_
    length = float(np.linalg.norm(weight))
    if not length > 0:
        raise BadData(f"{hook}: activations do not tell positive from negative text at all. Are both the same text?")
    intercept = float(fitted.intercept_[0] - weight @ scaler.mean_)
    return Concept(
        f"{short_name(hook)}.probe0",
        hook,
        torch.from_numpy(weight / length),
        source="probe",
        score=float(np.mean(areas)),
        score_name="AUROC, cross-validated",
        meta={
            "C": float(fitted.C),
            "n": [int(units.positive.sum()), int((~units.positive).sum())],
            "n_groups": [units.n_document_groups(True), units.n_document_groups(False)],
            "auroc_folds": areas,
            "auroc_std": float(np.std(areas, ddof=1)),
            "accuracy": float(np.mean(accuracies)),
            "intercept": intercept / length,
        },
    )


def held_out(units: Units, fit: ProbeFit) -> tuple[list[float], list[float]]:
    """AUROC and accuracy on each fold of a probe whose strength and weights the other folds chose."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    areas, accuracies = [], []
    for train, test in _folds(units, fit).split(units.acts, units.positive, units.document_groups):
        found = _fitted(units[train], fit)
        said = found.decision_function(units.acts[test])
        areas.append(float(roc_auc_score(units.positive[test], said)))
        accuracies.append(float(accuracy_score(units.positive[test], said > 0)))
    return areas, accuracies


def _fitted(units: Units, fit: ProbeFit) -> Any:
    """A regression on all units, its strength chosen by cross-validation among them."""
    search = regression(sorted(fit.strengths), scoring="roc_auc", cv=_folds(units, fit), error_score="raise")
    return search.fit(units.acts, units.positive, groups=units.document_groups)


def regression(strengths: Sequence[float], class_weight: str | None = None, **search: Any) -> Any:
    """A logistic regression on standardised activations, to be fitted; its strength is chosen by cross-validation.

    Args:
        strengths: scikit-learn's `C`; of those that do equally well the first is taken.
        class_weight: As for `LogisticRegression`.
        search: As for `GridSearchCV`: `scoring`, `cv`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = make_pipeline(StandardScaler(), LogisticRegression(class_weight=class_weight, max_iter=STEPS))
    return GridSearchCV(steps, {"logisticregression__C": list(strengths)}, **search)


def _folds(units: Units, fit: ProbeFit) -> Any:
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(units.n_document_groups(True), units.n_document_groups(False))
    return StratifiedGroupKFold(min(fit.folds, max(2, fewest // 2)), shuffle=True, random_state=fit.seed)
