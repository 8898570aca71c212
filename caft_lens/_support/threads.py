"""How many threads torch computes with: as many as cores are free, unless somebody said how many.

Two threads beside another busy process are several times slower than one. `load` asks once, before the first CPU model.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

SAID_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which one says how many threads to use."""
_asked = False
_at_first = torch.get_num_threads()


def use_free_cores() -> int:
    """Let torch use the cores that are free now, and tell how many threads it has; looked at once in a process.

    Left alone are a number from the environment (`OMP_NUM_THREADS`) and one that `torch.set_num_threads` set.
    """
    global _asked
    if not _asked:
        _asked = True
        said = any(os.environ.get(name) for name in SAID_BY)
        if not said and torch.get_num_threads() == _at_first == _by_default():
            torch.set_num_threads(min(_at_first, free_cores()))
    return torch.get_num_threads()


def free_cores() -> int:
    """How many of the cores that this process may use are mostly idle, watched for a moment; at least one."""
    import psutil

    busy = psutil.cpu_percent(0.2, percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    free = sum(busy[core] < 50 for core in mine if core < len(busy))
    return max(1, min(free, _quota() or free))


def _by_default() -> int:
    """How many threads torch starts with by itself: one for each physical core, or each that the process may use."""
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    known = {usable, psutil.cpu_count(logical=False) or usable, min(usable, psutil.cpu_count(logical=False) or usable)}
    return _at_first if _at_first in known else -1


def _quota() -> int | None:
    """Cores' worth of time that a container may use; `None` where nothing limits it."""
    try:
        allowed, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if allowed == "max" else max(1, int(allowed) // int(period))
    except (OSError, ValueError):
        return None
