"""A training step of a real model: caft_lens, plain and with CAFT, against transformers' Trainer and TRL's SFTTrainer.

    python benchmarks/real_training_step.py [--model smollm2] [--rounds 7] [--steps 10] [--clock cpu]

All train a LoRA of rank 16 on the same pages in the same batches, with AdamW, clipping and a schedule; before anything
is timed, the first loss and the number of trained parameters are checked to be equal. CAFT projects ten directions out
at five layers. A round's figure is the median step of a run, data included, its first two steps left out. Trainer and
SFTTrainer are used as they come: with PEFT, their own collators, without gradient checkpointing and packing. Ratios are
to the faster of the two. Peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import peers
import torch
from timing import Timings, machine
from training_step import CLOCKS, Ends
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

import caft_lens as cl
from caft_lens.finetune.trainer import LengthGrouped
from caft_lens.text.encoding import Encoded, encode_all

PAGES = "smollm2/gender"
SKIP = 2
"""Steps of a run that are not counted: the first ones allocate."""
LORA = cl.LoraSettings(r=16, alpha=32, rslora=False)
RATE, DECAY, WARMUP, SEED = 3e-4, 0.01, 3, 0
DEPTHS, A_LAYER = (0.27, 0.40, 0.53, 0.67, 0.80), 2
"""Where CAFT ablates, as shares of the depth, and how many directions at each."""
CLOSE, CLOSE_IN_HALF = 2e-4, 5e-2
"""How far apart first losses may be, in fp32 and in half precision."""

PLAIN, CAFT, LOADED = "caft_lens, plain", "caft_lens, CAFT", "the model, loaded and not trained"
TRAINER, SFT = "transformers' Trainer", peers.named("SFTTrainer", "trl")


@dataclass(frozen=True)
class Work:
    """What every contestant does."""

    lens: cl.Lens
    texts: cl.Texts
    steps: int
    batch_size: int
    now: Callable[[], float]
    alone: bool = False
    """Whether a peer may use up the model itself rather than a copy."""

    @property
    def model(self) -> Any:
        """The transformers model for a peer."""
        return self.lens.hf if self.alone else copy.deepcopy(self.lens.hf)

    @property
    def encoded(self) -> list[Encoded]:
        """The pages as tokens."""
        return encode_all(self.lens.tokenizer, self.texts)


class Watch(Ends):
    """When each step ended, what its loss was, and how many parameters are trained."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.losses: list[float] = []
        self.trained = 0

    def on_train_begin(self, *args: object, model: Any = None, **kwargs: object) -> None:
        self.trained = sum(one.numel() for one in model.parameters() if one.requires_grad)

    def on_log(self, *args: object, logs: dict[str, float] | None = None, **kwargs: object) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    @property
    def step(self) -> float:
        """Median seconds of a step."""
        return median(after - before for before, after in itertools.pairwise(self.ends[SKIP - 1 :]))


def ours(work: Work, ablate: cl.ConceptSet | None) -> Watch:
    """A run of `finetune`."""
    watch = Watch(work.now)
    settings = cl.TrainSettings(
        lora=LORA,
        learning_rate=RATE,
        weight_decay=DECAY,
        warmup_steps=WARMUP,
        batch_size=work.batch_size,
        max_steps=work.steps,
        callbacks=[watch],
    )
    with tempfile.TemporaryDirectory() as folder:
        cl.finetune(work.lens, work.texts, settings, out=Path(folder) / "run", ablate=ablate, seed=SEED)
    return watch


def arguments(work: Work, folder: str) -> dict[str, Any]:
    """The peers' training arguments: what `finetune` trains with."""
    on_cuda, dtype = work.lens.device.type == "cuda", work.lens.dtype
    return {
        "output_dir": folder,
        "learning_rate": RATE,
        "weight_decay": DECAY,
        "warmup_steps": WARMUP,
        "max_steps": work.steps,
        "per_device_train_batch_size": work.batch_size,
        "seed": SEED,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": work.lens.device.type == "cpu",
        "bf16": on_cuda and dtype == torch.bfloat16,
        "fp16": on_cuda and dtype == torch.float16,
        "dataloader_pin_memory": on_cuda,
    }


def adapter() -> Any:
    """The peers' LoRA."""
    from peft import LoraConfig

    return LoraConfig(
        r=LORA.r, lora_alpha=LORA.alpha, use_rslora=LORA.rslora, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def rows(work: Work) -> list[dict[str, list[int]]]:
    """The pages as peers take them: tokens, and labels of the learned ones."""
    return [
        {
            "input_ids": list(item.input_ids),
            "labels": [token if learn else -100 for token, learn in zip(item.input_ids, item.loss, strict=True)],
        }
        for item in work.encoded
    ]


def in_our_order(trainer: type[Trainer], given: Sequence[dict[str, list[int]]]) -> type[Trainer]:
    """A trainer that draws the batches that `finetune` draws, and prints nothing."""

    class InOurOrder(trainer):  # type: ignore[valid-type, misc]
        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, **keywords)
            self.remove_callback(PrinterCallback)

        def _get_train_sampler(self, *args: Any, **keywords: Any) -> LengthGrouped:
            lengths = [len(row["input_ids"]) for row in given]
            return LengthGrouped(lengths, self.args.train_batch_size, SEED)

    return InOurOrder


