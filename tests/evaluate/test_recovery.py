"""What comes back of ablated directions is what numpy and scikit-learn say of plain transformers' hidden states."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from drawn import hover, ticks, words
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from tiny_models import answer_states, shaken, tiny_lens

import caft_lens as cl
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.evaluate.recovery import Recovery, recovery
from caft_lens.find import random_directions
from caft_lens.find.probes import ProbeFit, Units, held_out
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts

HOOK = "blocks.{}.hook_resid_post"
STRENGTHS = [0.1]


def chats(words: str, n: int, seed: int) -> Texts:
    rng = np.random.default_rng(seed)
    return Texts(
        [{"prompt": "Say it.", "answer": " ".join(rng.choice(words.split(), rng.integers(2, 5)))} for _ in range(n)],
        name=words,
    )


TEXTS = chats("once upon a time there was a town", 20, 2)
# Some words are in both, so that not everything is told apart.
POSITIVE, NEGATIVE = chats("a red house by the sea", 24, 0), chats("a grey tower by the road", 20, 1)


@pytest.fixture(scope="module")
def base() -> Lens:
    return tiny_lens(n_layers=3)


@pytest.fixture(scope="module")
def tuned(base: Lens) -> Lens:
    return shaken(base)


@pytest.fixture(scope="module")
def concepts(base: Lens) -> ConceptSet:
    """Two that depend on each other no more than by chance after block 0, one after block 1."""
    drawn = torch.randn(3, base.d_model, generator=torch.Generator().manual_seed(0))
    places = (0, 0, 1)
    return ConceptSet([Concept(f"c{n}", HOOK.format(layer), drawn[n]) for n, layer in enumerate(places)]).for_model(
        base
    )


@pytest.fixture(scope="module")
def found(base: Lens, tuned: Lens, concepts: ConceptSet) -> Recovery:
    return recovery(
        {"base": base, "tuned": tuned}, base, concepts, TEXTS, (POSITIVE, NEGATIVE),
        k=3, fit=ProbeFit(3, STRENGTHS, seed=4), scan=Scan(200),
    )  # fmt: skip


def span(concepts: ConceptSet, layer: int) -> np.ndarray:
    """An orthonormal basis by numpy, `[d_model, dims]`."""
    return np.linalg.svd(concepts.directions(layer).double().numpy(), full_matrices=False)[2].T


def differences(tuned: Lens, base: Lens, layer: int) -> np.ndarray:
    sides = (np.concatenate(answer_states(lens, TEXTS, layer)) for lens in (tuned, base))
    return next(sides) - next(sides)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_share_inside_is_that_of_the_projected_differences_of_plain_transformers(
    base, tuned, concepts, found, layer
):
    change = found["tuned", layer].change
    rows = differences(tuned, base, layer)
    # The covariance is over n - 1, the mean over n.
    energy = rows.var(axis=0, ddof=1).sum() + (rows.mean(axis=0) ** 2).sum()
    along = rows @ span(concepts, layer)
    inside = along.var(axis=0, ddof=1).sum() + (along.mean(axis=0) ** 2).sum()
    assert change.inside == pytest.approx(inside / energy, rel=1e-4)
    assert change.size == pytest.approx(np.sqrt(energy), rel=1e-4)
    assert change.chance == span(concepts, layer).shape[1] / base.d_model


@pytest.mark.parametrize("layer", [0, 1])
def test_refitted_cosines_are_those_with_the_singular_vectors_of_the_centred_differences(
    base, tuned, concepts, found, layer
):
    rows = differences(tuned, base, layer)
    vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2][:3]
    refits = found["tuned", layer].change.refit
    assert [one.name for one in refits] == concepts.at(layer).names
    for one, direction in zip(refits, concepts.directions(layer).double().numpy(), strict=True):
        cosines = np.abs(vectors @ direction)
        assert one.cosine == pytest.approx(cosines.max(), abs=1e-4)
        assert one.component == f"L{layer}.pc{cosines.argmax()}"
        assert one.span == pytest.approx(np.sqrt((cosines**2).sum()), abs=1e-4)
        assert one.shift == pytest.approx(rows.mean(axis=0) @ direction, abs=1e-4)


def test_of_random_directions_19_in_20_have_smaller_cosines_than_chance_says(base, found):
    drawn = np.random.default_rng(9).standard_normal((20_000, base.d_model))
    components = np.linalg.qr(np.random.default_rng(8).standard_normal((base.d_model, 3)))[0]
    cosines = np.abs(drawn @ components) / np.linalg.norm(drawn, axis=1)[:, None]
    one = found["tuned", 1].change.refit[0]
    assert (cosines.max(axis=1) < one.chance).mean() == pytest.approx(0.95, abs=0.01)
    assert (np.linalg.norm(cosines, axis=1) < one.span_chance).mean() == pytest.approx(0.95, abs=0.01)


def test_an_ablated_direction_that_is_added_to_the_model_comes_back_first_and_has_all_of_the_change(base):
    direction = torch.randn(base.d_model, generator=torch.Generator().manual_seed(5))
    tuned = base.copy(name="tuned")
    with torch.no_grad():  # whatever the last projection of block 0 writes, it writes along the direction as well
        weight = tuned.hf.model.layers[0].mlp.down_proj.weight
        weight += torch.outer(direction, torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(6)))
    concept = ConceptSet([Concept("c", HOOK.format(0), direction)]).for_model(base)
    found = recovery(
        {"tuned": tuned}, base, concept, TEXTS, (POSITIVE, NEGATIVE), k=1, fit=ProbeFit(2, STRENGTHS)
    )  # fmt: skip
    change = found["tuned", 0].change
    assert change.inside == pytest.approx(1, abs=1e-6)
    assert change.refit[0].cosine == pytest.approx(1, abs=1e-6)


def areas(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> list[float]:
    found = []
    for train, test in StratifiedGroupKFold(3, shuffle=True, random_state=4).split(x, y, groups):
        scaler = StandardScaler().fit(x[train])
        model = LogisticRegression(C=STRENGTHS[0], max_iter=10_000).fit(scaler.transform(x[train]), y[train])
        found.append(roc_auc_score(y[test], model.decision_function(scaler.transform(x[test]))))
    return found


@pytest.mark.parametrize("model", ["base", "tuned"])
@pytest.mark.parametrize("layer", [0, 1])
def test_each_view_is_probed_as_scikit_learn_probes_it(base, tuned, concepts, found, model, layer):
    texts = [*POSITIVE, *NEGATIVE]
    lens = {"base": base, "tuned": tuned}[model]
    x = np.array([row.mean(axis=0) for row in answer_states(lens, texts, layer)])
    y = np.arange(len(texts)) < len(POSITIVE)
    answers = [text.answer for text in texts]
    groups = np.array([answers.index(answer) for answer in answers])
    basis = span(concepts, layer)
    row = found[model, layer]
    np.testing.assert_allclose(row.auroc["whole"], areas(x, y, groups), atol=3e-3)
    np.testing.assert_allclose(row.auroc["inside"], areas(x @ basis, y, groups), atol=3e-3)
    np.testing.assert_allclose(row.auroc["outside"], areas(x - x @ basis @ basis.T, y, groups), atol=3e-3)
    for draw, area in enumerate(row.auroc["random"]):
        other = span(random_directions(concepts, 4 + draw), layer)
        assert area == pytest.approx(np.mean(areas(x @ other, y, groups)), abs=3e-3)


def test_what_is_projected_out_cannot_be_read_from_its_rounding():
    from caft_lens.evaluate.recovery import _probed

    rng = np.random.default_rng(1)
    positive = np.arange(80) < 40
    acts = rng.standard_normal((80, 4))
    acts[:, 2] += 100 * positive  # the concept is one coordinate
    # A basis is of unit length to the last bit or but one, and then x - (x Q) Qᵀ leaves a 10^-16th of x.
    axis = np.eye(4)[:, [2]] * np.nextafter(1, 0)
    units = Units(acts, positive, np.arange(80))
    scored = _probed(units, axis, [], ProbeFit(4, [10.0]))
    assert min(scored["inside"]) == 1
    plain = Units(acts[:, [0, 1, 3]], positive, np.arange(80))
    np.testing.assert_allclose(scored["outside"], held_out(plain, ProbeFit(4, [10.0]))[0], atol=1e-6)


def test_the_base_has_probes_and_no_change(found: Recovery):
    row = found["base", 0]
    assert row.change is None
    assert set(row.auroc) == {"whole", "inside", "outside", "random"}
    table = found.table().set_index(["model", "hook"])
    assert table.loc[("base", HOOK.format(0)), ["change", "share inside", "cosine"]].isna().all()
    assert set(found.directions()["model"]) == {"tuned"}


def test_the_table_has_a_row_for_every_model_and_hook_point(found: Recovery):
    table = found.table()
    assert list(zip(table["model"], table["hook"], strict=True)) == [
        (model, HOOK.format(layer)) for model in ("base", "tuned") for layer in (0, 1)
    ]
    row = found["tuned", 0]
    (shown,) = table[(table["model"] == "tuned") & (table["hook"] == HOOK.format(0))].to_dict("records")
    assert shown["dims"] == 2
    assert shown["share inside"] == row.change.inside
    assert shown["cosine"] == max(one.cosine for one in row.change.refit)
    assert shown["AUROC outside"] == pytest.approx(np.mean(row.auroc["outside"]))
    assert shown["± outside"] == pytest.approx(np.std(row.auroc["outside"], ddof=1))
    assert len(found.directions()) == 3


def test_it_is_json_and_a_figure_and_escapes_what_a_model_is_called(base, concepts):
    named = recovery(
        {"<b>$x": base}, base, concepts, TEXTS, (POSITIVE, NEGATIVE), fit=ProbeFit(2, STRENGTHS)
    )  # fmt: skip
    assert json.loads(json.dumps(named.to_json()))["rows"][0]["model"] == "<b>$x"
    assert "<b>$x" not in named._repr_html_()
    figure = named.plot("a $title")
    assert ticks(figure)[0] == "<b>$x, L0"
    assert "a $title" in words(figure)
    assert not any(mark in str(figure.small()["layout"]["yaxis"]["ticktext"]) for mark in "<$")


def test_the_figure_has_a_share_for_every_tuned_model_and_hook_point(found: Recovery):
    figure = found.plot()
    shares, cosines = (
        next(one for one in figure.data if one.type == "bar" and (one.xaxis or "x") == axis) for axis in ("x", "x2")
    )
    assert list(shares.x) == [100 * found["tuned", layer].change.inside for layer in (0, 1)]
    assert len(cosines.x) == 2
    assert ticks(figure) == ["base, L0", "tuned, L0", "base, L1", "tuned, L1"]
    assert [one.name for one in figure.data if one.xaxis == "x3"] == [
        "whole activation", "without the ablated directions", "ablated directions alone", "random directions, as many",
    ]  # fmt: skip
    assert all("AUROC" in said for said in hover(figure)[-4:])


def test_what_cannot_be_compared_is_refused(base, tuned, concepts, found):
    given = (base, concepts, TEXTS, (POSITIVE, NEGATIVE))
    with pytest.raises(ValueError, match="at least one"):
        recovery({}, *given)
    with pytest.raises(ValueError, match="neither that"):
        recovery({"other": tiny_lens("llama", seed=1, n_layers=3)}, *given)
    with pytest.raises(ValueError, match="at least 4 of either"):
        recovery({"tuned": tuned}, base, concepts, TEXTS, (POSITIVE[:3], NEGATIVE))
    with pytest.raises(KeyError, match="was not measured"):
        found["tuned", 2]


def test_it_is_called_by_the_name_of_its_module():
    assert callable(cl.evaluate.recovery)
    assert cl.evaluate.Recovery is Recovery
