"""What an SAE keeps of a model is what plain numpy and a plain torch hook say that it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import KINDS, lossless_sae, numpy_latents, numpy_reconstruction, tiny_sae
from torch.nn.functional import cross_entropy

from caft_lens._support.intervals import ratio_interval
from caft_lens.model.lens import Lens
from caft_lens.saes import encoding
from caft_lens.saes.reconstruction import reconstruction
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import SPECIAL

RNG = np.random.default_rng(0)
TEXTS = Texts(
    [{"prompt": "Say it.", "answer": "".join(RNG.choice(list("abcdef "), RNG.integers(3, 20)))} for _ in range(12)]
    + ["Once upon a time", "The end"]
)
SAID = ("system", "user", "assistant", "text")


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=3)


def plain_losses(replace=None, roles=None) -> tuple[np.ndarray, np.ndarray]:
    """Summed next-token loss of each text and how many tokens were predicted, by plain transformers, text by text.

    Args:
        replace: What stands for the activation after block 1, a function of `[n, d_model]` in numpy.
        roles: Only at tokens that are not the template's, when it is not `None`.
    """
    model = tiny_model(n_layers=3)
    losses, counts = [], []
    for text in TEXTS:
        item = encode(tiny_tokenizer(), text)
        where = (
            torch.from_numpy(item.roles != SPECIAL)
            if roles is not None
            else torch.ones(len(item.input_ids), dtype=torch.bool)
        )

        def hook(module, args, output, where=where):
            states = (output if isinstance(output, torch.Tensor) else output[0]).clone()
            states[0, where] = torch.from_numpy(np.array(replace(states[0, where].numpy()))).float()
            return states if isinstance(output, torch.Tensor) else (states, *output[1:])

        handle = model.model.layers[1].register_forward_hook(hook) if replace is not None else None
        with torch.no_grad():
            logits = model(torch.tensor([item.input_ids])).logits[0]
        if handle:
            handle.remove()
        targets = torch.tensor(item.input_ids[1:])
        losses.append(cross_entropy(logits[:-1], targets, reduction="sum").item())
        counts.append(len(targets))
    return np.array(losses), np.array(counts)


def states(roles=None) -> list[np.ndarray]:
    found = []
    for text in TEXTS:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            hidden = tiny_model(n_layers=3)(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[2][
                0
            ]
        found.append(hidden.double().numpy()[item.roles != SPECIAL if roles is not None else slice(None)])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("roles", [None, SAID])
def test_every_figure_is_that_of_plain_numpy_and_a_plain_hook(kind: str, roles, lens: Lens):
    sae = tiny_sae(lens, kind=kind)
    found = reconstruction(lens, sae, TEXTS, roles=roles, scan=Scan(120))
    acts = np.concatenate(states(roles))
    latents = numpy_latents(sae, acts)
    mean = acts.mean(0)
    assert found.tokens == len(acts)
    assert found.texts == len(TEXTS)
    assert found.l0.mean == pytest.approx((latents > 0).sum(1).mean())
    assert (found.dead, found.n_latents) == (48 - (latents > 0).any(0).sum(), 48)
    error = np.square(numpy_reconstruction(sae, acts) - acts).sum()
    assert found.explained_variance.mean == pytest.approx(1 - error / np.square(acts - mean).sum(), abs=1e-5)
    ways = {
        "loss": None,
        "loss_spliced": lambda x: numpy_reconstruction(sae, x),
        "loss_mean": lambda x: np.broadcast_to(mean, x.shape),
        "loss_zero": np.zeros_like,
    }
    losses = {}
    for name, replace in ways.items():
        total, count = plain_losses(replace, roles)
        losses[name] = total.sum() / count.sum()
        assert getattr(found, name).mean == pytest.approx(losses[name], rel=1e-4), name
    for way in ("mean", "zero"):
        against = losses[f"loss_{way}"]
        expected = (against - losses["loss_spliced"]) / (against - losses["loss"])
        assert getattr(found, f"recovered_from_{way}").mean == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_a_lossless_sae_keeps_everything(lens: Lens):
    found = reconstruction(lens, lossless_sae(lens), TEXTS)
    assert found.explained_variance.mean == pytest.approx(1, abs=1e-6)
    assert found.recovered_from_mean.mean == pytest.approx(1, abs=1e-4)
    assert found.recovered_from_zero.mean == pytest.approx(1, abs=1e-4)
    assert found.loss_spliced.mean == pytest.approx(found.loss.mean, abs=1e-5)


def test_an_sae_that_gives_the_mean_explains_and_recovers_nothing_above_it(lens: Lens):
    sae = tiny_sae(lens, kind="standard")
    with torch.no_grad():
        for parameter in (sae.W_enc, sae.b_enc):
            parameter.zero_()
        sae.b_dec.copy_(torch.from_numpy(np.concatenate(states()).mean(0)))
    found = reconstruction(lens, sae, TEXTS)
    assert found.explained_variance.mean == pytest.approx(0, abs=1e-5)
    assert found.recovered_from_mean.mean == pytest.approx(0, abs=1e-4)
    assert (found.l0.mean, found.dead) == (0, 48)
    sae.b_dec.zero_()
    assert reconstruction(lens, sae, TEXTS).recovered_from_zero.mean == pytest.approx(0, abs=1e-4)


def test_it_does_not_depend_on_batches_or_parts_and_leaves_the_model_as_it_was(lens: Lens, monkeypatch):
    sae = tiny_sae(lens)
    with torch.no_grad():
        before = lens("a red house")
    lens.model.train()
    lens.hf.model.norm.eval()
    one = reconstruction(lens, sae, TEXTS, scan=Scan(5000))
    assert lens.hf.model.layers[0].training
    assert not lens.hf.model.norm.training
    lens.model.eval()
    monkeypatch.setattr(encoding, "LATENTS_AT_A_TIME", 3 * 48)
    other = reconstruction(lens, sae, TEXTS, scan=Scan(60))
    assert one.dead == other.dead
    for name in ("l0", "explained_variance", "loss", "loss_spliced", "loss_zero", "recovered_from_mean"):
        assert getattr(one, name).mean == pytest.approx(getattr(other, name).mean, rel=1e-4)
        assert getattr(one, name).low == pytest.approx(getattr(other, name).low, rel=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(lens("a red house"), before, rtol=0, atol=0)


def test_it_shows_and_saves_its_figures(lens: Lens):
    found = reconstruction(lens, tiny_sae(lens), TEXTS)
    saved = found.to_json()
    assert saved["l0"] == {"mean": found.l0.mean, "low": found.l0.low, "high": found.l0.high}
    assert saved["dead"] == found.dead
    assert f"L0 {found.l0.mean:.1f}" in str(found)


def test_bad_input_is_one_clear_error(lens: Lens):
    with pytest.raises(ValueError, match="does not fit"):
        reconstruction(lens, tiny_sae(layer=9), TEXTS)
    with pytest.raises(ValueError, match="1 documents give no interval"):
        reconstruction(lens, tiny_sae(lens), TEXTS[:1])
    with pytest.raises(ValueError, match="No token has the role system"):
        reconstruction(lens, tiny_sae(lens), TEXTS[:3], roles=["system"])


def test_a_ratio_has_the_interval_of_documents_drawn_again():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 60, size=80)
    wrong = rng.binomial(tokens, 0.2 + 0.3 * (rng.random(80) < 0.3))
    found = ratio_interval(wrong, tokens)
    drawn = [wrong[rows].sum() / tokens[rows].sum() for rows in rng.integers(0, 80, size=(5000, 80))]
    assert found.mean == wrong.sum() / tokens.sum()
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.005)
    assert (found.n_answers, found.over) == (80, "documents")
    with pytest.raises(ValueError, match="add up to 0"):
        ratio_interval([1, 2], [0, 0])
    with pytest.raises(ValueError, match="NaN"):
        ratio_interval([1, np.nan], [1, 1])
    with pytest.raises(ValueError, match="2 numerators for 3 denominators"):
        ratio_interval([1, 2], [1, 2, 3])
