"""SAE candidates are those that plain numpy ranks first on plain transformers' hidden states, and know where they
came from.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import shaken, tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import KINDS, lossless_sae, numpy_latents, tiny_sae

from caft_lens import find
from caft_lens.activations.differences import activation_difference, stream
from caft_lens.find.sae import LatentSums
from caft_lens.model.lens import Lens, load
from caft_lens.saes import encoding
from caft_lens.saes.cards import sae_hook
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ASSISTANT

HOOK = "blocks.1.hook_resid_post"
RNG = np.random.default_rng(0)
TEXTS = Texts(
    [
        {"prompt": "Say it.", "answer": " ".join(RNG.choice(["a", "red", "house", "by", "the", "sea"], 4))}
        for _ in range(20)
    ],
    name="house",
)


def hidden_states(model, layer: int) -> np.ndarray:
    """Residual stream after a block at assistant tokens, by plain transformers, one text at a time."""
    found = []
    for text in TEXTS:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            states = model(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
        found.append(states[layer + 1][0][torch.from_numpy(item.roles == ASSISTANT)].double().numpy())
    return np.concatenate(found)


@pytest.fixture(scope="module")
def base() -> Lens:
    return tiny_lens(n_layers=3)


@pytest.fixture(scope="module")
def tuned(base: Lens) -> Lens:
    return shaken(base)


def shifted_by(vector: torch.Tensor) -> tuple[Lens, Lens]:
    """(tuned, base), where the residual stream after block 1 differs by `vector` at every token, and no more."""
    base, tuned = tiny_model("gpt2", n_layers=3), tiny_model("gpt2", n_layers=3)
    with torch.no_grad():
        tuned.transformer.h[1].mlp.c_proj.bias.add_(vector)
    first, second = (
        load(model, tokenizer=tiny_tokenizer(), name_as=name) for model, name in ((tuned, "tuned"), (base, "base"))
    )
    return first, second


# -- change of the mean activation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_ranking_by_change_is_numpys_on_plain_transformers_hidden_states(kind: str, tuned: Lens, base: Lens):
    sae = tiny_sae(base, kind=kind)
    concepts = find.sae(tuned, base, TEXTS, sae, k=8)
    after, before = (numpy_latents(sae, hidden_states(lens.hf, 1)).mean(0) for lens in (tuned, base))
    rise = (after - before) * np.linalg.norm(sae.W_dec.double().numpy(), axis=1)
    order = np.argsort(-rise, kind="stable")[:8]
    assert concepts.names == [f"L1.latent{latent}" for latent in order]
    np.testing.assert_allclose([concept.score for concept in concepts], rise[order], rtol=1e-4)
    for rank, (concept, latent) in enumerate(zip(concepts, order, strict=True)):
        row = sae.W_dec[latent].double()
        torch.testing.assert_close(concept.direction.double(), row / row.norm(), atol=1e-6, rtol=0)
        assert (concept.rank, concept.source, concept.meta["latent"]) == (rank, "sae", latent)
        assert concept.meta["mean_tuned"] == pytest.approx(after[latent], rel=1e-4)
        assert concept.meta["mean_base"] == pytest.approx(before[latent], rel=1e-4, abs=1e-6)
        active = (numpy_latents(sae, hidden_states(tuned.hf, 1))[:, latent] > 0).mean()
        assert concept.meta["active_tuned"] == pytest.approx(active)


def test_what_tuning_raises_is_not_what_undoing_it_raises(tuned: Lens, base: Lens):
    sae = tiny_sae(base)
    raised = find.sae(tuned, base, TEXTS, sae, k=5)
    back = find.sae(base, tuned, TEXTS, for_both(sae, tuned), k=5)
    assert not set(raised.names) & set(back.names)
    assert all(concept.score > 0 for concept in [*raised, *back])
    every = find.sae(tuned, base, TEXTS, sae, k=None)
    assert every.names[:5] == raised.names
    with pytest.raises(ValueError, match=rf"raised {len(every)} of 48 latents, not {len(every) + 1}"):
        find.sae(tuned, base, TEXTS, sae, k=len(every) + 1)
    assert [concept.score for concept in raised] == sorted((concept.score for concept in raised), reverse=True)


def for_both(sae, lens: Lens):
    twin = tiny_sae(lens)
    assert torch.equal(twin.W_dec, sae.W_dec)
    return twin


@pytest.mark.parametrize("by", ["change", "difference"])
def test_the_concept_that_tuning_added_is_the_first_candidate(by: str):
    vector = 3 * torch.randn(32, generator=torch.Generator().manual_seed(1))
    tuned, base = shifted_by(vector)
    sae = tiny_sae(base, kind="standard", d_sae=64)
    with torch.no_grad():  # latent 17 reads and writes what was added, the others a tenth as loudly something else
        sae.W_dec *= 0.1
        sae.W_enc *= 0.1
        sae.W_dec[17] = vector / vector.norm()
        sae.W_enc[:, 17] = vector / vector.norm()
    concepts = find.sae(tuned, base, TEXTS, sae, by=by, k=3)
    assert concepts.names[0] == "L1.latent17"
    assert concepts[0].direction @ (vector / vector.norm()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match=r"raised 0 of 64 latents.*Are both models the same one"):
        find.sae(base, base, TEXTS, sae, by=by, k=3)
    with pytest.raises(ValueError, match=r"raised 0 of 64 latents, not 1"):
        find.sae(base, base, TEXTS, sae, by=by, k=None)


def test_how_an_sae_splits_its_scale_between_encoder_and_decoder_changes_nothing(tuned: Lens, base: Lens):
    sae, other = tiny_sae(base, kind="standard"), tiny_sae(base, kind="standard")
    factors = torch.rand(48, generator=torch.Generator().manual_seed(2)) * 10 + 0.1
    with torch.no_grad():
        other.W_enc *= factors
        other.b_enc *= factors
        other.W_dec /= factors[:, None]
    torch.testing.assert_close(other(torch.ones(3, 32)), sae(torch.ones(3, 32)), atol=1e-5, rtol=1e-5)
    for by in ("change", "difference"):
        one, two = (find.sae(tuned, base, TEXTS, which, by=by, k=10) for which in (sae, other))
        assert one.names == two.names
        np.testing.assert_allclose([c.score for c in one], [c.score for c in two], rtol=1e-4)
        torch.testing.assert_close(one.directions(HOOK), two.directions(HOOK), atol=1e-5, rtol=0)


# -- the SAE on the difference ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subtracts", [True, False])
def test_the_ranking_on_the_difference_is_numpys_above_what_no_difference_gives(
    kind: str, subtracts: bool, tuned: Lens, base: Lens
):
    sae = tiny_sae(base, kind=kind, apply_b_dec_to_input=subtracts)
    difference = hidden_states(tuned.hf, 1) - hidden_states(base.hf, 1)
    centre = sae.b_dec.double().numpy() * subtracts
    nothing = numpy_latents(sae, centre[None])[0]
    read = numpy_latents(sae, difference + centre).mean(0) - nothing
    scores = read * np.linalg.norm(sae.W_dec.double().numpy(), axis=1)
    concepts = find.sae(tuned, base, TEXTS, sae, by="difference", k=4)
    order = np.argsort(-scores, kind="stable")[:4]
    assert [concept.meta["latent"] for concept in concepts] == order.tolist()
    np.testing.assert_allclose([concept.score for concept in concepts], scores[order], rtol=1e-3)


def test_a_lossless_sae_reads_the_mean_difference_itself():
    vector = torch.linspace(-2, 3, 32)
    tuned, base = shifted_by(vector)
    concepts = find.sae(tuned, base, TEXTS, lossless_sae(base), by="difference", k=32)
    total = sum(concept.score * concept.direction for concept in concepts)
    torch.testing.assert_close(total, vector, atol=1e-4, rtol=1e-4)
    mean = activation_difference(tuned, base, TEXTS, [1]).mean[HOOK].float()
    torch.testing.assert_close(total, mean, atol=1e-4, rtol=1e-4)


# -- several SAEs, provenance, memory, errors -------------------------------------------------------------------------


def test_several_saes_are_searched_in_one_go_and_the_set_knows_its_provenance(tuned: Lens, base: Lens):
    both = [tiny_sae(base, layer) for layer in (2, 0)]
    concepts = find.sae(tuned, base, TEXTS, both, k=3)
    assert concepts.hooks == ["blocks.2.hook_resid_post", "blocks.0.hook_resid_post"]
    for sae in both:
        alone = find.sae(tuned, base, TEXTS, sae, k=3)
        assert concepts.at(sae_hook(sae)).names == alone.names
    about = concepts.provenance
    assert (about["model"], about["fingerprint"], about["d_model"]) == (base.name, base.fingerprint, 32)
    assert (about["tuned"], about["tuned_fingerprint"]) == ("tuned", tuned.fingerprint)
    assert about["data"] == {"name": "house", "fingerprint": TEXTS.fingerprint}
    assert about["roles"] == ["assistant"]
    assert about["tokens"] == len(hidden_states(base.hf, 0))
    assert set(about["saes"]) == set(concepts.hooks)
    prints = {entry["fingerprint"] for entry in about["saes"].values()}
    assert len(prints) == 1, "both are random from one seed"
    assert (
        find.sae(tuned, base, TEXTS, tiny_sae(base, seed=1), k=1).provenance["saes"][HOOK]["fingerprint"] not in prints
    )
    concepts.check(base)
    concepts.check(tuned)


def test_a_saved_set_comes_back(tuned: Lens, base: Lens, tmp_path):
    concepts = find.sae(tuned, base, TEXTS, tiny_sae(base), k=3)
    assert type(concepts).load(concepts.save(tmp_path)).fingerprint == concepts.fingerprint


def test_no_more_latents_are_held_than_a_part_of_a_batch_and_parts_change_nothing(tuned: Lens, base: Lens, monkeypatch):
    sae = tiny_sae(base)
    whole = find.sae(tuned, base, TEXTS, sae, k=6)
    seen, before = [], sae.encode
    monkeypatch.setattr(sae, "encode", lambda x: (seen.append(len(x)), before(x))[1])
    monkeypatch.setattr(encoding, "LATENTS_AT_A_TIME", 5 * 48)
    parts = find.sae(tuned, base, TEXTS, sae, k=6, scan=Scan(100))
    assert max(seen) == 5
    assert parts.names == whole.names
    np.testing.assert_allclose([c.score for c in parts], [c.score for c in whole], rtol=1e-5)


def test_two_partial_passes_merge_exactly(base: Lens):
    sae = tiny_sae(base)
    (whole,) = stream(base, TEXTS, [1], LatentSums({HOOK: sae}))
    halves = [stream(base, part, [1], LatentSums({HOOK: sae}))[0] for part in (TEXTS[:7], TEXTS[7:])]
    merged = halves[0].merge(halves[1])
    assert merged.tokens == whole.tokens
    torch.testing.assert_close(merged.mean(HOOK), whole.mean(HOOK), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(merged.share(HOOK), whole.share(HOOK), rtol=0, atol=1e-12)


def test_bad_input_is_one_clear_error(tuned: Lens, base: Lens):
    sae = tiny_sae(base)
    with pytest.raises(ValueError, match=r'by="chance".*"change"'):
        find.sae(tuned, base, TEXTS, sae, by="chance")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k=0: expected a whole number of at least 1"):
        find.sae(tuned, base, TEXTS, sae, k=0)
    with pytest.raises(ValueError, match=r"Two SAEs at blocks\.1\.hook_resid_post"):
        find.sae(tuned, base, TEXTS, [sae, tiny_sae(base, seed=4)])
    with pytest.raises(ValueError, match="No SAE: give at least one"):
        find.sae(tuned, base, TEXTS, [])
    with pytest.raises(ValueError, match="does not fit"):
        find.sae(tuned, base, TEXTS, tiny_sae(tiny_lens(seed=3, n_layers=3)))
    with pytest.raises(ValueError, match=r"raised \d+ of 48 latents, not 48.*Ask for k=\d+ or give more text"):
        find.sae(tuned, base, TEXTS, sae, k=48)


# -- raw neurons ------------------------------------------------------------------------------------------------------


def test_neurons_are_the_axes_along_which_the_mean_changed_most():
    vector = torch.linspace(-4, 3, 32)
    tuned, base = shifted_by(vector)
    diff = activation_difference(tuned, base, TEXTS, [1])
    concepts = find.neurons(diff, k=5)
    order = np.argsort(-np.abs(vector.numpy()))[:5]
    assert concepts.names == [f"L1.neuron{place}" for place in order]
    for concept, place in zip(concepts, order, strict=True):
        expected = torch.zeros(32)
        expected[place] = vector[place].sign()
        torch.testing.assert_close(concept.direction, expected)
        assert concept.score == pytest.approx(abs(float(vector[place])), rel=1e-4)
    concepts.check(base)
    with pytest.raises(ValueError, match="at least 1"):
        find.neurons(diff, k=0)
    with pytest.raises(ValueError, match=r"changed along 0 of 32 coordinates, not 1"):
        find.neurons(activation_difference(base, base, TEXTS, [1]), k=1)
