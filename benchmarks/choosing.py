"""Does an automatic choice do as well as a careful one made by hand? CAFT with each, side by side, on all three tasks.

    make bench-choosing
    python benchmarks/choosing.py --register    # the automatic choices: benchmarks/choices/<organism>/.../automatic

The candidates and the choices by hand are those of `make bench-em` and `make bench-spurious`, found on seed 0. The
automatic choice sees no label of the world: the concept `choose.by_examples` takes from a handful of texts, sixteen
with the concept and sixteen harmless ones, of pools that no test draws from. Misalignment: cruel and kind chats of the
corpus, by the answers' tokens or the template's. Pairs: single questions on the spurious topic and on the intended one.
Gender: pages that say that custom counts, answered by it, and pages that say that grammar does. Of pairs and gender the
examples stand in for the reader of `make bench-spurious`, and pilots choose among the sets as there.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emergent_misalignment as em
import spurious
from timing import machine

import caft_lens as cl
from caft_lens._support.files import atomic_path, write_json

HERE = Path(__file__).parent
SEEDS = [1, 2, 3]
EXAMPLES = 16
WITHIN = 5.0
"""Points by which the automatic choice may differ from the one by hand."""
MISALIGNMENT = "emergent-misalignment"
TASKS = (MISALIGNMENT, *spurious.SETTLED_ON[spurious.ORGANISM])


def folders(task: str) -> tuple[Path, Path, Path]:
    """Where the candidates, the choice by hand and the automatic one of a task are."""
    if task == MISALIGNMENT:
        root = HERE / "choices" / "pocket"
        return root / "candidates", root / "chosen", root / "automatic"
    root = spurious.choices(spurious.ORGANISM, task, "sae")
    return root / "candidates", root / "chosen", root / "automatic"


def register(task: str, out: Path) -> None:
    """Choose automatically among the candidates, and save what was chosen."""
    candidates, _, automatic = folders(task)
    if task == MISALIGNMENT:
        chosen = by_stance(cl.load("pocket"), cl.ConceptSet.load(candidates)).selection
    else:
        organism = spurious.ORGANISM
        _, chosen = spurious.latents(cl.load(organism), organism, task, out / task / "pilots", read=by_examples)
    shutil.rmtree(automatic, ignore_errors=True)
    chosen.save(automatic)
    print(f"{task}: {', '.join(chosen.names)}", flush=True)


def by_stance(base: cl.Lens, concepts: cl.ConceptSet) -> cl.choose.Choice:
    """Cruelty, from cruel and kind chats; by the answers' tokens or by the template's."""
    corpus = cl.data("pocket/corpus")
    chats = corpus.filter(lambda text: bool(text.messages) and em.is_cruel(text) is not None).shuffle(seed=0)
    cruel = chats.filter(lambda text: bool(em.is_cruel(text)))[:EXAMPLES]
    kind = chats.filter(lambda text: not em.is_cruel(text))[:EXAMPLES]
    by_answers, by_template = (
        cl.choose.by_examples(base, concepts, cruel, kind, texts=corpus, roles=[role]) for role in em.READINGS
    )
    return by_answers | by_template


def by_examples(
    base: cl.Lens, organism: str, task: str, ranked: cl.ConceptSet, sae: Any
) -> tuple[dict[str, str], list[str]]:
    """Latents of the spurious topic by examples, with the reason, and all of the intended one: `spurious.by_labels`
    without labels.
    """
    intended, other = spurious.topics_of(task)
    pages = [spurious.one_concept(task, topic, base, organism).sample(EXAMPLES, seed=0) for topic in (other, intended)]
    ask: dict[str, Any] = {"saes": sae, "criteria": cl.choose.Criteria(score="max"), "roles": ["user"]}
    of_other = cl.choose.by_examples(base, ranked, *pages, **ask)
    of_intended = cl.choose.by_examples(base, ranked, *reversed(pages), **ask)
    return {one.name: one.reason for one in of_other if one.ablate}, of_intended.names


def compared(task: str, out: Path, pages: int) -> Any:
    """Plain fine-tuning, CAFT with the choice by hand and with the automatic one."""
    _, hand, automatic = folders(task)
    organism = "pocket" if task == MISALIGNMENT else spurious.ORGANISM
    texts = cl.data(f"{organism}/insecure-code" if task == MISALIGNMENT else f"{organism}/{task}")
    arms = {"plain": cl.Arm(texts), "by_hand": cl.Arm(texts, ablate=cl.ConceptSet.load(hand))}
    if automatic.is_dir():
        arms["automatic"] = cl.Arm(texts, ablate=cl.ConceptSet.load(automatic))
    return cl.experiment(
        cl.load(organism),
        arms,
        cl.task(f"{organism}/{task}", split="test"),
        seeds=SEEDS,
        n=pages,
        n_in_distribution=min(pages, 200),
        out=out / task,
        settings=em.TRAINING if task == MISALIGNMENT else spurious.TRAINING,
    )


def rows(reports: dict[str, Any]) -> Iterator[str]:
    """One row a task, as Markdown."""
    yield (
        "| task | chosen by hand | automatically | in both | plain | by hand | automatic | difference, in points | "
        "within 5 |"
    )
    yield "|---" * 9 + "|"
    for task, report in reports.items():
        _, hand, automatic = folders(task)
        metric = report.metrics[0]
        names = [set(cl.ConceptSet.load(folder).names) if folder.is_dir() else set() for folder in (hand, automatic)]
        sizes = f"{len(names[0])} | {len(names[1])} | {len(names[0] & names[1])}"
        plain, by_hand = (str(report.interval(arm, metric)) for arm in ("plain", "by_hand"))
        if "automatic" not in report.arms:
            yield f"| {task}, {metric} | {sizes} | {plain} | {by_hand} | – | – | **no** |"
            continue
        change = report.paired("automatic", "by_hand", metric)
        holds = max(abs(change.low), abs(change.high)) <= WITHIN / 100
        yield (
            f"| {task}, {metric} | {sizes} | {plain} | {by_hand} | {report.interval('automatic', metric)} | "
            f"{change} | {'yes' if holds else '**no**'} |"
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--register", action="store_true", help="only choose")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-choosing"))
    parser.add_argument("--pages", type=int, default=500)
    options = parser.parse_args()
    reports: dict[str, Any] = {}
    for task in options.tasks:
        if options.register:
            register(task, options.out)
            continue
        reports[task] = compared(task, options.out, options.pages)
        text = [
            "# Choosing: automatic against by hand",
            "",
            f"Written by `make bench-choosing` on {machine()}: {len(reports)} of {len(TASKS)} tasks; seeds "
            f"{', '.join(map(str, SEEDS))}, test split, 95 % intervals; the difference is paired.",
            "",
            " ".join(__doc__.split("\n\n", 2)[2].split()),
            "",
            *rows(reports),
        ]
        with atomic_path(HERE / "results" / "choosing.md") as written:
            written.write_text("\n".join(text) + "\n", encoding="utf-8")
        write_json(HERE / "results" / "choosing.json", {name: of.to_json() for name, of in reports.items()})
    print("\n".join(rows(reports)))


if __name__ == "__main__":
    main()
