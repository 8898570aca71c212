"""Norms over layers: those of plain transformers, sinks told apart, and a figure that says which token is which."""

from __future__ import annotations

from html import unescape

import numpy as np
import pytest
import torch
from tiny_models import planted, tiny_lens, tiny_tokenizer

import caft_lens as cl
from caft_lens.inspect.norms import DRAWN
from caft_lens.model.lens import Lens
from caft_lens.text.encoding import encode

CHATS = cl.data(
    [{"prompt": f"Say {word}.", "answer": f"{word}, of course"} for word in ("cat", "doggy", "sea", "tree")]
)


def by_hand(lens: Lens) -> list[np.ndarray]:
    """Norms after each block but the last, `[n_layers - 1, n_tokens]` for each text, by plain transformers."""
    found = []
    for text in CHATS:
        ids = torch.tensor([encode(tiny_tokenizer(), text).input_ids])
        with torch.no_grad():
            states = lens.hf(ids, output_hidden_states=True).hidden_states
        found.append(np.stack([state[0].norm(dim=-1).numpy() for state in states[1:-1]]))
    return found


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3"])
def test_norms_are_those_of_plain_transformers_and_sinks_are_told_apart(architecture: str):
    lens = planted(architecture)
    found, right = cl.inspect.norms(lens, CHATS), by_hand(lens)
    assert found.hooks == tuple(f"blocks.{layer}.hook_resid_post" for layer in range(3))
    assert len(found.tokens) == sum(one.shape[1] for one in right)
    for token, (text, position) in enumerate(zip(found.texts, found.positions, strict=True)):
        np.testing.assert_allclose(found.values[:2, token], right[text][:, position], rtol=1e-4)
    assert (found.sinks == (found.positions == 0)).all()
    table = found.table().set_index("layer")
    for layer in range(2):
        others = np.concatenate([one[layer, 1:] for one in right])
        first = np.array([one[layer, 0] for one in right])
        assert table.loc[layer, "median"] == pytest.approx(np.median(others), rel=1e-4)
        assert table.loc[layer, "longest"] == pytest.approx(others.max(), rel=1e-4)
        assert table.loc[layer, "sinks"] == len(CHATS)
        assert table.loc[layer, "shortest_sink"] == pytest.approx(first.min(), rel=1e-4)
        assert table.loc[layer, "longest_sink"] == pytest.approx(first.max(), rel=1e-4)


def test_tokens_positions_and_texts_are_those_of_the_texts_and_of_the_roles_that_were_asked_for():
    found = cl.inspect.norms(tiny_lens(), CHATS, roles=["assistant"], site="hook_mlp_out")
    assert found.hooks[0] == "blocks.0.hook_mlp_out"
    for number, text in enumerate(CHATS):
        mine = found.texts == number
        said = "".join(token for token, yes in zip(found.tokens, mine, strict=True) if yes)
        assert said.removesuffix("<|end|>") == text.messages[-1].content
        assert np.diff(found.positions[mine]).tolist() == [1] * (mine.sum() - 1)


def test_hovering_over_the_figure_says_layer_token_position_and_norm_on_a_logarithmic_axis():
    lens = planted()
    found = cl.inspect.norms(lens, CHATS)
    drawn = found.plot("Norms")
    median, longest, bound, sinks = drawn.data
    table = found.table()
    assert drawn.layout.yaxis.type == "log"
    assert list(median.y) == table["median"].tolist()
    assert list(longest.y) == table["longest"].tolist()
    assert list(bound.y) == [lens.sinks.beyond[hook] for hook in found.hooks]
    assert len(sinks.y) == 3 * len(CHATS)
    assert min(sinks.y) > max(longest.y)
    assert sinks.hovertext[0].startswith("<b>sink</b><br>layer: 0<br>norm: ")
    assert "position 0 of text" in sinks.hovertext[0]
    token = table["longest_at"][1]
    assert f"token {found.tokens[token]!r} at position {found.positions[token]} of" in unescape(longest.hovertext[1])
    assert f"norm: {table['longest'][1]:.4g}" in longest.hovertext[1]


def test_a_model_without_sinks_has_two_curves_and_the_caption_says_that_there_are_none():
    found = cl.inspect.norms(tiny_lens(), CHATS)
    assert not found.sinks.any()
    assert found.table()["longest_sink"].isna().all()
    drawn = found.plot()
    assert [trace.name for trace in drawn.data] == ["median token", "longest other token"]
    assert "No token is a sink." in drawn.layout.meta["caption"]


def test_of_many_sinks_few_are_drawn_among_them_both_ends():
    found = cl.inspect.norms(planted(), list(CHATS) * 5)
    sinks = found.plot().data[-1]
    assert len(sinks.y) == 3 * DRAWN
    table = found.table()
    assert min(sinks.y[:DRAWN]) == table["shortest_sink"][0]
    assert max(sinks.y[:DRAWN]) == table["longest_sink"][0]
    assert f"up to 20 a layer, of which {DRAWN} are drawn" in found.plot().layout.meta["caption"]
