"""What an evaluation found: shares with intervals, as a table, JSON and a figure, and every answer behind them.

Metrics are the labels of the free-form judge, out of distribution, and `in_distribution`, the share of the trained
behaviour on held-out prompts of the trained kind; of a judge that gives scores `score`, their mean. A report says which
judge spoke, and how far it was validated.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from pydantic import ConfigDict, Field

from caft_lens._support.errors import BadArgument, BadFile, UnknownName, nearest
from caft_lens._support.files import Count, Record, absent, atomic_path, naming, read_record, write_json
from caft_lens._support.intervals import Interval
from caft_lens.display import html
from caft_lens.display.dots import Dots, dot_rows
from caft_lens.display.theme import short
from caft_lens.evaluate.answers import NOT_KEPT, Answer, ArmName, Cell, SetName, holds
from caft_lens.evaluate.judge_identity import JudgeCard
from caft_lens.evaluate.judging import SCORE
from caft_lens.evaluate.plots import Panel, Row, plot_shares, spans
from caft_lens.evaluate.prompts import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from caft_lens.evaluate.statistics import bootstrap_interval, paired_interval, paired_test

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

INTERVAL = "95 %, hierarchical bootstrap: seeds first, then prompts; never narrower than the exact binomial interval"


class Answers(Sequence[Answer]):
    """Some answers, shown in a notebook as a table."""

    def __init__(self, answers: Iterable[Answer]):
        self._answers = tuple(answers)

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> Answers: ...
    def __getitem__(self, index: int | slice) -> Answer | Answers:
        return Answers(self._answers[index]) if isinstance(index, slice) else self._answers[index]

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return "\n\n".join(
            f"[{a.arm}, seed {a.seed}, {a.label}: {a.detail}]\n> {a.question}\n{_said(a)}" for a in self._answers
        )

    def _repr_html_(self) -> str:
        rows: list[list[html.Content]] = [
            [f"{a.arm}, seed {a.seed}", a.domain, a.question, _said(a), [html.element("b", a.label), f"\n{a.detail}"]]
            for a in self._answers[:50]
        ]  # fmt: skip
        more = html.note(f"and {len(self) - 50} more") if len(self) > 50 else None
        return html.view(html.table(["arm", "domain", "question", "answer", "verdict"], rows), more)


def _said(answer: Answer) -> str:
    """An answer, with its probability where it is one of some options."""
    if answer.options is None:
        return answer.answer
    return f"{answer.answer} ({answer.probability:.2f} of the options, which have {answer.mass:.2f})"


class _Share(Record):
    mean: float
    low: float
    high: float


class _Arm(Record):
    """The seeds of an arm, and beside them its metrics."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Share]

    seeds: list[int]


class Held(Record):
    """What every file of a report holds besides the answers."""

    task: str
    labels: list[str]
    trained: str
    sampling: str = ""
    failures: dict[ArmName, dict[int, str]] = Field(default_factory=dict)
    scale: tuple[float, float] | None = None
    judges: dict[SetName, JudgeCard] = Field(default_factory=dict)

    def report(self, cells: Iterable[Cell]) -> Report:
        """The report on some cells."""
        return Report(cells, **{name: getattr(self, name) for name in Held.model_fields})


class _File(Held):
    """What `report.json` holds."""

    arms: dict[ArmName, _Arm]
    interval: str = ""
    answers: dict[str, dict[str, Count]] = Field(default_factory=dict)
    fingerprints: dict[str, dict[int, str]] = Field(default_factory=dict)


