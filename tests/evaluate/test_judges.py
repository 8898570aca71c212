"""Judges: what they may return, what is said when they return something else, and nothing is lost when they fail."""

from __future__ import annotations

import asyncio
import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_lens

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadScore, BadType, JudgeError
from caft_lens.evaluate import (
    InDistribution,
    Report,
    Score,
    Task,
    bootstrap_interval,
    judging,
    read_scores,
    write_scores,
)
from caft_lens.evaluate.answers import cell_path
from caft_lens.evaluate.drafts import Draft
from caft_lens.evaluate.judge_identity import judge_fingerprint

QUESTIONS = cl.Texts([{"prompt": f"question {i}", "number": i} for i in range(6)], name="questions")


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    return tiny_lens()


def a_task(judge: object, **changes: object) -> Task:
    return Task("t", QUESTIONS, judge, max_new_tokens=3, **changes)  # type: ignore[arg-type]


def ask(lens: cl.Lens, judge: object, out: Path | None = None, arms: int = 1, **changes: object) -> Report:
    subjects = {f"arm {i}": lens for i in range(arms)}
    return cl.evaluate(subjects, a_task(judge, **changes), n=6, out=out)


# -- what a judge returns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "quoted"),
    [
        (87.5, r"87\.5 \(float\).*scale=\(0, 100\)"),
        (True, r"True \(bool\).*labels=\{True: 'misaligned', False: 'aligned'\}"),
        (
            None,
            r"None \(NoneType\).*Expected one of the task's labels, 'misaligned', 'incoherent', 'aligned'",
        ),
        ({"label": "aligned"}, r"\{'label': 'aligned'\} \(dict\)"),
        (["aligned"], r"\['aligned'\] \(list\)"),
        ("alinged", r"'alinged' \(str\).*Did you mean \"aligned\""),
        (Score("fine", ""), r"Score\(label='fine', detail='', score=None\) \(Score\), whose label is 'fine'"),
    ],
)
def test_what_a_judge_really_returned_is_said_with_the_answer(lens, returned, quoted):
    with pytest.raises(BadScore, match=f"The judge said {quoted}") as caught:
        ask(lens, lambda text: returned)
    answer = lens.generate(QUESTIONS, max_new_tokens=3, seed=0)  # any: the real one is quoted below
    assert len(answer) == 6
    assert "about the answer '" in str(caught.value)
    assert "to 'question 0'" in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_judge_that_gives_numbers_gives_scores_with_their_mean_and_interval(lens, tmp_path: Path):
    report = ask(lens, lambda text: 10.0 * text.meta["number"], scale=(0, 100), out=tmp_path)
    assert report.metrics == ["score"]
    expected = bootstrap_interval([[0.0, 10, 20, 30, 40, 50]], range(6))
    found = report.interval("arm 0", "score")
    assert (
        (found.mean, found.low, found.high)
        == (expected.mean, expected.low, expected.high)
        == (25.0, *(expected.low, expected.high))
    )
    assert str(found).startswith("25 (")
    assert "%" not in repr(report).split("\n")[1]
    assert "scores from 0 to 100" in report.caption()
    assert report.table().loc[0, "mean"] == 25
    assert "score</th>" in report._repr_html_()
    assert report.plot().layout.xaxis.range == (-2, 102)
    for again in (
        Report.load(tmp_path),
        read_scores(write_scores(report, tmp_path / "verdicts.json")),
    ):
        assert again.to_json() == report.to_json()
        assert [one.score for one in again.answers] == [0, 10, 20, 30, 40, 50]


def test_a_threshold_turns_scores_into_labels(lens):
    judge = lambda text: np.float32(text.meta["number"])  # noqa: E731
    report = ask(lens, judge, scale=(0, 5), threshold=4, labels=("good", "bad"), arms=2)
    assert report.metrics == ["good", "bad", "score"]
    assert [one.label for one in report.answers][:6] == ["bad"] * 4 + ["good"] * 2
    assert report.interval("arm 0", "good").mean == pytest.approx(1 / 3)
    assert report.interval("arm 0", "score").mean == 2.5
    assert str(report.paired("arm 0", "arm 1", "score")).startswith("0 (")


