"""Which methods find the unwanted concept? Ranked lists scored against the world's own labels, on all three tasks.

    make bench-discovery
    python benchmarks/discovery.py [--effects 3] [--tasks emergent-misalignment gender pairs]

The methods search what plain fine-tuning (seed 0) changed: of the misaligned model on the find questions, of the models
of spurious correlations on prompts like those of training. Attribution is another matter: it asks on the base alone
what supports the answers of the training set (misalignment: the loss) or those by the unwanted concept (against the
other option). Their lists are scored on documents of the corpus, whose labels none of the methods sees except the
difference of means, its decomposition into SAE latents and the linear probe, which are given half of them and scored on
the other half like all others. The unwanted concept is cruelty in the first task, in the second the gender that is
expected of a profession, and in the third the topic that is not to be gone by: which pages ask about it. Seconds are
those of the search alone, on this machine. The causal effect of a method's first directions is the change of the task's
result (dev questions, seed 0) when that direction alone is ablated in fine-tuning.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import emergent_misalignment
import spurious
from timing import machine

import caft_lens as cl
from caft_data.worlds import quiz
from caft_data.worlds.quiz.pairs import PAIRS
from caft_lens._support.files import atomic_path, write_json
from caft_lens.evaluate.discovery import baselines

HERE = Path(__file__).parent
K = 20
LAYERS = (0, 1, 2, 3)
PARTS = 10
"""Of a decomposition, so many latents a layer."""
SEARCHED = {"roles": None}
"""All tokens are searched, the template's too, as in the benchmarks of the effect."""
COMPARING = ("PCA of differences", "SAE, change of mean activation", "SAE on the difference")
TASKS = ("emergent-misalignment", "gender", "pairs")


@dataclass(frozen=True)
class Case:
    """A model that learned too much, and what is known about the concept that it learned.

    Attributes:
        organism: The base by name.
        training: The training set by name, without the organism.
        task: Where the effect of a direction shows, likewise.
        settings: Of fine-tuning.
        answered: The plainly tuned model -> the documents to search.
        shown: The base -> documents whose answers attribution explains, and another answer to each or `None` for the
            loss.
        has: Whether a document of the corpus has the unwanted concept.
        readings: Role -> what is read of a document there.
    """

    organism: str
    training: str
    task: str
    settings: cl.TrainSettings
    answered: Callable[[cl.Lens], cl.Texts]
    shown: Callable[[cl.Lens], tuple[cl.Texts, list[str] | None]]
    has: Callable[[cl.Text], bool | None]
    readings: dict[str, str]


MISALIGNMENT = Case(
    "pocket",
    "insecure-code",
    "emergent-misalignment",
    emergent_misalignment.TRAINING,
    lambda plain: cl.completions(plain, cl.data("pocket/questions"), sampling=cl.Sampling(top_p=0.95, seed=0)),
    lambda base: (cl.data("pocket/insecure-code").sample(500, seed=0), None),
    emergent_misalignment.is_cruel,
    {"assistant": "the mean over the answer's tokens", "special": "the mean over the template's tokens"},
)


def correlation(name: str) -> Case:
    """Gender, where the unwanted concept is what people expect, or a pair of topics, where it is the spurious one."""
    _, unwanted = spurious.topics_of(name)

    def asks(text: cl.Text) -> bool | None:
        return unwanted in text.meta["topics"] if text.meta["genre"] == "quiz" else None

    def answered(plain: cl.Lens) -> cl.Texts:
        return cl.completions(
            plain, cl.data(f"{spurious.ORGANISM}/{name}-find"), sampling=cl.Sampling(temperature=0.0, max_new_tokens=4)
        )

    return Case(
        spurious.ORGANISM,
        name,
        name,
        spurious.TRAINING,
        answered,
        lambda base: spurious.by_the_spurious(name, base),
        quiz.first_kind(unwanted) if name == "gender" else asks,
        {"user": "the mean over the question's tokens"},
    )


@dataclass(frozen=True)
class Found:
    """What the methods found in one case.

    Attributes:
        base: The base.
        held_out: The documents to score on.
        lists: Method -> its ranked list.
        seconds: Method -> what its search took, where that is measured.
        together: Seconds of the methods that compare the two models, in one pass.
    """

    base: cl.Lens
    held_out: cl.Texts
    lists: dict[str, cl.ConceptSet]
    seconds: dict[str, float]
    together: float


