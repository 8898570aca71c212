"""One pass gives what two give; a survey can be watched and stopped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny_lens

import caft_lens as cl
from caft_lens.find.by_words import ConceptIndex
from caft_lens.inspect import neighbours
from caft_lens.text.batching import Scan

TEXTS = [f"the {word} sat on the {other}" for word in ("cat", "dog", "bird", "fish") for other in ("mat", "rug")]


@pytest.fixture(scope="module")
def lens():
    return tiny_lens("llama")


@pytest.fixture(scope="module")
def concepts(lens):
    rows = torch.randn(3, lens.d_model, generator=torch.Generator().manual_seed(1))
    return cl.ConceptSet(
        [cl.Concept(f"L1.pc{i}", "blocks.1.hook_resid_post", row) for i, row in enumerate(rows)],
        {"fingerprint": lens.fingerprint},
    )


def test_a_survey_gives_the_contexts_and_densities_of_two_passes(lens, concepts):
    texts = cl.Texts(TEXTS)
    seen: list[float] = []
    both = cl.inspect.survey(lens, concepts, texts, k=3, scan=Scan(32, watch=seen.append))
    contexts = cl.contexts(lens, concepts, texts, k=3)
    densities = cl.inspect.density(lens, concepts, texts)
    for name in concepts.names:
        for end in ("top", "bottom"):
            found, wanted = (getattr(one[name], end) for one in (both.contexts, contexts))
            assert [one.tokens for one in found] == [one.tokens for one in wanted]
            np.testing.assert_allclose([one.value for one in found], [one.value for one in wanted], atol=1e-5)
        assert both.densities[name].tokens == densities[name].tokens
        assert both.densities[name].mean == pytest.approx(densities[name].mean, abs=1e-5)
    assert seen == sorted(seen)
    assert (len(seen) > 1, seen[-1]) == (True, 1.0)


def test_what_watches_can_stop_the_pass(lens, concepts):
    class Enough(Exception):
        pass

    def stop(share: float) -> None:
        raise Enough

    with pytest.raises(Enough):
        cl.inspect.survey(lens, concepts, cl.Texts(TEXTS), scan=Scan(watch=stop))
    assert not lens.hook_dict["blocks.1.hook_resid_post"].fwd_hooks


def test_neighbours_are_the_largest_cosines_of_either_sign():
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(2))
    every = [cl.Concept(f"L1.x{i}", "blocks.1.hook_resid_post", row) for i, row in enumerate(rows)]
    cosines = torch.nn.functional.cosine_similarity(rows, rows[3:4])
    wanted = [i for i in cosines.abs().sort(descending=True).indices.tolist() if i != 3][:5]
    found = neighbours(every, every[3], 5)
    assert [one.name for one, _ in found] == [f"L1.x{i}" for i in wanted]
    np.testing.assert_allclose([cosine for _, cosine in found], cosines[wanted].numpy(), atol=1e-5)
    assert neighbours(every[:1], every[0]) == []
    with pytest.raises(ValueError, match="different models"):
        neighbours([cl.Concept("L1.y", "blocks.1.hook_resid_post", torch.ones(3))], every[0])


def test_the_scores_of_all_concepts_are_those_that_a_search_ranks_by():
    labels = ["cruel answers", "cruel and cruel jokes", "football", "weather"]
    concepts = cl.ConceptSet(
        [
            cl.Concept(f"L1.x{i}", "blocks.1.hook_resid_post", torch.eye(4)[i], label=label)
            for i, label in enumerate(labels)
        ]
    )
    index = ConceptIndex(concepts)
    scores = index.scores("cruelty")
    found = index.search("cruelty")
    assert {match.concept.name: match.score for match in found} == pytest.approx(
        {f"L1.x{i}": scores[i] for i in range(4) if scores[i] > 0}
    )
    assert index.matched("cruelty", "L1.x0") == {"label": ("cruel",)}
    assert index.matched("cruelty", "L1.x2") == {}
    with pytest.raises(KeyError, match="No concept"):
        index.matched("cruelty", "L1.y")


def test_the_bars_of_a_density_hold_nearly_all_of_its_tokens(lens, concepts):
    one = cl.inspect.density(lens, concepts, cl.Texts(TEXTS))["L1.pc0"]
    counts, edges = one.bars
    assert len(edges) == len(counts) + 1
    assert 0.97 * one.tokens <= counts.sum() <= one.tokens
