"""Streamed capture at three layers against a bare forward pass of transformers to the last of them.

    python benchmarks/capture.py [--rounds 24]

Bare is the same model cut off after the last wanted layer, called on batches that are already padded tensors; what
is streamed starts from text, so that its time includes templates, tokens, roles and padding. `batches only` shows that
part, which runs on one core. Two sizes: a model as small as those that the project is taught on, and one as wide as
GPT-2 small.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from timing import interleaved

from caft_lens.text.batching import Scan

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny_models import tiny_model, tiny_tokenizer

from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.activations.top_windows import TopWindows
from caft_lens.model.lens import load
from caft_lens.text.batching import batches
from caft_lens.text.documents import Texts

BATCH_TOKENS = 4096
SIZES = ((256, 6, 100), (768, 12, 25))
"""d_model, layers, and how many chats are read."""


class Nothing:
    """A reducer that keeps nothing."""

    def update(self, hook, acts, batch, where) -> None:
        pass

    def merge(self, other):
        return self


def texts(n: int, length: int = 120) -> Texts:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz      "))
    say = lambda low, high: "".join(rng.choice(letters, rng.integers(low, high)))  # noqa: E731
    return Texts([{"prompt": say(10, 40), "answer": say(length // 2, length)} for _ in range(n)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu beside other busy processes")
    parser.add_argument("--rounds", type=int, default=24)
    settings = parser.parse_args()
    for number, size in enumerate(SIZES):
        print("\n" * (number > 0) + measured(*size, rounds=settings.rounds // (number + 1), clock=settings.clock))


def measured(d_model: int, n_layers: int, n_texts: int, *, rounds: int, clock: str) -> str:
    """The table of one size of model."""
    model = tiny_model("llama", n_layers=n_layers, d_model=d_model, intermediate_size=4 * d_model)
    lens, chats = load(model, tokenizer=tiny_tokenizer()), texts(n_texts)
    wanted = [n_layers // 2 - 1, n_layers // 2, n_layers - 2]
    bare = copy.deepcopy(model.model)
    bare.layers, bare.norm = bare.layers[: wanted[-1] + 1], torch.nn.Identity()
    ready = list(batches(lens.tokenizer, chats, scan=Scan(BATCH_TOKENS)))

    @torch.inference_mode()
    def forward() -> None:
        for batch in ready:
            bare(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)

    directions = torch.randn(20, d_model, generator=torch.Generator().manual_seed(0))
    run = lambda reducer: stream(lens, chats, wanted, reducer, scan=Scan(BATCH_TOKENS))  # noqa: E731
    timings = interleaved(
        {
            "bare": forward,
            "batches only": lambda: list(batches(lens.tokenizer, chats, scan=Scan(BATCH_TOKENS))),
            "stream, no reducer": lambda: run(Nothing()),
            "stream, means": lambda: run(Moments(covariance=False)),
            "stream, covariances": lambda: run(Moments()),
            "stream, contexts of 20 directions a layer": lambda: run(
                TopWindows({lens.hook_name(i): directions for i in wanted})
            ),
        },
        rounds,
        clock=clock,
    )
    tokens = sum(int(batch.attention_mask.sum()) for batch in ready)
    return (
        f"{n_layers} layers x {d_model}, capture at {wanted}, {len(chats)} chats, {tokens} tokens, "
        f"{torch.get_num_threads()} threads\n\n{timings.table('bare')}"
    )


if __name__ == "__main__":
    main()