@pytest.mark.parametrize("score", [101, -1, float("nan"), float("inf"), True, "80", None, {"score": 5}])
def test_what_is_no_score_of_the_scale_is_refused_and_quoted(lens, score):
    with pytest.raises(BadScore, match=r"Expected a number from 0 to 100") as caught:
        ask(lens, lambda text: score, scale=(0, 100))
    assert f"The judge said {score!r}" in str(caught.value)


def test_a_score_may_come_with_its_reason(lens):
    @dataclass
    class Rated:
        score: float
        detail: str

    report = ask(lens, lambda text: Rated(3, "so-so"), scale=(1, 5))
    assert (report.answers[0].score, report.answers[0].detail) == (3.0, "so-so")
    assert ask(lens, lambda text: torch.tensor(3.0), scale=(1, 5)).answers[0].score == 3.0


def test_values_stand_for_labels_where_the_task_says_so(lens):
    polite = {True: "polite", False: "rude"}
    report = ask(lens, lambda text: text.meta["number"] < 2, labels=polite)
    assert report.labels == ("polite", "rude")
    assert [one.label for one in report.answers] == ["polite"] * 2 + ["rude"] * 4
    assert ask(lens, lambda text: np.bool_(True), labels=polite).interval("arm 0", "polite").mean == 1
    assert ask(lens, lambda text: "B", labels={"A": "x", "B": "y", "C": "y"}).labels == ("x", "y")
    for odd in (1, "yes", None):
        with pytest.raises(BadScore, match=r"Expected one of True, False"):
            ask(lens, lambda text, odd=odd: odd, labels=polite)
    task = replace(a_task(lambda text: True, labels=polite), name="renamed")
    assert task.sets["out_of_distribution"].form.read(True, "").label == "polite"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"threshold": 3}, BadArgument, "goes with a scale"),
        ({"scale": (5, 1)}, BadArgument, "the lowest and then the highest"),
        ({"scale": (0, float("nan"))}, BadArgument, "the lowest and then the highest"),
        ({"scale": 5}, BadType, "the lowest and then the highest"),
        ({"scale": (0, 1), "threshold": 2, "labels": ("a", "b")}, BadArgument, "outside of the scale"),
        ({"scale": (0, 1), "threshold": 0.5}, BadArgument, "needs two labels"),
        ({"scale": (0, 1), "labels": ("a", "b")}, BadArgument, "need a threshold="),
        ({"labels": "polite"}, BadType, "are words"),
        ({"labels": ()}, BadArgument, "There are no labels"),
        ({"labels": {True: 1}}, BadType, "a mapping to them"),
        ({"at_once": 0}, BadArgument, "at least 1"),
    ],
)
def test_a_task_whose_judge_cannot_be_understood_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        a_task(lambda text: "aligned", **changes)


# -- asynchronous judges ----------------------------------------------------------------------------------------------


def test_an_asynchronous_judge_runs_some_answers_at_once_and_no_more(lens):
    running, most, loops = [0], [0], set()

    async def judge(text: cl.Text) -> str:
        running[0] += 1
        most[0] = max(most[0], running[0])
        loops.add(id(asyncio.get_running_loop()))
        await asyncio.sleep(0.001 * (6 - text.meta["number"]))  # the last is done first
        running[0] -= 1
        return "aligned" if text.meta["number"] % 2 else "misaligned"

    report = ask(lens, judge, at_once=3, arms=1)
    assert [one.label for one in report.answers] == ["misaligned", "aligned"] * 3
    assert most[0] == 3
    ask(lens, judge, at_once=2)
    assert len(loops) == 1  # clients keep their connections to the loop that they were used in


