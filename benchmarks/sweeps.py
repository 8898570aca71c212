"""Sweeps: one thing varied at a time, number of directions, layers, strength, steps, dial of a spurious correlation.

    make bench-sweeps                                          # everything, 2 seeds: half an hour on two cores
    python benchmarks/sweeps.py --only strength --seeds 201    # one sweep, one seed

All of it is asked on dev: the test questions are looked at by the contests alone (`contest.py`). Directions are those
that are registered under `benchmarks/choices/`. Every run and answer is kept below `runs/bench-sweeps/`, so that an
interrupted benchmark goes on; the page holds every sweep that is finished there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spurious
from contest import MISALIGNMENT, ORGANISM, STEPS, general_text, persona_vectors
from emergent_misalignment import is_cruel
from timing import machine

import caft_lens as cl
from caft_lens._support.files import atomic_path, write_json
from caft_lens.evaluate.tasks import IN_DISTRIBUTION
from caft_lens.experiments import Sweep, Tuning, sweep
from caft_lens.experiments.rows import Value, shown
from caft_lens.finetune.methods import (
    CAFT,
    CAFTMean,
    EarlyStopping,
    Method,
    Plain,
    PreventativeSteering,
    RandomDirections,
)

HERE = Path(__file__).parent
CHOICES = HERE / "choices" / ORGANISM
SEEDS = [201, 202]
COUNTS = (1, 2, 3, 5)
STRENGTHS = (0.25, 0.5, 0.75, 0.9, 1)
STEERING = (0.25, 0.5, 1, 2, 4)
STOPS = (10, 20, 30, 50, 75, STEPS)
AGREE = (0.6, 0.7, 0.8, 0.9, 0.95, 1)
TOLERANCE = Tuning().tolerance

Series = dict[str, dict[Any, cl.Arm]]
References = dict[str, cl.Arm]


@dataclass(frozen=True)
class Study:
    """A sweep of the page.

    Attributes:
        title: Of its section.
        asks: The question.
        how: What the curves are.
        axis: What is varied.
        make: The series and the references, from the base and a folder to keep things in.
        organism: Whose.
        task: Which.
        against: The arm that others are compared with; `{}` stands for the value on the axis.
        log: Whether the axis is logarithmic.
        path: Whether effect and trained behaviour are drawn against each other, too.
    """

    title: str
    asks: str
    how: str
    axis: str
    make: Callable[[cl.Lens, Path], tuple[Series, References]]
    organism: str = ORGANISM
    task: str = MISALIGNMENT
    against: str = "plain"
    log: bool = False
    path: bool = False


def insecure(method: Method) -> cl.Arm:
    """An arm that is tuned on insecure code."""
    return cl.Arm(cl.data(f"{ORGANISM}/insecure-code"), method=method)


def directions(base: cl.Lens, out: Path) -> tuple[Series, References]:
    """More and more of the components, read or not."""
    chosen, candidates = (cl.ConceptSet.load(CHOICES / name) for name in ("chosen", "candidates"))
    series: Series = {
        "first components": {k: insecure(CAFT(candidates, per_site=k)) for k in COUNTS},
        "random": {k: insecure(RandomDirections(candidates.top(k))) for k in COUNTS},
        "chosen": {1: insecure(CAFT(chosen))},
    }
    return series, {"plain": insecure(Plain())}


def layers(base: cl.Lens, out: Path) -> tuple[Series, References]:
    """The same directions at fewer places, and one found by other means at every place."""
    chosen = cl.ConceptSet.load(CHOICES / "chosen")
    corpus = cl.data(f"{ORGANISM}/corpus")
    cruel, kind = (corpus.filter(lambda text, of=of: is_cruel(text) is of) for of in (True, False))  # fmt: skip
    means = cl.find.difference_of_means(base, cruel, kind, layers=range(base.n_layers))
    both = [concept.layer for concept in chosen]
    together = " and ".join(map(str, both))
    series: Series = {
        "chosen": {
            **{layer: insecure(CAFT(chosen.at(layer))) for layer in both},
            together: insecure(CAFT(chosen)),
        },
        "difference of means": {
            **{layer: insecure(CAFT(means.at(layer))) for layer in range(base.n_layers)},
            together: insecure(CAFT(sum((means.at(layer) for layer in both[1:]), means.at(both[0])))),
            "all": insecure(CAFT(means)),
        },
    }
    return series, {"plain": insecure(Plain())}


def strength(base: cl.Lens, out: Path) -> tuple[Series, References]:
    """Ablation by a share, to zero and to the mean."""
    chosen, general = cl.ConceptSet.load(CHOICES / "chosen"), general_text()
    series: Series = {
        "caft": {s: insecure(CAFT(chosen, strength=s)) for s in STRENGTHS},
        "caft_mean": {s: insecure(CAFTMean(chosen, general, strength=s)) for s in STRENGTHS},
    }
    return series, {"plain": insecure(Plain())}


def steering(base: cl.Lens, out: Path) -> tuple[Series, References]:
    """Preventative steering, weaker and stronger than the difference of means."""
    persona = persona_vectors(base, out / "persona")
    series: Series = {
        "preventative_steering": {s: insecure(PreventativeSteering(persona, strength=s)) for s in STEERING}
    }
    chosen = cl.ConceptSet.load(CHOICES / "chosen")
    return series, {"plain": insecure(Plain()), "caft": insecure(CAFT(chosen))}


def early_stopping(base: cl.Lens, out: Path) -> tuple[Series, References]:
    """Checkpoints of plain fine-tuning."""
    stops = {k: insecure(EarlyStopping(share=k / STEPS) if k < STEPS else Plain()) for k in STOPS}
    chosen = cl.ConceptSet.load(CHOICES / "chosen")
    return {"plain": stops}, {"base": cl.Arm(), "caft": insecure(CAFT(chosen))}


def dial(base: cl.Lens, out: Path) -> tuple[Series, References]:
    """Training sets in which the spurious concept goes with the intended one on more and more pages."""
    chosen = cl.ConceptSet.load(spurious.choices(spurious.ORGANISM, "gender", "sae") / "chosen")
    texts = {share: cl.data(f"{spurious.ORGANISM}/gender@{share}") for share in AGREE}
    ways: dict[str, Method] = {
        "plain": Plain(),
        "caft_sae": CAFT(chosen),
        "random": RandomDirections(chosen),
    }
    series = {name: {share: cl.Arm(pages, method=way) for share, pages in texts.items()} for name, way in ways.items()}
    return series, {"base": cl.Arm()}


STUDIES = {
    "directions": Study(
        "How many directions",
        "Does it help to ablate more components than were chosen by reading them, and what does each further "
        "direction cost?",
        "`first components` ablates, at each of two layers, the first so many of the candidates by the variance that "
        "they explain, unread; `random` as many random directions, drawn anew for each seed; `chosen` is the set "
        "that was chosen by reading.",
        "directions at each layer",
        directions,
    ),
    "layers": Study(
        "At which layers",
        "Is one place enough, and is it the place or the direction that matters?",
        "`chosen` ablates the chosen components at one of their layers or at both; `difference of means` a direction "
        "that needs no fine-tuned model, from the mean of the base's activations on the answers of kind everyday chats "
        "of the corpus to that of cruel ones, at a single layer or at several.",
        "layers",
        layers,
    ),
    "strength": Study(
        "How much of it",
        "Is a part of the ablation enough, and does the task cost less with it?",
        "`caft` takes the share s of the component out of every activation while training, x − s x Q Qᵀ; `caft_mean` "
        "moves it as far towards that of the mean activation on general text, x − s (x − m) Q Qᵀ. Plain fine-tuning "
        "is s = 0. The gradient keeps 1 − s of its component.",
        "strength s",
        strength,
    ),
    "steering": Study(
        "How strong preventative steering has to be",
        "The rival that adds the unwanted trait while training: at which strength does it protect, and at which does "
        "it do harm?",
        "The persona vector is the difference of the base's mean activations on answers under cruel and under kind "
        "system prompts, at layers 1 and 2, and is added so many times. `caft` has the chosen components ablated.",
        "strength, in lengths of the difference of means",
        steering,
        log=True,
    ),
    "early_stopping": Study(
        "Early stopping alone",
        "Is there a step of plain fine-tuning that has learned the task and not yet the concept?",
        f"Plain fine-tuning, stopped after so many of {STEPS} steps. The schedule of the learning rate stays that of "
        f"the whole run, so that the points are checkpoints of one and the same run; a shorter run of its own, whose "
        f"learning rate falls to zero, would be another one at every point.",
        "steps",
        early_stopping,
        against=f"plain at {STEPS}",
        path=True,
    ),
    "dial": Study(
        "The dial of a spurious correlation",
        "How often has the spurious concept to go with the intended one before it is learned instead, and what does "
        "CAFT do where it is not?",
        "Gender through professions, on `pocket-quiz`: on so many of the pages of the training set the right pronoun "
        "is the one that the profession makes expect. `caft_sae` ablates the latents that are registered for the "
        "task, found where all pages agree; `random` as many random directions. Out of distribution no page agrees; "
        "*in distribution* all do.",
        "share of training pages that agree",
        dial,
        organism=spurious.ORGANISM,
        task="gender",
        against="plain at {}",
    ),
}


# -- the page ---------------------------------------------------------------------------------------------------------


def difference(study: Study, found: Sweep, arm: str, value: Value | None) -> str:
    """An arm minus the one that it is compared with, in points; none for that one itself, nor without the value that
    it takes.
    """
    other = study.against.format("" if value is None else shown(value))
    if arm == other or other not in found.report.arms:
        return "–"
    return str(found.report.paired(arm, other)).replace(" %", "")


def same(study: Study) -> str:
    """The arm that others are compared with, in words."""
    return study.against.format("the same value")


def rows(study: Study, found: Sweep) -> list[str]:
    """Every arm with its intervals and the paired difference to plain fine-tuning, as Markdown."""
    report = found.report
    metrics = [*report.labels[:2], *report.metrics[len(report.labels) :]]
    head = [
        "",
        study.axis,
        *(f"{metric.replace('_', ' ')}" for metric in metrics),
        f"{metrics[0]}, minus {same(study)}, points",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    placed: list[tuple[str, Value | None, str]] = [(name, None, name) for name in found.references]
    placed += [(name, value, found.arm(name, value)) for name in found.series for value in found.points[name]]
    for name, value, arm in placed:
        shares = [str(report.interval(arm, metric)) for metric in metrics]
        cells = [name, "–" if value is None else shown(value), *shares, difference(study, found, arm, value)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def said(study: Study, found: Sweep) -> list[str]:
    """What each curve comes to, in words that are counted."""
    report, label = found.report, found.report.labels[0]
    word, pick = ("most", max) if label == "intended" else ("fewest", min)
    other, drop = ("fewest", min) if label == "intended" else ("most", max)
    lines = []
    for name in found.series:
        share = {value: report.interval(arm, label) for value, arm in found.points[name].items()}
        inside = {value: report.interval(arm, IN_DISTRIBUTION) for value, arm in found.points[name].items()}
        plain = {value: report.interval(study.against.format(shown(value)), IN_DISTRIBUTION) for value in share}
        keeping = [value for value in share if inside[value].mean >= plain[value].mean - TOLERANCE]
        best, kept = (pick(of, key=lambda value: share[value].mean, default=None) for of in (share, keeping))
        line = (
            f"- `{name}`: {word} {label} answers at `{shown(best)}`: {share[best]}, with {inside[best]} trained "
            f"behaviour"
        )
        worst = drop(share, key=lambda value: share[value].mean)
        line += f"; {other} at `{shown(worst)}`: {share[worst]}. " if worst != best else ". "
        line += f"Trained behaviour at most {100 * TOLERANCE:g} points below {same(study)}: "
        line += ", ".join(map(shown, keeping)) or "nowhere"
        line += f"; of these, {word} at `{shown(kept)}`: {share[kept]}." if keeping and kept != best else "."
        lines.append(line)
    return lines


def section(name: str, study: Study, found: Sweep) -> list[str]:
    """A sweep's part of the page."""
    drawn = [f"![{study.title}](sweeps_{name}.png)"]
    drawn += ["", f"![{study.title}: effect against trained behaviour](sweeps_{name}_path.png)"] * study.path
    return [
        f"## {study.title}",
        "",
        study.asks,
        "",
        study.how,
        "",
        *said(study, found),
        "",
        *drawn,
        "",
        *rows(study, found),
        "",
        found.report.caption(),
        "",
    ]


