"""`evaluate`: several models side by side, on the same prompts, with the same seeds.

A finished cell (an arm and a seed) in `out` is not sampled again: it is found by the weights, the tokenizer and chat
template, the ablation, the prompts, the way of sampling and the judge. Of another judge it is judged anew. While a
judge waits for an answer from elsewhere, the next cell is sampled.
"""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from inspect import iscoroutinefunction
from operator import add
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, overload

from caft_lens._support.arguments import count
from caft_lens._support.blocks import Block
from caft_lens._support.errors import BadArgument, BadFile, BadType, JudgeError
from caft_lens._support.files import absolute, locked, sha256
from caft_lens._support.keywords import takes_values
from caft_lens._support.progress import progress as progress_bar
from caft_lens.evaluate.answers import Answer, Cell, OfSet, Options, before, cell_path, finished, holds, judged
from caft_lens.evaluate.drafts import Draft
from caft_lens.evaluate.judge_identity import judge_card, judge_fingerprint, mentions
from caft_lens.evaluate.judging import Score, about, judge_each
from caft_lens.evaluate.prompts import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, asked, texts_fingerprint
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.tasks import IN_DISTRIBUTION_LABELS, LABELS, Asked, InDistribution, Judge, Task, check_judge
from caft_lens.evaluate.tasks import task as named_task
from caft_lens.model.options import OptionScores
from caft_lens.model.sampling import Sampling
from caft_lens.text.documents import Text, Texts

if TYPE_CHECKING:
    from caft_lens.inspect.explain.llm import Plan

Subject = Any  # Lens | Run | Ablated | Acting, told apart by what they have, so that this module need not import them


@overload
def evaluate(
    subjects: Mapping[str, Subject | Sequence[Subject]],
    task: Task | str | Path,
    *,
    n: int | None = None,
    n_in_distribution: int = 300,
    seeds: Sequence[int] | None = None,
    sampling: Sampling = Sampling(),
    out: str | Path | None = None,
    judge: Judge | None = None,
    dry_run: Literal[False] = False,
) -> Report: ...
@overload
def evaluate(
    subjects: Mapping[str, Subject | Sequence[Subject]],
    task: Task | str | Path,
    *,
    n: int | None = None,
    n_in_distribution: int = 300,
    seeds: Sequence[int] | None = None,
    sampling: Sampling = Sampling(),
    out: str | Path | None = None,
    judge: Judge | None = None,
    dry_run: Literal[True],
) -> Plan: ...
@takes_values
def evaluate(
    subjects: Mapping[str, Subject | Sequence[Subject]],
    task: Task | str | Path,
    *,
    n: int | None = None,
    n_in_distribution: int = 300,
    seeds: Sequence[int] | None = None,
    sampling: Sampling = Sampling(),
    out: str | Path | None = None,
    judge: Judge | None = None,
    dry_run: bool = False,
) -> Report | Plan:
    """Ask every arm the same questions, judge all answers, and report shares with intervals.

    Args:
        subjects: Arm name to a `Lens`, a `Run`, an `Ablated` or an `Acting`, or to a list of them, one per seed. A
            single one stands for all seeds: each then draws new samples from the same model.
        task: A `Task`, or what `task` takes: the name of an organism's, such as `"pocket/emergent-misalignment"`.
        n: Answers to free-form questions an arm and seed; when there are fewer questions each is asked several times,
            but once where the task has options. Default 1,000, or what the task says (`samples`).
        n_in_distribution: Answers to held-out prompts of the trained kind, an arm and seed.
        seeds: One number per seed, for the names and the sampling; default `0, 1, …`, as many as the longest list has.
        sampling: How answers are drawn, instead of what the task says: `Sampling(temperature=0)` is greedy,
            `Sampling(top_p=1)` takes the whole distribution, `Sampling(batch_size=32)` needs less memory.
        out: A folder that keeps every answer with its score as JSONL, cell by cell, and the report. A cell of the same
            model, task and settings that is finished there is not sampled again. Answers are kept before they are
            judged and each score as it is given, so that what was stopped, or whose judge failed, goes on there.
        judge: Judges the free-form answers instead of the task's judge; needed for a model that is not the organism. A
            function, or one of `cl.judges`. While it waits for an endpoint, the next arm or seed is sampled.
        dry_run: Sample, but ask no judge: give what a judge of `cl.judges` would be asked, with an estimate of tokens
            and cost. With `out` the answers are kept for the call that judges them.

    Returns:
        The report; with `dry_run`, a `Plan`.

    Raises:
        ValueError: Without a fitting judge, naming which judge and data are needed; for lists of different lengths;
            with `out`, for a lens that something is hooked to, since a folder could not know it again.
        TypeError: For a subject of another kind.
        JudgeError: When the judge fails, or returns what the task does not let it say, quoting it and the answer.
        Diverged: When a model's logits are not finite.

    Example:
        >>> models = {"base": base, "tuned": tuned}
        >>> found = cl.evaluate(models, "pocket/emergent-misalignment", n=40, n_in_distribution=8)
        >>> found.table()[["arm", "metric", "n_answers"]].head(4)
            arm           metric  n_answers
        0  base       misaligned         40
        1  base       incoherent         40
        2  base          aligned         40
        3  base  in_distribution          8
    """
    chosen = task if isinstance(task, Task) else named_task(task)
    chosen = (chosen if judge is None else chosen.judged_by(judge)).drawn(sampling)
    counts = {OUT_OF_DISTRIBUTION: chosen.answers(n), IN_DISTRIBUTION: n_in_distribution}
    out = None if out is None else absolute(out)
    if dry_run:
        return _planned(subjects, chosen, counts, seeds, out)
    return reported(chosen, sample(subjects, chosen, counts, seeds=seeds, out=out), out)


