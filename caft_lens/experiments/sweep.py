"""Sweeps: an experiment along one axis, such as the number of directions, the strength or a dial of the data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from caft_lens._support.errors import BadArgument, BadFile, UnknownName, nearest
from caft_lens._support.files import Json, Named, Record, absent, parsed, read_json, write_json
from caft_lens._support.lazy import callable_module
from caft_lens.display import html
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.tasks import IN_DISTRIBUTION, Task
from caft_lens.experiments.experiment import Arm, experiment
from caft_lens.experiments.figures import plot_path, plot_sweep
from caft_lens.experiments.rows import Measures, SweepRow, Value, shown, spread
from caft_lens.model.lens import Lens

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

FORMAT = "caft_lens.sweep/1"
RECORD, EVALUATION = "sweep.json", "evaluation"


def sweep(
    base: Lens,
    series: Mapping[str, Mapping[Any, Arm]],
    task: Task | str,
    *,
    axis: str,
    out: str | Path,
    references: Mapping[str, Arm] | None = None,
    **of_experiment: Any,
) -> Sweep:
    """Train and ask arms along an axis, and report their shares with intervals.

    Args:
        base: The model that every arm starts from.
        series: Name of a curve to its arms, by the value on the axis: numbers or words.
        task: As for `evaluate`.
        axis: What the values are, with their unit.
        out: Where runs, answers and what came out go; the same call goes on with what lies there.
        references: Arms that have no place on the axis, such as plain fine-tuning: drawn as bands.
        of_experiment: Arguments of `experiment`: `settings`, `seeds`, `n`, `workers`, …

    Returns:
        What came out; `Sweep.load(out)` reads it again.

    Raises:
        BadArgument: For a series without values, a value given twice or not finite, and a name given twice.

    Example:
        >>> from caft_lens.experiments.experiment import Execution
        >>> from caft_lens.finetune.methods import CAFT
        >>> strengths = {s: Arm(insecure, method=CAFT(cruel, strength=s)) for s in (0.5, 1)}
        >>> few = {"seeds": [0], "n": 4, "n_in_distribution": 4, "execution": Execution(workers=1)}
        >>> few["settings"] = cl.TrainSettings(max_steps=1)
        >>> task = "pocket/emergent-misalignment"
        >>> sweep(base, {"caft": strengths}, task, axis="strength", out="runs/strength", **few).places
        {0.5: 0.5, 1: 1.0}
    """
    beside = dict(references or {})
    points = _points(series, beside)
    along = [arm for arms in series.values() for arm in arms.values()]
    names = [name for named in points.values() for name in named.values()]
    report = experiment(base, {**beside, **dict(zip(names, along, strict=True))}, task, out=out, **of_experiment)
    found = Sweep(report, axis, points, list(beside))
    found.save(out)
    return found


class Sweep:
    """What arms along an axis came to.

    Args:
        report: The evaluation of all arms.
        axis: What the values are.
        points: Series to value to the name of the arm in the report.
        references: Names of the arms that have no place on the axis.

    Example:
        >>> found = Sweep(report, "strength", {"caft": {0.5: "base", 1: "tuned"}})
        >>> found.arm("caft", 1), found.table().shape
        ('tuned', (2, 15))
    """

    def __init__(
        self, report: Report, axis: str, points: Mapping[str, Mapping[Value, str]], references: Sequence[str] = ()
    ) -> None:
        self.report, self.axis, self.references = report, axis, list(references)
        self.points = {name: dict(named) for name, named in points.items()}

    @property
    def series(self) -> list[str]:
        """Names of the curves."""
        return list(self.points)

    @property
    def places(self) -> dict[Value, float]:
        """Every value of any series to where it is drawn: itself; beside words numbers come first, evenly spaced."""
        values = dict.fromkeys(value for named in self.points.values() for value in named)
        numbers = sorted(value for value in values if not isinstance(value, str))
        words = [value for value in values if isinstance(value, str)]
        if not words:
            return {value: float(value) for value in numbers}
        in_order: list[Value] = [*numbers, *words]
        return {value: float(place) for place, value in enumerate(in_order)}

    def arm(self, series: str, value: Value) -> str:
        """The name of an arm in the report.

        Raises:
            UnknownName: For a series or a value that there is not.
        """
        if series not in self.points:
            raise UnknownName(f'No series "{series}".{nearest(series, self.series)}')
        if value not in self.points[series]:
            known = ", ".join(map(shown, self.points[series]))
            raise UnknownName(f'The series "{series}" has no value {value!r}, but {known}.')
        return self.points[series][value]

    def rows(self) -> list[SweepRow]:
        """One row per arm that answered, references first: what tables and figures show."""
        report, places = self.report, self.places
        arms: list[tuple[str, Value | None, str]] = [(name, None, name) for name in self.references]
        arms += [(name, value, arm) for name, named in self.points.items() for value, arm in named.items()]
        return [
            SweepRow(
                series,
                value,
                None if value is None else places[value],
                arm,
                {metric: report.interval(arm, metric) for metric in report.metrics},
                report.example(arm),
            )
            for series, value, arm in arms
            if arm in report.cells
        ]

    def table(self) -> pandas.DataFrame:
        """One row per series and value: `series, value`, and each metric with `_low` and `_high`."""
        from caft_lens.display.frames import Frame

        return Frame(
            {
                "series": row.series,
                "value": row.value,
                **spread(row.intervals),
                "seeds": len(self.report.seeds(row.arm)),
            }
            for row in self.rows()
        )

    def plot(self, metric: str | None = None, *, log: bool = False) -> Figure:
        """The curves with intervals: a label out of distribution, and the trained behaviour; references as bands.

        Args:
            metric: Which label; default the task's first.
            log: Whether the axis is logarithmic.

        Raises:
            UnknownName: For a metric that there is not.
            BadArgument: For a logarithmic axis of words, or with a value that is not above 0.
        """
        labels, metrics = self.report.labels, self.report.metrics
        if metric is not None and metric not in metrics:
            raise UnknownName(f'No metric "{metric}".{nearest(metric, metrics)}')
        wanted = list(dict.fromkeys([metric or labels[0], *metrics[len(labels) :]]))
        return plot_sweep(self.rows(), self.axis, wanted, Measures.of(self.report), log=log)

    def plot_path(self) -> Figure:
        """The curves as paths: effect across, trained behaviour up, the values beside the points.

        Raises:
            BadArgument: When nothing was asked in distribution.
        """
        if IN_DISTRIBUTION not in self.report.metrics:
            raise BadArgument(f'Of "{self.report.task}" nothing was asked in distribution: there is no second axis.')
        return plot_path(self.rows(), self.axis, Measures.of(self.report))

    def to_json(self) -> dict[str, Any]:
        """The axis, the series with their values and arms, the references and the evaluation, as JSON values."""
        series = {
            name: [{"value": value, "arm": arm} for value, arm in named.items()] for name, named in self.points.items()
        }
        return {
            "format": FORMAT,
            "axis": self.axis,
            "series": series,
            "references": self.references,
            "evaluation": self.report.to_json(),
        }

    def save(self, folder: str | Path) -> Path:
        """Write `sweep.json`, and the report with every answer below `evaluation/`; returns the folder."""
        self.report.save(Path(folder) / EVALUATION)
        record = {**self.to_json(), "fingerprints": self.report.fingerprints}
        write_json(Path(folder) / RECORD, record)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Sweep:
        """Read what `sweep(..., out=folder)` or `save` left.

        Raises:
            MissingFile: When the folder holds no finished sweep.
            BadArgument: When it holds something else.
        """
        path = Path(folder) / RECORD
        if not path.is_file():
            hint = "The same `experiments.sweep(...)` goes on with one that was interrupted."
            raise absent(folder, RECORD, "holds no finished sweep", hint)
        record = read_json(path)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise BadFile(f"{path} is no record of a sweep ({FORMAT}).")
        parsed(record, _File, str(path), "the record of a sweep")
        points = {name: {one["value"]: one["arm"] for one in named} for name, named in record["series"].items()}
        report = Report.load(Path(folder) / EVALUATION)
        report.check_answers(record.get("fingerprints"), path)
        return cls(report, record["axis"], points, record["references"])

    def __repr__(self) -> str:
        return f"{self._title()}\n{self.report!r}"

    def _repr_html_(self) -> str:
        return html.view(self._title(), html.made(self.report._repr_html_()))

    def _title(self) -> str:
        curves = [f"{name} at {', '.join(map(shown, named))}" for name, named in self.points.items()]
        beside = f"; beside {', '.join(self.references)}" if self.references else ""
        return f"Sweep over {self.axis}: {'; '.join(curves)}{beside}"


class _Point(Record):
    value: int | float | str
    arm: Named


class _File(Record):
    """What `sweep.json` holds."""

    format: Literal["caft_lens.sweep/1"]
    axis: str
    series: dict[str, list[_Point]]
    references: list[Named]
    fingerprints: dict[str, dict[int, str]] | None = None
    evaluation: Json

    @model_validator(mode="after")
    def _once(self) -> _File:
        for name, points in self.series.items():
            if len({one.value for one in points}) < len(points):
                raise BadArgument(f"a value of the series {name!r} stands twice")
        return self


def _points(series: Mapping[str, Mapping[Any, Arm]], references: Mapping[str, Arm]) -> dict[str, dict[Value, str]]:
    """Series to value to a name for the arm, or an error for what cannot be drawn."""
    if not series:
        raise BadArgument("Nothing to sweep over: give at least one series, {name: {value: Arm(...)}}.")
    points: dict[str, list[tuple[Value, str]]] = {}
    for name, arms in series.items():
        if not isinstance(arms, Mapping) or not arms:
            raise BadArgument(f'The series "{name}" has no values: give {{value: Arm(...)}}.')
        if name in references:
            raise BadArgument(f'"{name}" is a series and a reference: rename one of them.')
        points[name] = [(_value(name, value), f"{name} at {shown(_value(name, value))}") for value in arms]
    named = Counter([*references, *(arm for pairs in points.values() for _, arm in pairs)])
    if twice := [arm for arm, count in named.items() if count > 1]:
        raise BadArgument(
            f'Two arms would be called "{twice[0]}": a value is given twice (as a number and as a word), or a series '
            "or a reference has such a name."
        )
    return {name: dict(pairs) for name, pairs in points.items()}


def _value(series: str, value: Any) -> Value:
    if isinstance(value, str):
        return value
    if not isinstance(value, Real) or not math.isfinite(value):
        raise BadArgument(f'The value {value!r} of the series "{series}" is neither a finite number nor a word.')
    return int(value) if isinstance(value, Integral) else float(value)


callable_module(__name__, "sweep")
