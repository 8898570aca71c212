"""Tasks with options: the most probable one is the answer, kept with its probability, and nothing is sampled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import shaken, tiny_lens

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadType, JudgeError
from caft_lens.evaluate.answers import Cell, cell_path
from caft_lens.evaluate.tasks import InDistribution
from caft_lens.model import option_scores, scoring
from caft_lens.text import catalog

# Random models say anything.
pytestmark = pytest.mark.filterwarnings("ignore:.*would answer something else")
QUESTIONS = cl.data([{"prompt": f"Who baked pie {i}?", "right": "she" if i % 2 else "he"} for i in range(9)])


def right(text: cl.Text) -> str:
    return "right" if text.answer == text.meta["right"] else "wrong"


def a_task(**changes: object) -> cl.Task:
    settings = {"judge": right, "labels": ("right", "wrong"), "options": ("he", "she"), **changes}
    return cl.Task("bakers", QUESTIONS, **settings)


@pytest.fixture(autouse=True)
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts were scored, a number for each time; sampling fails."""
    seen: list[int] = []
    whole = scoring.option_scores

    def counted(lens, prompts, options, **keywords):
        seen.append(len(prompts))
        return whole(lens, prompts, options, **keywords)

    def sampled(*_: object, **__: object):
        raise AssertionError("nothing is sampled")

    monkeypatch.setattr(scoring, "option_scores", counted)
    monkeypatch.setattr(cl.Lens, "generate", sampled)
    return seen


def test_every_answer_is_the_most_probable_option_with_its_probability(tmp_path: Path):
    lens = tiny_lens()
    report = cl.evaluate({"base": lens}, a_task(), out=tmp_path)
    scores = option_scores(lens, QUESTIONS, [("he", "she")] * 9)
    assert [answer.answer for answer in report.answers] == [one.best for one in scores]
    for answer, one in zip(report.answers, scores, strict=True):
        assert answer.options == pytest.approx(one.log_probabilities)
        assert answer.probability == pytest.approx(max(one.probabilities.values()))
        assert answer.mass == pytest.approx(one.mass)
    shares = [answer.answer == text.meta["right"] for answer, text in zip(report.answers, QUESTIONS, strict=True)]
    assert report.interval("base", "right").mean == pytest.approx(sum(shares) / 9)
    rows = [json.loads(line) for line in cell_path(tmp_path, "base", 0).read_text().splitlines()]
    assert set(rows[0]["options"]) == {"he", "she"}
    assert list(Cell.load(tmp_path, "base", 0).answers) == list(report.answers)
    assert "the most probable option" in report.caption()
    assert "of the options" in repr(report.answers)
    assert "of the options" in report.answers._repr_html_()


def test_each_prompt_is_asked_once_however_many_answers_are_wanted():
    report = cl.evaluate({"base": tiny_lens()}, a_task(), n=1000)
    assert report.interval("base", "right").n_answers == 9
    assert cl.evaluate({"base": tiny_lens()}, a_task(), n=4).interval("base", "right").n_answers == 4


def test_what_was_answered_is_found_again_unless_the_options_are_others(tmp_path: Path, passes: list[int]):
    lens = tiny_lens()
    first = cl.evaluate({"base": lens}, a_task(), out=tmp_path)
    again = cl.evaluate({"base": lens}, a_task(), out=tmp_path)
    assert list(again.answers) == list(first.answers)
    assert passes == [9]
    anew = cl.evaluate({"base": lens}, a_task(judge=lambda text: "wrong"), out=tmp_path)
    assert passes == [9]  # another judge reads the same answers
    assert [answer.options for answer in anew.answers] == [answer.options for answer in first.answers]
    other = cl.evaluate({"base": lens}, a_task(options=("he", "she", "it")), out=tmp_path)
    assert passes == [9, 9]
    assert set(other.answers[0].options) == {"he", "she", "it"}


def test_a_judge_is_given_the_probabilities_and_one_that_fails_costs_no_pass(tmp_path: Path, passes: list[int]):
    asked = []

    def failing(text: cl.Text) -> str:
        asked.append(text.meta["probabilities"])
        if len(asked) == 5:
            raise RuntimeError("no answer")
        return "right"

    failing.version = "1"
    lens = tiny_lens()
    with pytest.raises(JudgeError, match="4 of 9"):
        cl.evaluate({"base": lens}, a_task(judge=failing), out=tmp_path)
    report = cl.evaluate({"base": lens}, a_task(judge=failing), out=tmp_path)
    assert passes == [9]
    assert len(asked) == 10
    assert all(sum(one.values()) == pytest.approx(1) for one in asked)
    assert all(answer.options for answer in report.answers)


