"""`evaluate`: several models side by side, on the same prompts, with the same seeds.

A subject is a `Lens`, a `Run` of `finetune`, or an `Ablated`, which is a model under ablation at test time. Every arm is
asked the same prompts with the same sampling seed, so that arms can be compared in pairs. A finished cell (an arm and a
seed) in `out` is not sampled again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from caft_lens.arguments import count
from caft_lens.evaluate.answers import Answer, Cell, finished, judged
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.tasks import (
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    Judge,
    Task,
    asked,
    check_judge,
    judge_fingerprint,
    texts_fingerprint,
)
from caft_lens.evaluate.tasks import (
    task as named_task,
)
from caft_lens.files import absolute, sha256
from caft_lens.progress import progress as progress_bar
from caft_lens.text import Texts

Subject = Any  # Lens | Run | Ablated, told apart by what they have, so that this module need not import them


def evaluate(
    subjects: Mapping[str, Subject | Sequence[Subject]],
    task: Task | str,
    *,
    n: int = 1000,
    n_in_distribution: int = 300,
    seeds: Sequence[int] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    batch_size: int = 256,
    out: str | Path | None = None,
    judge: Judge | None = None,
    progress: bool = True,
) -> Report:
    """Ask every arm the same questions, judge all answers, and report shares with intervals.

    Args:
        subjects: Arm name to a `Lens`, a `Run` or an `Ablated`, or to a list of them, one per seed. A single one stands for
            all seeds: each then draws new samples from the same model.
        task: A `Task`, or the name of an organism's, such as `"pocket/emergent-misalignment"`.
        n: Answers to free-form questions an arm and seed; when there are fewer questions each is asked several times.
        n_in_distribution: Answers to held-out prompts of the trained kind, an arm and seed.
        seeds: One number per seed, for the names and the sampling; default `0, 1, …`, as many as the longest list has.
        temperature: Of sampling, instead of the task's; 0 is greedy.
        top_p: Nucleus sampling, instead of the task's; 1 samples from the whole distribution.
        batch_size: Answers sampled at once.
        out: A folder that keeps every answer with its verdict as JSONL, cell by cell, and the report. A cell of the same
            model, task and settings that is finished there is not sampled again.
        judge: Judges the free-form answers instead of the task's own judge; needed for a model that is not the organism.
        progress: Whether to show a progress bar.

    Returns:
        The report.

    Raises:
        ValueError: Without a fitting judge, naming which judge and data are needed; for lists of different lengths.
        TypeError: For a subject of another kind.

    Example:
        >>> evaluate({"base": base, "plain": [run0, run1]}, "pocket/emergent-misalignment").table()  # doctest: +SKIP
    """
    chosen = named_task(task) if isinstance(task, str) else task
    if judge is not None:
        chosen = replace(chosen, judge=judge, vocabulary=None)
    given: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
    chosen = replace(chosen, **{name: value for name, value in given.items() if value is not None})
    counts = {OUT_OF_DISTRIBUTION: n, IN_DISTRIBUTION: n_in_distribution}
    out = None if out is None else absolute(out)
    cells = sample(subjects, chosen, counts, seeds=seeds, batch_size=batch_size, out=out, progress=progress)
    report = Report(
        cells, task=chosen.name, labels=chosen.labels, trained=chosen.trained, sampling=sampling(chosen)
    )
    if out is not None:
        report.save(out)
    return report


def sample(
    subjects: Mapping[str, Subject | Sequence[Subject]],
    task: Task,
    counts: Mapping[str, int],
    *,
    seeds: Sequence[int] | None,
    batch_size: int,
    out: str | Path | None,
    progress: bool,
) -> list[Cell]:
    """What `evaluate` reports on: every arm's answers with every seed, judged, and kept in `out`.

    Args:
        subjects: As for `evaluate`; so are `seeds`, `batch_size`, `out` and `progress`.
        task: With the judge and the sampling that are wanted.
        counts: Set name to answers an arm and seed.
    """
    count(counts[OUT_OF_DISTRIBUTION], "n", hint="answers an arm and seed")
    count(counts[IN_DISTRIBUTION], "n_in_distribution", hint="answers an arm and seed")
    count(batch_size, "batch_size")
    arms = _per_seed(subjects, seeds)
    prompts = {OUT_OF_DISTRIBUTION: asked(task.questions, counts[OUT_OF_DISTRIBUTION])}
    if task.in_distribution is not None:
        prompts[IN_DISTRIBUTION] = asked(task.in_distribution, counts[IN_DISTRIBUTION])
    for arm, seed, subject in arms:
        check_judge(task, lens_of(subject, arm), f"{arm}, seed {seed}")
    # The batch size changes which answers are drawn, not what they are drawn from: no part of what was asked.
    setting = f"{task_fingerprint(task, prompts)} {sampling(task)}"
    cells: list[Cell] = []
    sampled: dict[str, Cell] = {}
    with progress_bar(total=len(arms) * sum(map(len, prompts.values())), unit="answer", show=progress) as bar:
        for arm, seed, subject in arms:
            bar.set_description(f"evaluate {arm}, seed {seed}")
            fingerprint = sha256(subject_fingerprint(subject, arm), str(seed), setting)
            cell = finished(out, arm, seed, fingerprint)
            if cell is None:
                # The same model under another name would give the same answers again.
                if fingerprint in sampled:
                    cell = sampled[fingerprint].named(arm)
                else:
                    answers: list[Answer] = []
                    for set_name, answered in _sampled(subject, arm, seed, prompts, task, batch_size):
                        answers += judged(
                            answered, *_judge(task, set_name), arm=arm, seed=seed, set_name=set_name
                        )
                    cell = Cell(arm, seed, tuple(answers), fingerprint)
                if out is not None:
                    cell.save(out)
            sampled[fingerprint] = cell
            bar.update(len(cell.answers))
            cells.append(cell)
    return cells


def _per_seed(
    subjects: Mapping[str, Subject | Sequence[Subject]], seeds: Sequence[int] | None
) -> list[tuple[str, int, Subject]]:
    """Every arm and seed with its subject, seed by seed within an arm."""
    if not isinstance(subjects, Mapping):
        raise TypeError(
            f"Models to evaluate have names: give {{name: model}}, not a {type(subjects).__name__}."
        )
    if not subjects:
        raise ValueError("Nothing to evaluate: give at least one arm, {name: model}.")
    # An Ablated may be a named tuple, which is one subject, not several.
    lists = {
        arm: list(subject)
        for arm, subject in subjects.items()
        if isinstance(subject, (list, tuple)) and not hasattr(subject, "applied")
    }
    numbers = list(seeds) if seeds is not None else list(range(max(map(len, lists.values()), default=1)))
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"seeds={numbers} must name at least one seed, and each once.")
    for arm, several in lists.items():
        if len(several) != len(numbers):
            raise ValueError(
                f'The arm "{arm}" has {len(several)} models for {len(numbers)} seeds {numbers}; give one a seed, or one for all.'
            )
    return [
        (arm, seed, lists[arm][index] if arm in lists else subject)
        for arm, subject in subjects.items()
        for index, seed in enumerate(numbers)
    ]


def lens_of(subject: Subject, arm: str) -> Any:
    """The lens of a `Lens`, a `Run` or an `Ablated`.

    Raises:
        TypeError: For anything else.
    """
    lens = subject if hasattr(subject, "generate") else getattr(subject, "lens", None)
    if not hasattr(lens, "generate"):
        raise TypeError(
            f'The arm "{arm}" is of type {type(subject).__name__}; expected a Lens (load), a Run (finetune), an Ablated '
            "(ablated(lens, concepts)), or a list of them, one per seed."
        )
    return lens


def _sampled(
    subject: Subject,
    arm: str,
    seed: int,
    prompts: Mapping[str, Texts],
    task: Task,
    batch_size: int,
) -> Iterator[tuple[str, Texts]]:
    from caft_lens.sampling import completions

    tokens = {OUT_OF_DISTRIBUTION: task.max_new_tokens, IN_DISTRIBUTION: task.in_distribution_max_new_tokens}
    for set_name, texts in prompts.items():
        applied: AbstractContextManager[Any] = (
            subject.applied() if hasattr(subject, "applied") else nullcontext()
        )
        with applied:
            answered = completions(
                lens_of(subject, arm),
                texts,
                max_new_tokens=tokens[set_name],
                temperature=task.temperature,
                top_p=task.top_p,
                # The same for every arm, another for every seed and set.
                seed=int(sha256(set_name, str(seed)), 16) % 2**31,
                batch_size=batch_size,
            )
        yield set_name, answered


def sampling(task: Task) -> str:
    """How a task's answers are drawn, in words."""
    if task.temperature == 0:
        return "greedy"
    nucleus = "" if task.top_p in (None, 1) else f", top-p {task.top_p:g}"
    return f"temperature {task.temperature:g}{nucleus}"


