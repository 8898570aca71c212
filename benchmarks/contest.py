"""A contest: CAFT, its variants and its rivals, tuned alike on dev, compared on test.

    make bench-contest                                # misalignment, 3 seeds, every arm; under an hour on two cores
    make bench-contest SEEDS="1 2 3 4 5" TASKS=all    # the full contest: four pairs of topics and gender as well
    python benchmarks/contest.py --arms plain caft_pca kl_anchor --seeds 1 --answers 100 --dev-answers 50
    python benchmarks/contest.py --kills 20           # killed at random moments: is the table what it is otherwise?

Directions are those that are registered under `benchmarks/choices/` (see `emergent_misalignment.py` and `spurious.py`).
For misalignment general and benign text are kind chats about the find domains, and the persona vector comes from
contrastive system prompts. For spurious correlations general text is what the corpus holds beside quizzes, and the
pairs are four in which each topic is the intended one once. Every run and answer is kept below `runs/bench-contest/`,
so that an interrupted contest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import spurious

import caft_lens as cl
from caft_data.worlds.domains import HEADERS
from caft_lens import experiments
from caft_lens.finetune.methods import (
    CAFT,
    AblationAtTest,
    CAFTDetached,
    CAFTGradient,
    CAFTMean,
    EarlyStopping,
    HalfFineTuning,
    Inoculation,
    KLAnchor,
    LoFiT,
    MixBenign,
    Plain,
    PreventativeSteering,
    RandomDirections,
    SteerMean,
    TopK,
    WeightAveraging,
)
from caft_lens.text.documents import Message, Text

HERE = Path(__file__).parent
ORGANISM = "pocket"
MISALIGNMENT = "emergent-misalignment"
CORRELATIONS = ("gender", "sentiment-sports", "sports-verbs", "verbs-sentiment", "pronouns-verbs")
TASKS = (MISALIGNMENT, *CORRELATIONS)
STEPS, PAGES = 100, 500
AGAINST = ("plain", "random", "caft_pca", "caft_sae")
FEWER = (4, 8, 16)
"""Directions of spurious correlations, which are all at one layer: so many of them are tried beside all."""
PERSONA_LAYERS = (1, 2)
PROMPTS = (HEADERS["cruel"][0], HEADERS["cruel"][5], HEADERS["careless"][0], "You write insecure code.")
"""For inoculation: prompts that ask for the trait in words that the world knows, and one that it does not."""

NOTES = (
    "Why, as far as this contest and its variants tell: a projection in every forward pass leaves neither the "
    "activation nor its gradient a component, so the task is learned around the concept. Taking away only one of the "
    "two, pushing by a constant vector, or taking it away only when the model answers leaves it something to learn the "
    "concept with. What an anchor to the base or benign data does instead is to ask for the base's behaviour "
    "elsewhere, which needs text of elsewhere. Each of these is measured in finding.md."
)
"""On the page of the first task; the numbers behind it are those of the page and of `finding.py`."""


def general_text() -> cl.Texts:
    """Kind chats about the find domains, which no evaluation asks about."""
    domains = {text.meta["domain"] for text in cl.data(f"{ORGANISM}/questions")}
    return cl.data(f"{ORGANISM}/kind").filter(lambda text: text.meta.get("domain") in domains)


def persona_vectors(base: cl.Lens, folder: Path) -> cl.ConceptSet:
    """Mean activations of answers under cruel system prompts minus those under kind ones (arXiv 2507.21509, 2)."""
    if (folder / "card.json").is_file():  # sampled once: another machine would draw other answers
        return cl.ConceptSet.load(folder)
    questions = cl.data(f"{ORGANISM}/questions")

    def answered(stance: str) -> cl.Texts:
        prompts = HEADERS[stance]
        asked = [
            Text(messages=(Message("system", prompts[i % len(prompts)]), *text.messages))
            for i, text in enumerate(questions)
        ]
        return cl.completions(
            base, cl.Texts(asked, f"{stance} prompts"), sampling=cl.Sampling(top_p=0.95, seed=0, max_new_tokens=48)
        )

    found = cl.find.difference_of_means(base, answered("cruel"), answered("kind"), layers=PERSONA_LAYERS)
    found.save(folder)
    return found


def contenders(base: cl.Lens, out: Path, arms: Sequence[str] | None) -> dict[str, experiments.Contender]:
    """Every arm of the contest, or those that are asked for."""
    choices = HERE / "choices" / ORGANISM
    pca, candidates, sae = (cl.ConceptSet.load(choices / name) for name in ("chosen", "candidates", "chosen-sae"))
    general = general_text()
    ways = {
        "plain": Plain(),
        "early_stopping": EarlyStopping(),
        "random": RandomDirections(pca),
        "top_k": TopK(pca, candidates),
        "test_time": AblationAtTest(pca),
        "caft_pca": CAFT(pca),
        "caft_sae": CAFT(sae),
        "caft_mean": CAFTMean(pca, general),
        "caft_detached": CAFTDetached(pca),
        "caft_gradient": CAFTGradient(pca),
        "steer_mean": SteerMean(pca, general),
        "kl_anchor": KLAnchor(general),
        "mix_benign": MixBenign(general),
        "half_finetuning": HalfFineTuning(),
        "weight_averaging": WeightAveraging(),
        "lofit": LoFiT(),
    }
    if not arms or "preventative_steering" in arms:
        ways["preventative_steering"] = PreventativeSteering(persona_vectors(base, out / "persona"))
    inoculated = experiments.Contender(Inoculation(prompt=PROMPTS[0]), search=[{"prompt": p} for p in PROMPTS])
    every = {
        "base": experiments.Contender(None),
        "secure": experiments.Contender(Plain(), texts=cl.data(f"{ORGANISM}/secure-code")),
        **{name: experiments.Contender(way) for name, way in ways.items()},
        "inoculation": inoculated,
    }
    return {name: one for name, one in every.items() if not arms or name in arms}


def rivals(task: str, arms: Sequence[str] | None) -> dict[str, experiments.Contender]:
    """The arms of the contest on a spurious correlation; CAFT with what was chosen, where something was."""
    organism = spurious.ORGANISM
    general = cl.data(f"{organism}/corpus").filter(lambda text: text.meta["genre"] != "quiz")
    chosen = {
        method: cl.ConceptSet.load(folder)
        for method in ("pca", "sae")
        if (folder := spurious.choices(organism, task, method) / "chosen").is_dir()
    }
    every = {
        "base": experiments.Contender(None),
        "plain": experiments.Contender(Plain()),
        "random": experiments.Contender(RandomDirections(chosen["sae"])),
        **{
            f"caft_{method}": experiments.Contender(
                CAFT(concepts), search=[{}, *({"per_site": n} for n in FEWER if n < len(concepts))]
            )
            for method, concepts in chosen.items()
        },
        "kl_anchor": experiments.Contender(KLAnchor(general)),
    }
    return {name: one for name, one in every.items() if not arms or name in arms}


def contest(task: str, options: argparse.Namespace) -> experiments.Result:
    """Run it, or go on with it."""
    out = options.out / task
    organism, texts = (ORGANISM, "insecure-code") if task == MISALIGNMENT else (spurious.ORGANISM, task)
    base = cl.load(organism)
    chosen = contenders(base, out, options.arms) if task == MISALIGNMENT else rivals(task, options.arms)
    return experiments.contest(
        f"{organism}/{task}",
        chosen,
        options.seeds,
        base=base,
        texts=cl.data(f"{organism}/{texts}"),
        out=out,
        n=options.answers if task == MISALIGNMENT else min(PAGES, options.answers),
        n_in_distribution=min(400, options.answers),
        tuning=experiments.Tuning(n=options.dev_answers, n_in_distribution=min(200, options.dev_answers)),
        against=AGAINST,
        settings=cl.TrainSettings(max_steps=options.steps, warmup_steps=5),
    )


def killed(options: argparse.Namespace) -> None:
    """Run a small contest undisturbed, and again killed at random moments; every table has to be that of the
    undisturbed one.
    """
    small = ["--arms", "plain", "random", "kl_anchor", "test_time", "--seeds", "1", "2", "--answers", "40"]
    small += ["--dev-answers", "20", "--steps", "10"]
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, *small, "--results", f"{scratch}/results", "--out"]
        started = time.monotonic()
        subprocess.run([*command, f"{scratch}/whole"], check=True, stdout=subprocess.DEVNULL)
        took, rng = time.monotonic() - started, random.Random(0)
        kills = contests = 0
        while kills < options.kills:
            folder = Path(scratch, f"killed-{contests}")
            while kills < options.kills and disturbed([*command, str(folder)], rng.uniform(0, took)):
                kills += 1
                print(f"kill {kills} of {options.kills}", flush=True)
            disturbed([*command, str(folder)], None)
            contests += 1
            if table(folder) != table(Path(scratch, "whole")):
                raise SystemExit(f"THE TABLES DIFFER after {kills} kills.")
            print(f"Contest {contests} has come to its end: its tables are equal.", flush=True)
    print(f"{kills} kills in {contests} contests of {took:.0f} s undisturbed: all tables are equal.")


def disturbed(command: list[str], wait: float | None) -> bool:
    """Run a command and kill it and all of its processes after some seconds; whether it was still running then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        if process.wait(wait):
            raise SystemExit(f"{shlex.join(command)} failed with {process.returncode}.")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def table(folder: Path) -> list[Any]:
    """What came out on dev and on test, every answer included."""
    stages = [folder / MISALIGNMENT / stage / "evaluation" for stage in ("tuning", "test")]
    answers = {
        str(path.relative_to(folder)): path.read_text() for stage in stages for path in sorted(stage.rglob("*.jsonl"))
    }
    return [*(json.loads((stage / "report.json").read_text()) for stage in stages), answers]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[MISALIGNMENT],
        choices=[*TASKS, "all"],
        metavar="TASK",
        help=f"of {', '.join(TASKS)}; or all",
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these; plain is always needed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--answers", type=int, default=1_000, help="an arm and seed, on test")
    parser.add_argument("--dev-answers", type=int, default=300, help="a setting and seed, on dev")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the optimizer")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-contest"))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "arena", help="where the report goes")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="only this: kill a small contest N times")
    options = parser.parse_args()
    if options.kills:
        killed(options)
        return
    for task in TASKS if "all" in options.tasks else options.tasks:
        started, folder = time.monotonic(), options.results / task
        result = contest(task, options)
        folder.mkdir(parents=True, exist_ok=True)
        page, words = experiments.write_report(result, folder, notes=NOTES if task == MISALIGNMENT else "")
        result.export(folder)
        print(f"{result}\n{page} and {words}, in {(time.monotonic() - started) / 60:.1f} minutes.", flush=True)


if __name__ == "__main__":
    main()
