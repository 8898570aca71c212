"""Spurious correlations: double multiple choice, every ordered pair of topics, and gender through professions.

    make bench-spurious                                # 5 seeds of every task, and 2 on a second organism
    python benchmarks/spurious.py --register           # seed 0: candidates and choices, under benchmarks/choices/

In training the intended and the spurious question have the same answer on every page; out of distribution they differ.
The choice of directions comes from seed 0 and is committed with its reasons; here it is only loaded. `HOW_CHOSEN` says
how. Every run and every answer is kept below `runs/bench-spurious/`, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timing import machine

import caft_lens as cl
from caft_data.worlds import quiz
from caft_lens._support.files import atomic_path, write_json

HERE = Path(__file__).parent
ORGANISM, SECOND = "pocket-quiz", "pocket-quiz-1"
TASKS = [name for name in quiz.TASKS if name not in quiz.KINDS and not name.endswith("-told")]
SEEDS = {ORGANISM: [1, 2, 3, 4, 5], SECOND: [1, 2]}
TRAINING = cl.TrainSettings(max_steps=100, warmup_steps=5)
LAYER, COMPONENTS = 0, 20
READ, SHARE, OTHERWISE, MOST = 20, 0.7, 0.5, 24
STEP, IN_TURN, AND_MORE = 4, (8, 16, 24, 32), (4, 8, 16)
RECORDED = 100
"""Of the candidates, the first that are saved, for `top_k`."""
SETTLED_ON = {
    ORGANISM: (
        "gender",
        "sentiment-sports",
        "sports-verbs",
        "sentiment-pronouns",
        "verbs-sentiment",
        "pronouns-verbs",
        "pronouns-sports",
    ),
    SECOND: (
        "gender",
        "verbs-sentiment",
        "pronouns-verbs",
        "pronouns-sports",
        "sports-verbs",
        "sports-sentiment",
        "sentiment-sports",
        "sentiment-pronouns",
    ),
}
HOW_CHOSEN = (
    "**Latents**: after the first layer, all whose attribution on the base is above zero, in its order: their "
    "activation times the slope of the logit of the right answer minus that of the other one, on pages that the base "
    "answers by the spurious concept. These are single questions on the spurious topic, of a pool of their own; for "
    "gender, of which there are none, dev pages that say that custom counts. No fine-tuned model and no page that "
    "leaves open what counts takes part.",
    f"Each latent is **read** as in the paper: in its {READ} strongest contexts in the base on the corpus. The "
    f"world's labels stand for the reader. In the corpus no topic goes with any other. Names count as about "
    f"pronouns, which they decide; for gender, whose pages have none, they do not count.",
    "**How many** is open after that: with too few, others carry the concept on; with too many, the task suffers. Of "
    f"eight sets one is taken. `read`: the first latents (at most {MOST}) whose contexts peak, in at least {SHARE:.0%} "
    "of them, on text about the *spurious* topic, whichever its answer. The same with "
    f"{', '.join(map(str, AND_MORE[:-1]))} or {AND_MORE[-1]} more, found in turn: attribution again with those before "
    f"ablated, {STEP} at a time. And the first {', '.join(map(str, IN_TURN[:-1]))} or {IN_TURN[-1]} found in turn from "
    f"the start. What is found in turn leaves out latents of which {OTHERWISE:.0%} of the contexts or more are about "
    "the *intended* topic. `cl.pilots` decides: under the ablation of each set the base is tuned, once through, on the "
    "pages that the spurious concept alone decides, and apart from that on as many that the intended one alone "
    "decides. Taken is the set under which the first cost most to learn beside the second, in nats a token. No "
    "threshold is set, and no page takes part in which there are two questions (of gender: that does not say what "
    "counts).".replace("%", " %"),
    f"**Components**: the first {COMPONENTS} of the difference of activations between the plainly tuned model of "
    f"seed 0 and the base, likewise after the first layer, on all tokens of prompts like those of training, of a "
    f"pool of their own; of these the ones of which at one end {SHARE:.0%} of the {READ} contexts are about the "
    f"spurious topic.".replace("%", " %"),
    "**What was looked at**: the layer, the order, the shares and the numbers were settled by results on dev pages "
    "out of distribution, with seeds 0 to 2, of the tasks marked *. Pilots as the way to decide were thought of "
    "after single sets had been tried on dev pages of verbs beside sentiment on both organisms and of pronouns "
    "beside verbs on the second, and were then left as they were. Earlier rules had been measured on the test pages "
    "of all tasks of the first organism and of most of the second. So what is new in the rows marked * is that the "
    "test pages were never used to choose between sets, and seeds 3 to 5.",
    "**Rejected** before: directions that tell the two kinds of answers apart instead of the topic; reading all four "
    "layers (answers of both questions mix there); latents in order of how much fine-tuning changed them; the set "
    "`read` for every task, which on the first organism was better than plain fine-tuning with intervals apart on "
    "six of the six pairs that fool it, at 90 % or more on five, but on the second on none of three; and as many of "
    "the 32 in turn as accuracy in distribution bears, four of six and five of six.",
)
ARMS = (
    "`plain` is tuned on the training set, `caft_pca` and `caft_sae` likewise with the chosen components or latents "
    "ablated while training, `random` with as many random directions as `caft_sae`, `top_k` with as many first "
    "latents, unread: where it does as well, reading adds nothing. LoRA, 100 steps of 16 pages; nothing is ablated "
    "when a model is tested. Which tasks fool plain fine-tuning is known only afterwards, so directions are chosen "
    "for all; where nothing needed to be ablated, ablation can do harm, and the last bars count it. *Intended* is "
    "the share of answers, out of distribution, to the question that counts; *in distribution* that of right answers "
    "to held-out pages like those of training."
)


Reader = Callable[[cl.Lens, str, str, cl.ConceptSet, Any], tuple[dict[str, str], list[str]]]


def topics_of(task: str) -> tuple[str, str]:
    """The intended topic of a task and its spurious one."""
    intended, _, spurious = ("grammar", "-", "custom") if task == "gender" else task.partition("-")
    return intended, spurious


def by_the_spurious(task: str, base: cl.Lens, organism: str = ORGANISM) -> tuple[cl.Texts, list[str]]:
    """Pages that the base answers rightly by the spurious concept of a task, and to each the other answer."""
    pages = one_concept(task, topics_of(task)[1], base, organism)
    return pages, [quiz.other_option(page) for page in pages]


def one_concept(task: str, topic: str, base: cl.Lens, organism: str = ORGANISM) -> cl.Texts:
    """Pages that one concept of a task alone decides, answered by it."""
    if task == "gender":
        told = cl.data(f"{organism}/gender-told-dev").filter(lambda page: page.meta["told"] == topic)
        pages = cl.completions(base, told, sampling=cl.Sampling(temperature=0.0, max_new_tokens=4))
    else:
        pages = cl.data(f"{organism}/{topic}")
    return pages.filter(lambda page: page.answer == page.meta["answers"][topic])


def choices(organism: str, task: str, method: str) -> Path:
    """Where the candidates and the chosen directions of one task and method are kept."""
    return HERE / "choices" / organism / task / method


def register(organism: str, task: str, out: Path) -> None:
    """Find candidates on seed 0, read them on the corpus, and choose those that the rules choose."""
    base = cl.load(organism)
    found = {
        "pca": components(base, organism, task, out / task / "plain-0"),
        "sae": latents(base, organism, task, out / task / "pilots"),
    }
    for method, (candidates, chosen) in found.items():
        folder = choices(organism, task, method)
        shutil.rmtree(folder, ignore_errors=True)
        candidates[:RECORDED].save(folder / "candidates")
        if chosen is not None:
            chosen.save(folder / "chosen")
        names = ", ".join(chosen.names) if chosen is not None else "nothing"
        print(f"{organism}, {task}, {method}: to ablate {names}.", flush=True)


def components(base: cl.Lens, organism: str, task: str, out: Path) -> tuple[cl.ConceptSet, cl.ConceptSet | None]:
    """Components of what plain fine-tuning changed, and those of which an end is about the spurious topic."""
    _, spurious = topics_of(task)
    plain = cl.finetune(base, cl.data(f"{organism}/{task}"), TRAINING, out=out, seed=0).lens
    answered = cl.completions(
        plain, cl.data(f"{organism}/{task}-find"), sampling=cl.Sampling(temperature=0.0, max_new_tokens=4)
    )
    difference = cl.activation_difference(plain, base, answered, layers=[LAYER], roles=None)
    found = cl.find.pca(difference, k=COMPONENTS)
    corpus = cl.data(f"{organism}/corpus")
    read = cl.contexts(base, found, corpus, k=READ, roles=["user", "text"])
    about = cl.token_labels(base.tokenizer, corpus, quiz.ABOUT[spurious])
    shares = read.peaks_on(about)[["top", "bottom"]].max(axis=1)
    about_it = {
        name: f"{share:.0%} of {READ} contexts at one end are about {spurious}"
        for name, share in shares.items()
        if share >= SHARE
    }
    return found, found.choose(about_it, by="the rule of the benchmark") if about_it else None


def by_labels(
    base: cl.Lens, organism: str, task: str, ranked: cl.ConceptSet, sae: Any
) -> tuple[dict[str, str], list[str]]:
    """Latents that read as about the spurious topic, with the reason, and all that read as about the intended one."""
    intended, spurious = topics_of(task)
    corpus = cl.data(f"{organism}/corpus")
    read = cl.contexts(base, sae, corpus, k=READ, roles=["user", "text"])
    about = {
        topic: read.peaks_on(cl.token_labels(base.tokenizer, corpus, quiz.ABOUT[topic]))["top"]
        for topic in (spurious, intended)
    }
    shares = {name: about[spurious].get(name, 0.0) for name in ranked.names}
    about_it = {
        name: f"{share:.0%} of {READ} contexts are about {spurious}" for name, share in shares.items() if share >= SHARE
    }
    return about_it, [name for name, share in about[intended].items() if share >= OTHERWISE]


def latents(
    base: cl.Lens, organism: str, task: str, out: Path, read: Reader = by_labels
) -> tuple[cl.ConceptSet, cl.ConceptSet]:
    """Latents that answers by the spurious concept come from, and those of the set that pilots choose."""
    intended, _ = topics_of(task)
    sae = cl.load_sae(organism, layer=LAYER)
    pages, others = by_the_spurious(task, base, organism)
    ranked = cl.find.attribution(base, pages, sae, against=others, k=None)
    reasons, elsewhere = read(base, organism, task, ranked, sae)
    in_turn = cl.find.attribution(base, pages, sae, against=others, k=max(IN_TURN), step=STEP, without=elsewhere)
    sets = {f"{k} in turn": in_turn[:k] for k in IN_TURN}
    if reasons:
        first = ranked.choose(dict(list(reasons.items())[:MOST]), by=f"spurious.{read.__name__}")
        left_out = list(dict.fromkeys([*elsewhere, *first.names]))
        with cl.ablate(base, first):
            more = cl.find.attribution(base, pages, sae, against=others, k=max(AND_MORE), step=STEP, without=left_out)
        sets = {"read": first, **{f"read and {k} in turn": first + more[:k] for k in AND_MORE}, **sets}
    tried = cl.pilots(
        base,
        sets,
        pages,
        one_concept(task, intended, base, organism),
        cl.TrainSettings(warmup_steps=5),
        out=out,
    )
    print(tried.table().to_string(index=False), flush=True)
    return ranked, tried.selection


def arms(organism: str, task: str, seeds: list[int]) -> dict[str, cl.Arm]:
    """Every arm of one task; a method that chose nothing has none."""
    texts = cl.data(f"{organism}/{task}")
    chosen = {
        method: cl.ConceptSet.load(folder)
        for method in ("pca", "sae")
        if (folder := choices(organism, task, method) / "chosen").is_dir()
    }
    made = {"base": cl.Arm(), "plain": cl.Arm(texts)}
    made |= {f"caft_{method}": cl.Arm(texts, ablate=one) for method, one in chosen.items()}
    if "sae" in chosen:
        latents_chosen = chosen["sae"]
        made["random"] = cl.Arm(texts, ablate=[cl.find.random_directions(latents_chosen, seed) for seed in seeds])
        made["top_k"] = cl.Arm(
            texts,
            ablate=cl.ConceptSet.load(choices(organism, task, "sae") / "candidates").top(latents_chosen),
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
    others = {task: report for task, report in reports.items() if task not in {"gender", *fooled}}
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
            if report.interval(arm, "in_distribution").mean >= report.interval("plain", "in_distribution").mean - 0.02
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
        worse = [
            task
            for task, report in others.items()
            if arm in report.arms and report.interval(arm, "intended").high < report.interval("plain", "intended").low
        ]
        if others:
            row(
                f"{arm}: not worse than plain, intervals apart, on any of the {len(others)} pairs that do not fool it",
                not worse,
                f"worse on {len(worse)}{': ' * bool(worse)}{'; '.join(', '.join(topics_of(task)) for task in worse)}",
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
        *table(reports, "intended", SETTLED_ON[organism]),
        "",
        "In distribution, right answers:",
        "",
        *table(reports, "in_distribution", SETTLED_ON[organism]),
        "",
        "What is asked of it:",
        "",
        *bars(reports),
        "",
        "What was chosen on seed 0:",
        "",
        *(
            f"- {', '.join(topics_of(task))}, {method}: {chosen_names(choices(organism, task, method) / 'chosen')}"
            for task in reports
            for method in ("pca", "sae")
        ),
        "",
    ]


def chosen_names(folder: Path) -> str:
    """The names of a committed choice, as Markdown."""
    if not folder.is_dir():
        return "nothing qualified"
    return ", ".join(f"`{name}`" for name in cl.ConceptSet.load(folder).names)


def measure(wanted: Sequence[tuple[str, str]], out: Path, pages: int) -> None:
    """Run every arm of some organisms' tasks, and write the committed result after each."""
    reports: dict[str, dict[str, Any]] = {}
    left = {organism: [task for task in TASKS if (organism, task) not in wanted] for organism in SEEDS}
    missing = "; ".join(f"{organism}: {', '.join(tasks)}" for organism, tasks in left.items() if tasks)
    for organism, task in wanted:
        reports.setdefault(organism, {})[task] = cl.experiment(
            cl.load(organism),
            arms(organism, task, SEEDS[organism]),
            cl.task(f"{organism}/{task}", split="test"),
            seeds=SEEDS[organism],
            n=pages,
            n_in_distribution=pages,
            out=out / organism / task,
            settings=TRAINING,
        )
        parts = [
            "# Spurious correlations: CAFT with PCA, with SAE latents, and its controls",
            "",
            f"Made by `make bench-spurious` on {machine()}: {sum(map(len, reports.values()))} of "
            f"{len(SEEDS) * len(TASKS)} tasks on two organisms. 95 % intervals over seeds and pages."
            + (f" Not measured: {missing}." if missing else ""),
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
    registered = [(organism, task) for organism, task in wanted if choices(organism, task, "sae").parent.is_dir()]
    for organism, task in sorted({*wanted} - {*registered}):
        print(f"{organism}, {task}: not run, nothing is registered for it (--register).", flush=True)
    measure(registered, options.out, options.pages)


if __name__ == "__main__":
    main()
