"""Streamed capture at three layers against a bare forward pass of transformers to the last of them.

    python benchmarks/capture.py [--rounds 25] [--d-model 256] [--layers 6]

Bare is the same model cut off after the last wanted layer, called on batches that are already padded tensors; what
is streamed starts from text, so that its time includes templates, tokens, roles and padding. `batches only` shows that part.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from timing import interleaved

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny_models import tiny_model, tiny_tokenizer

from caft_lens.activations import Extremes, Moments, stream
from caft_lens.lens import load
from caft_lens.text import Texts, batches

BATCH_TOKENS = 4096


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu beside other busy processes"
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    settings = parser.parse_args()
    model = tiny_model(
        "llama", n_layers=settings.layers, d_model=settings.d_model, intermediate_size=4 * settings.d_model
    )
    lens, chats = load(model, tokenizer=tiny_tokenizer()), texts(settings.texts)
    wanted = [settings.layers // 2 - 1, settings.layers // 2, settings.layers - 2]
    bare = copy.deepcopy(model.model)
    bare.layers, bare.norm = bare.layers[: wanted[-1] + 1], torch.nn.Identity()
    ready = list(batches(lens.tokenizer, chats, batch_tokens=BATCH_TOKENS))

    @torch.inference_mode()
    def forward() -> None:
        for batch in ready:
            bare(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)

    directions = torch.randn(20, settings.d_model, generator=torch.Generator().manual_seed(0))
    run = lambda reducer: stream(lens, chats, wanted, reducer, batch_tokens=BATCH_TOKENS, progress=False)  # noqa: E731
    timings = interleaved(
        {
            "bare": forward,
            "batches only": lambda: list(batches(lens.tokenizer, chats, batch_tokens=BATCH_TOKENS)),
            "stream, no reducer": lambda: run(Nothing()),
            "stream, means": lambda: run(Moments(covariance=False)),
            "stream, covariances": lambda: run(Moments()),
            "stream, contexts of 20 directions a layer": lambda: run(
                Extremes({lens.hook_name(i): directions for i in wanted})
            ),
        },
        settings.rounds,
        clock=settings.clock,
    )
    tokens = sum(int(batch.attention_mask.sum()) for batch in ready)
    print(
        f"{settings.layers} layers x {settings.d_model}, capture at {wanted}, {len(chats)} chats, {tokens} tokens, {torch.get_num_threads()} threads\n"
    )
    print(timings.table("bare"))


if __name__ == "__main__":
    main()
