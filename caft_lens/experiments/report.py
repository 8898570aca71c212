"""The report of a contest, as one self-contained HTML file and as Markdown.

Both are written from the same parts (`_parts`): headings, paragraphs, tables, figures, answers. Everything that is not ours, from
answers to the texts of errors, is escaped; the page loads nothing, and runs nothing but its figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caft_lens._support.files import atomic_path, file_name
from caft_lens.display import html, theme
from caft_lens.display.markdown import plain
from caft_lens.evaluate.statistics import Interval, percent
from caft_lens.evaluate.tasks import IN_DISTRIBUTION
from caft_lens.experiments.result import PLAIN

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from caft_lens.experiments.result import Result

STYLE = """
:root{color-scheme:light dark;--fg:light-dark(#222,#ddd);--soft:light-dark(#666,#999);--line:light-dark(#ddd,#444);--bg:light-dark(#FFFFFF,#181818)}
body{font:15px/1.55 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1080px;margin:2em auto;padding:0 1.2em}
h1{font-size:1.6em;margin-bottom:.2em}h2{font-size:1.2em;margin:2em 0 .5em;border-bottom:1px solid var(--line);padding-bottom:.2em}
p.soft,figcaption,small{color:var(--soft);font-size:.87em}
table{border-collapse:collapse;font-size:.87em;width:100%}th,td{padding:.28em .6em;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.pre{white-space:pre-wrap;overflow-wrap:anywhere}
.scroll{overflow-x:auto}figure{margin:1em 0}
details{margin:.4em 0}summary{cursor:pointer}code{font-size:.92em}
"""


@dataclass(frozen=True)
class Heading:
    """A section begins."""

    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph; a quiet one is of less weight."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; columns from `numbers` on are numbers. Folded tables are opened by a click on their title."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 10**6
    folded: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure."""

    name: str
    figure: Figure
    says: str


Part = Heading | Words | Table | Picture
LINE = " ⏎ "
"""A line break, in Markdown."""
SCALE = 1.5
"""Pixels of a picture beside the Markdown to one of a figure."""


def write(result: Result, folder: Path, examples: int = 3, notes: str = "") -> tuple[Path, Path]:
    """Write `arena.html` and `arena.md` with its figures.

    Args:
        result: A finished contest.
        folder: Where to.
        examples: Sampled answers of each contender.
        notes: A paragraph of your own below the summary.

    Returns:
        Both files.
    """
    title = f"Arena: {result.record['task']}"
    parts = list(_parts(result, examples, notes))
    page, words = folder / "arena.html", folder / "arena.md"
    figures = [part for part in parts if isinstance(part, Picture)]
    for part in figures:
        picture = theme.png(part.figure, SCALE)
        if picture is not None:
            with atomic_path(folder / f"arena_{part.name}.png") as path:
                path.write_bytes(picture)
    said = [_markdown(part, drawn=picture is not None) for part in parts]
    with atomic_path(words) as path:
        path.write_text("\n\n".join([f"# {plain(title)}", *said]) + "\n", encoding="utf-8")
    body = [["\n", _html(part, first=part is figures[0])] for part in parts]
    with atomic_path(page) as path:
        path.write_text(html.document(title, STYLE, html.element("h1", title), body), encoding="utf-8")
    return page, words


# -- what it says -----------------------------------------------------------------------------------------------------


def _parts(result: Result, examples: int, notes: str) -> Iterator[Part]:
    record, evaluation = result.record, result.evaluation
    label = evaluation.labels[0]
    wanted = "few" if result.sign > 0 else "many"
    yield Words(
        f"{len(result.arms)} contenders from {record['base']['name']}, tuned on {record['texts']['name']} "
        f"({record['texts']['texts']:,} texts). Wanted: {wanted} answers that are {label} out of distribution, and the trained "
        f"behaviour ({evaluation.trained}) in distribution. {evaluation.caption()}"
    )
    yield Words(result.summary())
    if notes:
        yield Words(notes)
    yield Heading("Every contender")
    yield Picture("shares", result.plot(), f"Shares of {label} answers and of the trained behaviour.")
    yield _shares(result)
    yield Words(
        "Seconds of training, the mean over seeds; MiB at most while training, on a CPU of the whole process.",
        quiet=True,
    )
    if result.failures:
        yield Heading("What failed")
        rows = [
            [arm, str(seed), why] for arm, seeds in result.failures.items() for seed, why in seeds.items()
        ]
        yield Table(["contender", "seed", "error"], rows)
    yield Heading("Effect against cost")
    yield Picture("front", result.plot_front(), "The Pareto front of effect and trained behaviour.")
    yield Words(
        "On the front is who has no other that is at least as good in both and better in one. Stability is the share of "
        "resamples, of seeds and prompts that are the same for all, in which this holds.",
        quiet=True,
    )
    yield Table(
        ["contender", "on the front", "stability, %", f"{label}, %", "in distribution, %"],
        [
            [p.arm, "yes" if p.on_front else "no", "–" if p.stability is None else percent(p.stability), percent(p.share), percent(p.in_distribution)]
            for p in sorted(result.front, key=lambda p: (not p.on_front, result.sign * p.share))
        ],
        numbers=2,
    )  # fmt: skip
    for against in record["against"]:
        if against in result.arms:
            yield from _against(result, against)
    yield Heading("How settings were chosen")
    yield from _tuning(result)
    yield Heading("What is compared")
    yield _cards(result)
    yield Heading("Answers, drawn at random")
    for arm in result.arms:
        yield _answers(result, arm, examples)
    yield Heading("How this was made")
    yield Table(
        ["", ""],
        [
            ["command", record["command"]],
            [
                "training",
                ", ".join(f"{key}={value}" for key, value in record["training"].items()) or "defaults",
            ],
            ["seeds", ", ".join(map(str, record["seeds"]))],
            ["base", f"{record['base']['name']} ({record['base']['fingerprint']})"],
            ["versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
            ["machine", record["machine"]],
        ],
    )


def overview(result: Result) -> str:
    """What a notebook shows of a contest, as HTML: effect and cost of every contender, and the summary."""
    metrics = (result.evaluation.labels[0], IN_DISTRIBUTION)
    on = {point.arm: "yes" if point.on_front else "no" for point in result.front}
    rows = [
        [
            arm,
            result.settings(arm) or "–",
            *(_interval(result.evaluation.interval(arm, metric)) for metric in metrics),
            on.get(arm, "–"),
            f"{result.costs[arm].seconds:.1f}" if result.costs[arm].seconds else "–",
        ]
        for arm in result.arms
    ]
    head = ["contender", "settings", f"{metrics[0]}, %", "in distribution, %", "on the front", "seconds"]
    said = f"{result.summary()} {result.evaluation.caption()}"
    table = html.table(head, rows, numbers=range(2, len(head)))
    return html.view(html.element("b", result.record["task"]), table, html.element("p", said))


def _shares(result: Result) -> Table:
    metrics, rows = result.evaluation.metrics, []
    for arm in result.arms:
        cost = result.costs[arm]
        rows.append(
            [
                arm,
                result.settings(arm),
                *(_interval(result.evaluation.interval(arm, metric)) for metric in metrics),
                f"{cost.seconds:.1f}" if cost.seconds else "–",
                f"{cost.peak_memory / 2**20:,.0f}" if cost.peak_memory else "–",
            ]
        )
    head = [
        "contender",
        "settings",
        *(f"{metric.replace('_', ' ')}, %" for metric in metrics),
        "seconds",
        "MiB",
    ]
    return Table(head, rows, numbers=2)


def _against(result: Result, against: str) -> Iterator[Part]:
    label = result.evaluation.labels[0]
    yield Heading(f"Compared with {against}")
    for metric, sides in result.standing(against).iterrows():
        shares = str(metric).replace("_", " ")
        told = "; ".join(f"{side}: {names}" for side, names in sides.items())
        yield Words(f"Share {shares}, beside that of {against}: {told}.")
    yield Picture(
        f"against_{file_name(against)}", result.plot_compared(against), f"Paired differences to {against}."
    )
    inside = {one.arm: one for one in result.compared(against, IN_DISTRIBUTION)}
    left = [f"{label} left, % of {against}"] if against == PLAIN else []
    rows = [
        [
            one.arm,
            _interval(one.difference),
            _p(one.p_holm),
            *(["–" if one.ratio is None else percent(one.ratio)] if left else []),
            f"{one.h:+.2f}".replace("-", "−"),
            _interval(inside[one.arm].difference),
            _p(inside[one.arm].p_holm),
        ]
        for one in result.compared(against)
    ]
    head = [
        "contender", f"{label}, points", "p (Holm)", *left, "Cohen's h", "in distribution, points", "p (Holm)",
    ]  # fmt: skip
    yield Table(head, rows, numbers=1)
    yield Words(
        "Paired by seed and prompt; p from the same hierarchical bootstrap as the intervals, corrected by Holm's method over the "
        "rows of a column (before that it is at least 0.0002, since there are 10,000 resamples). With few seeds intervals are somewhat too narrow and p somewhat too small (see "
        "caft_lens.evaluate.statistics).",
        quiet=True,
    )


def _tuning(result: Result) -> Iterator[Part]:
    tuning, label = result.record["tuning"], result.evaluation.labels[0]
    yield Words(
        f"On {tuning['task']}, with seeds {', '.join(map(str, tuning['seeds']))}, {tuning['n']:,} answers (and {tuning['n_in_distribution']:,} in "
        f"distribution) a setting and seed: of the settings whose trained behaviour is within {percent(tuning['tolerance'])} points of plain "
        f"fine-tuning's, the one with the {result.record['goal']} {label} answers; where none is, the one that loses least."
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
        yield Table(
            ["contender", "settings", f"{label}, %", "in distribution, %", "keeps the task", ""], rows
        )


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


def _interval(interval: Interval) -> str:
    return str(interval).replace(" %", "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# -- how it is written ------------------------------------------------------------------------------------------------


def _html(part: Part, first: bool) -> html.Content:
    if isinstance(part, Heading):
        return html.element("h2", part.text)
    if isinstance(part, Words):
        return html.element("p", part.text, class_="soft" if part.quiet else "")
    if isinstance(part, Picture):
        return html.element("figure", html.made(theme.html(part.figure, first)))
    kind = ["n" if place >= part.numbers else "" for place in range(len(part.head))]
    pre = "pre" if part.folded else ""
    head = [html.element("th", cell, class_=k) for k, cell in zip(kind, part.head, strict=True)]
    rows = [
        html.element(
            "tr", [html.element("td", cell, class_=k or pre) for k, cell in zip(kind, row, strict=True)]
        )
        for row in part.rows
    ]
    made = html.element("table", html.element("thead", html.element("tr", head)), html.element("tbody", rows))
    table = html.element("div", made, class_="scroll")
    return html.element("details", html.element("summary", part.folded), table) if part.folded else table


def _markdown(part: Part, drawn: bool) -> str:
    if isinstance(part, Heading):
        return f"## {plain(part.text)}"
    if isinstance(part, Words):
        return plain(part.text, LINE)
    if isinstance(part, Picture):
        return (
            f"![{plain(part.says)}](arena_{part.name}.png)"
            if drawn
            else f"{plain(part.says)} (In the HTML file: no Chromium drew a picture.)"
        )
    lines = [
        [plain(cell, LINE) for cell in part.head],
        ["---:" if place >= part.numbers else "---" for place in range(len(part.head))],
        *([plain(cell, LINE) for cell in row] for row in part.rows),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    return f"**{plain(part.folded)}**\n\n{table}" if part.folded else table
