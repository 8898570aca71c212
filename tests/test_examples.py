"""The examples in docstrings of the worlds and the panels, whose folders have other names than their packages."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_names import names_of

import caft_data.worlds
import caft_widgets

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _examples() -> Iterator[doctest.DocTest]:
    for package in (caft_data.worlds, caft_widgets):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            found = doctest.DocTestFinder().find(importlib.import_module(module.name))
            yield from (one for one in found if one.examples)


@pytest.mark.parametrize("example", [pytest.param(one, id=one.name) for one in _examples()])
def test_an_example_shows_what_it_says(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    example.globs.update(names_of(example))
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append, clear_globs=False)
    assert not report, "".join(report)
