"""Make a folder for a workshop, which works on a laptop without network and without git: `make workshop`.

    python .ci/workshop.py FOLDER             # wheels of everything, notebooks, exercises, solutions, start.py
    python .ci/workshop.py FOLDER --no-wheels  # without the wheels, for who has the environment already

The wheels are those of the machine that makes the folder: for another operating system, processor or Python, make it
there. In the folder `python start.py` makes an environment from them and opens JupyterLab.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from exercises import FOLDER as EXERCISES
from exercises import ROOT, written

ALONG = ("benchmarks/results", "benchmarks/choices", "docs/images")
"""What the numbered notebooks read and show."""
START = '''"""Makes an environment from the wheels beside this file, once, and opens JupyterLab. No network."""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
PIP = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(HERE / "wheels")]
DONE = ENVIRONMENT / "done"

if not DONE.exists():
    print("Installing into", ENVIRONMENT, "(once, a few minutes) ...", flush=True)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    subprocess.run([*PIP, "caft-lens[workbench]"], check=True)
    subprocess.run([str(PYTHON), "-m", "ipykernel", "install", "--sys-prefix", "--name", "python3"], check=True)
    DONE.touch()
if "--install" not in sys.argv:
    lab = ["--notebook-dir", str(HERE), "--LabApp.default_url=/lab/tree/notebooks/exercises", "--LabApp.news_url=None"]
    subprocess.run([str(PYTHON), "-m", "jupyterlab", *lab], check=False)
'''
README = """\
# The workshop

1. `python start.py` (Python {version}, on {system}): installs everything from `wheels/`, without network, and opens
   JupyterLab. A few minutes the first time.
2. Begin with `notebooks/exercises/README.md`.

| folder | |
| --- | --- |
| `notebooks/exercises` | what you do: write the answer, run the check below it |
| `notebooks` | what you read: each exercise names the one it belongs to |
| `solutions` | the exercises with their answers written in |
"""


def workshop(folder: Path, *, wheels: bool = True) -> None:
    """Write the folder, in the place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    exercises = folder / "notebooks" / "exercises"
    exercises.mkdir(parents=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, folder / "notebooks")
    for file in sorted(EXERCISES.glob("*.*")):
        shutil.copy(file, exercises)
    written(folder / "solutions", solved=True)
    for place in ALONG:
        shutil.copytree(ROOT / place, folder / place)
    system = f"{sys.platform}, {'.'.join(map(str, sys.version_info[:2]))}"
    text = README.format(version=".".join(map(str, sys.version_info[:2])), system=system.split(",")[0])
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "start.py").write_text(START, encoding="utf-8")
    if wheels:
        _wheels(folder / "wheels")


def _wheels(folder: Path) -> None:
    """The project and all that it needs, in the versions that it is tested with."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--wheel-dir",
        str(folder),
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    subprocess.run([*pip, f"{ROOT}[workbench]"], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-wheels", action="store_true", help="for who has the environment already")
    options = parser.parse_args()
    workshop(options.folder.resolve(), wheels=not options.no_wheels)
    size = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file()) / 1e6
    print(f"{options.folder}: {size:,.0f} MB. On each laptop: python start.py")


if __name__ == "__main__":
    main()
