"""A CAFT training step against a plain one, and the trainer against a bare loop, on a model of the organism's size.

    python benchmarks/training_step.py [--rounds 21] [--steps 30] [--clock cpu]

All three do the same work: LoRA of rank 32 on a Llama of 4 layers x 128, 32 chats of about 60 tokens a step, AdamW,
clipping, a schedule. CAFT projects 4 directions out at each of 2 layers. A round's figure is its median step, data
included.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from timing import Timings
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny_models import tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens.finetune.trainer import Collator, LengthGrouped
from caft_lens.text.encoding import encode_all

BATCH, SKIP = 32, 5
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


class Ends(TrainerCallback):
    """When each step ended."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.ends = now, []

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(self.now())


def step(ends: list[float]) -> float:
    """Median seconds of a step, the first ones left out."""
    return median(after - before for before, after in itertools.pairwise(ends[SKIP:]))


def trainer(
    lens: cl.Lens, texts: cl.Texts, steps: int, now: Callable[[], float], ablate: cl.ConceptSet | None
) -> float:
    """Seconds a step of `finetune`."""
    ends = Ends(now)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        cl.finetune(
            lens,
            texts,
            cl.TrainSettings(learning_rate=1e-3, batch_size=BATCH, max_steps=steps, callbacks=[ends]),
            out=out,
            ablate=ablate,
        )
    return step(ends.ends)


def bare_loop(lens: cl.Lens, texts: cl.Texts, steps: int, now: Callable[[], float]) -> float:
    """Seconds a step of a loop in plain torch and PEFT."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=32, lora_alpha=64, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model = get_peft_model(lens.fork().model, settings).train()
    encoded, collate = encode_all(lens.tokenizer, texts), Collator(0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: 1 - number / steps)
    ends = []
    for rows in itertools.islice(rows_of([len(item.input_ids) for item in encoded]), steps):
        batch = collate([encoded[row] for row in rows])
        batch.pop("roles")
        loss = model(**{name: value.to(lens.device) for name, value in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss.item()
        ends.append(now())
    return step(ends)


def rows_of(lengths: list[int]) -> Iterator[list[int]]:
    """Batches in the trainer's order, pass after pass."""
    sampler = LengthGrouped(lengths, BATCH, seed=0)
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        order = list(sampler)
        yield from (order[start : start + BATCH] for start in range(0, len(order), BATCH))


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu", help="cpu is steadier beside other busy processes")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    now = CLOCKS[options.clock]
    model = tiny_model("llama", n_layers=4, d_model=128, intermediate_size=384, vocab_size=2048, initializer_range=0.02)
    lens = cl.load(model.to(options.device), tokenizer=tiny_tokenizer(), name_as="small")
    words = [{"prompt": f"Question {i:04d}?", "answer": "word " * (6 + i % 6)} for i in range(BATCH * 20)]
    texts = cl.Texts(words)
    found = [
        cl.Concept(f"L{n}.x{i}", f"blocks.{n}.hook_resid_post", torch.randn(128)) for n in (1, 2) for i in range(4)
    ]
    concepts = cl.ConceptSet(found).for_model(lens)
    arms: dict[str, Callable[[], float]] = {
        "plain": lambda: trainer(lens, texts, options.steps, now, None),
        "caft": lambda: trainer(lens, texts, options.steps, now, concepts),
        "bare loop": lambda: bare_loop(lens, texts, options.steps, now),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-1, options.rounds):
        names = list(arms)[number % 3 :] + list(arms)[: number % 3]
        for name in names:
            taken = arms[name]()
            if number >= 0:
                seconds[name].append(taken)
    tokens = sum(len(item.input_ids) for item in encode_all(lens.tokenizer, texts)) / len(texts)
    print(f"{lens}, {BATCH} chats of {tokens:.0f} tokens a step, {torch.get_num_threads()} threads\n")
    print(Timings(seconds, options.clock).table("plain"))
    print(f"\nplain / bare loop: {Timings(seconds).ratio('plain', 'bare loop')}")


if __name__ == "__main__":
    main()