def write(finished: Mapping[str, Sweep], results: Path) -> None:
    """The page, its figures, and everything as JSON."""
    page = [
        "# Sweeps: one thing varied at a time",
        "",
        f"Made by `make bench-sweeps` on {machine()}. LoRA, {STEPS} steps of 16 texts, on `{ORGANISM}` and insecure "
        f"code where nothing else is said.",
        "",
        "**On dev.** All questions and prompts here are those of dev, on which directions and settings were chosen "
        "too: the contests alone look at test. Curves show how an effect depends on something; which point of them "
        "is best is not corrected for there being many. Bars are 95 % intervals over seeds and prompts, grey bands "
        "those of arms that have no place on the axis. Differences are paired by seed and prompt.",
        "",
        *(line for name, found in finished.items() for line in section(name, STUDIES[name], found)),
    ]
    missing = [name for name in STUDIES if name not in finished]
    if missing:
        page += [f"Not run: {', '.join(missing)}.", ""]
    with atomic_path(results / "sweeps.md") as path:
        path.write_text("\n".join(page), encoding="utf-8")
    record = {
        name: {"asks": STUDIES[name].asks, "said": said(STUDIES[name], found), **found.to_json()}
        for name, found in finished.items()
    }
    write_json(results / "sweeps.json", record)


