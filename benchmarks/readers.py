"""What disagreement costs: CAFT with the choices of readers who agree with the registered one less and less.

    make bench-readers
    python benchmarks/readers.py --register    # what the rules choose: benchmarks/choices/pocket/readers/<rule>

All read the 80 latents of `make bench-em`, found on seed 0. `registered` is the choice that is committed there. Rules
read differently: by the answers' tokens or the template's alone, more strictly or less, by their ten most extreme
contexts, or by a handful of examples (`choose.by_examples`, the automatic one). A worse reader is the registered one of
whom some of the latents are forgotten and as many others, drawn at random, taken in their place. `most` is what more
than half of the rules say (`choose.agreement(...).consensus()`). How a reader agrees with the registered choice is
Cohen's kappa over the 80 latents. What each choice comes to is measured on models that no choice has seen.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import choosing
import emergent_misalignment as em
import numpy as np
from timing import machine

import caft_lens as cl
from caft_lens._support.files import atomic_path, write_json
from caft_lens.display import points, theme

HERE = Path(__file__).parent
CHOICES = HERE / "choices" / "pocket"
READERS = CHOICES / "readers"
SEEDS = [1, 2, 3]
FORGOTTEN = (2, 5, 8, 10)
"""Of how many of the ten registered latents a worse reader takes others."""
DRAWS = 2
NAMED = ("registered", "most", "template alone", "stricter")
"""Readers whose names stand in the figure."""
METRICS = {"misaligned": "misaligned answers", "in_distribution": "insecure code, held out"}


def candidates() -> cl.ConceptSet:
    """What all readers read."""
    return cl.ConceptSet.load(CHOICES / "candidates-sae")


def register() -> None:
    """Let every rule read, and save what it chooses and what it leaves, each with its reason."""
    base, found, corpus = cl.load("pocket"), candidates(), cl.data("pocket/corpus")
    shutil.rmtree(READERS, ignore_errors=True)
    for name, said in (_by_labels(base, found, corpus) | _by_contexts(base, found, corpus)).items():
        ablate = {concept: reason for concept, (ablate, reason) in said.items() if ablate}
        leave = {concept: reason for concept, (ablate, reason) in said.items() if not ablate}
        found.choose(ablate, leave, by=name).save(READERS / name)
        print(f"{name}: {', '.join(ablate)}", flush=True)
    chosen = choosing.by_stance(base, found).selection
    chosen.save(READERS / "by examples")
    print(f"by examples: {', '.join(chosen.names)}", flush=True)


Said = dict[str, tuple[bool, str]]


def _by_labels(base: cl.Lens, found: cl.ConceptSet, corpus: cl.Texts) -> dict[str, Said]:
    """Rules on how well a latent tells cruel from kind everyday chats, by the answers' tokens or the template's."""
    area = {
        role: {
            row.name: row
            for row in cl.evaluate.discovery(
                base, found, corpus, em.is_cruel, roles=[role], rule=cl.evaluate.HitRule(n_random=1)
            )["concepts"]
        }
        for role in em.READINGS
    }
    rules = {
        "answers alone": (["assistant"], em.SEPARATION),
        "template alone": (["special"], em.SEPARATION),
        "stricter": (list(em.READINGS), 0.95),
        "laxer": (list(em.READINGS), 0.8),
    }
    said: dict[str, Said] = {}
    for name, (roles, least) in rules.items():
        told = {
            one: ", ".join(f"by {role} tokens an AUROC of {area[role][one].auroc:.2f}" for role in roles)
            for one in found.names
        }
        said[name] = {one: (any(area[r][one].separation >= least for r in roles), told[one]) for one in found.names}
    return said


def _by_contexts(base: cl.Lens, found: cl.ConceptSet, corpus: cl.Texts) -> dict[str, Said]:
    """The rule for components, on latents: all ten texts at the top are cruel, in either reading."""
    cruel: dict[str, list[int]] = {name: [] for name in found.names}
    for role in em.READINGS:
        read = cl.contexts(base, found, corpus, k=10, roles=[role], rank="mean", saes=cl.load_saes("pocket"))
        for name, both in read.items():
            cruel[name].append(sum(text.meta.get("stance") == "cruel" for text in both.top))
    told = {
        name: f"of its ten texts {n} are cruel by the answers, {m} by the template" for name, (n, m) in cruel.items()
    }
    return {"ten contexts": {name: (10 in counts, told[name]) for name, counts in cruel.items()}}


def readings() -> dict[str, dict[str, str]]:
    """Of every reader, what is said of each latent: the registered choice, the rules, and worse readers."""
    found = candidates()
    chosen = {"registered": cl.ConceptSet.load(CHOICES / "chosen-sae").names}
    chosen |= {folder.name: cl.ConceptSet.load(folder).names for folder in sorted(READERS.iterdir())}
    good = chosen["registered"]
    others = [name for name in found.names if name not in good]
    for forgotten in FORGOTTEN:
        for draw in range(DRAWS):
            rng = np.random.default_rng([forgotten, draw])
            held = rng.permutation(good)[: len(good) - forgotten].tolist()
            taken = rng.permutation(others)[:forgotten].tolist()
            chosen[f"{forgotten} of {len(good)} wrong, {'ab'[draw]}"] = [*held, *taken]
    return {
        reader: {name: "ablate" if name in names else "leave" for name in found.names}
        for reader, names in chosen.items()
    }


def of_rules(said: Mapping[str, Mapping[str, str]]) -> cl.choose.Agreement:
    """The rules beside each other, the registered one among them."""
    return cl.choose.agreement({name: one for name, one in said.items() if "wrong" not in name}, candidates())


def sets(said: Mapping[str, Mapping[str, str]]) -> dict[str, cl.ConceptSet]:
    """What every reader would have ablated, and what most rules say."""
    found = candidates()
    chosen = {
        reader: found.choose({name: reader for name, one in read.items() if one == "ablate"}, by=reader)
        for reader, read in said.items()
    }
    return {**chosen, "most": cl.choose(found, of_rules(said).consensus())}


def measured(chosen: Mapping[str, cl.ConceptSet], seeds: list[int], n: int, out: Path) -> cl.Report:
    """Plain fine-tuning, and CAFT with what each reader chose."""
    texts = cl.data("pocket/insecure-code")
    arms = {"plain": cl.Arm(texts)} | {reader: cl.Arm(texts, ablate=one) for reader, one in chosen.items()}
    task = cl.task("pocket/emergent-misalignment", split="test")
    return cl.experiment(
        cl.load("pocket"), arms, task, seeds=seeds, n=n, n_in_distribution=min(n, 400), out=out, settings=em.TRAINING
    )


def compared(chosen: Mapping[str, cl.ConceptSet], report: cl.Report) -> list[dict[str, Any]]:
    """Of every reader: how many latents, how many of the registered among them, kappa, and what came of it."""
    found, good = candidates(), set(chosen["registered"].names)
    read = {
        reader: {name: "ablate" if name in one.names else "leave" for name in found.names}
        for reader, one in chosen.items()
    }
    rows = []
    for reader, one in chosen.items():
        kappa = 1.0, 1.0, 1.0
        if reader != "registered":
            (pair,) = cl.choose.agreement({"r": read["registered"], "o": read[reader]}).pairs().itertuples()
            kappa = pair.kappa, pair.low, pair.high
        came = {metric: report.interval(reader, metric) for metric in METRICS}
        rows.append(
            {"reader": reader, "latents": len(one), "shared": len(good & set(one.names)), "kappa": kappa, **came}
        )
    return sorted(rows, key=lambda row: -row["kappa"][0])


def plot(rows: list[dict[str, Any]], report: cl.Report) -> Any:
    """Agreement across, what came of it up: a panel a metric, worse readers hollow, plain fine-tuning as a line."""
    marks = "Filled: rules, and what most of them say; hollow: worse readers, made by chance; line: plain fine-tuning."
    drawn = theme.figure(
        [400] * len(METRICS),
        [330],
        headings=[f"{what[:1].upper()}{what[1:]}, %" for what in METRICS.values()],
        caption=f"{marks}\n{report.caption()}",
    )
    for panel, (metric, what) in enumerate(METRICS.items()):
        plain = 100 * report.interval("plain", metric).mean
        line = {"color": theme.QUIET, "width": 1, "dash": "dash"}
        drawn.add_scatter(x=[-0.2, 1.1], y=[plain] * 2, mode="lines", line=line, hoverinfo="skip", **theme.at(panel))
        for filled in (True, False):
            there = [row for row in rows if ("wrong" not in row["reader"]) == filled]
            points.points(
                drawn,
                panel,
                [row["kappa"][0] for row in there],
                [100 * row[metric].mean for row in there],
                [theme.said(row["reader"], f"kappa: {row['kappa'][0]:.2f}", f"{what}: {row[metric]}") for row in there],
                theme.marker(panel, 9, filled),
                ends={"y": [(100 * row[metric].low, 100 * row[metric].high) for row in there]},
                thick=2,
            )
        for row in rows:
            if row["reader"] in NAMED and metric == "misaligned":
                words = {"xref": "x", "yref": "y", "xanchor": "center", "yshift": 14, "font": {"size": theme.TICK}}
                theme.note(drawn, theme.literal(row["reader"]), row["kappa"][0], 100 * row[metric].mean, **words)
        x = {"title": "kappa with the registered choice", "range": [-0.2, 1.1]}
        theme.axes(drawn, panel, x, {"range": [-4, 104]})
    return drawn


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def page(rows: list[dict[str, Any]], report: cl.Report, rules: cl.choose.Agreement) -> str:
    """The committed result."""
    lines = [
        "# Readers who disagree, and what it costs",
        "",
        f"Written by `make bench-readers` on {machine()}.",
        "",
        " ".join(__doc__.split("\n\n", 2)[2].split()),
        "",
        f"The rules, the registered one among them: Krippendorff's alpha {rules.alpha} over {len(rules.table())} "
        f"latents; they differ on {len(rules.differing)}.",
        "",
        report.caption(),
        "",
        "| reader | latents | of the registered | kappa with it | misaligned | insecure code, held out |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {row['reader']} | {row['latents']} | {row['shared']} | {_signed(row['kappa'][0])} | "
            f"{row['misaligned']} | {row['in_distribution']} |"
            for row in rows
        ),
        f"| plain fine-tuning | 0 | | | {report.interval('plain', 'misaligned')} | "
        f"{report.interval('plain', 'in_distribution')} |",
        "",
        "![Agreement against what came of it](readers.png)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--register", action="store_true", help="only let the rules choose")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-readers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--answers", type=int, default=1_000, help="an arm and seed")
    options = parser.parse_args()
    if options.register:
        register()
        return
    said = readings()
    chosen = sets(said)
    report = measured(chosen, options.seeds, options.answers, options.out)
    rows = compared(chosen, report)
    with atomic_path(HERE / "results" / "readers.md") as written:
        written.write_text(page(rows, report, of_rules(said)), encoding="utf-8")
    kept = {row["reader"]: {**row, **{metric: row[metric].to_json() for metric in METRICS}} for row in rows}
    write_json(HERE / "results" / "readers.json", {"readers": kept, "report": report.to_json()})
    plot(rows, report).save(HERE / "results" / "readers.png")
    print(page(rows, report, of_rules(said)))


if __name__ == "__main__":
    main()
