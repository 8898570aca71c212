"""Cosines are those of numpy, and the map of them is in order, centred on 0, with lines between layers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.inspect import cosines
from caft_lens.inspect.geometry import heat_map


def some(n: int = 4, layers=(2, 0, 1), width: int = 24) -> ConceptSet:
    generator = torch.Generator().manual_seed(0)
    return ConceptSet(
        Concept(f"L{layer}.x{i}", f"blocks.{layer}.hook_resid_post", torch.randn(width, generator=generator))
        for layer in layers
        for i in range(n)
    )


def test_cosines_are_those_of_numpy_across_layers():
    concepts = some()
    rows = np.stack([concept.direction.double().numpy() for concept in concepts])
    lengths = np.linalg.norm(rows, axis=1)
    found = cosines(concepts)
    np.testing.assert_allclose(found.values, rows @ rows.T / np.outer(lengths, lengths), atol=1e-12)
    table = found.table()
    assert list(table.index) == list(table.columns) == concepts.names
    assert table.loc["L2.x0", "L1.x3"] == pytest.approx(
        float(concepts["L2.x0"].direction @ concepts["L1.x3"].direction), abs=1e-6
    )
    assert np.diag(found.values) == pytest.approx(1.0)


def test_by_layer_concepts_keep_their_order_within_a_hook_point():
    concepts = some(2, layers=(10, 0, 2))[::-1]
    mlp = Concept("L0.mlp_out.x0", "blocks.0.hook_mlp_out", torch.ones(24))
    found = cosines([*concepts, mlp])
    names = [found.concepts[place].name for place in found.order("layer")]
    assert names == ["L0.mlp_out.x0", "L0.x1", "L0.x0", "L2.x1", "L2.x0", "L10.x1", "L10.x0"]


def test_clusters_stand_together_whatever_the_sign():
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(3, 24, generator=generator)
    members = [
        ((-1) ** i * (centres[i % 3] + 0.2 * torch.randn(24, generator=generator)), i % 3) for i in range(12)
    ]
    found = cosines(
        [Concept(f"L0.x{i}", "blocks.0.hook_resid_post", row) for i, (row, _) in enumerate(members)]
    )
    order = found.order("cluster")
    assert sorted(order) == list(range(12))
    runs = [members[place][1] for place in order]
    assert sum(a != b for a, b in pairwise(runs)) == 2


def test_the_map_is_centred_on_zero_with_a_line_between_hook_points():
    found = cosines(some(3))
    axes, bar = found.plot(title="$5 and $6").axes
    assert axes.images[0].get_clim() == (-1.0, 1.0)
    drawn = np.asarray(axes.images[0].get_array())
    order = found.order("layer")
    np.testing.assert_allclose(drawn, found.values[np.ix_(order, order)])
    assert len(axes.lines) == 2 * 2, "three layers, two borders, both ways"
    assert [label.get_text() for label in axes.get_yticklabels()] == [found.concepts[i].name for i in order]
    middle = axes.images[0].cmap(0.5)
    assert middle[:3] == pytest.approx((1, 1, 1), abs=0.02)
    assert bar is not None
    assert not found.plot("cluster").axes[0].lines


@pytest.mark.parametrize("order", ["layer", "cluster"])
def test_hundreds_of_concepts_make_a_figure_with_labels_that_do_not_collide(order: str):
    figure = cosines(some(100)).plot(order)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert len(labels) == (3 if order == "layer" else 0)
    assert max(figure.get_size_inches()) < 12
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_one_concept_and_two_have_a_map_too():
    assert cosines(some(1)[:1]).plot("cluster")._repr_png_()
    assert cosines(some(1)[:2])._repr_png_().startswith(b"\x89PNG")


def test_a_square_map_has_settled_when_it_is_first_shown():
    named = [replace(concept, name=f"L{concept.layer}.latent{i}") for i, concept in enumerate(some(7))]
    figure = cosines(ConceptSet(named)).plot()
    figure._repr_png_()
    first = np.array(figure.axes[0].get_position().bounds)
    figure._repr_png_()
    assert np.abs(figure.axes[0].get_position().bounds - first).max() < 0.005


def test_dollar_signs_in_labels_are_no_mathematics_and_missing_values_are_grey():
    values = np.array([[1.0, np.nan], [-2.0, 0.5]])
    figure = heat_map(values, rows=["$a$", "b"], columns=["x_{1}$", "$"], caption="$x$", numbers=".1f")
    figure._repr_png_()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["1.0", "-2.0", "0.5"]
    assert figure.axes[0].images[0].get_clim() == (-2.0, 2.0)
    assert figure.axes[0].get_yticklabels()[0].get_text() == r"\$a\$"


def test_what_has_no_cosine_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="at least one"):
        cosines([])
    with pytest.raises(ValueError, match=r"widths \[8, 24\]"):
        cosines([*some(1), Concept("L0.short", "blocks.0.hook_resid_post", torch.ones(8))])
    with pytest.raises(ValueError, match=r'no order "layr".*"layer"'):
        cosines(some()).plot("layr")
