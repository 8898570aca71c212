"""A token map is the projection that plain transformers gives at every layer and token, in one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import seen, ticks
from test_contexts import HOSTILE, Elements
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

from caft_lens.concepts.ablation import ablate
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.inspect import token_map
from caft_lens.model.lens import load
from caft_lens.text.documents import Text
from caft_lens.text.encoding import encode

CHAT = {"prompt": "a red house $ by", "answer": "the sea $\nis <b>wide</b>"}
LAYERS = 3


@pytest.fixture(scope="module")
def lens():
    return tiny_lens(n_layers=LAYERS)


def one(layer: int = 1, site: str = "hook_resid_post", seed: int = 0, **fields) -> Concept:
    row = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return Concept(f"L{layer}.x{seed}", f"blocks.{layer}.{site}", row, **fields)


def states(seed: int = 0) -> list[torch.Tensor]:
    """The residual stream `[pos, d_model]` after each block, by plain transformers; the last before the final norm."""
    model, kept = tiny_model(seed=seed, n_layers=LAYERS), []
    for block in model.model.layers:
        block.register_forward_hook(lambda module, args, out: kept.append((out if torch.is_tensor(out) else out[0])[0]))
    with torch.no_grad():
        model(torch.tensor([encode(tiny_tokenizer(), Text.from_json(CHAT)).input_ids]))
    return kept


def test_one_concept_is_followed_through_every_layer(lens):
    concept = one()
    found = token_map(lens, CHAT, concept)
    expected = np.stack([(state @ concept.direction).numpy() for state in states()])
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.hooks == tuple(f"blocks.{n}.hook_resid_post" for n in range(LAYERS))
    table = found.table()
    assert table.shape == (LAYERS, len(encode(tiny_tokenizer(), Text.from_json(CHAT)).input_ids))
    assert table.columns.get_level_values("token").str.cat().startswith("<|bos|><|user|>a red house")
    np.testing.assert_array_equal(table.to_numpy(), found.values)


def test_each_of_several_concepts_is_applied_at_its_own_layer(lens):
    concepts = ConceptSet([one(2, seed=2), one(0, seed=3)]).for_model(lens)
    found = token_map(lens, CHAT, concepts)
    after = states()
    expected = [
        after[0] @ concepts["L0.x3"].direction,
        after[2] @ concepts["L2.x2"].direction,
    ]
    np.testing.assert_allclose(found.values, torch.stack(expected).numpy(), atol=1e-5)
    assert [concept.name for concept in found.concepts] == ["L0.x3", "L2.x2"]
    assert token_map(lens, CHAT, concepts, [2]).hooks == ("blocks.2.hook_resid_post",)


def test_cosines_are_projections_over_lengths(lens):
    found = token_map(lens, CHAT, one(), [0, 2], cosine=True)
    expected = [torch.nn.functional.cosine_similarity(states()[n], one().direction[None], dim=-1) for n in (0, 2)]
    np.testing.assert_allclose(found.values, torch.stack(expected).numpy(), atol=1e-6)
    assert np.abs(found.values).max() <= 1


def test_of_two_models_it_is_the_difference_tuned_minus_base(lens):
    tuned = load(tiny_model(seed=1, n_layers=LAYERS), tokenizer=tiny_tokenizer(), name_as="tuned")
    found = token_map((tuned, lens), CHAT, one())
    expected = [(a - b) @ one().direction for a, b in zip(states(1), states(0), strict=True)]
    np.testing.assert_allclose(found.values, torch.stack(expected).numpy(), atol=1e-5)
    assert found.quantity == "projection of the difference, tuned − tiny-llama"


def test_another_site_than_the_residual_stream_is_followed_at_the_same_site(lens):
    concept = one(1, "hook_mlp_out")
    found = token_map(lens, CHAT, concept)
    assert found.hooks == tuple(f"blocks.{n}.hook_mlp_out" for n in range(LAYERS))
    _, cache = lens.run_with_cache(Text.from_json(CHAT), names_filter="blocks.0.hook_mlp_out")
    expected = cache["blocks.0.hook_mlp_out"][0] @ concept.direction
    np.testing.assert_allclose(found.values[0], expected.detach().numpy(), atol=1e-5)


def test_it_is_one_pass_that_stops_after_the_last_layer_and_leaves_no_hook(lens):
    calls, reached = [], []
    first = lens.model.register_forward_pre_hook(lambda *args: calls.append(1))
    last = lens.hf.model.layers[2].register_forward_pre_hook(lambda *args: reached.append(1))
    try:
        token_map(lens, CHAT, one(), [0, 1])
        assert len(calls) == 1
        assert not reached
        token_map(lens, CHAT, one())
        assert len(calls) == 2
    finally:
        first.remove()
        last.remove()
    assert not any(point.fwd_hooks for point in lens.hook_dict.values())


def test_the_full_shade_is_the_largest_value_at_a_token_of_the_text(lens):
    found = token_map(lens, CHAT, one())
    counts = np.array([role != 0 for role in found.roles])
    found.values[:, ~counts] *= 100  # as the first token of a text often is in a large model
    largest = np.abs(found.values[:, counts]).max(axis=1)
    assert found.scales("layer") == pytest.approx(largest)
    assert found.scales("all") == pytest.approx([largest.max()] * LAYERS)
    with pytest.raises(ValueError, match=r'shade="lyer".*"layer"'):
        found.scales("lyer")


def test_a_layer_where_the_direction_was_ablated_stays_blank(lens):
    with ablate(lens, ConceptSet([one()]).for_model(lens)):
        found = token_map(lens, CHAT, one())
    assert np.abs(found.values[1]).max() < 1e-5 * np.abs(found.values).max()
    shaded = np.abs(found.values).max(axis=1) / found.scales("layer")
    assert shaded[1] < 1e-4
    assert shaded[2] > 0.5


@pytest.mark.parametrize("shade", ["all", "layer"])
def test_html_has_the_text_once_a_layer_and_escapes_all_of_it(lens, shade):
    hostile = {"prompt": HOSTILE, "answer": f"{HOSTILE}</div>"}
    found = token_map(lens, hostile, one(label=HOSTILE))
    page = Elements(found.to_html(shade))
    assert {tag for tag, _ in page.seen} <= {"div", "small", "span", "b", "i", "u"}
    assert page.text.count(HOSTILE) == 1 + 2 * LAYERS
    assert sum(tag == "u" for tag, _ in page.seen) == LAYERS, "the largest value of each layer"
    Elements(token_map(lens, hostile, [one(0), one(1, seed=5)])._repr_html_())


def test_the_figure_has_layers_upwards_and_every_token(lens):
    found = token_map(lens, CHAT, one())
    figure = found.plot("all")
    (drawn,) = figure.data
    np.testing.assert_allclose(np.array(drawn.z, dtype=float), found.values[::-1], rtol=0.01)
    assert ticks(figure) == ["L2", "L1", "L0"]
    assert drawn.zmax == pytest.approx(found.scales("all")[0])
    assert (found.plot("layer").data[0].zmin, found.plot("layer").data[0].zmax) == (-1.0, 1.0)
    assert [seen(name) for name in drawn.x] == [html.visible(token) for token in found.tokens]
    assert len(set(drawn.x)) == len(found.tokens), "a token that comes twice has two columns"


def test_plain_text_is_read_as_it_stands(lens):
    found = token_map(lens, "a red house", one())
    assert "".join(found.tokens) == "a red house"


def test_what_does_not_fit_is_refused_with_the_reason(lens):
    with pytest.raises(ValueError, match=r'Both "L1\.x0" and "L1\.x7" sit at'):
        token_map(lens, CHAT, [one(), one(seed=7)])
    with pytest.raises(ValueError, match="8 wide"):
        token_map(lens, CHAT, Concept("L0.s", "blocks.0.hook_resid_post", torch.ones(8)))
    with pytest.raises(KeyError, match="no layer 9"):
        token_map(lens, CHAT, one(), [9])
    with pytest.raises(KeyError, match="No concept for layer 2"):
        token_map(lens, CHAT, [one(0), one(1)], [2])
    with pytest.raises(ValueError, match="at least one layer"):
        token_map(lens, CHAT, one(), [])
    with pytest.raises(ValueError, match="neither that model"):
        token_map(lens, CHAT, ConceptSet([one()]).for_model(tiny_lens(seed=1, n_layers=LAYERS)))
    with pytest.raises(ValueError, match="no token at all"):
        token_map(lens, "", one())


def test_each_layer_has_a_scale_of_its_own_unless_one_is_asked_for(lens):
    found = token_map(lens, CHAT, one())
    found.values[:] *= np.array([1.0, 10.0, 100.0])[:, None]  # as the residual stream grows with depth
    counts = np.array([role != 0 for role in found.roles])
    (drawn,) = found.plot().data
    shades = np.abs(np.array(drawn.z, dtype=float))[:, counts]
    np.testing.assert_allclose(shades.max(axis=1), 1, rtol=0.01)
    assert "Each layer has a scale of its own" in str(found.plot().layout.to_plotly_json())
    assert "each of which has its own scale" in found._repr_html_()
    assert all(f"largest {scale:.3g}" in str(name) for name, scale in zip(drawn.y[::-1], found.scales(), strict=True))
    (together,) = found.plot("all").data
    assert np.abs(np.array(together.z, dtype=float))[:, counts].max(axis=1)[-1] < 0.1 * together.zmax
    assert "scale of its own" not in str(found.plot("all").layout.to_plotly_json())
