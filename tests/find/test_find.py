"""Found directions are those of scikit-learn and numpy on the same activations, and know where they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

from caft_lens import find
from caft_lens.activations.differences import activation_difference
from caft_lens.activations.moments import Moments
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ASSISTANT

HOOK = "blocks.1.hook_resid_post"


def chats(n: int = 30, words: str = "a red house by the sea") -> Texts:
    rng = np.random.default_rng(len(words))
    vocabulary = words.split()
    return Texts([{"prompt": "Say it.", "answer": " ".join(rng.choice(vocabulary, 4))} for _ in range(n)], name=words)


def two_lenses():
    lens = tiny_lens()
    tuned = lens.copy(name="tuned")
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    return tuned, lens


def moments_of(samples: np.ndarray, hook: str = HOOK) -> Moments:
    moments = Moments(provenance={"model": "tiny", "fingerprint": "f" * 16})
    for part in np.array_split(samples, 7):
        moments.update(hook, torch.from_numpy(part).float())
    return moments


def hidden_states(model, texts: Texts, layer: int) -> np.ndarray:
    """Residual stream after a block at assistant tokens, by plain transformers, one text at a time."""
    found = []
    for text in texts:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            states = model(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
        assert layer + 1 < len(states) - 1, "the last one of transformers is normalised"
        found.append(states[layer + 1][0][torch.from_numpy(item.roles == ASSISTANT)].numpy())
    return np.concatenate(found)


# -- PCA --------------------------------------------------------------------------------------------------------------


def test_pca_of_streamed_moments_is_scikit_learns_up_to_sign():
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(500, 16)) * np.linspace(3, 0.5, 16)) @ rng.normal(size=(16, 16)) + 5
    reference = PCA(6, svd_solver="full").fit(samples.astype(np.float32).astype(np.float64))
    concepts = find.pca(moments_of(samples), k=6)
    for concept, component, share in zip(
        concepts, reference.components_, reference.explained_variance_ratio_, strict=True
    ):
        sign = np.sign(concept.direction.numpy() @ component)
        np.testing.assert_allclose(sign * concept.direction.numpy(), component, atol=1e-5)
        assert concept.score == pytest.approx(share, rel=1e-5)
        assert concept.direction[concept.direction.abs().argmax()] > 0


def test_pca_of_activation_differences_is_scikit_learns_on_plain_transformers_hidden_states():
    tuned, base = two_lenses()
    texts = chats()
    concepts = find.pca(activation_difference(tuned, base, texts, layers=[0]), k=4)
    differences = hidden_states(tuned.hf, texts, 0) - hidden_states(tiny_model(), texts, 0)
    reference = PCA(4, svd_solver="full").fit(differences.astype(np.float64))
    for concept, component in zip(concepts, reference.components_, strict=True):
        assert abs(concept.direction.numpy() @ component) == pytest.approx(1, abs=1e-5)
    assert [concept.score for concept in concepts] == pytest.approx(reference.explained_variance_ratio_, rel=1e-4)


def test_components_are_ranked_and_named_from_zero_at_every_hook_point_and_know_their_provenance():
    tuned, base = two_lenses()
    texts = chats()
    diff = activation_difference(tuned, base, texts, layers=[0, "blocks.1.hook_mlp_out", 1])
    concepts = find.pca(diff, k=3)
    assert concepts.names == [f"{where}.pc{rank}" for where in ("L0", "L1.mlp_out", "L1") for rank in range(3)]
    for hook in concepts.hooks:
        scores = [concept.score for concept in concepts.at(hook)]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1 + 1e-9
        rows = concepts.directions(hook)
        torch.testing.assert_close(rows @ rows.T, torch.eye(3), atol=1e-6, rtol=0)
    assert concepts.provenance["method"] == "pca"
    assert concepts.provenance["data"]["fingerprint"] == texts.fingerprint
    assert concepts.provenance["tuned_fingerprint"] == tuned.fingerprint
    concepts.check(base)
    concepts.check(tuned)


def test_components_without_variance_are_refused_rather_than_made_up():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 8))
    with pytest.raises(ValueError, match=r"only 2 components .* ask for k=2"):
        find.pca(moments_of(flat), k=3)
    with pytest.raises(ValueError, match="Are both models the same one"):
        find.pca(moments_of(np.zeros((50, 8))), k=1)
    with pytest.raises(ValueError, match="activations are 8 wide"):
        find.pca(moments_of(rng.normal(size=(50, 8))), k=9)
    with pytest.raises(ValueError, match="at least 1"):
        find.pca(moments_of(flat), k=0)


# -- difference of means ----------------------------------------------------------------------------------------------


def test_difference_of_means_and_its_separation_are_numpys_on_plain_transformers_hidden_states():
    lens = tiny_lens()
    concept, contrast = chats(), chats(words="QUITE another Set of Words ENTIRELY")
    concepts = find.difference_of_means(lens, concept, contrast, layers=[0])
    assert concepts.names == ["L0.mean0"]
    first, second = (hidden_states(tiny_model(), texts, 0).astype(np.float64) for texts in (concept, contrast))
    step = first.mean(0) - second.mean(0)
    direction = step / np.linalg.norm(step)
    np.testing.assert_allclose(concepts[0].direction, direction, atol=1e-5)
    spread = np.sqrt((np.var(first @ direction, ddof=1) + np.var(second @ direction, ddof=1)) / 2)
    assert concepts[0].score == pytest.approx(np.linalg.norm(step) / spread, rel=1e-4)
    sides = {"concept": concept, "contrast": contrast}
    known = {side: {"name": texts.name, "fingerprint": texts.fingerprint} for side, texts in sides.items()}
    assert concepts.provenance["data"] == known
    assert concepts.provenance["d_model"] == lens.d_model
    concepts.check(lens)


@pytest.mark.parametrize(
    ("roles", "known"),
    [("assistant", ["assistant"]), (("user", "assistant"), ["user", "assistant"]), (None, None)],
)
def test_provenance_names_the_roles_however_they_were_given(roles, known):
    lens = tiny_lens()
    concepts = find.difference_of_means(lens, chats(), chats(words="QUITE another Set"), layers=[0], roles=roles)
    assert concepts.provenance["roles"] == known


def test_difference_of_equal_means_is_an_error():
    with pytest.raises(ValueError, match="do not differ"):
        find.difference_of_means(tiny_lens(), chats(), chats(), layers=[1])


# -- random directions ------------------------------------------------------------------------------------------------


def test_random_directions_are_orthonormal_as_many_as_chosen_at_each_hook_point_and_of_a_seed():
    lens = tiny_lens()
    kept = [
        Concept(f"L{layer}.pc{i}", f"blocks.{layer}.hook_resid_post", torch.randn(32))
        for layer in (0, 1)
        for i in range(layer + 2)
    ]
    like = ConceptSet(kept).for_model(lens)
    drawn = find.random_directions(like, seed=3)
    assert drawn.names == ["L0.random0", "L0.random1", "L1.random0", "L1.random1", "L1.random2"]
    for hook in like.hooks:
        rows = drawn.directions(hook)
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-6, rtol=0)
    assert drawn.fingerprint == find.random_directions(like, seed=3).fingerprint
    assert drawn.fingerprint != find.random_directions(like, seed=4).fingerprint
    assert drawn.fingerprint != like.fingerprint
    drawn.check(lens)


def test_random_directions_are_uniform_on_the_sphere():
    like = ConceptSet([Concept("L0.x", "blocks.0.hook_resid_post", torch.ones(4))])
    rows = torch.stack([find.random_directions(like, seed)[0].direction for seed in range(400)])
    # QR alone would fix signs of the diagonal of R, not of Q: the mean must vanish, the covariance be that of the
    # sphere.
    assert rows.mean(0).abs().max() < 0.1
    torch.testing.assert_close(rows.T @ rows / 400, torch.eye(4) / 4, atol=0.06, rtol=0)