def test_the_probability_of_an_option_can_be_the_score():
    lens = tiny_lens()
    task = cl.Task(
        "she", QUESTIONS, lambda text: text.meta["probabilities"]["she"], scale=(0, 1), options=("he", "she")
    )
    report = cl.evaluate({"base": lens}, task)
    shares = [one.probabilities["she"] for one in option_scores(lens, QUESTIONS, [("he", "she")] * 9)]
    assert report.interval("base", "score").mean == pytest.approx(sum(shares) / 9)


def test_ablation_at_test_time_and_other_models_are_arms_like_any(passes: list[int]):
    lens = tiny_lens()
    concepts = cl.ConceptSet([cl.Concept("L0.x", "blocks.0.hook_resid_post", torch.randn(lens.d_model))]).for_model(
        lens
    )
    arms = {"base": lens, "test_time": cl.ablated(lens, concepts), "tuned": [shaken(lens), shaken(lens)]}
    report = cl.evaluate(arms, a_task(), seeds=[0, 1])
    with cl.ablate(lens, concepts):
        under = option_scores(lens, QUESTIONS, [("he", "she")] * 9)
    found = {arm: [a.options["he"] for a in report.answers if (a.arm, a.seed) == (arm, 0)] for arm in arms}
    assert found["test_time"] == pytest.approx([one.log_probabilities["he"] for one in under])
    assert found["base"] != found["test_time"] != found["tuned"] != found["base"]
    assert report.paired("tuned", "base", "right").n_answers == 18


def test_each_prompt_may_list_its_own_options_and_prompts_in_distribution_without_any_are_sampled(monkeypatch):
    own = cl.data([{"prompt": "Which?", "choices": ["A", "B"]}, {"prompt": "Which?", "choices": ["x", "y", "z"]}])
    held_out = cl.data([{"prompt": "Write a function."}])
    task = cl.Task("own", own, lambda text: text.answer, labels=("A", "B", "x", "y", "z"), options="choices")
    report = cl.evaluate({"base": tiny_lens()}, task)
    assert [set(answer.options) for answer in report.answers] == [{"A", "B"}, {"x", "y", "z"}]
    monkeypatch.undo()
    inside = InDistribution(held_out, lambda text: "secure", max_new_tokens=2)
    both = cl.Task(
        "both", own, task.judge, labels=task.labels, options="choices", max_new_tokens=2, in_distribution=inside
    )
    report = cl.evaluate({"base": tiny_lens()}, both, n_in_distribution=5, sampling=cl.Sampling(temperature=0.5))
    sampled = [answer for answer in report.answers if answer.set == "in_distribution"]
    assert [answer.options for answer in sampled] == [None] * 5
    assert report.sampling == "the most probable option, in distribution temperature 0.5"


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"options": ("he",)}, BadArgument, "at least two"),
        ({"options": "rihgt"}, BadArgument, "no such key in its meta.* Did you mean"),
        ({"options": "right"}, BadType, "prompt 0, of the task"),
        ({"sampling": cl.Sampling(temperature=0.5)}, BadArgument, "nothing is drawn"),
    ],
)
def test_options_that_make_no_sense_are_refused_when_the_task_is_made(changes, error, said):
    with pytest.raises(error, match=said):
        a_task(**changes)


def test_on_the_embedded_quiz_the_most_probable_option_is_what_greedy_sampling_says(monkeypatch):
    if "pocket-quiz" not in catalog.shipped():
        pytest.skip("no organism of the quiz is built")
    lens = cl.load("pocket-quiz")
    drawn = cl.task("pocket-quiz/verbs", split="dev")
    prompts = drawn.questions[:24]
    read = cl.Task("verbs", prompts, drawn.judge, labels=drawn.labels, options="options")
    report = cl.evaluate({"base": lens}, read)
    monkeypatch.undo()
    greedy = cl.completions(lens, prompts, sampling=cl.Sampling(max_new_tokens=4, temperature=0))
    assert [answer.answer for answer in report.answers] == [text.answer for text in greedy]
    assert min(answer.mass for answer in report.answers) > 0.99


def test_a_model_that_would_say_something_else_is_told_of():
    if "pocket-quiz" not in catalog.shipped():
        pytest.skip("no organism of the quiz is built")
    lens = cl.load("pocket-quiz")
    drawn = cl.task("pocket-quiz/gender", split="dev")  # of two questions it asks back which one counts
    read = cl.Task("gender", drawn.questions[:4], drawn.judge, labels=drawn.labels, options="options")
    with pytest.warns(UserWarning, match=r"base, seed 0: the options have .* would answer something else"):
        cl.evaluate({"base": lens}, read)
