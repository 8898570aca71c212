"""How long `import caft_lens` takes, beside the libraries that stand behind it.

    python benchmarks/import_time.py [--rounds 5]

Seconds of a fresh interpreter above one that imports nothing, interleaved; where that is near nothing, noise can make
it negative.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median

from timing import interleaved

IMPORTS = {
    "nothing": "pass",
    "caft_lens": "import caft_lens",
    "torch": "import torch",
    "transformer_lens": "import transformer_lens",
}


def main() -> None:
    """Run the rounds and print seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    def starter(code: str):
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    timings = interleaved({name: starter(code) for name, code in IMPORTS.items()}, rounds)
    for name in list(IMPORTS)[1:]:
        extra = [mine - bare for mine, bare in zip(timings.seconds[name], timings.seconds["nothing"], strict=True)]
        print(f"- import {name}: {median(extra):.3f} s ({min(extra):.3f} to {max(extra):.3f}, {rounds} rounds)")


if __name__ == "__main__":
    main()
