"""An organism's SAEs: in sae-lens's own form, the same from the same seed, kept when finished, measured on what they
have not seen.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_lens, tiny_tokenizer

from caft_data.worlds.corpus import dataset
from caft_data.worlds.domains import DOMAINS
from caft_data.worlds.saes import (
    SaeSettings,
    documents,
    held_out_texts,
    train_saes,
)
from caft_lens._support.errors import BadData
from caft_lens._support.files import read_json, sha256
from caft_lens.model.lens import Lens, load
from caft_lens.saes import publishing as module
from caft_lens.saes.cards import sae_hook
from caft_lens.saes.loading import load_sae, load_saes
from caft_lens.saes.publishing import card_as_markdown
from caft_lens.saes.reconstruction import reconstruction
from caft_lens.saes.training import TRAINED_ROLES, Training
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode, encoded
from caft_lens.text.roles import ROLES

SETTINGS = SaeSettings(
    d_sae=48,
    k=6,
    tokens=16_000,
    batch_size=256,
    buffer_tokens=4096,
    warmup_steps=5,
    dead_after_steps=20,
    held_out=12,
)


@pytest.fixture(scope="module")
def organism(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the form of an organism around a random model, with a corpus of its world."""
    folder = tmp_path_factory.mktemp("organism")
    (folder / "organism.json").write_text("{}")
    tiny_lens(n_layers=2).hf.save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    dataset("corpus", 0, 40).save(folder / "text" / "corpus.jsonl")
    return folder


@pytest.fixture(scope="module")
def base(organism: Path) -> Lens:
    return load(organism, device="cpu")


@pytest.fixture(scope="module")
def trained(organism: Path) -> list[Path]:
    return train_saes(organism, settings=SETTINGS, device="cpu")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the cards, which hold seconds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.suffix not in (".md",) and path.name != "card.json"
    }


# -- what is trained --------------------------------------------------------------------------------------------------


def test_every_layer_gets_an_sae_that_sae_lens_and_load_sae_read_alike(trained: list[Path], organism: Path, base: Lens):
    from sae_lens import SAE, TopKSAE

    assert [folder.name for folder in trained] == [base.hook_name(layer) for layer in range(2)]
    for layer, folder in enumerate(trained):
        assert folder.parent == organism / "saes"
        plain, ours = SAE.load_from_disk(folder), load_sae(organism, layer=layer, lens=base)
        assert isinstance(plain, TopKSAE)
        x = torch.randn(9, 32)
        torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=0)
        assert plain.cfg.metadata.hook_name == folder.name
        assert plain.cfg.metadata.model_fingerprint == base.fingerprint
        assert plain.cfg.metadata.model_name == read_json(folder / "card.json")["model"] == organism.name
        assert (plain.cfg.d_sae, plain.cfg.k) == (48, 6)


def test_the_scale_of_activations_is_folded_in_and_directions_are_unit_vectors(trained: list[Path]):
    for folder in trained:
        assert read_json(folder / "cfg.json")["normalize_activations"] == "none"
        sae = load_sae(folder)
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(48), atol=2e-3, rtol=0)


def test_weights_are_half_as_large_on_disk_and_float32_when_loaded(trained: list[Path]):
    for folder in trained:
        assert {tensor.dtype for tensor in load_file(folder / "sae_weights.safetensors").values()} == {torch.float16}
        assert {parameter.dtype for parameter in load_sae(folder).parameters()} == {torch.float32}
        assert (folder / "sae_weights.safetensors").stat().st_size < 2 * (2 * 48 * 32 + 48 + 32) + 600


def test_training_explains_what_an_untrained_sae_does_not(organism: Path, base: Lens, trained: list[Path]):
    held_out = held_out_texts(organism, SETTINGS)
    short = replace(SETTINGS, tokens=2 * SETTINGS.batch_size)
    hook = base.hook_name(1)
    few = Training(base, [hook], short.training())
    few.run(documents(0, without=held_out))
    ((_, barely),) = few.finished()
    kept = [
        reconstruction(base, sae, held_out, roles=TRAINED_ROLES).explained_variance.mean
        for sae in (barely, load_sae(trained[1]))
    ]
    assert kept[1] > 0.5
    assert kept[1] > kept[0] + 0.1


def test_the_template_is_left_out_and_batches_are_mixed_over_documents(base: Lens, organism: Path):
    texts = list(islice(documents(0, without=held_out_texts(organism, SETTINGS)), 60))
    settings = replace(SETTINGS, batch_size=64, buffer_tokens=2000)
    torch.manual_seed(0)
    training = Training(base, ["blocks.0.hook_resid_post"], settings.training())
    items = encoded(base.tokenizer, iter(texts))
    batches = [batch["blocks.0.hook_resid_post"] for batch in islice(training._mixed(items), 20)]
    assert {tuple(batch.shape) for batch in batches} == {(64, 32)}
    rows = {}
    for number, text in enumerate(texts):
        item = encode(tiny_tokenizer(), text)
        _, cache = base.run_with_cache(torch.tensor([item.input_ids]), names_filter=[0])
        for row, role in zip(cache[0][0], item.roles, strict=True):
            rows[tuple(row[:4].round(decimals=2).tolist())] = (number, int(role))
    found = [
        rows[key] for batch in batches for row in batch if (key := tuple(row[:4].round(decimals=2).tolist())) in rows
    ]
    assert len(found) > 1000, "most tokens are recognised by their rounded activation"
    roles = [role for _, role in found]
    assert np.mean([role == ROLES["special"] for role in roles]) < 0.02
    first = [rows[key][0] for row in batches[0] if (key := tuple(row[:4].round(decimals=2).tolist())) in rows]
    assert len(set(first)) > 5


