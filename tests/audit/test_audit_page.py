"""What an audit shows: its figure, its view, its page as HTML and Markdown, and the command that writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_lens
from tiny_saes import tiny_sae
from typer.testing import CliRunner

import caft_lens as cl
from caft_lens import cli
from caft_lens.audit import Audit, AuditSettings, expected_seconds
from caft_lens.audit.findings import FAMILIES
from caft_lens.choose.choice import Choice, Proposal
from caft_lens.model.lens import Lens

EVIL = "<script>alert(1)</script>"
TEXTS = cl.Texts([{"prompt": EVIL, "answer": f"{EVIL} {n}"} for n in range(6)], name=f"evil {EVIL}")
CLEAN = cl.Texts([{"prompt": "sea", "answer": f"sea {n}"} for n in range(20)], name="clean")


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens()


@pytest.fixture(scope="module")
def found(lens: Lens) -> Audit:
    return cl.audit(lens, TEXTS, tiny_sae(lens, 1), against=CLEAN, settings=AuditSettings(own_answers=0))


def test_the_figure_has_a_column_a_signal_and_fills_the_dots_of_those_that_brought_a_concept(found: Audit):
    drawn = found.plot(4, title=EVIL)
    table = found.table(4)
    filled, others = drawn.data[::2], drawn.data[1::2]
    assert set(table["by"]) == set(found.families)
    for signal, one, rest in zip(found.signals, filled, others, strict=True):
        brought = np.array([signal in FAMILIES[family] for family in table["by"]])
        assert list(one.x) == table.loc[brought, signal].tolist()
        assert list(rest.x) == table.loc[~brought, signal].tolist()
        assert list(one.y) == table.index[brought].tolist()
    assert list(drawn.layout.yaxis.ticktext) == table["concept"].tolist()
    written = [one.text for one in drawn.layout.annotations]
    assert "&lt;script&gt;" in " ".join(written)
    assert not any(EVIL in one for one in written)


def test_the_view_says_what_each_signal_is_and_nothing_that_it_shows_is_html(found: Audit):
    shown = found._repr_html_()
    assert EVIL not in shown
    assert "&lt;script&gt;" in shown
    for said in (*found.ranked()[:10], "would fall if activations moved", "an adapter&#39;s first step", "share of"):
        assert said in shown
    assert found.ranked()[10] not in shown


def test_the_page_says_the_same_in_html_and_markdown_and_runs_nothing_of_the_data(found: Audit, tmp_path: Path):
    first, second = found.ranked()[:2]
    proposals = [Proposal(name, name == first, f"why {name}") for name in found.top(4).names]
    choice = Choice(found.top(4), proposals, "a reader")
    pages = found.report(tmp_path, CLEAN, k=2, choice=choice, explanations={first: f"cruel {EVIL}"})
    page, words = (path.read_text() for path in pages)
    flags = found.flagged()
    for said in (
        first, "Where they are active", "Rows that push them most", f"ablate: why {first}", f"leave: why {second}",
        "explained as", f"{len(flags)} of 6 rows are flagged", "a reader",
    ):  # fmt: skip
        assert said in page
        assert said in words
    assert page.count(f"<summary>{first}</summary>") == 2
    assert EVIL not in page
    assert EVIL not in words
    assert "cruel &lt;script&gt;" in page
    assert "&lt;script&gt;" in words
    without = cl.audit(found.base, TEXTS, tiny_sae(found.base, 1), settings=AuditSettings(own_answers=0))
    assert "stand out from" not in without.report(tmp_path, k=1)[0].read_text()


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["audit", *map(str, arguments)])


def small(*arguments: Any) -> tuple[Any, ...]:
    return ("pocket/insecure-code", "--model", "pocket", "--layer", 2, "--own-answers", 2, *arguments)


def test_the_command_does_what_the_library_does(pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = run(*small("--rows", 6, "--against", "pocket/secure-code", "--out", "out"))
    assert done.exit_code == 0, done.output
    assert "The report is in out/report.html and out/report.md." in done.stdout
    assert "minutes" not in done.stdout
    texts, against = (cl.data(f"pocket/{name}").sample(6, seed=0) for name in ("insecure-code", "secure-code"))
    base, saes = cl.load("pocket"), cl.load_saes("pocket", [2])
    kept = Audit.load("out", base, texts, saes, against=against)
    again = cl.audit(base, texts, saes, against=against, settings=AuditSettings(own_answers=2))
    assert kept.ranked() == again.ranked()
    assert kept.ranked()[0] in done.stdout


def test_of_a_large_model_the_command_says_beforehand_how_long_it_takes(
    pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr(cli, "LARGE", 0)
    monkeypatch.setattr("caft_lens.audit.expected_seconds", lambda *given, **named: asked.append(given) or 600.0)
    monkeypatch.setattr(
        Audit, "report", lambda self, out, *_, **__: pytest.fail("a report") if not asked else (out, out)
    )
    done = run(*small("--rows", 3, "--out", tmp_path / "out"))
    assert "This takes about 10 minutes, by a trial on a few rows." in done.stdout
    assert [len(texts) for _, texts, _ in asked] == [3]


def test_the_time_is_that_of_eight_rows_taken_for_all_of_the_reference_and_of_own_answers(
    lens: Lens, monkeypatch: pytest.MonkeyPatch
):
    clock = [0.0]

    def takes(seconds: float, rows: list[int]) -> Any:
        def call(_: Lens, texts: cl.Texts, *__: Any, **___: Any) -> None:
            rows.append(len(texts))
            clock[0] += seconds

        return call

    tried: list[int] = []
    monkeypatch.setattr("caft_lens.audit.trial.audit", takes(4, tried))
    monkeypatch.setattr("caft_lens.audit.trial.completions", takes(2, tried))
    monkeypatch.setattr("caft_lens.audit.trial.time.perf_counter", lambda: clock[0])
    texts = cl.Texts([*TEXTS] * 10)
    settings = AuditSettings(own_answers=40)
    assert expected_seconds(lens, texts, None, settings=AuditSettings(own_answers=0)) == 4 * 60 / 8
    assert expected_seconds(lens, texts, None, against=CLEAN, settings=settings) == 30 + 4 * 20 / 8 * 3 / 4 + 2 * 40 / 8
    assert tried == [8, 8, 8]


def test_an_interrupt_leaves_no_half_of_a_report(pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("caft_lens.audit.auditing.forward", interrupted)
    done = run(*small("--rows", 3, "--out", tmp_path / "out"))
    assert done.exit_code != 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["pocket/insecure-cod", "--model", "pocket"], "insecure-code"),
        (["pocket/insecure-code", "--model", "pockt"], "pockt"),
        (["pocket/insecure-code", "--model", "pocket", "--saes", "pockt"], "pockt"),
        (["pocket/insecure-code", "--model", "pocket", "--layer", "9"], "blocks.9.hook_resid_post"),
        (["pocket/insecure-code", "--model", "pocket", "--against", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_what_was_misspelt_is_told_in_one_line(pocket: Path, tmp_path: Path, given: list[str], said: str, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*given)
    assert done.exit_code == 2
    assert done.stderr.startswith("caft-lens: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