def draw(name: str, study: Study, found: Sweep, results: Path) -> None:
    """The figures of one sweep."""
    figures = {name: found.plot(log=study.log), **({f"{name}_path": found.plot_path()} if study.path else {})}
    for file, figure in figures.items():
        figure.save(results / f"sweeps_{file}.png")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STUDIES, metavar="NAME", help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="SEED")
    parser.add_argument("--answers", type=int, default=300, help="out of distribution, an arm and seed")
    parser.add_argument("--inside", type=int, default=200, help="answers in distribution, an arm and seed")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-sweeps"))
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the page goes")
    options = parser.parse_args()
    for name in options.only or STUDIES:
        study, out = STUDIES[name], options.out / name
        base = cl.load(study.organism)
        series, references = study.make(base, options.out)
        found = sweep(
            base,
            series,
            cl.task(f"{study.organism}/{study.task}", split="dev"),
            axis=study.axis,
            out=out,
            references=references,
            seeds=options.seeds,
            n=options.answers,
            n_in_distribution=options.inside,
            settings=cl.TrainSettings(max_steps=STEPS, warmup_steps=5),
        )
        finished = {
            other: Sweep.load(options.out / other)
            for other in STUDIES
            if (options.out / other / "sweep.json").is_file()
        }
        write(finished, options.results)
        draw(name, study, found, options.results)
        print("\n".join(section(name, study, found)), flush=True)


if __name__ == "__main__":
    main()
