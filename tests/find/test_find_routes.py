"""One pass gives what every route gives alone, and each model runs once a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import shaken, tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import tiny_sae

from caft_lens import find
from caft_lens.activations.differences import activation_difference, stream
from caft_lens.activations.moments import Moments
from caft_lens.model.lens import Lens, load
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts

RNG = np.random.default_rng(0)
TEXTS = Texts(
    [
        {"prompt": "Say it.", "answer": " ".join(RNG.choice(["a", "red", "house", "by", "the", "sea"], 4))}
        for _ in range(40)
    ],
    name="house",
)


@pytest.fixture(scope="module")
def base() -> Lens:
    return tiny_lens(n_layers=3)


@pytest.fixture(scope="module")
def tuned(base: Lens) -> Lens:
    return shaken(base)


def alone(tuned: Lens, base: Lens, saes, **options) -> dict:
    diff = activation_difference(tuned, base, TEXTS, layers=[0, 1], **options)
    return {
        "pca": find.pca(diff, 5),
        "neurons": find.neurons(diff, 5),
        "sae change": find.sae(tuned, base, TEXTS, saes, by="change", k=5, **options),
        "sae difference": find.sae(tuned, base, TEXTS, saes, by="difference", k=5, **options),
    }


def assert_same(found, expected) -> None:
    assert found.names == expected.names
    np.testing.assert_allclose([c.score for c in found], [c.score for c in expected], rtol=1e-6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.direction, other.direction, atol=1e-6, rtol=0)
        assert one.meta.keys() == other.meta.keys()
    ignored = ("created", "versions")
    mine, theirs = ({k: v for k, v in one.provenance.items() if k not in ignored} for one in (found, expected))
    assert mine == theirs


@pytest.mark.parametrize("batch_tokens", [64, 8192])
def test_every_route_of_the_one_pass_gives_what_it_gives_alone(tuned, base, batch_tokens):
    # An SAE where nothing else is searched, and one where something is.
    saes = [tiny_sae(base, 1), tiny_sae(base, 2, "jumprelu")]
    options = {"scan": Scan(batch_tokens), "roles": ["user", "assistant"]}
    together = find.routes(tuned, base, TEXTS, layers=[0, 1], saes=saes, k=5, **options)
    for method, expected in alone(tuned, base, saes, **options).items():
        assert_same(together[method], expected)


def test_routes_of_bf16_models_are_those_that_each_gives_alone():
    base = load(tiny_model(n_layers=3).to(torch.bfloat16), tokenizer=tiny_tokenizer(), name_as="tiny-half")
    tuned = shaken(base)
    saes = [tiny_sae(base, 1)]
    together = find.routes(tuned, base, TEXTS, layers=[0, 1], saes=saes, k=5)
    for method, expected in alone(tuned, base, saes).items():
        assert_same(together[method], expected)


def test_routes_with_an_adapter_that_shares_the_weights_of_the_base(base):
    from peft import LoraConfig

    torch.manual_seed(0)
    tuned = base.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    saes = tiny_sae(base, 1)
    together = find.routes(tuned, base, TEXTS, layers=[0, 1], saes=saes, k=5)
    for method, expected in alone(tuned, base, saes).items():
        assert_same(together[method], expected)


def test_each_model_runs_once_a_batch(tuned, base):
    ran = {"tuned": 0, "base": 0}

    def counting(name):
        def count(*_):
            ran[name] += 1

        return count

    handles = [
        lens.hf.model.layers[0].register_forward_hook(counting(name))
        for name, lens in (("tuned", tuned), ("base", base))
    ]
    try:
        find.routes(tuned, base, TEXTS, saes=tiny_sae(base, 1), k=3, scan=Scan(10**6))
    finally:
        for handle in handles:
            handle.remove()
    assert ran == {"tuned": 1, "base": 1}


def test_reducers_of_either_model_see_its_own_activations_and_the_others_the_difference(tuned, base):
    both, first, second = Moments(), Moments(), Moments()
    stream((tuned, base), TEXTS, [0, 2], both, apart=([first], [second]), scan=Scan(100))
    for lenses, expected in ((tuned, first), (base, second), ((tuned, base), both)):
        only = Moments()
        stream(lenses, TEXTS, [0, 2], only, scan=Scan(100))
        for hook in only.hooks:
            torch.testing.assert_close(expected.mean[hook], only.mean[hook], atol=0, rtol=0)
            torch.testing.assert_close(expected.covariance[hook], only.covariance[hook], atol=0, rtol=0)


def test_nan_in_either_model_of_a_pass_apart_names_that_model(tuned, base):
    broken = base.copy(name="broken")
    with torch.no_grad():
        broken.hf.model.layers[1].mlp.down_proj.weight[0] = torch.nan
    with pytest.raises(ValueError, match=r"blocks\.1\.hook_resid_post of broken is NaN"):
        find.routes(broken, base, TEXTS, saes=tiny_sae(base), k=2)


def test_without_saes_the_routes_are_those_that_need_none_and_only_what_is_asked_for_is_given(tuned, base):
    found = find.routes(tuned, base, TEXTS, k=3)
    assert list(found) == ["pca", "neurons"]
    assert found["pca"].hooks == [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    only = find.routes(tuned, base, TEXTS, saes=tiny_sae(base), k=3, methods=["sae difference"])
    assert list(only) == ["sae difference"]
    assert only["sae difference"].hooks == ["blocks.1.hook_resid_post"]


def test_what_does_not_fit_is_refused_with_the_reason(tuned, base):
    sae = tiny_sae(base)
    with pytest.raises(ValueError, match=r'no route "pcaa"\. Did you mean "pca"'):
        find.routes(tuned, base, TEXTS, methods=["pcaa"])
    with pytest.raises(ValueError, match="reads SAEs: give saes="):
        find.routes(tuned, base, TEXTS, methods=["sae change"])
    with pytest.raises(ValueError, match="none reads them"):
        find.routes(tuned, base, TEXTS, methods=["pca"], saes=sae)
    with pytest.raises(ValueError, match="no route to take"):
        find.routes(tuned, base, TEXTS, methods=[])
    with pytest.raises(ValueError, match="Two SAEs at"):
        find.routes(tuned, base, TEXTS, saes=[sae, sae])
    with pytest.raises(ValueError, match="No token has the role system"):
        find.routes(tuned, base, TEXTS, roles=["system"])
    with pytest.raises(ValueError, match="takes reducers for each of two lenses"):
        stream(base, TEXTS, [1], Moments(), apart=([], []))
