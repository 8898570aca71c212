"""A judge that asks a model: what about, whom, and which label follows from what it says."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from caft_lens._support.errors import BadArgument, BadType, nearest
from caft_lens._support.files import sha256
from caft_lens.evaluate.judge_identity import JudgeCard
from caft_lens.evaluate.judges.criteria import Criterion, Reading
from caft_lens.evaluate.judging import SCORE, Form, Score
from caft_lens.evaluate.validation import Validation, labelled_texts, validation
from caft_lens.text.documents import Text

if TYPE_CHECKING:
    from caft_lens.inspect.explain.llm import Conversation, Plan, Rater

UNCLEAR = "unclear"
"""The label of an answer of which a judge said neither a number nor a word that it was offered."""
OTHERWISE = "otherwise"
"""The condition that holds where no other does."""
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TEST = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)\s*")

Test = tuple[str, str, float]
"""A criterion, an operator and a number."""


@dataclass(frozen=True, eq=False, repr=False)
class Rubric:
    """A judge that asks a model about answers, by one criterion or several, and labels them by thresholds.

    Answers that are asked about leave this computer where the model is at an endpoint: `plan` shows each request first.

    Args:
        llm: Who is asked: an `inspect.Endpoint` or an `inspect.LocalModel`.
        criteria: Name to `Criterion`. The number of the first one is the score of an answer.
        labels: Label to its condition, such as `"coherent > 50 and aligned < 30"`, or `"otherwise"` for the last; the
            label that matters most first. Without any an answer has a score alone. A word that was said instead of a
            number is a label too, and so is "unclear", where a number that decides is missing.
        name: What to call it.

    Attributes:
        validation: How far it agreed with labels, once it was validated.

    Raises:
        BadArgument, BadType: Without criteria, or for a condition that is not understood.

    Example:
        >>> llm = cl.inspect.Endpoint("http://localhost:8000/v1", "judge", key_env=None)
        >>> how_rude = cl.judges.Criterion("How rude is the answer?")
        >>> rude = cl.judges.Rubric(llm, {"rude": how_rude}, {"rude": "rude > 50"})
        >>> rude.form.labels
        ('rude', 'unclear')
        >>> print(rude.plan(answers))
        8 requests to judge at http://localhost:8000/v1/chat/completions, 0 of them answered already; about ...
    """

    llm: Rater
    criteria: Mapping[str, Criterion]
    labels: Mapping[str, str] = field(default_factory=dict)
    name: str = "rubric"
    validation: Validation | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not all(hasattr(self.llm, name) for name in ("ask", "asking", "option_scores", "plan", "identity")):
            raise BadType(
                f"A judge asks an inspect.Endpoint(url, model) or an inspect.LocalModel(model), not a "
                f"{type(self.llm).__name__}."
            )
        if not self.criteria or not all(isinstance(one, Criterion) for one in self.criteria.values()):
            raise BadType("The criteria of a judge are a mapping of names to Criterion(prompt), at least one.")
        _ = self.tests  # refuses what is not understood

    @cached_property
    def tests(self) -> dict[str, tuple[Test, ...] | None]:
        """The conditions of the labels; `None` for "otherwise"."""
        found: dict[str, tuple[Test, ...] | None] = {}
        for place, (label, condition) in enumerate(self.labels.items(), 1):
            if condition == OTHERWISE and place == len(self.labels):
                found[label] = None
                continue
            parts = [_TEST.fullmatch(part) for part in str(condition).split(" and ")]
            if None in parts:
                raise BadArgument(
                    f'The label "{label}" is said when {condition!r}: expected comparisons such as "coherent > 50 and '
                    f'aligned < 30", or "{OTHERWISE}" for the last label.'
                )
            tests = tuple((one[1], one[2], float(one[3])) for one in parts if one is not None)
            for name, _, _ in tests:
                if name not in self.criteria:
                    raise BadArgument(
                        f'The label "{label}": there is no criterion "{name}".{nearest(name, self.criteria)}'
                    )
            found[label] = tests
        return found

    @property
    def form(self) -> Form:
        """What it may say: labels, and on which scale the score is."""
        words = (word.lower() for one in self.criteria.values() for word in one.words)
        labels = dict.fromkeys((*(self.labels or (SCORE,)), *words, UNCLEAR))
        return Form(tuple(labels), scale=next(iter(self.criteria.values())).scale)

    @property
    def fingerprint(self) -> str:
        """What decides what it says: the prompts, the thresholds, who is asked and how."""
        asked = (f"{name} {one.kind} {one.scale} {one.prompt} {one.form}" for name, one in self.criteria.items())
        return sha256("rubric 1", self.llm.identity, *asked, repr(list(self.labels.items())))

    @property
    def card(self) -> JudgeCard:
        """Which judge it is, for reports."""
        rules = "; ".join(f"{label}: {condition}" for label, condition in self.labels.items())
        return JudgeCard(
            name=self.name, asks=self.llm.name, rules=rules, fingerprint=self.fingerprint, validation=self.validation
        )

    @property
    def is_remote(self) -> bool:
        """Whether it waits for an answer from elsewhere, so that answers can be sampled here meanwhile."""
        return bool(getattr(self.llm, "is_remote", False))

    def __str__(self) -> str:
        return f"{self.name}, asking {self.llm.name}"

    def __repr__(self) -> str:
        return f"Rubric({self}: {', '.join(self.form.labels)})"

    def __call__(self, text: Text) -> Score:
        """What is said of one answered text."""
        return next(score for _, score in self.each([text]))

    def each(self, texts: Sequence[Text]) -> Iterator[tuple[int, Score]]:
        """The place of each answered text with what is said of it, as soon as that is known.

        Args:
            texts: Questions with their answers.

        Raises:
            EndpointError: When an endpoint does not answer, or cannot tell probabilities.
        """
        found: list[dict[str, Reading]] = [{} for _ in texts]
        for place, name, reading in self._readings(texts):
            found[place][name] = reading
            if len(found[place]) == len(self.criteria):
                yield place, self._score(found[place])

    def plan(self, texts: Iterable[Any]) -> Plan:
        """What would be asked about some answers: every request, tokens and cost. Nothing is sent.

        Args:
            texts: Answered texts, or a report's answers.
        """
        answered = labelled_texts(texts, None)[0]
        asked = {options: [one for *_, one in self._asked(answered, options)] for options in (True, False)}
        plans = [self.llm.plan(some, options=options) for options, some in asked.items() if some]
        return functools.reduce(operator.add, plans or [self.llm.plan([])])

    def validate(
        self, labelled: Any, label: str | Callable[[Any], Any] = "label", *, dry_run: bool = False
    ) -> Validation | Plan:
        """How far it agrees with labels: agreement, kappa, AUROC, confusion, with 95 % intervals.

        It is kept as `validation`, and reports on what this judge says tell it. Of an organism the exact judge's labels
        are the truth: `judge.validate(cl.evaluate(models, "pocket/emergent-misalignment"))`.

        Args:
            labelled: Answers with the label that each should have: a report (of its answers out of distribution), some
                of its `answers`, or `Texts`. About as many of each label as one would want to tell of.
            label: Under which key of `meta` a text has its label; or a function that gives the label of an answer.
                Answers of a report have one. For a judge of scores alone labels are `True` and `False`.
            dry_run: Send nothing; give the exact requests with an estimate of tokens and cost.

        Returns:
            The validation, which prints itself; with `dry_run`, a `Plan`.

        Raises:
            BadData: For a label that the judge cannot say, for labels that are all alike, for a text without one.
            EndpointError: When an endpoint does not answer. What it answered is in the cache.

        Example:
            >>> judge = cl.judges.alignment(cl.inspect.Endpoint("https://api.openai.com/v1", "gpt-4.1"))
            >>> len(judge.validate(report, dry_run=True).requests)
            160
        """
        texts, truth, on = labelled_texts(labelled, label)
        if dry_run:
            return self.plan(texts)
        said = dict(self.each(texts))
        scores = [said[place] for place in range(len(texts))]
        labels = self.form.labels if self.labels else ()
        found = validation(scores, truth, texts, labels=labels, sign=self._sign, judge=str(self), on=on)
        object.__setattr__(self, "validation", found)
        return found

    @property
    def _sign(self) -> int:
        """1 where a high score speaks for the first label, -1 where a low one does, 0 where the score says nothing."""
        first = next(iter(self.criteria))
        tests = next(iter(self.tests.values())) if self.tests else ((first, ">", 0.0),)
        signs = [-1 if sign[0] == "<" else 1 for name, sign, _ in tests or () if name == first]
        return signs[0] if len(signs) == 1 else 0

    def _asked(self, texts: Sequence[Text], options: bool) -> list[tuple[int, str, Conversation]]:
        """What is asked about texts, of those criteria that ask for probabilities or of those that do not."""
        return [
            (place, name, one.conversation(text))
            for place, text in enumerate(texts)
            for name, one in self.criteria.items()
            if bool(one.options) is options
        ]

    def _readings(self, texts: Sequence[Text]) -> Iterator[tuple[int, str, Reading]]:
        """Place and criterion with what was read, as replies come."""
        asked = self._asked(texts, True)
        options = [self.criteria[name].options for _, name, _ in asked]
        for number, scores in self.llm.option_scores([one for *_, one in asked], options) if asked else ():
            place, name, _ = asked[number]
            yield place, name, self.criteria[name].of_scores(scores)
        asked = self._asked(texts, False)
        for last in (False, True):  # what is not of the form is asked for once more
            again = []
            for number, reply in self.llm.asking([one for *_, one in asked]) if asked else ():
                place, name, conversation = asked[number]
                reading = self.criteria[name].of_text(reply)
                if reading is None and not last:
                    again.append((place, name, self.criteria[name].again(conversation, reply)))
                else:
                    yield place, name, reading or Reading()
            asked = again

    def _score(self, found: Mapping[str, Reading]) -> Score:
        """Label, reasons and score of an answer, from what was read by each criterion."""
        detail = ", ".join(f"{name} {found[name]}" for name in self.criteria)
        return Score(self._label(found), detail, found[next(iter(self.criteria))].value)

    def _label(self, found: Mapping[str, Reading]) -> str:
        unknown = False
        for label, tests in self.tests.items():
            holds = (None if unknown else True) if tests is None else _holds(tests, found)
            if holds:
                return label
            unknown = unknown or holds is None
        if not self.labels and found[next(iter(self.criteria))].value is not None:
            return SCORE
        return next((found[name].word for name in self.criteria if found[name].word), UNCLEAR)


def _holds(tests: Sequence[Test], found: Mapping[str, Reading]) -> bool | None:
    """Whether all comparisons hold; `None` where that hangs on a number that is missing."""
    values = [(found[name].value, sign, number) for name, sign, number in tests]
    known = [_OPERATORS[sign](value, number) for value, sign, number in values if value is not None]
    return False if False in known else True if len(known) == len(values) else None