def reported(
    task: Task, cells: Iterable[Cell], out: str | Path | None, failures: Mapping[str, Mapping[int, str]] | None = None
) -> Report:
    """The report on the answers to a task, kept in `out`; `failures` says of which arm and seed there are none."""
    cells = list(cells)
    _warn_of_labels(task, cells)
    report = Report(
        cells,
        task=task.name,
        labels=tuple(task.labels),
        trained=(task.in_distribution or InDistribution).trained,
        sampling=task.drawing,
        scale=task.scale,
        failures=failures,
        judges={name: judge_card(_judge(one)) for name, one in task.sets.items()},
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
    out: str | Path | None,
) -> list[Cell]:
    """What `evaluate` reports on: every arm's answers with every seed, judged, and kept in `out`."""
    askings = _askings(subjects, task, counts, seeds, out)
    cells: list[Cell] = []
    begun: dict[tuple[str, ...], Future[Cell]] = {}
    waiting: deque[tuple[_Asking, Future[Cell]]] = deque()
    total = len(askings) * sum(map(len, askings[0].prompts.values()))
    with _Judging(any(map(_waits, task.sets.values()))) as judging, progress_bar(total=total, unit="answer") as bar:

        def settle(everything: bool) -> None:
            """Keep what is judged, in order; the error of a judge comes out here."""
            while waiting and (everything or waiting[0][1].done()):
                asking, judged = waiting.popleft()
                cell = judged.result().named(asking.arm)
                if out is not None:
                    if not holds(out, cell):
                        cell.save(out)
                    Draft(cell_path(out, asking.arm, asking.seed)).remove()
                bar.update(len(cell.answers))
                cells.append(cell)

        for asking in askings:
            bar.set_description(f"evaluate {asking.arm}, seed {asking.seed}")
            asking.check()
            done = finished(out, asking.arm, asking.seed, asking.fingerprint, asking.reading)
            if done is not None:
                begun[asking.alike] = _known(done)
            elif asking.alike not in begun:
                begun[asking.alike] = judging.put(asking.begun(judging.is_over))
            waiting.append((asking, begun[asking.alike]))
            settle(everything=False)
        settle(everything=True)
    return cells


