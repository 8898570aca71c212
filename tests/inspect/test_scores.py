"""The figure of scores shows every concept where its rank and score are, and rings those that were named."""

from __future__ import annotations

import pytest
import torch
from drawn import hover, seen

from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.inspect import scores

SHARES = {0: (0.5, 0.2, 0.1), 2: (0.3, 0.25)}


def ranked(shares=SHARES, score_name: str = "explained variance ratio") -> ConceptSet:
    return ConceptSet(
        Concept(
            f"L{layer}.pc{rank}",
            f"blocks.{layer}.hook_resid_post",
            torch.eye(4)[rank],
            rank=rank,
            score=score,
            score_name=score_name,
        )
        for layer, of in shares.items()
        for rank, score in enumerate(of)
    )


def lines(figure, axis: str = "x") -> dict[str, list[tuple[float, float]]]:
    """What the lines of a panel go through, by label."""
    there = [one for one in figure.data if one.name and (one.xaxis or "x") == axis]
    return {one.name: list(zip(one.x, one.y, strict=True)) for one in there}


def test_there_is_a_line_a_hook_point_through_every_score_at_its_rank():
    figure = scores(ranked())
    assert lines(figure) == {f"L{layer}": list(enumerate(of)) for layer, of in SHARES.items()}
    assert figure.layout.yaxis.title.text == "explained variance ratio"
    assert figure.layout.yaxis.rangemode == "tozero"
    assert figure.layout.showlegend
    assert hover(figure)[1] == "L0.pc1\nrank 1 at blocks.0.hook_resid_post\nexplained variance ratio: 0.2"


def test_concepts_left_out_of_a_set_leave_the_others_at_their_ranks():
    left = ranked().without(["L0.pc0", "L2.pc0"])
    assert lines(scores(left)) == {"L0": [(1, 0.2), (2, 0.1)], "L2": [(1, 0.25)]}


def test_named_concepts_are_ringed_where_they_stand_in_every_list_that_has_them():
    lists = {"one": ranked(), "other": ranked({0: (-0.1, -0.4)}, "rise")}
    figure = scores(lists, mark=["L2.pc1", "L0.pc1"], title="Two lists")
    named = [(seen(one.text), one.x, one.y, one.xref) for one in figure.layout.annotations if one.yref != "paper"]
    assert named == [("L2.pc1", 1, 0.25, "x"), ("L0.pc1", 1, 0.2, "x"), ("L0.pc1", 1, -0.4, "x2")]
    rings = [one for one in figure.data if one.marker.symbol == "circle-open"]
    assert [list(zip(one.x, one.y, strict=True)) for one in rings] == [[(1, 0.25), (1, 0.2)], [(1, -0.4)]]
    assert figure.layout.yaxis2.rangemode is None, "scores below 0 are not cut off"


def test_what_cannot_be_drawn_is_refused_with_its_reason():
    with pytest.raises(KeyError, match=r'no concept "L0.pc9" here. Did you mean "L0.pc'):
        scores(ranked(), mark=["L0.pc9"])
    with pytest.raises(ValueError, match="at least one list"):
        scores({})
    with pytest.raises(ValueError, match='the concepts of "mine" are ranked by nothing'):
        scores({"mine": ranked(score_name="")})
    mixed = ranked({0: (0.5,)}) + ranked({1: (0.5,)}, "attribution")
    with pytest.raises(ValueError, match="ranked by explained variance ratio, attribution: draw the list"):
        scores(mixed)
