"""Attention sinks: found where there are any, neither read nor edited there, nothing changes where there are none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_models import planted, tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadData
from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.interventions import unit_lengths
from caft_lens.model.lens import Lens
from caft_lens.model.sinks import Sinks
from caft_lens.text import catalog
from caft_lens.text.encoding import encode

HOOK = "blocks.1.hook_resid_post"
BOS = 1
CHATS = cl.data([{"prompt": f"Say {word}.", "answer": f"{word}, of course"} for word in ("cat", "dog", "sea", "tree")])


def basis_near_the_sink(lens: Lens, hook: str = HOOK) -> torch.Tensor:
    """Three orthonormal directions, the first with a cosine of 0.1 to the sink."""
    ids = torch.tensor([[BOS, 40, 50]])
    with torch.no_grad():
        states = lens.hf(ids, output_hidden_states=True).hidden_states
    sink = states[int(hook.split(".")[1]) + 1][0, 0]
    sink = sink / sink.norm()
    rows = torch.linalg.qr(
        torch.cat([sink[:, None], torch.randn(len(sink), 3, generator=torch.Generator().manual_seed(0))], 1)
    )[0]
    first = 0.1 * sink + 0.99**0.5 * rows[:, 1]
    return torch.stack([first, rows[:, 2], rows[:, 3]], 1)


def test_a_sink_is_found_and_a_model_without_one_has_none():
    lens = planted()
    assert lens.sinks
    assert not lens.sinks.first  # plain text begins with no BOS here, and its first token is like any other
    with torch.no_grad():
        states = lens.hf(torch.arange(20, 120)[None], output_hidden_states=True).hidden_states[2][0]
        sink = lens.hf(torch.tensor([[BOS, 40, 50]]), output_hidden_states=True).hidden_states[2][0, 0]
    assert states.norm(dim=-1).max() < lens.sinks.beyond[HOOK] < sink.norm()
    for architecture in ("llama", "gpt2", "gemma2"):
        assert not tiny_lens(architecture).sinks


@pytest.mark.parametrize("name", ["pocket", "pocket-1", "pocket-quiz", "pocket-quiz-1"])
def test_the_embedded_models_have_long_tails_but_no_sinks(name: str):
    if name not in catalog.shipped():
        pytest.skip(f"{name} is not built")
    assert not cl.load(name).sinks


def test_a_model_without_a_tokenizer_is_measured_too():
    assert planted(tokenizer=False).sinks
    assert not cl.load(tiny_model("llama")).sinks


def test_means_and_covariances_are_those_of_all_tokens_but_the_sinks():
    lens = planted()
    rows = []
    for text in CHATS:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            states = lens.hf(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
        assert item.input_ids[0] == BOS
        rows.append(states[2][0, 1:].double().numpy())
    right = np.concatenate(rows)
    passed = stream(lens, CHATS, [1], Moments(), roles=None)
    (moments,) = passed
    assert moments.count[HOOK] == len(right)
    assert passed.left_out == {HOOK: len(CHATS)}
    np.testing.assert_allclose(moments.mean[HOOK].numpy(), right.mean(0), atol=1e-5)
    np.testing.assert_allclose(moments.covariance[HOOK].numpy(), np.cov(right.T), atol=1e-4)


def test_what_was_left_out_stands_in_the_provenance_and_joins_on_merging():
    lens = planted()
    other = lens.adapt(_lora())
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    both = [cl.activation_difference(other, lens, part, layers=[0, 1], roles=None) for part in (CHATS[:2], CHATS[2:])]
    whole = cl.activation_difference(other, lens, CHATS, layers=[0, 1], roles=None)
    said = whole.provenance["sinks"]
    assert said["left_out"] == {"blocks.0.hook_resid_post": 4, HOOK: 4}
    assert said["beyond"][HOOK] == lens.sinks.beyond[HOOK]
    merged = both[0].merge(both[1])
    assert merged.provenance["sinks"] == said
    torch.testing.assert_close(merged.mean[HOOK], whole.mean[HOOK])
    assert cl.find.pca(whole, 2).provenance["sinks"] == said
    assert "sinks" not in cl.activation_difference(tiny_lens(seed=1), tiny_lens(), CHATS, layers=[1]).provenance


def _lora():
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")


def test_one_value_reads_every_token_or_sets_another_bound():
    lens = planted()
    found = lens.sinks
    lens.sinks = False
    (moments,) = stream(lens, CHATS, [1], Moments(covariance=False), roles=None)
    assert moments.count[HOOK] == sum(len(encode(tiny_tokenizer(), text).input_ids) for text in CHATS)
    lens.sinks = 1000
    assert lens.sinks.beyond[HOOK] == pytest.approx(1000 * found.medians[HOOK])
    lens.sinks = Sinks({HOOK: 1.0})
    assert lens.fork().sinks.beyond == {HOOK: 1.0}
    lens.sinks = "auto"
    assert lens.sinks.beyond == found.beyond
    for wrong in (0.5, "no", True, float("nan")):
        with pytest.raises(BadArgument, match="sinks="):
            lens.sinks = wrong


def test_texts_of_sinks_alone_are_refused_with_the_way_out():
    lens = planted()
    with pytest.raises(BadData, match="which are not read"):
        stream(lens, [cl.text.Text(text="<|bos|>")], [1], Moments(), roles=None)


def test_ablated_activations_have_no_component_left_at_all_tokens_but_the_sinks_which_stay():
    lens = planted()
    basis = basis_near_the_sink(lens)
    ids = torch.tensor([[BOS, 40, 50, 60], [70, 80, BOS, 90]])
    before = lens.run_with_cache(ids, names_filter=HOOK)[1][HOOK]
    with cl.ablate(lens, {HOOK: basis}):
        after = lens.run_with_cache(ids, names_filter=HOOK)[1][HOOK]
    sinks = ids == BOS
    torch.testing.assert_close(after[sinks], before[sinks], rtol=0, atol=0)
    assert (before[sinks] @ basis).abs().max() > 10
    assert (after[~sinks] @ basis).abs().max() < 1e-4
    torch.testing.assert_close(after[~sinks], before[~sinks] - before[~sinks] @ basis @ basis.T, rtol=0, atol=1e-4)


def test_training_under_ablation_spares_the_same_tokens_and_its_gradient_is_that_of_plain_torch():
    lens = planted()
    basis = basis_near_the_sink(lens)
    ids = torch.tensor([[BOS, 40, 50, 60, 70]])
    weight = lens.hf.model.layers[0].mlp.down_proj.weight
    with cl.ablate(lens, {HOOK: basis}):
        under = lens.hf(ids, labels=ids).loss
        found = torch.autograd.grad(under, weight)[0]
        inference = lens(ids, return_type="loss")
    far = torch.tensor([[[1.0], [0.0], [0.0], [0.0], [0.0]]])

    def by_hand(module, args, output):
        # Also written as a sum, so that the gradient comes by another way than the one that is tested.
        projected = output - output @ basis @ basis.T
        return far * output + (1 - far) * projected

    handle = lens.hf.model.layers[1].register_forward_hook(by_hand)
    right = lens.hf(ids, labels=ids).loss
    gradient = torch.autograd.grad(right, weight)[0]
    handle.remove()
    torch.testing.assert_close(under, right, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(inference, right, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


def test_a_cached_step_spares_the_sinks_as_a_whole_pass_does():
    lens = planted()
    basis = basis_near_the_sink(lens)
    ids = torch.tensor([[BOS, 40, 50, 60]])
    with cl.ablate(lens, {HOOK: basis}), torch.no_grad():
        whole = lens.hf(ids).logits
        cache = lens.hf(ids[:, :1], use_cache=True).past_key_values
        steps = []
        for first, last in pairwise(range(1, 5)):
            step = lens.hf(ids[:, first:last], past_key_values=cache, use_cache=True)
            cache, steps = step.past_key_values, [*steps, step.logits]
    torch.testing.assert_close(torch.cat(steps, 1), whole[:, 1:], rtol=1e-4, atol=1e-4)


def test_steering_leaves_sinks_alone_and_lengths_are_of_the_other_tokens():
    lens = planted()
    direction = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
    concept = cl.Concept("L1.x", HOOK, direction)
    concepts = cl.ConceptSet([concept], {"fingerprint": lens.fingerprint, "d_model": 32})
    ids = torch.tensor([[BOS, 40, 50]])
    before = lens.run_with_cache(ids, names_filter=HOOK)[1][HOOK]
    with cl.steer(lens, concept, 3.0):
        after = lens.run_with_cache(ids, names_filter=HOOK)[1][HOOK]
    torch.testing.assert_close((after - before)[0, 0], torch.zeros(32), rtol=0, atol=0)
    torch.testing.assert_close((after - before)[0, 1:], 3.0 * direction.expand(2, -1), rtol=0, atol=1e-4)
    texts = [cl.text.Text(text="<|bos|>" + word) for word in ("abcd", "efgh")]
    norms = []
    for text in texts:
        with torch.no_grad():
            ids = torch.tensor([encode(tiny_tokenizer(), text).input_ids])
            norms.append(lens.hf(ids, output_hidden_states=True).hidden_states[2][0, 1:].norm(dim=-1))
    assert unit_lengths(lens, concepts, texts)["L1.x"] == pytest.approx(float(torch.cat(norms).mean()), rel=1e-4)


def test_contexts_of_a_model_with_sinks_have_their_ends_elsewhere():
    lens = planted()
    concepts = cl.ConceptSet(
        [cl.Concept("L1.a", HOOK, torch.eye(32)[5])], {"fingerprint": lens.fingerprint, "d_model": 32}
    )
    found = cl.contexts(lens, concepts, CHATS, roles=None)
    assert all(one.position > 0 for name in found for one in [*found[name].top, *found[name].bottom])
    assert found.left_out[HOOK] > 0
    assert f"{found.left_out[HOOK]:,} tokens were left out" in repr(found)
    assert f"{found.left_out[HOOK]:,} tokens were left out" in found.to_html()


def test_a_pass_under_an_open_ablation_and_told_roles_finds_the_same_sinks():
    lens, fresh = planted(), planted()
    lens.sinks = Sinks()
    with (
        cl.ablate(lens, {HOOK: basis_near_the_sink(lens)}),
        lens.roles_as(torch.zeros(1, 7, dtype=torch.int8)),
    ):
        lens.sinks = "auto"
        assert lens.sinks.beyond == fresh.sinks.beyond


def test_a_store_of_a_model_with_sinks_holds_no_sink_and_says_so(tmp_path):
    lens = planted()
    kept = cl.activations.store(lens, CHATS, [0, 1], tmp_path / "acts", roles=None)
    (everything,) = kept.batches(10_000)
    assert BOS not in everything.token.tolist()
    assert kept.settings["sinks"][0]["beyond"][HOOK] == lens.sinks.beyond[HOOK]