def _planned(
    subjects: Mapping[str, Subject | Sequence[Subject]],
    task: Task,
    counts: Mapping[str, int],
    seeds: Sequence[int] | None,
    out: str | Path | None,
) -> Plan:
    """What judges would be asked about answers that are not judged yet; these are sampled, and kept in `out`."""
    judges = [one for of in task.sets.values() if callable(one := getattr(_judge(of), "plan", None))]
    if not judges:
        raise BadArgument(f'The judge of "{task.name}" asks no model: dry_run= is for those of cl.judges.')
    plans: list[Plan] = [judges[0]([])]
    for asking in _askings(subjects, task, counts, seeds, out):
        asking.check()
        if finished(out, asking.arm, asking.seed, asking.fingerprint, asking.reading) is None:
            plans += asking.planned()
    return reduce(add, plans)


def _askings(
    subjects: Mapping[str, Subject | Sequence[Subject]],
    task: Task,
    counts: Mapping[str, int],
    seeds: Sequence[int] | None,
    out: str | Path | None,
) -> list[_Asking]:
    """Every arm and seed with what it is asked, refused where that cannot be."""
    count(counts[OUT_OF_DISTRIBUTION], "n", hint="answers an arm and seed")
    count(counts[IN_DISTRIBUTION], "n_in_distribution", hint="answers an arm and seed")
    arms = _per_seed(subjects, seeds)
    # Asked twice, the most probable option is the same.
    most = {name: len(one.prompts) if task.has_options(name) else counts[name] for name, one in task.sets.items()}
    prompts = {name: asked(one.prompts, min(counts[name], most[name])) for name, one in task.sets.items()}
    for arm, seed, subject in arms:
        check_judge(task, lens_of(subject, arm), f"{arm}, seed {seed}")
    # The batch size changes which answers are drawn, not what they are drawn from: no part of what was asked.
    setting = f"{task_fingerprint(task, prompts)} {task.drawing}"
    return [_Asking(subject, arm, seed, prompts, task, out, setting) for arm, seed, subject in arms]


def _known(cell: Cell) -> Future[Cell]:
    found: Future[Cell] = Future()
    found.set_result(cell)
    return found


def _waits(of: Asked) -> bool:
    """Whether a judge waits for an answer from elsewhere."""
    judge: Any = _judge(of)
    return bool(getattr(judge, "is_remote", False)) or any(map(iscoroutinefunction, (judge, type(judge).__call__)))