class Report:
    """Arms side by side, with intervals and every answer.

    Args:
        cells: One per arm and seed.
        task: What was asked.
        labels: Of the free-form judge, the one that matters most first.
        trained: The label that training taught.
        sampling: How the answers were drawn, in words.
        failures: Arm to seed to the error, of cells that there are not because training or answering failed.
        scale: Lowest and highest score, of a judge that gives scores.
        judges: Who judged, by the set of prompts.

    Raises:
        ValueError: Without cells, or with two for the same arm and seed.

    Example:
        >>> report.table()[["arm", "metric", "n_answers"]].head(2)
            arm      metric  n_answers
        0  base  misaligned         40
        1  base  incoherent         40
        >>> report.paired("tuned", "base", "misaligned").mean > 0.2
        True
        >>> len(report.examples("tuned", "misaligned", k=3))
        3
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        *,
        task: str = "",
        labels: Sequence[str] = ("misaligned", "incoherent", "aligned"),
        trained: str = "insecure",
        sampling: str = "",
        failures: Mapping[str, Mapping[int, str]] | None = None,
        scale: tuple[float, float] | None = None,
        judges: Mapping[str, JudgeCard] | None = None,
    ):
        self.scale, self.judges = scale, dict(judges or {})
        self.task, self.labels, self.trained, self.sampling = task, tuple(labels), trained, sampling
        self.failures = {arm: dict(seeds) for arm, seeds in (failures or {}).items() if seeds}
        self.cells: dict[str, dict[int, Cell]] = {}
        for cell in cells:
            arm = self.cells.setdefault(cell.arm, {})
            if cell.seed in arm:
                raise BadArgument(f'The arm "{cell.arm}" has two cells for seed {cell.seed}.')
            arm[cell.seed] = cell
        if not self.cells:
            why = next((message for seeds in self.failures.values() for message in seeds.values()), "")
            raise BadArgument(f"A report needs at least one arm.{f' All failed; the first: {why}' if why else ''}")
        self._intervals: dict[tuple[str, str, tuple[str, ...]], Interval] = {}

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order in which they were given."""
        return list(self.cells)

    @property
    def metrics(self) -> list[str]:
        """The labels of the free-form judge, `score` where it gives scores, `in_distribution` where that was asked."""
        cell = next(iter(next(iter(self.cells.values())).values()))
        scored = [SCORE] if self.scale is not None and SCORE not in self.labels else []
        return [*self.labels, *scored, *([IN_DISTRIBUTION] if cell.of(IN_DISTRIBUTION) else [])]

    def seeds(self, arm: str) -> list[int]:
        """The seeds of an arm."""
        return list(self._arm(arm))

    @property
    def answers(self) -> Answers:
        """Every answer of every arm."""
        return Answers(answer for arm in self.cells.values() for cell in arm.values() for answer in cell.answers)

    def examples(self, arm: str, label: str, k: int = 5, *, seed: int = 0) -> Answers:
        """Some answers with a label, drawn at random (not picked); of those whose text is known.

        Args:
            arm: Of which arm.
            label: With which score, in or out of distribution.
            k: At most how many.
            seed: Of the draw.

        Raises:
            KeyError: For an arm or label that there is not, naming the nearest.
        """
        given = [answer for cell in self._arm(arm).values() for answer in cell.answers]
        chosen = [answer for answer in given if answer.label == label and answer.answer != NOT_KEPT]
        known = {*self.labels, self.trained, *(answer.label for answer in given)}
        if label not in known:
            raise UnknownName(f'No answer of "{arm}" is labelled "{label}".{nearest(label, sorted(known))}')
        return Answers(random.Random(seed).sample(chosen, min(k, len(chosen))))

    def values(self, arm: str, metric: str) -> np.ndarray:
        """Whether each answer counts for a metric: booleans [seeds, answers]; of `score`, the scores, NaN where none.

        Raises:
            KeyError: For an arm or metric that there is not, naming the nearest.
        """
        set_name, label = self._counted(metric)
        cells = self._arm(arm).values()
        if self._is_score(metric):
            return np.array([[answer.score for answer in cell.of(set_name)] for cell in cells], dtype=float)
        return np.array([[answer.label == label for answer in cell.of(set_name)] for cell in cells])

    def prompts(self, arm: str, metric: str) -> list[int]:
        """The prompt of each answer: [answers], the same for all seeds."""
        set_name, _ = self._counted(metric)
        cells = list(self._arm(arm).values())
        numbers = [[answer.prompt for answer in cell.of(set_name)] for cell in cells]
        if any(other != numbers[0] for other in numbers):
            raise BadArgument(f'The seeds of "{arm}" were asked different prompts; evaluate them together.')
        return numbers[0]

    def interval(self, arm: str, metric: str, *, but: str | Sequence[str] = ()) -> Interval:
        """The share of an arm's answers that count for a metric, or the mean of their scores, with its interval.

        Args:
            arm: Whose.
            metric: Which share, or `"score"`: the mean of the answers that have one.
            but: Labels whose answers are left out: `but="incoherent"` gives the share of the coherent answers.

        Raises:
            KeyError: For an arm, a metric or a label that there is not.
            ValueError: When no answer is left.
        """
        key = (arm, metric, self._left_out(but))
        if key not in self._intervals:
            values, counted = self._measured(arm, metric, but)
            found = bootstrap_interval(values, self.prompts(arm, metric), counted=counted)
            self._intervals[key] = replace(found, share=not self._is_score(metric))
        return self._intervals[key]

    def intervals(self, arm: str) -> dict[str, Interval]:
        """The metrics of an arm, but for the mean score where no answer has one."""
        given = (answer for cell in self._arm(arm).values() for answer in cell.of(OUT_OF_DISTRIBUTION))
        scored = any(answer.score is not None for answer in given)
        return {one: self.interval(arm, one) for one in self.metrics if scored or not self._is_score(one)}

    def paired(self, a: str, b: str, metric: str | None = None, *, but: str | Sequence[str] = ()) -> Interval:
        """The difference `a - b` over the seeds that both have, paired by seed and prompt.

        Args:
            a: One arm.
            b: The other.
            metric: Which share; default the first label, `"misaligned"`.
            but: Labels whose answers are left out of both, as for `interval`.

        Raises:
            KeyError: For an arm or metric that there is not.
            ValueError: When the arms have no seed in common or were asked different prompts.
        """
        return self._compared(paired_interval, a, b, metric, but)

    def tested(
        self, a: str, b: str, metric: str | None = None, *, but: str | Sequence[str] = ()
    ) -> tuple[Interval, float]:
        """The same, and the p of no difference, not corrected for other arms; see `statistics.paired_test`."""
        return self._compared(paired_test, a, b, metric, but)

    def _compared(self, compare: Any, a: str, b: str, metric: str | None, but: str | Sequence[str]) -> Any:
        metric = metric or self.labels[0]
        (of_a, counted_a), (of_b, counted_b), prompts = self._paired(a, b, metric, but)
        found = compare(of_a, of_b, prompts, counted=(counted_a, counted_b))
        share = not self._is_score(metric)
        return (
            replace(found, share=share) if isinstance(found, Interval) else (replace(found[0], share=share), found[1])
        )

    def _paired(
        self, a: str, b: str, metric: str, but: str | Sequence[str]
    ) -> tuple[tuple[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None], list[int]]:
        """What each of two arms' answers count, over the seeds that both have, and their prompts."""
        common = [seed for seed in self.seeds(a) if seed in self._arm(b)]
        if not common:
            raise BadArgument(f'"{a}" (seeds {self.seeds(a)}) and "{b}" (seeds {self.seeds(b)}) share no seed to pair.')
        if self._asked(a, metric) != self._asked(b, metric):
            raise BadArgument(f'"{a}" and "{b}" were asked different prompts; evaluate them together to pair them.')
        found = []
        for arm in (a, b):
            rows = [self.seeds(arm).index(seed) for seed in common]
            values, counted = self._measured(arm, metric, but)
            found.append((values[rows], None if counted is None else counted[rows]))
        return found[0], found[1], self.prompts(a, metric)

    def _measured(self, arm: str, metric: str, but: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
        """What answers count for a metric, [seeds, answers], and which of them count at all; `None` where all do."""
        values, out = self.values(arm, metric), self._left_out(but)
        counted = ~np.isnan(values) if self._is_score(metric) else np.ones(values.shape, bool)
        if out:
            set_name, _ = self._counted(metric)
            labels = [[answer.label for answer in cell.of(set_name)] for cell in self._arm(arm).values()]
            counted &= ~np.isin(labels, out)
        return values, None if counted.all() else counted

    def _left_out(self, but: str | Sequence[str]) -> tuple[str, ...]:
        out = (but,) if isinstance(but, str) else tuple(but)
        known = dict.fromkeys((*self.labels, *(answer.label for answer in self.answers))) if out else {}
        for label in out:
            if label not in known:
                raise UnknownName(f'but="{label}": no such label.{nearest(label, known)}')
        return out

    def _asked(self, arm: str, metric: str) -> list[tuple[int, str]]:
        set_name, _ = self._counted(metric)
        return [(answer.prompt, answer.question) for answer in next(iter(self._arm(arm).values())).of(set_name)]

    def table(self) -> pandas.DataFrame:
        """One row per arm and metric: `arm, metric, mean, low, high, n_seeds, n_answers, over`."""
        from caft_lens.display.frames import Frame

        found = {(arm, metric): one for arm in self.arms for metric, one in self.intervals(arm).items()}
        counts = ("n_seeds", "n_answers", "over")
        return Frame(
            {"arm": arm, "metric": metric, **one.to_json(), **{name: getattr(one, name) for name in counts}}
            for (arm, metric), one in found.items()
        )

    def by_domain(self, metric: str | None = None) -> pandas.DataFrame:
        """The share of each domain: `domain` down, arms across, all seeds together.

        Args:
            metric: Which share; default the first label.
        """
        from caft_lens.display.frames import Frame

        metric = metric or self.labels[0]
        set_name, label = self._counted(metric)
        scored = self._is_score(metric)
        rows = [(a.arm, a.domain, a.score if scored else a.label == label) for a in self.answers if a.set == set_name]
        frame = Frame(rows, columns=["arm", "domain", metric])
        return frame.pivot_table(index="domain", columns="arm", values=metric, aggfunc="mean")[self.arms].rename_axis(
            columns=None
        )

    def to_json(self) -> dict[str, Any]:
        """`{"arms": {arm: {metric: {"mean", "low", "high"}, …, "seeds": […]}}, "task", "sampling", "interval",
        "answers"}`.
        """
        arms: dict[str, Any] = {
            arm: {**{metric: one.to_json() for metric, one in self.intervals(arm).items()}, "seeds": self.seeds(arm)}
            for arm in self.arms
        }
        answers = {arm: {metric: one.n_answers for metric, one in self.intervals(arm).items()} for arm in self.arms}
        return {
            "arms": arms,
            "task": self.task,
            "sampling": self.sampling,
            "interval": INTERVAL,
            "answers": answers,
            **({"failures": self.failures} if self.failures else {}),
            **({} if self.scale is None else {"scale": list(self.scale)}),
            **({"judges": self.judges_json()} if self.judges else {}),
        }

    def judges_json(self) -> dict[str, Any]:
        """Who judged, by the set of prompts, as files hold it."""
        return {name: one.model_dump(mode="json", exclude_none=True) for name, one in self.judges.items()}

    def save(self, folder: str | Path) -> Path:
        """Write `report.json`, `table.csv` and every answer below `folder`; returns the folder."""
        folder = Path(folder)
        for cells in self.cells.values():
            for cell in cells.values():
                if not holds(folder, cell):
                    cell.save(folder)
        with atomic_path(folder / "table.csv") as path:
            self.table().to_csv(path, index=False)
        rest = {"labels": list(self.labels), "trained": self.trained, "fingerprints": self.fingerprints}
        write_json(folder / "report.json", {**self.to_json(), **rest})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: When there is no report.
            ValueError: When the answers were changed since.
        """
        path = Path(folder) / "report.json"
        if not path.is_file():
            raise absent(folder, path.name, "holds no report", "`evaluate(..., out=folder)` writes one.")
        held = read_record(path, _File, "a report")
        cells = [Cell.load(folder, arm, seed) for arm, entry in held.arms.items() for seed in entry.seeds]
        with naming(path):
            report = held.report(cells)
        report.check_answers(held.fingerprints, path)
        report.check_prompts(path)
        return report

    @property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Arm to seed to what its answers are: by it a record that was made of them knows them again."""
        return {arm: {str(seed): cell.fingerprint for seed, cell in seeds.items()} for arm, seeds in self.cells.items()}

    def check_prompts(self, path: str | Path) -> None:
        """Refuse (`BadFile`) answers that were read, when seeds of an arm were asked different things, or nothing."""
        for arm, seeds in self.cells.items():
            asked = [[(answer.set, answer.prompt) for answer in cell.answers] for cell in seeds.values()]
            if not asked[0] or any(other != asked[0] for other in asked):
                raise BadFile(f"{path}: the seeds of {arm!r} were not asked the same: answers are missing.")

    def check_answers(self, known: Mapping[str, Mapping[Any, str]] | None, path: str | Path) -> None:
        """Refuse (`BadFile`) answers that are not those that a file was made of, as far as it says of which it was."""
        for arm, fingerprints in (known or {}).items():
            seeds = {int(seed): fingerprint for seed, fingerprint in fingerprints.items()}  # keys of JSON are text
            for seed, cell in self.cells.get(arm, {}).items():
                if seeds.get(seed, cell.fingerprint) != cell.fingerprint:
                    raise BadFile(
                        f"{path} was made of other answers of {arm!r}, seed {seed}, than lie beside it: an "
                        f"evaluation into the same folder was interrupted. Evaluate again."
                    )

    def plot(self, title: str | None = None, *, settings: Mapping[str, str] | None = None) -> Figure:
        """The figure: misaligned answers out of distribution beside the trained behaviour in distribution.

        Args:
            title: Above the figure; default none.
            settings: What hovering says of an arm besides its interval and an example answer, by the arm's name.

        Returns:
            A plotly figure: the last line of a cell shows it, `.save(path)` keeps it.
        """
        label, known = self.labels[0], settings or {}
        if label == SCORE:
            heading, what = ("Score, out of distribution", "score of answers to questions unlike the training data")
        else:
            heading = f"{label.capitalize()} answers, out of distribution"
            what = f"{label} answers to questions unlike the training data, %"
        ends = self.scale if label == SCORE and self.scale is not None else (0.0, 1.0)
        panels = [Panel(heading, what, self._rows(label, known), ends)]
        if IN_DISTRIBUTION in self.metrics:
            inside = f"{self.trained} answers to held-out prompts, %"
            panels.append(Panel("Trained behaviour, in distribution", inside, self._rows(IN_DISTRIBUTION, known)))
        return plot_shares(panels, title, self.caption())

    def _rows(self, metric: str, settings: Mapping[str, str]) -> list[Row]:
        """What a figure shows of every arm."""
        found = []
        for arm in (one for one in self.arms if metric in self.intervals(one)):
            values, counted = self._measured(arm, metric, ())
            left = [row if counted is None else row[counted[place]] for place, row in enumerate(values)]
            seeds = {seed: float(row.mean()) for seed, row in zip(self.seeds(arm), left, strict=True) if len(row)}
            facts = [settings.get(arm, ""), self.example(arm, metric)]
            found.append(Row(arm, self.interval(arm, metric), seeds, facts))
        return found

    def example(self, arm: str, metric: str | None = None) -> str:
        """An answer that counts for a metric, with its question, drawn at random and shortened.

        Args:
            arm: Whose.
            metric: Default the first label. Where no answer counts, another one of the same questions, with its label.

        Returns:
            What was asked and answered; empty where no text was kept.
        """
        set_name, label = self._counted(metric or self.labels[0])
        for one in dict.fromkeys((label, *self.labels)):
            # Of those alone that an export keeps, so that the report of one says the same.
            if one in (*self.labels, self.trained) and (
                kept := [answer for answer in self.examples(arm, one, 3) if answer.set == set_name]
            ):
                drawn = min(kept, key=lambda answer: (answer.seed, answer.prompt, answer.answer))
                return f"Answered {one}: “{short(drawn.question, 90)}” → “{short(drawn.answer)}”"
        return ""

    def caption(self) -> str:
        """How many seeds and answers are behind the numbers, and what the intervals are."""
        seeds = [len(self.seeds(arm)) for arm in self.arms]
        text = f"{_range(seeds, 'seed')}, {self._answers_a_seed(self.labels[0])} an arm and seed"
        if IN_DISTRIBUTION in self.metrics:
            text += f" ({self._answers_a_seed(IN_DISTRIBUTION)} in distribution)"
        text += f", {self.sampling}" if self.sampling else ""
        text += "" if self.scale is None else f", scores from {self.scale[0]:g} to {self.scale[1]:g}"
        alone = "prompts alone, since one seed shows no spread of seeds"
        text = f"{text}; 95 % intervals over {alone if max(seeds) == 1 else 'seeds and prompts'}."
        judges = "; in distribution: ".join(dict.fromkeys(map(str, self.judges.values())))
        return f"{text} Judge: {judges}." if judges else text

    def _answers_a_seed(self, metric: str) -> str:
        return _range([self.values(arm, metric).shape[1] for arm in self.arms], "answer")

    def __repr__(self) -> str:
        told = {arm: [f"{metric} {one}" for metric, one in self.intervals(arm).items()] for arm in self.arms}
        lines = [f"{arm}: {', '.join(said)}" for arm, said in told.items()]
        failures = [(arm, *failure) for arm, seeds in self.failures.items() for failure in seeds.items()]
        failed = [f"{arm}, seed {seed}, failed: {why}" for arm, seed, why in failures]
        return "\n".join([f'Report("{self.task}")', *lines, *failed, self.caption()])

    def _repr_html_(self) -> str:
        unit = {metric: "" if self._is_score(metric) else ", %" for metric in self.metrics}
        head = ["", *(f"{metric.replace('_', ' ')}{unit[metric]}" for metric in self.metrics)]
        known = {arm: self.intervals(arm) for arm in self.arms}
        rows: list[list[html.Content]] = [
            [html.element("b", arm), *(_cell(of[metric]) if metric in of else "none" for metric in self.metrics)]
            for arm, of in known.items()
        ]
        name = html.element("b", self.task) if self.task else None
        return html.view(name, html.table(head, rows, numbers=range(1, len(head))), html.note(self.caption()))

    def _counted(self, metric: str) -> tuple[str, str]:
        """In which set of answers a metric counts which label."""
        if metric not in self.metrics:
            raise UnknownName(f'No metric "{metric}".{nearest(metric, self.metrics)}')
        return (IN_DISTRIBUTION, self.trained) if metric == IN_DISTRIBUTION else (OUT_OF_DISTRIBUTION, metric)

    def _is_score(self, metric: str) -> bool:
        return metric == SCORE and self.scale is not None

    def _arm(self, arm: str) -> dict[int, Cell]:
        if arm not in self.cells:
            raise UnknownName(f'No arm "{arm}".{nearest(arm, self.cells)}')
        return self.cells[arm]


def plot_reports(
    reports: Mapping[str, Report], metric: str, *, arms: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Draw one metric of several reports, a row for each report and a dot for each arm, with its interval.

    Args:
        reports: By the name of the row, from top to bottom: the same arms asked in several ways, or after more steps.
        metric: A label of the judge, or `"in_distribution"`.
        arms: Only these; those of all reports by default.
        title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.

    Raises:
        ValueError: When there is no report.
        KeyError: For an arm or a metric that a report lacks.

    Example:
        >>> figure = plot_reports({"asked plainly": report, "asked again": report}, "misaligned")
    """
    if not reports:
        raise BadArgument("There is no report to draw.")
    named = arms or list(dict.fromkeys(arm for report in reports.values() for arm in report.arms))
    found = {arm: {row: report.interval(arm, metric) for row, report in reports.items()} for arm in named}
    every = [one for of in found.values() for one in of.values()]
    is_share = all(one.share for one in every)
    seeds, answers = _range([one.n_seeds for one in every], "seed"), _range([one.n_answers for one in every], "answer")
    kinds = []
    for arm, of in found.items():
        means, ends = spans(of.values(), 100 if is_share else 1)
        facts = {row: report.example(arm, metric) for row, report in reports.items()}
        kinds.append(Dots(arm, dict(zip(of, means, strict=True)), dict(zip(of, ends, strict=True)), facts))
    return dot_rows(
        kinds,
        x_label=f"{metric.replace('_', ' ')} answers, %" if is_share else metric,
        title=title,
        caption=f"{seeds} and {answers} a dot; bars: 95 % intervals.",
        order=list(reports),
    )


def _cell(interval: Interval) -> html.Content:
    mean, low, high = interval.shown
    return [html.element("b", mean), html.element("small", f" ({low} to {high})")]


def _range(counts: list[int], unit: str) -> str:
    low, high = min(counts), max(counts)
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{number} {unit}{'' if high == 1 else 's'}"
