"""Peak memory of PCA and of contexts, for some texts and ten times as many.

    python benchmarks/memory.py [--texts 500]

Each measurement is a process of its own that generates its texts, runs the whole call and reports its peak resident
memory; a process that runs 10 texts shows what libraries and model take. The texts themselves (some 100 bytes each) are
given as a list, as a data set would be.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from caft_lens.text.batching import Scan

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

# Small batches, so that the first size already fills the window in which texts are sorted by length.
D_MODEL, LAYERS, BATCH_TOKENS = 128, 3, 2048


def measured(what: str, n: int) -> None:
    """Run one call on `n` texts and print the peak resident memory of this process in MB."""
    import numpy as np
    import torch
    from tiny_models import tiny_model, tiny_tokenizer

    import caft_lens as cl

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    say = lambda: "".join(rng.choice(list("abcdefgh "), rng.integers(30, 60)))  # noqa: E731
    texts = cl.Texts({"prompt": say(), "answer": say()} for _ in range(n))
    lenses = [
        cl.load(tiny_model("llama", seed, n_layers=LAYERS, d_model=D_MODEL), tokenizer=tiny_tokenizer())
        for seed in (0, 1)
    ]
    if what == "pca":
        diff = cl.activation_difference(*lenses, texts, layers=[0, 1], scan=Scan(BATCH_TOKENS))
        cl.find.pca(diff, k=10)
    else:
        acts = torch.randn(10, D_MODEL, generator=torch.Generator().manual_seed(0))
        concepts = cl.ConceptSet(
            [cl.Concept(f"L1.random{i}", lenses[0].hook_name(1), acts[i], source="random", rank=i) for i in range(10)],
            {
                "model": lenses[0].name,
                "fingerprint": lenses[0].fingerprint,
                "d_model": D_MODEL,
                "method": "random",
            },
        )
        cl.contexts(lenses[0], concepts, texts, k=20, scan=Scan(BATCH_TOKENS))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--measure", choices=["pca", "contexts"], help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:
        measured(settings.measure, settings.texts)
        return
    sizes = (10, settings.texts, 10 * settings.texts)
    print(f"| peak resident MB | {' | '.join(f'{n} texts' for n in sizes)} | 10x / 1x |\n|---|---|---|---|---|")
    for what in ("pca", "contexts"):
        peaks = []
        for n in sizes:
            command = [sys.executable, __file__, "--measure", what, "--texts", str(n)]
            peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]))
        print(
            f"| {what} | {' | '.join(f'{peak:.0f}' for peak in peaks)} | {peaks[2] / peaks[1]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
