"""Oblique projections erase and keep what they say, on data and in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from test_finetune import Gradients, chats, same, two_concepts, weights, whole_batch
from test_methods import ONE_STEP, QUICK, general
from tiny_models import tiny_lens, tiny_model

from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.concepts.oblique import eraser
from caft_lens.finetune import finetune, methods


def labelled(entangled: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points with an unwanted label z and a wanted one y, whose directions and values may go together."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, n)
    y = np.where(rng.random(n) < entangled, z, rng.integers(0, 2, n))
    spread = rng.normal(size=(6, 6))
    x = rng.normal(size=(n, 6)) @ spread
    first, second = rng.normal(size=(2, 6))
    return x + 3 * np.outer(z, first) + 3 * np.outer(y, first + second), z, y


def covariance_with(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)).T @ (label - label.mean()) / len(x)


def made(x: np.ndarray, z: np.ndarray, y: np.ndarray | None):
    columns = [None if one is None else torch.from_numpy(covariance_with(x, one))[:, None] for one in (z, y)]
    return eraser(
        columns[0], torch.from_numpy(np.cov(x.T)), torch.from_numpy(x.mean(0)), columns[1], ridge=1e-12
    )  # fmt: skip


def test_leace_leaves_nothing_to_a_linear_classifier_and_moves_the_data_least():
    x, z, _ = labelled(0.0)
    erased = made(x, z, None)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(covariance_with(erased, z), 0, atol=1e-6)
    assert LogisticRegression().fit(x, z).score(x, z) > 0.9
    chance = max(z.mean(), 1 - z.mean())
    assert LogisticRegression().fit(erased, z).score(erased, z) == pytest.approx(chance, abs=0.005)
    # By closed form in numpy (Belrose et al., theorem 4.2), and against the orthogonal projection in their metric.
    sigma, d = np.cov(x.T), covariance_with(x, z)
    by_hand = x - np.outer((x - x.mean(0)) @ np.linalg.solve(sigma, d), d) / (d @ np.linalg.solve(sigma, d))
    np.testing.assert_allclose(erased, by_hand, rtol=1e-4, atol=1e-4)
    orthogonal = x - np.outer((x - x.mean(0)) @ d, d) / (d @ d)
    assert ((erased - x) ** 2).sum() < 0.9 * ((orthogonal - x) ** 2).sum()


@pytest.mark.parametrize("entangled", [0.0, 0.8])
def test_splince_erases_one_label_and_keeps_the_covariance_with_the_other_exactly(entangled):
    x, z, y = labelled(entangled)
    erased = made(x, z, y)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(covariance_with(erased, z), 0, atol=1e-5)
    np.testing.assert_allclose(covariance_with(erased, y), covariance_with(x, y), rtol=1e-4, atol=1e-4)
    by_leace = made(x, z, None)(torch.from_numpy(x)).numpy()
    assert not np.allclose(covariance_with(by_leace, y), covariance_with(x, y), rtol=0.05)


def test_of_labels_that_are_uncorrelated_as_the_data_are_spread_splince_is_leace():
    sigma = torch.diag(torch.tensor([4.0, 1.0, 2.0, 0.5]))
    d, k = torch.eye(4)[:, :1], torch.eye(4)[:, 2:3]
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    plain, keeping = (eraser(d, sigma, torch.zeros(4), keep) for keep in (None, k))
    torch.testing.assert_close(keeping(x), plain(x))
    with pytest.raises(ValueError, match="lies within those to keep"):
        eraser(d, sigma, torch.zeros(4), torch.eye(4)[:, :2])


def other_concepts(lens) -> ConceptSet:
    generator = torch.Generator().manual_seed(9)
    found = [
        Concept(f"L{layer}.k0", f"blocks.{layer}.hook_resid_post", torch.randn(32, generator=generator))
        for layer in (0, 1)
    ]
    return ConceptSet(found).for_model(lens)


@pytest.mark.parametrize("name", ["leace", "splince"])
def test_loss_and_gradient_under_an_oblique_projection_are_those_of_its_equation(tmp_path, name):
    lens, texts, kept = tiny_lens(), chats(6), Gradients()
    concepts, keep = two_concepts(lens), other_concepts(lens)
    given = {"concepts": concepts, "general": general(), "keep": keep}
    one = methods.make(name, given, strength=0.7, ridge=0.01)
    run = finetune(lens, texts, ONE_STEP.but(callbacks=[kept]), out=tmp_path / "run", method=one)
    moments = Moments()
    stream(lens, general(), [0, 1], moments, roles=None)
    plain = tiny_model()
    for layer in (0, 1):
        hook = f"blocks.{layer}.hook_resid_post"
        sigma, mean = moments.covariance[hook], moments.mean[hook].float()
        inverse = torch.linalg.inv(sigma + 0.01 * sigma.diagonal().mean() * torch.eye(32))
        d, k = concepts[layer].direction.double(), keep[layer].direction.double()
        read = inverse @ d
        if name == "splince":
            read = read - inverse @ k * (k @ inverse @ d) / (k @ inverse @ k)
            assert abs(read @ k) < 1e-9
        read, d = (read / (read @ d)).float(), d.float()

        def act(module, inputs, output, d=d, read=read, mean=mean):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden - 0.7 * ((hidden - mean) @ read)[..., None] * d
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        plain.model.layers[layer].register_forward_hook(act)
    loss = plain(**whole_batch(lens, texts)).loss
    loss.backward()
    assert run.history[0]["loss"] == pytest.approx(loss.item(), abs=1e-4)
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(kept.kept[key], parameter.grad, atol=1e-4, rtol=1e-3)


def test_with_much_ridge_leace_is_ablation_to_the_mean(tmp_path):
    lens = tiny_lens()
    runs = [
        finetune(lens, chats(), QUICK, method=method, out=tmp_path / str(number))
        for number, method in enumerate(
            [methods.LEACE(two_concepts(lens), general(), ridge=1e9), methods.CAFTMean(two_concepts(lens), general())]
        )
    ]
    for name, value in weights(runs[0]).items():
        torch.testing.assert_close(value, weights(runs[1])[name], atol=1e-5, rtol=1e-4)
    plain = finetune(lens, chats(), QUICK, out=tmp_path / "plain")
    assert not same(weights(plain), weights(runs[0]))


def test_splince_needs_something_to_keep_at_every_site(tmp_path):
    lens = tiny_lens()
    one = methods.Splince(two_concepts(lens), general(), other_concepts(lens).at(0))
    with pytest.raises(ValueError, match=r"keep= has none at blocks\.1\.hook_resid_post"):
        finetune(lens, chats(), QUICK, method=one, out=tmp_path)
