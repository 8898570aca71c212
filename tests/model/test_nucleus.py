"""The nucleus sampler against Hugging Face's own warpers, and against the probabilities that it is to draw by."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer
from transformers import (
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import caft_lens as cl
from caft_lens.model.nucleus import NucleusSampler


def logits(rows: int = 64, width: int = 700, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def reference(scores: torch.Tensor, top_p: float, temperature: float, top_k: int | None) -> torch.Tensor:
    """What Hugging Face leaves of the logits."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers(torch.zeros(len(scores), 1, dtype=torch.long), scores)


@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0], ids=["flat", "usual", "peaked"])
@pytest.mark.parametrize(
    ("top_p", "temperature", "top_k"), [(0.95, 1.0, None), (0.3, 0.7, None), (0.9, 1.5, 40), (1.0, 1.0, 5)]
)
def test_the_candidates_are_those_that_hugging_face_leaves(spread, top_p, temperature, top_k):
    scores = logits(spread=spread)
    left = NucleusSampler(top_p, temperature, top_k)(None, scores)
    assert torch.equal(left.isfinite(), reference(scores, top_p, temperature, top_k).isfinite())


def test_draws_have_the_probabilities_of_the_nucleus():
    from scipy.stats import chisquare

    torch.manual_seed(0)
    scores = logits(rows=1, width=60)
    wanted = reference(scores, 0.9, 1.3, None).softmax(-1)[0].double()
    drawn = NucleusSampler(0.9, 1.3)(None, scores.expand(40_000, -1)).argmax(-1)
    counts = torch.bincount(drawn, minlength=60)
    inside = wanted > 0
    assert counts[~inside].sum() == 0
    expected = wanted[inside] / wanted[inside].sum() * 40_000
    assert chisquare(counts[inside].numpy(), expected.numpy()).pvalue > 1e-3


def test_the_most_probable_token_is_always_a_candidate_however_small_the_mass():
    left = NucleusSampler(1e-6)(None, logits())
    assert torch.equal(left.isfinite().sum(-1), torch.ones(64, dtype=torch.long))
    assert torch.equal(left.argmax(-1), logits().argmax(-1))


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.5])
def test_a_mass_that_is_none_is_refused(top_p):
    with pytest.raises(ValueError, match=f"top_p={top_p}: expected a number above 0 and at most 1"):
        NucleusSampler(top_p)


def test_generation_draws_again_what_a_seed_drew_and_leaves_out_what_another_processor_forbids():
    lens = cl.load(tiny_model("llama"), tokenizer=tiny_tokenizer())
    settings = {"max_new_tokens": 12, "top_p": 0.9, "seed": 3, "return_type": "tokens", "chat": False}
    first = lens.generate(["abc", "de"], **settings)
    assert first == lens.generate(["abc", "de"], **settings)
    assert first != lens.generate(["abc", "de"], **{**settings, "seed": 4})
    common = first[0][0]
    forbidden = LogitsProcessorList([SuppressTokensLogitsProcessor([common])])
    assert common not in lens.generate(["abc", "de"], **settings, logits_processor=forbidden)[0]
