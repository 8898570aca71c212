"""SAEs for a model of one's own: the same interrupted or not, alone or beside other layers, and by sae-lens itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_lens

import caft_lens as cl
from caft_data.worlds.corpus import dataset
from caft_lens._support.errors import BadArgument, BadData, BadFile, Busy
from caft_lens._support.files import locked, read_json
from caft_lens.activations.capture import captured
from caft_lens.model.lens import Lens
from caft_lens.model.sinks import Sinks
from caft_lens.saes.training import TRAINED_ROLES, SaeSettings, Training, train
from caft_lens.text.batching import Scan, batches
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import encoded

SETTINGS = SaeSettings(
    d_sae=48,
    k=6,
    tokens=24_000,
    batch_size=256,
    warmup_steps=5,
    dead_after_steps=20,
    buffer_tokens=2048,
    save_tokens=5000,
)
HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=2)


@pytest.fixture(scope="module")
def texts() -> Texts:
    return dataset("corpus", 0, 400)


@pytest.fixture(scope="module")
def held_out() -> Texts:
    return dataset("corpus", 1, 12)


@pytest.fixture(scope="module")
def whole(lens, texts, held_out, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("saes") / "whole"
    train(lens, texts, [0, 1], out, held_out=held_out, settings=SETTINGS)
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{hook}/{name}": tensor
        for hook in HOOKS
        if (out / hook).is_dir()
        for name, tensor in load_file(out / hook / "sae_weights.safetensors").items()
    }


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_batches_and_steps_are_those_of_sae_lens_itself(lens: Lens, texts: Texts):
    from sae_lens import SAETrainer, TopKTrainingSAE
    from sae_lens.training.mixing_buffer import mixing_buffer

    settings = replace(SETTINGS, save_tokens=None, start_at_mean=None)
    ours = Training(lens, HOOKS[:1], settings)
    ours.run(texts)
    ((hook, mine),) = ours.finished()
    # The same configuration, run by sae-lens: its trainer, its buffer.
    template = Training(lens, HOOKS[:1], settings).trainers[hook]
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        sae = TopKTrainingSAE(template.sae.cfg)
        packed = batches(lens.tokenizer, texts, scan=Scan(4096))
        acts = (found.acts[hook].float() for found in captured((lens,), packed, [hook], TRAINED_ROLES))
        stream = mixing_buffer(settings.buffer_tokens, settings.batch_size, acts)
        theirs = SAETrainer(cfg=template.cfg, sae=sae, data_provider=stream).fit()
    assert_equal(mine.state_dict(), theirs.state_dict())


def test_a_layer_is_the_same_alone_and_beside_another(lens, texts, held_out, whole, tmp_path):
    train(lens, texts, 1, tmp_path / "one", held_out=held_out, settings=SETTINGS)
    assert_equal(
        {name: tensor for name, tensor in weights(whole).items() if name.startswith(HOOKS[1])},
        weights(tmp_path / "one"),
    )


@pytest.mark.parametrize("after", [40, 60, 90])
def test_what_was_interrupted_ends_with_the_same_bytes(lens, texts, held_out, whole, tmp_path, after):
    def stopped() -> Iterator[Text]:
        yield from islice(texts, after)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(lens, stopped(), [0, 1], tmp_path / "it", held_out=held_out, settings=SETTINGS)
    assert not weights(tmp_path / "it")
    state = read_json(tmp_path / "it" / ".training" / "state.json")
    seen = 0

    def watched() -> Iterator[Text]:
        nonlocal seen
        for text in texts:
            seen += 1
            yield text

    assert 0 < state["texts_read"] <= after
    train(lens, watched(), [0, 1], tmp_path / "it", held_out=held_out, settings=SETTINGS)
    assert seen > state["texts_read"]
    assert_equal(weights(tmp_path / "it"), weights(whole))
    assert not (tmp_path / "it" / ".training").exists()


def test_an_interrupted_training_is_not_gone_on_with_on_other_texts_or_settings(lens, texts, held_out, tmp_path):
    def stopped() -> Iterator[Text]:
        yield from islice(texts, 80)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(lens, stopped(), [0], tmp_path, held_out=held_out, settings=SETTINGS)
    with pytest.raises(BadFile, match="on other texts than these"):
        train(lens, texts[1:], [0], tmp_path, held_out=held_out, settings=SETTINGS)
    with pytest.raises(BadFile, match="another settings"):
        train(lens, texts, [0], tmp_path, held_out=held_out, settings=replace(SETTINGS, seed=5))
    with pytest.raises(BadFile, match="another hooks"):
        train(lens, texts, [1], tmp_path, held_out=held_out, settings=SETTINGS)
    path = tmp_path / ".training" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-7] + b"1234567")
    with pytest.raises(BadFile, match=r"state\.safetensors does not hold what state\.json"):
        train(lens, texts, [0], tmp_path, held_out=held_out, settings=SETTINGS)


def test_finished_saes_are_kept_and_named_as_they_are_asked_for(lens, texts, held_out, whole):
    before = (whole / HOOKS[1] / "sae_weights.safetensors").stat().st_mtime_ns
    saes = train(lens, iter(()), [1, 0], whole, held_out=held_out, settings=SETTINGS)
    assert [sae.cfg.metadata.hook_name for sae in saes] == HOOKS[::-1]
    assert (whole / HOOKS[1] / "sae_weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(BadFile, match="another settings"):
        train(lens, texts, [1], whole, held_out=held_out, settings=replace(SETTINGS, k=5))


def test_the_card_says_what_was_trained_on_and_what_is_kept(whole: Path, lens: Lens):
    card = read_json(whole / HOOKS[0] / "card.json")
    assert card["settings"]["held_out"] == card["figures"]["texts"] == 12
    assert card["settings"]["save_tokens"] == 5000
    assert card["about"] == "text"
    assert card["figures"]["l0"]["mean"] <= 6
    assert cl.sae_cards(whole).loc[HOOKS[0], "d_sae"] == 48


def test_held_out_documents_are_not_trained_on(lens: Lens, texts: Texts):
    seen = Training(lens, HOOKS[:1], replace(SETTINGS, tokens=3000))
    seen.run(texts, without=texts[:100])
    other = Training(lens, HOOKS[:1], replace(SETTINGS, tokens=3000))
    other.run(texts[100:])
    assert seen._digest == other._digest


def test_the_bias_starts_at_the_mean_of_the_first_activations_as_the_sae_sees_them():
    # Far from 0, as the activations of real models are.
    random = torch.Generator().manual_seed(0)
    acts = [torch.randn(64, 16, generator=random) + 5.0 for _ in range(8)]
    lens = tiny_lens(n_layers=2)
    width = lens.d_model
    acts = [one.repeat(1, width // 16) for one in acts]
    settings = replace(SETTINGS, batch_size=64)
    biases = {}
    for at_mean in (True, None):
        training = Training(lens, HOOKS[:1], replace(settings, start_at_mean=at_mean))
        assert [training.step({HOOKS[0]: one}) for one in acts] == [0] * 8
        trainer = training.trainers[HOOKS[0]]
        biases[at_mean] = trainer.sae.b_dec / trainer.activation_scaler.scaling_factor
    torch.testing.assert_close(biases[True].detach(), torch.cat(acts).mean(dim=0))
    assert not biases[None].any()


def test_attention_sinks_are_not_trained_on(lens: Lens, texts: Texts, monkeypatch):
    hook = HOOKS[0]
    packed = batches(lens.tokenizer, texts[:40], scan=Scan(4096))
    norms = torch.cat([found.acts[hook].norm(dim=1) for found in captured((lens,), packed, [hook], TRAINED_ROLES)])
    limit = float(norms.quantile(0.8))
    monkeypatch.setattr(type(lens), "sinks", Sinks({hook: limit}), raising=False)
    training = Training(lens, [hook], replace(SETTINGS, batch_size=64))
    seen = torch.cat([batch[hook] for batch in training._mixed(encoded(lens.tokenizer, iter(texts[:40])))])
    assert len(seen) > 1000
    assert float(seen.norm(dim=1).max()) <= limit


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": 49}, "k=49 latents cannot be active of d_sae=48"),
        ({"tokens": 0}, "tokens=0"),
        ({"batch_size": 4096}, "batch_size=4096 is more than"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"decay_share": 1.5}, "decay_share=1.5"),
        ({"save_tokens": 0}, "save_tokens=0"),
    ],
)
def test_settings_out_of_range_are_refused_where_they_are_typed(changes, said):
    with pytest.raises(BadArgument, match=said):
        replace(SETTINGS, **changes)


def test_too_little_text_and_two_writers_are_refused(lens, texts, held_out, tmp_path):
    with pytest.raises(BadData, match="give more"):
        train(lens, texts[:20], [0], tmp_path / "a", held_out=held_out, settings=SETTINGS)
    with pytest.raises(BadArgument, match="give at least 2"):
        train(lens, texts, [0], tmp_path / "a", held_out=held_out[:1], settings=SETTINGS)
    with locked(tmp_path / "b"), pytest.raises(Busy):
        train(lens, texts, [0], tmp_path / "b", held_out=held_out, settings=SETTINGS)
    shutil.rmtree(tmp_path / "a")
