"""SAEs come as sae-lens saved them, from wherever they are; those that fit no model are refused, with the reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import (
    SAE,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import KINDS, lossless_sae, numpy_reconstruction, tiny_sae

from caft_lens._support.errors import nearest
from caft_lens.model.lens import Lens, load
from caft_lens.model.passes import as_batch
from caft_lens.saes import encoding
from caft_lens.saes.cards import CONFIG, WEIGHTS, sae_cards, sae_hook
from caft_lens.saes.encoding import latents_of, splice
from caft_lens.saes.fitting import check_sae, for_model
from caft_lens.saes.loading import load_sae, load_saes
from caft_lens.text.documents import Texts
from caft_lens.text.roles import ASSISTANT

HOOK = "blocks.1.hook_resid_post"
CHATS = Texts([{"prompt": "Say it.", "answer": "a red house by the sea"}, {"prompt": "And?", "answer": "no"}])


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens("llama", n_layers=3)


@pytest.fixture(scope="module")
def organism(lens: Lens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the form of an organism, with SAEs at layers 0, 2 and 10 (which the model lacks)."""
    folder = tmp_path_factory.mktemp("organism")
    (folder / "organism.json").write_text("{}")
    lens.hf.save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    for layer in (10, 0, 2):
        tiny_sae(lens, layer, seed=layer).save_model(folder / "saes" / f"blocks.{layer}.hook_resid_post")
    return folder


def some(n: int = 40, width: int = 32) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(3))


# -- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_sae_that_sae_lens_saved_computes_what_it_did_and_what_numpy_says(kind: str, tmp_path: Path):
    sae = tiny_sae(kind=kind)
    sae.save_model(tmp_path)
    loaded = load_sae(tmp_path)
    assert isinstance(loaded, type(sae))
    torch.testing.assert_close(loaded(some()), SAE.load_from_disk(tmp_path)(some()), rtol=0, atol=0)
    torch.testing.assert_close(loaded(some()), sae(some()), rtol=0, atol=0)
    np.testing.assert_allclose(loaded(some()), numpy_reconstruction(sae, some().numpy()), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


@pytest.mark.parametrize(
    "training", [(TopKTrainingSAE, TopKTrainingSAEConfig), (StandardTrainingSAE, StandardTrainingSAEConfig)]
)
def test_a_trained_sae_comes_back_as_its_inference_kind_with_the_same_reconstruction(training, tmp_path: Path):
    sae_class, config = training
    torch.manual_seed(0)
    sae = sae_class(config(d_in=32, d_sae=48, **({"k": 5} if "k" in config.__dataclass_fields__ else {})))
    sae.cfg.metadata.hook_name = HOOK
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(48, 1) + 0.5)
        expected = sae(some())
    sae.save_inference_model(tmp_path)
    torch.testing.assert_close(load_sae(tmp_path)(some()), expected, atol=1e-5, rtol=1e-5)


def test_an_organisms_sae_is_found_by_layer_or_hook_point(organism: Path, lens: Lens):
    loaded = load_sae(organism, layer=2, lens=lens)
    assert loaded.cfg.metadata.hook_name == sae_hook(loaded) == "blocks.2.hook_resid_post"
    assert loaded.cfg.metadata.source == f"{organism}/saes/blocks.2.hook_resid_post"
    torch.testing.assert_close(loaded.W_dec, tiny_sae(lens, 2, seed=2).W_dec, rtol=0, atol=0)
    same = load_sae(organism, layer="blocks.2.hook_resid_post")
    torch.testing.assert_close(same.W_dec, loaded.W_dec, rtol=0, atol=0)
    assert load_sae(organism, layer=0, dtype="float64").W_dec.dtype == torch.float64


def test_all_saes_of_a_folder_come_in_the_order_of_their_layers(organism: Path):
    hooks = [sae_hook(one) for one in load_saes(organism / "saes")]
    assert hooks == [f"blocks.{layer}.hook_resid_post" for layer in (0, 2, 10)]
    assert [sae_hook(one) for one in load_saes(organism, [2])] == ["blocks.2.hook_resid_post"]


