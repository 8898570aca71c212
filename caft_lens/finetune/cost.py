"""What training costs: seconds, and the most memory that was held at once.

On CUDA that of torch's allocator; elsewhere the resident set of the whole process, looked at twenty times a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch

from caft_lens._support.blocks import block

INTERVAL = 0.05
"""Seconds between two looks at the resident set."""


@dataclass
class Cost:
    """Seconds of wall time, and bytes at most, of a block of work; filled in when it ends."""

    seconds: float = 0.0
    peak_memory: int = 0


@block
def measured(device: torch.device) -> Iterator[Cost]:
    """Measure what a block of work on a device costs.

    Example:
        >>> with measured(torch.device("cpu")) as cost:
        ...     _ = sum(range(1000))
        >>> cost.seconds > 0 and cost.peak_memory > 0
        True
    """
    cost, done = Cost(), threading.Event()
    process, on_cuda = psutil.Process(), device.type == "cuda"

    def watch() -> None:
        while True:
            cost.peak_memory = max(cost.peak_memory, process.memory_info().rss)
            if done.wait(INTERVAL):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        watcher.start()
    started = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        done.set()
        if on_cuda:
            cost.peak_memory = torch.cuda.max_memory_allocated(device)
        else:
            watcher.join()