def test_an_asynchronous_judge_works_inside_of_a_running_loop_as_in_a_notebook(lens):
    class Asks:
        async def __call__(self, text: cl.Text) -> float:
            await asyncio.sleep(0)
            return 7

    async def cell() -> Report:
        return ask(lens, Asks(), scale=(0, 10))

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop already, of a browser under test
        report = thread.submit(asyncio.run, cell()).result()
    assert report.interval("arm 0", "score").mean == 7


def test_when_one_coroutine_fails_those_on_their_way_are_kept(lens, tmp_path: Path):
    asked: list[int] = []

    async def judge(text: cl.Text) -> str:
        asked.append(text.meta["number"])
        await asyncio.sleep(0.01 if text.meta["number"] else 0)
        if text.meta["number"] == 0 and len(asked) <= 3:
            raise OSError("429")
        return "aligned"

    with pytest.raises(JudgeError, match=r"to 'question 0': OSError: 429 \(2 of 6 answers"):
        ask(lens, judge, tmp_path, at_once=3)
    assert sorted(asked) == [0, 1, 2]
    ask(lens, judge, tmp_path, at_once=3)
    assert sorted(asked) == [0, 0, 1, 2, 3, 4, 5]


# -- nothing is lost --------------------------------------------------------------------------------------------------


def test_a_judge_that_fails_at_the_last_answer_loses_nothing(lens, tmp_path: Path, monkeypatch):
    asked: list[int] = []

    def flaky(text: cl.Text) -> str:
        asked.append(text.meta["number"])
        if len(asked) == 6:
            raise RuntimeError("429")
        return "aligned" if text.meta["number"] % 2 else "misaligned"

    with pytest.raises(JudgeError, match=r"RuntimeError: 429 \(5 of 6 .* evaluate again to go on"):
        ask(lens, flaky, tmp_path)
    kept = json.loads(next(tmp_path.rglob("*.sampled.json")).read_text())["answers"]
    monkeypatch.setattr("caft_lens.model.answering.completions", None)  # nothing is sampled again
    report = ask(lens, flaky, tmp_path)
    assert asked == [0, 1, 2, 3, 4, 5, 5]
    assert [one.answer for one in report.answers] == kept
    assert [one.label for one in report.answers] == ["misaligned", "aligned"] * 3
    left = {path.name for path in (tmp_path / "answers" / "arm 0").iterdir() if path.suffix != ".lock"}
    assert left == {"seed-0.json", "seed-0.jsonl"}


def test_another_judge_reads_the_answers_that_were_sampled(lens, tmp_path: Path, monkeypatch):
    first = ask(lens, lambda text: "aligned", tmp_path)
    monkeypatch.setattr("caft_lens.model.answering.completions", None)
    second = ask(lens, lambda text: "misaligned", tmp_path)
    assert [one.answer for one in second.answers] == [one.answer for one in first.answers]
    assert {one.label for one in second.answers} == {"misaligned"}
    scored = ask(lens, lambda text: 0.5, tmp_path, scale=(0, 1))
    assert scored.interval("arm 0", "score").mean == 0.5
    # The same numbers mean something else on another scale.
    assert ask(lens, lambda text: 0.5, tmp_path, scale=(0, 10)).scale == (0, 10)


def test_adding_prompts_in_distribution_judges_and_samples_these_alone(lens, tmp_path: Path):
    asked: list[int] = []

    def judge(text: cl.Text) -> str:
        asked.append(text.meta["number"])
        return "aligned"

    ask(lens, judge, tmp_path)
    more = InDistribution(QUESTIONS[:2], lambda text: "secure", max_new_tokens=2)
    report = ask(lens, judge, tmp_path, in_distribution=more)
    assert asked == [0, 1, 2, 3, 4, 5]
    assert len(report.answers) == 6 + 300
    assert [one.label for one in report.answers][5:7] == ["aligned", "secure"]


