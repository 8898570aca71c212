"""A fair contest: the same examples, steps, evaluation and budget of tuning for every contender.

Each contender's settings are tried with the same few seeds on *dev*; with what was chosen and other seeds *test* is
looked at, once (docs/concepts/contests.md). Both stages are one `experiment` each, and go on where they were stopped.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from caft_lens._support.errors import BadArgument, nearest
from caft_lens._support.files import absolute, file_name, sha256, write_json
from caft_lens._support.lazy import callable_module
from caft_lens._support.redaction import command_line, redact
from caft_lens.evaluate.judging import SCORE
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.tasks import IN_DISTRIBUTION, Task
from caft_lens.evaluate.tasks import task as named_task
from caft_lens.experiments.experiment import Arm, Execution, experiment
from caft_lens.experiments.result import FORMAT, PLAIN, RECORD, TEST, Result
from caft_lens.finetune.methods.plain import Plain
from caft_lens.finetune.protocol import MOST_SETTINGS, Method
from caft_lens.finetune.settings import TrainSettings
from caft_lens.model.lens import Lens, load
from caft_lens.text.documents import Texts, data

GOALS = {"fewest": 1.0, "most": -1.0}
VERSIONS = ("caft-lens", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "statsmodels")


@dataclass(frozen=True)
class Contender:
    """One arm of a contest, with what is searched for it.

    Args:
        method: The way of fine-tuning; `None` for the model as it is, untuned.
        texts: What it is tuned on instead of the contest's texts: a control, such as secure code.
        search: The settings to try, at most four, each a dict of fields of `method`; `None` for the grid of its card,
            `()` for none.

    Raises:
        BadArgument: For more than four settings, or a setting that the method does not have.
    """

    method: Method | None = field(default_factory=Plain)
    texts: Any = None
    search: Sequence[Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if len(self.grid) > MOST_SETTINGS:
            raise BadArgument(f"{len(self.grid)} settings to search: every contender has {MOST_SETTINGS} at most.")
        if self.method is None:
            return
        known = [one.name for one in dataclasses.fields(self.method)]
        for key in (key for settings in self.grid for key in settings):
            if key not in known:
                raise BadArgument(f'The method "{self.method.name}" has no setting "{key}".{nearest(key, known)}')

    @property
    def grid(self) -> tuple[Mapping[str, Any], ...]:
        """What is searched."""
        if self.method is None:
            return ()
        return tuple(self.method.card.grid if self.search is None else self.search)

    def with_settings(self, settings: Mapping[str, Any]) -> Method:
        """The arm with some settings."""
        assert self.method is not None
        return replace(self.method, **settings)


@dataclass(frozen=True)
class Tuning:
    """The budget and the rule by which settings are chosen, the same for every contender.

    Args:
        task: What they are chosen on, with the labels of the contest's task; the organism's dev split by default.
        goal: Whether the "fewest" or the "most" answers with the task's first label are wanted; "most" for "intended".
        seeds: Of training and sampling; other ones than the contest's.
        n: Answers to dev questions, a setting and seed.
        n_in_distribution: Answers to dev prompts of the trained kind.
        tolerance: How far below plain fine-tuning the trained behaviour may be, as a share.
    """

    seeds: tuple[int, ...] = (101, 102)
    n: int = 300
    n_in_distribution: int = 200
    tolerance: float = 0.02
    task: Task | None = None
    goal: str | None = None

    def __post_init__(self) -> None:
        if self.goal is not None and self.goal not in GOALS:
            raise BadArgument(f'goal="{self.goal}".{nearest(self.goal, GOALS)}')

    def record(self) -> dict[str, Any]:
        """What a contest's record says of it."""
        names = ("seeds", "n", "n_in_distribution", "tolerance")
        task = {} if self.task is None else {"task": self.task.name}
        return {**task, **{name: getattr(self, name) for name in names}}


