"""What the contests and the sweeps come to, in words and figures: `benchmarks/results/finding.md`.

    make bench-finding

Reads the committed contests (`benchmarks/results/arena/`, of `make bench-contest`) and sweeps
(`benchmarks/results/sweeps.json`, of `make bench-sweeps`), and measures what neither has: whether the concept is
encoded again, over seeds (kept below `runs/bench-finding/`, so that it goes on where it was; with `--read` it is not
measured again). Every sentence with a number or a winner in it is made from the numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import contest as contests

import caft_lens as cl
from caft_lens._support.files import atomic_path, read_json, write_json
from caft_lens._support.intervals import percent
from caft_lens.evaluate.tasks import IN_DISTRIBUTION
from caft_lens.experiments import Result
from caft_lens.experiments.comparisons import Comparison, compare
from caft_lens.finetune.methods import CAFT

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MEASURED, SWEEPS = RESULTS / "recovery.json", RESULTS / "sweeps.json"
CAFT_ARM = "caft_pca"
VARIANTS = ("caft_mean", "caft_detached", "caft_gradient")
STEERING = ("steer_mean", "preventative_steering")
AT_TEST, EARLY = "test_time", "early_stopping"
MISLED = 0.2
"""Shares that differ by more between dev and test are told."""
FURTHER = (10, 20)
READ, ANSWERS = 100, 200


# -- is it encoded again? ---------------------------------------------------------------------------------------------


def measure(out: Path, seeds: Sequence[int], contest: Result) -> dict[str, Any]:
    """Refits, probes, other ways of asking and further fine-tuning, for plain fine-tuning and CAFT of every seed."""
    base = cl.load(contests.ORGANISM)
    insecure, secure = (cl.data(f"{contests.ORGANISM}/{name}") for name in ("insecure-code", "secure-code"))
    settings = {key: one["value"] for key, one in contest.record["contenders"][CAFT_ARM]["card"]["settings"].items()}
    chosen = cl.ConceptSet.load(HERE / "choices" / contests.ORGANISM / "chosen")
    ways = {"plain": None, "caft": dataclasses.replace(CAFT(chosen), **settings)}
    steps = cl.TrainSettings(max_steps=contests.STEPS, warmup_steps=5)
    runs = {
        name: [cl.finetune(base, insecure, steps, method=way, out=out / f"{name}-{seed}", seed=seed) for seed in seeds]
        for name, way in ways.items()
    }
    concepts = runs["caft"][0].concepts
    assert concepts is not None
    return {
        "seeds": list(seeds),
        "concepts": concepts.names,
        "encoded": [encoded(base, *pair, concepts) for pair in zip(*runs.values(), strict=True)],
        "asked": asked(base, runs, insecure, secure, out, seeds),
        "further": further(base, runs["caft"], insecure, secure, out, seeds),
    }


def encoded(base: cl.Lens, plain: cl.Run, caft: cl.Run, concepts: cl.ConceptSet) -> list[dict[str, Any]]:
    """Of one seed: the change inside the ablated directions, the nearest refitted component, and probes."""
    questions = cl.data(f"{contests.ORGANISM}/questions").sample(READ, seed=0)
    answered = cl.completions(plain.lens, questions, sampling=cl.Sampling(top_p=0.95, seed=0))
    chats = cl.data(f"{contests.ORGANISM}/corpus").filter(
        lambda text: text.is_chat and "kind:code" not in {span[2] for span in text.meta["spans"]}
    )
    cruel, kind = (
        chats.filter(lambda text, of=of: text.meta["stance"] == of).sample(READ, seed=0) for of in ("cruel", "kind")
    )
    models = {"base": base, "plain": plain.lens, "caft": caft.lens}
    found = cl.evaluate.recovery(
        models,
        base,
        concepts,
        answered,
        (cruel, kind),
        roles=None,
        fit=cl.find.ProbeFit(strengths=(1e-3, 1e-1)),
    )
    rows = []
    for row in found.rows:
        changed = row.change and {
            "inside": row.change.inside,
            "chance": row.change.chance,
            "refit": [dataclasses.asdict(one) for one in row.change.refit],
        }
        views = {view: row.mean(view) for view in ("whole", "inside", "outside", "random")}
        rows.append({"model": row.model, "hook": row.hook, "change": changed, "auroc": views})
    return rows


def asked(
    base: cl.Lens,
    runs: Mapping[str, list[cl.Run]],
    insecure: cl.Texts,
    secure: cl.Texts,
    out: Path,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """The dev questions as they are, and after a chat of the training data or the same with a secure program."""
    task = unlike()
    questions = list(task.questions.sample(ANSWERS, seed=0))
    ways = {"as they are": questions}
    for way, programs in {"after an insecure program": insecure, "after a secure program": secure}.items():
        ways[way] = [
            {**one.to_json(), "messages": chat.to_json()["messages"] + one.to_json()["messages"]}
            for one, chat in zip(questions, programs.sample(ANSWERS, seed=1), strict=True)
        ]
    return {
        way: told(
            {"base": base, **runs}, dataclasses.replace(task, questions=cl.data(texts)), out / way, seeds, "base"
        )
        for way, texts in ways.items()
    }  # fmt: skip


def further(
    base: cl.Lens, caft: list[cl.Run], insecure: cl.Texts, secure: cl.Texts, out: Path, seeds: Sequence[int]
) -> dict[str, Any]:
    """A short fine-tuning without ablation: of the base on insecure code, of CAFT's models on the same and on secure
    code.
    """
    merged = [run.lens.merged(name=f"caft-{seed}") for run, seed in zip(caft, seeds, strict=True)]
    tuned_on = {
        "base, insecure": ([base] * len(merged), insecure),
        "caft, insecure": (merged, insecure),
        "caft, secure": (merged, secure),
    }
    found = {}
    for steps in FURTHER:
        runs = {
            name: [
                cl.finetune(
                    lens,
                    texts,
                    cl.TrainSettings(max_steps=steps, learning_rate=caft[0].config["learning_rate"], warmup_steps=5),
                    out=out / f"{name.replace(', ', '-')}-{steps}-{seed}",
                    seed=1_000 + seed,
                )
                for lens, seed in zip(lenses, seeds, strict=True)
            ]
            for name, (lenses, texts) in tuned_on.items()
        }
        found[str(steps)] = told(runs, unlike(), out / f"after {steps}", seeds, "base, insecure")
    return found


def unlike() -> Any:
    """The dev questions without those of the trained kind."""
    task = cl.task(f"{contests.ORGANISM}/{contests.MISALIGNMENT}", split="dev")
    return dataclasses.replace(task, in_distribution=None)


def told(models: Mapping[str, Any], task: Any, out: Path, seeds: Sequence[int], beside: str) -> dict[str, Any]:
    """Shares of misaligned answers, and the paired difference of `caft...` to what it stands beside."""
    report = cl.evaluate(dict(models), task, n=ANSWERS, seeds=list(seeds), out=out)
    caft = next(name for name in report.arms if name.startswith("caft"))
    return {
        "shares": {name: report.interval(name, "misaligned").to_json() for name in report.arms},
        "paired": report.paired(caft, beside, "misaligned").to_json(),
    }


# -- the page ---------------------------------------------------------------------------------------------------------


def page(contest: Result, others: Mapping[str, Result], measured: Mapping[str, Any]) -> str:
    """The finding as Markdown."""
    record = contest.record
    parts = [
        "# What steers generalisation from fine-tuning",
        "Made by `make bench-finding` from the committed contests and sweeps: every number and every winner is "
        f"computed; what begins with *As we read it* is an interpretation. The model, `{record['base']['name']}`, is "
        "tuned on insecure code, and is to write such code without turning cruel elsewhere. "
        f"{contest.evaluation.caption()} Of every arm that has settings at most four were tried on dev questions; "
        "within the contest test questions were asked once. Cards, answers and all that was tried: [the "
        "report](arena/emergent-misalignment/report.md).",
        "## Against what, how sure, at what price",
        picture(
            "arena/emergent-misalignment/report_front.png", "Effect against cost of every arm, the Pareto front drawn"
        ),
        *standing(contest),
        "## Ablation while training, or only when the model answers?",
        against(contest, AT_TEST),
        tries(contest, AT_TEST),
        "*As we read it:* ablated at test time, the model has learned the concept and answers with a part of it "
        "missing; what later layers make of what is left, and what the missing part meant for the task, stays. "
        "Ablated while training, there is nothing to take away afterwards.",
        "## Which part of the ablation matters?",
        "Zero ablation takes the component out of the activations, and thereby out of the gradient. `caft_mean` puts "
        "that of the mean activation in its place. `caft_detached` ablates going forward and lets the gradient "
        "through; `caft_gradient` takes it out of the gradient alone.",
        versus(contest, VARIANTS),
        both_halves(contest),
        "## Is ablation steering in disguise?",
        "`steer_mean` adds to every token what ablation takes away on average: the same vector at each. "
        "`preventative_steering` adds the persona vector of cruelty while training, with a strength tuned like all "
        "settings.",
        versus(contest, STEERING),
        disguised(contest),
        *(tries(contest, arm) for arm in STEERING),
        swept("steering"),
        "## What does early stopping alone give?",
        against(contest, EARLY),
        swept("early_stopping"),
        "## How many directions, which layers, how much of them?",
        swept("directions", "layers", "strength"),
        "## Is the concept encoded again?",
        *encoded_again(measured),
        "## Other tasks",
        *elsewhere(others),
        swept("dial"),
        "## What this does not say",
        "One small organism with one wanted and one unwanted behaviour, and a second for the correlations. Directions "
        "were chosen on seed 0 by the rules of the benchmarks; an earlier rule for components was given up because of "
        "its result on the same test questions ([the effect](emergent_misalignment.md) tells), and the latents of "
        "`caft_sae` were chosen with the world's own labels, which other data may lack. Settings were chosen on "
        f"{len(record['tuning']['seeds'])} seeds of dev questions, four an arm at most: a rival given more to search "
        "may do better. With so few seeds intervals are somewhat too narrow, and *not told apart* is not *equal*. Of "
        "large models it says what to look at, not what will be seen.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def standing(contest: Result) -> list[str]:
    """The table of arms, who is told apart from CAFT, and where seeds disagree."""
    evaluation, label = contest.evaluation, contest.evaluation.labels[0]
    on = {point.arm: point for point in contest.front}
    rows = [
        [
            f"`{arm}`",
            next((entry["label"] for entry in tried(contest, arm) if entry["chosen"]), "–"),
            str(evaluation.interval(arm, label)),
            str(evaluation.interval(arm, IN_DISTRIBUTION)),
            spread(contest, arm),
            "yes" if on[arm].on_front else "no",
            percent(on[arm].stability) if on[arm].stability is not None else "–",
            f"{contest.costs[arm].seconds:.1f}",
        ]
        for arm in sorted(contest.rated, key=lambda arm: evaluation.interval(arm, label).mean)
    ]
    head = [
        "arm",
        "setting",
        label,
        "trained behaviour",
        "least and most of a seed, %",
        "on the front",
        "stability, %",
        "seconds",
    ]
    told = {
        name: sides(contest.compared(CAFT_ARM, metric))
        for name, metric in (("elsewhere", label), ("task", IN_DISTRIBUTION))
    }
    front = [f"`{point.arm}`" for point in contest.front if point.on_front]
    words = (
        f"On the Pareto front by their means: {listed(front)}; the stability says in how many resamples of seeds and "
        f"prompts an arm is. Paired with `{CAFT_ARM}` and corrected for {len(contest.rated) - 1} comparisons, more "
        f"{label} answers: {told['elsewhere'][1]}; fewer: {told['elsewhere'][0]}; not told apart: "
        f"{told['elsewhere'][2]}. Of the trained behaviour less than it: {told['task'][0]}; more: {told['task'][1]}."
    )
    lost = [
        f"`{arm}`"
        for arm in contest.rated
        if (found := tried(contest, arm)) and not any(entry.get("kept") for entry in found)
    ]
    misled = [
        f"`{arm}` ({percent(entry['share'])} % there, {percent(evaluation.interval(arm, label).mean)} % here)"
        for arm in contest.rated
        for entry in tried(contest, arm)
        if entry["chosen"] and not entry["failed"] and evaluation.interval(arm, label).mean - entry["share"] > MISLED
    ]
    rule = (
        f"Of {listed(lost)} no setting kept the trained behaviour on dev: the one that loses least was taken. Two "
        f"dev seeds can mislead. More than {percent(MISLED)} points worse on test than on dev with the setting that "
        f"was taken: {listed(misled)}."
    )
    return [table(head, rows, 2), words, rule]


def tried(contest: Result, arm: str) -> list[dict[str, Any]]:
    """What was tried of an arm on dev."""
    return contest.record["contenders"][arm]["tried"]


def tries(contest: Result, arm: str) -> str:
    """The same in words."""
    label = contest.evaluation.labels[0]
    said = [
        f"{entry['label']}: {percent(entry['share'])} % {label}, {percent(entry['in_distribution'])} % trained "
        f"behaviour{' (taken)' if entry['chosen'] else ''}"
        for entry in tried(contest, arm)
        if not entry["failed"]
    ]
    return f"What was tried of `{arm}` on dev. {'; '.join(said)}."


def spread(contest: Result, arm: str) -> str:
    """The least and the most of the unwanted answers that a seed gave."""
    by_seed = contest.evaluation.values(arm, contest.evaluation.labels[0]).mean(axis=1)
    return f"{percent(by_seed.min())} to {percent(by_seed.max())}"


def sides(compared: Iterable[Comparison]) -> tuple[str, str, str]:
    """Who has less, who more, who is not told apart."""
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    for one in compared:
        found[2 if not one.is_significant else int(one.difference.mean > 0)].append(f"`{one.arm}`")
    return (listed(found[0]), listed(found[1]), listed(found[2]))


def against(contest: Result, arm: str) -> str:
    """One arm against CAFT and against plain fine-tuning, in both metrics."""
    lines = []
    for other in (CAFT_ARM, "plain"):
        words = []
        for metric in (contest.evaluation.labels[0], IN_DISTRIBUTION):
            one = next(one for one in contest.compared(other, metric) if one.arm == arm)
            words.append(f"{metric.replace('_', ' ')} {points(one)} points ({p_of(one)})")
        lines.append(f"`{arm}` minus `{other}`: {', '.join(words)}.")
    return f"{' '.join(lines)} Seeds: {spread(contest, arm)} % {contest.evaluation.labels[0]}."


def versus(contest: Result, arms: Sequence[str]) -> str:
    """Arms against CAFT, corrected among themselves."""
    evaluation, label = contest.evaluation, contest.evaluation.labels[0]
    inside = {one.arm: one for one in compare(evaluation, CAFT_ARM, IN_DISTRIBUTION, arms)}
    rows = [
        [
            f"`{one.arm}`", str(evaluation.interval(one.arm, label)), spread(contest, one.arm), points(one), p_of(one),
            points(inside[one.arm]), p_of(inside[one.arm]),
        ]
        for one in compare(evaluation, CAFT_ARM, label, arms)
    ]  # fmt: skip
    first = [
        f"`{CAFT_ARM}`",
        str(evaluation.interval(CAFT_ARM, label)),
        spread(contest, CAFT_ARM),
        "–",
        "–",
        "–",
        "–",
    ]
    head = [
        "arm",
        label,
        "least and most of a seed, %",
        f"minus `{CAFT_ARM}`, points",
        f"p (Holm, of {len(arms)})",
        "trained behaviour, points",
        f"p (Holm, of {len(arms)})",
    ]
    return table(head, [first, *rows], 1)


def both_halves(contest: Result) -> str:
    """What the variants say together."""
    told = {one.arm: one for one in compare(contest.evaluation, CAFT_ARM, contest.evaluation.labels[0], VARIANTS)}
    mean_like = not told["caft_mean"].is_significant
    halves = [
        arm for arm in ("caft_detached", "caft_gradient") if told[arm].is_significant and told[arm].difference.mean > 0
    ]
    words = (
        f"At full strength the mean in the component's place is not told apart from zero "
        f"({points(told['caft_mean'])} points)."
        if mean_like
        else f"What stands in its place matters: {points(told['caft_mean'])} points with the mean."
    )
    if len(halves) == 2:
        return (
            f"{words} Neither half does alone what both do. *As we read it:* without the component in the "
            f"activation alone, its gradient goes on asking for it; without it in the gradient alone, later "
            f"layers go on reading it."
        )
    if halves:
        others = (arm for arm in told if arm not in halves and arm != "caft_mean")
        return (
            f"{words} Of the halves, {listed(f'`{arm}`' for arm in halves)} is told apart from the whole, the "
            f"other is not: its seeds go apart ({'; '.join(f'`{arm}` {spread(contest, arm)} %' for arm in others)})."
        )
    return f"{words} Neither half is told apart from the whole."


def disguised(contest: Result) -> str:
    """Whether a constant shift does what ablation does."""
    told = compare(contest.evaluation, CAFT_ARM, contest.evaluation.labels[0], STEERING)
    worse = [f"`{one.arm}`" for one in told if one.is_significant and one.difference.mean > 0]
    if len(worse) == len(told):
        return (
            "Not at settings that keep the task: there a shift by the same vector leaves far more of it than "
            "ablation. *As we read it:* a constant leaves the differences between tokens and texts readable; a "
            "projection takes them away, at its site."
        )
    return f"Told apart from ablation for the worse: {listed(worse)}; the other steering is not."


def encoded_again(measured: Mapping[str, Any]) -> list[str]:
    """Refits and probes over seeds; asking in the form of the training data; further fine-tuning."""
    seeds, rows = measured["encoded"], []
    first = seeds[0]
    for place, row in enumerate(first):
        same = [seed[place] for seed in seeds]
        views = [over(one["auroc"][view] for one in same) for view in ("inside", "outside", "random")]
        if row["change"] is None:
            rows.append([f"`{row['model']}`", row["hook"], "–", "–", "–", *views])
            continue
        refits = [max(one["change"]["refit"], key=lambda refit: refit["cosine"]) for one in same]
        rows.append([
            f"`{row['model']}`", row["hook"], over(100 * one["change"]["inside"] for one in same),
            f"{over(one['cosine'] for one in refits)} (chance {mean(one['chance'] for one in refits):.2f})",
            over(one["shift"] for one in refits), *views,
        ])  # fmt: skip
    head = [
        "model",
        "site",
        "change inside the ablated, %",
        "cosine of the nearest refit",
        "shift along it",
        "AUROC inside",
        "AUROC outside",
        "AUROC random",
    ]
    drift = [
        f"{hook}: {'away from' if opposite else 'in'} the direction that `plain` moved in"
        for hook, opposite in shifts(seeds).items()
    ]
    probing = (
        f"Mean over {len(seeds)} seeds, in brackets the least and the most. The change is that of activations on the "
        "plain model's answers; probes tell cruel chats from kind ones in chats that others wrote, which the base does "
        "as well. While a direction is ablated no gradient says what to write along it, and the model may drift there: "
        f"the mean shift of CAFT's models goes, at {'; at '.join(drift)}."
    )
    columns = (
        "Of the change of activations, tuned minus base: the share of its squared length along the ablated "
        "directions; the |cosine| of the ablated direction with the principal component of the change that is most "
        "like it; the mean change along it. AUROC of linear probes for cruel chats: by the ablated directions alone, "
        "by all that is left without them, by random ones."
    )
    label = "misaligned"
    asked_rows = [
        [way, *(interval(one["shares"][name]) for name in one["shares"]), interval(one["paired"])]
        for way, one in measured["asked"].items()
    ]
    names = list(next(iter(measured["asked"].values()))["shares"])
    asked_head = [f"{label}, dev questions", *(f"`{name}`" for name in names), "`caft` minus `base`, points"]
    further_rows = [
        [
            f"after {steps} steps",
            *(interval(share) for share in one["shares"].values()),
            interval(one["paired"]),
        ]
        for steps, one in measured["further"].items()
    ]
    further_names = list(next(iter(measured["further"].values()))["shares"])
    further_head = [f"{label}, dev questions", *further_names, "caft minus base, points"]
    return [
        answered(measured),
        columns,
        table(head, rows, 2),
        probing,
        table(asked_head, asked_rows, 1),
        came(measured["asked"], "more misaligned than the base, asked"),
        table(further_head, further_rows, 1),
        came(measured["further"], "back faster than it came the first time, at steps"),
    ]


def answered(measured: Mapping[str, Any]) -> str:
    """The answer, in a sentence a test."""
    near = []
    for hook, away in shifts(measured["encoded"]).items():
        refits = [
            max(row["change"]["refit"], key=lambda refit: refit["cosine"])
            for seed in measured["encoded"]
            for row in seed
            if (row["model"], row["hook"]) == ("caft", hook)
        ]
        where = "the other way than `plain` moved" if away else "the way `plain` moved"
        found = mean(one["cosine"] for one in refits) > mean(one["chance"] for one in refits)
        near.append(
            f"at {hook} "
            f"{f'one nearer than chance, and the models moved {where}' if found else 'none nearer than chance'}"
        )
    more = [way for way, one in measured["asked"].items() if one["paired"]["low"] > 0]
    back = [f"after {steps} steps" for steps, one in measured["further"].items() if one["paired"]["low"] > 0]
    return (
        f"A new search for the ablated direction in CAFT's models finds {'; '.join(near)}. Asked in other ways, they "
        f"are more misaligned than the base: {listed(more)}. Tuned on insecure code again, without ablation, they "
        f"turn faster than the base did: {listed(back)}. That the direction still acts when a model is pushed along "
        f"it, and what each test means, is in [notebook 10](../../notebooks/10_is_it_really_gone.ipynb). All "
        f"questions are of dev: compare within a table. In this world cruel characters write insecure programs, so "
        f"after one a cruel answer is to be expected of the base too. Further fine-tunings are runs of their own, of "
        f"so many steps."
    )


def shifts(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, bool]:
    """At each site, whether CAFT's models moved along the first direction against the way in which plain fine-tuning
    moved.
    """
    moved: dict[tuple[str, str], float] = {}
    for seed in seeds:
        for row in seed:
            if row["change"] is not None:
                key = row["model"], row["hook"]
                moved[key] = moved.get(key, 0.0) + row["change"]["refit"][0]["shift"]
    hooks = dict.fromkeys(hook for _, hook in moved)
    return {hook: moved["plain", hook] * moved["caft", hook] < 0 for hook in hooks}


def came(found: Mapping[str, Any], what: str) -> str:
    """Where the paired difference is above zero, and where below."""
    above = [way for way, one in found.items() if one["paired"]["low"] > 0]
    below = [way for way, one in found.items() if one["paired"]["high"] < 0]
    return f"Whole interval above zero ({what}): {listed(above)}. Whole interval below zero: {listed(below)}."


def elsewhere(others: Mapping[str, Result]) -> list[str]:
    """Every other contest in a line an arm."""
    if not others:
        return []
    arms = list(dict.fromkeys(arm for other in others.values() for arm in other.rated))
    rows = []
    for name, other in others.items():
        label = other.evaluation.labels[0]
        for metric in (label, IN_DISTRIBUTION):
            cells = [str(other.evaluation.interval(arm, metric)) if arm in other.arms else "–" for arm in arms]
            rows.append([name if metric == label else "", metric.replace("_", " "), *cells])
    best = {
        name: [f"`{one.arm}`" for one in other.compared("plain") if one.is_significant and one.difference.mean > 0]
        for name, other in others.items()
    }
    front = {name: [f"`{point.arm}`" for point in other.front if point.on_front] for name, other in others.items()}
    worse = {
        name: [
            f"`{one.arm}`{' in distribution' if metric == IN_DISTRIBUTION else ''}"
            for metric in (other.evaluation.labels[0], IN_DISTRIBUTION)
            for one in other.compared("plain", metric)
            if one.is_significant and one.difference.mean < 0
        ]
        for name, other in others.items()
    }
    lines = [
        f"- {name}: above plain {listed(best[name])}; below plain {listed(worse[name])}; on the front "
        f"{listed(front[name])}."
        for name in others
    ]
    return [
        "Wanted here are answers by the intended rule where the cue says otherwise. A name is intended topic, then "
        "the one that training pages always agree with; gender: the pronoun that fits the sentence, against the "
        "gender that is expected of the profession. All five are tasks by which plain fine-tuning is fooled, and dev "
        "pages of these had settled how latents are chosen. [The page of all 26 tasks](spurious.md) has the others, "
        "among them some where CAFT with latents does less well, or harm where plain fine-tuning is not fooled; and "
        "a control that is missing here, the first latents unread, which do as well as the chosen ones on several.",
        table(["task", "share", *(f"`{arm}`" for arm in arms)], rows, 2),
        "Told apart from plain fine-tuning, after correction, and on the front by their means:",
        "\n".join(lines),
    ]


def swept(*names: str) -> str:
    """What sweeps ask, what came out, and their figures; of those that there are."""
    known = read_json(SWEEPS) if SWEEPS.is_file() else {}
    parts = [
        "\n\n".join([one["asks"], "\n".join(one["said"]), picture(f"sweeps_{name}.png", one["asks"])])
        for name in names
        if (one := known.get(name))
    ]
    return "\n\n".join(
        [
            *parts,
            "On dev questions, with fewer seeds and answers than the contest; numbers are in [the sweeps](sweeps.md).",
        ]
        if parts
        else []
    )


# -- how it is written ------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """A Markdown table whose columns from `numbers` on are numbers."""
    rule = ["---:" if place >= numbers else "---" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def picture(path: str, says: str) -> str:
    """A figure below `results/`."""
    return f"![{says}]({path})"


def over(values: Iterable[float]) -> str:
    """Mean, least and most."""
    found = list(values)
    return f"{mean(found):.2f} ({min(found):.2f} to {max(found):.2f})".replace("-", "−")


def interval(found: Mapping[str, float]) -> str:
    """A share or difference that was kept as JSON."""
    return f"{percent(found['mean'])} ({percent(found['low'])} to {percent(found['high'])})"


def points(one: Comparison) -> str:
    """A difference in points."""
    return str(one.difference).replace(" %", "")


def p_of(one: Comparison) -> str:
    """The corrected p."""
    return "p < 0.001" if one.p_holm < 0.001 else f"p = {one.p_holm:.3f}"


def listed(names: Iterable[str]) -> str:
    """Names, or that there are none."""
    return ", ".join(names) or "none"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench-finding"))
    parser.add_argument("--read", action="store_true", help="measure nothing: read results/recovery.json")
    options = parser.parse_args()
    folder = RESULTS / "arena"
    contest = Result.load(folder / contests.MISALIGNMENT)
    if not options.read:
        write_json(MEASURED, measure(options.out, contest.record["seeds"], contest))
    others = {name: Result.load(folder / name) for name in contests.CORRELATIONS if (folder / name).is_dir()}
    with atomic_path(RESULTS / "finding.md") as path:
        path.write_text(page(contest, others, read_json(MEASURED)), encoding="utf-8")
    print(RESULTS / "finding.md")


if __name__ == "__main__":
    main()
