"""The command does what the library does, says in one line what was wrong, and costs nothing to those who import the
package.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from caft_data.worlds import check as checks
from caft_data.worlds.build import Build, BuildSettings
from caft_data.worlds.check import Check, Line
from caft_data.worlds.quiz.build import QuizBuild, QuizSettings
from caft_data.worlds.saes import SaeSettings
from caft_lens._support.files import read_json, write_json
from caft_lens.cli import app
from caft_lens.text import catalog
from caft_lens.text.worlds import world_named, world_names


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Build]:
    """Builds that would have run."""
    found: list[Build] = []
    monkeypatch.setattr(Build, "run", lambda self: found.append(self) or self.out)
    return found


def test_every_option_of_a_build_reaches_its_settings(made: list[Build], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("organism", "build").exit_code == 0
    assert run("organism", "build", "--world", "quiz", "--seed", "3", "--steps", "7", "--no-saes").exit_code == 0
    ways = ("--out", "there", "--work", "here", "--threads", "1", "--seed", "4")
    assert run("organism", "build", *ways).output == "The organism is in there; its card: there/README.md\n"
    first, second, third = made
    assert [type(one) for one in made] == [Build, QuizBuild, Build]
    assert first.settings == BuildSettings()
    assert (first.out, first.work) == (Path("runs/organism"), Path("runs/organism-work"))
    steps = replace(QuizSettings().pretrain, steps=7)
    assert second.settings == QuizSettings(seed=3, pretrain=steps, saes=None)
    assert (second.out, second.work) == (Path("runs/pocket-quiz"), Path("runs/pocket-quiz-work"))
    assert third.settings == BuildSettings(threads=1, seed=4, saes=SaeSettings(seed=4))
    assert (third.out, third.work) == (Path("there"), Path("here"))
    assert [name for name, _ in first.stages][-2:] == ["card", "saes"]
    assert "saes" not in [name for name, _ in second.stages]


def test_the_command_knows_every_world(made: list[Build], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert world_names() == ["pocket", "quiz", "smollm2"]
    assert [run("organism", "build", "--world", name).exit_code for name in ("pocket", "quiz")] == [0, 0]
    refused = run("organism", "build", "--world", "smollm2")
    assert refused.exit_code != 0
    assert 'The world "smollm2" has no organism' in refused.output
    assert [type(one) for one in made] == [Build, QuizBuild]
    with pytest.raises(ValueError, match=r'There is no world "quix". Did you mean "quiz"'):
        world_named("quix")


def test_a_working_folder_of_other_settings_is_refused_in_one_line(made: list[Build], tmp_path: Path):
    write_json(tmp_path / "settings.json", {"seed": 1})
    done = run("organism", "build", "--out", str(tmp_path / "out"), "--work", str(tmp_path))
    assert (done.exit_code, made) == (2, [])
    assert done.stderr.startswith(f"caft-lens: {tmp_path} holds a build with other settings")
    assert read_json(tmp_path / "settings.json") == {"seed": 1}


@pytest.mark.parametrize("wrong", [("--steps", "0"), ("--seed", "-1"), ("--threads", "0"), ("--world", "quix")])
def test_a_wrong_option_is_refused_by_its_name(made: list[Build], wrong: tuple[str, str]):
    done = run("organism", "build", *wrong)
    assert (done.exit_code, made) == (2, [])
    assert wrong[0] in done.stderr


def test_check_prints_a_table_for_each_organism_and_fails_with_what_differs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        write_json(folder / catalog.CARD, {})
    asked = []

    def checked(name: str, *, seed: int | None) -> Check:
        asked.append((name, seed))
        lines = [Line("base, aligned", "99.0 % (98.0 to 100.0)", "99.0 %", "same")]
        if name == str(folders[1]):
            lines.append(Line("base, misaligned", "0.0 % (0.0 to 0.4)", "2.0 %", "differs"))
        return Check(Path(name).name, tuple(lines), {})

    monkeypatch.setattr(checks, "check", checked)
    good = run("organism", "check", str(folders[0]), "--seed", "5")
    assert good.exit_code == 0
    assert "base, aligned  99.0 % (98.0 to 100.0)  99.0 %  same" in good.stdout
    bad = run("organism", "check", *map(str, folders))
    assert bad.exit_code == 1
    assert "one\n" in bad.stdout
    assert bad.stderr == "What differs:\n  two: base, misaligned: 0.0 % (0.0 to 0.4) -> 2.0 %\n"
    monkeypatch.setattr(catalog, "shipped", lambda: [str(folders[0])])
    assert run("organism", "check").exit_code == 0
    assert asked == [
        (str(folders[0]), 5),
        *((str(folder), None) for folder in folders),
        (str(folders[0]), None),
    ]


def test_a_misspelt_organism_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "check", lambda *_, **__: pytest.fail("measured"))
    done = run("organism", "check", "pocket", "pockt")
    assert done.exit_code == 2
    assert done.stderr.startswith('caft-lens: No organism "pockt"')
    monkeypatch.setattr(catalog, "shipped", list)
    assert "No organism ships with this package" in run("organism", "check").stderr


def test_the_module_is_the_command_and_the_command_loads_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['caft-lens', 'organism', 'build', '--help']\n"
        "try: runpy.run_module('caft_lens', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: caft-lens organism build" in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_importing_the_package_does_not_load_the_command():
    code = "import sys, caft_lens; print({'typer', 'caft_lens.cli'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