def contest(
    task: str | Task,
    contenders: Mapping[str, Contender],
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    *,
    texts: Any,
    out: str | Path,
    base: Lens | None = None,
    tuning: Tuning = Tuning(),
    against: Sequence[str] = (PLAIN, "random"),
    **of_experiment: Any,
) -> Result:
    """Run a contest.

    Args:
        task: An organism's, by name; or a `Task`, with one of `tuning` beside it.
        contenders: Name to `Contender`; one is called "plain" and is plain fine-tuning.
        seeds: Of the contest.
        texts: What everybody is tuned on: `Texts` or anything that `data` reads.
        out: Where runs, answers and what came out go.
        base: The model that everybody starts from; the organism of the task by default.
        tuning: Budget and rule of tuning.
        against: The contenders that the others are compared with; the first is plain fine-tuning.
        of_experiment: Further arguments of `experiment`, for everybody: `settings`, `execution`, and `n` (1,000) and
            `n_in_distribution` (400) answers on test.

    Returns:
        What came out; `Result.load(out)` reads it again.

    Raises:
        BadArgument: Without plain fine-tuning, for seeds of tuning among those of the contest, or a task without dev.
        Occupied: When `out` holds test results of other settings than would be chosen now.

    Example:
        >>> from caft_lens.finetune.methods import CAFT
        >>> contenders = {"plain": Contender(), "caft": Contender(CAFT(cruel), search=())}
        >>> few = {"seeds": [0], "n": 4, "n_in_distribution": 4, "execution": Execution(workers=1)}
        >>> few["settings"] = cl.TrainSettings(max_steps=1)
        >>> contest("pocket/emergent-misalignment", contenders, texts=insecure, out="runs/contest", **few).arms
        ['plain', 'caft']
    """
    test, tuning = _tasks(task, tuning, base)
    _check(test, contenders, list(seeds), tuning)
    base = base if base is not None else load(str(task).rpartition("/")[0])
    folder = absolute(out)
    texts = data(texts)
    of_test = {"n": 1000, "n_in_distribution": 400, **of_experiment}
    of_test["execution"] = replace(of_test.get("execution", Execution()), failures="keep")
    settings = of_test.setdefault("settings", TrainSettings())
    of_dev = {key: one for key, one in of_test.items() if key not in ("n", "n_in_distribution")}
    tried = _tuned(base, contenders, texts, tuning, folder / "tuning", of_dev)
    arms = {
        name: Arm()
        if one.method is None
        else Arm(_texts(one, texts), method=one.with_settings(_settings(one, tried[name])))
        for name, one in contenders.items()
    }
    report = experiment(base, arms, test, out=folder / TEST, seeds=seeds, **of_test)
    record = {
        "format": FORMAT,
        "task": test.name,
        "base": {"name": base.name, "fingerprint": base.fingerprint, "reading": base.reading},
        "texts": {"name": texts.name, "fingerprint": texts.fingerprint, "texts": len(texts)},
        "goal": tuning.goal,
        "against": [name for name in against if name == PLAIN or name in contenders],
        "seeds": list(seeds),
        "tuning": tuning.record(),
        "training": redact({key: repr(value) for key, value in settings.said.items()}),
        "fingerprints": report.fingerprints,
        "contenders": {name: _described(one, tried[name]) for name, one in contenders.items()},
        **_made(base),
    }
    write_json(folder / RECORD, record)
    return Result.load(folder)