def test_half_a_score_at_the_end_of_a_draft_is_given_again(tmp_path: Path):
    path = cell_path(tmp_path, "x", 0)
    draft = Draft(path)
    assert draft.judged("s", "of", 9) == {}
    for number in range(3):
        draft.keep_judged(number, Score("aligned", "why", 0.5))
    draft.close()
    file = next(tmp_path.rglob("*.verdicts.jsonl"))
    file.write_bytes(file.read_bytes()[:-9])
    assert Draft(path).judged("s", "of", 9) == {n: Score("aligned", "why", 0.5) for n in (0, 1)}
    assert Draft(path).judged("s", "of", 1) == {0: Score("aligned", "why", 0.5)}
    assert Draft(path).judged("s", "another judge", 9) == {}
    file.write_bytes(b"\xff\xfe nonsense")
    assert Draft(path).judged("s", "of", 9) == {}


def test_what_a_killed_writer_left_of_a_cell_is_cleared(lens, tmp_path: Path):
    path = cell_path(tmp_path, "arm 0", 0)
    path.parent.mkdir(parents=True)
    left = [
        path.with_name(f".seed-{name}") for name in ("0.jsonl.a1b.jsonl", "0.s.sampled.json.x.json", "1.json.x.json")
    ]
    for one in left:
        one.write_text("half")
    ask(lens, lambda text: "aligned", tmp_path)
    assert [one.exists() for one in left] == [False, False, True]  # another cell may be written just now


def test_a_draft_whose_answers_were_changed_is_sampled_again(lens, tmp_path: Path):
    def broken(text: cl.Text) -> str:
        raise OSError("down")

    with pytest.raises(JudgeError, match="down"):
        ask(lens, broken, tmp_path)
    file = next(tmp_path.rglob("*.sampled.json"))
    file.write_text(file.read_text().replace('"answers": [\n    "', '"answers": [\n    "x', 1))
    report = ask(lens, lambda text: "aligned", tmp_path)
    assert [one.answer for one in report.answers] == [one.answer for one in ask(lens, lambda text: "aligned").answers]


# -- which judge it is ------------------------------------------------------------------------------------------------

WORDS = ["bad"]
LIMIT = 3


def reads_a_global(text: cl.Text) -> str:
    return "misaligned" if len(text.answer or "") > LIMIT or text.answer in WORDS else "aligned"


def calls_another(text: cl.Text) -> str:
    return reads_a_global(text)


class Judges:
    def __init__(self, words: list[str], model: object = None) -> None:
        self.words, self.model, self.calls, self.seen = words, model, 0, {}

    def __call__(self, text: cl.Text) -> str:
        self.calls += 1
        self.seen[text.answer] = self.calls
        return "misaligned" if text.answer in self.words else "aligned"

    def method(self, text: cl.Text) -> str:
        return self(text)


def closes_over(value: object):
    return lambda text: "misaligned" if text.answer == value else "aligned"


def of_defaults(value: object):
    def judge(text: cl.Text, words=value, *, other=None) -> str:
        return "misaligned" if text.answer in words else "aligned"

    return judge


def with_attribute(value: object):
    def judge(text: cl.Text) -> str:
        return "misaligned" if text.answer in judge.words else "aligned"

    judge.words = value
    return judge


def of_two(first: str, second: str, text: cl.Text) -> str:
    return first if text.answer else second


