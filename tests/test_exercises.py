"""The exercises: what is committed is what their masters give, each is whole, an empty one fails with a friendly word
and nothing else, and every solution passes its check and runs to the end.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from places import ROOT

from caft_lens._support.errors import NotSolved

pytest.importorskip("jupytext", reason="no jupytext to read the masters with: make lint")
sys.path.insert(0, str(ROOT / ".ci"))
import exercises
import workshop

MASTERS = exercises.MASTERS
# What stands in a solution, to what is run instead: where the text is gone, the test says so.
SMALLER = {
    "03_components": {".sample(60, seed=0)": ".sample(12, seed=0)"},
    "06_training_loop": {
        "range(60)": "range(2)",
        "n=150, n_in_distribution=40": "n=8, n_in_distribution=4",
        ".sample(120, seed=0)": ".sample(40, seed=0)",
    },
    "07_interval": {"in range(60)": "in range(8)"},
    "08_is_it_gone": {".sample(300, seed=0)": ".sample(120, seed=0)"},
}
EMPTY = {
    "02_hook_points": "No hook point is named yet",
    "04_reading_blind": "10 of 10 concepts are not decided yet",
}
"""What an empty exercise is told; the others are told that the answer is not written yet."""


@pytest.mark.parametrize("master", MASTERS, ids=lambda path: path.stem)
def test_what_is_committed_is_what_the_master_gives(master: Path):
    committed = nbformat.read(exercises.FOLDER / f"{master.stem}.ipynb", as_version=4)
    assert committed == exercises.exercise(master), "python .ci/exercises.py"


def test_there_are_eight_exercises_and_their_list_is_that_of_the_masters():
    assert len(MASTERS) >= 8
    assert (exercises.FOLDER / "README.md").read_text(encoding="utf-8") == exercises.readme(), "make exercises"
    assert {path.stem for path in exercises.FOLDER.glob("*.ipynb")} == {path.stem for path in MASTERS}


@pytest.mark.parametrize("master", MASTERS, ids=lambda path: path.stem)
def test_an_exercise_has_a_goal_difficulty_importance_minutes_hint_check_and_solution(master: Path):
    notebook = exercises.exercise(master)
    sources = [cell.source for cell in notebook.cells]
    assert re.search(r"\*\*Goal:\*\* .+\n\nDifficulty [●○]{5} · importance [●○]{5} · \d+ minutes", sources[0])
    after = ROOT / "notebooks" / f"{exercises.about(master)['after']}.ipynb"
    assert after.is_file()
    assert sum(source.startswith("<details><summary>Hint") for source in sources) == 1
    (check,) = (place for place, cell in enumerate(notebook.cells) if "check" in cell.metadata.get("tags", []))
    assert sources[check].startswith("course.check_")
    assert sources[check + 1].startswith("<details><summary>Solution")
    assert sum("setup" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    assert not any(re.search("(BEGIN|END) (SOLUTION|EXERCISE)", source) for source in sources)
    assert sources[-1].startswith("**Next:**")
    for link in re.findall(r"\]\(([^)#:]+)\)", "\n".join(sources)):
        assert (exercises.FOLDER / link).exists(), link
    longest = max(len(line) for source in sources for line in source.splitlines())
    assert longest <= 120
    nbformat.validate(notebook)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.chdir(tmp_path)
    running = InteractiveShell.instance()
    running.reset(new_session=False)
    yield running
    running.reset(new_session=False)
    InteractiveShell.clear_instance()  # what is shown afterwards is shown to no notebook


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("master", MASTERS, ids=lambda path: path.stem)
def test_an_empty_exercise_is_told_what_is_missing_and_its_solution_passes_and_runs_to_the_end(
    master: Path, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
):
    empty, solved = (_code(exercises.exercise(master, solved=done)) for done in (False, True))
    smaller = dict(SMALLER.get(master.stem, {}))

    def run(source: str) -> Any:
        for written, less in smaller.items():
            source = source.replace(written, less)
        return shell.run_cell(source)

    # As somebody runs it who has written nothing: all is well up to the check.
    for cell in empty:
        done = run(cell.source)
        if "check" in cell.metadata.get("tags", []):
            break
        assert done.success, cell.source
    assert isinstance(done.error_in_exec, NotSolved)
    said = capsys.readouterr()
    wanted = EMPTY.get(master.stem, "is not written yet")
    assert wanted in said.out
    assert "Traceback" not in said.out + said.err

    # With the solution: from the cell in which something was to be written.
    first = next(at for at, (one, other) in enumerate(zip(empty, solved, strict=True)) if one.source != other.source)
    assert first < empty.index(cell)
    for cell in solved[first:]:
        assert run(cell.source).success, cell.source
    assert "✓" in capsys.readouterr().out
    everything = "".join(cell.source for cell in solved)
    assert [written for written in smaller if written not in everything] == []


# -- a workshop -------------------------------------------------------------------------------------------------------


def test_the_folder_of_a_workshop_has_exercises_solutions_and_what_their_notebooks_read(tmp_path: Path):
    folder = tmp_path / "workshop"
    workshop.workshop(folder, wheels=False)
    for master in MASTERS:
        exercise, solution = (
            nbformat.read(folder / place / f"{master.stem}.ipynb", as_version=4)
            for place in ("notebooks/exercises", "solutions")
        )
        assert "# write this" in str(exercise) or master.stem == "04_reading_blind"
        assert "# write this" not in str(solution)
    assert not (folder / "notebooks" / "exercises" / "masters").exists()
    assert (folder / "benchmarks/results/readers.json").is_file()
    compile((folder / "start.py").read_text(encoding="utf-8"), "start.py", "exec")
    assert not list(folder.rglob(".git*"))


def test_badges_lead_to_the_exercise_where_the_project_has_an_address(monkeypatch: pytest.MonkeyPatch):
    assert "colab" not in exercises.exercise(MASTERS[0]).cells[0].source
    monkeypatch.setattr(exercises, "REPOSITORY", "owner/name")
    first, setup = exercises.exercise(MASTERS[0]).cells[:2]
    path = f"notebooks/exercises/{MASTERS[0].stem}.ipynb"
    assert f"https://colab.research.google.com/github/owner/name/blob/main/{path}" in first.source
    assert f"https://mybinder.org/v2/gh/owner/name/main?labpath={path}" in first.source
    assert '"caft-lens[workbench] @ git+https://github.com/owner/name"' in setup.source