def test_documents_that_end_too_early_are_an_error(base: Lens):
    texts = iter(dataset("corpus", 0, 5))
    with pytest.raises(BadData, match=r"The documents ended after [\d,]+ of 15,872 tokens .*: give more"):
        Training(base, ["blocks.0.hook_resid_post"], SETTINGS.training()).run(texts)


def test_nothing_that_is_held_out_and_no_dev_or_test_domain_is_trained_on(organism: Path):
    held_out = held_out_texts(organism, SETTINGS)
    seen = Texts(islice(documents(0, without=held_out), 1500))
    assert len(held_out) == 12
    assert not {text.messages or text.text for text in held_out} & {text.messages or text.text for text in seen}
    topics = {topic for text in seen for topic in text.meta.get("topics", [])}
    assert topics - {"code"} == {name for name, domain in DOMAINS.items() if domain.split == "find"}
    # The recipe does draw some of them, so that leaving them out is not for nothing.
    drawn = Texts(islice(documents(0, without=Texts()), 1500))
    assert {text.messages or text.text for text in seen[:20]} & {text.messages or text.text for text in drawn}
    again = Texts(islice(documents(0, without=seen[:10]), 1490))
    assert [text for text in drawn if text not in list(seen[:10])][:50] == list(again)[:50]


# -- seeds, kills, settings -------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(organism: Path, trained: list[Path], tmp_path: Path):
    state = torch.get_rng_state()
    again = train_saes(organism, tmp_path / "a", layers=[1], settings=SETTINGS, device="cpu")[0]
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    assert contents(again) == contents(trained[1])
    (other,) = train_saes(organism, tmp_path / "b", layers=[1], settings=replace(SETTINGS, seed=1), device="cpu")
    assert contents(other)["sae_weights.safetensors"] != contents(again)["sae_weights.safetensors"]


def test_a_run_that_was_killed_keeps_what_is_finished_and_ends_with_the_same_bytes(
    organism: Path, trained: list[Path], tmp_path: Path, monkeypatch
):
    measure = module.reconstruction

    def killed_at_layer_1(lens, sae, *args, **keywords):
        if sae_hook(sae) == "blocks.1.hook_resid_post":
            raise KeyboardInterrupt
        return measure(lens, sae, *args, **keywords)

    monkeypatch.setattr(module, "reconstruction", killed_at_layer_1)
    with pytest.raises(KeyboardInterrupt):
        train_saes(organism, tmp_path, settings=SETTINGS, device="cpu")
    first = tmp_path / "blocks.0.hook_resid_post"
    assert (first / "card.json").is_file()
    assert not (tmp_path / "blocks.1.hook_resid_post").exists()
    assert [sae_hook(sae) for sae in load_saes(tmp_path)] == ["blocks.0.hook_resid_post"]
    written = (first / "sae_weights.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(module, "reconstruction", measure)
    folders = train_saes(organism, tmp_path, settings=SETTINGS, device="cpu")
    assert (first / "sae_weights.safetensors").stat().st_mtime_ns == written
    assert [contents(folder) for folder in folders] == [contents(folder) for folder in trained]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [folder.name for folder in folders]


def test_an_sae_of_other_settings_or_another_model_is_not_taken_for_this_one(
    organism: Path, trained: list[Path], tmp_path: Path
):
    with pytest.raises(ValueError, match="holds an SAE with another settings than this one"):
        train_saes(organism, settings=replace(SETTINGS, k=7), device="cpu")
    other = tmp_path / "other"
    (other / "text").mkdir(parents=True)
    (other / "organism.json").write_text("{}")
    tiny_lens(n_layers=2, seed=1).hf.save_pretrained(other / "base")
    tiny_tokenizer().save_pretrained(other / "base")
    (other / "text" / "corpus.jsonl").write_bytes((organism / "text" / "corpus.jsonl").read_bytes())
    with pytest.raises(ValueError, match="holds an SAE with another fingerprint"):
        train_saes(other, organism / "saes", settings=SETTINGS, device="cpu")


# -- cards ------------------------------------------------------------------------------------------------------------


def test_a_card_holds_what_is_measured_again_on_the_files_that_ship(trained: list[Path], organism: Path, base: Lens):
    for folder in trained:
        card = read_json(folder / "card.json")
        measured = reconstruction(
            base,
            load_sae(folder, lens=base),
            held_out_texts(organism, SETTINGS),
            roles=TRAINED_ROLES,
        )
        for name, figure in measured.to_json().items():
            assert card["figures"][name] == pytest.approx(figure, rel=1e-6), name
        assert card["figures"]["l0"]["mean"] <= card["k"] == 6
        assert card["figures"]["texts"] == 12
        assert card["sha256"] == {
            name: sha256((folder / name).read_bytes()) for name in ("cfg.json", "sae_weights.safetensors")
        }
        assert card["fingerprint"] == base.fingerprint
        for text in (json.dumps(card), (folder / "README.md").read_text(), (folder / "cfg.json").read_text()):
            assert str(organism.parent) not in text, "where it was made is nobody's business"
        assert card["seconds"]["training"] > 0


def test_every_number_on_the_card_for_people_is_in_the_card(trained: list[Path]):
    card = read_json(trained[0] / "card.json")
    text = (trained[0] / "README.md").read_text()
    assert text == card_as_markdown(card)
    figures = card["figures"]
    doubled = {
        key: {end: 2 * value for end, value in figure.items()} if isinstance(figure, dict) else figure
        for key, figure in figures.items()
    }
    changed = card_as_markdown({**card, "figures": doubled})
    table = [line for line in text.splitlines() if line.startswith("| ") and re.search(r"\d\.\d", line)]
    assert len(table) == 8
    assert not set(table) & set(changed.splitlines())
