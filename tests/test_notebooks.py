"""What is committed in notebooks/ reads well anywhere, and what would not is named."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from places import ROOT

complaints = runpy.run_path(str(ROOT / ".ci/notebook_lint.py"))["complaints"]


def _notebook() -> nbformat.NotebookNode:
    """One without fault: a title, and a cell that was run."""
    output = new_output("stream", text="3\n")
    cells = [new_markdown_cell("# Title"), new_code_cell("print(3)", execution_count=1, outputs=[output])]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def _said(notebook: nbformat.NotebookNode, folder: Path) -> list[str]:
    path = folder / "some.ipynb"
    nbformat.write(notebook, path)
    return [f"{cell}: {what}" for cell, what in complaints(path)]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_nothing_is_wrong_with_a_committed_notebook(path: Path):
    assert not [f"cell {cell}: {what}" for cell, what in complaints(path)]


def test_a_notebook_without_fault_is_not_complained_of(tmp_path: Path):
    assert _said(_notebook(), tmp_path) == []


def _html(text: str) -> Callable[[nbformat.NotebookNode], object]:
    return lambda nb: nb.cells[1].outputs.append(new_output("display_data", data={"text/html": text}))


def _printed(text: str) -> Callable[[nbformat.NotebookNode], object]:
    return lambda nb: nb.cells[1].outputs.append(new_output("stream", name="stderr", text=text))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (
            lambda nb: nb.cells[0].update(source="# T\n\n" + 13 * "a sentence "),
            "0: has a line of 143 characters",
        ),
        (lambda nb: nb.cells[1].update(source="\n".join(26 * ["print(3)"])), "1: has 26 lines of code"),
        (lambda nb: nb.cells[1].update(source="open('/home/me/file')"), "1: names an absolute path"),
        (lambda nb: nb.cells[0].update(source="text"), "0: is no title"),
        (lambda nb: nb.cells.pop(0), "0: is no title"),
        (lambda nb: nb.cells[1].update(execution_count=None), "None: was not run from top to bottom"),
        (lambda nb: nb.cells[1].update(execution_count=2), "None: was not run from top to bottom"),
        (lambda nb: nb.metadata.pop("kernelspec"), 'None: does not name the kernel "python3"'),
        (lambda nb: nb.metadata.update(widgets={}), "None: carries the state of widgets"),
        (
            lambda nb: nb.cells[1].outputs.append(new_output("error", ename="KeyError", evalue="", traceback=[])),
            "1: ends in KeyError",
        ),
        (
            lambda nb: nb.cells[1].outputs.append(
                new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})
            ),
            "1: holds a live widget",
        ),
        (_printed("wrote /tmp/run/file"), "1: shows an absolute path"),
        (_printed("steps:  40%|####    | 4/10 [00:01<00:02,  3.1it/s]"), "1: shows a progress bar"),
        (_printed("x.py:1: UserWarning: odd"), "1: shows a warning"),
        (_html("<s>token</s>"), "1: shows struck-out text"),
        (_html("<style>.t {color: red}</style><p class='t'>x</p>"), "1: hangs on a <style>"),
        (_html("x" * 1_500_000), "None: has 1,50"),
    ],
)
def test_each_fault_is_named_with_its_cell(spoil: Callable, complaint: str, tmp_path: Path):
    notebook = _notebook()
    spoil(notebook)
    assert [said for said in _said(notebook, tmp_path) if said.startswith(complaint)]


def test_a_file_that_is_no_notebook_is_called_so(tmp_path: Path):
    path = tmp_path / "some.ipynb"
    path.write_text('{"cells": ')
    assert [what for _, what in complaints(path) if what.startswith("is no notebook")]
