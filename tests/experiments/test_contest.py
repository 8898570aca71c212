"""A contest is tuned by its rule, survives kills, reruns what is new alone, and reports what it found, failures
included.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from drawn import hover, seen, ticks
from places import ROOT, TESTS
from test_experiment import base, directions, says_a, task  # noqa: F401 - fixtures
from typer.testing import CliRunner

import caft_lens as cl
from caft_lens import experiments
from caft_lens._support.files import read_json, write_json
from caft_lens.cli import app
from caft_lens.evaluate import InDistribution, Report, read_scores, write_scores
from caft_lens.evaluate.answers import Answer, Cell
from caft_lens.experiments.comparisons import cohen_h, compare, front, pareto
from caft_lens.experiments.contest import choose
from caft_lens.finetune import methods
from caft_lens.finetune.protocol import Card, Method, setting

STEPS = cl.TrainSettings(max_steps=2, learning_rate=1e-2)
QUICK = {"settings": STEPS, "execution": experiments.Execution(workers=1, batch_size=2)}
SMALL = {"seeds": [0, 1], "n": 6, "n_in_distribution": 4}
TAUGHT = cl.Texts([{"prompt": f"say {i}", "answer": "a a a a"} for i in range(8)], name="taught")
GENERAL = cl.Texts([{"prompt": f"what of {i}?", "answer": "so it goes"} for i in range(3)], name="general")


def cells(shares: dict[str, list[float]], inside: dict[str, list[float]], n: int = 200) -> Report:
    """A report with given shares of "misaligned" and of the trained behaviour, one number a seed, answers spread
    over prompts.
    """

    def answers(arm: str, seed: int, share: float, trained: float) -> tuple[Answer, ...]:
        # In an order of its own for each arm and seed, or all arms would fail on the same prompts.
        order = np.random.default_rng([len(arm), seed]).permutation(n)
        wrong, right = set(order[: round(share * n)].tolist()), set(order[: round(trained * n)].tolist())
        said = [("out_of_distribution", "misaligned" if i in wrong else "aligned") for i in range(n)]
        said += [("in_distribution", "insecure" if i in right else "secure") for i in range(n)]
        return tuple(
            Answer(arm, seed, kind, i % n, "", f"q{i % n}", "a", label, "") for i, (kind, label) in enumerate(said)
        )

    found = [
        Cell(arm, seed, answers(arm, seed, share, trained), "")
        for arm in shares
        for seed, (share, trained) in enumerate(zip(shares[arm], inside[arm], strict=True))
    ]
    return Report(found, labels=("misaligned", "aligned"), trained="insecure")


# -- statistics -------------------------------------------------------------------------------------------------------


def test_the_front_is_what_a_search_over_all_pairs_leaves():
    points = np.random.default_rng(0).integers(0, 6, size=(40, 2)) / 6.0
    for sign in (1.0, -1.0):
        expected = [
            not any(sign * q[0] <= sign * p[0] and q[1] >= p[1] and (q[0] != p[0] or q[1] != p[1]) for q in points)
            for p in points
        ]
        assert pareto(points, sign).tolist() == expected
        assert any(expected)
        assert not all(expected)


def test_stability_is_high_where_points_are_far_apart_and_low_for_one_that_is_dominated():
    report = cells(
        {"plain": [0.8, 0.8], "good": [0.1, 0.1], "bad": [0.9, 0.9]},
        {"plain": [0.95, 0.95], "good": [0.6, 0.6], "bad": [0.5, 0.5]},
    )
    points = {point.arm: point for point in front(report, report.arms, 1.0)}
    assert {arm: point.on_front for arm, point in points.items()} == {
        "plain": True,
        "good": True,
        "bad": False,
    }
    assert points["good"].stability == points["plain"].stability == 1.0
    assert points["bad"].stability == 0.0
    assert front(report, report.arms, -1.0)[2].on_front


def test_comparisons_are_corrected_over_all_arms_and_carry_effect_sizes():
    shares = {"plain": [0.5, 0.52], "same": [0.5, 0.52], "less": [0.4, 0.41], "none": [0.0, 0.0]}
    report = cells(shares, {arm: [0.9, 0.9] for arm in shares})
    found = {one.arm: one for one in compare(report, "plain", "misaligned", report.arms)}
    assert list(found) == ["same", "less", "none"]
    assert found["none"].p_holm == pytest.approx(3 * found["none"].p)
    assert found["none"].p < found["less"].p < 0.05 < found["same"].p_holm
    assert found["less"].difference.mean == pytest.approx(-0.105)
    assert found["less"].ratio == pytest.approx(0.405 / 0.51)
    assert found["none"].ratio == 0
    assert found["less"].h == pytest.approx(2 * (np.arcsin(0.405**0.5) - np.arcsin(0.51**0.5)))
    assert [one.ratio for one in compare(report, "none", "misaligned", ["plain"])] == [None]
    assert cohen_h(0.3, 0.3) == 0


def contest_of(
    report: Report, folder: Path, tried: dict[str, list[dict]] | None = None, **record
) -> experiments.Result:
    """A finished contest with given answers, without any model."""
    report.save(folder / "test/evaluation")
    write_json(folder / "test/runs.json", {})
    known = [*report.arms, *(arm for arm in report.failures if arm not in report.arms)]
    entries = {arm: {"arm": None, "card": None, "tried": (tried or {}).get(arm, []), "rated": True} for arm in known}
    given = {"format": "caft_lens.arena/1", "task": "a task", "goal": "fewest", "seeds": [0, 1], "against": ["plain"]}
    write_json(folder / "contest.json", {**given, "contenders": entries, **record})
    return experiments.Result.load(folder)


FOUR = (
    {"plain": [0.5, 0.5], "same": [0.5, 0.5], "less": [0.1, 0.1], "more": [0.9, 0.9]},
    {"plain": [0.9, 0.9], "same": [0.9, 0.9], "less": [0.6, 0.6], "more": [0.9, 0.9]},
)


def test_standing_and_summary_name_who_is_told_apart_and_on_which_side(tmp_path):
    report = cells(*FOUR)
    report.failures = {"broken": {0: "MemoryError: no more", 1: "MemoryError: no more"}}
    result = contest_of(report, tmp_path)
    beside = result.standing("plain")
    assert beside.loc["misaligned"].to_dict() == {
        "lower": "less",
        "not told apart": "same",
        "higher": "more",
    }
    assert beside.loc["in_distribution"].to_dict() == {
        "lower": "less",
        "not told apart": "same, more",
        "higher": "none",
    }
    assert result.standing("less").loc["misaligned", "higher"] == "plain, same, more"
    said = result.summary()
    assert "On the Pareto front: plain, same, less." in said
    assert "for the better, after correction for 3 comparisons: less." in said
    assert said.endswith("Failed: broken with seeds 0, 1.")
    most = contest_of(cells(*FOUR), tmp_path / "most", goal="most").summary()
    assert "for the better, after correction for 3 comparisons: more." in most
    assert "Failed" not in most
    with pytest.raises(KeyError, match=r'No contender "lees" with answers. Did you mean "less"'):
        result.standing("lees")


def test_what_was_tried_is_a_table_with_one_setting_chosen_and_failures_without_shares(tmp_path):
    shares = {"plain": [0.8], "x": [0.1], "y": [0.0]}
    inside = {"plain": [0.95], "x": [0.94], "y": [0.7]}
    report = cells(shares, inside)
    report.failures = {"z": {0: "FloatingPointError: nan"}}
    entries = choose(report, {"x": {"a": 1}, "y": {"a": 2}, "z": {"a": 3}}, experiments.Tuning())
    result = contest_of(cells(*FOUR), tmp_path, {"less": entries})
    tried = result.tried()
    assert tried["settings"].tolist() == ["a=1", "a=2", "a=3"]
    assert set(tried["arm"]) == {"less"}
    assert tried["chosen"].tolist() == tried["kept"].tolist() == [True, False, False]
    assert tried["misaligned"].tolist()[:2] == [0.1, 0.0]
    assert tried["in_distribution"].isna().tolist() == [False, False, True]
    assert tried["failed"].tolist() == ["", "", "FloatingPointError: nan"]
    assert contest_of(cells(*FOUR), tmp_path / "none").tried().empty


def test_a_notebook_shows_every_contender_once_and_nothing_that_is_not_escaped(tmp_path):
    shares, inside = ({("<b>evil</b>" if arm == "more" else arm): value for arm, value in of.items()} for of in FOUR)
    result = contest_of(cells(shares, inside), tmp_path)
    shown = result._repr_html_()
    tags = Tags()
    tags.feed(shown.replace("<b>a task</b>", ""))
    assert tags.seen == {"div", "table", "thead", "tbody", "tr", "th", "td", "p"}
    assert shown.count("<tr>") == 1 + len(result.arms)
    assert "&lt;b&gt;evil&lt;/b&gt;" in shown
    for arm in ("plain", "less"):
        assert str(result.evaluation.interval(arm, "misaligned")).replace(" %", "") in shown


# -- the rule ---------------------------------------------------------------------------------------------------------


def test_the_setting_with_the_fewest_misaligned_answers_that_keeps_the_task_is_chosen():
    settings = {name: {"weight": i} for i, name in enumerate(["weak", "middle", "strong", "tied"])}
    shares = {"plain": [0.8], "weak": [0.6], "middle": [0.2], "strong": [0.0], "tied": [0.2]}
    inside = {"plain": [0.95], "weak": [0.97], "middle": [0.935], "strong": [0.92], "tied": [0.94]}
    found = choose(cells(shares, inside), settings, experiments.Tuning())
    assert [entry["chosen"] for entry in found] == [False, False, False, True]
    assert [entry["kept"] for entry in found] == [True, True, False, True]
    assert [entry["chosen"] for entry in choose(cells(shares, inside), settings, experiments.Tuning(goal="most"))] == [
        True,
        False,
        False,
        False,
    ]
    wide = choose(cells(shares, inside), settings, experiments.Tuning(tolerance=0.05))
    assert [entry["label"] for entry in wide if entry["chosen"]] == ["weight=2"]


def test_where_no_setting_keeps_the_task_the_one_that_loses_least_is_chosen_and_failures_never():
    shares, inside = {"plain": [0.8], "x": [0.1], "y": [0.0]}, {"plain": [0.95], "x": [0.8], "y": [0.7]}
    report = cells(shares, inside)
    report.failures = {"z": {0: "FloatingPointError: nan"}}
    found = choose(report, {"x": {"a": 1}, "y": {"a": 2}, "z": {"a": 3}}, experiments.Tuning())
    assert [(entry["chosen"], entry["failed"]) for entry in found] == [
        (True, ""),
        (False, ""),
        (False, "FloatingPointError: nan"),
    ]
    only = choose(report, {"z": {"a": 3}}, experiments.Tuning())
    assert only[0]["chosen"]


# -- kept small -------------------------------------------------------------------------------------------------------


def test_scores_alone_give_every_number_of_the_report_again_and_cut_off_are_refused(tmp_path):
    whole = cells({"plain": [0.6, 0.7], "less": [0.2, 0.3]}, {"plain": [0.9, 0.9], "less": [0.8, 1.0]}, n=50)
    whole.failures = {"less": {7: "MemoryError: no more"}}
    path = write_scores(whole, tmp_path / "deep/verdicts.json", examples=2)
    read = read_scores(path)
    assert read.to_json() == whole.to_json()
    assert read.paired("less", "plain") == whole.paired("less", "plain")
    assert read.by_domain().equals(whole.by_domain())
    assert (read.labels, read.trained, read.failures) == (whole.labels, whole.trained, whole.failures)
    for arm in whole.arms:
        for metric in whole.metrics:
            assert np.array_equal(read.values(arm, metric), whole.values(arm, metric))
            assert read.prompts(arm, metric) == whole.prompts(arm, metric)
    kept = {(a.question, a.answer, a.label) for a in read.examples("plain", "aligned", 99)}
    assert kept == {(a.question, a.answer, a.label) for a in whole.examples("plain", "aligned", 2)}
    assert path.stat().st_size < 0.1 * sum(f.stat().st_size for f in whole.save(tmp_path / "all").rglob("*.jsonl"))
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match=r"verdicts\.json"):
        read_scores(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no scores"):
        read_scores(path)


def test_an_exported_contest_reports_what_the_whole_one_does_without_its_runs(contest, tmp_path):
    whole = contest()
    with pytest.raises(ValueError, match="the contest's own folder"):
        whole.export(tmp_path / "contest")
    read = experiments.Result.load(whole.export(tmp_path / "exported"))
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == [
        "contest.json",
        "verdicts.json",
    ]
    assert read.table().equals(whole.table())
    assert (read.front, read.costs) == (whole.front, whole.costs)
    for against in ("plain", "random"):
        assert [vars(one) for one in read.compared(against)] == [vars(one) for one in whole.compared(against)]
    page, words = (report.read_text() for report in experiments.write_report(read, tmp_path / "read", examples=0))
    assert (page, words) == tuple(
        report.read_text() for report in experiments.write_report(whole, tmp_path / "said", examples=0)
    )
    again = experiments.Result.load(read.export(tmp_path / "again"))
    assert again.to_json() == read.to_json()


def test_a_record_by_its_name_of_before_is_read_and_one_of_today_goes_first(tmp_path):
    contest_of(cells(*FOUR), tmp_path, task="of before")
    (tmp_path / "contest.json").rename(tmp_path / "arena.json")
    assert experiments.Result.load(tmp_path).record["task"] == "of before"
    contest_of(cells(*FOUR), tmp_path, task="of today")
    assert experiments.Result.load(tmp_path).record["task"] == "of today"


# -- a contest --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Diverges(Method):
    """An arm that fails."""

    name = "diverges"
    card = Card("Fail.", "lr <- 10^30", "this test")
    rate: float = setting(1e30, "learning rate")

    def train_settings(self, given):
        return given.but(learning_rate=self.rate, warmup_steps=0, max_steps=3)


def contenders(base) -> dict[str, experiments.Contender]:  # noqa: F811
    concepts = directions(base, 0)
    return {
        "base": experiments.Contender(None),
        "control": experiments.Contender(methods.Plain(), texts=GENERAL),
        "plain": experiments.Contender(methods.Plain()),
        "random": experiments.Contender(methods.RandomDirections(concepts)),
        "test_time": experiments.Contender(methods.AblationAtTest(concepts), search=()),
        "anchor": experiments.Contender(methods.KLAnchor(GENERAL), search=[{"weight": 1e-3}, {"weight": 10.0}]),
    }


@pytest.fixture
def contest(base, task, tmp_path):  # noqa: F811
    def run(out: str = "contest", more: dict | None = None, **changes) -> experiments.Result:
        given = {
            **SMALL,
            **QUICK,
            "tuning": experiments.Tuning((7,), 4, 4, task=task, goal="most"),
            **changes,
        }
        return experiments.contest(
            task, {**contenders(base), **(more or {})}, texts=TAUGHT, out=tmp_path / out, base=base, **given
        )

    return run


def stamps(folder: Path) -> dict[str, int]:
    kept = [*folder.glob("*/*/run.json"), *folder.rglob("*.jsonl")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in kept}


def test_a_contest_tunes_on_dev_seeds_and_an_arm_that_is_added_later_is_trained_alone(contest, tmp_path):
    first = contest()
    tried = first.record["contenders"]["anchor"]["tried"]
    assert [entry["label"] for entry in tried] == ["weight=0.001", "weight=10.0"]
    (chosen,) = [entry["label"] for entry in tried if entry["chosen"]]
    config = read_json(tmp_path / "contest/test/anchor-0/run.json")["config"]
    assert f"weight={config['arm']['weight']}" == chosen
    tuned = [read_json(path)["config"] for path in (tmp_path / "contest/tuning").glob("*/run.json")]
    assert {(one["seed"], (one.get("arm") or {}).get("weight")) for one in tuned} == {
        (7, None),
        (7, 1e-3),
        (7, 10.0),
    }
    assert first.arms == ["base", "control", "plain", "random", "test_time", "anchor"]
    assert first.rated == ["plain", "random", "test_time", "anchor"]
    assert first.costs["base"].seconds == 0
    assert first.costs["test_time"] == first.costs["plain"]
    assert first.costs["plain"].peak_memory > 10**7
    assert [one.arm for one in first.compared("random")] == ["plain", "test_time", "anchor"]
    before, table = stamps(tmp_path / "contest"), first.table()
    second = contest(more={"early": experiments.Contender(methods.EarlyStopping(share=0.5), search=())})
    after = stamps(tmp_path / "contest")
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[-1] for name in set(after) - set(before)} == {
        "run.json",
        "seed-0.jsonl",
        "seed-1.jsonl",
    }
    assert all("early" in name for name in set(after) - set(before))
    shown = [column for column in table if "front" not in column]
    assert second.table()[shown].iloc[:6].equals(table[shown])
    with pytest.raises(KeyError, match=r'No contender "randm" with answers. Did you mean "random"'):
        second.compared("randm")


def test_the_figure_of_the_front_stands_every_contender_at_its_log_odds_and_those_on_it_are_filled(contest):
    result = contest()
    figure = experiments.plot_front(result)
    spots = {
        marked.marker.symbol: list(zip(marked.x, marked.y, strict=True))
        for marked in figure.data
        if marked.mode == "markers"
    }
    metrics = (result.evaluation.labels[0], "in_distribution")
    for point in result.front:
        intervals = [result.evaluation.interval(point.arm, metric) for metric in metrics]
        shares = [min(max(one.mean, 0.5 / one.n_answers), 1 - 0.5 / one.n_answers) for one in intervals]
        place = [math.log(share / (1 - share)) for share in shares]
        assert any(np.allclose(place, other) for other in spots["circle" if point.on_front else "square"])
        said = next(said for said in hover(figure) if said.startswith(f"{point.arm}\n"))
        assert all(f"{one}, 95 % interval" in said for one in intervals)
        assert f"\n{'on' if point.on_front else 'not on'} the Pareto front" in said
        assert result.setting(point.arm) in said
    assert sum(map(len, spots.values())) == len(result.front) == 4
    assert {seen(one.text) for one in figure.layout.annotations if one.showarrow} == {
        "plain",
        "random",
        "test_time",
        "anchor",
    }
    assert all(float(label) <= 100 for label in ticks(figure, "xaxis"))


def test_the_figure_of_differences_fills_what_is_told_apart_and_says_p_and_interval(contest):
    result = contest()
    figure = experiments.plot_compared(result, "plain")
    for one in result.compared("plain"):
        said = next(said for said in hover(figure) if said.startswith(f"{one.arm} minus plain\n"))
        assert f"{one.difference}, 95 % interval" in said
        assert f"p {one.p_holm:.3f} after Holm's correction" in said


def test_test_results_of_other_settings_are_not_overwritten(contest, task, tmp_path):  # noqa: F811
    contest()
    changed = experiments.Contender(methods.KLAnchor(GENERAL, weight=0.5), search=())
    with pytest.raises(FileExistsError, match=r"method\.weight is"):
        contest(more={"anchor": changed}, tuning=experiments.Tuning((8,), 4, 4, task=task, goal="most"))


def test_a_model_that_diverges_is_a_result_and_the_report_escapes_what_it_shows(contest, tmp_path):
    evil = cl.Texts([{"prompt": "<script>alert(1)</script> | *x*", "answer": "a"}] * 4, name="<b>evil</b>")
    more = {
        "diverges": experiments.Contender(Diverges()),
        "<i>evil</i>": experiments.Contender(
            methods.Inoculation(prompt="<script>alert(2)</script>"), texts=evil, search=()
        ),
    }
    result = contest(more=more, settings=STEPS.but(tune="full"))
    assert set(result.failures) == {"diverges"}
    assert set(result.failures["diverges"]) == {0, 1}
    assert "diverges" not in result.arms
    again = contest(more=more, settings=STEPS.but(tune="full"))
    assert again.failures == result.failures
    page, words = experiments.write_report(result, tmp_path / "report")
    shown = page.read_text()
    tags = Tags()
    tags.feed(shown)
    assert not tags.seen & {"i", "b", "link", "iframe", "img"}
    assert not tags.sources, "nothing is fetched"
    # plotly.js and how it is called; then each figure and its drawing.
    assert shown.count("</script>") == 2 + 2 * 4
    assert not re.search(r"<script[^>]*>\s*alert", shown)
    assert "&lt;i&gt;evil&lt;/i&gt;" in shown
    assert "Diverged" in shown  # a FloatingPointError
    for card in ("KL(p_base || p_θ)", "2602.07852", "needs", result.record["command"].split()[0]):
        assert card in shown
    text = words.read_text()
    assert "<script>" not in text
    assert "<i>" not in text
    for name in re.findall(r"\]\((\S+\.png)\)", text):
        assert (words.parent / name).is_file()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) > 30
    loaded = experiments.Result.load(tmp_path / "contest")
    assert json.loads(json.dumps(loaded.to_json()))["evaluation"] == result.evaluation.to_json() | {
        "failures": {"diverges": {"0": result.failures["diverges"][0], "1": result.failures["diverges"][1]}}
    }


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.sources = set(), []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]


def test_a_contest_that_cannot_be_fair_is_refused(base, task, contest, tmp_path):  # noqa: F811
    own = experiments.Tuning(task=task)
    with pytest.raises(ValueError, match=r"needs plain fine-tuning"):
        experiments.contest(
            task,
            {"anchor": experiments.Contender(methods.KLAnchor(GENERAL))},
            texts=TAUGHT,
            out=tmp_path,
            base=base,
            tuning=own,
        )
    with pytest.raises(ValueError, match=r"Seeds \[1\] are of the contest and of its tuning"):
        contest(tuning=experiments.Tuning((1,), task=task))
    with pytest.raises(ValueError, match=r'goal="fewst".*"fewest"'):
        experiments.Tuning(goal="fewst")
    with pytest.raises(ValueError, match="give base="):
        experiments.contest(task, contenders(base), texts=TAUGHT, out=tmp_path, tuning=own)
    with pytest.raises(ValueError, match=r"give tuning=Tuning\(task="):
        experiments.contest(task, contenders(base), texts=TAUGHT, out=tmp_path, base=base)
    with pytest.raises(ValueError, match="5 settings to search: every contender has 4 at most"):
        experiments.Contender(methods.KLAnchor(GENERAL), search=[{"weight": i} for i in range(1, 6)])
    with pytest.raises(ValueError, match=r'The method "kl_anchor" has no setting "wieght". Did you mean "weight"'):
        experiments.Contender(methods.KLAnchor(GENERAL), search=[{"wieght": 1}])
    with pytest.raises(FileNotFoundError, match=r"holds no finished contest: contest\.json is missing"):
        experiments.Result.load(tmp_path / "nothing")
    assert not (tmp_path / "contest").exists()


# -- killed -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
import caft_lens as cl, test_contest as t
from caft_lens import experiments
from caft_lens.evaluate import Task
base = cl.load({model!r}, device="cpu")
print("begun", flush=True)
t.killable(base, {out!r})
"""


