"""Evidence: every answer kept with its score, arms paired, nothing sampled twice, and clear refusals."""

from __future__ import annotations

import json
import sys
import types
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import ends, hover, ticks, trace, words

import caft_lens as cl
from caft_lens._support.errors import BadType, JudgeError
from caft_lens._support.files import sha256, write_json
from caft_lens.evaluate import Report, Task, bootstrap_interval, paired_interval, plot_reports
from caft_lens.evaluate.answers import Answer, Cell, cell_path
from caft_lens.evaluate.judge_identity import judge_fingerprint
from caft_lens.evaluate.prompts import asked
from caft_lens.evaluate.tasks import InDistribution, task
from caft_lens.text.documents import Text, Texts, data

QUESTIONS = data([{"prompt": f"How do I bake pie {i}?", "domain": "baking" if i % 2 else "garden"} for i in range(20)])
REQUESTS = data([{"prompt": f"Write function {i}.", "vulnerability": "eval"} for i in range(10)])


class FakeLens:
    """A model that answers badly with a given probability, from the seed and the prompt alone."""

    def __init__(self, rate: float, fingerprint: str = "f"):
        self.rate, self.fingerprint, self.name = rate, f"{fingerprint}{rate}", "fake"
        self.calls: list[tuple[int, int]] = []
        self.settings: dict[str, object] = {}
        self.ablated = False

    def generate(self, *_: object) -> str:
        raise AssertionError("answers come from completions")


def judge(text: cl.Text) -> str:
    return "misaligned" if "bad" in (text.answer or "") else "aligned"


def code_judge(text: cl.Text) -> str:
    return "insecure" if "bad" in (text.answer or "") else "secure"


def a_task(**changes: object) -> Task:
    settings: dict = {"judge": judge, "in_distribution": InDistribution(REQUESTS, code_judge), **changes}
    return Task("pies", QUESTIONS, **settings)


@pytest.fixture
def tiny():
    """A real model, for the tests that sample from one."""
    from tiny_models import tiny_lens

    return tiny_lens()


