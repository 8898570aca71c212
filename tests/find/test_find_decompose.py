"""A sparse mix of decoder directions is taken apart exactly, and every figure is numpy's."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from tiny_models import tiny_lens
from tiny_saes import tiny_sae

from caft_lens import find
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.lens import Lens

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=3)


def unit_rows(sae) -> np.ndarray:
    rows = sae.W_dec.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def concept(direction, name: str = "L1.pc0", hook: str = HOOK, **changes) -> Concept:
    return Concept(name, hook, torch.as_tensor(np.asarray(direction)), **changes)


def some(n: int = 3, width: int = 32) -> ConceptSet:
    rows = np.random.default_rng(1).standard_normal((n, width))
    return ConceptSet([concept(row, f"L1.pc{i}") for i, row in enumerate(rows)])


@pytest.mark.parametrize("weights", [[2.0, -1.5, 1.0], [-1.0], [0.4, 0.4, -0.4, 0.4]])
def test_a_sparse_mix_of_decoder_directions_is_recovered_exactly_with_either_sign(lens: Lens, weights):
    sae = tiny_sae(lens, d_sae=40)
    latents = [7, 30, 11, 2][: len(weights)]
    direction = np.array(weights) @ unit_rows(sae)[latents]
    length = np.linalg.norm(direction)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find.decompose(ConceptSet([concept(direction)]), sae, k=8)["L1.pc0"]
    mine = {part.latent: part.coefficient for part in found.parts}
    assert mine == pytest.approx({i: w / length for i, w in zip(latents, weights, strict=True)}, abs=1e-5)
    assert found.explained == pytest.approx(1, abs=1e-9)
    assert float(found.back().direction @ found.concept.direction) == pytest.approx(1, abs=1e-6)


def test_both_ends_are_the_same_latents_with_the_signs_turned(lens: Lens):
    sae = tiny_sae(lens)
    up = some(1)
    down = ConceptSet([concept(-up[0].direction.numpy())])
    one, other = (find.decompose(c, sae, k=6, n_random=0)["L1.pc0"] for c in (up, down))
    assert one.names() == other.names()
    assert [p.coefficient for p in one.parts] == pytest.approx([-p.coefficient for p in other.parts])
    assert {p.coefficient > 0 for p in one.parts} == {True, False}


def greedy(atoms: np.ndarray, target: np.ndarray, k: int) -> list[int]:
    """Orthogonal matching pursuit in a few lines of numpy; atoms are rows."""
    taken: list[int] = []
    left = target
    for _ in range(k):
        taken.append(int(np.abs(atoms @ left).argmax()))
        left = target - atoms[taken].T @ np.linalg.lstsq(atoms[taken].T, target, rcond=None)[0]
    return taken


def test_order_cosines_coefficients_and_shares_are_numpys(lens: Lens):
    sae = tiny_sae(lens, d_sae=64)
    atoms, concepts = unit_rows(sae), some()
    found = find.decompose(concepts, sae, k=7)
    assert list(found) == concepts.names
    for item in found.values():
        target = item.concept.direction.double().numpy()
        order = greedy(atoms, target, 7)
        assert [part.latent for part in item.parts] == order
        np.testing.assert_allclose([part.cosine for part in item.parts], atoms[order] @ target, atol=1e-6)
        shares = []
        for n in range(1, 8):
            basis = np.linalg.qr(atoms[order[:n]].T)[0]
            shares.append(np.square(basis.T @ target).sum())
        np.testing.assert_allclose([part.explained for part in item.parts], shares, atol=1e-6)
        fit = np.linalg.lstsq(atoms[order].T, target, rcond=None)[0]
        np.testing.assert_allclose([part.coefficient for part in item.parts], fit, atol=1e-6)


def test_one_latent_is_the_nearest_and_the_method_by_cosine_takes_the_nearest_ones(lens: Lens):
    sae = tiny_sae(lens, d_sae=64)
    atoms, concepts = unit_rows(sae), some()
    for item, near in zip(
        find.decompose(concepts, sae, k=1, n_random=0).values(),
        find.decompose(concepts, sae, k=5, n_random=0, method="cosine").values(),
        strict=True,
    ):
        nearest = np.argsort(-np.abs(atoms @ item.concept.direction.double().numpy()))[:5]
        assert item.parts[0].latent == nearest[0]
        assert item.parts[0].coefficient == pytest.approx(item.parts[0].cosine)
        assert [part.latent for part in near.parts] == nearest.tolist()
        assert near.explained < find.decompose(concepts, sae, k=5)[item.concept.name].explained


def test_the_best_pair_of_all_explains_no_less_than_what_is_called_explained(lens: Lens):
    sae = tiny_sae(lens, d_sae=20)
    atoms, concepts = unit_rows(sae), some(1)
    target = concepts[0].direction.double().numpy()
    best = max(
        np.square(np.linalg.qr(atoms[list(pair)].T)[0].T @ target).sum()
        for pair in itertools.combinations(range(20), 2)
    )
    assert find.decompose(concepts, sae, k=2)["L1.pc0"].explained <= best + 1e-9


def test_back_is_the_direction_that_the_latents_make_up_and_says_how_near_it_comes(lens: Lens):
    sae = tiny_sae(lens)
    concepts = some().label({"L1.pc1": "cruel"})
    found = find.decompose(concepts, sae, k=4)
    back = found.back()
    assert back.names == ["L1.pc0.latents", "L1.pc1.latents", "L1.pc2.latents"]
    for item, rebuilt in zip(found.values(), back, strict=True):
        total = sum(p.coefficient * unit_rows(sae)[p.latent] for p in item.parts)
        np.testing.assert_allclose(rebuilt.direction, total / np.linalg.norm(total), atol=1e-6)
        assert rebuilt.score == pytest.approx(float(rebuilt.direction @ item.concept.direction), abs=1e-6)
        # What a projection explains of a unit vector is the square of its cosine.
        assert rebuilt.score**2 == pytest.approx(item.explained, abs=1e-6)
    assert back["L1.pc1.latents"].label == "cruel"


def test_latents_are_the_concepts_that_find_sae_would_name_each_once(lens: Lens):
    sae = tiny_sae(lens)
    rows = unit_rows(sae)
    concepts = ConceptSet([concept(rows[3] + 0.5 * rows[9], "L1.pc0"), concept(rows[9] - 0.5 * rows[4], "L1.pc1")])
    latents = find.decompose(concepts, sae, k=2).latents()
    assert sorted(latents.names) == ["L1.latent3", "L1.latent4", "L1.latent9"]
    shared = latents["L1.latent9"]
    assert shared.score_name == "coefficient in L1.pc1"
    assert shared.source == "sae"
    assert [c.rank for c in latents] == [0, 1, 2]
    assert [abs(c.score) for c in latents] == sorted((abs(c.score) for c in latents), reverse=True)
    for latent in latents:
        np.testing.assert_allclose(latent.direction, rows[latent.meta["latent"]], atol=1e-6)
    assert latents["L1.latent4"].score < 0


def test_chance_is_what_random_directions_give_and_a_mix_of_latents_stands_out(lens: Lens):
    sae = tiny_sae(lens, d_sae=64)
    table = find.decompose(some(12), sae, k=5, n_random=200).table()
    last = table[table.groupby("concept").cumcount() == 4]
    assert last.explained.mean() == pytest.approx(last.chance.mean(), abs=0.05)
    assert (table.groupby("concept").chance.diff().dropna() > 0).all()
    mix = ConceptSet([concept(unit_rows(sae)[[1, 2, 3]].sum(0))])
    assert find.decompose(mix, sae, k=3)["L1.pc0"].table().eval("explained - chance").iloc[-1] > 0.2
    one, other = (find.decompose(some(1), sae, k=3, seed=5).table() for _ in range(2))
    assert one.equals(other)
    assert find.decompose(some(1), sae, k=3, n_random=0).table().chance.isna().all()


def test_every_hook_point_has_its_own_sae_and_concepts_elsewhere_are_named(lens: Lens):
    saes = [tiny_sae(lens, 0, seed=1), tiny_sae(lens, 1, seed=2)]
    direction = unit_rows(saes[0])[5]
    concepts = ConceptSet(
        [
            concept(direction, "L1.pc0"),
            concept(direction, "L0.pc0", "blocks.0.hook_resid_post"),
            concept(direction, "L2.pc0", "blocks.2.hook_resid_post"),
        ]
    )
    found = find.decompose(concepts, saes, k=3)
    assert list(found) == ["L1.pc0", "L0.pc0"]
    assert found.skipped == ["L2.pc0"]
    assert "no SAE for L2.pc0" in repr(found)
    assert found["L0.pc0"].names() == ["L0.latent5"]
    assert found["L1.pc0"].explained < 1 - 1e-6
    assert "<table" in found._repr_html_()


def test_a_latent_that_writes_nothing_is_never_taken(lens: Lens):
    sae = tiny_sae(lens)
    sae.W_dec.data[5] = 0
    for item in find.decompose(some(), sae, k=32, n_random=0).values():
        assert 5 not in [part.latent for part in item.parts]
        assert np.isfinite([part.coefficient for part in item.parts]).all()


def test_latents_can_be_saved_and_know_their_saes(lens: Lens, tmp_path):
    sae = tiny_sae(lens)
    latents = find.decompose(some().for_model(lens), sae, k=2).latents()
    latents.check(lens)
    assert latents.provenance["saes"].keys() == {HOOK}
    assert ConceptSet.load(latents.save(tmp_path)).names == latents.names


def test_what_does_not_fit_is_refused_with_the_reason(lens: Lens):
    sae = tiny_sae(lens)
    with pytest.raises(ValueError, match=r"No concept is where an SAE is: concepts at blocks\.1"):
        find.decompose(some(), tiny_sae(lens, 0))
    with pytest.raises(ValueError, match="is 32 wide, the concepts are 16 wide"):
        find.decompose(some(width=16), sae)
    with pytest.raises(ValueError, match="belongs to another model"):
        find.decompose(some().for_model(tiny_lens(seed=1, n_layers=3)), sae)
    with pytest.raises(ValueError, match="of at least 1 and at most 32"):
        find.decompose(some(), sae, k=33)
    with pytest.raises(ValueError, match=r'method="ompp".*Did you mean "omp"'):
        find.decompose(some(), sae, method="ompp")
    with pytest.raises(ValueError, match="Two SAEs at"):
        find.decompose(some(), [sae, sae])
    with pytest.raises(KeyError, match=r'Did you mean "L1\.pc0"'):
        find.decompose(some(1), sae, k=2)["L1.pc"]
    sae.W_dec.data[:, 0] = 0
    with pytest.raises(ValueError, match="orthogonal to the decoder direction"):
        find.decompose(ConceptSet([concept(np.eye(32)[0])]), sae, k=2)