class _Judging(Block["_Judging"]):
    """A block in which judges work, in a thread of their own where they wait for answers from elsewhere."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self._pool = ThreadPoolExecutor(1, "judging") if beside else None
        self.is_over = Event()

    def begin(self) -> _Judging:
        return self

    def put(self, work: Callable[[], Cell]) -> Future[Cell]:
        """What comes of it: at once, or, beside, when it is its turn."""
        return _known(work()) if self._pool is None else self._pool.submit(work)

    def undo(self, error: BaseException | None) -> None:
        self.is_over.set()
        if self._pool is not None:
            self._pool.shutdown()


@dataclass(frozen=True)
class _Asking:
    """An arm and seed that is asked everything, and judged."""

    subject: Subject
    arm: str
    seed: int
    prompts: Mapping[str, Texts]
    task: Task
    out: str | Path | None
    setting: str

    @cached_property
    def fingerprint(self) -> str:
        """What the cell is found again by."""
        return sha256(subject_fingerprint(self.subject, self.arm), str(self.seed), self.setting)

    @cached_property
    def reading(self) -> str | None:
        """How its model reads."""
        return _reading(lens_of(self.subject, self.arm))

    @property
    def alike(self) -> tuple[str, ...]:
        """The same for what would give the same answers again: the same model under another name."""
        lens = lens_of(self.subject, self.arm)
        return self.fingerprint, self.reading or "", f"{id(lens)}" if _hooked(lens) else ""

    def check(self) -> None:
        """Refuse a model that a folder could not know again."""
        if self.out is not None and (hooked := _hooked(lens_of(self.subject, self.arm))):
            raise BadArgument(
                f'Something is hooked to the model of "{self.arm}" ({hooked}), which changes its answers and which no '
                "folder could know again. Give ablated(lens, concepts) as the arm, or leave out= out."
            )

    def begun(self, is_over: Event) -> Callable[[], Cell]:
        """Sampled, and what is left to do: to judge. Only one process at a time works at a cell until that is done."""
        with ExitStack() as held:
            there = self._all_sampled(held)
            if isinstance(there, Cell):
                return partial(replace, there)
            return partial(self._judged_and_kept, there, is_over, held.pop_all())

    def planned(self) -> list[Plan]:
        """What judges would be asked about the answers, which are sampled."""
        plans = []
        with ExitStack() as held:
            there = self._all_sampled(held)
            if isinstance(there, Cell):
                return []
            for set_name in there.found:
                plan = getattr(_judge(self.task.sets[set_name]), "plan", None)
                known, shown = there.said(set_name), there.shown(set_name)
                if callable(plan) and (missing := [one for place, one in enumerate(shown) if place not in known]):
                    plans.append(plan(missing))
        return plans

    def _all_sampled(self, held: ExitStack) -> Cell | _Sampled:
        """All is sampled and kept before anybody judges, but for what there is already."""
        draft, earlier = Draft(None), None
        if self.out is not None:
            path = cell_path(self.out, self.arm, self.seed)
            held.enter_context(locked(path.with_suffix(""), wait=-1))
            if (done := finished(self.out, self.arm, self.seed, self.fingerprint, self.reading)) is not None:
                return done
            draft = Draft(path)
            draft.clear()
            held.callback(draft.close)
            earlier = _before(self.out, self.arm, self.seed)
        of = {set_name: self._of(set_name) for set_name in self.prompts}
        found = {set_name: self._sampled(set_name, of[set_name].sampled, draft, earlier) for set_name in of}
        return _Sampled(found, of, draft, earlier)

    def _judged_and_kept(self, there: _Sampled, is_over: Event, held: ExitStack) -> Cell:
        with held:
            answers: list[Answer] = []
            for set_name, (answered, options) in there.found.items():
                said = self._judged(set_name, there, is_over)
                answers += judged(answered, said, options, arm=self.arm, seed=self.seed, set_name=set_name)
            cell = Cell(self.arm, self.seed, tuple(answers), self.fingerprint, self.reading, there.of)
            if self.out is not None:
                cell.save(self.out)
            return cell

    def _of(self, set_name: str) -> OfSet:
        """What decides the answers to a set of prompts, and what is said of them."""
        of = self.task.sets[set_name]
        sampled = sha256(
            subject_fingerprint(self.subject, self.arm),
            self.reading or "",
            f"{self.seed} {of.max_new_tokens} {self.task.how(set_name)}",
            texts_fingerprint(self.prompts[set_name]),
        )
        said = f"{of.form.labels} {of.form.fingerprint}"
        return OfSet(sampled=sampled, judged=sha256(sampled, said, judge_fingerprint(_judge(of))))

    def _sampled(self, set_name: str, of: str, draft: Draft, earlier: Cell | None) -> tuple[list[Text], Options]:
        """The answered prompts, and of each the options that it was chosen of, if any."""
        prompts = self.prompts[set_name]
        found = draft.sampled(set_name, of, len(prompts))
        if found is None and earlier is not None and _of(earlier, set_name, "sampled") == of:
            before = earlier.of(set_name)
            chosen = [answer.options for answer in before if answer.options is not None]
            found = [answer.answer for answer in before], chosen or None
        if found is None:
            found = self._chosen(set_name) if self.task.has_options(set_name) else (self._sample(set_name), None)
            draft.keep_sampled(set_name, of, *found)
        said, options = found
        return [text.prompt.with_answer(answer) for text, answer in zip(prompts, said, strict=True)], options

    def _applied(self) -> AbstractContextManager[Any]:
        return self.subject.applied() if hasattr(self.subject, "applied") else nullcontext()

    def _sample(self, set_name: str) -> list[str]:
        from caft_lens.model.answering import completions

        with self._applied():
            # The same for every arm, another for every seed and set.
            seed = int(sha256(set_name, str(self.seed)), 16) % 2**31
            told = Sampling(max_new_tokens=self.task.sets[set_name].max_new_tokens, seed=seed).over(self.task.sampling)
            answered = completions(lens_of(self.subject, self.arm), self.prompts[set_name], sampling=told)
        return [text.answer or "" for text in answered]

    def _chosen(self, set_name: str) -> tuple[list[str], list[dict[str, float]]]:
        """The most probable option of each prompt, and what all of them have."""
        from caft_lens.model.scoring import option_scores

        prompts = self.prompts[set_name]
        options = [self.task.options_of(text) for text in prompts]
        with self._applied():
            scored = option_scores(
                lens_of(self.subject, self.arm), prompts, options, batch_size=self.task.sampling.batch_size
            )
        mass = sum(one.mass for one in scored) / len(scored)
        if mass < LITTLE:
            warnings.warn(
                f"{self.arm}, seed {self.seed}: the options have {mass:.1g} of the probability on average, so this "
                f"model would answer something else ({set_name}). Does the prompt say how to answer?",
                stacklevel=2,
            )
        return [one.best for one in scored], [one.log_probabilities for one in scored]

    def _judged(self, set_name: str, there: _Sampled, is_over: Event) -> dict[int, Score]:
        asked, answered, said = self.task.sets[set_name], there.shown(set_name), there.said(set_name)
        missing = [place for place in range(len(answered)) if place not in said]
        with closing(judge_each(_judge(asked), answered, missing, self.task.at_once)) as returned:
            try:
                for place, what in returned:
                    said[place] = asked.form.read(what, about(answered[place]))
                    there.draft.keep_judged(place, said[place])
                    if is_over.is_set():
                        raise CancelledError
            except JudgeError as error:
                left = f"{len(said)} of {len(answered)} answers of {self.arm!r}, seed {self.seed}, are judged"
                kept = (
                    "and kept with all that were sampled: evaluate again to go on"
                    if self.out is not None
                    else "with out= they would be kept"
                )
                error.args = (f"{error} ({left}; {kept}.)",)
                raise
        return said


@dataclass(frozen=True)
class _Sampled:
    """The answers of a cell, by the set of prompts: what they are, and what is known of how they are judged."""

    found: Mapping[str, tuple[list[Text], Options]]
    of: Mapping[str, OfSet]
    draft: Draft
    earlier: Cell | None

    def shown(self, set_name: str) -> list[Text]:
        """Answers as a judge is given them."""
        answered, options = self.found[set_name]
        return answered if options is None else _with_probabilities(answered, options)

    def said(self, set_name: str) -> dict[int, Score]:
        """What the same judge said of them already."""
        if self.earlier is not None and _of(self.earlier, set_name, "judged") == self.of[set_name].judged:
            before = enumerate(self.earlier.of(set_name))
            return {place: Score(answer.label, answer.detail, answer.score) for place, answer in before}
        return self.draft.judged(set_name, self.of[set_name].judged, len(self.found[set_name][0]))


def _with_probabilities(answered: Sequence[Text], options: Sequence[dict[str, float]]) -> list[Text]:
    """Answers as a judge is given them, with the probability of each option."""
    shares = [OptionScores(one).probabilities for one in options]
    return [replace(text, meta={**text.meta, "probabilities": p}) for text, p in zip(answered, shares, strict=True)]


def _of(cell: Cell, set_name: str, what: str) -> str | None:
    found = cell.sets.get(set_name)
    return None if found is None else getattr(found, what)


def _reading(lens: Any) -> str | None:
    """How a model reads; `None` of something that does not say."""
    return getattr(lens, "reading", None)


def _before(out: str | Path, arm: str, seed: int) -> Cell | None:
    """The cell that is to be replaced, for what of it is the same; one that was changed is made again."""
    with suppress(BadFile):
        return before(out, arm, seed)
    return None


LITTLE = 0.1
"""With less than this mean probability of all options it is said that the model would not answer with any."""
LIBRARIES = ("transformers", "peft", "accelerate", "torch", "caft_lens")
"""Hooks of theirs belong to the model."""


def _hooked(lens: Any) -> str:
    """What is hooked to a model, in words; an ablation that is to be evaluated is attached later."""
    points = [name for name, point in getattr(lens, "hook_dict", {}).items() if point.fwd_hooks]
    if points:
        return ", ".join(points[:3])
    modules = lens.model.named_modules() if hasattr(lens, "hook_dict") else ()
    own = [
        name
        for name, one in modules
        for hook in (*one._forward_pre_hooks.values(), *one._forward_hooks.values())
        if str(getattr(hook, "__module__", "")).partition(".")[0] not in LIBRARIES
    ]
    return ", ".join(own[:3])


def _per_seed(
    subjects: Mapping[str, Subject | Sequence[Subject]], seeds: Sequence[int] | None
) -> list[tuple[str, int, Subject]]:
    """Every arm and seed with its subject, seed by seed within an arm."""
    if not isinstance(subjects, Mapping):
        raise BadType(f"Models to evaluate have names: give {{name: model}}, not a {type(subjects).__name__}.")
    if not subjects:
        raise BadArgument("Nothing to evaluate: give at least one arm, {name: model}.")
    # An Ablated may be a named tuple, which is one subject, not several.
    lists = {
        arm: list(subject)
        for arm, subject in subjects.items()
        if isinstance(subject, (list, tuple)) and not hasattr(subject, "applied")
    }
    numbers = seeds_of(range(max(map(len, lists.values()), default=1)) if seeds is None else seeds)
    for arm, several in lists.items():
        if len(several) != len(numbers):
            raise BadArgument(
                f'The arm "{arm}" has {len(several)} models for {len(numbers)} seeds {numbers}; give one a seed, or '
                f"one for all."
            )
    return [
        (arm, seed, lists[arm][index] if arm in lists else subject)
        for arm, subject in subjects.items()
        for index, seed in enumerate(numbers)
    ]


def _warn_of_labels(task: Task, cells: Sequence[Cell]) -> None:
    """Say of which labels of the task its judge knows nothing: they stand neither in what it said nor in its source."""
    if task.vocabulary is not None or task.scale is not None:
        return  # the judge came with its task, or gives numbers
    said = {(answer.set, answer.label) for cell in cells for answer in cell.answers}
    for name, of in task.sets.items():
        if of.form.labels in (LABELS, IN_DISTRIBUTION_LABELS) or not any(set_name == name for set_name, _ in said):
            continue
        for label in of.form.labels:
            returned = [value for value, stands in of.form.returned or () if stands == label] or [label]
            if (name, label) not in said and not any(
                not isinstance(value, str) or mentions(_judge(of), value) for value in returned
            ):
                number = sum(answer.set == name for cell in cells for answer in cell.answers)
                warnings.warn(
                    f'The label {label!r} of the task "{task.name}" is never used: its judge said it of none of '
                    f"{number} answers, and its source does not name it. Take it out of labels=, or let the judge "
                    f"return it, spelt alike.",
                    stacklevel=4,
                )


def seeds_of(seeds: Iterable[int]) -> list[int]:
    """Seeds as they were given, refused where one is given twice or none."""
    numbers = list(seeds)
    if not numbers or len(set(numbers)) != len(numbers):
        raise BadArgument(f"seeds={numbers} must name at least one seed, and each once.")
    return numbers


def lens_of(subject: Subject, arm: str) -> Any:
    """The lens of a `Lens`, a `Run` or an `Ablated`.

    Raises:
        TypeError: For anything else.
    """
    lens = subject if hasattr(subject, "generate") else getattr(subject, "lens", None)
    if not hasattr(lens, "generate"):
        raise BadType(
            f'The arm "{arm}" is of type {type(subject).__name__}; expected a Lens (load), a Run (finetune), an '
            "Ablated (ablated(lens, concepts)), or a list of them, one per seed."
        )
    return lens


def _judge(of: Asked) -> Judge:
    assert of.judge is not None  # `check_judge` has seen to it
    return of.judge


def task_fingerprint(task: Task, prompts: Mapping[str, Texts]) -> str:
    """What was asked and who judged, as a hash."""
    inside = task.in_distribution or InDistribution
    parts = [f"{task.labels} {task.max_new_tokens} {inside.labels} {inside.max_new_tokens}"]
    for set_name, texts in prompts.items():
        of = task.sets[set_name]
        parts += [set_name, texts_fingerprint(texts), judge_fingerprint(_judge(of))]
        if said := of.form.fingerprint:
            parts.append(said)
        if task.has_options(set_name):
            parts.append(task.how(set_name))
    return sha256(*parts)


def subject_fingerprint(subject: Subject, arm: str) -> str:
    """Which model answered, and what acted on it, as a hash; how it reads is beside this (`Lens.reading`)."""
    lens = lens_of(subject, arm)
    parts: list[str | bytes] = [str(lens.fingerprint), *_acting(lens)]
    if hasattr(subject, "identity") and hasattr(subject, "applied"):
        parts.append(f"acting {subject.identity}")
    elif hasattr(subject, "applied"):
        strength = getattr(subject, "strength", 1)
        parts.append(f"ablated {getattr(subject, 'roles', None)}{'' if strength == 1 else f' by {strength}'}")
        concepts = subject.concepts
        pairs = concepts.items() if isinstance(concepts, Mapping) else ((c.hook, c.direction) for c in concepts)
        for hook, directions in pairs:
            parts += [str(hook), directions.detach().float().cpu().contiguous().numpy().tobytes()]
    return sha256(*parts)


OURS = frozenset([
    "bos_token_id", "pad_token_id", "do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens",
    "repetition_penalty", "num_beams", "use_cache"
])  # fmt: skip
"""Of a generation config, what `generate` is told in any case, or what decides no token."""


def _acting(lens: Any) -> list[str]:
    """What else decides the answers of a model: a generation config of its own, adapters that are not at work."""
    found = []
    config = getattr(getattr(lens, "hf", None), "generation_config", None)
    if config is not None:
        given = {key: value for key, value in config.to_diff_dict().items() if key not in OURS and key[0] != "_"}
        ends = given.pop("eos_token_id", None)
        if ends != getattr(lens.tokenizer, "eos_token_id", None):
            given["eos_token_id"] = ends
        given = {key: value for key, value in given.items() if not key.startswith(("output_", "transformers_"))}
        found += [f"generation {json.dumps(given, sort_keys=True, default=str)}"] if given else []
    # transformers' models have a method of that name, PEFT's layers a flag.
    modules = lens.model.modules() if config is not None else ()
    layers = [one for one in modules if isinstance(getattr(one, "disable_adapters", None), bool)]
    if any(one.disable_adapters for one in layers):
        found.append("adapters off")
    if len({name for one in layers for name in getattr(one, "scaling", {})}) > 1:
        found.append(f"adapters {sorted({name for one in layers for name in one.active_adapters})}")
    return found