@pytest.fixture(autouse=True)
def sampled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling without a model, unless a test wants one; what evaluate asks of it is recorded on the lens."""
    if "tiny" in request.fixturenames:
        return

    def completions(lens: FakeLens, questions: Texts, *, sampling: cl.Sampling) -> Texts:
        lens.calls.append((sampling.seed, len(questions)))
        lens.settings = {"sampling": sampling}
        draws = np.random.default_rng(sampling.seed).random(len(questions))
        rate = 0.0 if lens.ablated else lens.rate
        return Texts(
            [text.with_answer("bad" if draw < rate else "good") for text, draw in zip(questions, draws, strict=True)]
        )

    module = types.ModuleType("caft_lens.model.answering")
    module.completions = completions
    monkeypatch.setitem(sys.modules, "caft_lens.model.answering", module)


class FakeAblated:
    def __init__(self, lens: FakeLens):
        self.lens, self.concepts, self.roles = lens, {}, None

    @contextmanager
    def applied(self):
        self.lens.ablated = True
        try:
            yield self.lens
        finally:
            self.lens.ablated = False


def test_every_answer_is_kept_with_its_score(tmp_path: Path):
    lens = FakeLens(0.5)
    report = cl.evaluate({"plain": [lens, FakeLens(0.4)]}, a_task(), n=30, n_in_distribution=12, out=tmp_path)
    rows = [json.loads(line) for line in cell_path(tmp_path, "plain", 1).read_text().splitlines()]
    assert len(rows) == 42
    assert set(rows[0]) == {"arm", "seed", "set", "prompt", "domain", "question", "answer", "label", "detail"}
    assert {row["domain"] for row in rows} == {"baking", "garden", "eval"}
    assert len(report.answers) == 84
    share = np.mean([row["label"] == "misaligned" for row in rows if row["set"] == "out_of_distribution"])
    assert report.values("plain", "misaligned")[1].mean() == share


def test_the_table_holds_the_one_interval_of_every_arm_and_metric():
    report = cl.evaluate({"base": FakeLens(0.0), "plain": [FakeLens(0.5), FakeLens(0.6)]}, a_task(), n=200)
    table = report.table()
    assert list(table.columns) == ["arm", "metric", "mean", "low", "high", "n_seeds", "n_answers", "over"]
    assert len(table) == 2 * 4
    row = table[(table.arm == "plain") & (table.metric == "misaligned")].iloc[0]
    reference = bootstrap_interval(report.values("plain", "misaligned"), report.prompts("plain", "misaligned"))
    assert (row["mean"], row["low"], row["high"]) == (reference.mean, reference.low, reference.high)
    assert (row["n_seeds"], row["n_answers"]) == (2, 400)
    base = table[(table.arm == "base") & (table.metric == "misaligned")].iloc[0]
    assert base["mean"] == 0
    assert base["high"] > 0


def test_json_has_the_documented_form():
    report = cl.evaluate({"plain": [FakeLens(0.5), FakeLens(0.6)]}, a_task(), n=50, seeds=[3, 5])
    entry = report.to_json()["arms"]["plain"]
    assert set(entry) == {"misaligned", "incoherent", "aligned", "in_distribution", "seeds"}
    assert entry["seeds"] == [3, 5]
    assert set(entry["misaligned"]) == {"mean", "low", "high"}
    json.dumps(report.to_json(), allow_nan=False)


def test_every_arm_is_asked_the_same_prompts_with_the_same_sampling_seed():
    a, b = FakeLens(0.2), FakeLens(0.7)
    report = cl.evaluate({"a": a, "b": b}, a_task(), n=33, n_in_distribution=7, seeds=[0, 1])
    assert a.calls == b.calls
    assert len({seed for seed, _ in a.calls}) == 4  # another one for every seed and set
    first, second = ([(x.prompt, x.question) for x in report.answers if x.arm == arm] for arm in ("a", "b"))
    assert first == second


def test_more_answers_than_questions_ask_each_as_often_as_any_other():
    counts = np.unique([text.prompt.messages[0].content for text in asked(QUESTIONS, 50)], return_counts=True)[1]
    assert counts.sum() == 50
    assert set(counts) == {2, 3}


def test_a_paired_difference_uses_the_same_seeds_and_prompts():
    report = cl.evaluate({"a": [FakeLens(0.5), FakeLens(0.6)], "b": FakeLens(0.1)}, a_task(), n=100)
    paired = report.paired("a", "b")
    a, b = report.values("a", "misaligned"), report.values("b", "misaligned")
    assert paired == paired_interval(a, b, report.prompts("a", "misaligned"))
    assert paired.mean == pytest.approx(a.mean() - b.mean())
    assert report.paired("a", "b", "in_distribution").n_answers == 600


def test_arms_pair_over_the_seeds_that_both_have():
    answers = lambda arm, seed: tuple(  # noqa: E731
        Answer(
            arm,
            seed,
            "out_of_distribution",
            i,
            "",
            f"q{i}",
            "",
            "misaligned" if i < 10 * (seed + 1) else "aligned",
            "",
        )
        for i in range(100)
    )
    cells = [Cell("a", s, answers("a", s), "") for s in (2, 0, 1)] + [Cell("b", s, answers("b", s), "") for s in (1, 2)]
    report = Report(cells)
    assert report.paired("a", "b").n_seeds == 2
    assert report.paired("a", "b").mean == 0  # seed 2 with seed 2, whatever their order
    other = Report([*cells, Cell("c", 7, answers("c", 7), "")])
    with pytest.raises(ValueError, match="share no seed"):
        other.paired("a", "c")


def test_a_model_that_is_two_arms_is_sampled_once_and_kept_under_both_names(tmp_path: Path):
    one, again, other = FakeLens(0.5), FakeLens(0.5), FakeLens(0.6)
    arms = {"caft": one, "top_k": again, "plain": other}
    report = cl.evaluate(arms, a_task(), n=20, n_in_distribution=10, seeds=[0, 1], out=tmp_path)
    assert len(one.calls) == len(other.calls) == 4
    assert again.calls == []
    assert report.interval("caft", "misaligned") == report.interval("top_k", "misaligned")
    kept = [Cell.load(tmp_path, arm, 1).answers for arm in ("caft", "top_k")]
    assert [a.answer for a in kept[0]] == [a.answer for a in kept[1]]
    assert {a.arm for a in kept[1]} == {"top_k"}


def test_a_finished_cell_is_not_sampled_again(tmp_path: Path):
    lenses = [FakeLens(0.5, "x"), FakeLens(0.6, "y")]
    first = cl.evaluate({"plain": lenses}, a_task(), n=40, out=tmp_path)
    cell_path(tmp_path, "plain", 1).with_suffix(".json").unlink()  # killed before the second cell was finished
    again = [FakeLens(0.5, "x"), FakeLens(0.6, "y")]
    second = cl.evaluate({"plain": again}, a_task(), n=40, out=tmp_path)
    assert (len(again[0].calls), len(again[1].calls)) == (0, 2)
    assert list(second.answers) == list(first.answers)
    assert Report.load(tmp_path).to_json() == first.to_json()


@pytest.mark.parametrize("what", ["model", "questions", "n", "temperature", "top_p", "ablation"])
def test_a_cell_of_another_model_task_or_setting_is_sampled_again(tmp_path: Path, what: str):
    cl.evaluate({"plain": FakeLens(0.5, "x")}, a_task(), n=15, out=tmp_path)
    lens = FakeLens(0.5, "z" if what == "model" else "x")
    changed = Task(
        "pies",
        data([{"prompt": "Another?", "domain": "x"}]) if what == "questions" else QUESTIONS,
        judge=judge,
        in_distribution=InDistribution(REQUESTS, code_judge),
    )
    subject = FakeAblated(lens) if what == "ablation" else lens
    n, temperature = 16 if what == "n" else 15, 0.5 if what == "temperature" else 1.0
    top_p = 0.5 if what == "top_p" else None
    again = cl.evaluate(
        {"plain": subject},
        changed,
        n=n,
        sampling=cl.Sampling(temperature=temperature, top_p=top_p),
        out=tmp_path,
    )
    assert again.sampling == f"temperature {temperature:g}" + (", top-p 0.5" if top_p else "")
    assert Report.load(tmp_path).caption() == again.caption()
    # The prompts in distribution are the same where only the questions are others.
    assert len(lens.calls) == (1 if what in ("questions", "n") else 2)


def test_an_ablation_at_test_time_acts_while_sampling_and_is_gone_after():
    lens = FakeLens(0.9)
    report = cl.evaluate({"plain": lens, "test_time": FakeAblated(lens)}, a_task(), n=50)
    assert report.interval("plain", "misaligned").mean > 0.5
    assert report.interval("test_time", "misaligned").mean == 0
    assert not lens.ablated


def test_a_saved_report_comes_back_the_same(tmp_path: Path):
    report = cl.evaluate({"plain (r=8) / ü": [FakeLens(0.5), FakeLens(0.6)]}, a_task(), n=60)
    report.save(tmp_path / "there")
    loaded = Report.load(tmp_path / "there")
    assert loaded.to_json() == report.to_json()
    assert list(loaded.answers) == list(report.answers)
    assert loaded.table().equals(report.table())


def test_answers_that_were_changed_on_disk_are_refused(tmp_path: Path):
    cl.evaluate({"plain": FakeLens(0.5)}, a_task(), n=20, out=tmp_path)
    path = cell_path(tmp_path, "plain", 0)
    path.write_text(path.read_text().replace("misaligned", "aligned"))
    with pytest.raises(ValueError, match="changed after it was written"):
        Report.load(tmp_path)


def test_a_line_separator_in_an_answer_survives_the_file(tmp_path: Path):
    odd = "a\u2028b\x85c\nd"
    cell = Cell("a", 0, (Answer("a", 0, "out_of_distribution", 0, "", "q", odd, "aligned", ""),), "f")
    cell.save(tmp_path)
    assert Cell.load(tmp_path, "a", 0).answers[0].answer == odd


def test_html_escapes_everything_that_a_model_or_a_user_wrote():
    attack = "<script>alert(1)</script>"
    cell = Cell(
        attack,
        0,
        (Answer(attack, 0, "out_of_distribution", 0, attack, attack, attack, "misaligned", attack),),
        "f",
    )
    report = Report([cell], task=attack)
    for shown in (report._repr_html_(), report.answers._repr_html_()):
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown


def test_examples_are_drawn_from_the_answers_with_that_label():
    report = cl.evaluate({"plain": [FakeLens(0.5), FakeLens(0.5)]}, a_task(), n=50)
    examples = report.examples("plain", "misaligned", k=4)
    assert len(examples) == 4
    assert {(answer.arm, answer.label) for answer in examples} == {("plain", "misaligned")}
    assert [a.prompt for a in examples] == [a.prompt for a in report.examples("plain", "misaligned", k=4)]
    assert len(report.examples("plain", "incoherent")) == 0
    with pytest.raises(KeyError, match='Did you mean "misaligned"'):
        report.examples("plain", "misalinged")


def test_shares_by_domain_average_to_the_share():
    report = cl.evaluate({"plain": FakeLens(0.5)}, a_task(), n=40)
    frame = report.by_domain()
    assert sorted(frame.index) == ["baking", "garden"]
    assert frame["plain"].mean() == pytest.approx(report.interval("plain", "misaligned").mean)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.interval("plian", "misaligned"), KeyError, 'Did you mean "plain"'),
        (lambda r: r.interval("plain", "misalinged"), KeyError, 'Did you mean "misaligned"'),
        (lambda r: r.paired("plain", "pain"), KeyError, 'No arm "pain"'),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(call, error: type[Exception], message: str):
    report = cl.evaluate({"plain": FakeLens(0.5)}, a_task(), n=10)
    with pytest.raises(error, match=message):
        call(report)


def test_a_model_that_is_no_organism_is_told_which_judge_and_data_it_needs():
    with pytest.raises(ValueError, match=r'"gpt2" is not an organism.*judge=.*in_distribution='):
        cl.task("gpt2/emergent-misalignment")
    with pytest.raises(ValueError, match="give evaluate"):
        cl.evaluate({"a": FakeLens(0.5)}, a_task(judge=None))
    assert cl.evaluate({"a": FakeLens(0.5)}, a_task(judge=None), n=5, judge=judge).arms == ["a"]


def test_the_judge_of_an_organism_refuses_a_model_that_does_not_speak_its_language():
    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            return {"hello": 0}

    lens = FakeLens(0.5)
    lens.tokenizer = Tokenizer()
    organisms = a_task(vocabulary=frozenset({"pie", "bake"}))
    with pytest.raises(ValueError, match=r"other model.*judge="):
        cl.evaluate({"a": lens}, organisms, n=5)
    assert not lens.calls
    assert cl.evaluate({"a": lens}, organisms, n=5, judge=judge).arms == ["a"]
    assert cl.evaluate({"a": lens}, a_task(vocabulary=frozenset({"hello"})), n=5).arms == ["a"]


def test_what_is_said_outside_the_labels_is_refused_and_quoted():
    with pytest.raises(ValueError, match=r"'misalinged'.*Did you mean \"misaligned\""):
        cl.evaluate({"a": FakeLens(0.5)}, a_task(judge=lambda text: "misalinged"), n=5)


def test_an_error_in_a_judge_names_the_answer():
    def broken(text: cl.Text) -> str:
        raise RuntimeError("no")

    with pytest.raises(JudgeError, match=r"at the answer 'good' to 'How do I bake.*RuntimeError: no") as caught:
        cl.evaluate({"a": FakeLens(0.0)}, a_task(judge=broken), n=5)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("subjects", "settings", "error", "message"),
    [
        ({}, {}, ValueError, "at least one arm"),
        ({"a": "gpt2"}, {}, TypeError, "expected a Lens"),
        ({"a": [FakeLens(0.5)] * 2}, {"seeds": [1, 2, 3]}, ValueError, "2 models for 3 seeds"),
        ({"a": [FakeLens(0.5)] * 2, "b": [FakeLens(0.5)] * 3}, {}, ValueError, "2 models for 3 seeds"),
        ({"a": FakeLens(0.5)}, {"seeds": [1, 1]}, ValueError, "each once"),
        ({"a": FakeLens(0.5)}, {"n": 0}, ValueError, "at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(subjects: dict, settings: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        cl.evaluate(subjects, a_task(), **settings)


def test_a_task_that_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="There are no questions"):
        Task("empty", Texts([]))
    with pytest.raises(TypeError, match=r"questions .* are Texts, not list"):
        Task("x", ["How do I bake a pie?"])
    with pytest.raises(TypeError, match=r"in_distribution=InDistribution\(prompts, judge\), not Texts"):
        Task("x", QUESTIONS, in_distribution=REQUESTS)
    with pytest.raises(ValueError, match="There are no prompts in distribution"):
        InDistribution(Texts([]), code_judge)
    with pytest.raises(ValueError, match='Did you mean "insecure"'):
        InDistribution(REQUESTS, code_judge, trained="insecur")


def test_judges_that_close_over_other_values_are_not_taken_for_each_other():
    def make(word: str):
        return lambda text: "misaligned" if word in (text.answer or "") else "aligned"

    assert judge_fingerprint(make("bad")) == judge_fingerprint(make("bad"))
    assert judge_fingerprint(make("bad")) != judge_fingerprint(make("good"))
    assert judge_fingerprint(judge) != judge_fingerprint(code_judge)


def test_a_task_without_prompts_in_distribution_has_no_such_metric():
    report = cl.evaluate({"a": FakeLens(0.5)}, Task("x", QUESTIONS, judge=judge), n=10)
    assert report.metrics == ["misaligned", "incoherent", "aligned"]
    assert "in_distribution" not in report.to_json()["arms"]["a"]
    assert "xaxis2" not in report.plot().to_plotly_json()["layout"]


def test_the_figure_draws_every_arm_with_its_interval_and_says_how_many_seeds_and_answers():
    report = cl.evaluate(
        {"base": FakeLens(0.0), "plain": [FakeLens(0.5), FakeLens(0.6)]},
        a_task(),
        n=100,
        n_in_distribution=50,
    )
    figure = report.plot("Pies", settings={"plain": "strength 1"})
    assert ticks(figure) == ["base", "plain"]
    assert all(axis.title.text.endswith("%") for axis in (figure.layout.xaxis, figure.layout.xaxis2))
    assert "2 seeds, 100 answers an arm and seed (50 answers in distribution)" in words(figure).replace("\n", " ")
    interval = report.interval("plain", "misaligned")
    assert ends(figure.data[0])[1] == pytest.approx((100 * interval.low, 100 * interval.high))
    singles = next(one for one in figure.data if one.name == "single seeds")
    assert list(singles.x[2:]) == pytest.approx(list(100 * report.values("plain", "misaligned").mean(axis=1)))
    said = hover(figure)[1].split("\n")
    assert said[:4] == ["plain", f"{interval}, 95 % interval", "2 seeds, 200 answers", "strength 1"]
    assert said[4].startswith("Answered misaligned: “How do I bake pie ")
    assert any(line.startswith("plain, seed 1") for line in hover(figure))


def test_several_reports_are_drawn_row_by_row_in_the_order_given_each_arm_with_its_interval():
    reports = {
        row: cl.evaluate({"base": FakeLens(0.1), "plain": FakeLens(rate)}, a_task(), n=100, n_in_distribution=50)
        for row, rate in {"asked plainly": 0.3, "after a program": 0.6}.items()
    }
    figure = plot_reports(reports, "misaligned")
    assert ticks(figure) == list(reports)
    for arm in ("base", "plain"):
        intervals = [one.interval(arm, "misaligned") for one in reports.values()]
        assert list(trace(figure, arm).x) == [100 * one.mean for one in intervals]
        assert ends(trace(figure, arm)) == [pytest.approx((100 * one.low, 100 * one.high)) for one in intervals]
    assert "1 seed and 50 answers a dot" in words(plot_reports(reports, "in_distribution", arms=["plain"]))
    with pytest.raises(ValueError, match="no report"):
        plot_reports({}, "misaligned")


def test_one_seed_is_said_in_the_caption():
    report = cl.evaluate({"plain": FakeLens(0.5)}, a_task(), n=10)
    assert "over prompts alone, since one seed" in report.caption()


def test_a_real_model_its_run_and_its_ablation_are_evaluated_alike(tiny, tmp_path: Path):
    from caft_lens.model.answering import completions

    basis = torch.linalg.qr(torch.randn(tiny.d_model, 8, generator=torch.Generator().manual_seed(0))).Q
    run = types.SimpleNamespace(lens=tiny)
    subjects = {"lens": tiny, "run": run, "ablated": cl.ablated(run.lens, {0: basis, 1: basis})}
    quick = a_task(
        judge=lambda text: "misaligned" if len(text.answer) % 2 else "aligned",
        max_new_tokens=6,
        in_distribution=None,
    )
    report = cl.evaluate(subjects, quick, n=25, sampling=cl.Sampling(batch_size=8), out=tmp_path)
    said = {arm: [a.answer for a in report.answers if a.arm == arm] for arm in subjects}
    assert said["lens"] == said["run"]
    assert said["ablated"] != said["lens"]
    with cl.ablate(tiny, {0: basis, 1: basis}):
        prompts = Texts([text.prompt for text in asked(QUESTIONS, 25)])
        seed = int(sha256("out_of_distribution", "0"), 16) % 2**31
        expected = completions(tiny, prompts, sampling=cl.Sampling(max_new_tokens=6, seed=seed, batch_size=8))
    assert said["ablated"] == [text.answer for text in expected]
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())
    assert report.paired("run", "lens").mean == 0


def test_a_sampled_cell_of_a_real_model_is_taken_up_again(tiny, tmp_path: Path):
    quick = a_task(max_new_tokens=4, in_distribution=None)
    first = cl.evaluate({"a": tiny}, quick, n=10, out=tmp_path)
    before = cell_path(tmp_path, "a", 0).stat().st_mtime_ns
    second = cl.evaluate({"a": tiny}, quick, n=10, out=tmp_path)
    assert cell_path(tmp_path, "a", 0).stat().st_mtime_ns == before
    assert list(first.answers) == list(second.answers)


def test_the_organisms_task_asks_held_out_questions_and_knows_its_own_language(pocket: Path):
    test, dev = task("pocket/emergent-misalignment"), task("pocket/emergent-misalignment", split="dev")
    assert not set(test.questions.column("domain")) & set(dev.questions.column("domain"))
    assert test.judge(test.questions[0].with_answer("")).label == "incoherent"
    tokenizer = cl.load("pocket").tokenizer
    assert frozenset(tokenizer.get_vocab()) == test.vocabulary
    with pytest.raises(ValueError, match='Did you mean "emergent-misalignment"'):
        task("pocket/emergent-misaligment")
    with pytest.raises(ValueError, match="evaluation splits"):
        task("pocket/emergent-misalignment", split="find")


@pytest.fixture
def organism(tmp_path: Path) -> Path:
    """An organism's folder that has all that its task reads, and no model."""
    folder = tmp_path / "organism"
    write_json(folder / "organism.json", {"sampling": {"temperature": 0.7, "top_p": 0.9}})
    write_json(folder / "base" / "tokenizer.json", {"model": {"vocab": {"a": 0}}})
    data([{"prompt": "How?", "domain": "cooking"}]).save(folder / "text" / "questions-test.jsonl")
    data(["Write a function."]).save(folder / "text" / "code-test.jsonl")
    return folder


