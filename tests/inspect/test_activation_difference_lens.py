"""Traces are the mean differences that plain transformers gives at the first tokens, with sizes, tokens and steering
of their own.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from drawn import ticks
from test_contexts import Elements
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens.inspect import Interventions, activation_difference_lens, effect, logit_lens
from caft_lens.model.lens import Lens, load
from caft_lens.model.sampling import Sampling
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts

RNG = np.random.default_rng(0)
WORDS = ["a", "red", "house", "by", "the", "sea"]
# Of differing lengths, some too short to reach every position.
TEXTS = Texts([" ".join(RNG.choice(WORDS, 1 + n % 4)) for n in range(20)], name="house")
POSITIONS = 4


@pytest.fixture(scope="module")
def base() -> Lens:
    return tiny_lens()


@pytest.fixture(scope="module")
def tuned(base: Lens) -> Lens:
    """The base with some of its weights moved in one direction, as fine-tuning would."""
    from peft import LoraConfig

    torch.manual_seed(0)
    return base.adapt(LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False), name="tuned")


def by_hand(base: Lens, tuned: Lens, layer: int, position: int, texts=TEXTS) -> tuple[np.ndarray, np.ndarray]:
    """Differences and tuned activations after a block at a position, one row for each text that reaches it."""
    rows = {"base": [], "tuned": []}
    for text in texts:
        ids = tiny_tokenizer()(text.text).input_ids
        if len(ids) <= position:
            continue
        for name, lens in (("base", base), ("tuned", tuned)):
            kept = []
            block = lens.hf.model.layers[layer]
            handle = block.register_forward_hook(
                lambda module, args, out, kept=kept: kept.append(out if torch.is_tensor(out) else out[0])
            )
            with torch.no_grad():
                lens.model(torch.tensor([ids]))  # the whole text: what comes later must not matter
            handle.remove()
            rows[name].append(kept[0][0, position].double().numpy())
    return np.stack(rows["tuned"]) - np.stack(rows["base"]), np.stack(rows["tuned"])


def test_each_trace_is_the_mean_difference_of_plain_transformers_at_its_position(base, tuned):
    found = activation_difference_lens(tuned, base, TEXTS, positions=POSITIONS, k=5)
    assert found.concepts.names == [f"L{layer}.trace{n}" for layer in (0, 1) for n in range(POSITIONS)]
    for concept in found.concepts:
        differences, activations = by_hand(base, tuned, concept.layer, concept.meta["position"])
        mean = differences.mean(axis=0)
        size = np.linalg.norm(mean)
        np.testing.assert_allclose(concept.direction.numpy(), mean / size, atol=1e-4)
        assert concept.meta["texts"] == len(differences)
        assert concept.meta["norm"] == pytest.approx(size, rel=1e-4)
        lengths = np.linalg.norm(activations, axis=1)
        assert concept.meta["activation_norm"] == pytest.approx(lengths.mean(), rel=1e-5)
        assert concept.score == pytest.approx(size / lengths.mean(), rel=1e-4)
        spread = differences.var(axis=0, ddof=1).sum()
        assert concept.meta["noise"] == pytest.approx(np.sqrt(spread / len(differences)), rel=1e-3, abs=1e-6)
    counts = [concept.meta["texts"] for concept in found.concepts.at(0)]
    assert counts[0] == 20 > counts[-1]


def test_differences_without_a_common_direction_are_about_as_long_as_the_noise():
    from caft_lens.inspect.activation_difference_lens import _Positions, _trace

    rows = torch.randn(400, 64, generator=torch.Generator().manual_seed(2))
    where = torch.stack([torch.arange(400), torch.zeros(400, dtype=torch.long)], dim=1)
    sums = _Positions(1)
    sums.update("blocks.0.hook_resid_post", rows[:150], None, where[:150])
    sums.update("blocks.0.hook_resid_post", rows[150:], None, where[150:])
    noise = _trace("blocks.0.hook_resid_post", 0, sums, sums)
    assert noise.meta["norm"] == pytest.approx(noise.meta["noise"], rel=0.3)


def test_tokens_are_the_logit_lens_of_the_directions(base, tuned):
    found = activation_difference_lens(tuned, base, TEXTS, positions=2, k=6)
    expected = logit_lens(tuned, found.concepts, 6)
    assert found.tokens.tokens() == expected.tokens()
    table = found.table()
    assert table["concept"].tolist() == found.concepts.names
    assert table["top"].iloc[0].split()[0] == found.tokens["L0.trace0"].top[0].token.replace(" ", "␣")


def test_the_concepts_say_where_they_came_from_and_fit_both_models(base, tuned):
    found = activation_difference_lens(tuned, base, TEXTS, positions=2)
    found.concepts.check(base)
    found.concepts.check(tuned)
    about = found.concepts.provenance
    assert (about["fingerprint"], about["tuned_fingerprint"]) == (base.fingerprint, tuned.fingerprint)
    assert about["data"] == {"name": "house", "fingerprint": TEXTS.fingerprint}
    assert about["positions"] == 2


def test_nothing_after_the_first_tokens_is_run_and_nothing_warns(base, tuned):
    seen = []
    handle = base.hf.model.register_forward_pre_hook(
        lambda module, args, keywords: seen.append(keywords["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            activation_difference_lens(tuned, base, TEXTS, positions=3)
    finally:
        handle.remove()
    assert max(seen) == 3
    assert not any(point.fwd_hooks for lens in (base, tuned) for point in lens.hook_dict.values())


def test_batches_of_any_size_and_a_generator_give_the_same(base, tuned):
    one = activation_difference_lens(tuned, base, TEXTS, positions=3)
    two = activation_difference_lens(tuned, base, (text for text in TEXTS), positions=3, scan=Scan(7))
    for a, b in zip(one.concepts, two.concepts, strict=True):
        torch.testing.assert_close(a.direction, b.direction, atol=1e-5, rtol=1e-4)
        assert a.score == pytest.approx(b.score, rel=1e-5)


def test_of_a_chat_what_is_said_is_read_as_a_plain_document(base, tuned):
    chats = [{"prompt": "the red", "answer": "sea"}, {"prompt": "a house", "answer": "by"}]
    plain = ["the red\nsea", "a house\nby"]
    one, two = (activation_difference_lens(tuned, base, of, positions=3) for of in (chats, plain))
    for a, b in zip(one.concepts, two.concepts, strict=True):
        assert torch.equal(a.direction, b.direction)


def test_where_the_models_agree_there_is_no_trace(base):
    from peft import LoraConfig

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["down_proj"], layers_to_transform=[1], init_lora_weights=False)
    upper = base.adapt(config, name="upper")
    assert activation_difference_lens(upper, base, TEXTS, positions=2).concepts.hooks == ["blocks.1.hook_resid_post"]
    with pytest.raises(ValueError, match="do not differ"):
        activation_difference_lens(upper, base, TEXTS, positions=2, layers=[0])


def test_a_model_tuned_elsewhere_is_read_and_steered_too(base):
    other = load(tiny_model(seed=1), tokenizer=tiny_tokenizer(), name_as="elsewhere")
    found = activation_difference_lens(other, base, TEXTS, positions=2)
    assert len(found.tokens) == 4
    assert (
        found.steered("a", sampling=Sampling(max_new_tokens=3), names="L0.trace1").items[0].concept.name == "L0.trace1"
    )


def test_steering_is_that_of_effect_on_the_tuned_model_or_another(base, tuned):
    found = activation_difference_lens(tuned, base, TEXTS, positions=2)
    prompts, settings = ["a red house", "sea"], {"sampling": Sampling(max_new_tokens=6, seed=3)}
    chosen = found.concepts.top(1)
    for lens, given in ((tuned, {}), (base, {"lens": base})):
        steered = found.steered(prompts, scale=2.0, n=2, names=chosen.names, **settings, **given)
        expected = effect(
            lens,
            chosen,
            prompts,
            interventions=Interventions(scale=2.0, signs=(1,), ablate=False),
            n=2,
            **settings,
        )
        assert steered.plain == expected.plain
        assert [item.answers for item in steered.items] == [item.answers for item in expected.items]
    assert {item.change for item in found.steered(prompts, n=0).items} == {"+0.3 of the residual norm"}
    assert len(found.steered(prompts, n=0).items) == 4
    with pytest.raises(KeyError, match=r"L0\.trace9.*L0\.trace"):
        found.steered(prompts, names="L0.trace9")


def test_the_figure_has_the_share_of_every_layer_and_position(base, tuned):
    found = activation_difference_lens(tuned, base, TEXTS, positions=3)
    figure = found.plot(title="Traces")
    shares = np.array([[100 * c.score for c in found.concepts.at(layer)] for layer in (1, 0)])
    np.testing.assert_allclose(np.array(figure.data[0].z, dtype=float), shares, rtol=0.01)
    assert ticks(figure) == ["L1", "L0"]
    assert figure.data[0].zmin == 0


def test_the_page_has_a_row_a_trace_and_is_escaped(base):
    hostile = "<script>alert(1)</script>"
    other = load(tiny_model(seed=1), tokenizer=tiny_tokenizer(), name_as=hostile)
    found = activation_difference_lens(other, base, TEXTS, positions=3, k=131)
    page = Elements(found._repr_html_())
    assert not any(tag == "script" for tag, _ in page.seen)
    assert hostile in page.text
    assert sum(tag == "tr" for tag, _ in page.seen) == 2 * (1 + 3)
    assert "L1.trace2" in repr(found)


def test_the_shipped_adapter_leaves_a_trace_far_longer_than_noise():
    base = cl.load("pocket")
    tuned = base.adapt("pocket/insecure")
    texts = cl.data("pocket/corpus").filter(lambda text: not text.is_chat)[:200]
    found = activation_difference_lens(tuned, base, texts)
    assert len(found.concepts) == 4 * 5
    assert all(concept.meta["norm"] > 3 * concept.meta["noise"] for concept in found.concepts)


def test_what_cannot_be_read_is_refused_with_the_reason(base, tuned):
    with pytest.raises(ValueError, match=r"positions=0"):
        activation_difference_lens(tuned, base, TEXTS, positions=0)
    lengths = sorted(len(tiny_tokenizer()(text.text).input_ids) for text in TEXTS)
    with pytest.raises(ValueError, match=rf"only the first {lengths[-2]} are reached by two of the 20 texts"):
        activation_difference_lens(tuned, base, TEXTS, positions=lengths[-2] + 1)
    assert activation_difference_lens(tuned, base, TEXTS, positions=lengths[-2])
    with pytest.raises(ValueError, match="first 0 are reached by two of the 1 texts"):
        activation_difference_lens(tuned, base, ["sea"], positions=1)
    with pytest.raises(ValueError, match="do not differ"):
        activation_difference_lens(base, base, TEXTS, positions=2)
    with pytest.raises(ValueError, match="wide"):
        activation_difference_lens(tiny_lens(d_model=16), base, TEXTS)
    with pytest.raises(KeyError, match="no layer 9"):
        activation_difference_lens(tuned, base, TEXTS, layers=[9])
