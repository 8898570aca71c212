"""What the pages in docs/ show runs as it is written, on `pocket`, only with fewer steps and answers; every name
that they tell is there.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from pages import blocks
from places import ROOT

from caft_lens.finetune.methods.registry import ENTRY_POINTS
from caft_lens.text.worlds import ORGANISMS, WORLDS

PAGES = sorted((ROOT / "docs").rglob("*.md"))
WITH_CODE = [page for page in PAGES if blocks(page)]
# What stands in a page, to what is run instead: where the text is gone, the test says so.
SMALLER = {
    "loop.md": {
        "max_steps=100": "max_steps=2",
        'cl.data("pocket/questions"), sampling': 'cl.data("pocket/questions")[:12], sampling',
        'cl.data("pocket/corpus")': 'cl.data("pocket/corpus")[:60]',
        'task="pocket/emergent-misalignment")': 'task="pocket/emergent-misalignment", n=8, n_in_distribution=4)',
    },
    "concepts/saes.md": {
        "d_sae=2304, k=32, tokens=2_000_000": "d_sae=64, k=8, tokens=4096, batch_size=256, buffer_tokens=1024",
    },
    "how-to/your-model.md": {"max_steps=10": "max_steps=2"},
}


def _name(page: Path) -> str:
    return page.relative_to(ROOT / "docs").as_posix()


@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_every_snippet_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    smaller = dict(SMALLER.get(_name(page), {}))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "snippets"}
    for block in blocks(page):
        source = block.source
        for written, run in smaller.items():
            source = source.replace(written, run)
        # So that what fails is shown at its line of the page.
        code = compile("\n" * (block.line - 1) + source, str(page), "exec", dont_inherit=True)
        if not block.why_not:
            exec(code, names)
    everything = "".join(block.source for block in blocks(page))
    assert [written for written in smaller if written not in everything] == []


def test_the_methods_that_a_page_shows_do_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "snippets"}
    for block in blocks(ROOT / "docs" / "how-to" / "your-method.md"):
        exec(compile(block.source, "your-method.md", "exec", dont_inherit=True), names)
    assert names["slow"].history[-1]["learning_rate"] == pytest.approx(0.3e-3)
    assert names["small"].history[0]["loss"] > names["slow"].history[0]["loss"] + 1


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_every_name_that_the_page_tells_is_there(page: Path):
    text = page.read_text(encoding="utf-8")
    told = set(re.findall(r"(?<![\w.])(?:cl|caft_lens|caft_widgets|caft_data)(?:\.\w+)+", text))
    files = {name for name in told if name.endswith((".md", ".py"))} | {ENTRY_POINTS, ORGANISMS, WORLDS}
    assert [
        name
        for name in sorted(told - files)
        if not _is_there(name.replace("cl.", "caft_lens.", 1) if name.startswith("cl.") else name)
    ] == []


def _is_there(name: str) -> bool:
    first, *others = name.split(".")
    value: Any = importlib.import_module(first)
    path = first
    for part in others:
        path += f".{part}"
        try:
            value = getattr(value, part)
        except AttributeError:
            try:
                value = importlib.import_module(path)
            except ModuleNotFoundError:
                return False
    return True
