"""Ratios of run times that survive a busy machine; run as a program, it names the machine.

`interleaved` runs every contestant once a round, in an order drawn anew for each, and compares inside a round: whatever
slows the machine down slows all of them, and none always runs behind the same other. Report medians of ratios with
their spread, never two times from two moments.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Literal


@dataclass(frozen=True)
class Ratio:
    """A ratio of run times: the median over rounds, and the quartiles as its spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Timings:
    """Seconds of every round, by contestant."""

    seconds: dict[str, list[float]]
    clock: str = "wall"

    def median(self, name: str) -> float:
        """Median seconds of a contestant."""
        return median(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> Ratio:
        """How many times as long as the baseline a contestant takes, compared round by round."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds[name], self.seconds[baseline], strict=True)]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return Ratio(median(ratios), low, high)

    def table(self, baseline: str) -> str:
        """A Markdown table: seconds, and ratio to the baseline with quartiles."""
        rounds = len(self.seconds[baseline])
        lines = [
            f"| {rounds} rounds, interleaved | median s ({self.clock}) | times {baseline} (quartiles) |",
            "|---|---|---|",
        ]
        lines += [f"| {name} | {self.median(name):.4f} | {self.ratio(name, baseline)} |" for name in self.seconds]
        return "\n".join(lines)

    def to_json(self, baseline: str) -> dict[str, Any]:
        """Medians and ratios as JSON values."""
        return {
            name: {"seconds": self.median(name), "ratio": vars(self.ratio(name, baseline))} for name in self.seconds
        }


def interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int = 9,
    warmup: int = 1,
    clock: Literal["wall", "cpu"] = "wall",
) -> Timings:
    """Time functions against each other.

    Args:
        contestants: Functions without arguments, by name.
        rounds: How often each is timed.
        warmup: How often each runs before that, untimed.
        clock: "wall", or "cpu" for the processor time of this process: steadier beside other busy processes, and the
            same thing for work on one thread.

    Example:
        >>> timings = interleaved({"sum": lambda: sum(range(10**5)), "half": lambda: sum(range(5 * 10**4))}, rounds=5)
        >>> print(timings.table("sum"))  # doctest: +SKIP
    """
    now = time.process_time if clock == "cpu" else time.perf_counter
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for number in range(-warmup, rounds):
        for name in order.sample(names, len(names)):
            _synchronize()
            start = now()
            contestants[name]()
            _synchronize()
            if number >= 0:
                seconds[name].append(now() - start)
    return Timings(seconds, clock)


def _synchronize() -> None:
    """Wait for the accelerator, so that its work is counted where it was asked for."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    """What the ratios were measured on: processor, cores in use, versions."""
    import os
    import platform
    from importlib.metadata import version

    import torch

    try:
        with open("/proc/cpuinfo") as lines:
            processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "scikit-learn"))
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, {versions}"
    )


def fast_products() -> str:
    """The precision of matrix products that is fast here, by a trial of half a second."""
    import torch

    seconds = {}
    for name in ("float32", "bfloat16"):
        x, w = torch.ones(2048, 576, dtype=getattr(torch, name)), torch.ones(1536, 576, dtype=getattr(torch, name))
        torch.nn.functional.linear(x, w)
        start = time.process_time()
        for _ in range(5):
            torch.nn.functional.linear(x, w)
        seconds[name] = time.process_time() - start
    return "bfloat16" if 2 * seconds["bfloat16"] < seconds["float32"] else "float32"


if __name__ == "__main__":
    print(f"# Speed, as ratios measured side by side\n\nWritten by `make bench` on {machine()}.")
