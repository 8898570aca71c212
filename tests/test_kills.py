"""Killed in the middle, what is made comes to the same when it is done again (`benchmarks/kills.py`: more often)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from kills import CASES, killed

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills by SIGKILL, in processes that are forked")


@pytest.mark.parametrize("name", CASES)
def test_what_is_killed_in_the_middle_comes_to_the_same_bit_for_bit(name: str):
    found = killed(name, kills=5)
    assert not found.wrong, str(found)
    assert found.kills == 5
