"""Spurious correlations: double multiple choice, every ordered pair of topics, and gender through professions.

    make bench-spurious                                # 5 seeds of every task, and 2 on a second organism
    python benchmarks/spurious.py --register           # seed 0: candidates and choices, under benchmarks/choices/

In training the intended and the spurious question have the same answer on every page; out of distribution they differ. The choice
of directions comes from seed 0 and is committed with its reasons; here it is only loaded. `HOW_CHOSEN` says by which rule.
Every run and every answer is kept below `runs/bench-spurious/`, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timing import machine

import caft_lens as cl
from caft_lens.files import atomic_path, write_json
from caft_lens.organism import quiz

HERE = Path(__file__).parent
ORGANISM, SECOND = "pocket-quiz", "pocket-quiz-1"
TASKS = [name for name in quiz.TASKS if name not in quiz.KINDS and not name.endswith("-told")]
SEEDS = {ORGANISM: [1, 2, 3, 4, 5], SECOND: [1, 2]}
TRAINING: dict[str, Any] = {"max_steps": 100}
LAYER, COMPONENTS = 0, 20
READ, SHARE, MOST = 20, 0.7, 24
RECORDED = 100
"""Of the candidates, the first that are kept on disk, for `top_k`."""
SETTLED_ON = (
    "gender", "sentiment-sports", "sports-verbs", "sentiment-pronouns", "verbs-sentiment", "pronouns-verbs", "pronouns-sports",
)  # fmt: skip
HOW_CHOSEN = (
    "**Latents**: after the first layer, all whose attribution on the base is above zero, in its order: their activation times the slope of the "
    "logit of the right answer minus that of the other one, on pages that the base answers by the spurious concept. These are single questions "
    "on the spurious topic, of a pool of their own; for gender, of which there are none, dev pages that say that custom counts. No fine-tuned "
    "model and no page that leaves open what counts takes part.",
    f"**Components**: the first {COMPONENTS} of the difference of activations between the plainly tuned model of seed 0 and the base, likewise "
    "after the first layer, on all tokens of prompts like those of training, of a pool of their own.",
    f"Each candidate is **read** as in the paper: in its {READ} strongest contexts in the base on the corpus. Kept are the latents "
    f"whose contexts peak, in at least {SHARE:.0%} of them, on text that is about the *spurious* topic (whichever its answer), and the "
    f"components of which that holds at one end; at most the first {MOST}. ".replace("%", " %")
    + "The world's labels stand for the reader. In the corpus no topic goes with any other. Names count as about pronouns, which they decide.",
    "**What was looked at**: the layer, the order, the share and the maximum number were settled by results on dev pages out of distribution, with seeds "
    f"0 to 2 of `{ORGANISM}`, of all tasks that fool plain fine-tuning there, which are marked *: what is new in their rows are the test pages and seeds 3 to 5. "
    f"`{SECOND}` was measured after all this, with the rule as it stood.",
    "**Rejected** on the same dev pages: directions that tell the two kinds of answers apart instead of the topic, reading all four layers (answers of both questions mix "
    "there), 16 latents (too few for verbs beside sentiment), all 48 (pronouns beside sports fails), and latents in order of how much fine-tuning changed them, of which the "
    "first 32 were kept. This last rule was measured on these test pages too: gender, sentiment beside sports, sports beside verbs and sentiment beside pronouns were as good, or nearly, verbs beside sentiment and "
    "pronouns beside sports no better than plain fine-tuning, for what was learned under ablation was lost without it. Names were not labelled at first; the latents "
    "kept then had little of the attribution, and sentiment beside pronouns, on test pages, intervals that overlapped those of plain fine-tuning. For gender, whose pages have "
    "no names, they do not count: on dev pages counting them kept more latents and did harm.",
)
ARMS = (
    "`plain` is tuned on the training set, `caft_pca` and `caft_sae` likewise with the kept components or latents ablated while training, "
    "`random` with as many random directions as `caft_sae`, `top_k` with as many first latents, unread: where it does as well, reading adds nothing. LoRA, 100 steps of 16 pages; "
    "nothing is ablated when a model is tested. *Intended* is the share of answers, out of distribution, to the question that "
    "counts; *in distribution* that of right answers to held-out pages like those of training."
)


def topics_of(task: str) -> tuple[str, str]:
    """The intended topic of a task and its spurious one."""
    intended, _, spurious = ("grammar", "-", "custom") if task == "gender" else task.partition("-")
    return intended, spurious


def by_the_spurious(task: str, base: cl.Lens, organism: str = ORGANISM) -> tuple[cl.Texts, list[str]]:
    """Pages that the base answers rightly by the spurious concept of a task, and to each the other answer."""
    _, spurious = topics_of(task)
    if task == "gender":
        told = cl.data(f"{organism}/gender-told-dev").filter(lambda page: page.meta["told"] == spurious)
        pages = cl.completions(base, told, temperature=0.0, max_new_tokens=4)
    else:
        pages = cl.data(f"{organism}/{spurious}")
    pages = pages.filter(lambda page: page.answer == page.meta["answers"][spurious])
    return pages, [quiz.other_option(page) for page in pages]


def choices(organism: str, task: str, method: str) -> Path:
    """Where the candidates and the chosen directions of one task and method are kept."""
    return HERE / "choices" / organism / task / method


def register(organism: str, task: str, out: Path) -> None:
    """Find candidates on seed 0, read them on the corpus, and keep those that the rule keeps."""
    base, corpus = cl.load(organism), cl.data(f"{organism}/corpus")
    plain = cl.finetune(
        base, cl.data(f"{organism}/{task}"), out=out / task / "plain-0", seed=0, **TRAINING
    ).lens
    answered = cl.completions(plain, cl.data(f"{organism}/{task}-find"), temperature=0.0, max_new_tokens=4)
    pages, others = by_the_spurious(task, base, organism)
    found = {
        "pca": cl.find.pca(
            cl.activation_difference(plain, base, answered, layers=[LAYER], roles=None), k=COMPONENTS
        ),
        "sae": cl.find.attribution(base, pages, cl.load_sae(organism, layer=LAYER), against=others, k=None),
    }
    _, spurious = topics_of(task)
    about = cl.token_labels(base.tokenizer, corpus, quiz.ABOUT[spurious])
    for method, candidates in found.items():
        contexts = cl.contexts(base, candidates, corpus, k=READ, roles=["user", "text"])
        ends = contexts.peaks_on(about)[["top"] if method == "sae" else ["top", "bottom"]]
        kept = {
            name: f"{share:.0%} of {READ} contexts at {'its' if method == 'sae' else 'one'} end are about {spurious}"
            for name, share in ends.max(axis=1).items()
            if share >= SHARE
        }
        kept = dict(list(kept.items())[:MOST])
        folder = choices(organism, task, method)
        shutil.rmtree(folder, ignore_errors=True)
        candidates[:RECORDED].save(folder / "candidates")
        if kept:
            candidates.keep(kept, by="the rule of the benchmark").save(folder / "chosen")
        print(f"{organism}, {task}, {method}: kept {', '.join(kept) or 'nothing'}.", flush=True)


def arms(organism: str, task: str, seeds: list[int]) -> dict[str, cl.Arm]:
    """Every arm of one task; a method that kept nothing has none."""
    texts = cl.data(f"{organism}/{task}")
    chosen = {
        method: cl.ConceptSet.load(folder)
        for method in ("pca", "sae")
        if (folder := choices(organism, task, method) / "chosen").is_dir()
    }
    made = {"base": cl.Arm(), "plain": cl.Arm(texts)}
    made |= {f"caft_{method}": cl.Arm(texts, ablate=kept) for method, kept in chosen.items()}
    if "sae" in chosen:
        kept = chosen["sae"]
        made["random"] = cl.Arm(texts, ablate=[cl.find.random_directions(kept, seed) for seed in seeds])
        made["top_k"] = cl.Arm(
            texts, ablate=cl.ConceptSet.load(choices(organism, task, "sae") / "candidates").top(kept)
        )
    return made


def table(reports: dict[str, Any], metric: str, marked: Sequence[str] = ()) -> list[str]:
    """One row a task, one column an arm, as Markdown; tasks that the rule was settled on are marked."""
    columns = ("base", "plain", "caft_pca", "caft_sae", "random", "top_k")
    return [
        "| intended, spurious | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(
            f"| {', '.join(topics_of(task))}{' *' * (task in marked)} | "
            + " | ".join(str(report.interval(arm, metric)) if arm in report.arms else "–" for arm in columns)
            + " |"
            for task, report in reports.items()
        ),
    ]


def bars(reports: dict[str, Any]) -> list[str]:
    """What is asked of the table, whether it holds, and the figures, as Markdown."""
    lines = ["| bar | holds | figures |", "|---|---|---|"]

    def row(what: str, holds: bool, figures: str) -> None:
        lines.append(f"| {what} | {'yes' if holds else '**no**'} | {figures} |")

    if (gender := reports.get("gender")) is not None:
        plain = gender.interval("plain", "intended")
        row("gender: plain at most 30 % out of distribution", plain.mean <= 0.3, str(plain))
        for bar, name in ((0.76, "the paper's figure"), (0.9, "the aim")):
            caft = gender.interval("caft_sae", "intended") if "caft_sae" in gender.arms else None
            what = f"gender: CAFT with latents at least {bar:.0%} ({name})".replace("%", " %")
            row(what, caft is not None and caft.mean >= bar, str(caft or "–"))
    fooled = {
        task: report
        for task, report in reports.items()
        if task != "gender" and report.interval("plain", "intended").mean < 0.5
    }
    for arm in ("caft_sae", "caft_pca") if fooled else ():
        tried = {task: report for task, report in fooled.items() if arm in report.arms}
        better = [
            task
            for task, report in tried.items()
            if report.interval(arm, "intended").low > report.interval("plain", "intended").high
        ]
        solved = [task for task, report in tried.items() if report.interval(arm, "intended").mean >= 0.9]
        kept = [
            task
            for task, report in tried.items()
            if report.interval(arm, "in_distribution").mean
            >= report.interval("plain", "in_distribution").mean - 0.02
        ]
        of = f"of the {len(fooled)} pairs that fool plain fine-tuning"
        row(
            f"{arm}: better than plain, intervals apart, on three quarters {of}",
            len(better) >= 0.75 * len(fooled),
            f"{len(better)}",
        )
        row(f"{arm}: at 90 % or more on a third {of}", len(solved) >= len(fooled) / 3, f"{len(solved)}")
        row(
            f"{arm}: in distribution within 2 points of plain on all {of}",
            len(kept) == len(fooled),
            f"{len(kept)}",
        )
    return lines


def page(organism: str, reports: dict[str, Any], pages: int) -> list[str]:
    """One organism's part of the committed result, as Markdown."""
    return [
        f"## {organism}",
        "",
        f"{len(SEEDS[organism])} seeds; {pages} pages of the test split out of and as many in distribution for each.",
        "",
        "Out of distribution, answers to the intended question:",
        "",
        *table(reports, "intended", SETTLED_ON if organism == ORGANISM else ()),
        "",
        "In distribution, right answers:",
        "",
        *table(reports, "in_distribution", SETTLED_ON if organism == ORGANISM else ()),
        "",
        "What is asked of it:",
        "",
        *bars(reports),
        "",
        "What was chosen on seed 0:",
        "",
        *(
            f"- {', '.join(topics_of(task))}, {method}: "
            f"{', '.join(f'`{name}`' for name in cl.ConceptSet.load(folder).names) if folder.is_dir() else 'nothing qualified'}"
            for task in reports
            for method in ("pca", "sae")
            for folder in (choices(organism, task, method) / "chosen",)
        ),
        "",
    ]


