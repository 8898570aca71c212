"""What a model can be given: ids with an embedding, texts within its positions; one clear error or word where that
does not hold.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens._support.errors import BadData, BadModel
from caft_lens.model.lens import Lens
from caft_lens.model.limits import learned_positions, room
from caft_lens.text.encoding import encode

LONG = cl.data([{"prompt": "x" * 20, "answer": "y" * 60}] * 2)


def _with_a_token_more(kind: str) -> object:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_special_tokens({kind: "<more>"})
    return tokenizer


@pytest.mark.parametrize("kind", ["pad", "bos", "eos"])
def test_a_tokenizer_whose_special_token_has_no_embedding_is_refused_when_loaded(kind: str):
    with pytest.raises(BadModel, match=rf"{kind} token \"<more>\" of the tokenizer has id 262.*262 embeddings"):
        cl.load(tiny_model(), tokenizer=_with_a_token_more(f"{kind}_token"))
    grown = tiny_model()
    grown.resize_token_embeddings(263)
    assert cl.load(grown, tokenizer=_with_a_token_more(f"{kind}_token"))(["ab", "abcd"]).shape == (2, 4, 263)


def test_an_added_token_without_an_embedding_is_refused_where_a_text_has_it(tmp_path):
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens(["<image>"])
    lens = cl.load(tiny_model(), tokenizer=tokenizer)
    assert lens("plain").shape[1] == 5
    with pytest.raises(BadData, match=r"Text 1 has the token id 262 \('<image>'\) at position 2"):
        lens(["plain", "an<image>"])
    with pytest.raises(BadData, match="Text 0 has the token id 262"):
        cl.finetune(lens, [{"prompt": "a<image>", "answer": "b"}], cl.TrainSettings(max_steps=1), out=tmp_path / "run")
    with pytest.raises(BadData, match="token id -1"):
        lens(torch.tensor([[1, -1]]))


def test_a_text_beyond_learned_positions_is_refused_with_the_length_to_cut_at():
    lens = tiny_lens("gpt2", max_position_embeddings=64)
    length = len(encode(tiny_tokenizer(), LONG[0]).input_ids)
    with pytest.raises(BadData, match=rf"Text 0 has {length} tokens.*max_length=64"):
        lens(LONG)
    with pytest.raises(BadData, match="max_length=64"):
        cl.activation_difference(lens.copy(), lens, LONG, layers=[1])
    assert lens.n_positions == learned_positions(lens) == 64


def test_a_text_beyond_rotary_positions_is_said_once_and_read():
    lens = tiny_lens(max_position_embeddings=64)
    assert learned_positions(lens) is None
    with pytest.warns(UserWarning, match="made for texts of up to 64"):
        logits = lens(LONG)
    assert logits.shape[1] > 64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lens(LONG)


@pytest.mark.parametrize(("asked", "right"), [(2048, 64), (None, 64), (32, 32)])
def test_training_cuts_texts_at_the_positions_of_the_model(asked: int | None, right: int):
    for lens in (tiny_lens("gpt2", max_position_embeddings=64), tiny_lens(max_position_embeddings=64)):
        assert room(lens, asked) == right


def test_fine_tuning_with_the_default_length_runs_on_a_model_with_few_positions(tmp_path):
    lens: Lens = tiny_lens("gpt2", max_position_embeddings=64)
    with pytest.warns(UserWarning, match="max_length=64"):
        run = cl.finetune(lens, LONG, cl.TrainSettings(max_steps=1, batch_size=2), out=tmp_path / "run")
    assert run.lens(["short"]).isfinite().all()
