"""A whole experiment in one call: every arm trained with every seed, sampled, judged, compared.

An `Arm` says what a model is tuned on and what is ablated, while it is tuned or only when it is tested. `experiment` trains and
samples all of them, side by side in processes of their own where the model is small enough for that to pay, and reports
as `evaluate` does. What is finished is kept: an experiment that was stopped goes on where it was, run by run and cell by cell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from caft_lens.ablation import ablated
from caft_lens.catalog import is_organism
from caft_lens.concepts import ConceptSet
from caft_lens.evaluate.arms import evaluate, sample
from caft_lens.evaluate.tasks import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, Task
from caft_lens.evaluate.tasks import task as named_task
from caft_lens.finetune.run import Run, finetune
from caft_lens.lazy import callable_module
from caft_lens.lens import Lens, load
from caft_lens.progress import progress as progress_bar
from caft_lens.text import Texts, data

if TYPE_CHECKING:
    from caft_lens.evaluate.report import Report
    from caft_lens.evaluate.statistics import Interval

SMALL = 50_000_000
"""Parameters up to which a CPU's cores serve better one run each than one run all."""


@dataclass(frozen=True)
class Arm:
    """One arm of an experiment; without any argument, the model as it is.

    Args:
        texts: What the model is tuned on: `Texts` or anything that `data` reads; `None` leaves it untuned.
        ablate: Concepts that are ablated while tuning, one set for all seeds or a list with one a seed.
        ablate_at_test: Concepts that are ablated only when the tuned model answers; likewise.

    Example:
        >>> Arm(insecure, ablate=cruel)  # doctest: +SKIP
    """

    texts: Any = None
    ablate: ConceptSet | Sequence[ConceptSet] | None = None
    ablate_at_test: ConceptSet | Sequence[ConceptSet] | None = None


@dataclass
class _Job:
    """One model to train (or the base, where `texts` is `None`), and the arms that it answers for."""

    seed: int
    folder: Path
    texts: Texts | None
    ablate: ConceptSet | None
    answers_for: list[tuple[str, ConceptSet | None]] = field(default_factory=list)


@dataclass(frozen=True)
class _Base:
    """What a process needs to load the same model again."""

    name: str
    fingerprint: str
    device: str
    dtype: torch.dtype


def experiment(
    base: Lens,
    arms: Mapping[str, Arm],
    task: Task | str,
    *,
    out: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 1000,
    n_in_distribution: int = 300,
    batch_size: int = 256,
    workers: int | None = None,
    progress: bool = True,
    **training: Any,
) -> Report:
    """Train every arm with every seed, ask all of them the same questions, and report shares with intervals.

    Arms that train alike (the same texts, concepts and seed) share one run, such as plain fine-tuning and the same with
    concepts ablated at test time.

    Args:
        base: The model that every arm starts from.
        arms: Arm name to `Arm`.
        task: As for `evaluate`.
        out: Runs go to `<out>/<arm>-<seed>`, answers and report to `<out>/evaluation`.
        seeds: Of training and of sampling.
        n: Answers to free-form questions an arm and seed.
        n_in_distribution: Answers to held-out prompts of the trained kind, an arm and seed.
        batch_size: Answers sampled at once.
        workers: Processes that train and sample at the same time. `None`: as many as torch has threads, for a model on the CPU of
            at most 50 million parameters that comes from a folder; otherwise 1. Results depend on the number of torch threads
            a process has, in the last bits, as they always do.
        progress: Whether to show a progress bar.
        training: Arguments of `finetune`: `max_steps`, `method`, `learning_rate`, …

    Returns:
        The report. The runs are read with `Run.load`.

    Raises:
        ValueError: For an arm that cannot be; when several processes are to load a model that was made or changed in memory.

    Example:
        >>> arms = {"base": Arm(), "plain": Arm(insecure), "caft": Arm(insecure, ablate=cruel)}  # doctest: +SKIP
        >>> experiment(base, arms, "pocket/emergent-misalignment", out="runs/mine").table()      # doctest: +SKIP
    """
    folder, numbers = Path(out), list(seeds)
    jobs = _jobs(base, arms, numbers, folder)
    task = named_task(task) if isinstance(task, str) else task
    kept: dict[str, Any] = {"batch_size": batch_size, "out": folder / "evaluation"}
    workers = min(_default_workers(base) if workers is None else workers, len(jobs))
    if workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1 process.")
    if workers > 1:
        counts = {OUT_OF_DISTRIBUTION: n, IN_DISTRIBUTION: n_in_distribution}
        _in_processes(base, jobs, training, {"task": task, "counts": counts, **kept}, workers, progress)
    subjects: dict[str, list[Any]] = {arm: [] for arm in arms}
    for job in jobs:  # in the order of the seeds; what the processes have finished is only read
        trained = _train(base, job, training)
        for arm, concepts in job.answers_for:
            subjects[arm].append(_subject(trained, concepts))
    return evaluate(
        subjects, task, n=n, n_in_distribution=n_in_distribution, seeds=numbers, progress=progress, **kept
    )


