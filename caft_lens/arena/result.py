"""What a contest came to, read back from its folder: shares, comparisons, the front, costs, failures.

`Result.load(folder)` needs nothing but the folder; every number in it is counted from the answers that were kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caft_lens.arena.comparisons import Comparison, FrontPoint, compare, front
from caft_lens.errors import nearest
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.tasks import IN_DISTRIBUTION
from caft_lens.experiment import RUNS
from caft_lens.files import read_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

FORMAT = "caft_lens.arena/1"
RECORD, TEST = "arena.json", "test"


@dataclass(frozen=True)
class ArmCost:
    """What training an arm took.

    Attributes:
        seconds: Of wall time, the mean over seeds; 0 for a model that was not tuned.
        peak_memory: Bytes at most, over all seeds.
    """

    seconds: float
    peak_memory: int


class Result:
    """A finished contest.

    Attributes:
        folder: Where it lies.
        record: What was asked, what was tried and chosen, cards, versions, the command.

    Example:
        >>> result = Result.load("runs/arena")   # doctest: +SKIP
        >>> result.table()                       # doctest: +SKIP
        >>> result.compared("plain")             # doctest: +SKIP
        >>> result.report()                      # doctest: +SKIP
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / RECORD
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no finished contest: {RECORD} is missing. The same `arena.run(...)` goes on with one that was "
                "interrupted."
            )
        self.record: dict[str, Any] = read_json(path)
        self._compared: dict[tuple[str, str], list[Comparison]] = {}
        if self.record.get("format") != FORMAT:
            raise ValueError(f"{path} is no record of a contest ({FORMAT}).")

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """Read what `arena.run(..., out=folder)` left.

        Raises:
            FileNotFoundError: When the folder holds no finished contest.
        """
        return cls(folder)

    @cached_property
    def evaluation(self) -> Report:
        """The evaluation on test: intervals, every answer, failures."""
        return Report.load(self.folder / TEST / "evaluation")

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
            KeyError: For a contender that there is not.
        """
        if against not in self.arms:
            raise KeyError(f'No contender "{against}" with answers.{nearest(against, self.arms)}')
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
        runs = read_json(self.folder / TEST / RUNS)
        found = {}
        for arm in self.arms:
            records = [
                read_json(path)
                for name in runs.get(arm, {}).values()
                if (path := self.folder / TEST / name / "run.json").is_file()
            ]
            seconds = sum(record["seconds"] for record in records) / max(1, len(records))
            found[arm] = ArmCost(seconds, max((record["peak_memory"] for record in records), default=0))
        return found

    def table(self) -> pandas.DataFrame:
        """One row per contender: shares with intervals, whether it is on the front, seconds and memory."""
        import pandas

        on = {point.arm: point for point in self.front}
        rows = []
        for arm in self.arms:
            row: dict[str, Any] = {"arm": arm}
            for metric in self.evaluation.metrics:
                interval = self.evaluation.interval(arm, metric)
                row |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            row |= {
                "on_front": on[arm].on_front if arm in on else None,
                "front_stability": on[arm].stability if arm in on else None,
                "seeds": len(self.evaluation.seeds(arm)),
                "failed": len(self.failures.get(arm, {})),
                "seconds": self.costs[arm].seconds,
                "peak_memory": self.costs[arm].peak_memory,
            }
            rows.append(row)
        return pandas.DataFrame(rows)

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
            **self.record,
            "evaluation": self.evaluation.to_json(),
            "compared": compared,
            "front": [vars(point) for point in self.front],
            "costs": {arm: vars(cost) for arm, cost in self.costs.items()},
        }

    def plot(self) -> Figure:
        """Shares of every contender, with intervals: unwanted answers beside the trained behaviour."""
        return self.evaluation.plot()

    def plot_front(self) -> Figure:
        """Effect against cost, the Pareto front drawn."""
        from caft_lens.arena.figures import plot_front

        return plot_front(self)

    def plot_compared(self, against: str) -> Figure:
        """Paired differences of every contender to one, with intervals."""
        from caft_lens.arena.figures import plot_compared

        return plot_compared(self, against)

    def report(self, folder: str | Path | None = None, *, examples: int = 3) -> tuple[Path, Path]:
        """Write the report: `arena.html`, which holds all that it shows, and `arena.md` with its figures beside it.

        Args:
            folder: Where to; the contest's own folder by default.
            examples: Sampled answers of each contender.

        Returns:
            The two files.
        """
        from caft_lens.arena.page import write

        return write(self, self.folder if folder is None else Path(folder), examples)

    def __repr__(self) -> str:
        on = [point.arm for point in self.front if point.on_front]
        return f"Result({str(self.folder)!r}: {len(self.arms)} contenders, seeds {', '.join(map(str, self.record['seeds']))}; on the front: {_listed(on)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
