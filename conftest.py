"""What holds for every test and example: no network, threads for the cores that are free, seeds, and the names that
examples use.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import pytest


def _free_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(cores - load))


# Read at import by the libraries and inherited by notebook kernels, so set before anything else is imported. Of several
# workers each has a core to itself.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CAFT_LENS_PROGRESS"] = "0"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", str(_free_cores()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module that is called like its function shows that function's example, which runs where the function stands."""
    items[:] = [item for item in items if not (isinstance(item, pytest.DoctestItem) and _of_a_callable(item))]


def _of_a_callable(item: pytest.DoctestItem) -> bool:
    module = sys.modules.get(item.dtest.name)
    return module is not None and type(module) is not ModuleType


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Two torch threads beside another busy process are several times slower than one."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same weights alone, in any order and among others."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _names_of_the_example(
    request: pytest.FixtureRequest,
    doctest_namespace: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Give an example of a docstring the names of tests/example_names.py that it uses, and a folder to write into."""
    doctest_namespace.clear()
    if not isinstance(request.node, pytest.DoctestItem):
        return
    from example_names import names_of

    doctest_namespace.update(names_of(request.node.dtest))
    monkeypatch.chdir(tmp_path_factory.mktemp("example"))
