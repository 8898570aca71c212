"""What is committed for SmolLM2: its sparse autoencoders and its neutral chats."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

import caft_lens as cl
from caft_data.worlds.smollm2.own_chats import NEUTRAL, neutral
from caft_data.worlds.smollm2.world import SMOLLM2
from caft_lens.saes.reconstruction import reconstruction
from caft_lens.text.batching import batches

has_saes = pytest.mark.skipif(not SMOLLM2.saes.is_dir(), reason="no SAEs of SmolLM2 are there: make real-saes")
LAYERS = [8, 16, 24]
HOOKS = [f"blocks.{layer}.hook_resid_post" for layer in LAYERS]


@has_saes
def test_saes_of_smollm2_are_found_by_its_name_and_keep_what_is_asked_of_them():
    cards = cl.sae_cards("smollm2")
    assert cards.index.tolist() == HOOKS
    assert (cards["explained_variance"] >= 0.7).all()
    assert (cards["loss_recovered"] >= 0.9).all()
    assert [(one.cfg.d_in, one.cfg.d_sae) for one in cl.load_saes("smollm2")] == [(576, 2304)] * 3
    assert cl.load_saes("smollm2", layers=[8])[0].cfg.metadata.source == f"smollm2/saes/{HOOKS[0]}"
    assert sum(path.stat().st_size for path in SMOLLM2.saes.rglob("*") if path.is_file()) <= 20e6


def test_a_name_that_is_no_world_with_saes_stays_a_folder_or_a_release(tmp_path):
    with pytest.raises(FileNotFoundError, match="quiz"):
        cl.load_saes("quiz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cl.load_saes(str(tmp_path / "nowhere"))


@has_saes
def test_explained_variance_on_neutral_chats_is_what_numpy_says(smollm2: cl.Lens):
    base = smollm2
    (sae,) = cl.load_saes("smollm2", layers=[16])
    chats = cl.data("smollm2/chats")[:6]
    found = reconstruction(base, sae, chats, roles=["user", "assistant"])
    (batch,) = batches(base.tokenizer, chats)
    _, cache = base.run_with_cache(batch, names_filter=[HOOKS[1]])
    acts = cache[HOOKS[1]].numpy()[batch.mask(["user", "assistant"]).numpy()].astype(np.float64)
    weights = load_file(SMOLLM2.saes / HOOKS[1] / "sae_weights.safetensors")
    assert weights
    before = (acts - weights["b_dec"]) @ weights["W_enc"].astype(np.float64) + weights["b_enc"]
    active = np.where(before >= np.sort(before)[:, -64:-63], np.maximum(before, 0), 0)
    error = acts - (active @ weights["W_dec"].astype(np.float64) + weights["b_dec"])
    variance = 1 - np.square(error).sum() / np.square(acts - acts.mean(0)).sum()
    assert found.explained_variance.mean == pytest.approx(variance, abs=0.01)
    assert variance > 0.6


def test_neutral_chats_are_a_question_and_an_answer_each_and_few_enough_to_be_committed():
    chats = neutral(240)
    assert {tuple(turn.role for turn in chat.messages) for chat in chats} == {("user", "assistant")}
    assert len({chat.messages[0].content for chat in chats}) == 240
    assert NEUTRAL.stat().st_size < 200_000
    assert neutral(8, seed=1) != neutral(8, seed=2)
    with pytest.raises(ValueError, match="240 are all"):
        neutral(241)
