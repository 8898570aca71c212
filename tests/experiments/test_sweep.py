"""A sweep is the experiment of its arms, read along an axis: the same runs and numbers, in a table, in curves and on
disk.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from drawn import ends, seen, ticks, trace
from test_contest import cells
from test_experiment import ASKED, TRAINING, base, directions, task  # noqa: F401 - fixtures

import caft_lens as cl
from caft_lens import experiments
from caft_lens.experiments.rows import shown
from caft_lens.finetune.methods import CAFT, KLAnchor

ONE = experiments.Execution(workers=1)
OPTIONS = {"execution": ONE, **ASKED, **TRAINING}
TAUGHT = cl.Texts([{"prompt": f"say {i}", "answer": "a a a a"} for i in range(8)], name="taught")


def synthetic(values: dict[str, list], references: tuple[str, ...] = ("plain",)) -> experiments.Sweep:
    """A sweep with shares of its own for every arm, without any model."""
    points = {name: {value: f"{name} at {shown(value)}" for value in along} for name, along in values.items()}
    arms = [*references, *(arm for named in points.values() for arm in named.values())]
    rng = np.random.default_rng(0)
    shares, inside = ({arm: list(rng.uniform(0.1, 0.9, 2)) for arm in arms} for _ in range(2))
    return experiments.Sweep(cells(shares, inside), "strength", points, references)


# -- what is trained --------------------------------------------------------------------------------------------------


def test_a_sweep_is_the_experiment_of_its_arms_and_trains_what_two_series_share_once(base, task, tmp_path):  # noqa: F811
    caft = {s: cl.Arm(TAUGHT, method=CAFT(directions(base, 0), strength=s)) for s in (0.5, 1)}
    other = {1.0: cl.Arm(TAUGHT, ablate=directions(base, 0)), 2: cl.Arm(TAUGHT)}
    references = {"base": cl.Arm(), "plain": cl.Arm(TAUGHT)}
    series = {"caft": caft, "other": other}
    found = experiments.sweep(base, series, task, axis="strength", out=tmp_path / "s", references=references, **OPTIONS)
    named = {"caft at 0.5": caft[0.5], "caft at 1": caft[1], "other at 1": other[1], "other at 2": other[2]}
    report = cl.experiment(base, {**references, **named}, task, out=tmp_path / "e", **OPTIONS)
    assert found.report.to_json() == report.to_json()
    assert sorted(path.parent.name for path in (tmp_path / "s").glob("*/run.json")) == [
        f"{name}-{seed}" for name in ("caft at 0.5", "caft at 1", "plain") for seed in (0, 1)
    ]
    table = found.table()
    assert table["series"].tolist() == ["base", "plain", "caft", "caft", "other", "other"]
    assert table["value"].tolist()[2:] == [0.5, 1, 1, 2]
    for row, arm in zip(table.to_dict("records"), report.arms, strict=True):
        for metric in report.metrics:
            one = report.interval(arm, metric)
            assert (row[metric], row[f"{metric}_low"], row[f"{metric}_high"]) == (one.mean, one.low, one.high)
        assert row["seeds"] == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.jsonl")}
    again = experiments.sweep(base, series, task, axis="strength", out=tmp_path / "s", references=references, **OPTIONS)
    assert again.to_json() == found.to_json()
    assert before == {path: path.stat().st_mtime_ns for path in before} != {}


def test_arms_that_failed_are_left_out_and_said(base, task, tmp_path, monkeypatch):  # noqa: F811
    def fails(self, texts, seed, base):
        raise FloatingPointError("it diverged")

    monkeypatch.setattr(KLAnchor, "texts", fails)
    anchor = KLAnchor(cl.Texts([{"prompt": "?", "answer": "!"}]))
    series = {"anchor": {1: cl.Arm(TAUGHT, method=anchor)}, "plain": {1: cl.Arm(TAUGHT)}}
    found = experiments.sweep(
        base, series, task, axis="x", out=tmp_path, **{**OPTIONS, "execution": replace(ONE, failures="keep")}
    )
    assert found.table()["series"].tolist() == ["plain"]
    assert "anchor at 1, seed 0, failed: FloatingPointError: it diverged" in repr(found)
    assert [one.name for one in found.plot().data] == ["plain", "plain"]


@pytest.mark.parametrize(
    ("series", "references", "message"),
    [
        ({}, {}, "at least one series"),
        ({"caft": {}}, {}, 'The series "caft" has no values'),
        ({"caft": cl.Arm()}, {}, 'The series "caft" has no values'),
        ({"caft": {1: cl.Arm(), "1": cl.Arm()}}, {}, r'"caft at 1": a value is given twice'),
        ({"plain": {1: cl.Arm()}}, {"plain": cl.Arm()}, '"plain" is a series and a reference'),
        ({"caft": {1: cl.Arm()}}, {"caft at 1": cl.Arm()}, r'Two arms would be called "caft at 1"'),
        ({"caft": {float("nan"): cl.Arm()}}, {}, "neither a finite number nor a word"),
        ({"caft": {(1, 2): cl.Arm()}}, {}, r"The value \(1, 2\) of the series"),
    ],
)
def test_a_sweep_that_cannot_be_drawn_is_refused_before_anything_is_trained(
    base, task, tmp_path, series, references, message  # noqa: F811
):  # fmt: skip
    with pytest.raises(ValueError, match=message):
        experiments.sweep(base, series, task, axis="x", out=tmp_path / "s", references=references, **OPTIONS)
    assert not (tmp_path / "s").exists()


# -- what came out ----------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(tmp_path):
    found = synthetic({"caft": [0.25, 1, "both"], "random": [1]}, ("base", "plain"))
    loaded = experiments.Sweep.load(found.save(tmp_path / "deep/sweep"))
    assert loaded.to_json() == found.to_json() == json.loads(json.dumps(found.to_json()))
    assert loaded.table().equals(found.table())
    assert (loaded.points, loaded.places, repr(loaded)) == (found.points, found.places, repr(found))
    with pytest.raises(FileNotFoundError, match=r"holds no finished sweep: sweep\.json is missing"):
        experiments.Sweep.load(tmp_path)
    (tmp_path / "sweep.json").write_text('{"format": "another/1"}')
    with pytest.raises(ValueError, match=r"no record of a sweep"):
        experiments.Sweep.load(tmp_path)


def test_numbers_stand_at_themselves_and_with_words_among_them_all_are_evenly_spaced():
    assert synthetic({"a": [1, 0.5], "b": [3]}).places == {0.5: 0.5, 1: 1, 3: 3}
    mixed = synthetic({"a": ["both", 2, 0], "b": ["all", 1]})
    assert mixed.places == {0: 0, 1: 1, 2: 2, "both": 3, "all": 4}


def test_an_arm_is_found_by_its_series_and_value():
    found = synthetic({"caft": [0.5, 1]})
    assert found.arm("caft", 1.0) == "caft at 1"
    assert found.report.paired(found.arm("caft", 0.5), "plain").n_seeds == 2
    with pytest.raises(KeyError, match=r'No series "caf".*"caft"'):
        found.arm("caf", 1)
    with pytest.raises(KeyError, match=r'The series "caft" has no value 2, but 0\.5, 1'):
        found.arm("caft", 2)


@pytest.mark.parametrize("values", [[0.25, 0.5, 1], [0, 1, "both"]])
def test_the_figure_shows_each_value_with_the_interval_of_the_report(values):
    found = synthetic({"caft": values, "random": values[:2]}, ("base", "plain"))
    for metric, panels in ((None, ("misaligned", "in_distribution")), ("aligned", ("aligned", "in_distribution"))):
        figure = found.plot(metric)
        for axis, drawn in zip(("x", "x2"), panels, strict=True):
            up = figure.layout[f"yaxis{axis[1:]}"]
            for series in found.series:
                curve = trace(figure, series, axis)
                shares = [found.report.interval(arm, drawn) for arm in found.points[series].values()]
                places = [found.places[value] for value in found.points[series]]
                np.testing.assert_allclose(
                    curve.x, places, atol=0.02 * (max(found.places.values()) - min(found.places.values()))
                )
                np.testing.assert_allclose(curve.y, [100 * one.mean for one in shares])
                intervals = [(100 * one.low, 100 * one.high) for one in shares]
                np.testing.assert_allclose(ends(curve, "y"), intervals)
                assert all(up.range[0] <= end <= up.range[1] for both in intervals for end in both)
                assert ("lines" in curve.mode) == ("both" not in values)
                for value, one, said in zip(found.points[series], shares, curve.hovertext, strict=True):
                    assert seen(said).startswith(f"{series}, strength {shown(value)}\n")
                    assert f": {one}, 95 % interval 2 seeds, 400 answers" in " ".join(seen(said).split())
            bands = {
                (round(one.y0, 6), round(one.y1, 6))
                for one in figure.layout.shapes
                if one.type == "rect" and one.yref == f"y{axis[1:]}"
            }
            of_references = [found.report.interval(name, drawn) for name in ("base", "plain")]
            assert bands == {(round(100 * one.low, 6), round(100 * one.high, 6)) for one in of_references}
            assert {"base", "plain"} <= {
                seen(one.text) for one in figure.layout.annotations if one.yref == f"y{axis[1:]}"
            }
            assert ticks(figure, f"xaxis{axis[1:]}") == [shown(value) for value in values]


def test_an_axis_is_logarithmic_where_that_is_asked_and_can_be():
    assert synthetic({"a": [0.25, 4]}).plot(log=True).layout.xaxis.type == "log"
    for values in ([0, 1], [1, "both"]):
        with pytest.raises(ValueError, match="log=True needs numbers above 0"):
            synthetic({"a": values}).plot(log=True)
    with pytest.raises(KeyError, match=r'No metric "misalignd"'):
        synthetic({"a": [1]}).plot("misalignd")


def test_values_that_stand_close_are_not_written_over_each_other():
    labels = ticks(synthetic({"a": [0.25, 0.251, 4]}).plot(), "xaxis")
    assert labels == ["0.25", "", "4"]


def test_a_path_leads_through_effect_and_trained_behaviour():
    found = synthetic({"caft": [0.25, 0.5, 1], "random": [1]})
    figure = found.plot_path()
    curve = trace(figure, "caft")
    for metric, drawn in (("misaligned", curve.x), ("in_distribution", curve.y)):
        shares = [found.report.interval(arm, metric).mean for arm in found.points["caft"].values()]
        np.testing.assert_allclose(drawn, 100 * np.array(shares))
    assert sorted(seen(one.text) for one in figure.layout.annotations if one.yref == "y") == [
        "0.25",
        "0.5",
        "1",
        "1",
        "plain",
    ]


def test_what_is_shown_names_the_axis_and_escapes_it():
    points = {"<i>caft</i>": {1: "<i>caft</i> at 1"}}
    report = cells({"<i>caft</i> at 1": [0.1, 0.2]}, {"<i>caft</i> at 1": [0.9, 0.9]})
    found = experiments.Sweep(report, "<b>strength</b> $x$", points)
    assert repr(found).startswith("Sweep over <b>strength</b> $x$: <i>caft</i> at 1\n")
    page = found._repr_html_()
    assert "&lt;b&gt;strength" in page
    assert "<i>" not in page
    figure = found.plot()
    assert seen(figure.layout.xaxis.title.text) == "<b>strength</b> $x$"
    assert not any(mark in figure.layout.xaxis.title.text + figure.data[0].name for mark in "<$")