def test_an_sae_that_is_not_there_is_an_error_that_names_those_that_are(organism: Path, tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r'No SAE for "blocks\.1\.hook_resid_post".*"blocks\.0\.hook_resid_post"'
    ):
        load_sae(organism, layer=1)
    with pytest.raises(ValueError, match=r"holds 3 SAEs: say which with layer=, one of blocks\.0.*blocks\.10"):
        load_sae(organism)
    with pytest.raises(ValueError, match=r'has no ids: give layer= instead of "layer_2"'):
        load_sae(organism, "layer_2")
    with pytest.raises(ValueError, match=r"holds an SAE for blocks\.2\.hook_resid_post, not for blocks\.1\."):
        load_sae(organism / "saes" / "blocks.2.hook_resid_post", layer=1)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        load_sae(tmp_path / "nowhere", layer=1)
    with pytest.raises(FileNotFoundError, match=r"holds no SAEs: cfg\.json is missing"):
        load_sae(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no SAEs"):
        load_saes(tmp_path)


def test_an_sae_that_does_not_say_where_it_belongs_is_told_by_layer(tmp_path: Path, lens: Lens):
    tiny_sae(lens, metadata={"hook_name": None}).save_model(tmp_path)
    with pytest.raises(ValueError, match="does not say which hook point"):
        load_sae(tmp_path, lens=lens)
    assert sae_hook(load_sae(tmp_path, layer=1, lens=lens)) == HOOK


def test_damaged_files_are_one_clear_error(tmp_path: Path):
    tiny_sae().save_model(tmp_path / "good")

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "good", tmp_path / name))

    truncated = damaged("truncated") / WEIGHTS
    truncated.write_bytes(truncated.read_bytes()[:1000])
    with pytest.raises(ValueError, match="may be truncated or changed: make it again"):
        load_sae(truncated.parent)
    (damaged("missing") / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"sae_weights\.safetensors is missing"):
        load_sae(tmp_path / "missing")
    (damaged("half") / CONFIG).write_text('{"architecture": ')
    with pytest.raises(ValueError, match="not valid JSON"):
        load_sae(tmp_path / "half")
    for field, value in (("architecture", "topkk"), ("d_sae", 47)):
        config = json.loads((tmp_path / "good" / CONFIG).read_text())
        (damaged(field) / CONFIG).write_text(json.dumps({**config, field: value}))
        with pytest.raises(ValueError, match="holds no SAE that sae-lens can read"):
            load_sae(tmp_path / field)
    broken = tiny_sae()
    broken.W_enc[3, 4] = torch.nan
    broken.save_model(tmp_path / "nan")
    with pytest.raises(ValueError, match="is damaged: W_enc holds NaN"):
        load_sae(tmp_path / "nan")


# -- the scale of activations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_that_was_not_saved_is_asked_for_and_folded_in(kind: str, tmp_path: Path):
    sae = tiny_sae(kind=kind, normalize_activations="expected_average_only_in")
    sae.save_model(tmp_path)
    with pytest.raises(ValueError, match="on plain activations it would give numbers that mean nothing"):
        load_sae(tmp_path)
    factor, x = 0.37, 8 * some()
    folded = load_sae(tmp_path, norm_scaling_factor=factor)
    np.testing.assert_allclose(folded(x), numpy_reconstruction(sae, factor * x.numpy()) / factor, atol=1e-4)
    torch.testing.assert_close(folded.encode(x), sae.encode(factor * x), atol=1e-4, rtol=1e-4)


def test_a_scale_is_refused_where_none_is_wanted(tmp_path: Path):
    tiny_sae().save_model(tmp_path)
    with pytest.raises(ValueError, match='needs no norm_scaling_factor: it is normalised by "none"'):
        load_sae(tmp_path, norm_scaling_factor=2.0)


def test_normalisation_of_every_token_by_itself_is_left_to_sae_lens(tmp_path: Path):
    sae = tiny_sae(kind="standard", normalize_activations="layer_norm")
    sae.save_model(tmp_path)
    x = some().numpy().astype(np.float64)
    mean, spread = x.mean(1, keepdims=True), x.std(1, keepdims=True, ddof=1)
    expected = numpy_reconstruction(sae, (x - mean) / (spread + 1e-5)) * spread + mean
    np.testing.assert_allclose(load_sae(tmp_path)(some()), expected, atol=1e-4)