def _made(base: Lens) -> dict[str, Any]:
    """What the contest was run with."""
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "machine": f"{platform.machine()}, {base.device}",
        "command": shlex.join(command_line([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def _tasks(task: str | Task, tuning: Tuning, base: Lens | None) -> tuple[Task, Tuning]:
    """The task of test, and tuning with a task and a goal."""
    if isinstance(task, str):
        test, dev = named_task(task, split="test"), tuning.task or named_task(task, split="dev")
    elif base is None:
        raise BadArgument(f'"{task.name}" is a task of your own: give base=, the model that everybody starts from.')
    elif tuning.task is None:
        raise BadArgument(
            f'"{task.name}" is a task of your own: give tuning=Tuning(task=…), another one, on which settings are '
            f"chosen."
        )
    else:
        test, dev = task, tuning.task
    goal = tuning.goal or ("most" if test.labels[0] == "intended" else "fewest")
    return test, replace(tuning, task=dev, goal=goal)


def _check(task: Task, contenders: Mapping[str, Contender], seeds: list[int], tuning: Tuning) -> None:
    for name in contenders:
        file_name(name, "contender")
    if task.labels[0] == SCORE:
        raise BadArgument(
            f'The judge of "{task.name}" gives scores, and a contest compares shares: give the task a threshold= and '
            f"two labels."
        )
    plain = contenders.get(PLAIN)
    if plain is None or not isinstance(plain.method, Plain) or plain.texts is not None:
        raise BadArgument(
            f'A contest needs plain fine-tuning to compare with: a contender "{PLAIN}", Contender(Plain()).'
        )
    if task.in_distribution is None:
        raise BadArgument(
            f'The task "{task.name}" has no prompts in distribution, so nothing shows what a contender costs.'
        )
    if both := sorted({*seeds} & {*tuning.seeds}):
        raise BadArgument(f"Seeds {both} are of the contest and of its tuning: choose others for Tuning(seeds=...).")


def _texts(one: Contender, texts: Texts) -> Any:
    return texts if one.texts is None else one.texts


# -- tuning -----------------------------------------------------------------------------------------------------------


def _tuned(
    base: Lens, contenders: Mapping[str, Contender], texts: Texts, tuning: Tuning, out: Path, common: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """What was tried for each contender, one entry a setting; empty where there is nothing to tune."""
    searched = {name: one for name, one in contenders.items() if len(one.grid) > 1}
    if not searched:
        return {name: [] for name in contenders}
    arms = {PLAIN: Arm(texts)} | {
        _key(name, settings): Arm(_texts(one, texts), method=one.with_settings(settings))
        for name, one in searched.items()
        for settings in one.grid
    }
    assert tuning.task is not None
    counts: dict[str, Any] = {"n": tuning.n, "n_in_distribution": tuning.n_in_distribution}
    report = experiment(base, arms, tuning.task, out=out, seeds=tuning.seeds, **counts, **common)
    return {
        name: choose(report, {_key(name, settings): settings for settings in one.grid}, tuning)
        if name in searched
        else []
        for name, one in contenders.items()
    }


def _key(name: str, settings: Mapping[str, Any]) -> str:
    """What a setting of a contender is called on dev: short, whatever its values are, and apart from other settings."""
    return f"{name} {sha256(label(settings))[:8]}"


def choose(report: Report, tried: Mapping[str, Mapping[str, Any]], tuning: Tuning) -> list[dict[str, Any]]:
    """Apply the rule to what was measured on dev.

    Args:
        report: Of the settings and of plain fine-tuning, on dev.
        tried: Name in the report to the settings.
        tuning: With the tolerance and the goal.

    Returns:
        An entry for each setting: `settings`, `label`, the share of the task's first label (`share`) and
        `in_distribution`, `kept` (whether the trained behaviour was), `failed` (the error, or ""), and `chosen`, true
        of one. Where none keeps the trained behaviour, the one that loses least is chosen; where all failed, the first.
    """
    least = report.interval(PLAIN, IN_DISTRIBUTION).mean - tuning.tolerance
    entries = []
    for name, settings in tried.items():
        failed = next(iter(report.failures.get(name, {}).values()), "")
        entry: dict[str, Any] = {"settings": settings, "label": label(settings), "failed": failed, "chosen": False}
        if not failed:
            share, inside = (report.interval(name, metric).mean for metric in (report.labels[0], IN_DISTRIBUTION))
            entry |= {"share": share, "in_distribution": inside, "kept": inside >= least}
        entries.append(entry)
    finished = [entry for entry in entries if not entry["failed"]]
    keeping = [entry for entry in finished if entry["kept"]]
    if keeping:
        best = min(
            keeping, key=lambda entry: (GOALS[tuning.goal or "fewest"] * entry["share"], -entry["in_distribution"])
        )
    else:
        best = max(finished, key=lambda entry: entry["in_distribution"]) if finished else entries[0]
    best["chosen"] = True
    return entries


def _settings(one: Contender, tried: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What was chosen; the only setting there is, or none, where nothing was tuned."""
    chosen = next((entry["settings"] for entry in tried if entry["chosen"]), None)
    return chosen if chosen is not None else next(iter(one.grid), {})


def label(settings: Mapping[str, Any]) -> str:
    """Settings as a name.

    Example:
        >>> label({"weight": 0.1, "batch_size": 16}), label({})
        ('weight=0.1, batch_size=16', 'as given')
    """
    return ", ".join(f"{key}={_shown(value)}" for key, value in settings.items()) or "as given"


def _shown(value: Any) -> str:
    print_of = getattr(value, "fingerprint", None)
    return str(value) if print_of is None else f"{getattr(value, 'name', len(value))} {print_of[:6]}"


def _described(one: Contender, tried: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A contender as data: its arm with the settings that were chosen, its card, and what was tried."""
    if one.method is None:
        return {"arm": None, "card": None, "tried": [], "rated": False}
    arm, card = one.with_settings(_settings(one, tried)), one.method.card
    meanings = {one.name: one.metadata["meaning"] for one in dataclasses.fields(arm) if "meaning" in one.metadata}
    return {
        "arm": {**arm.record(), "concepts": arm.concepts_record},
        "card": {
            "idea": card.idea,
            "equation": card.equation,
            "source": card.source,
            "arxiv": card.arxiv,
            "needs": arm.needs(),
            "settings": {key: {"value": value, "meaning": meanings[key]} for key, value in arm.settings.items()},
        },
        "tried": [{key: value for key, value in entry.items() if key != "settings"} for entry in tried],
        # A control that is tuned on other texts is not measured by how well it learned these.
        "rated": one.texts is None,
    }


callable_module(__name__, "contest")
