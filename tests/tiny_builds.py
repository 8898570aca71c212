"""Builds of minute organisms in processes of their own, which can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SIZE = """
from caft_data.worlds.pretrain import PretrainSettings
from caft_data.worlds.saes import SaeSettings
size = PretrainSettings(d_model=16, n_layers=2, n_heads=2, d_mlp=32, vocab_size=400, block_length=32, batch_size=2,
                        steps=24, warmup_steps=2, compile=False)
saes = SaeSettings(d_sae=24, k=4, tokens=4096, batch_size=128, buffer_tokens=1024, warmup_steps=2, held_out=6)
"""


def start(program: str, folder: Path) -> subprocess.Popen:
    """Run a program that builds an organism of `size`, with `saes`, in `{out}`, working in `{work}`."""
    program = SIZE + program.format(out=str(folder / "organism"), work=str(folder / "work"))
    return subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})


def build(program: str, folder: Path, killed_at: tuple[str, ...] = ()) -> Path:
    """The organism that a program builds when it is killed at first sight of each of these files and started again."""
    for sign in killed_at:
        process = start(program, folder)
        while process.poll() is None and not list(folder.glob(sign)):
            time.sleep(0.01)
        assert process.poll() is None, f"the build ended before {sign} was seen"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(program, folder).wait() == 0
    return folder / "organism"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the organism but the cards, which hold seconds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in ("organism.json", "README.md", "card.json")
    }


def differing(first: Path, second: Path) -> list[str]:
    """Files of two organisms that only one has, or that are not the same byte by byte."""
    a, b = contents(first), contents(second)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
