"""Overlaps, matches and agreement of ranked lists are those of numpy and scipy, with chance beside them."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch
from drawn import seen, words
from scipy.stats import spearmanr

from caft_lens import find
from caft_lens.concepts.concept_set import Concept, ConceptSet

WIDTH = 16


def listed(rows, layer: int = 1, scores=None, kind: str = "pc", width: int = WIDTH) -> ConceptSet:
    rows = np.asarray(rows, dtype=np.float64).reshape(-1, width)
    scores = np.linspace(1, 0.1, len(rows)) if scores is None else scores
    hook = f"blocks.{layer}.hook_resid_post"
    return ConceptSet(
        Concept(f"L{layer}.{kind}{i}", hook, torch.from_numpy(row), score=float(score), rank=i)
        for i, (row, score) in enumerate(zip(rows, scores, strict=True))
    )


def drawn(n: int, seed: int, width: int = WIDTH) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def both_layers(seed: int, kind: str) -> ConceptSet:
    return listed(drawn(4, seed), 0, kind=kind) + listed(drawn(3, seed + 1), 1, kind=kind)


def test_cosines_are_numpys_at_one_hook_point_and_none_across():
    a, b = both_layers(0, "pc"), both_layers(5, "latent")
    found = find.compare({"a": a, "b": b})
    frame = found.cosines("a", "b")
    assert list(frame.index) == a.names
    assert list(frame.columns) == b.names
    expected = np.abs(np.block([
        [drawn(4, 0) @ drawn(4, 5).T, np.full((4, 3), np.nan)],
        [np.full((3, 4), np.nan), drawn(3, 1) @ drawn(3, 6).T],
    ]))  # fmt: skip
    np.testing.assert_allclose(frame.to_numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(found.cosines("b", "a"), frame.T)
    np.testing.assert_allclose(found.cosines("a", "b", 1), expected[4:, 4:], atol=1e-6)


def test_overlap_is_the_mean_squared_cosine_of_principal_angles():
    a, b = drawn(3, 0), drawn(5, 1)
    (row,) = find.compare({"a": listed(a), "b": listed(b)}).overlap.to_dict("records")
    angles = np.linalg.svd(np.linalg.qr(a.T)[0].T @ np.linalg.qr(b.T)[0], compute_uv=False)
    assert row["overlap"] == pytest.approx(np.mean(angles**2), abs=1e-6)
    assert (row["a"], row["b"], row["hook"]) == ("a", "b", "blocks.1.hook_resid_post")
    assert (row["dims_a"], row["dims_b"]) == (3, 5)


def test_chance_is_what_random_spans_give_on_average():
    rows = [
        find.compare({"a": listed(drawn(3, 2 * seed)), "b": listed(drawn(6, 2 * seed + 1))}).overlap
        for seed in range(60)
    ]
    together = pandas.concat(rows)
    assert together.overlap.mean() == pytest.approx(together.chance.iloc[0], abs=0.03)
    assert together.chance.iloc[0] == 6 / WIDTH


def test_every_concept_has_its_best_match_with_the_sign_of_the_cosine():
    base = np.linalg.qr(drawn(6, 3).T)[0].T
    a, b = base[:4], np.stack([-base[2], base[0] + 0.3 * base[5], base[4]])
    matches = find.compare({"a": listed(a), "b": listed(b, kind="latent")}).matches("a", "b")
    assert matches.name.tolist() == ["L1.pc0", "L1.pc1", "L1.pc2", "L1.pc3"]
    assert matches.match[0] == "L1.latent1"
    assert matches.match[2] == "L1.latent0"
    assert matches.cosine[0] == pytest.approx(1 / np.sqrt(1.09), abs=1e-6)
    assert matches.cosine[2] == pytest.approx(-1, abs=1e-6)
    assert matches.alike.tolist() == [True, False, True, False]
    assert matches.match_score[2] == 1.0


def test_agreement_is_the_share_alike_and_spearmans_correlation_of_their_scores():
    base = np.linalg.qr(drawn(12, 4).T)[0].T
    scores = np.array([6.0, 5, 4, 3, 2, 1])
    order = [3, 0, 2, 9, 10, 11]
    a, b = listed(base[:6], scores=scores), listed(base[order], kind="latent", scores=scores * 10)
    table = find.compare({"a": a, "b": b}).agreement.set_index(["a", "b"])
    one, other = table.loc[("a", "b")], table.loc[("b", "a")]
    assert one.n == other.n == 6
    assert one.share == other.share == 0.5
    expected = spearmanr(scores[[0, 2, 3]], 10 * scores[[1, 2, 0]])
    assert one.rank_correlation == pytest.approx(expected.statistic)
    assert one.rank_correlation != pytest.approx(1)
    twice = find.compare({"a": a, "b": a}).agreement
    assert (twice.share == 1).all()
    np.testing.assert_allclose(twice.rank_correlation, 1)


def test_agreement_by_chance_is_that_of_random_directions():
    width, n = 6, 3
    b = listed(np.eye(width)[:n], kind="latent", width=width)
    found = find.compare({"a": listed(drawn(1000, 7, width), width=width), "b": b}).agreement.iloc[0]
    assert found.share == pytest.approx(found.chance, abs=0.05)
    assert 0.05 < found.chance < 0.5


def test_fewer_than_three_that_are_alike_have_no_rank_correlation():
    base = np.linalg.qr(drawn(4, 4).T)[0].T
    table = find.compare({"a": listed(base[:2]), "b": listed(base[:2])}).agreement
    assert table.rank_correlation.isna().all()
    assert (table.share == 1).all()


def test_the_first_k_of_every_hook_point_are_compared():
    found = find.compare({"a": both_layers(0, "pc"), "b": both_layers(5, "latent")}, k=2)
    assert found.lists["a"].names == ["L0.pc0", "L0.pc1", "L1.pc0", "L1.pc1"]
    assert found.agreement.n.tolist() == [4, 4]


def test_lists_without_a_common_hook_point_are_left_out_where_others_have_one():
    lists = {"a": both_layers(0, "pc"), "b": both_layers(5, "latent"), "c": listed(drawn(2, 9), 7)}
    found = find.compare(lists)
    assert set(found.overlap.a) | set(found.overlap.b) == {"a", "b"}
    assert len(found.agreement) == 2
    assert found.plot().data


def test_figures_have_a_panel_a_hook_point_and_every_value_in_it():
    lists = {"pca <b>": both_layers(0, "pc"), "sae": both_layers(5, "latent"), "probe": both_layers(9, "x")}
    found = find.compare(lists)
    figure = found.plot(title="routes")
    assert [one.type for one in figure.data] == ["heatmap", "heatmap"]
    assert {"routes", "L0", "L1"} <= set(words(figure).split("\n"))
    shown = {seen(text).split("\n")[0] for row in figure.data[0].text for text in row}
    for share in found.overlap[found.overlap.hook == "blocks.0.hook_resid_post"].overlap:
        assert f"{share:.2f}" in shown
    assert [seen(name) for name in figure.data[0].x] == list(lists)
    figure = found.plot("sae", "probe")
    values = np.array(figure.data[0].z, dtype=float)
    np.testing.assert_allclose(values, found.cosines("sae", "probe", 0), rtol=0.01)
    many = find.compare({"a": listed(drawn(120, 0)), "b": listed(drawn(120, 1))}).plot("a", "b")
    assert max(many.layout.width, many.layout.height) < 1000


def test_the_display_escapes_names_and_shows_both_tables():
    page = find.compare({"<b>x": both_layers(0, "pc"), "sae": both_layers(5, "latent")})._repr_html_()
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page
    assert page.count("<table") == 2


def test_what_cannot_be_compared_is_refused_with_the_reason():
    a, b = listed(drawn(3, 0)), listed(drawn(3, 1), kind="latent")
    with pytest.raises(ValueError, match="two lists at least"):
        find.compare({"a": a})
    with pytest.raises(ValueError, match="no two lists share a hook point"):
        find.compare({"a": a, "b": listed(drawn(2, 0), 4)})
    with pytest.raises(ValueError, match="a 16, b 8"):
        find.compare({"a": a, "b": listed(drawn(2, 0, 8), width=8)})
    with pytest.raises(ValueError, match=r"alike=1\.5"):
        find.compare({"a": a, "b": b}, alike=1.5)
    with pytest.raises(ValueError, match=r"top\(0\)"):
        find.compare({"a": a, "b": b}, k=0)
    with pytest.raises(TypeError, match='"b" is list'):
        find.compare({"a": a, "b": [b]})
    found = find.compare({"pca": a, "sae": b})
    with pytest.raises(KeyError, match=r'No list "pcaa" in this comparison\. Did you mean "pca"'):
        found.cosines("pcaa", "sae")
    with pytest.raises(KeyError, match="No concept at"):
        found.cosines("pca", "sae", 3)
    with pytest.raises(ValueError, match="no list, for overlaps, or two"):
        found.plot("pca")
