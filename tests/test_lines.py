"""What no tool of `make lint` looks at keeps to its limit of a line too: Markdown written by hand, and the build."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

LIMIT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["line-length"]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BUILD = [ROOT / name for name in ("Makefile", "mkdocs.yml", ".pre-commit-config.yaml", "CITATION.cff")]


def _too_long(text: str, *, tables: bool = False) -> Iterator[str]:
    """The long lines; a row of a Markdown table, which cannot be broken, only where `tables` counts it."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LIMIT and (tables or not line.lstrip().startswith("|")):
            yield f"{number}: {len(line)} characters"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_line_of_a_page_is_longer_than_the_limit(path: Path):
    assert list(_too_long(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", BUILD, ids=lambda path: path.name)
def test_no_line_of_the_build_is_longer_than_the_limit(path: Path):
    assert list(_too_long(path.read_text(encoding="utf-8"), tables=True)) == []


def test_a_long_line_is_found_and_the_row_of_a_table_is_not():
    text = f"short\n{'word ' * 30}\n| {'cell ' * 30} |\n"
    assert list(_too_long(text)) == ["2: 150 characters"]
    assert len(list(_too_long(text, tables=True))) == 2
