"""Say what is wrong with committed notebooks; exit with 1 if anything is.

python .ci/notebook_lint.py notebooks/*.ipynb   # all of notebooks/ when no file is named
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]

LONGEST_LINE = 120
LONGEST_CELL = 25
LARGEST_FILE = 1_500_000

ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:home|mnt|opt|root|tmp|usr|var|work|Users)/\w|\b[A-Z]:\\\\?Users\b")
PROGRESS_BAR = re.compile(r"\d%\|| \d+/\d+ \[|\d(?:it/s|s/it)\b")
STRUCK_OUT = re.compile(r"<(?:s|strike|del)[ >]")
STYLED_ELEMENT = re.compile(r"<(?:span|mark|td|b|u|div)[^>]* style=")
LIVE_WIDGET = "application/vnd.jupyter.widget-view+json"

Complaint = tuple[int | None, str]


def complaints(path: Path) -> Iterator[Complaint]:
    """Cell, counted from 0, and what is wrong with it; `None` for the notebook as a whole."""
    text = path.read_text(encoding="utf-8")
    try:
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
    except (ValueError, nbformat.ValidationError) as error:
        yield None, f"is no notebook: {str(error).splitlines()[0]}"
        return
    if len(text) > LARGEST_FILE:
        yield None, f"has {len(text):,} characters; outputs are to be small enough to compare"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield None, 'does not name the kernel "python3" in its metadata'
    if "widgets" in notebook.metadata:
        yield None, "carries the state of widgets: make notebooks strips it"
    first = notebook.cells[0] if notebook.cells else nbformat.v4.new_code_cell()
    if first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        yield 0, "is no title: a notebook opens with a heading"
    run = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if run != list(range(1, len(run) + 1)):
        yield None, "was not run from top to bottom: make notebooks"
    for number, cell in enumerate(notebook.cells):
        yield from ((number, what) for what in _of_source(cell.source))
        if cell.cell_type == "code":
            lines = len(cell.source.splitlines())
            if lines > LONGEST_CELL:
                yield number, f"has {lines} lines of code; more than {LONGEST_CELL} belong in the library"
            for output in cell.outputs:
                yield from ((number, what) for what in _of_output(output))


def _of_source(source: str) -> Iterator[str]:
    longest = max(map(len, source.splitlines()), default=0)
    if longest > LONGEST_LINE:
        yield f"has a line of {longest} characters, {LONGEST_LINE} is the limit"
    if ABSOLUTE_PATH.search(source):
        yield "names an absolute path"


def _of_output(output: nbformat.NotebookNode) -> Iterator[str]:
    if output.output_type == "error":
        yield f"ends in {output.ename}"
        return
    data = output.get("data", {})
    html = data.get("text/html", "")
    shown = "\n".join([output.get("text", ""), data.get("text/plain", ""), html, data.get("text/markdown", "")])
    if ABSOLUTE_PATH.search(shown):
        yield "shows an absolute path"
    if PROGRESS_BAR.search(shown):
        yield "shows a progress bar: CAFT_LENS_PROGRESS=0"
    if "Warning" in output.get("text", ""):
        yield "shows a warning"
    if LIVE_WIDGET in data:
        yield "holds a live widget, which is lost when the notebook is opened again: make notebooks strips it"
    if STRUCK_OUT.search(html):
        yield "shows struck-out text where styles are taken away: no <s>, <strike>, <del>"
    if "<style" in html and "dataframe" not in html and not STYLED_ELEMENT.search(html):
        yield "hangs on a <style>, which a notebook that is not trusted loses: style the elements themselves"


def main(names: list[str]) -> int:
    """The number of complaints, which are printed."""
    found = 0
    for path in map(Path, names or sorted((ROOT / "notebooks").glob("*.ipynb"))):
        for cell, what in complaints(path):
            found += 1
            print(f"{path}{'' if cell is None else f' cell {cell}'}: {what}")
    return found


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