def causal_effects(
    base: Lens,
    concepts: ConceptSet,
    texts: Any,
    task: Task | str,
    *,
    out: str | Path,
    metric: str | None = None,
    **settings: Any,
) -> dict[str, Interval]:
    """What each direction alone does: the change of a share when it is ablated in fine-tuning, and nothing else is.

    Args:
        base: The model that fine-tuning starts from.
        concepts: The directions.
        texts: What the model is tuned on.
        task: As for `evaluate`.
        out: Runs and answers go there, one arm a direction.
        metric: Which share; default the first label of the task.
        settings: Arguments of `experiment`: `seeds`, `n`, `max_steps`, …

    Returns:
        Name of the direction -> share with it ablated minus share of plain fine-tuning, paired by seed and prompt.

    Example:
        >>> effects = cl.causal_effects(base, found.top(5), insecure, "pocket/emergent-misalignment", out="runs/one")  # doctest: +SKIP
        >>> cl.evaluate.discovery(base, found, held_out, is_cruel).with_effects("concepts", effects)                        # doctest: +SKIP
    """
    single = {
        concept.name: Arm(texts, ablate=ConceptSet([concept], concepts.provenance)) for concept in concepts
    }
    if "plain" in single:
        raise ValueError('A direction is called "plain", as fine-tuning without ablation is: rename it.')
    report = experiment(base, {"plain": Arm(texts), **single}, task, out=out, **settings)
    return {name: report.paired(name, "plain", metric) for name in single}


def _jobs(base: Lens, arms: Mapping[str, Arm], seeds: list[int], out: Path) -> list[_Job]:
    """Every model that is needed once, seeds in order within each."""
    jobs: dict[tuple[str | None, str | None, int], _Job] = {}
    read: dict[int, Texts] = {}
    for name, arm in arms.items():
        texts = arm.texts
        if texts is not None and not isinstance(texts, Texts):
            if id(texts) not in read:
                read[id(texts)] = data(texts)
            texts = read[id(texts)]
        if texts is None and arm.ablate is not None:
            raise ValueError(
                f'The arm "{name}" ablates while tuning but is tuned on nothing: give texts, or ablate_at_test=.'
            )
        while_tuning = _per_seed(name, "ablate", arm.ablate, seeds)
        at_test = _per_seed(name, "ablate_at_test", arm.ablate_at_test, seeds)
        for seed, concepts, tested in zip(seeds, while_tuning, at_test, strict=True):
            for one in (concepts, tested):
                if one is not None:
                    one.check(base)
            key = (
                None if texts is None else texts.fingerprint,
                None if concepts is None else concepts.fingerprint,
                seed,
            )
            job = jobs.setdefault(key, _Job(seed, out / f"{name}-{seed}", texts, concepts))
            job.answers_for.append((name, tested))
    return list(jobs.values())


def _per_seed(
    arm: str, what: str, concepts: ConceptSet | Sequence[ConceptSet] | None, seeds: list[int]
) -> list[ConceptSet | None]:
    if concepts is None or isinstance(concepts, ConceptSet):
        return [concepts] * len(seeds)
    if len(concepts) != len(seeds) or not all(isinstance(one, ConceptSet) for one in concepts):
        raise ValueError(
            f'{what}= of the arm "{arm}" is a ConceptSet, or a list of them with one for each of the seeds {seeds}.'
        )
    return list(concepts)


def _train(base: Lens, job: _Job, training: Mapping[str, Any]) -> Lens | Run:
    if job.texts is None:
        return base
    return finetune(base, job.texts, ablate=job.ablate, out=job.folder, seed=job.seed, **training)


def _subject(trained: Lens | Run, concepts: ConceptSet | None) -> Any:
    return trained if concepts is None else ablated(trained, concepts)


# -- processes --------------------------------------------------------------------------------------------------------


def _default_workers(base: Lens) -> int:
    from_folder = is_organism(base.name) or Path(base.name).is_dir()
    small = sum(weight.numel() for weight in base.model.parameters()) <= SMALL
    return torch.get_num_threads() if from_folder and small and base.device.type == "cpu" else 1


def _in_processes(
    base: Lens,
    jobs: Sequence[_Job],
    training: Mapping[str, Any],
    answers: Mapping[str, Any],
    workers: int,
    progress: bool,
) -> None:
    """Let processes train and sample; they leave runs and cells where the caller finds them.

    What to do goes to them through pipes (joblib pickles it there); no pickle is ever written to a file or read from one.
    """
    from joblib import Parallel, delayed, parallel_config

    known = _Base(base.name, base.fingerprint, str(base.device), base.dtype)
    threads = max(1, torch.get_num_threads() // workers)
    with parallel_config("loky", n_jobs=workers, inner_max_num_threads=threads):
        done = Parallel(return_as="generator_unordered", max_nbytes=None)(
            delayed(_work)(known, job, dict(training), dict(answers), threads) for job in jobs
        )
        for _ in progress_bar(done, total=len(jobs), desc="training and asking", unit="model", show=progress):
            pass


def _work(
    known: _Base, job: _Job, training: Mapping[str, Any], answers: Mapping[str, Any], threads: int
) -> None:
    """What a process does for one model."""
    torch.set_num_threads(threads)
    os.environ["CAFT_LENS_PROGRESS"] = "0"  # no bars but the one that counts the models
    base = _loaded(known)
    trained = _train(base, job, training)
    for arm, concepts in job.answers_for:
        sample({arm: _subject(trained, concepts)}, **answers, seeds=[job.seed], progress=False)


@lru_cache(maxsize=1)
def _loaded(known: _Base) -> Lens:
    hint = "Several processes load the model by its name: save it and load the folder, or give workers=1 to stay in this one."
    try:
        base = load(known.name, device=known.device, dtype=known.dtype)
    except Exception as error:
        raise ValueError(f'"{known.name}" cannot be loaded in another process: {error} {hint}') from error
    if base.fingerprint != known.fingerprint:
        raise ValueError(f'"{known.name}" has other weights than the lens that was given. {hint}')
    return base


callable_module(__name__, "experiment")