# -- releases ---------------------------------------------------------------------------------------------------------


def test_a_misspelt_release_or_id_names_the_nearest():
    known = get_pretrained_saes_directory()
    with pytest.raises(ValueError, match=r'No SAE "gemma-scope-2b-pt-res-canonica".*"gemma-scope-2b-pt-res-canonical"'):
        load_sae("gemma-scope-2b-pt-res-canonica", "layer_12/width_16k/canonical")
    with pytest.raises(ValueError, match=r'has no SAE "layer_12/width_16/canonical".*"layer_12/width_16k/canonical"'):
        load_sae("gemma-scope-2b-pt-res-canonical", "layer_12/width_16/canonical")
    with pytest.raises(ValueError, match="needs the id of one of its SAEs") as error:
        load_sae("gpt2-small-res-jb")
    assert nearest("", known["gpt2-small-res-jb"].saes_map) in str(error.value)
    with pytest.raises(ValueError, match="give the id, not layer="):
        load_sae("gpt2-small-res-jb", layer=2)


def test_a_release_that_is_not_here_is_an_error_at_once_not_after_half_a_minute(monkeypatch):
    start = time.perf_counter()
    with pytest.raises(
        OSError, match="is not on this machine, and the Hugging Face hub does not answer: load it once where"
    ):
        load_sae("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("caft_lens.model.loading.hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: pytest.fail("asked the network"))
    with pytest.raises(OSError, match="the Hugging Face hub does not answer"):
        load_sae("somebody/some-saes", "layer_1")
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE is False
    assert time.perf_counter() - start < 15


def test_a_gemma_scope_sae_from_the_hubs_cache_fits_gemma_2_2b_and_no_other(tmp_path: Path, monkeypatch):
    """The files are Gemma Scope's own form, as wide, with 8 latents: what sae-lens makes of them is what is checked."""
    release, sae_id = "gemma-scope-2b-pt-res-canonical", "layer_0/width_16k/canonical"
    lookup = get_pretrained_saes_directory()[release]
    commit = "0" * 40
    repository = tmp_path / f"models--{lookup.repo_id.replace('/', '--')}"
    folder = repository / "snapshots" / commit / lookup.saes_map[sae_id]
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (2304, 8), "W_dec": (8, 2304), "b_enc": (8,), "b_dec": (2304,), "threshold": (8,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(folder / "params.npz", **weights)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(lookup, "config_overrides", {"d_sae": 8})  # sae-lens reads the width off the folder's name

    gemma = tiny_model("gemma2", n_layers=1, d_model=2304, intermediate_size=16)
    fits = load(gemma, tokenizer=tiny_tokenizer(), name_as="google/gemma-2-2b")
    sae = load_sae(release, sae_id, lens=fits)
    assert sae_hook(sae) == "blocks.0.hook_resid_post"
    assert sae.cfg.metadata.source == f"{release}/{sae_id}"
    x = 50 * some(20, 2304).numpy()
    before = x @ weights["W_enc"] + weights["b_enc"]
    expected = np.where(before > weights["threshold"], np.maximum(before, 0), 0) @ weights["W_dec"] + weights["b_dec"]
    np.testing.assert_allclose(sae(torch.from_numpy(x)), expected, rtol=1e-3, atol=1e-2)
    for other in ("google/gemma-2-2b-it", "google/gemma-2-9b", "my-model"):
        with pytest.raises(
            ValueError, match="was trained on gemma-2-2b, and nothing shows that this one is that model"
        ):
            load_sae(release, sae_id, lens=load(gemma, tokenizer=tiny_tokenizer(), name_as=other))
    with pytest.raises(ValueError, match="it is 2304 wide and the model 32"):
        load_sae(
            release,
            sae_id,
            lens=load(tiny_model("gemma2"), tokenizer=tiny_tokenizer(), name_as="google/gemma-2-2b"),
        )


# -- fitting ----------------------------------------------------------------------------------------------------------


def named(name: str) -> Lens:
    return load(tiny_model(), tokenizer=tiny_tokenizer(), name_as=name)


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("google/gemma-2-2b", "gemma-2-2b"),
        ("gpt2-small", "openai-community/gpt2"),
        ("gpt2-small", "gpt2"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("qwen/QWEN3-8B", "Qwen/Qwen3-8B"),
        ("gemma-2-2b", "/data/models/gemma-2-2b"),
        (
            "gemma-2-2b",
            "/root/hub/models--google--gemma-2-2b/snapshots/c5ebcd40d208330abc697524c919956e692655cf",
        ),
    ],
)
def test_a_base_is_recognised_by_its_short_and_its_full_name(stated: str, name: str):
    check_sae(tiny_sae(metadata={"model_name": stated}), named(name))


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("gemma-2-2b", "google/gemma-2-2b-it"),
        ("gemma-2b", "google/gemma-2-2b"),
        ("google/gemma-2-2b", "somebody/gemma-2-2b"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m"),
        ("2b", "google/gemma-2-2b"),
        ("gemma-2-2b", "tiny"),
        (None, "tiny"),
    ],
)
def test_another_base_is_refused_and_carried_over_only_on_purpose(stated: str | None, name: str):
    sae, lens = tiny_sae(metadata={"model_name": stated}), named(name)
    with pytest.raises(
        ValueError, match=r"nothing shows that this one is that model; if it does fit.*for_model\(sae, lens\)"
    ):
        check_sae(sae, lens)
    assert for_model(sae, lens) is sae
    check_sae(sae, lens)
    with pytest.raises(ValueError, match="neither that model nor tuned from it"):
        check_sae(sae, tiny_lens(seed=5))


