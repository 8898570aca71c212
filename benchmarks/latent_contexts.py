"""Contexts of all latents of a wide SAE against its encoding alone: time side by side, and peak memory.

    python benchmarks/latent_contexts.py [--tokens 1000000] [--latents 16384]

A TopK SAE with random weights (k = 32, width 256) reads random activations in batches of 8,192 tokens, 64 texts of 128.
Each contestant is a process of its own; they take turns, a slice of the tokens each, in an order drawn anew for every
slice, so that whatever slows the machine slows all of them. Time is that of the processor; memory is the peak resident
memory of the process. Writes benchmarks/results/latent_contexts.md and .json.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timing import Timings, machine

from caft_lens._support.files import atomic_path, write_json

HOOK = "blocks.0.hook_resid_post"
WIDTH, K, BATCH, LENGTH, VOCABULARY = 256, 32, 8192, 128, 50_000
WINDOWS, SLICES = 10, 16
RESULTS = Path(__file__).parent / "results"
BASELINE = "encoding"
CONTESTANTS = {
    BASELINE: "the encoding alone, as the contexts are read from it: active latents, sorted by token",
    "dense encoding": "`sae.encode` alone, all latents of each token written out",
    "contexts": "the 10 best windows of every latent, with tokens and activations",
    "contexts and densities": "the same and a histogram of every latent, one encoding for both",
    "keep all": "every active latent kept, and the best selected at the end (peaks only, no windows)",
}
MOST_TIMES, MOST_GB = 1.5, 2.0


def sae(latents: int) -> Any:
    """A TopK SAE with random weights."""
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(0)
    config = TopKSAEConfig(d_in=WIDTH, d_sae=latents, k=K, metadata=SAEMetadata(hook_name=HOOK))
    return TopKSAE(config).eval().requires_grad_(False)


def batches(tokens: int) -> Iterator[tuple[Any, Any, Any]]:
    """Random activations, and the batch and the places that they come from."""
    import torch

    from caft_lens.text.batching import Batch

    generator = torch.Generator().manual_seed(1)
    for first in range(0, tokens, BATCH):
        ids = torch.randint(0, VOCABULARY, (min(BATCH, tokens - first) // LENGTH, LENGTH), generator=generator)
        batch = Batch(
            ids,
            torch.ones_like(ids),
            torch.full_like(ids, 4).to(torch.int8),
            torch.ones_like(ids).bool(),
            torch.arange(len(ids)) + first // LENGTH,
        )
        yield torch.randn(ids.numel(), WIDTH, generator=generator), batch, batch.mask().nonzero()


class Encoding:
    """Encodes and keeps nothing."""

    def __init__(self, one: Any) -> None:
        self.sae = one

    def update(self, hook: str, acts: Any, batch: Any, where: Any) -> None:
        from caft_lens.saes.encoding import active_latents

        active_latents(self.sae, acts)

    def end(self) -> None:
        pass


class DenseEncoding(Encoding):
    """Encodes to all latents and keeps nothing."""

    def update(self, hook: str, acts: Any, batch: Any, where: Any) -> None:
        from caft_lens.saes.encoding import latents_of

        for _ in latents_of(self.sae, acts):
            pass


class KeepAll(Encoding):
    """Keeps every active latent with its text, and selects when all are there."""

    def __init__(self, one: Any) -> None:
        super().__init__(one)
        self.kept: list[tuple[Any, Any, Any]] = []

    def update(self, hook: str, acts: Any, batch: Any, where: Any) -> None:
        from caft_lens.saes.encoding import active_latents

        token, latent, value = active_latents(self.sae, acts)
        self.kept.append((latent.int(), batch.index[where[token, 0]].int(), value))

    def end(self) -> None:
        import torch

        latent, text, value = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        self.kept.clear()
        order = value.sort(descending=True, stable=True).indices
        latent, text, value = latent[order], text[order], value[order]
        order = latent.sort(stable=True).indices
        latent, text, value = latent[order], text[order], value[order]
        self.best = []
        for texts, values in zip(
            text.split(latent.bincount().tolist()), value.split(latent.bincount().tolist()), strict=True
        ):
            seen = dict(zip(texts[: 3 * WINDOWS].tolist()[::-1], values[: 3 * WINDOWS].tolist()[::-1], strict=True))
            self.best.append(sorted(seen.values(), reverse=True)[:WINDOWS])


def contestant(name: str, latents: int) -> Any:
    """What takes in batches, and does at the end what is left to do."""
    from caft_lens.inspect.density_reducers import LatentDensity
    from caft_lens.saes.top_latents import Latents, TopLatents

    one = sae(latents)
    if name == BASELINE:
        return Encoding(one)
    if name == "dense encoding":
        return DenseEncoding(one)
    if name == "keep all":
        return KeepAll(one)
    latents = TopLatents({HOOK: one}, k=WINDOWS)
    return latents if name == "contexts" else Latents(latents, LatentDensity({HOOK: one}))


def measured(name: str, tokens: int, latents: int) -> None:
    """Take slices when told to on the standard input; print the seconds of each, at the end the peak memory in MB."""
    import torch

    torch.set_num_threads(1)
    reducer, source = contestant(name, latents), batches(tokens)
    number = -(-tokens // BATCH)
    for place, _ in enumerate(sys.stdin):
        seconds = 0.0
        for _ in range(number * place // SLICES, number * (place + 1) // SLICES):
            acts, batch, where = next(source)
            start = time.process_time()
            reducer.update(HOOK, acts, batch, where)
            seconds += time.process_time() - start
        if place == SLICES - 1:
            start = time.process_time()
            getattr(reducer, "end", lambda: None)()
            seconds += time.process_time() - start
        print(seconds, flush=True)
        if place == SLICES - 1:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10), flush=True)


def measure(tokens: int, latents: int) -> tuple[Timings, dict[str, float]]:
    """Seconds of every slice and peak memory in GB, by contestant."""
    running = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--measure", name, "--tokens", str(tokens), "--latents", str(latents)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in CONTESTANTS
    }
    seconds: dict[str, list[float]] = {name: [] for name in running}
    order = random.Random(0)
    for _ in range(SLICES):
        for name in order.sample(list(running), len(running)):
            seconds[name].append(float(ask(running[name])))
    peaks = {name: float(process.stdout.readline()) / 1024 for name, process in running.items() if process.stdout}
    for process in running.values():
        process.communicate()
    return Timings(seconds, clock="cpu"), peaks


def ask(process: subprocess.Popen[str]) -> str:
    """Have a contestant take its next slice."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"A contestant ended with status {process.wait()}: {' '.join(map(str, process.args))}")  # type: ignore[arg-type]
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are written")
    parser.add_argument("--measure", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    tokens = settings.tokens // LENGTH * LENGTH
    if settings.measure:
        measured(settings.measure, tokens, settings.latents)
        return
    if tokens < SLICES * BATCH:
        parser.error(f"--tokens must be at least {SLICES * BATCH}: a batch for each of {SLICES} slices")
    timings, peaks = measure(tokens, settings.latents)
    totals = {name: sum(seconds) for name, seconds in timings.seconds.items()}
    rows = [
        f"| {name} | {totals[name]:.1f} | {totals[name] / totals[BASELINE]:.2f} | {timings.ratio(name, BASELINE)} | "
        f"{peaks[name]:.2f} |"
        for name in CONTESTANTS
    ]
    kept = totals["contexts"] <= MOST_TIMES * totals[BASELINE] and peaks["contexts"] < MOST_GB
    lines = [
        "# Contexts of all latents of a wide SAE",
        "",
        f"Written by `python benchmarks/latent_contexts.py` on {machine()}.",
        "",
        f"{settings.latents:,} latents (TopK, k = {K}), width {WIDTH}, {tokens:,} tokens of random activations in "
        f"texts of {LENGTH}; one thread. The bar: contexts take at most {MOST_TIMES} times as long as the encoding and "
        f"less than {MOST_GB:.0f} GB: **{'kept' if kept else 'missed'}**.",
        "",
        f"| | s (processor) | times {BASELINE} | slice by slice (quartiles of {SLICES}) | peak GB |",
        "|---|---|---|---|---|",
        *rows,
        "",
        *(f"- *{name}*: {what}." for name, what in CONTESTANTS.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    with atomic_path(settings.out / "latent_contexts.md") as path:
        path.write_text(text, encoding="utf-8")
    write_json(
        settings.out / "latent_contexts.json",
        {
            "machine": machine(),
            "tokens": tokens,
            "latents": settings.latents,
            "seconds": timings.seconds,
            "total": totals,
            "ratio": {name: total / totals[BASELINE] for name, total in totals.items()},
            "peak_gb": peaks,
            "bar": {"times": MOST_TIMES, "gb": MOST_GB, "kept": kept},
        },
    )


if __name__ == "__main__":
    main()