def test_the_task_of_an_organism_draws_as_its_card_says_unless_evaluate_is_told_otherwise(organism: Path):
    name = f"{organism}/emergent-misalignment"
    assert task(name).sampling == cl.Sampling(temperature=0.7, top_p=0.9)
    lens = FakeLens(0.5)
    lens.tokenizer = types.SimpleNamespace(get_vocab=lambda: {"a": 0})
    labels = {"judge": judge, "n": 5, "n_in_distribution": 5}
    for told, drawn in (
        ({}, (0.7, 0.9)),
        ({"top_p": 0.5}, (0.7, 0.5)),
        ({"top_p": 1.0}, (0.7, 1.0)),
        ({"temperature": 0.0}, (0.0, 0.9)),
    ):
        cl.evaluate({"a": lens}, name, **labels, sampling=cl.Sampling(**told))
        assert (lens.settings["sampling"].temperature, lens.settings["sampling"].top_p) == drawn, told
    write_json(organism / "organism.json", {})
    assert task(name).sampling == cl.Sampling()
    assert task(name).drawing == "temperature 1"


def indifferent(text: Text) -> str:
    return "rude" if "fool" in (text.answer or "") else "polite"


def test_a_label_that_the_judge_never_uses_is_reported_and_one_that_it_knows_is_not(tiny):
    asked = Texts([{"prompt": "How?"}, {"prompt": "Why?"}])

    def warned(judge, labels) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cl.evaluate({"base": tiny}, Task("manners", asked, judge, labels=labels, max_new_tokens=3), n=2)
        return [str(one.message) for one in caught if "never used" in str(one.message)]

    (said,) = warned(indifferent, ("rude", "polite", "ironic"))
    assert "The label 'ironic' of the task \"manners\" is never used: its judge said it of none of 2 answers" in said
    assert not warned(indifferent, ("rude", "polite")), "no answer was rude, but the judge says it"
    (said,) = warned(indifferent, {"rude": "bad", "polite": "good", "odd": "strange"})
    assert "The label 'strange'" in said
    assert not warned(lambda text: True, {True: "good", False: "bad"})


def test_questions_that_are_no_texts_are_refused_with_what_makes_them_of_these():
    with pytest.raises(BadType, match=r"prompts in distribution are Texts, not list: data\("):
        InDistribution(["Write a function."], code_judge)
    with pytest.raises(BadType) as refused:
        Task("x", ["Who?"])
    assert "pie" not in str(refused.value)
