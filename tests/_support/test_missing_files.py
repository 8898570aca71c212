"""Whatever path is given: a file or folder that is not there is one error, which names what is near."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import caft_lens as cl
from caft_lens import experiments
from caft_lens._support.errors import BadType, CaftLensError, MissingFile
from caft_lens._support.files import write_json
from caft_lens.cli import app
from caft_lens.experiments.recipe import Recipe
from caft_lens.inspect import Explanations

# What reads a folder, and the file that such a folder has.
OF_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "ConceptSet.load": (cl.ConceptSet.load, "card.json"),
    "Run.load": (cl.Run.load, "run.json"),
    "Store.open": (cl.Store.open, "index.json"),
    "Report.load": (cl.Report.load, "report.json"),
    "experiments.Result.load": (experiments.Result.load, "contest.json"),
    "experiments.Sweep.load": (experiments.Sweep.load, "sweep.json"),
    "load_sae": (lambda folder: cl.load_sae(str(folder)), "cfg.json"),
    "load_saes": (lambda folder: cl.load_saes(str(folder)), "cfg.json"),
    "sae_cards": (lambda folder: cl.sae_cards(str(folder)), "cfg.json"),
}
OF_FILES: dict[str, Callable[[Path], Any]] = {
    "Moments.load": cl.Moments.load,
    "read_scores": cl.evaluate.read_scores,
    "Explanations.load": Explanations.load,
    "Recipe.read": Recipe.read,
}


@pytest.mark.parametrize("name", OF_FOLDERS)
def test_a_folder_that_is_not_there_names_the_one_beside_it_that_is_meant(name: str, tmp_path: Path):
    read, marker = OF_FOLDERS[name]
    write_json(tmp_path / "right" / marker, {})
    (tmp_path / "rigth.txt").write_text("of another kind")
    with pytest.raises(MissingFile, match=r'rigth.*no such folder.*Did you mean "right"\?') as error:
        read(tmp_path / "rigth")
    assert isinstance(error.value, FileNotFoundError)


@pytest.mark.parametrize("name", [name for name in OF_FOLDERS if "sae" not in name])
def test_a_folder_around_the_one_that_is_meant_names_it(name: str, tmp_path: Path):
    read, marker = OF_FOLDERS[name]
    write_json(tmp_path / "all" / "chosen" / marker, {})
    with pytest.raises(MissingFile, match=rf"{marker} is missing.*Such folders are in it: chosen\."):
        read(tmp_path / "all")


@pytest.mark.parametrize("name", OF_FOLDERS)
def test_where_nothing_of_the_kind_is_near_the_first_missing_folder_is_named_with_its_neighbours(
    name: str, tmp_path: Path
):
    read, _ = OF_FOLDERS[name]
    (tmp_path / "runs").mkdir()
    with pytest.raises(MissingFile, match=r'Did you mean "runs"'):
        read(tmp_path / "rums" / "deep" / "plain")


@pytest.mark.parametrize("name", OF_FILES)
def test_a_file_that_is_not_there_names_its_neighbours(name: str, tmp_path: Path):
    (tmp_path / "caps.yaml").write_text("x")
    with pytest.raises(MissingFile, match=r'cap\.yaml.*Did you mean "caps\.yaml"\?'):
        OF_FILES[name](tmp_path / "cap.yaml")


def test_a_run_that_is_not_there_is_never_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_json(tmp_path / "runs" / "plain" / "run.json", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("caft_lens.model.loading.hub_answers", lambda: pytest.fail("asked the hub"))
    for name in ("runs/plian", Path("runs/plian"), "./runs/plian", "runs/deep/plian"):
        with pytest.raises(MissingFile, match=r'There is no folder.*Did you mean "(runs/)?plain"|no folder.*deep'):
            cl.load(name)
    # No folder here begins that way: a name of the hub.
    monkeypatch.setattr("caft_lens.model.loading.hub_answers", lambda: False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(OSError, match="does not answer"):
        cl.load("org/model")


def test_the_command_names_the_neighbours_of_a_recipe_in_one_line(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("x")
    done = CliRunner().invoke(app, ["contest", str(tmp_path / "recipes.yaml")])
    assert done.exit_code == 2
    assert 'Did you mean "recipe.yaml"?' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_concept_set_of_a_recipe_that_is_not_there_names_its_neighbours(tmp_path: Path):
    write_json(tmp_path / "chosen" / "card.json", {})
    recipe = Recipe(
        task="pocket/emergent-misalignment",
        texts="pocket/insecure-code",
        arms={"caft": {}},
        materials={"concepts": {"concepts": str(tmp_path / "choosen")}},
        out=str(tmp_path / "out"),
    )
    with pytest.raises(MissingFile, match='Did you mean "chosen"'):
        recipe.run()


def test_saes_are_asked_for_by_a_name_not_by_a_model():
    with pytest.raises(BadType, match=r"not from a int: give load_saes\('pocket'") as error:
        cl.load_saes(3, layers=[1])  # type: ignore[arg-type]
    assert isinstance(error.value, CaftLensError)