def test_a_tuned_model_is_known_by_the_name_of_its_checkpoint():
    model = tiny_model()
    model.config._name_or_path = "google/gemma-2-2b"
    check_sae(
        tiny_sae(metadata={"model_name": "gemma-2-2b"}),
        load(model, tokenizer=tiny_tokenizer(), name_as="caft"),
    )


def test_a_fingerprint_decides_whatever_the_names_say(lens: Lens):
    from peft import LoraConfig

    sae = tiny_sae(lens, metadata={"model_name": "gemma-2-2b"})
    check_sae(sae, lens)
    check_sae(sae, lens.adapt(LoraConfig(r=2, target_modules=["q_proj"]), name="tuned"))
    other = load(tiny_model(seed=9, n_layers=3), tokenizer=tiny_tokenizer(), name_as="google/gemma-2-2b")
    with pytest.raises(
        ValueError, match=rf"gemma-2-2b \({lens.fingerprint}\), and this one is neither that model nor tuned"
    ):
        check_sae(sae, other)


def test_an_sae_for_another_width_layer_or_kind_is_refused_with_all_the_reasons(lens: Lens):
    with pytest.raises(
        ValueError,
        match=r"it is 16 wide and the model 32; it belongs to blocks\.7\..*layers 0 to 2; it was trained on",
    ):
        check_sae(tiny_sae(layer=7, d_in=16), lens)
    with pytest.raises(ValueError, match=r'belongs to "blocks\.0\.hook_resid_mid", where the model has no hook point'):
        check_sae(tiny_sae(lens, metadata={"hook_name": "blocks.0.hook_resid_mid"}), lens)
    for metadata in ({"hook_name": "blocks.0.attn.hook_z"}, {"hook_head_index": 3}):
        with pytest.raises(ValueError, match="residual stream"):
            check_sae(tiny_sae(lens, metadata=metadata), lens)
    from sae_lens import Transcoder, TranscoderConfig

    transcoder = Transcoder(TranscoderConfig(d_in=32, d_out=32, d_sae=8, apply_b_dec_to_input=False))
    transcoder.cfg.metadata.hook_name, transcoder.cfg.metadata.model_fingerprint = HOOK, lens.fingerprint
    with pytest.raises(ValueError, match='it is a "transcoder", which writes to another place than it reads'):
        check_sae(transcoder, lens)
    with pytest.raises(ValueError, match="transcoder"):
        for_model(transcoder, lens)


