"""Write the exercises from their masters, so that exercise and solution cannot drift.

    python .ci/exercises.py                    # make exercises: notebooks/exercises/*.ipynb and its README.md
    python .ci/exercises.py --solved FOLDER    # the same with the solutions written in, for a teacher

A master is a script of cells (jupytext's percent format) in notebooks/exercises/masters. Its header says what the
exercise is for. What stands between `# BEGIN SOLUTION` and `# END SOLUTION` is left out of the exercise, and unfolds
below the check; what stands between `# BEGIN EXERCISE` and `# END EXERCISE` is left out of the solution. Cells have
tags: "setup" (written here), "hint" (unfolds), "check".
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks" / "exercises"
MASTERS = sorted((FOLDER / "masters").glob("*.py"))
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
SOLUTION = re.compile(r"^( *)# BEGIN SOLUTION\n(.*?)^ *# END SOLUTION\n?", re.MULTILINE | re.DOTALL)
EXERCISE = re.compile(SOLUTION.pattern.replace("SOLUTION", "EXERCISE"), re.MULTILINE | re.DOTALL)
REPOSITORY = os.environ.get("REPOSITORY", "")
"""Where the project lies on GitHub, `owner/name`: with it come badges that open an exercise in Colab and Binder."""
SETUP = """\
# Installs caft_lens where it is missing, as on Colab; elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("caft_lens") is None:
    %pip install --quiet "{requirement}"
"""


def exercise(master: Path, *, solved: bool = False) -> nbformat.NotebookNode:
    """The notebook of a master: to be solved, or with its solution written in."""
    script = jupytext.reads(master.read_text(encoding="utf-8"), fmt="py:percent")
    cells: list[Any] = []
    solution = ""
    for cell in script.cells:
        tags, text = cell.metadata.get("tags", []), cell.source
        if "setup" in tags:
            cells.append(code(SETUP.format(requirement=requirement()), tags))
        elif "hint" in tags:
            said = re.sub("^# ?", "", text, flags=re.MULTILINE) if cell.cell_type == "code" else text
            cells.append(folded("Hint", said))
        elif cell.cell_type == "markdown":
            cells.append(new_markdown_cell(text if cells else headed(text, about(master), master.stem)))
        else:
            if SOLUTION.search(f"{text}\n"):
                solution = SOLUTION.sub(r"\2", EXERCISE.sub("", f"{text}\n")).strip()
                text = solution if solved else SOLUTION.sub(_left_out, EXERCISE.sub(r"\2", f"{text}\n")).strip()
            cells.append(code(text, tags))
        if "check" in tags and not solved:
            cells.append(folded("Solution", f"```python\n{solution}\n```"))
    for number, cell in enumerate(cells):
        cell.id = f"{master.stem}-{number}".replace("_", "-")
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})


def about(master: Path) -> dict[str, Any]:
    """What a master says of its exercise: goal, difficulty, importance, minutes, and the notebook it comes after."""
    header = jupytext.reads(master.read_text(encoding="utf-8"), fmt="py:percent").metadata
    return dict(header["exercise"])


def title(master: Path) -> str:
    """The heading of a master."""
    found = re.search(r"^# # (.+)$", master.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert found is not None, master
    return found.group(1)


def headed(text: str, facts: dict[str, Any], name: str) -> str:
    """The first cell with what the exercise is for, and badges where the project has an address."""
    heading, rest = text.split("\n", 1)
    after = f"[{facts['after'].split('_')[0]}](../{facts['after']}.ipynb)"
    line = (
        f"**Goal:** {facts['goal']}.\n\nDifficulty {dots(facts['difficulty'])} · importance {dots(facts['importance'])}"
        f" · {facts['minutes']} minutes · after notebook {after}"
    )
    return "\n".join([heading, "", *badges(name), line, rest])


def badges(name: str) -> list[str]:
    """Links that open an exercise in Colab and in Binder."""
    if not REPOSITORY:
        return []
    path = f"notebooks/exercises/{name}.ipynb"
    colab = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/{path}"
    binder = f"https://mybinder.org/v2/gh/{REPOSITORY}/main?labpath={path}"
    return [f"[Open in Colab]({colab}) · [Open in Binder]({binder})", ""]


def requirement() -> str:
    """What the setup cell installs."""
    return f"caft-lens[workbench] @ git+https://github.com/{REPOSITORY}" if REPOSITORY else "caft-lens[workbench]"


def dots(n: int) -> str:
    """A number from 1 to 5 as dots."""
    return "●" * n + "○" * (5 - n)


def code(text: str, tags: list[str]) -> nbformat.NotebookNode:
    """A cell of code."""
    return new_code_cell(text.strip("\n"), metadata={"tags": tags} if tags else {})


def folded(name: str, text: str) -> nbformat.NotebookNode:
    """A cell that unfolds."""
    return new_markdown_cell(f"<details><summary>{name}</summary>\n\n{text}\n\n</details>")


def _left_out(found: re.Match[str]) -> str:
    """What stands in the place of a solution: nothing at the top of a cell, a word within a function."""
    return f"{found.group(1)}...  # write this\n" if found.group(1) else ""


def readme() -> str:
    """The list of all exercises."""
    rows = []
    for master in MASTERS:
        facts = about(master)
        rows.append(
            f"| [{title(master)}]({master.stem}.ipynb) | {facts['goal']} | {dots(facts['difficulty'])} | "
            f"{dots(facts['importance'])} | {facts['minutes']} |"
        )
    minutes = sum(about(master)["minutes"] for master in MASTERS)
    return "\n".join(
        [
            "# Exercises",
            "",
            "Each has a goal, a hint that unfolds, a check that says what is wrong, and a solution that unfolds. They",
            "run on `pocket`, the model that ships: no GPU, no network, no token. `make lab` opens JupyterLab.",
            "For those who teach: [a workshop](../../docs/how-to/workshop.md).",
            "",
            f"All together about {round(minutes / 60, 1):g} hours.",
            "",
            "| exercise | goal | difficulty | importance | minutes |",
            "| --- | --- | --- | --- | ---: |",
            *rows,
            "",
            "Written by `make exercises` from the scripts in `masters/`; change those.",
            "",
        ]
    )


def written(folder: Path, *, solved: bool = False) -> list[Path]:
    """Write all notebooks into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for master in MASTERS:
        nbformat.write(exercise(master, solved=solved), folder / f"{master.stem}.ipynb")
    return sorted(folder.glob("*.ipynb"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--solved", type=Path, metavar="FOLDER", help="write the solved ones, there")
    options = parser.parse_args()
    if options.solved:
        written(options.solved, solved=True)
        return
    written(FOLDER)
    (FOLDER / "README.md").write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    main()
