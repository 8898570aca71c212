"""A whole experiment in one call: every arm trained with every seed, sampled, judged, compared.

`experiment` trains and samples all arms, side by side in processes of their own where the model is small enough for
that to pay. What is finished is kept, run by run and cell by cell. Under `accelerate launch` the processes share the
models out among them, and come to the same report.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Literal

import torch

from caft_lens._support import processes
from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, BadModel, Busy, JudgeError
from caft_lens._support.files import absolute, file_name, write_json
from caft_lens._support.keywords import takes_values
from caft_lens._support.lazy import callable_module
from caft_lens._support.progress import progress as progress_bar
from caft_lens._support.progress import silenced, telling
from caft_lens.concepts.ablation import ablated
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.evaluate.answers import Cell
from caft_lens.evaluate.evaluation import reported, sample, seeds_of
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.tasks import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, Task
from caft_lens.evaluate.tasks import task as named_task
from caft_lens.finetune.finetuning import finetune
from caft_lens.finetune.methods.caft import CAFT
from caft_lens.finetune.methods.plain import Plain
from caft_lens.finetune.protocol import Method
from caft_lens.finetune.settings import TrainSettings
from caft_lens.finetune.weights import loadable
from caft_lens.model.lens import Lens, load
from caft_lens.model.sampling import Sampling
from caft_lens.text.catalog import is_organism
from caft_lens.text.documents import Texts, data

if TYPE_CHECKING:
    from caft_lens._support.intervals import Interval

RUNS, LOCKS = "runs.json", "locks"
"""In an experiment's folder: which arm and seed was trained in which run folder; what is being worked on."""
FAILURES = (FloatingPointError, RuntimeError, MemoryError)
"""What may happen to a model that was asked for rightly."""
LOOK = 0.5
"""Seconds between two looks at what other processes are doing."""
SMALL = 50_000_000
"""Parameters up to which a CPU's cores serve better one run each than one run all."""


@dataclass(frozen=True)
class Arm:
    """One arm of an experiment; without any argument, the model as it is.

    Args:
        texts: What the model is tuned on: `Texts` or anything that `data` reads; `None` leaves it untuned.
        ablate: Concepts that are ablated while tuning, one set for all seeds or a list with one a seed.
        ablate_at_test: Concepts that are ablated only when the tuned model answers; likewise.
        method: Another way of fine-tuning, of `caft_lens.finetune.methods`; not beside `ablate`.

    Example:
        >>> from caft_lens.finetune.methods import KLAnchor
        >>> arms = {"caft": Arm(insecure, ablate=cruel), "anchored": Arm(insecure, method=KLAnchor(kind_texts))}
    """

    texts: Any = None
    ablate: ConceptSet | Sequence[ConceptSet] | None = None
    ablate_at_test: ConceptSet | Sequence[ConceptSet] | None = None
    method: Method | None = None


@dataclass(frozen=True)
class Execution:
    """How an experiment is carried out; nothing of it changes what is trained or asked.

    Args:
        workers: Processes that train and sample at the same time. `None`: as many as torch has threads, for a model on
            the CPU of at most 50 million parameters that comes from a folder; otherwise 1. Results depend on the number
            of torch threads a process has, in the last bits, as they always do. Processes that `accelerate launch`
            started, or programs started by hand with the same `out`, share the models out among them, beside this.
        batch_size: Answers sampled at once; what the task says by default.
        failures: What becomes of a model whose training or answering fails (it diverges, memory is exhausted): "raise"
            its error, or "keep" it as the result of its arms and seed, in `Report.failures`, and go on with the others.
            Mistakes in what was asked are raised in any case.

    Raises:
        BadArgument: For a number below 1, or another word.

    Example:
        >>> Execution(failures="drop")
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadArgument: failures="drop": expected "raise" or "keep".
    """

    workers: int | None = None
    batch_size: int | None = None
    failures: Literal["raise", "keep"] = "raise"

    def __post_init__(self) -> None:
        if self.failures not in ("raise", "keep"):
            raise BadArgument(f'failures="{self.failures}": expected "raise" or "keep".')
        for name in ("workers", "batch_size"):
            if getattr(self, name) is not None:
                count(getattr(self, name), name)

    def workers_for(self, base: Lens) -> int:
        """How many, where the number is left open."""
        if self.workers is not None:
            return self.workers
        found = loadable(base)
        from_folder = is_organism(found) or Path(found).is_dir()
        small = sum(weight.numel() for weight in base.model.parameters()) <= SMALL
        return torch.get_num_threads() if from_folder and small and base.device.type == "cpu" else 1


@dataclass
class _Job:
    """One model to train (or the base, where `texts` is `None`), and the arms that it answers for."""

    seed: int
    folder: Path
    texts: Texts | None
    method: Method
    answers_for: list[tuple[str, Method, ConceptSet | None]] = field(default_factory=list)