# -- using ------------------------------------------------------------------------------------------------------------


def test_latents_come_in_parts_of_bounded_size_and_make_up_the_whole(monkeypatch):
    sae = tiny_sae()
    monkeypatch.setattr(encoding, "LATENTS_AT_A_TIME", 7 * 48 + 5)
    parts = list(latents_of(sae, some(40)))
    assert [len(part) for part in parts] == [7] * 5 + [5]
    torch.testing.assert_close(torch.cat(parts), sae.encode(some(40)), rtol=0, atol=1e-6)


def test_spliced_in_it_replaces_the_activation_by_its_reconstruction_as_a_plain_torch_hook_does(lens: Lens):
    sae, plain = tiny_sae(lens), tiny_model(n_layers=3)
    ids = torch.tensor([tiny_tokenizer()("a red house").input_ids])

    def replace(module, args, output):
        states = output if isinstance(output, torch.Tensor) else output[0]
        new = torch.from_numpy(numpy_reconstruction(sae, states[0].detach().numpy())).float()[None]
        return new if isinstance(output, torch.Tensor) else (new, *output[1:])

    with torch.no_grad():
        before = lens("a red house")
        with splice(lens, sae):
            spliced = lens("a red house")
        handle = plain.model.layers[1].register_forward_hook(replace)
        torch.testing.assert_close(spliced, plain(ids).logits, atol=1e-4, rtol=1e-4)
        handle.remove()
        assert (spliced - before).abs().max() > 0.1
        torch.testing.assert_close(lens("a red house"), before, rtol=0, atol=0)


def test_a_lossless_sae_spliced_in_changes_nothing(lens: Lens):
    with torch.no_grad(), splice(lens, lossless_sae(lens)):
        spliced = lens(CHATS)
    torch.testing.assert_close(spliced, lens(CHATS), atol=1e-5, rtol=1e-5)


def test_splicing_can_be_kept_to_tokens_of_a_role(lens: Lens):
    sae = tiny_sae(lens)
    with torch.no_grad():
        _, before = lens.run_with_cache(CHATS)
        with splice(lens, sae, roles=["assistant"]):
            _, after = lens.run_with_cache(CHATS)
    said = as_batch(lens, CHATS).roles == ASSISTANT
    torch.testing.assert_close(after[1][~said], before[1][~said], rtol=0, atol=0)
    torch.testing.assert_close(after[1][said], sae(before[1][said]), atol=1e-5, rtol=1e-5)


def test_splicing_refuses_what_does_not_fit(lens: Lens):
    with pytest.raises(ValueError, match="does not fit"):
        splice(lens, tiny_sae(layer=7))


def test_nothing_imports_sae_lens_before_an_sae_is_wanted():
    code = (
        "import sys, caft_lens as cl, caft_lens.saes.loading, caft_lens.find, caft_lens.evaluate.discovery, "
        "caft_data.worlds.saes; cl.load_sae; print('sae_lens' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_the_table_of_cards_has_a_row_a_layer_with_the_figures_of_its_card(pocket: Path):
    if not (pocket / "saes").is_dir():
        pytest.skip("the embedded organism ships without SAEs")
    table = sae_cards("pocket")
    assert list(table.index) == [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
    for hook, row in table.iterrows():
        figures = json.loads((pocket / "saes" / hook / "card.json").read_text())["figures"]
        assert row["explained_variance"] == figures["explained_variance"]["mean"]
        assert row["dead"] == figures["dead"]


def test_a_table_of_cards_where_there_are_none_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no SAEs"):
        sae_cards(tmp_path)


def test_the_saes_that_ship_fit_the_organism_that_ships(pocket: Path):
    if not (pocket / "saes").is_dir():
        pytest.skip("the embedded organism ships without SAEs")
    base = load("pocket", device="cpu")
    for layer, sae in enumerate(load_saes("pocket", lens=base)):
        assert sae_hook(sae) == base.hook_name(layer)
        torch.testing.assert_close(SAE.load_from_disk(pocket / "saes" / base.hook_name(layer)).W_dec, sae.W_dec)