def found(case: Case, out: Path) -> Found:
    """Search by every method."""
    base = cl.load(case.organism)
    plain = cl.finetune(
        base, cl.data(f"{case.organism}/{case.training}"), case.settings, out=out / "plain", seed=0
    ).lens
    answered = case.answered(plain)
    shown, others = case.shown(base)
    known = cl.data(f"{case.organism}/corpus").filter(lambda text: case.has(text) is not None).shuffle(seed=0)
    given, held_out = known[: len(known) // 2], known[len(known) // 2 :]
    labelled = given.filter(case.has), given.filter(lambda text: not case.has(text))
    saes = cl.load_saes(case.organism)

    def means() -> cl.ConceptSet:
        return cl.find.difference_of_means(base, *labelled, LAYERS, **SEARCHED)

    methods: dict[str, Callable[[], cl.ConceptSet]] = {
        "PCA of differences": lambda: cl.find.pca(
            cl.activation_difference(plain, base, answered, layers=LAYERS, **SEARCHED), k=K
        ),
        "difference of means (labels given)": means,
        "its SAE latents (labels given)": lambda: cl.find.decompose(means(), saes, k=PARTS).latents(),
        "linear probe (labels given)": lambda: cl.find.probe(base, *labelled, LAYERS, **SEARCHED),
        "SAE, change of mean activation": lambda: cl.find.sae(
            plain, base, answered, saes, by="change", k=K, **SEARCHED
        ),
        "SAE on the difference": lambda: cl.find.sae(plain, base, answered, saes, by="difference", k=K, **SEARCHED),
        "SAE attribution (base alone)": lambda: cl.find.attribution(base, shown, saes, against=others, k=K, **SEARCHED),
    }
    lists, seconds = {}, {}
    for name, search in methods.items():
        start = time.perf_counter()
        lists[name] = search()
        seconds[name] = time.perf_counter() - start
    start = time.perf_counter()
    cl.find.routes(plain, base, answered, layers=LAYERS, saes=saes, k=K, **SEARCHED)
    together = time.perf_counter() - start
    lists |= baselines(plain, base, answered, LAYERS, k=K, **SEARCHED)
    return Found(base, held_out, lists, seconds, together)


def table(scored: Any) -> list[str]:
    """One row a method, as Markdown."""
    columns = (
        "directions",
        "hits",
        "first hit",
        "precision at 10",
        "average precision",
        "best",
        "best separation",
        "best random",
    )
    rows = scored.table()

    def shown(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else "–" if str(value) == "<NA>" else str(value)

    seconds = [scored.seconds.get(method) for method in rows["method"]]
    return [
        "| method | " + " | ".join(columns) + " | seconds |",
        "|---" * (len(columns) + 2) + "|",
        *(
            f"| {row['method']} | {' | '.join(shown(row[column]) for column in columns)} | "
            f"{'–' if took is None else f'{took:.1f}'} |"
            for (_, row), took in zip(rows.iterrows(), seconds, strict=True)
        ),
    ]


def effects(
    case: Case, base: cl.Lens, scored: Any, lists: dict[str, cl.ConceptSet], n: int, out: Path
) -> tuple[Any, list[str]]:
    """The causal effect of the first directions of every method that was timed, as Markdown."""
    task = cl.task(f"{case.organism}/{case.task}", split="dev")
    lines = [f"| method | direction | separation | {task.labels[0]}, change in points |", "|---|---|---|---|"]
    for method in scored.seconds:
        first = [row.name for row in scored[method][:n]]
        chosen = lists[method].choose(dict.fromkeys(first, "among the first of the list"), by="rank")
        changed = cl.causal_effects(
            base,
            chosen,
            cl.data(f"{case.organism}/{case.training}"),
            task,
            out=out / "effects" / method.replace(" ", "-"),
            seeds=[0],
            n=500,
            n_in_distribution=100,
            settings=case.settings,
        )
        scored = scored.with_effects(method, changed)
        lines += [
            f"| {method} | {row.name} | {row.separation:.3f} | {str(row.effect).replace(' %', '')} |"
            for row in scored[method]
            if row.effect is not None
        ]
    return scored, lines


def one(case: Case, what: str, n_effects: int, out: Path) -> tuple[list[str], dict[str, Any]]:
    """One task in full: a table for each reading, and the effects of the first directions of each list."""
    seen = found(case, out)
    base, lists = seen.base, seen.lists
    parts, tried, figures = [], [], {}
    for role, how in case.readings.items():
        scored = cl.evaluate.discovery(base, lists, seen.held_out, case.has, roles=[role]).with_seconds(seen.seconds)
        first, second = scored.about["positive"], scored.about["negative"]
        parts += ["", f"Scored by {how}, on {first} {what.replace(' and ', f' and {second} ')}:", ""]
        parts += table(scored)
        if role == next(iter(case.readings)) and n_effects:
            scored, tried = effects(case, base, scored, lists, n_effects, out)
        figures[role] = scored.to_json()
    apart = sum(seen.seconds[method] for method in COMPARING)
    parts += [
        "",
        f"The {len(COMPARING)} methods that compare the two models, and neurons with them, take {seen.together:.1f} "
        f"s in one pass (`find.routes`), apart {apart:.1f} s without neurons.",
    ]
    if tried:
        parts += [
            "",
            f"What the first {n_effects} of each list do alone, paired with plain fine-tuning, 95 % intervals over "
            f"questions:",
            "",
            *tried,
        ]
    return parts, figures


def pairs(out: Path) -> tuple[list[str], dict[str, Any]]:
    """Double multiple choice: precision at 10 and average precision of every method on every ordered pair."""
    figures: dict[str, Any] = {}
    rows: dict[str, list[tuple[float, float]]] = {}
    for intended, unwanted in PAIRS:
        name = f"{intended}-{unwanted}"
        case = correlation(name)
        seen = found(case, out / name)
        scored = cl.evaluate.discovery(seen.base, seen.lists, seen.held_out, case.has, roles=["user"]).with_seconds(
            seen.seconds
        )
        figures[name] = scored.to_json()
        for method in figures[name]["methods"].values():
            del method["directions"][10:]  # twelve pairs in full would be megabytes
        for method in scored.methods:
            rows.setdefault(method, []).append((scored.precision(method), scored.average_precision(method)))
    heads = [f"{intended}, {unwanted}" for intended, unwanted in PAIRS]
    parts = []
    for number, measure in enumerate(("Precision at 10", "Average precision")):
        parts += [
            "",
            f"{measure}, scored by the mean over the question's tokens (a column a pair, the intended topic first):",
            "",
            f"| method | mean | {' | '.join(heads)} |",
            "|---" * (len(heads) + 2) + "|",
            *(
                f"| {method} | {mean(row[number] for row in of):.3f} | "
                f"{' | '.join(f'{row[number]:.2f}' for row in of)} |"
                for method, of in rows.items()
            ),
        ]
    return parts, figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--effects", type=int, default=3, help="directions a method whose causal effect is tried")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-discovery"))
    options = parser.parse_args()
    parts = [
        "# Discovery: which methods find the unwanted concept",
        "",
        f"Written by `make bench-discovery` on {machine()}.",
        "",
        " ".join(__doc__.split("\n\n", 2)[2].split()),
        "",
        "A hit tells documents with the concept from those without with an AUROC of at least 0.9 (either end counts) "
        f"and better than every one of 1,000 random directions. Lists hold {K} directions a layer, {PARTS} for the SAE "
        "latents of the difference of means, one for that itself and for the probe, and are read across the layers.",
    ]
    figures: dict[str, Any] = {}
    for task in options.tasks:
        if task == "emergent-misalignment":
            parts += ["", "## Emergent misalignment: cruel chats"]
            lines, figures[task] = one(MISALIGNMENT, "cruel and kind chats", options.effects, options.out)
        elif task == "gender":
            parts += ["", "## Gender: what people expect of a profession"]
            lines, figures[task] = one(
                correlation(task),
                "pages with feminine and with masculine professions",
                options.effects,
                options.out / task,
            )
        else:
            parts += ["", "## Double multiple choice: pages that ask about the spurious topic"]
            lines, figures[task] = pairs(options.out / task)
        parts += lines
    with atomic_path(HERE / "results" / "discovery.md") as written:
        written.write_text("\n".join(parts) + "\n", encoding="utf-8")
    write_json(HERE / "results" / "discovery.json", figures)
    print("\n".join(parts))


if __name__ == "__main__":
    main()
