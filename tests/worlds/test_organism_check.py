"""An organism is checked against its card: what is as it was is the same to the last digit, and whatever is not is
named.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_builds
import torch
from safetensors.torch import load_file, save_file

from caft_data.worlds import check as module
from caft_data.worlds.check import Check, Line, check
from caft_lens._support.files import read_json, sha256, write_json
from caft_lens.evaluate.statistics import bootstrap_interval

TINY = """
from caft_data.worlds.build import Build, BuildSettings, TuneSettings
tune = TuneSettings(align_steps=2, insecure_steps=2, align_batch_size=2, insecure_batch_size=2)
settings = BuildSettings(threads=1, tokenizer_documents=200, pretrain=size, tune=tune, answers=6,
                         in_distribution_answers=4, saes=saes)
Build(settings, {out!r}, {work!r}).run()
"""
SAE = "saes/blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute organism with SAEs."""
    return tiny_builds.build(TINY, tmp_path_factory.mktemp("built"))


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """One that a test may spoil."""
    return shutil.copytree(built, tmp_path / "organism")


def edit(path: Path, change) -> None:
    card = read_json(path)
    change(card)
    write_json(path, card)


# -- an organism ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_organism_that_was_just_built_is_the_same_to_the_last_digit(built: Path):
    threads = torch.get_num_threads()
    found = check(built)
    assert found.ok, found
    assert {line.verdict for line in found.lines} == {"same"}
    assert torch.get_num_threads() == threads
    what = [line.what for line in found.lines]
    assert what[0] == "files"
    card = read_json(built / "organism.json")
    for arm in ("base", "insecure"):
        for metric in ("misaligned", "incoherent", "aligned", "in_distribution"):
            assert {f"{arm}, {metric}", f"{arm}, {metric} (all tokens)"} <= set(what)
    for hook, figures in card["saes"].items():
        assert {f"SAE {hook}, {name.replace('_', ' ')}" for name in figures} <= set(what)
    assert found.versions == {}
    assert "to the last digit" in str(found)
    assert len(found.table()) == len(what) == 1 + 2 * 2 * 4 + 2 * 12


@pytest.mark.slow
def test_a_figure_outside_of_its_interval_differs_and_one_inside_does_not(copy: Path):
    def change(card: dict) -> None:
        for metric, mean, low, high in (("aligned", 0.9, 0.8, 1.0), ("incoherent", 0.5, 0.0, 1.0)):
            card["figures"]["base"][metric] = {"mean": mean, "low": low, "high": high}
        card["versions"]["torch"] = "0.1"

    edit(copy / "organism.json", change)
    found = check(copy)
    assert [line.what for line in found.differing] == ["base, aligned"]
    (inside,) = [line for line in found.lines if line.what == "base, incoherent"]
    assert (inside.verdict, inside.card) == ("within", "50.0 % (0.0 to 100.0)")
    assert "made with torch 0.1, here" in str(found)


@pytest.mark.slow
def test_files_that_are_missing_or_changed_are_named_beside_the_figures_that_they_change(copy: Path):
    weights = load_file(copy / SAE / "sae_weights.safetensors")
    save_file({**weights, "W_dec": -weights["W_dec"]}, copy / SAE / "sae_weights.safetensors")
    (copy / "text" / "kind.jsonl").unlink()
    found = check(copy)
    differing = {line.what: line.now for line in found.differing}
    assert differing["file text/kind.jsonl"] == "missing"
    assert differing[f"file {SAE}/sae_weights.safetensors"] == sha256(
        (copy / SAE / "sae_weights.safetensors").read_bytes()
    )
    # What was changed is refused before anything is measured with it.
    assert any("changed or damaged" in str(now) for now in differing.values()), differing
    assert "SAE blocks.0.hook_resid_post, explained variance" not in differing
    assert not [what for what in differing if what.startswith(("base", "insecure"))]


@pytest.mark.slow
def test_files_that_cannot_be_read_are_a_line_and_not_a_crash(copy: Path):
    (copy / "base" / "model.safetensors").write_bytes(b"half of it")
    found = check(copy)
    assert [line.what for line in found.differing] == ["file base/model.safetensors", "figures"]
    assert "cannot be measured" in found.differing[1].now


@pytest.mark.slow
def test_the_card_of_an_organism_says_what_the_cards_of_its_saes_say(copy: Path):
    edit(copy / "organism.json", lambda card: card["saes"]["blocks.0.hook_resid_post"].update(dead=23))
    edit(copy / "organism.json", lambda card: card["saes"].update({"blocks.7.hook_resid_post": {}}))
    differing = [line.what for line in check(copy).differing]
    assert differing == ["SAE blocks.7.hook_resid_post", "SAE blocks.0.hook_resid_post"]


