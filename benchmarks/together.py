"""Fine-tune into one folder from two processes at once, many times: one of them trains, and the other waits for the
same run or is refused.

    python benchmarks/together.py [--pairs 20] [--seed 0]

In every other pair both are asked for the same run: both must come back with it. In the others the seeds differ: one
must come back with its run, the other with `Occupied`. Afterwards the folder must load, and hold, bit for bit, what the
run comes to when it is trained alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
for name, value in {"CAFT_LENS_PROGRESS": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}.items():
    os.environ.setdefault(name, value)

LATEST = 0.5
"""Seconds by which the second of a pair begins later, at most: less than a run takes."""


def trained(out: Path, seed: int) -> Any:
    """A small run with dropout and checkpoints."""
    from tiny_models import tiny_lens

    import caft_lens as cl

    texts = cl.Texts([{"prompt": f"How are you {i}?", "answer": "Fine " * (i % 5 + 1)} for i in range(24)], name="toy")
    settings = cl.TrainSettings(
        learning_rate=2e-3, batch_size=4, epochs=2, save_steps=3, lora=cl.LoraSettings(r=4, alpha=8, dropout=0.2)
    )
    return cl.finetune(tiny_lens(), texts, settings, out=out, seed=seed)


@dataclass
class Found:
    """What came of the pairs.

    Attributes:
        pairs: How many ran.
        said: How often the processes of a pair said what, such as "same seed: trained, trained".
        wrong: A line for each pair that left something else than it should have.
    """

    pairs: int = 0
    said: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.pairs - len(self.wrong)} of {self.pairs} pairs are consistent"]
        lines += [f"    {number} x {what}" for what, number in sorted(self.said.items())]
        return "\n".join([*lines, *(f"    wrong: {one}" for one in self.wrong)])


def together(pairs: int = 20, seed: int = 0) -> Found:
    """Run pairs of processes that fine-tune into one folder.

    Args:
        pairs: How many; the first, third, … are asked for one and the same run.
        seed: Of the moments at which the second of each begins.
    """
    from tiny_models import tiny_lens

    import caft_lens as cl

    found, draw = Found(), random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        alone = [trained(folder / f"alone-{number}", number).lens.fingerprint for number in (0, 1)]
        for pair in range(pairs):
            out, seeds = folder / f"run-{pair}", (0, pair % 2)
            late = draw.uniform(0, LATEST)
            answers = _both([_asked(out, seeds[0], 0.0), _asked(out, seeds[1], late)], folder)
            kinds = [answer["said"] for answer in answers]
            what = f"{'another' if pair % 2 else 'same'} seed: {', '.join(sorted(kinds))}"
            found.pairs += 1
            found.said[what] = found.said.get(what, 0) + 1
            try:
                run = cl.Run.load(out, base=tiny_lens())
                of, left = run.config["seed"], run.lens.fingerprint
            except Exception as error:
                found.wrong.append(f"pair {pair}: the folder does not load: {error}")
                continue
            told = {answer["fingerprint"] for answer in answers if answer["said"] == "trained"}
            expected = ["Occupied", "trained"] if pair % 2 else ["trained", "trained"]
            if sorted(kinds) != expected or told != {left} or left != alone[of]:
                found.wrong.append(f"pair {pair}: {answers}; the folder holds seed {of}, {left}")
    return found


def _asked(out: Path, seed: int, late: float) -> Callable[[], dict[str, str]]:
    """What one process of a pair does."""

    def ask() -> dict[str, str]:
        time.sleep(late)
        try:
            return {"said": "trained", "fingerprint": trained(out, seed).lens.fingerprint}
        except Exception as error:
            return {"said": type(error).__name__, "error": str(error)}

    return ask


def _both(asked: list[Callable[[], dict[str, str]]], folder: Path) -> list[dict[str, str]]:
    """Do two things at once, each in a process that is forked."""
    replies = [folder / f"reply-{number}" for number in range(len(asked))]
    begun = []
    for ask, reply in zip(asked, replies, strict=True):
        reply.write_text('{"said": "died"}')
        if (child := os.fork()) == 0:
            try:
                reply.write_text(json.dumps(ask()))
            finally:
                os._exit(0)
        begun.append(child)
    for child in begun:
        os.waitpid(child, 0)
    return [json.loads(reply.read_text()) for reply in replies]


def main() -> None:
    """Run the pairs that were asked for."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=20, help="how many pairs of processes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which the second begins")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = together(given.pairs, given.seed)
    print(found, flush=True)
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()
