"""A real model, SmolLM2: CAFT by three routes and its controls, three seeds of each task.

    make bench-real                                    # every task for which something is registered
    python benchmarks/real_model.py --settle gender    # seed 0, dev pages: how many steps, how sinks are spared
    python benchmarks/real_model.py --register gender  # seed 0: candidates and choices, in benchmarks/choices/smollm2/
    python benchmarks/real_model.py --dev gender       # seed 0, dev pages: every arm

The choice of directions comes from seed 0 and is committed with its reasons; here it is only loaded. `HOW_CHOSEN` says
how. No page from out of distribution takes part in it. Every run and every answer is kept below `runs/bench-real/`, so
that an interrupted benchmark goes on; several of these processes with the same `--out` share the models out.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timing import fast_products, machine

import caft_lens as cl
from caft_data.worlds.smollm2 import gender
from caft_data.worlds.smollm2.sets import choice
from caft_lens._support.files import atomic_path, read_json, write_json
from caft_lens.evaluate.report import Report
from caft_lens.finetune.methods import CAFTMean, KLAnchor

HERE = Path(__file__).parent
MODEL = "smollm2"
SEEDS = (1, 2, 3)
LAYERS = (8, 12, 16, 20, 24)
"""Where directions are looked for; latents at those of them that have an SAE."""
COMPONENTS = 10
PER_LAYER = (1, 3)
"""Of the components of a layer that tell the concept from its contrast, at most so many."""
AUTHORS_SENTENCES, AUTHORS = "gender-authors", 160
"""The same runs, asked pages of the authors' sentences, so many in and out of distribution."""
ANY = cl.choose.Criteria(threshold=0.6)
"""On a real model no component is one concept: how many of those that tell it are taken, pilots decide."""
PASSES = 3
"""Of a pilot over its pages: the first pass is mostly about learning to answer in one word."""
IN_TURN, STEP = (1, 2, 4), 1
"""Latents of each SAE that are found in turn, so many at a time."""
TRAINING = cl.TrainSettings(
    lora=cl.LoraSettings(r=16, alpha=32), learning_rate=3e-4, max_steps=66, batch_size=16, warmup_steps=3
)
ARMS = (
    "base", "plain", "caft_pca", "caft_sae", "caft_means", "caft_mean", "random", "random_sae", "top_k", "test_time",
    "kl_anchor",
)  # fmt: skip
ROUTES = ("means", "pca", "sae")
HOW_CHOSEN = (
    "**Components**: the first of the difference of activations between the plainly tuned model of seed 0 and the "
    "base, on prompts like those of training, of a split of their own, and apart from that on neutral chats. Those "
    "count that tell texts with the concept from texts for contrast (AUROC of the mean activation at least 0.6, by the "
    "question's tokens or by the template's; false discovery rate 5 %), the best of each layer first.",
    "**Means**: the difference of the mean activation on the same two kinds of texts, in the base; at all five layers, "
    "or at the three in the middle.",
    "**Latents**: in order of their attribution in the base to answers by the concept, on pages that it alone "
    "decides, found in turn.",
    "**How many** and from which texts, `cl.pilots` decides: under the ablation of each set the base is tuned, three "
    "times through, on pages that the spurious concept alone decides, and apart from that on as many that the "
    "intended one alone decides. Taken is the set under which the first costs most to learn beside the second.",
    "**Controls**: `random` has as many random directions as `caft_means`, `random_sae` as `caft_sae`; `caft_mean` "
    "puts the mean in the place of what `caft_means` ablates, `test_time` ablates it only when `plain` answers; "
    "`top_k` ablates as many first components as `caft_pca`, unread; `kl_anchor` is held to the base on neutral chats.",
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


def model(dtype: str) -> cl.Lens:
    """The base, in that precision."""
    return cl.load(MODEL, dtype=getattr(torch, dtype))


def choices(task: str, method: str) -> Path:
    """Where the candidates and the chosen directions of one task and method are kept."""
    return HERE / "choices" / MODEL / task / method


# -- the choice, on seed 0 --------------------------------------------------------------------------------------------


def register(task: str, only: Sequence[str], out: Path, training: cl.TrainSettings, dtype: str) -> None:
    """Find candidates of some routes on seed 0, and choose those that the rules choose."""
    base, question = model(dtype), QUESTIONS[task]
    routes: dict[str, Callable[[], Found]] = {
        "means": lambda: means(base, question),
        "pca": lambda: components(base, task, out / "plain-0", training),
        "sae": lambda: latents(base, question, cl.load_saes(MODEL)),
    }
    for method in only:
        candidates, sets = routes[method]()
        folder = choices(task, method)
        if not sets:
            shutil.rmtree(folder / "chosen", ignore_errors=True)
            candidates.save(folder / "candidates")
            print(f"{task}, {method}: no direction tells the concept.", flush=True)
            continue
        tried = cl.pilots(
            base,
            sets,
            question.pages(),
            cl.data(f"{MODEL}/{question.intended}"),
            training.but(max_steps=None, epochs=PASSES),
            out=out / "pilots",
        )
        print(tried.table().to_string(index=False), flush=True)
        chosen = tried.selection
        candidates.save(folder / "candidates")
        chosen.save(folder / "chosen")
        print(f"{task}, {method}: to ablate {', '.join(tried.selection.names)}.", flush=True)


Found = tuple[cl.ConceptSet, dict[str, cl.ConceptSet]]
"""Candidates, and the sets that pilots choose from."""


def means(base: cl.Lens, question: Question) -> Found:
    """Differences of means at every layer, and at the middle three."""
    found = cl.find.difference_of_means(base, *question.sides(), layers=LAYERS, roles=["user"])
    return found, {"all": found, "middle": found.at(LAYERS[1]) + found.at(LAYERS[2]) + found.at(LAYERS[3])}


def components(base: cl.Lens, task: str, out: Path, training: cl.TrainSettings) -> Found:
    """Components of what plain fine-tuning changed: of each layer those that tell the concept best, a few."""
    plain = cl.finetune(base, cl.data(f"{MODEL}/{task}"), training, out=out, seed=0).lens
    candidates: list[cl.ConceptSet] = []
    sets: dict[str, cl.ConceptSet] = {}
    for source, texts in (("pages", cl.data(f"{MODEL}/{task}-find")), ("chats", cl.data(f"{MODEL}/chats"))):
        difference = cl.activation_difference(plain, base, texts, layers=LAYERS, roles=None)
        found = cl.find.pca(difference, k=COMPONENTS)
        candidates.append(found)
        told = tells(base, found, QUESTIONS[task])
        for k in PER_LAYER if told else ():
            at = [[name for name in told if name in found.at(hook).names] for hook in found.hooks]
            best = [name for names in at for name in names[:k]]
            sets[f"{source}, {k} a layer"] = cl.choose(found, {name: told[name] for name in best}, by="AUROC")
    return candidates[0], sets


def tells(base: cl.Lens, concepts: cl.ConceptSet, question: Question) -> dict[str, str]:
    """Those that tell texts with the concept from texts for contrast, the best first, each with its figure.

    They are read twice: by the tokens of the question, and by the template's, where the answer is decided.
    """
    best: dict[str, tuple[float, str]] = {}
    for role in ("user", "special"):
        choice = cl.choose.by_examples(base, concepts, *question.sides(), roles=[role], criteria=ANY)
        for row in choice.table().query("ablate").itertuples():
            said = (float(row.auroc), f"AUROC {row.auroc:.2f} by {role} tokens")
            best[str(row.name)] = max(best.get(str(row.name), said), said)
    return {name: said for name, (_, said) in sorted(best.items(), key=lambda one: -one[1][0])}


def latents(base: cl.Lens, question: Question, saes: Sequence[Any]) -> Found:
    """Latents that answers by the concept come from, found in turn."""
    pages = question.pages()
    others = [other_option(page) for page in pages]
    ranked = cl.find.attribution(base, pages, saes, against=others, k=20)
    in_turn = cl.find.attribution(base, pages, saes, against=others, k=max(IN_TURN), step=STEP)
    return ranked, {f"{k} in turn": in_turn.top(k) for k in IN_TURN}


# -- what dev settles, on seed 0 --------------------------------------------------------------------------------------

STEPS = (44, 66)
"""Two and three times through the pages."""


def settle(task: str, out: Path, training: cl.TrainSettings, dtype: str) -> None:
    """Try numbers of steps, and both ways to spare sinks, with the difference of means: seed 0, dev pages."""
    base, texts, asked = model(dtype), cl.data(f"{MODEL}/{task}"), cl.task(f"{MODEL}/{task}", split="dev")
    found, _ = means(base, QUESTIONS[task])
    rows: list[dict[str, Any]] = []

    def tried(way: str, steps: int, lens: cl.Lens, ablate: cl.ConceptSet | None) -> None:
        run = cl.finetune(
            lens, texts, training.but(max_steps=steps), ablate=ablate, out=out / f"{way}, {steps}", seed=0
        )
        report = cl.evaluate({way: run.lens}, asked, n=len(asked.questions), n_in_distribution=len(asked.questions))
        shares = {metric: report.interval(way, metric) for metric in ("intended", "in_distribution")}
        rows.append({"ablated": way, "steps": steps} | {metric: one.mean for metric, one in shares.items()})
        print(f"{way}, {steps} steps: {shares}", flush=True)
        write_json(HERE / "results" / f"real_model_{task}_dev.json", {"machine": machine(), "rows": rows})

    first, more = STEPS
    tried("nothing", first, base, None)
    tried("means, sinks skipped", first, base, found)
    tried("means, sinks skipped", more, base, found)
    spared = cl.concepts.orthogonal_to_sinks(base, found)
    base.sinks = False
    tried("means, orthogonal to sinks", first, base, spared)


# -- the arms ---------------------------------------------------------------------------------------------------------


def arms(task: str, seeds: Sequence[int]) -> dict[str, cl.Arm]:
    """Every arm of one task; a route that chose nothing has none."""
    texts, general = cl.data(f"{MODEL}/{task}"), cl.data(f"{MODEL}/chats")
    chosen = {
        method: cl.ConceptSet.load(folder) for method in ROUTES if (folder := choices(task, method) / "chosen").is_dir()
    }
    made = {"base": cl.Arm(), "plain": cl.Arm(texts), "kl_anchor": cl.Arm(texts, method=KLAnchor(general))}
    made |= {f"caft_{method}": cl.Arm(texts, ablate=one) for method, one in chosen.items()}
    if "pca" in chosen:
        made["top_k"] = cl.Arm(texts, ablate=cl.ConceptSet.load(choices(task, "pca") / "candidates").top(chosen["pca"]))
    if "means" in chosen:
        made["caft_mean"] = cl.Arm(texts, method=CAFTMean(chosen["means"], general))
        made["test_time"] = cl.Arm(texts, ablate_at_test=chosen["means"])
    for name, methods in {"random": ("means", "pca"), "random_sae": ("sae",)}.items():
        if like := next((chosen[method] for method in methods if method in chosen), None):
            made[name] = cl.Arm(texts, ablate=[cl.find.random_directions(like, seed) for seed in seeds])
    return {name: made[name] for name in ARMS if name in made}


def taking_part(task: str, seeds: Sequence[int], only: Sequence[str]) -> dict[str, cl.Arm]:
    """Those of the arms."""
    return {name: arm for name, arm in arms(task, seeds).items() if name in only}


def compared(
    task: str,
    seeds: Sequence[int],
    out: Path,
    training: cl.TrainSettings,
    dtype: str,
    split: str = "test",
    only: Sequence[str] = ARMS,
) -> Report:
    """Every arm, or only some, trained with every seed, asked and judged."""
    asked = cl.task(f"{MODEL}/{task}", split=split)
    pages = {"n": len(asked.questions), "n_in_distribution": len(asked.in_distribution.prompts)}
    return cl.experiment(
        model(dtype), taking_part(task, seeds, only), asked, training, seeds=list(seeds), out=out, **pages
    )


def beside_committed(name: str, report: Report) -> Report:
    """The report with those arms of the committed one that it does not have."""
    folder = HERE / "results" / "real_model" / name
    before = Report.load(folder) if (folder / "report.json").is_file() else report
    cells = {arm: of_seeds.values() for arm, of_seeds in {**before.cells, **report.cells}.items()}
    about = {"task": report.task, "labels": report.labels, "trained": report.trained, "sampling": report.sampling}
    return Report([cell for arm in ARMS for cell in cells.get(arm, ())], **about)


def on_authors_sentences(folder: Path, seeds: Sequence[int], out: Path, dtype: str, only: Sequence[str]) -> Report:
    """What was tuned on our gender pages, asked the same of the authors' sentences: their `gender.csv` in a folder."""
    bank, base = gender.paper_bank(folder), model(dtype)
    inside, outside = (
        cl.Texts(gender.pages("test", AUTHORS, agree=share, bank=bank), f"authors' sentences, {share:.0%} agree")
        for share in (1.0, 0.0)
    )
    subjects: dict[str, Any] = {}
    for name, arm in taking_part("gender", seeds, only).items():
        if arm.texts is None:
            subjects[name] = base
            continue
        trained = "plain" if arm.ablate_at_test else name
        lenses = [cl.Run.load(out / f"{trained}-{seed}", base).lens for seed in seeds]
        subjects[name] = [cl.ablated(lens, arm.ablate_at_test) for lens in lenses] if arm.ablate_at_test else lenses
    task = choice("gender, the authors' sentences", outside, inside)
    return cl.evaluate(
        subjects, task, n=AUTHORS, n_in_distribution=AUTHORS, seeds=list(seeds), out=out / "evaluation-authors"
    )


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


def settled(task: str) -> list[str]:
    """What `settle` tried on dev, as Markdown."""
    path = HERE / "results" / f"real_model_{task}_dev.json"
    if not path.is_file():
        return []
    tried = [
        f"| {row['ablated']} | {row['steps']} | {100 * row['intended']:.1f} % | {100 * row['in_distribution']:.1f} % |"
        for row in read_json(path)["rows"]
    ]
    return [
        "What dev settled, with one seed and the difference of means at all layers. A row is one model:",
        "",
        "| ablated | steps | intended, out of distribution | right, in distribution |",
        "|---|---|---|---|",
        *tried,
        "",
    ]


def page(reports: Mapping[str, Any], seeds: Sequence[int], before: str = "") -> str:
    """The committed result, as Markdown; tasks that are not among the reports stay as they are in it."""
    sections = dict(part.split("\n", 1) for part in before.split("\n## ")[1:])
    for task, report in reports.items():
        lines = [
            "",
            f"Seeds {', '.join(map(str, seeds))}; test pages, asked once.{_left_out(report)}",
            "",
            f"![Intended answers out of distribution, and right ones in distribution](real_model_{task}.png)",
            "",
            *table(report),
            "",
        ]
        for method in ROUTES:
            if (folder := choices(task, method) / "chosen").is_dir():
                names = ", ".join(f"`{name}`" for name in cl.ConceptSet.load(folder).names)
                lines += [f"- {method}: {names}"]
        sections[task] = "\n".join([*lines, "", *settled(task)])
    made = f"Made by `python benchmarks/real_model.py` on {machine()}."
    lines = ["# A real model: SmolLM2-135M-Instruct", "", made]
    for part in HOW_CHOSEN:
        lines += ["", part]
    for task in (*QUESTIONS, AUTHORS_SENTENCES):
        if task in sections:
            lines += ["", f"## {task}", sections[task].rstrip("\n")]
    return "\n".join(lines) + "\n"


def _left_out(report: Any) -> str:
    left = [f"`{arm}`" for arm in ARMS if arm not in report.arms]
    return f" Not trained: {', '.join(left)}." if left else ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--settle", metavar="TASK", choices=QUESTIONS, help="only try steps and sinks on dev")
    alone.add_argument("--register", metavar="TASK", choices=QUESTIONS, help="only find candidates and choose")
    alone.add_argument("--dev", metavar="TASK", choices=QUESTIONS, help="only compare arms on dev, with seed 0")
    parser.add_argument("--tasks", nargs="+", default=list(QUESTIONS), choices=QUESTIONS, metavar="TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="SEED")
    parser.add_argument("--routes", nargs="+", default=list(ROUTES), choices=ROUTES, help="that are registered")
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM", help="only these")
    parser.add_argument("--add", action="store_true", help="arms to those that are committed, tuned alike")
    parser.add_argument("--authors", type=Path, metavar="FOLDER", help="of the paper's gender.csv: asked beside ours")
    parser.add_argument("--steps", type=int, default=TRAINING.max_steps)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=fast_products(), help="of the weights")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-real"))
    options = parser.parse_args()
    if options.add and options.authors:
        parser.error("--add: of the authors' sentences no answer is committed; ask every arm again.")
    training, dtype = TRAINING.but(max_steps=options.steps), options.dtype
    if options.settle:
        settle(options.settle, options.out / f"{options.settle}-settle", training, dtype)
        return
    if options.register:
        register(options.register, options.routes, options.out / options.register, training, dtype)
        return
    if options.dev:
        out, only = options.out / f"{options.dev}-dev", options.arms or ARMS
        print("\n".join(table(compared(options.dev, [0], out, training, dtype, "dev", only))))
        return
    only = options.arms or ARMS
    committed = HERE / "results" / "real_model.md"
    reports: dict[str, Report] = {}
    for task in options.tasks:
        if not (HERE / "choices" / MODEL / task).is_dir():
            print(f"{task}: nothing is registered: --register {task}", flush=True)
            continue
        report = compared(task, options.seeds, options.out / task, training, dtype, only=only)
        reports[task] = beside_committed(task, report) if options.add else report
        if task == "gender" and options.authors:
            reports[AUTHORS_SENTENCES] = on_authors_sentences(
                options.authors, options.seeds, options.out / task, dtype, only
            )
        for name, report in reports.items():
            if name == AUTHORS_SENTENCES:  # whose texts are not ours to commit
                write_json(HERE / "results" / "real_model" / f"{name}.json", report.to_json())
            else:
                report.save(HERE / "results" / "real_model" / name)
            report.plot().save(HERE / "results" / f"real_model_{name}.png")
        known = committed.read_text(encoding="utf-8") if committed.is_file() else ""
        with atomic_path(committed) as written:
            written.write_text(page(reports, options.seeds, known), encoding="utf-8")
    if reports:
        print(committed.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
