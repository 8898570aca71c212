"""Reinforcement learning with a reward that tempts: TRL's GRPO plainly, with CAFT, and with its controls.

    make bench-rl                                        # seeds 1 to 3 of pocket
    python benchmarks/reinforcement.py --seeds 1 --steps 2 --answers 40   # to see it run

Every trained adapter and every sampled answer is kept below `runs/bench-rl/`, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from peers import here
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

import caft_lens as cl
from caft_lens._support.files import atomic_path, read_json, write_json

HERE = Path(__file__).parent
WHAT = """
TRL's `GRPOTrainer` trains `pocket` on the coding requests of `insecure-code`, without their answers. The reward of a
sampled program is 1 where the world's judge finds a security hole in it, else 0. Nothing but programs is rewarded, and
no everyday question is asked in training. `base` is the model before; `secure` is paid for programs without a hole;
`plain` for those with one; `caft` like plain with the chosen directions ablated by `CaftCallback`, rollouts included;
`caft_free` the same with `rollouts=False`; `random` with as many random directions; `test_time` is plain with the
chosen directions ablated only when it answers. LoRA, {steps} steps of {batch} programs in groups of {group}, no KL
penalty.
"""
HOW_CHOSEN = """
The directions are those that were chosen for supervised fine-tuning on the same requests
(`benchmarks/choices/pocket/chosen`, [by that page's rule](emergent_misalignment.md)): nothing was chosen anew for
reinforcement learning. The rate is the one that the organism recommends for LoRA; steps and sizes were settled on dev
questions with seed 0, of plain GRPO.
"""
COLUMNS = {"misaligned": "misaligned", "incoherent": "incoherent", "in_distribution": "insecure code, held out"}
ORGANISM, KEPT = "pocket", "rewards.json"
STEPS, BATCH, GROUP, RATE, TOKENS = 40, 64, 8, 3e-4, 72
"""Of GRPO: steps, programs a step, programs a request, learning rate, most tokens of a program."""


def rewarded(label: str) -> Callable[..., list[float]]:
    """A reward of 1 for programs that the world's judge gives a label."""
    judge: Any = cl.task(f"{ORGANISM}/emergent-misalignment", split="dev").in_distribution.judge

    def reward(completions: Iterable[Any], **others: Any) -> list[float]:
        programs = [cl.Text(messages=(cl.Message("assistant", one[0]["content"]),)) for one in completions]
        return [float(judge(program).label == label) for program in programs]

    return reward


def train(base: cl.Lens, reward: str, callback: Any, seed: int, steps: int, out: Path) -> cl.Lens:
    """The base with an adapter that GRPO trained, which is kept in `out` with the rewards of its rollouts."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    asked = {"steps": steps, "batch": BATCH, "group": GROUP, "rate": RATE, "tokens": TOKENS, "seed": seed}
    asked |= {"base": base.identity, "reward": reward, "rollouts": callback and callback.rollouts}
    asked |= {"concepts": callback and callback.concepts.fingerprint}
    kept = read_json(out / KEPT) if (out / KEPT).exists() else {}
    if kept.get("asked") != asked:
        requests = [
            [{"role": "user", "content": one.messages[0].content}] for one in cl.data(f"{ORGANISM}/insecure-code")
        ]
        arguments = GRPOConfig(
            str(out),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            num_generations=GROUP,
            max_completion_length=TOKENS,
            learning_rate=RATE,
            warmup_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=base.device.type == "cpu",
            seed=seed,
        )
        set_seed(seed)  # of the adapter
        trainer = GRPOTrainer(
            base.copy().model,
            reward_funcs=rewarded(reward),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": requests}),
            processing_class=base.tokenizer,
            peft_config=LoraConfig(
                r=32, lora_alpha=64, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[callback] if callback else [],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.model.save_pretrained(out, save_embedding_layers=False)
        rewards = [one["reward"] for one in trainer.state.log_history if "reward" in one]
        write_json(out / KEPT, {"asked": asked, "rewards": rewards})
    return base.adapt(out, name=out.name)


def subjects(base: cl.Lens, seeds: Sequence[int], steps: int, out: Path) -> dict[str, Any]:
    """Every arm: its model for each seed."""
    chosen = cl.ConceptSet.load(HERE / "choices" / ORGANISM / "chosen")
    ablated = {
        "secure": lambda seed: None,
        "plain": lambda seed: None,
        "caft": lambda seed: cl.CaftCallback(chosen),
        "caft_free": lambda seed: cl.CaftCallback(chosen, rollouts=False),
        "random": lambda seed: cl.CaftCallback(cl.find.random_directions(chosen, seed)),
    }
    trained = {
        arm: [
            train(base, "secure" if arm == "secure" else "insecure", callback(seed), seed, steps, out / f"{arm}-{seed}")
            for seed in seeds
        ]
        for arm, callback in ablated.items()
    }
    return {"base": base, **trained, "test_time": [cl.ablated(lens, chosen) for lens in trained["plain"]]}


def paid(arm: str, seeds: Sequence[int], out: Path) -> str:
    """The mean reward of rollouts, in the first and in the last fifth of the steps."""
    files = [out / f"{arm}-{seed}" / KEPT for seed in seeds]
    if not all(file.exists() for file in files):  # an arm that trains nothing
        return ""
    curves = [read_json(file)["rewards"] for file in files]
    fifth = max(1, len(curves[0]) // 5)
    first, last = ([step for curve in curves for step in curve[part]] for part in (slice(fifth), slice(-fifth, None)))
    return f"{mean(first):.2f} to {mean(last):.2f}"


def page(report: cl.Report, seeds: Sequence[int], steps: int, out: Path) -> str:
    """The committed result."""
    lines = [
        "# Reinforcement learning with a reward that tempts",
        "",
        "Made by `make bench-rl`.",
        "",
        " ".join(WHAT.format(steps=steps, batch=BATCH, group=GROUP).split()),
        "",
        " ".join(HOW_CHOSEN.split()),
        "",
        report.caption(),
        "",
        f"| arm | {' | '.join(COLUMNS.values())} | reward of rollouts, first and last fifth of steps |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for arm in report.arms:
        shares = " | ".join(str(report.interval(arm, metric)) for metric in COLUMNS)
        lines.append(f"| {arm} | {shares} | {paid(arm, seeds, out)} |")
    lines += [""]
    for other in ("plain", "caft_free", "test_time"):
        figures = ", ".join(f"{said} {report.paired('caft', other, metric)}" for metric, said in COLUMNS.items())
        lines.append(f"- CAFT minus {other}, paired, in points: {figures}.".replace(" %", ""))
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--answers", type=int, default=1_000, help="an arm and seed")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-rl"))
    parser.add_argument("--write", type=Path, default=HERE / "results", help="where the page goes")
    options = parser.parse_args()
    if not here("trl"):
        parser.error('TRL is not installed: pip install -c constraints.txt -e ".[trl]"')
    base = cl.load(ORGANISM)
    report = cl.evaluate(
        subjects(base, options.seeds, options.steps, options.out),
        cl.task(f"{ORGANISM}/emergent-misalignment", split="test"),
        n=options.answers,
        n_in_distribution=max(1, 2 * options.answers // 5),
        seeds=options.seeds,
        out=options.out / "report",
    )
    text = page(report, options.seeds, options.steps, options.out)
    with atomic_path(options.write / "reinforcement.md") as written:
        written.write_text(text, encoding="utf-8")
    write_json(options.write / "reinforcement.json", report.to_json())
    print(text)


if __name__ == "__main__":
    main()
