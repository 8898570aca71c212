"""Cosines are those of numpy, and the map of them is in order, centred on 0, with lines between layers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from drawn import ticks

from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display.theme import PAPER
from caft_lens.inspect import cosines


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
    members = [((-1) ** i * (centres[i % 3] + 0.2 * torch.randn(24, generator=generator)), i % 3) for i in range(12)]
    found = cosines([Concept(f"L0.x{i}", "blocks.0.hook_resid_post", row) for i, (row, _) in enumerate(members)])
    order = found.order("cluster")
    assert sorted(order) == list(range(12))
    runs = [members[place][1] for place in order]
    assert sum(a != b for a, b in pairwise(runs)) == 2


def test_the_map_is_centred_on_zero_with_a_line_between_hook_points():
    found = cosines(some(3))
    figure = found.plot(title="$5 and $6")
    (drawn,) = figure.data
    assert (drawn.zmin, drawn.zmax) == (-1.0, 1.0)
    order = found.order("layer")
    np.testing.assert_allclose(np.array(drawn.z, dtype=float), found.values[np.ix_(order, order)], atol=2e-3)
    assert len(figure.layout.shapes) == 2 * 2, "three layers, two borders, both ways"
    assert ticks(figure) == [found.concepts[i].name for i in order]
    assert drawn.colorscale[1] == (0.5, PAPER)
    assert drawn.showscale
    assert not found.plot("cluster").layout.shapes


@pytest.mark.parametrize("order", ["layer", "cluster"])
def test_hundreds_of_concepts_make_a_figure_with_labels_that_do_not_collide(order: str):
    figure = cosines(some(100)).plot(order)
    assert len(ticks(figure, "xaxis")) == (3 if order == "layer" else 0)
    assert max(figure.layout.width, figure.layout.height) < 1200
    assert len(set(figure.data[0].x)) == 300, "hovering still says which"


def test_one_concept_and_two_have_a_map_too():
    assert cosines(some(1)[:1]).plot("cluster").data[0].z == ([1.0],)
    assert len(cosines(some(1)[:2]).plot().data[0].z) == 2


def test_what_has_no_cosine_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="at least one"):
        cosines([])
    with pytest.raises(ValueError, match=r"widths \[8, 24\]"):
        cosines([*some(1), Concept("L0.short", "blocks.0.hook_resid_post", torch.ones(8))])
    with pytest.raises(ValueError, match=r'order="layr".*"layer"'):
        cosines(some()).plot("layr")
