"""The report of a contest, and its two figures: the one place that knows a `Result` and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from caft_lens._support.files import file_name
from caft_lens._support.intervals import percent
from caft_lens.display.report import Heading, Part, Picture, Table, Words, write
from caft_lens.evaluate.judging import SCORE
from caft_lens.evaluate.tasks import IN_DISTRIBUTION
from caft_lens.experiments import figures
from caft_lens.experiments.result import PLAIN, Result
from caft_lens.experiments.rows import percents

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def write_report(
    result: Result, folder: str | Path | None = None, *, examples: int = 3, notes: str = ""
) -> tuple[Path, Path]:
    """Write the report of a contest: `report.html` with all that it shows, `report.md` with the figures beside it.

    Args:
        result: A finished contest.
        folder: Where to; the contest's own folder by default.
        examples: Sampled answers of each contender.
        notes: A paragraph of your own below the summary, such as why it came out so.

    Returns:
        The two files.

    Example:
        >>> from caft_lens import experiments
        >>> [path.name for path in experiments.write_report(result, "report", examples=1)]
        ['report.html', 'report.md']
    """
    parts = [
        *_opening(result, notes),
        *_contenders(result),
        *_front(result),
        *(part for against in result.record["against"] if against in result.arms for part in _against(result, against)),
        Heading("How settings were chosen"),
        *_tuning(result),
        Heading("What is compared"),
        _cards(result),
        Heading("Answers, drawn at random"),
        *(_answers(result, arm, examples) for arm in result.arms),
        Heading("How this was made"),
        _made(result),
    ]
    return write(result.folder if folder is None else folder, f"Contest: {result.record['task']}", parts)


def plot_front(result: Result) -> Figure:
    """Effect against cost of every contender, the Pareto front drawn.

    Args:
        result: A finished contest.
    """
    return figures.plot_front(result.rows(), result.measures)


def plot_compared(result: Result, against: str) -> Figure:
    """Paired differences of every contender to one, with intervals.

    Args:
        result: A finished contest.
        against: The contender that the others are compared with.

    Raises:
        KeyError: For a contender that there is not.
    """
    effects, costs = result.compared(against), result.compared(against, IN_DISTRIBUTION)
    return figures.plot_compared(effects, costs, result.measures, {arm: result.setting(arm) for arm in result.arms})


# -- what the report says ---------------------------------------------------------------------------------------------


def _opening(result: Result, notes: str) -> Iterator[Part]:
    record, evaluation = result.record, result.evaluation
    wanted = "few" if result.sign > 0 else "many"
    yield Words(
        f"{len(result.arms)} contenders from {record['base']['name']}, tuned on {record['texts']['name']} "
        f"({record['texts']['texts']:,} texts). Wanted: {wanted} answers that are {evaluation.labels[0]} out of "
        f"distribution, and the trained behaviour ({evaluation.trained}) in distribution. {evaluation.caption()}"
    )
    yield Words(result.summary())
    if notes:
        yield Words(notes)


def _contenders(result: Result) -> Iterator[Part]:
    yield Heading("Every contender")
    label = result.evaluation.labels[0]
    drawn = result.evaluation.plot(settings={arm: result.setting(arm) for arm in result.arms})
    yield Picture("shares", drawn, f"Shares of {label} answers and of the trained behaviour.")
    yield _shares(result)
    yield Words(
        "Seconds of training, the mean over seeds; MiB at most while training, on a CPU of the whole process.",
        quiet=True,
    )
    if result.failures:
        yield Heading("What failed")
        rows = [[arm, str(seed), why] for arm, seeds in result.failures.items() for seed, why in seeds.items()]
        yield Table(["contender", "seed", "error"], rows)


def _shares(result: Result) -> Table:
    metrics, rows = result.evaluation.metrics, []
    for arm in result.arms:
        cost, known = result.costs[arm], result.evaluation.intervals(arm)
        rows.append(
            [
                arm,
                result.setting(arm),
                *(percents(known[metric]) if metric in known else "none" for metric in metrics),
                f"{cost.seconds:.1f}" if cost.seconds else "–",
                f"{cost.peak_memory / 2**20:,.0f}" if cost.peak_memory else "–",
            ]
        )
    shares = [f"{metric.replace('_', ' ')}{', %' * (metric != SCORE)}" for metric in metrics]
    return Table(["contender", "settings", *shares, "seconds", "MiB"], rows, numbers=2)


def _front(result: Result) -> Iterator[Part]:
    label = result.evaluation.labels[0]
    yield Heading("Effect against cost")
    yield Picture("front", plot_front(result), "The Pareto front of effect and trained behaviour.")
    yield Words(
        "On the front is who has no other that is at least as good in both and better in one. Stability is the share "
        "of resamples, of seeds and prompts that are the same for all, in which this holds.",
        quiet=True,
    )
    rows = [
        [
            point.arm,
            "yes" if point.on_front else "no",
            "–" if point.stability is None else percent(point.stability),
            percent(point.share),
            percent(point.in_distribution),
        ]
        for point in sorted(result.front, key=lambda point: (not point.on_front, result.sign * point.share))
    ]
    head = ["contender", "on the front", "stability, %", f"{label}, %", "in distribution, %"]
    yield Table(head, rows, numbers=2)


def _against(result: Result, against: str) -> Iterator[Part]:
    label = result.evaluation.labels[0]
    yield Heading(f"Compared with {against}")
    for metric, sides in result.standing(against).iterrows():
        shares = str(metric).replace("_", " ")
        told = "; ".join(f"{side}: {names}" for side, names in sides.items())
        yield Words(f"Share {shares}, beside that of {against}: {told}.")
    drawn = plot_compared(result, against)
    yield Picture(f"against_{file_name(against)}", drawn, f"Paired differences to {against}.")
    inside = {one.arm: one for one in result.compared(against, IN_DISTRIBUTION)}
    left = [f"{label} left, % of {against}"] if against == PLAIN else []
    rows = [
        [
            one.arm,
            percents(one.difference),
            _p(one.p_holm),
            *(["–" if one.ratio is None else percent(one.ratio)] if left else []),
            f"{one.h:+.2f}".replace("-", "−"),
            percents(inside[one.arm].difference),
            _p(inside[one.arm].p_holm),
        ]
        for one in result.compared(against)
    ]
    head = [
        "contender", f"{label}, points", "p (Holm)", *left, "Cohen's h", "in distribution, points", "p (Holm)",
    ]  # fmt: skip
    yield Table(head, rows, numbers=1)
    yield Words(
        "Paired by seed and prompt; p from the same hierarchical bootstrap as the intervals, corrected by Holm's "
        "method over the rows of a column (before that it is at least 0.0002, since there are 10,000 resamples). "
        "With few seeds intervals are somewhat too narrow and p somewhat too small (see "
        "caft_lens.evaluate.statistics).",
        quiet=True,
    )


def _tuning(result: Result) -> Iterator[Part]:
    tuning, label = result.record["tuning"], result.evaluation.labels[0]
    yield Words(
        f"On {tuning['task']}, with seeds {', '.join(map(str, tuning['seeds']))}, {tuning['n']:,} answers (and "
        f"{tuning['n_in_distribution']:,} in distribution) a setting and seed: of the settings whose trained behaviour "
        f"is within {percent(tuning['tolerance'])} points of plain fine-tuning's, the one with the "
        f"{result.record['goal']} {label} answers; where none is, the one that loses least."
    )
    rows = [
        [
            name,
            entry["label"],
            "–" if entry["failed"] else percent(entry["share"]),
            "–" if entry["failed"] else percent(entry["in_distribution"]),
            entry["failed"] or ("yes" if entry["kept"] else "no"),
            "chosen" if entry["chosen"] else "",
        ]
        for name, one in result.record["contenders"].items()
        for entry in one["tried"]
    ]
    if rows:
        yield Table(["contender", "settings", f"{label}, %", "in distribution, %", "keeps the task", ""], rows)


def _cards(result: Result) -> Table:
    rows = []
    for name, one in result.record["contenders"].items():
        card = one["card"]
        if card is None:
            rows.append([name, "The model as it is, untuned.", "", "", ""])
            continue
        needs = "; ".join(f"{key}: {meaning}" for key, meaning in card["needs"].items()) or "nothing more"
        source = card["source"] + (f" (arXiv {card['arxiv']})" if card["arxiv"] else "")
        rows.append([name, card["idea"], card["equation"], source, needs])
    return Table(["contender", "idea", "equation", "source", "needs"], rows)


def _answers(result: Result, arm: str, k: int) -> Table:
    evaluation = result.evaluation
    rows = []
    for label in evaluation.labels:
        rows += [[a.question, a.answer, f"{a.label}: {a.detail}"] for a in evaluation.examples(arm, label, k)]
    return Table(["question", "answer", "verdict"], rows, folded=f"{arm}: {len(rows)} answers")


def _made(result: Result) -> Table:
    record = result.record
    training = ", ".join(f"{key}={value}" for key, value in record["training"].items())
    rows = [
        ["command", record["command"]],
        ["training", training or "defaults"],
        ["seeds", ", ".join(map(str, record["seeds"]))],
        ["base", f"{record['base']['name']} ({record['base']['fingerprint']})"],
        ["versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
        ["machine", record["machine"]],
    ]
    return Table(["", ""], rows)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