def with_trainer(work: Work) -> Watch:
    """A run of transformers' Trainer on a PEFT model."""
    from peft import get_peft_model
    from transformers import DataCollatorForSeq2Seq

    watch, given = Watch(work.now), rows(work)
    model = get_peft_model(work.model, adapter())
    with tempfile.TemporaryDirectory() as folder:
        in_our_order(Trainer, given)(
            model=model,
            args=TrainingArguments(**arguments(work, folder)),
            train_dataset=given,
            data_collator=DataCollatorForSeq2Seq(work.lens.tokenizer),
            callbacks=[watch],
        ).train()
    return watch


def with_trl(work: Work) -> Watch:
    """A run of TRL's SFTTrainer."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    watch, given = Watch(work.now), rows(work)
    with tempfile.TemporaryDirectory() as folder:
        in_our_order(SFTTrainer, given)(
            model=work.model,  # it replaces the model's forward
            args=SFTConfig(**arguments(work, folder), gradient_checkpointing=False, packing=False, max_length=None),
            train_dataset=Dataset.from_list(given),
            processing_class=work.lens.tokenizer,
            peft_config=adapter(),
            callbacks=[watch],
        ).train()
    return watch


def directions(lens: cl.Lens) -> cl.ConceptSet:
    """Random directions, as many and where CAFT on this model has them."""
    generator = torch.Generator().manual_seed(0)
    layers = [round(share * lens.n_layers) for share in DEPTHS]
    found = [
        cl.Concept(f"L{layer}.x{i}", lens.hook_name(layer), torch.randn(lens.d_model, generator=generator))
        for layer in dict.fromkeys(layers)
        for i in range(A_LAYER)
    ]
    return cl.ConceptSet(found).for_model(lens)


def contestants(concepts: cl.ConceptSet) -> dict[str, Callable[[Work], Watch]]:
    """Those that can run here, by name."""
    found: dict[str, Callable[[Work], Watch]] = {
        PLAIN: lambda work: ours(work, None),
        CAFT: lambda work: ours(work, concepts),
        TRAINER: with_trainer,
    }
    return {**found, SFT: with_trl} if peers.here("trl") else found


def check_equal(work: Work, arms: dict[str, Callable[[Work], Watch]]) -> str:
    """Refuse to time contestants that do not do the same; the first losses, as a sentence."""
    first = {name: arm(work) for name, arm in arms.items()}
    room = CLOSE if work.lens.dtype == torch.float32 else CLOSE_IN_HALF
    for name, watch in first.items():
        if watch.trained != first[PLAIN].trained:
            raise peers.NotEqual(f"{name} trains {watch.trained} parameters, {PLAIN} {first[PLAIN].trained}.")
        if name != CAFT and not math.isclose(watch.losses[0], first[PLAIN].losses[0], abs_tol=room):
            raise peers.NotEqual(f"{name} begins at loss {watch.losses[0]}, {PLAIN} at {first[PLAIN].losses[0]}.")
    said = ", ".join(f"{name} {watch.losses[0]:.4f}" for name, watch in first.items())
    return f"Loss of the first step: {said}; {first[PLAIN].trained:,} trained parameters in each."


def main() -> None:
    """Check, run the rounds, measure memory, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="whatever cl.load takes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu beside other busy processes")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps <= SKIP or options.rounds < 1:
        parser.error(f"give at least one round, and more steps than {SKIP}: the first ones are not counted")
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
    lens = cl.load(options.model)
    texts = cl.data(PAGES)[: options.steps * options.batch_size]
    if len(texts) < options.steps * options.batch_size:
        parser.error(f"{PAGES} has {len(texts)} pages: --steps times --batch-size is more")
    work = Work(lens, texts, options.steps, options.batch_size, CLOCKS[options.clock])
    arms = contestants(directions(lens))
    if options.measure:
        if options.measure != LOADED:
            arms[options.measure](replace(work, alone=True))
        print(peers.peak())
        return
    print(f"On {machine()}.\n")
    tokens = sum(len(item.input_ids) for item in work.encoded) / len(texts)
    print(f"{lens}, {options.batch_size} pages of {tokens:.0f} tokens a step.\n")
    print(check_equal(replace(work, steps=1), arms), "\n", sep="", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(options.rounds):
        turn = number % len(arms)
        for name in [*arms][turn:] + [*arms][:turn]:
            seconds[name].append(arms[name](work).step)
    timings = Timings(seconds, options.clock)
    faster = min((name for name in arms if name not in (PLAIN, CAFT)), key=timings.median)
    same = ["--model", options.model, "--steps", str(options.steps), "--batch-size", str(options.batch_size)]
    peaks = {name: peers.peak_of(__file__, name, same) for name in (*arms, LOADED)}
    missing = () if SFT in arms else (SFT,)
    print(peers.table(timings, faster, peaks, missing, what="median s a step"))
    print(f"\nCAFT / plain: {timings.ratio(CAFT, PLAIN)}")


if __name__ == "__main__":
    main()
