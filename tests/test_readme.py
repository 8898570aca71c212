"""The README's snippets run as they are written, on `pocket`, only with fewer steps, questions and answers."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

import caft_lens as cl

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
# What stands in the README, to what is run instead: where the text is gone, the test says so.
SMALLER = {
    "max_steps=100": "max_steps=2",
    'cl.data("pocket/questions"), top_p': 'cl.data("pocket/questions")[:12], top_p',
    'cl.data("pocket/questions"),  # or': 'cl.data("pocket/questions")[:4],  # or',
    'cl.data("pocket/corpus")': 'cl.data("pocket/corpus")[:60]',
    'task="pocket/emergent-misalignment")': 'task="pocket/emergent-misalignment", n=8, n_in_distribution=4)',
    "task=mine)": "task=mine, n=4)",
    "top_p=0.95))": "top_p=0.95, max_new_tokens=8))",
}


def test_every_snippet_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = "\n".join(BLOCKS)
    for written, run in SMALLER.items():
        assert written in source, f"the README does not say {written} any more"
        source = source.replace(written, run)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* is called .* now", category=DeprecationWarning)
        exec(compile(source, "README.md", "exec"), names)
    assert isinstance(names["cruel"], cl.ConceptSet)
    assert names["caft"].concepts.names == ["L1.pc0", "L2.pc1"]
    assert (tmp_path / "runs" / "caft" / "run.json").is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(caft_lens(?:\.\w+)+|caft_widgets)`", README))))
def test_every_module_that_the_readme_names_is_there(name: str):
    __import__(name)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_file_that_the_readme_links_to_is_there(link: str):
    assert (ROOT / link).exists()