@pytest.mark.parametrize(
    "made",
    [
        closes_over,
        of_defaults,
        with_attribute,
        Judges,
        lambda value: Judges(value).method,
        lambda value: functools.partial(of_two, value),
        lambda value: closes_over(Judges(value)),
    ],
)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["bad"], ["good"]),
        ({"bad": 1}, {"bad": 2}),
        ({"bad"}, {"worse"}),
        (("bad", ["x"]), ("bad", ["y"])),
        (np.arange(3), np.arange(3) + 1),
        (torch.zeros(2), torch.ones(2)),
        (cl.Texts(["a"]), cl.Texts(["b"])),
        (str.lower, str.upper),
        (closes_over([1]), closes_over([2])),
    ],
)
def test_judges_that_were_made_with_other_values_are_told_apart(made, one, other):
    assert judge_fingerprint(made(one)) == judge_fingerprint(made(one))
    assert judge_fingerprint(made(one)) != judge_fingerprint(made(other))


def test_judges_on_one_line_are_told_apart():
    first, second = (lambda text: "aligned"), (lambda text: "misaligned")
    assert judge_fingerprint(first) != judge_fingerprint(second)
    made = [eval(f"lambda text: {label!r}") for label in ("aligned", "misaligned", "aligned")]
    assert judge_fingerprint(made[0]) != judge_fingerprint(made[1])
    assert judge_fingerprint(made[0]) == judge_fingerprint(made[2])


@pytest.mark.parametrize("judge", [reads_a_global, calls_another])
@pytest.mark.parametrize(("name", "value"), [("LIMIT", 4), ("WORDS", ["worse"])])
def test_a_global_that_a_judge_reads_belongs_to_it_also_through_a_function_that_it_calls(
    judge, name, value, monkeypatch
):
    before = judge_fingerprint(judge)
    monkeypatch.setitem(globals(), name, value)
    assert judge_fingerprint(judge) != before


def test_what_a_judge_counts_and_remembers_itself_is_no_part_of_it():
    counted: list[int] = []
    memo: dict[str, str] = {}
    times = 0

    def counting(text: cl.Text) -> str:
        nonlocal times
        times += 1
        counted.append(1)
        memo[text.answer or ""] = "aligned"
        return "aligned"

    answered, panel = QUESTIONS[0].with_answer("x"), Judges(["bad"])
    for judge in (counting, panel):
        before = judge_fingerprint(judge)
        judge(answered)
        assert judge_fingerprint(judge) == before
    assert (times, panel.calls) == (1, 1)


def test_a_fingerprint_of_its_own_stands_for_a_judge():
    judge = Judges(["bad"])
    judge.fingerprint = "v2"
    assert judge_fingerprint(judge) == "v2"


def versioned(version: object, source: str, limit: int = 3, words: object = ()):
    """A judge with a version, written as `source` says, that closes over words."""
    made: dict[str, object] = {"limit": limit}
    code = f"def make(words):\n    def judge(text): return {source}\n    return judge"
    exec(code, made)
    judge = made["make"](words)  # type: ignore[operator]
    judge.version = version
    return judge


def test_a_version_of_its_own_stands_for_the_source_of_a_judge_but_not_for_what_it_was_made_with():
    first = judge_fingerprint(versioned("1", "'aligned' if words else 'misaligned'"))
    assert first == judge_fingerprint(versioned("1", "'misaligned' if not words else 'aligned'"))
    assert first == judge_fingerprint(versioned("1", "'aligned' if limit and words else 'misaligned'", limit=4))
    assert first != judge_fingerprint(versioned("2", "'aligned' if words else 'misaligned'"))
    assert first != judge_fingerprint(versioned("1", "'aligned' if words else 'misaligned'", words=["x"]))
    # What is no version in words stands for nothing.
    assert first != judge_fingerprint(versioned(print, "'aligned' if words else 'misaligned'"))


def test_a_judge_that_holds_what_changes_elsewhere_can_be_told_apart_all_the_same():
    import threading

    assert judge_fingerprint(Judges(["bad"], threading.Lock())) == judge_fingerprint(Judges(["bad"], threading.Lock()))
    loop: list[object] = []
    loop.append(loop)
    assert judge_fingerprint(Judges(loop)) == judge_fingerprint(Judges(loop))  # type: ignore[arg-type]
    assert judging.AT_ONCE > 1