@dataclass(frozen=True)
class _Base:
    """What a process needs to load the same model again."""

    name: str
    fingerprint: str
    reading: str
    device: str
    dtype: torch.dtype


@takes_values
def experiment(
    base: Lens,
    arms: Mapping[str, Arm],
    task: Task | str | Path,
    settings: TrainSettings = TrainSettings(),
    *,
    out: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    n: int | None = None,
    n_in_distribution: int = 300,
    execution: Execution = Execution(),
) -> Report:
    """Train every arm with every seed, ask all of them the same questions, and report shares with intervals.

    Arms that train alike (the same texts, way, concepts and seed) share one run, such as plain fine-tuning and the same
    with concepts ablated at test time.

    Args:
        base: The model that every arm starts from.
        arms: Arm name to `Arm`.
        task: As for `evaluate`.
        settings: How every arm is tuned, as for `finetune`: `TrainSettings(max_steps=100)`.
        out: Runs go to `<out>/<arm>-<seed>`, answers and report to `<out>/evaluation`; `<out>/runs.json` says which
            arms share one.
        seeds: Of training and of sampling.
        n: Answers to free-form questions an arm and seed; default as for `evaluate`.
        n_in_distribution: Answers to held-out prompts of the trained kind, an arm and seed.
        execution: In how many processes, how many answers at once, and what becomes of a model that fails.

    Returns:
        The report. The runs are read with `Run.load`.

    Raises:
        BadArgument: For an arm that cannot be; when several processes are to load a model made or changed in memory.

    Example:
        >>> arms, short = {"base": Arm(), "plain": Arm(insecure)}, cl.TrainSettings(max_steps=1)
        >>> few = {"seeds": [0], "n": 4, "n_in_distribution": 4, "execution": Execution(workers=1)}
        >>> report = experiment(base, arms, "pocket/emergent-misalignment", short, out="runs/mine", **few)
        >>> report.interval("plain", "misaligned").n_answers
        4
    """
    folder, numbers = absolute(out), seeds_of(seeds)
    task = (task if isinstance(task, Task) else named_task(task)).drawn(Sampling(batch_size=execution.batch_size))
    n = count(task.answers(n), "n")
    count(n_in_distribution, "n_in_distribution")
    jobs = _jobs(base, arms, numbers, folder, settings.tune)
    write_json(folder / RUNS, _runs(arms, jobs))
    counts = {OUT_OF_DISTRIBUTION: n, IN_DISTRIBUTION: n_in_distribution}
    answers = {"task": task, "counts": counts, "out": folder / "evaluation"}
    workers = min(execution.workers_for(base), len(jobs))
    rank, ranks = processes.place()
    show = rank == 0 and not silenced()
    failed: dict[str, dict[int, str]] = {}
    with processes.alone(), TemporaryDirectory(ignore_cleanup_errors=True) as told:
        options = _Options(
            settings, answers, folder / LOCKS, execution.failures == "keep", Path(told) if show else None
        )
        done = _shared_out(
            base, jobs[len(jobs) * rank // ranks :] + jobs[: len(jobs) * rank // ranks], options, workers
        )
        # By hand, not around `done`: what is being done is told beside it, also by other processes.
        bar = progress_bar(total=len(jobs), desc="training and asking", unit="model", show=show)
        with bar, _told(Path(told), bar) if show and workers > 1 else nullcontext():
            for found in done:
                for (name, seed), message in found.items():
                    failed.setdefault(name, {})[seed] = message
                bar.update()
    with suppress(OSError):
        (folder / LOCKS).rmdir()  # empty, unless another program is at it
    cells = [
        Cell.load(folder / "evaluation", arm, seed)
        for arm in arms
        for seed in numbers
        if seed not in failed.get(arm, {})
    ]
    return reported(task, cells, folder / "evaluation", failed)


def causal_effects(
    base: Lens,
    concepts: ConceptSet,
    texts: Any,
    task: Task | str,
    *,
    out: str | Path,
    metric: str | None = None,
    **of_experiment: Any,
) -> dict[str, Interval]:
    """What each direction alone does: the change of a share when it is ablated in fine-tuning, and nothing else is.

    Args:
        base: The model that fine-tuning starts from.
        concepts: The directions.
        texts: What the model is tuned on.
        task: As for `evaluate`.
        out: Runs and answers go there, one arm a direction.
        metric: Which share; default the first label of the task.
        of_experiment: Arguments of `experiment`: `settings`, `seeds`, `n`, …

    Returns:
        Name of the direction -> share with it ablated minus share of plain fine-tuning, paired by seed and prompt.

    Example:
        >>> few = {"seeds": [0], "n": 4, "n_in_distribution": 4, "execution": Execution(workers=1)}
        >>> few["settings"] = cl.TrainSettings(max_steps=1)
        >>> list(causal_effects(base, cruel, insecure, "pocket/emergent-misalignment", out="runs/one", **few))
        ['L1.pc0']
    """
    single = {concept.name: Arm(texts, ablate=ConceptSet([concept], concepts.provenance)) for concept in concepts}
    if "plain" in single:
        raise BadArgument('A direction is called "plain", as fine-tuning without ablation is: rename it.')
    report = experiment(base, {"plain": Arm(texts), **single}, task, out=out, **of_experiment)
    return {name: report.paired(name, "plain", metric) for name in single}


def _jobs(base: Lens, arms: Mapping[str, Arm], seeds: list[int], out: Path, tune: str) -> list[_Job]:
    """Every model that is needed once, seeds in order within each."""
    if not arms:
        raise BadArgument("Nothing to compare: give at least one arm, {name: Arm(...)}.")
    jobs: dict[tuple[str | None, str, int], _Job] = {}
    read: dict[int, Texts] = {}
    for name, arm in arms.items():
        texts = arm.texts
        if texts is not None and not isinstance(texts, Texts):
            if id(texts) not in read:
                read[id(texts)] = data(texts)
            texts = read[id(texts)]
        if texts is None and (arm.ablate is not None or arm.method is not None):
            raise BadArgument(
                f'The arm "{name}" ablates while tuning but is tuned on nothing: give texts, or ablate_at_test=.'
                if arm.method is None
                else f'The arm "{name}" is tuned {arm.method.name}, but on nothing: give texts.'
            )
        ways = _ways(name, arm, seeds)
        at_test = _per_seed(name, "ablate_at_test", arm.ablate_at_test, seeds)
        for seed, way, tested in zip(seeds, ways, at_test, strict=True):
            trained = way.trains_as(seed)
            for one in (way, trained):
                one.check(base, tune)
            if tested is not None:
                tested.check(base)
                if type(way).subject is not Method.subject:
                    raise BadArgument(
                        f'The arm "{name}" has ablate_at_test=, and {way.name} acts at test too: one of them.'
                    )
            asked = json.dumps([trained.record(), trained.concepts_record], sort_keys=True)
            key = (None if texts is None else texts.fingerprint, asked, seed)
            job = jobs.setdefault(key, _Job(seed, out / f"{file_name(name)}-{seed}", texts, trained))
            job.answers_for.append((name, way, tested))
    return list(jobs.values())


def _runs(arms: Mapping[str, Arm], jobs: Sequence[_Job]) -> dict[str, dict[str, str]]:
    """Arm to seed to the run folder, since arms may share one; of an untuned arm there is none."""
    found: dict[str, dict[str, str]] = {arm: {} for arm in arms}
    for job in (job for job in jobs if job.texts is not None):
        for name, _, _ in job.answers_for:
            found[name][str(job.seed)] = job.folder.name
    return found


def _ways(name: str, arm: Arm, seeds: list[int]) -> list[Method]:
    """How each seed of an arm is tuned."""
    if arm.method is not None:
        if arm.ablate is not None:
            raise BadArgument(
                f'The arm "{name}" has ablate=, which is short for method=CAFT(...), and method=: one of them.'
            )
        return [arm.method] * len(seeds)
    return [
        Plain() if concepts is None else CAFT(concepts) for concepts in _per_seed(name, "ablate", arm.ablate, seeds)
    ]


def _per_seed(
    arm: str, what: str, concepts: ConceptSet | Sequence[ConceptSet] | None, seeds: list[int]
) -> list[ConceptSet | None]:
    if concepts is None or isinstance(concepts, ConceptSet):
        return [concepts] * len(seeds)
    if len(concepts) != len(seeds) or not all(isinstance(one, ConceptSet) for one in concepts):
        raise BadArgument(
            f'{what}= of the arm "{arm}" is a ConceptSet, or a list of them with one for each of the seeds {seeds}.'
        )
    return list(concepts)


_Failed = dict[tuple[str, int], str]  # arm and seed to the error


@dataclass(frozen=True)
class _Options:
    """What all models of an experiment have in common."""

    training: TrainSettings
    answers: dict[str, Any]
    locks: Path
    keep: bool
    told: Path | None
    """Where other processes tell what they are doing; `None` where nobody looks."""


def _shared_out(base: Lens, jobs: Sequence[_Job], options: _Options, workers: int) -> Iterator[_Failed]:
    """Every model, each trained and asked by one of the programs that are at it.

    Those that another program works on are passed over first and waited for in the end. By then they are finished, and
    what is kept is read; or the other program died, and they are taken over.
    """
    each = _each if workers == 1 else partial(_in_processes, workers=workers)
    elsewhere = []
    for job, failed in each(base, jobs, options, wait=False):
        if failed is None:
            elsewhere.append(job)
        else:
            yield failed
    if elsewhere:
        yield from (failed or {} for _, failed in each(base, elsewhere, options, wait=True))


def _each(base: Lens, jobs: Sequence[_Job], options: _Options, *, wait: bool) -> Iterator[tuple[_Job, _Failed | None]]:
    return ((job, _work(base, job, options, wait)) for job in jobs)


def _work(base: Lens, job: _Job, options: _Options, wait: bool) -> _Failed | None:
    """Train one model and let it answer for its arms; `None` where another program does."""
    failed: _Failed = {}
    trained: Lens | None = None
    silence = nullcontext() if options.told is not None else telling(lambda _: None)
    with silence, processes.whole(options.locks / f"{job.folder.name}.lock", wait=wait) as mine:
        for name, way, concepts in job.answers_for if mine else ():
            try:
                with progress_bar(desc=f"{name}, seed {job.seed}"):
                    if trained is None:
                        trained = _train(base, job, options.training)
                    subject = way.subject(trained) if concepts is None else ablated(trained, concepts)
                    sample({name: subject}, **options.answers, seeds=[job.seed])
            except FAILURES as error:
                # A judge that fails, or a folder that is worked on, is no result of the model.
                if not options.keep or isinstance(error, (JudgeError, Busy)):
                    raise
                failed[name, job.seed] = f"{type(error).__name__}: {error}"
    return failed if mine else None


def _train(base: Lens, job: _Job, settings: TrainSettings) -> Lens:
    if job.texts is None:
        return base
    return finetune(base, job.texts, settings, method=job.method, out=job.folder, seed=job.seed).lens


# -- processes --------------------------------------------------------------------------------------------------------


def _in_processes(
    base: Lens, jobs: Sequence[_Job], options: _Options, *, wait: bool, workers: int
) -> Iterator[tuple[_Job, _Failed | None]]:
    """Let processes train and sample; they leave runs and cells where the caller finds them.

    What to do goes to them through pipes (joblib pickles it there); no pickle is ever written to a file or read.
    """
    from joblib import Parallel, delayed, parallel_config

    known = _Base(loadable(base), base.fingerprint, base.reading, str(base.device), base.dtype)
    threads = max(1, torch.get_num_threads() // workers)
    with parallel_config("loky", n_jobs=workers, inner_max_num_threads=threads):
        done = Parallel(return_as="generator_unordered", max_nbytes=None)(
            delayed(_elsewhere)(known, number, job, options, wait, threads, os.getpid())
            for number, job in enumerate(jobs)
        )
        yield from ((jobs[number], failed) for number, failed in done)


def _elsewhere(
    known: _Base, number: int, job: _Job, options: _Options, wait: bool, threads: int, parent: int
) -> tuple[int, _Failed | None]:
    """What a process does for one model."""
    processes.end_with(parent)
    torch.set_num_threads(threads)
    if options.told is None:
        return number, _work(_loaded(known), job, options, wait)
    line = options.told / f"{number:06}.txt"

    def tell(words: str) -> None:
        with suppress(OSError):  # who asked may be gone
            line.write_text(words)

    try:
        with telling(tell):
            return number, _work(_loaded(known), job, options, wait)
    finally:
        line.unlink(missing_ok=True)


@contextmanager
def _told(folder: Path, bar: Any) -> Iterator[None]:
    """A block in which what other processes tell stands at the end of a bar."""
    over = Event()

    def look() -> None:
        while not over.wait(LOOK):
            lines = []
            for file in sorted(folder.glob("*.txt")):
                with suppress(OSError):  # done meanwhile
                    lines.append(file.read_text())
            bar.set_postfix_str(" | ".join(filter(None, lines)))

    # In the context of the cell that runs, where a notebook shows what it shows.
    thread = Thread(target=copy_context().run, args=(look,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@lru_cache(maxsize=1)
def _loaded(known: _Base) -> Lens:
    hint = (
        "Several processes load the model by its name: save it and load the folder, or give "
        "execution=Execution(workers=1) to stay in this one."
    )
    try:
        base = load(known.name, device=known.device, dtype=known.dtype)
    except Exception as error:
        raise BadModel(f'"{known.name}" cannot be loaded in another process: {error} {hint}') from error
    if base.fingerprint != known.fingerprint:
        raise BadModel(f'"{known.name}" has other weights than the lens that was given. {hint}')
    if base.reading != known.reading:
        raise BadModel(f'"{known.name}" has another tokenizer or chat template than the lens that was given. {hint}')
    return base


callable_module(__name__, "experiment")