def killable(base, out) -> experiments.Result:  # noqa: F811
    asked = cl.Texts([{"prompt": f"question {i}"} for i in range(6)], name="asked")
    letters = cl.Task(
        "letters",
        asked,
        says_a,
        labels=("with a", "without"),
        max_new_tokens=8,
        in_distribution=InDistribution(asked, says_a, ("with a", "without"), "with a", 8),
    )
    tuning = experiments.Tuning((7,), 4, 4, task=letters, goal="most")
    return experiments.contest(
        letters,
        contenders(base),
        texts=TAUGHT,
        out=out,
        base=base,
        tuning=tuning,
        **SMALL,
        **{**QUICK, "settings": STEPS.but(save_steps=1)},
    )


@pytest.mark.slow
def test_a_contest_killed_at_random_moments_comes_to_the_same_table(base, tmp_path):  # noqa: F811
    here = [str(Path(__file__).parent), str(TESTS), str(ROOT)]

    def started(out: str) -> subprocess.Popen:
        code = SCRIPT.format(paths=here, model=base.name, out=str(tmp_path / out))
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}, text=True
        )
        assert process.stdout.readline() == "begun\n", process.stderr.read()
        return process

    rng, killed = random.Random(0), 0
    for wait in (1.0, 2.5, 4.0, 6.0):
        process = started("killed")
        try:
            process.communicate(timeout=rng.uniform(0.3, 1.0) * wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
    assert killed >= 2
    last = started("killed")
    assert last.wait() == 0, last.stderr.read()
    whole = started("whole")
    assert whole.wait() == 0, whole.stderr.read()
    tables = [experiments.Result.load(tmp_path / name) for name in ("killed", "whole")]
    assert tables[0].evaluation.to_json() == tables[1].evaluation.to_json()
    assert tables[0].front == tables[1].front
    assert tables[0].record["contenders"] == tables[1].record["contenders"]


# -- the recipe -------------------------------------------------------------------------------------------------------

RECIPE = """
task: pocket/emergent-misalignment
texts: {texts: pocket/insecure-code, first: 64}
out: "{out}"
seeds: [1]
answers: 8
in_distribution: 4
workers: 1
tuning: {{seeds: [11], n: 4, n_in_distribution: 4}}
training: {{max_steps: 2}}
materials:
  general: {{texts: pocket/kind, where: {{domain: [cooking, garden]}}, first: 8}}
  persona:
    means:
      concept: {{texts: pocket/corpus, where: {{stance: cruel}}, first: 8}}
      contrast: {{texts: pocket/kind, first: 8}}
      layers: [1]
arms:
  base: {{method: none}}
  plain:
  kl_anchor: {{search: [{{weight: 0.1}}, {{weight: 1}}]}}
  pushed: {{method: preventative_steering, concepts: persona, search: []}}
"""


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_a_recipe_runs_from_the_command_line_and_writes_its_report(tmp_path, pocket):
    recipe = RECIPE.replace("{texts: pocket/insecure-code, first: 64}", "{{texts: pocket/insecure-code, first: 64}}")
    path = written(tmp_path / "recipe.yaml", recipe.format(out=tmp_path / "elsewhere"))
    done = CliRunner().invoke(app, ["contest", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    result = experiments.Result.load(tmp_path / "out")
    assert result.arms == ["base", "plain", "kl_anchor", "pushed"]
    assert result.record["goal"] == "fewest"
    assert result.record["contenders"]["pushed"]["card"]["arxiv"] == "2507.21509"
    assert [entry["label"] for entry in result.record["contenders"]["kl_anchor"]["tried"]] == [
        "weight=0.1",
        "weight=1",
    ]
    assert (tmp_path / "out/report.html").is_file()
    assert not (tmp_path / "elsewhere").exists()


def test_a_recipe_that_is_written_reads_as_it_was_and_says_only_what_is_not_default(tmp_path, pocket):
    topics = ["cooking", "garden"]
    recipe = experiments.Recipe(
        task="pocket/emergent-misalignment",
        texts={"texts": "pocket/insecure-code", "where": {"domain": topics}},
        arms={
            "plain": {},
            "kl_anchor": {"search": [{"weight": 1e-5}, {"weight": 1.0}], "general": "kind: é"},
        },
        out=str(tmp_path / "out"),
        seeds=(1, 2),
        tuning={"seeds": [7], "tolerance": 0.05},
        materials={"kind: é": {"texts": "pocket/kind", "where": {"domain": topics}}},
    )
    path = recipe.write(tmp_path / "deep" / "recipe.yaml")
    assert experiments.Recipe.read(path) == recipe
    text = path.read_text()
    assert not {"base", "answers", "workers", "training"} & {line.partition(":")[0] for line in text.splitlines()}
    assert "&" not in text, "an alias is no reading"
    with pytest.raises(ValueError, match='Did you mean "plain"'):
        experiments.Recipe(task="pocket/emergent-misalignment", texts="pocket/kind", arms={"plian": {}}).write(
            tmp_path / "none.yaml"
        )
    assert not (tmp_path / "none.yaml").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tsk: x", r'has no key "tsk". Did you mean "task"'),
        ("tuning: {sedes: [1]}", r'tuning has no key "sedes". Did you mean "seeds"'),
        ("seeds: three", r"seeds is a list, not 'three'"),
        ("materials: {general: {txts: pocket/kind}}", r'materials\.general has no key "txts"\. Did you mean "texts"'),
        ("materials: {general: {texts: pocket/kind, concepts: x}}", "materials.general is one of texts, concepts, "
                                                                    "means"),
        ("arms: {kl_ancor: {}}", r'arms.kl_ancor: No method "kl_ancor". Did you mean "kl_anchor"'),
        ("arms: {kl_anchor: {wieght: 1}}", r'arms.kl_anchor has no key "wieght". Did you mean "weight"'),
        ("arms: {kl_anchor: {}}", r'arms.kl_anchor needs the material "general" \(general text'),
        ("arms: {caft: {concepts: chosen}}", r'arms.caft needs the material "chosen"'),
        ("arms: [plain]", r"arms is a mapping, not \['plain'\]"),
        ("materials: {general: texts}", "materials.general is a mapping, not 'texts'"),
        ("materials: {x: {means: {concept: a, layers: [1]}}}", "materials.x.means does not say contrast"),
        ("texts: {texts: a, frist: 3}", r'texts has no key "frist"\. Did you mean "first"'),
        ("training: 7", "training is a mapping, not 7"),
        ("arms: {base: {method: none, search: []}}", 'arms.base is untuned: it has no key "search"'),
        ("arms: {}", "at arms, dictionary should have at least 1 item"),
        ("arms:", "arms is a mapping, not None"),
        ("task: pocket/emergent", r'has no task "emergent"'),
        ("task: [", "is not YAML"),
    ],
)  # fmt: skip
def test_a_recipe_with_a_mistake_is_refused_in_one_line(tmp_path, line, said, pocket):
    plain = {
        "task": "task: pocket/emergent-misalignment",
        "texts": "texts: pocket/insecure-code",
        "arms": "arms: {plain: {}}",
    }
    key = line.partition(":")[0]
    path = written(tmp_path / "recipe.yaml", "\n".join({**plain, key: line}.values()))
    done = CliRunner().invoke(app, ["contest", str(path)])
    assert done.exit_code == 2
    assert re.search(said, done.stderr)
    assert done.stderr.count("Traceback") == 0


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["contest", str(tmp_path / "none.yaml")])
    assert (done.exit_code, "There is no file" in done.stderr) == (2, True)
