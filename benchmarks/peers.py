"""What rows about peers share: whether a peer is installed, peak memory of a process of its own, one table of both."""

from __future__ import annotations

import importlib.util
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from timing import Timings

INSTALL = 'pip install -c constraints.txt -e ".[bench]"'
"""Installs every peer, in the versions that these benchmarks were written with."""


class NotEqual(SystemExit):
    """Contestants do not do the same work, so that their times say nothing."""


def named(peer: str, package: str) -> str:
    """What a peer's row is called, its version with it where it is installed."""
    return f"{peer} ({package} {version(package)})" if here(package) else f"{peer} ({package})"


def here(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def peak() -> float:
    """Peak memory of this process so far in MB: of the accelerator where one is used, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def peak_of(script: str | Path, contestant: str, arguments: Sequence[str]) -> float:
    """Peak memory in MB of a process of its own, which runs one contestant of a script: `--measure CONTESTANT`."""
    command = [sys.executable, str(script), *arguments, "--measure", contestant]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contestant}, in a process of its own, ended with {done.returncode}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def table(
    timings: Timings, baseline: str, peaks: Mapping[str, float], missing: Iterable[str] = (), what: str = "median s"
) -> str:
    """A Markdown table: seconds, ratio to the baseline with quartiles, peak memory; a row for each missing peer.

    Args:
        timings: Of those that ran.
        baseline: One of them.
        peaks: MB of those that ran, and of whatever else was measured (a model that is only loaded).
        missing: Names of peers that are not installed.
        what: What the seconds are.
    """
    rounds = len(timings.seconds[baseline])
    lines = [
        f"| {rounds} rounds, interleaved | {what} ({timings.clock}) | times {baseline} (quartiles) | peak MB |",
        "|---|---|---|---|",
    ]
    for name in timings.seconds:
        ratio = timings.ratio(name, baseline)
        lines.append(f"| {name} | {timings.median(name):.4f} | {ratio} | {peaks[name]:.0f} |")
    lines += [f"| {name} | | | {most:.0f} |" for name, most in peaks.items() if name not in timings.seconds]
    lines += [f"| {name} | not installed: `{INSTALL}` | | |" for name in missing]
    return "\n".join(lines)
