"""The figure of scores shows every concept where its rank and score are, and rings those that were named."""

from __future__ import annotations

import pytest
import torch

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


def drawn(axes) -> dict[str, list[tuple[float, float]]]:
    """What the lines of a panel go through, by label."""
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in lines}


def test_there_is_a_line_a_hook_point_through_every_score_at_its_rank():
    axes = scores(ranked()).axes[0]
    assert drawn(axes) == {f"L{layer}": list(enumerate(of)) for layer, of in SHARES.items()}
    assert axes.get_ylabel() == "explained variance ratio"
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["L0", "L2"]


def test_concepts_left_out_of_a_set_leave_the_others_at_their_ranks():
    left = ranked().without(["L0.pc0", "L2.pc0"])
    assert drawn(scores(left).axes[0]) == {"L0": [(1, 0.2), (2, 0.1)], "L2": [(1, 0.25)]}


def test_named_concepts_are_ringed_where_they_stand_in_every_list_that_has_them():
    lists = {"one": ranked(), "other": ranked({0: (-0.1, -0.4)}, "rise")}
    first, second = scores(lists, mark=["L2.pc1", "L0.pc1"], title="Two lists").axes
    assert [text.get_text() for text in first.texts] == ["L2.pc1", "L0.pc1"]
    assert [text.xy for text in first.texts] == [(1, 0.25), (1, 0.2)]
    assert [(text.get_text(), text.xy) for text in second.texts] == [("L0.pc1", (1, -0.4))]
    assert second.get_ylim()[0] < -0.4, "scores below 0 are not cut off"
    assert scores(ranked(), mark="L0.pc2")._repr_png_().startswith(b"\x89PNG")


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
