"""What a contest came to, read back from its folder: shares, comparisons, the front, costs, failures.

Every number is counted from the answers that were kept. Of a large contest `Result.export` keeps the scores without
the answers' texts: small enough for a repository, and as good to count from.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, JsonValue

from caft_lens._support import renamed
from caft_lens._support.errors import BadArgument, BadFile, UnknownName, nearest
from caft_lens._support.files import (
    Count,
    Json,
    Record,
    absent,
    absolute,
    inside,
    parse_json,
    parsed,
    read_json,
    read_record,
    read_together,
    sha256,
    shown,
    write_together,
)
from caft_lens.display import html
from caft_lens.evaluate.answers import ArmName
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.scores import parse_scores, read_scores, scores_text
from caft_lens.evaluate.tasks import IN_DISTRIBUTION
from caft_lens.experiments.comparisons import Comparison, FrontPoint, compare, front
from caft_lens.experiments.experiment import RUNS
from caft_lens.experiments.rows import ArmRow, Measures, percents, spread

if TYPE_CHECKING:
    import pandas

FORMAT = "caft_lens.arena/1"
RECORD, TEST, SCORES = "contest.json", "test", "verdicts.json"
PLAIN = "plain"


class ArmCost(Record):
    """What training an arm took: seconds (the mean over seeds; 0 where it was not tuned) and bytes at most."""

    seconds: float
    peak_memory: Count


class Result:
    """A finished contest.

    Attributes:
        folder: Where it lies.
        record: What was asked, what was tried and chosen, cards, versions, the command.

    Example:
        >>> result.table()[["arm", "intended", "on_front", "seeds"]].head(3)
              arm  intended on_front  seeds
        0    base    0.0000     None      5
        1   plain    0.1644    False      5
        2  random    0.2852    False      5
        >>> [one.arm for one in result.compared("plain") if one.metric == "intended"]
        ['random', 'caft_pca', 'caft_sae', 'kl_anchor']
        >>> Result.load(result.folder).table().equals(result.table())
        True
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = absolute(folder)
        path = renamed.found(self.folder / RECORD)
        if not path.is_file():
            hint = "The same `experiments.contest(...)` goes on with one that was interrupted."
            raise absent(self.folder, RECORD, "holds no finished contest", hint)
        self.record: dict[str, Any] = read_json(path)
        self._compared: dict[tuple[str, str], list[Comparison]] = {}
        if not isinstance(self.record, dict) or self.record.get("format") != FORMAT:
            raise BadFile(f"{path} is no record of a contest ({FORMAT}).")
        parsed(self.record, _File, str(path), "the record of a contest")

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """Read what `experiments.contest(..., out=folder)` or `export` left.

        Raises:
            MissingFile: When the folder holds no finished contest.
            BadFile: When its record is broken; a `ValueError`.
        """
        return cls(folder)

    @cached_property
    def evaluation(self) -> Report:
        """The evaluation on test: intervals, every answer, failures."""
        exported, record = self.folder / SCORES, renamed.found(self.folder / RECORD)
        if "verdicts" in self.record:
            wanted = self.record["verdicts"]
            text = read_together(exported, record, lambda held: (held, wanted))[1]
            return parse_scores(parse_json(text, str(exported)), exported)
        if exported.is_file():
            return read_scores(exported)
        report = Report.load(self.folder / TEST / "evaluation")
        report.check_answers(self.record.get("fingerprints"), record)
        return report

    @property
    def arms(self) -> list[str]:
        """Names of the contenders that have answers, in their order."""
        return [name for name in self.record["contenders"] if name in self.evaluation.cells]

    @property
    def rated(self) -> list[str]:
        """Those of them that were tuned on the contest's texts."""
        return [name for name in self.arms if self.record["contenders"][name]["rated"]]

    @property
    def failures(self) -> dict[str, dict[int, str]]:
        """Contender to seed to the error, on test."""
        return self.evaluation.failures

    @property
    def sign(self) -> float:
        """1 where few answers with the task's first label are wanted, -1 where many are."""
        return 1.0 if self.record["goal"] == "fewest" else -1.0

    def compared(self, against: str, metric: str | None = None) -> list[Comparison]:
        """Every contender that was tuned on the contest's texts against one, paired, corrected for their number.

        Args:
            against: Which, such as "plain" or "random".
            metric: Which share; default the task's first label.

        Raises:
            UnknownName: For a contender that there is not.
        """
        if against not in self.arms:
            raise UnknownName(f'No contender "{against}" with answers.{nearest(against, self.arms)}')
        key = against, metric or self.evaluation.labels[0]
        if key not in self._compared:
            self._compared[key] = compare(self.evaluation, *key, self.rated)
        return self._compared[key]

    @cached_property
    def front(self) -> list[FrontPoint]:
        """Where each contender that was tuned on the contest's texts stands between its effect and its cost."""
        return front(self.evaluation, self.rated, self.sign)

    @cached_property
    def costs(self) -> dict[str, ArmCost]:
        """What training took, by contender."""
        if "costs" in self.record:
            return {arm: ArmCost(**cost) for arm, cost in self.record["costs"].items()}
        path = self.folder / TEST / RUNS
        runs = parsed({"runs": read_json(path)}, _Runs, str(path), "the runs of an experiment").runs
        found = {}
        for arm in self.arms:
            records = [
                read_record(path, _Took, "the record of a run")
                for name in runs.get(arm, {}).values()
                if (path := inside(self.folder / TEST, name) / "run.json").is_file()
            ]
            seconds = sum(record.seconds for record in records) / max(1, len(records))
            most = max((record.peak_memory for record in records), default=0)
            found[arm] = ArmCost(seconds=seconds, peak_memory=most)
        return found

    @property
    def measures(self) -> Measures:
        """What is counted, in words, and whether few or many are wanted."""
        return Measures.of(self.evaluation, self.sign)

    def rows(self) -> list[ArmRow]:
        """One row per contender that was tuned on the contest's texts: what the figure of the front shows."""
        evaluation, label = self.evaluation, self.evaluation.labels[0]
        return [
            ArmRow(
                point.arm,
                self.setting(point.arm),
                effect=evaluation.interval(point.arm, label),
                in_distribution=evaluation.interval(point.arm, IN_DISTRIBUTION),
                on_front=point.on_front,
                stability=point.stability,
                example=evaluation.example(point.arm, label),
            )
            for point in self.front
        ]

    def setting(self, arm: str) -> str:
        """What was chosen for a contender, or that there was nothing to choose."""
        contender = self.record["contenders"][arm]
        if contender["arm"] is None:
            return "untuned"
        chosen = next((entry["label"] for entry in contender["tried"] if entry["chosen"]), "")
        given = ", ".join(f"{key}={one['value']}" for key, one in contender["card"]["settings"].items())
        return f"{chosen or given}{'' if contender['rated'] else ' (on other texts)'}".strip()

    def table(self) -> pandas.DataFrame:
        """One row per contender: shares with intervals, whether it is on the front, seconds and memory."""
        from caft_lens.display.frames import Frame

        on, evaluation = {point.arm: point for point in self.front}, self.evaluation
        return Frame(
            {
                "arm": arm,
                **spread(evaluation.intervals(arm)),
                "on_front": on[arm].on_front if arm in on else None,
                "front_stability": on[arm].stability if arm in on else None,
                "seeds": len(evaluation.seeds(arm)),
                "failed": len(self.failures.get(arm, {})),
                **vars(self.costs[arm]),
            }
            for arm in self.arms
        )

    def standing(self, against: str) -> pandas.DataFrame:
        """Who is told apart from a contender, after correction, and on which side of it.

        Args:
            against: Which, such as "caft".

        Returns:
            Names. Down: the task's first label and "in_distribution"; across: "lower", "not told apart" and "higher"
            shares than its own.

        Raises:
            UnknownName: For a contender that there is not.
        """
        from caft_lens.display.frames import Frame

        rows = {}
        for metric in (self.evaluation.labels[0], IN_DISTRIBUTION):
            sides: dict[str, list[str]] = {"lower": [], "not told apart": [], "higher": []}
            for one in self.compared(against, metric):
                side = "lower" if one.difference.mean < 0 else "higher"
                sides[side if one.is_significant else "not told apart"].append(one.arm)
            rows[metric] = {side: _listed(names) for side, names in sides.items()}
        return Frame(rows).T

    def tried(self) -> pandas.DataFrame:
        """One row per setting that was tried on dev: its shares, and whether it was `kept` (the task) and `chosen`."""
        from caft_lens.display.frames import Frame

        label = self.evaluation.labels[0]
        rows = [
            {
                "arm": arm,
                "settings": entry["label"],
                label: entry.get("share"),
                IN_DISTRIBUTION: entry.get("in_distribution"),
                "kept": entry.get("kept", False),
                "chosen": entry["chosen"],
                "failed": entry["failed"],
            }
            for arm, one in self.record["contenders"].items()
            for entry in one["tried"]
        ]
        columns = ["arm", "settings", label, IN_DISTRIBUTION, "kept", "chosen", "failed"]
        return Frame(rows, columns=columns)

    def summary(self) -> str:
        """In words: who is on the front, who is told apart from plain fine-tuning, and what failed."""
        told = [one for one in self.compared(PLAIN) if one.is_significant]
        better = [one.arm for one in told if self.sign * one.difference.mean < 0]
        failed = [f"{arm} with seeds {_listed(map(str, seeds))}" for arm, seeds in self.failures.items()]
        return (
            f"On the Pareto front: {_listed(self._on_front)}. Told apart from plain fine-tuning for the better, after "
            f"correction for {len(self.compared(PLAIN))} comparisons: "
            f"{_listed(better)}.{f' Failed: {_listed(failed)}.' if failed else ''}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything of the result as JSON values: the record, the evaluation, comparisons, the front and the costs."""
        metrics = (self.evaluation.labels[0], IN_DISTRIBUTION)
        compared = [
            {
                "arm": one.arm,
                "against": one.against,
                "metric": one.metric,
                **one.difference.to_json(),
                "p": one.p,
                "p_holm": one.p_holm,
                "ratio": one.ratio,
                "h": one.h,
            }
            for against in self.record["against"]
            if against in self.arms
            for metric in metrics
            for one in self.compared(against, metric)
        ]
        return {
            **{key: value for key, value in self.record.items() if key != "verdicts"},
            "evaluation": self.evaluation.to_json(),
            "compared": compared,
            "front": [vars(point) for point in self.front],
            "costs": {arm: vars(cost) for arm, cost in self.costs.items()},
        }

    def export(self, folder: str | Path, *, examples: int = 3) -> Path:
        """Write the result without its runs and with a few answers' texts only: `Result.load` reads it as well.

        Args:
            folder: Where to; `contest.json` and `verdicts.json` in it are replaced.
            examples: Answers of each contender and label that are kept with their text, drawn at random.

        Returns:
            The folder.

        Raises:
            BadArgument: When it is the contest's own folder.
        """
        target = Path(folder)
        if target.resolve() == self.folder.resolve():
            raise BadArgument(f"{target} is the contest's own folder; export to another one.")
        text = scores_text(self.evaluation, examples).encode()
        record = {**self.to_json(), "verdicts": sha256(text)}
        write_together(target / SCORES, text, target / RECORD, record)
        return target

    def __repr__(self) -> str:
        seeds = _listed(map(str, self.record["seeds"]))
        return (
            f"Result({shown(self.folder)!r}: {len(self.arms)} contenders, seeds {seeds}; on the front: "
            f"{_listed(self._on_front)})"
        )

    def _repr_html_(self) -> str:
        metrics = (self.evaluation.labels[0], IN_DISTRIBUTION)
        on = {point.arm: "yes" if point.on_front else "no" for point in self.front}
        rows = [
            [
                arm,
                self.setting(arm) or "–",
                *(percents(self.evaluation.interval(arm, metric)) for metric in metrics),
                on.get(arm, "–"),
                f"{self.costs[arm].seconds:.1f}" if self.costs[arm].seconds else "–",
            ]
            for arm in self.arms
        ]
        head = ["contender", "settings", f"{metrics[0]}, %", "in distribution, %", "on the front", "seconds"]
        said = f"{self.summary()} {self.evaluation.caption()}"
        table = html.table(head, rows, numbers=range(2, len(head)))
        return html.view(html.element("b", self.record["task"]), table, html.element("p", said))

    @property
    def _on_front(self) -> list[str]:
        return [point.arm for point in self.front if point.on_front]


# -- what the files hold ----------------------------------------------------------------------------------------------


class _Of(Record):
    """A model or texts, by name and fingerprint."""

    name: str
    fingerprint: str
    reading: str | None = None
    texts: Count | None = None


class _Tuning(Record):
    task: str
    seeds: list[int]
    n: Count
    n_in_distribution: Count
    tolerance: float


class _Setting(Record):
    value: JsonValue
    meaning: str


class _Card(Record):
    idea: str
    equation: str
    source: str
    arxiv: str
    needs: dict[str, str]
    settings: dict[str, _Setting]


class _Tried(Record):
    label: str
    failed: str
    chosen: bool
    share: float | None = None
    in_distribution: float | None = None
    kept: bool = False
    settings: Json | None = None


class _Contender(Record):
    arm: Json | None
    card: _Card | None
    tried: list[_Tried]
    rated: bool


class _File(Record):
    """What `contest.json` holds: what is counted by, what is told only, and of an exported one what was counted."""

    format: Literal["caft_lens.arena/1"]
    task: str
    base: _Of | None = None
    texts: _Of | None = None
    goal: Literal["fewest", "most"]
    against: list[ArmName]
    seeds: list[int]
    tuning: _Tuning | None = None
    training: dict[str, str] | None = None
    contenders: dict[ArmName, _Contender]
    versions: dict[str, str] | None = None
    machine: str | None = None
    command: str | None = None
    evaluation: Json | None = None
    compared: list[Json] | None = None
    front: list[Json] | None = None
    costs: dict[str, ArmCost] | None = None
    fingerprints: dict[str, dict[int, str]] | None = None
    verdicts: str | None = None


class _Runs(Record):
    """Arm to seed to the folder of the run."""

    runs: dict[ArmName, dict[int, str]]


class _Took(ArmCost):
    """What is read of a run's record here."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Json


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
