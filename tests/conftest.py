"""What holds for every test: no network, as many threads as cores are free, no progress bars, and why something is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from live_lab import browser, lab, open_notebook  # noqa: F401


def _free_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(cores - load))


# Read at import by the libraries and inherited by notebook kernels, so set before anything else is imported. Of several workers
# each has a core to itself.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CAFT_LENS_PROGRESS"] = "0"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", str(_free_cores()))


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


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The folder of the embedded organism."""
    from caft_lens.text import catalog

    if "pocket" not in catalog.shipped():
        pytest.skip("the embedded organism is not built: make organism")
    return catalog.organism_path("pocket")


@pytest.fixture(scope="session")
def device() -> str:
    """The accelerator to try what is said of accelerators on."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    pytest.skip("no accelerator on this machine")