def measure(wanted: Sequence[tuple[str, str]], out: Path, pages: int) -> None:
    """Run every arm of some organisms' tasks, and write the committed result after each."""
    reports: dict[str, dict[str, Any]] = {}
    for organism, task in wanted:
        reports.setdefault(organism, {})[task] = cl.experiment(
            cl.load(organism),
            arms(organism, task, SEEDS[organism]),
            cl.task(f"{organism}/{task}", split="test"),
            seeds=SEEDS[organism],
            n=pages,
            n_in_distribution=pages,
            out=out / organism / task,
            **TRAINING,
        )
        parts = [
            "# Spurious correlations: CAFT with PCA, with SAE latents, and its controls",
            "",
            f"Made by `make bench-spurious` on {machine()}: {sum(map(len, reports.values()))} of "
            f"{len(SEEDS) * len(TASKS)} tasks on two organisms. 95 % intervals over seeds and pages.",
            "",
            ARMS,
            "",
            *(line for paragraph in HOW_CHOSEN for line in (paragraph, "")),
            *(line for name, of in reports.items() for line in page(name, of, pages)),
        ]
        with atomic_path(HERE / "results" / "spurious.md") as written:
            written.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
        write_json(
            HERE / "results" / "spurious.json",
            {name: {task: report.to_json() for task, report in of.items()} for name, of in reports.items()},
        )
    print("\n".join(parts))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--register", action="store_true", help="only find candidates on seed 0 and choose")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--organisms", nargs="+", default=list(SEEDS), choices=SEEDS, metavar="ORGANISM")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-spurious"))
    parser.add_argument("--pages", type=int, default=500, help="out of and in distribution, an arm and seed")
    options = parser.parse_args()
    wanted = [(organism, task) for organism in options.organisms for task in options.tasks]
    if options.register:
        for organism, task in wanted:
            register(organism, task, options.out / organism)
        return
    registered = [
        (organism, task) for organism, task in wanted if choices(organism, task, "sae").parent.is_dir()
    ]
    for organism, task in sorted({*wanted} - {*registered}):
        print(f"{organism}, {task}: not run, nothing is registered for it (--register).", flush=True)
    measure(registered, options.out, options.pages)


if __name__ == "__main__":
    main()