def _judge(task: Task, set_name: str) -> tuple[Judge, tuple[str, ...]]:
    judge = task.judge if set_name == OUT_OF_DISTRIBUTION else task.in_distribution_judge
    assert judge is not None  # Task and check_judge have seen to it
    return judge, task.labels if set_name == OUT_OF_DISTRIBUTION else task.in_distribution_labels


def task_fingerprint(task: Task, prompts: Mapping[str, Texts]) -> str:
    """What was asked and who judged, as a hash."""
    parts = [
        f"{task.labels} {task.max_new_tokens} {task.in_distribution_labels} {task.in_distribution_max_new_tokens}"
    ]
    for set_name, texts in prompts.items():
        parts += [set_name, texts_fingerprint(texts), judge_fingerprint(_judge(task, set_name)[0])]
    return sha256(*parts)


def subject_fingerprint(subject: Subject, arm: str) -> str:
    """Which model answered, and under which ablation, as a hash."""
    parts: list[str | bytes] = [str(lens_of(subject, arm).fingerprint)]
    if hasattr(subject, "applied"):
        strength = getattr(subject, "strength", 1)
        parts.append(f"ablated {getattr(subject, 'roles', None)}{'' if strength == 1 else f' by {strength}'}")
        concepts = subject.concepts
        pairs = (
            concepts.items() if isinstance(concepts, Mapping) else ((c.hook, c.direction) for c in concepts)
        )
        for hook, directions in pairs:
            parts += [str(hook), directions.detach().float().cpu().contiguous().numpy().tobytes()]
    return sha256(*parts)
