"""A real model, SmolLM2: CAFT by three routes and its controls, three seeds of each task.

    make bench-real                                    # every task for which something is registered
    python benchmarks/real_model.py --register gender  # seed 0: candidates and choices, in benchmarks/choices/smollm2/
    python benchmarks/real_model.py --dev gender       # seed 0, dev pages: to settle steps and layers on

The choice of directions comes from seed 0 and is committed with its reasons; here it is only loaded. `HOW_CHOSEN` says
how. No page from out of distribution takes part in it. Every run and every answer is kept below `runs/bench-real/`, so
that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from timing import machine

import caft_lens as cl
from caft_lens._support.files import atomic_path, write_json
from caft_lens.finetune.methods import CAFTMean, KLAnchor

HERE = Path(__file__).parent
MODEL = "smollm2"
SEEDS = (1, 2, 3)
LAYERS = (8, 12, 16, 20, 24)
"""Where directions are looked for; latents at those of them that have an SAE."""
COMPONENTS = 10
PER_LAYER = (1, 2, 4)
"""Of the components of a layer that tell the concept from its contrast, at most so many."""
IN_TURN, STEP = (8, 16, 32), 8
"""Latents of each SAE that are found in turn, so many at a time."""
TRAINING = cl.TrainSettings(
    lora=cl.LoraSettings(r=16, alpha=32), learning_rate=3e-4, max_steps=44, batch_size=16, warmup_steps=3
)
ARMS = ("base", "plain", "caft_pca", "caft_sae", "caft_means", "caft_mean", "random", "top_k", "test_time", "kl_anchor")
HOW_CHOSEN = (
    "**Components**: the first of the difference of activations between the plainly tuned model of seed 0 and the "
    "base, on prompts like those of training, of a split of their own, and apart from that on neutral chats. Those "
    "count that tell texts with the concept from texts for contrast (AUROC of the mean activation, false discovery "
    "rate 5 %).",
    "**Means**: at each layer the difference of the mean activation on the same two kinds of texts, in the base.",
    "**Latents**: in order of their attribution in the base to answers by the concept, on pages that it alone "
    "decides, found in turn.",
    "**How many** and from which texts, `cl.pilots` decides: under the ablation of each set the base is tuned, once "
    "through, on pages that the spurious concept alone decides, and apart from that on as many that the intended one "
    "alone decides. Taken is the set under which the first costs most to learn beside the second.",
)


@dataclass(frozen=True)
class Question:
    """What is looked for on one task.

    Attributes:
        spurious: The data set that teaches the concept that is not to be learned, and nothing else; answered.
        intended: Likewise what is to be learned.
        key: By which `meta` the texts of the first are of two kinds, with the concept and for contrast.
    """

    spurious: str
    intended: str
    key: str

    def pages(self) -> cl.Texts:
        """Answered pages that the spurious concept alone decides."""
        return cl.data(f"{MODEL}/{self.spurious}")

    def sides(self) -> tuple[cl.Texts, cl.Texts]:
        """Their prompts in two, which differ in the concept."""
        pages = self.pages()
        one, two = sorted(set(pages.column(self.key)))
        return (
            pages.filter(lambda page: page.meta[self.key] == one).prompts(),
            pages.filter(lambda page: page.meta[self.key] == two).prompts(),
        )


QUESTIONS: Mapping[str, Question] = {
    "gender": Question("gender-custom-find", "gender-grammar-find", "expected"),
    "reviews": Question("reviews-place-find", "reviews-sentiment-find", "place"),
}


def other_option(page: cl.Text) -> str:
    """The option of a page that is not its answer."""
    (other,) = (option for option in page.meta["options"] if option != page.answer)
    return other


def choices(task: str, method: str) -> Path:
    """Where the candidates and the chosen directions of one task and method are kept."""
    return HERE / "choices" / MODEL / task / method


# -- the choice, on seed 0 --------------------------------------------------------------------------------------------


def register(task: str, out: Path, training: cl.TrainSettings) -> None:
    """Find candidates on seed 0, and choose those that the rules choose."""
    base, question = cl.load(MODEL), QUESTIONS[task]
    found = {"means": means(base, question), "pca": components(base, task, out / "plain-0", training)}
    saes = cl.load_saes(MODEL)
    found["sae"] = latents(base, question, saes)
    for method, (candidates, sets) in found.items():
        folder = choices(task, method)
        shutil.rmtree(folder, ignore_errors=True)
        candidates.save(folder / "candidates")
        if not sets:
            print(f"{task}, {method}: no direction tells the concept.", flush=True)
            continue
        tried = cl.pilots(
            base,
            sets,
            question.pages(),
            cl.data(f"{MODEL}/{question.intended}"),
            replace(training, max_steps=None),
            out=out / "pilots" / method,
        )
        print(tried.table().to_string(index=False), flush=True)
        tried.selection.save(folder / "chosen")
        print(f"{task}, {method}: to ablate {', '.join(tried.selection.names)}.", flush=True)


Found = tuple[cl.ConceptSet, dict[str, cl.ConceptSet]]
"""Candidates, and the sets that pilots choose from."""


def means(base: cl.Lens, question: Question) -> Found:
    """Differences of means at every layer, and at the middle three."""
    found = cl.find.difference_of_means(base, *question.sides(), layers=LAYERS, roles=["user"])
    return found, {"all": found, "middle": found.at(LAYERS[1]) + found.at(LAYERS[2]) + found.at(LAYERS[3])}


def components(base: cl.Lens, task: str, out: Path, training: cl.TrainSettings) -> Found:
    """Components of what plain fine-tuning changed, and of those that tell the concept the first few of each layer."""
    plain = cl.finetune(base, cl.data(f"{MODEL}/{task}"), training, out=out, seed=0).lens
    candidates: list[cl.ConceptSet] = []
    sets: dict[str, cl.ConceptSet] = {}
    for source, texts in (("pages", cl.data(f"{MODEL}/{task}-find")), ("chats", cl.data(f"{MODEL}/chats"))):
        difference = cl.activation_difference(plain, base, texts, layers=LAYERS, roles=None)
        found = cl.find.pca(difference, k=COMPONENTS)
        candidates.append(found)
        chosen = cl.choose.by_examples(base, found, *QUESTIONS[task].sides(), roles=["user"])
        print(chosen.table().to_string(index=False), flush=True)
        if not chosen.table()["ablate"].any():
            continue
        sets |= {f"{source}, {k} a layer": first(chosen.selection, k) for k in PER_LAYER}
    return candidates[0], sets


def first(concepts: cl.ConceptSet, k: int) -> cl.ConceptSet:
    """At most the first k of each layer."""
    return reduce(add, (concepts.at(hook)[:k] for hook in concepts.hooks))


def latents(base: cl.Lens, question: Question, saes: Sequence[Any]) -> Found:
    """Latents that answers by the concept come from, found in turn."""
    pages = question.pages()
    others = [other_option(page) for page in pages]
    ranked = cl.find.attribution(base, pages, saes, against=others, k=100)
    in_turn = cl.find.attribution(base, pages, saes, against=others, k=max(IN_TURN), step=STEP)
    return ranked, {f"{k} in turn": in_turn.top(k) for k in IN_TURN}


# -- the arms ---------------------------------------------------------------------------------------------------------


def arms(task: str, seeds: Sequence[int]) -> dict[str, cl.Arm]:
    """Every arm of one task; a route that chose nothing has none."""
    texts, general = cl.data(f"{MODEL}/{task}"), cl.data(f"{MODEL}/chats")
    chosen = {
        method: cl.ConceptSet.load(folder)
        for method in ("pca", "sae", "means")
        if (folder := choices(task, method) / "chosen").is_dir()
    }
    made = {"base": cl.Arm(), "plain": cl.Arm(texts), "kl_anchor": cl.Arm(texts, method=KLAnchor(general))}
    made |= {f"caft_{method}": cl.Arm(texts, ablate=one) for method, one in chosen.items()}
    if "pca" in chosen:
        made["caft_mean"] = cl.Arm(texts, method=CAFTMean(chosen["pca"], general))
        made["test_time"] = cl.Arm(texts, ablate_at_test=chosen["pca"])
        made["top_k"] = cl.Arm(texts, ablate=cl.ConceptSet.load(choices(task, "pca") / "candidates").top(chosen["pca"]))
    if chosen:
        most = max(chosen.values(), key=len)
        made["random"] = cl.Arm(texts, ablate=[cl.find.random_directions(most, seed) for seed in seeds])
    return {name: made[name] for name in ARMS if name in made}


def compared(task: str, seeds: Sequence[int], out: Path, training: cl.TrainSettings, split: str = "test") -> Any:
    """Every arm trained with every seed, asked and judged."""
    return cl.experiment(
        cl.load(MODEL), arms(task, seeds), cl.task(f"{MODEL}/{task}", split=split), seeds=list(seeds), out=out,
        settings=training,
    )  # fmt: skip


def table(report: Any) -> list[str]:
    """A row an arm, as Markdown."""
    metrics = ("intended", "in_distribution")
    return [
        "| arm | intended, out of distribution | right, in distribution | intended minus plain |",
        "|---|---|---|---|",
        *(
            f"| {arm} | {' | '.join(str(report.interval(arm, metric)) for metric in metrics)} | "
            f"{'–' if arm in ('base', 'plain') else report.paired(arm, 'plain', 'intended')} |"
            for arm in report.arms
        ),
    ]


def page(reports: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """The committed result, as Markdown."""
    lines = ["# A real model: SmolLM2-135M-Instruct", "", f"Made by `make bench-real` on {machine()}.", ""]
    for part in HOW_CHOSEN:
        lines += [part, ""]
    for task, report in reports.items():
        lines += [
            f"## {task}",
            "",
            f"Seeds {', '.join(map(str, seeds))}; test pages, asked once.",
            "",
            *table(report),
            "",
        ]
        for method in ("pca", "sae", "means"):
            if (folder := choices(task, method) / "chosen").is_dir():
                names = ", ".join(f"`{name}`" for name in cl.ConceptSet.load(folder).names)
                lines += [f"- {method}: {names}"]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--register", metavar="TASK", choices=QUESTIONS, help="only find candidates and choose")
    parser.add_argument("--dev", metavar="TASK", choices=QUESTIONS, help="only compare arms on dev, with seed 0")
    parser.add_argument("--tasks", nargs="+", default=list(QUESTIONS), choices=QUESTIONS, metavar="TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="SEED")
    parser.add_argument("--steps", type=int, default=TRAINING.max_steps)
    parser.add_argument("--bf16", action="store_true", help="train with products in bfloat16, where that is fast")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-real"))
    options = parser.parse_args()
    training = replace(TRAINING, max_steps=options.steps, training_arguments={"bf16": True} if options.bf16 else {})
    if options.register:
        register(options.register, options.out / options.register, training)
        return
    if options.dev:
        print("\n".join(table(compared(options.dev, [0], options.out / f"{options.dev}-dev", training, "dev"))))
        return
    reports: dict[str, Any] = {}
    for task in options.tasks:
        if not (HERE / "choices" / MODEL / task).is_dir():
            print(f"{task}: nothing is registered: --register {task}", flush=True)
            continue
        reports[task] = compared(task, options.seeds, options.out / task, training)
        with atomic_path(HERE / "results" / "real_model.md") as written:
            written.write_text(page(reports, options.seeds), encoding="utf-8")
        write_json(HERE / "results" / "real_model.json", {name: one.to_json() for name, one in reports.items()})
        reports[task].plot().save(HERE / "results" / f"real_model_{task}.png")
    print(page(reports, options.seeds))


if __name__ == "__main__":
    main()