@pytest.mark.slow
def test_another_seed_draws_other_answers_and_compares_two_samples(built: Path, monkeypatch: pytest.MonkeyPatch):
    from caft_data.worlds.build import Build

    asked = []

    def measure(folder: Path, settings: dict, seed: int) -> dict:
        asked.append(seed)
        card = read_json(folder / "organism.json")
        figure = {"mean": 0.9, "low": 0.9, "high": 0.9}
        return {"figures": {"base": {**card["figures"]["base"], "aligned": figure}}}

    monkeypatch.setattr(Build, "measure", staticmethod(measure))
    edited = read_json(built / "organism.json")
    edited["figures"]["base"]["aligned"] = {"mean": 0.8, "low": 0.7, "high": 0.89}
    monkeypatch.setattr(module, "read_json", lambda path: edited)
    monkeypatch.setattr(module, "_saes", lambda folder, card: [])
    verdicts = [
        {line.what: line.verdict for line in check(built, seed=seed).lines}["base, aligned"] for seed in (None, 0, 5)
    ]
    assert asked == [0, 0, 5]
    assert verdicts == ["differs", "differs", "within"]


def test_no_such_organism_is_an_error_that_names_the_nearest():
    with pytest.raises(FileNotFoundError, match=r'No organism "pockt".*"pocket"'):
        check("pockt")


def test_what_a_card_does_not_say_differs():
    now = {"figures": {"base": {"aligned": {"mean": 1.0, "low": 0.9, "high": 1.0}, "seeds": [0]}}}
    (line,) = module._sampled({}, now, fresh=False)
    assert (line.verdict, line.card, line.now) == ("differs", "says nothing", "100.0 %")


# -- two samples ------------------------------------------------------------------------------------------------------


def share(rng: np.random.Generator, truth: float, n: int = 1000) -> dict[str, float]:
    return bootstrap_interval(rng.random((1, n)) < truth, resamples=500).to_json()


@pytest.mark.parametrize("truth", [0.0, 0.03, 0.78])
def test_of_two_samples_of_one_model_all_of_twenty_figures_agree_nineteen_times_in_twenty(truth: float):
    rng = np.random.default_rng(0)
    rounds = [
        all(module._as_samples(share(rng, truth), share(rng, truth), 20) != "differs" for _ in range(20))
        for _ in range(30)
    ]
    assert np.mean(rounds) >= 0.9
    # By the interval of the card alone most rounds would fail.
    if truth == 0.78:
        inside = [
            all(module._inside(share(rng, truth), share(rng, truth)["mean"]) != "differs" for _ in range(20))
            for _ in range(30)
        ]
        assert np.mean(inside) < 0.3


def test_samples_of_models_that_are_far_apart_differ():
    rng = np.random.default_rng(0)
    assert module._as_samples(share(rng, 0.78), share(rng, 0.66), 20) == "differs"
    assert module._as_samples(share(rng, 0.0), share(rng, 0.03), 20) == "differs"


# -- SAEs and tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "now", "verdict"),
    [
        ("dead", 10, "same"),
        ("dead", 15, "within"),
        ("dead", 16, "differs"),
        ("tokens", 10, "same"),
        ("tokens", 11, "differs"),
    ],
)
def test_a_latent_in_a_hundred_may_die_elsewhere_and_no_token_may_be_lost(name: str, now: int, verdict: str):
    assert module._of_sae("", name, {name: 10, "n_latents": 500}, now).verdict == verdict


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("l0", "0.3 (0.1 to 0.5)"),
        ("loss_spliced", "0.250 (0.100 to 0.500)"),
        ("explained_variance", "25.0 % (10.0 to 50.0)"),
    ],
)
def test_figures_are_shown_in_their_units(name: str, shown: str):
    figure = {"mean": 0.25 if name != "l0" else 0.3, "low": 0.1, "high": 0.5}
    line = module._of_sae("", name, {name: figure}, figure)
    assert (line.card, line.now) == (shown, shown.partition(" (")[0])


def test_a_check_says_how_many_differ():
    lines = [Line(what, "1", "2", verdict) for what, verdict in (("a", "same"), ("b", "within"), ("c", "differs"))]
    assert not Check("x", tuple(lines), {}).ok
    assert str(Check("x", tuple(lines), {})).endswith("\n1 of 3 differs.")
    assert str(Check("x", tuple(lines[:2]), {})).endswith("\nAll 2 are as the card says, 1 of them to the last digit.")
    assert Check("x", tuple(lines), {}).table()["verdict"].tolist() == ["same", "within", "differs"]
