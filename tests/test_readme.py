"""The README's snippets run as they are written, on `pocket`, only with fewer steps, questions and answers; its
numbers are committed ones.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from pages import blocks
from places import ROOT

import caft_lens as cl

README = (ROOT / "README.md").read_text(encoding="utf-8")
FINDING = "".join(
    (ROOT / "benchmarks/results" / page).read_text(encoding="utf-8") for page in ("finding.md", "real_model.md")
)
# What stands in the README, to what is run instead: where the text is gone, the test says so.
SMALLER = {
    "max_steps=100": "max_steps=2",
    'cl.data("pocket/questions"), sampling': 'cl.data("pocket/questions")[:12], sampling',
    'cl.data("pocket/questions"),  # or': 'cl.data("pocket/questions")[:4],  # or',
    'cl.data("pocket/corpus")': 'cl.data("pocket/corpus")[:60]',
    'task="pocket/emergent-misalignment")': 'task="pocket/emergent-misalignment", n=8, n_in_distribution=4)',
    "task=mine)": "task=mine, n=4)",
}


def test_every_snippet_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = "\n".join(block.source for block in blocks(ROOT / "README.md"))
    for written, run in SMALLER.items():
        assert written in source, f"the README does not say {written} any more"
        source = source.replace(written, run)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* is called .* now", category=DeprecationWarning)
        exec(compile(source, "README.md", "exec", dont_inherit=True), names)
    assert isinstance(names["cruel"], cl.ConceptSet)
    assert names["caft"].concepts.names == ["L1.pc0", "L2.pc1"]
    assert (tmp_path / "runs" / "caft" / "run.json").is_file()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_file_that_the_readme_links_to_is_there(link: str):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("share", sorted(set(re.findall(r"[\d.]+ % \([\d.]+ to [\d.]+\)", README))))
def test_every_share_that_the_readme_tells_is_a_committed_one(share: str):
    assert f"| {share} |" in FINDING
