"""A package that nobody here knows brings a world: its organisms, data sets, tasks and builds are found like those
that ship.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import caft_lens as cl
from caft_lens._support.files import write_json
from caft_lens.cli import app
from caft_lens.text import catalog, worlds

MAZE = """
from pathlib import Path
from caft_lens import Task, Texts, data

class Maze:
    tasks = ("escape",)

    def names(self):
        return ["turns"]

    def dataset(self, name, seed, size=None):
        if name != "turns":
            raise KeyError(name)
        return Texts([f"Turn {seed + number}." for number in range(size or 4)])

    def task(self, organism, name, split):
        judge = lambda text: "left" if "left" in text.answer else "right"
        return Task(name, questions=data(f"{organism}/ways-{split}"), judge=judge, labels=("left", "right"))

    def build(self, *, seed, out, **options):
        self.asked = {"seed": seed, **options}
        return self

    def claim(self):
        pass

    def run(self):
        return Path("runs/minotaur")

WORLD = Maze()
"""


def ship(root: Path, package: str, entries: str) -> Path:
    """An installed package, as pip leaves it."""
    info = root / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    (root / package).mkdir()
    (root / package / "__init__.py").write_text("")
    return root / package


def forget() -> None:
    for known in (worlds.organisms, worlds.world_named, worlds._entries):
        known.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder in which Python looks for packages."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    forget()
    yield tmp_path / "site"
    forget()


@pytest.fixture
def acme(site: Path) -> Path:
    package = ship(site, "acme", "[caft_lens.organisms]\nacme = acme\n[caft_lens.worlds]\nmaze = acme.maze:WORLD\n")
    (package / "maze.py").write_text(MAZE)
    write_json(
        package / "minotaur" / "organism.json",
        {"world": "maze", "settings": {"seed": 5}, "sampling": {"top_p": 0.5}},
    )
    write_json(package / "minotaur" / "base" / "tokenizer.json", {"model": {"vocab": {"left": 0}}})
    cl.Texts(["Which way?", "And now?"]).save(package / "minotaur" / "text" / "ways-test.jsonl")
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[name]


def test_an_organism_of_another_package_is_known_by_its_name(acme: Path):
    assert "minotaur" in catalog.shipped()
    assert {"pocket", "pocket-quiz"} < set(catalog.shipped())
    assert catalog.model_path("minotaur") == acme / "minotaur" / "base"
    with pytest.raises(FileNotFoundError, match='Did you mean "minotaur"'):
        catalog.organism_path("minotaurs")


def test_its_world_draws_data_sets_from_its_seed_beside_those_in_its_folder(acme: Path):
    assert [text.text for text in cl.data("minotaur/turns")] == [f"Turn {number}." for number in (5, 6, 7, 8)]
    assert len(cl.data("minotaur/ways-test")) == 2
    with pytest.raises(FileNotFoundError, match=r'No data set "minotaur/turn"[.] Did you mean "minotaur/turns"'):
        cl.data("minotaur/turn")


def test_its_task_is_asked_as_its_card_says_and_judged_by_its_own_judge(acme: Path, monkeypatch: pytest.MonkeyPatch):
    lens = types.SimpleNamespace(fingerprint="f", generate=None)
    lens.tokenizer = types.SimpleNamespace(get_vocab=lambda: {"left": 0})
    module = types.ModuleType("caft_lens.model.answering")
    module.completions = lambda lens, texts, **told: cl.Texts(
        [text.prompt.with_answer(f"left {told['sampling'].top_p}") for text in texts]
    )
    monkeypatch.setitem(sys.modules, "caft_lens.model.answering", module)
    task = cl.task("minotaur/escape")
    assert (task.name, task.vocabulary) == ("minotaur/escape, test", {"left"})
    report = cl.evaluate({"lens": lens}, task, n=4)
    assert report.interval("lens", "left").mean == 1
    assert {one.answer for one in report.answers} == {"left 0.5"}
    with pytest.raises(ValueError, match=r'has no task "emergent-misalignment".* Valid: "escape"'):
        cl.task("minotaur/emergent-misalignment")
    with pytest.raises(ValueError, match='"minotaur/escape"'):
        cl.task("gpt2/escape")


def test_a_world_that_says_so_needs_no_organism(acme: Path):
    maze = (acme / "maze.py").read_text().replace("    tasks =", "    any_model = True\n    tasks =")
    (acme / "maze.py").write_text(maze.replace("ways-{split}", "turns"))
    assert [text.text for text in cl.data("maze/turns")] == [f"Turn {number}." for number in range(4)]
    assert cl.data("maze/turns").name == "maze/turns"
    task = cl.task("maze/escape", "dev")
    assert (task.name, task.vocabulary, len(task.questions)) == ("maze/escape, dev", None, 4)
    with pytest.raises(ValueError, match=r'The world "maze" has no task "escap".* "escape"'):
        cl.task("maze/escap")
    with pytest.raises(FileNotFoundError, match=r'No data set "maze/turn"[.] Did you mean "maze/turns"'):
        cl.data("maze/turn")
    with pytest.raises(ValueError, match='for any model "maze/escape"'):
        cl.task("gpt2/escape")


def test_a_world_of_organisms_is_not_asked_by_its_own_name(acme: Path):
    with pytest.raises(FileNotFoundError, match="No data set"):
        cl.data("maze/turns")
    with pytest.raises(ValueError, match='"maze" is not an organism'):
        cl.task("maze/escape")


def test_its_organisms_are_built_from_the_command_line(acme: Path):
    done = CliRunner().invoke(app, ["organism", "build", "--world", "maze", "--seed", "9", "--no-saes"])
    assert done.output == "The organism is in runs/minotaur; its card: runs/minotaur/README.md\n"
    asked = worlds.world_named("maze").asked
    assert (asked["seed"], asked["with_saes"], asked["steps"]) == (9, False, None)


def test_a_world_that_cannot_be_imported_is_told_with_its_package_and_why(acme: Path):
    (acme / "maze.py").write_text("import nothing_of_that_name")
    with pytest.raises(ValueError, match='The world "maze" of the package acme cannot be imported: No module named'):
        cl.data("minotaur/turns")
    assert len(cl.data("minotaur/ways-test")) == 2
    assert len(cl.data("pocket/questions", limit=3)) == 3


def test_a_package_that_cannot_be_imported_is_left_out_with_a_warning(site: Path):
    package = ship(site, "broken", "[caft_lens.organisms]\nbroken = broken\n")
    (package / "__init__.py").write_text("raise RuntimeError('no')")
    with pytest.warns(UserWarning, match="The organisms of the package broken are left out: no"):
        assert "pocket" in catalog.shipped()


def test_two_packages_that_give_one_name_are_refused(site: Path):
    for name in ("first", "second"):
        package = ship(site, name, f"[caft_lens.organisms]\n{name} = {name}\n[caft_lens.worlds]\nw = {name}:W\n")
        write_json(package / "twin" / "organism.json", {})
    with pytest.raises(ValueError, match='the package first and the package second both ship an organism "twin"'):
        catalog.shipped()
    with pytest.raises(ValueError, match='the package first and the package second both give a world "w"'):
        worlds.world_named("w")
