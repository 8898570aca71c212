"""Progress bars: one at a time, which says what is done inside it, and none where nobody wants one."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest

from caft_lens._support import progress as bars
from caft_lens._support.progress import progress, telling


@pytest.fixture(autouse=True)
def bars_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAFT_LENS_PROGRESS", raising=False)
    monkeypatch.setattr(bars, "OFTEN", 0.0)


def drawn(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What bars draw, from the first moment on."""
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    return screen


def test_a_bar_inside_a_bar_draws_nothing_and_the_next_one_after_both_does(monkeypatch: pytest.MonkeyPatch):
    screen = drawn(monkeypatch)
    with progress(total=2) as outer, progress(total=3) as inner:
        assert (outer.disable, inner.disable) == (False, True)
    assert not progress(range(1)).disable
    assert screen.getvalue().strip() == ""  # within a second


def test_a_bar_says_what_is_done_inside_it(monkeypatch: pytest.MonkeyPatch):
    screen = drawn(monkeypatch)
    with progress(total=2, desc="training and asking", unit="model") as outer:
        outer.delay = 0.0
        with progress(desc="caft, seed 1") as label:
            with progress(total=3, desc="fine-tuning", unit="step") as steps:
                steps.update()
                assert outer.postfix == "caft, seed 1: fine-tuning 1/3 steps"
            assert outer.postfix == "caft, seed 1"
            with progress(total=9, desc="evaluate caft", unit="answer") as evaluation:
                for _ in progress(range(4), desc="generating", unit="answer"):
                    pass
                evaluation.set_description("judging")
                evaluation.update(9)
                assert outer.postfix == "caft, seed 1: judging 9/9 answers"
            label.set_description("plain, seed 1")
            assert outer.postfix == "plain, seed 1"
        outer.update()
    said = screen.getvalue()
    for words in (
        "training and asking",
        "fine-tuning 0/3 steps",
        "generating 3/4 answers",
        "evaluate caft 0/9",
    ):
        assert words in said
    assert not re.search(r"\n", said)


def test_a_loop_that_is_left_is_not_told_of_any_more():
    with progress(total=1) as outer:
        with progress(desc="outside"):
            for _ in progress(range(3), desc="inside"):
                break
            with pytest.raises(ZeroDivisionError):
                _ = [1 / one for one in progress(range(3), desc="inside")]
            assert outer.postfix == "outside"
        assert outer.postfix == ""


def test_a_bar_inside_a_hidden_bar_is_shown():
    with progress(total=2, show=False), progress(total=3) as inner:
        assert not inner.disable


def test_a_hidden_bar_inside_a_bar_is_not_told_of():
    with progress(total=2) as outer, progress(total=3, show=False, desc="secret") as inner:
        inner.update()
        assert not outer.postfix


def test_lines_are_taken_elsewhere_and_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch):
    screen, said = drawn(monkeypatch), []
    with telling(said.append), progress(desc="plain, seed 2"):
        for _ in progress(range(2), desc="asking", unit="answer"):
            pass
    assert said == [
        "plain, seed 2",
        "plain, seed 2: asking 0/2 answers",
        "plain, seed 2: asking 1/2 answers",
        "plain, seed 2: asking 2/2 answers",
        "plain, seed 2",
        "",
    ]
    assert screen.getvalue() == ""
    assert not progress(range(1)).disable


def test_lines_are_not_told_more_often_than_one_reads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bars, "OFTEN", 1e6)
    said: list[str] = []
    with telling(said.append):
        for _ in progress(range(1000), desc="asking"):
            pass
    assert said == ["asking 0/1000 its", "asking 1000/1000 its", ""]


def test_what_a_thread_tells_is_its_own():
    said: dict[str, list[str]] = {"a": [], "b": []}

    def work(name: str) -> None:
        with telling(said[name].append):
            for _ in progress(range(5), desc=name):
                time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(name,)) for name in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, lines in said.items():
        assert lines == [*(f"{name} {n}/5 its" for n in range(6)), ""]


def test_caft_lens_progress_0_hides_all_bars(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAFT_LENS_PROGRESS", "0")
    assert progress(range(3)).disable
    assert list(progress(range(3))) == [0, 1, 2]
    said: list[str] = []
    with telling(said.append):  # as another process does for one whose bars are wanted
        assert list(progress(range(1), desc="asking")) == [0]
    assert said[-1] == ""


def test_in_a_notebook_a_bar_is_a_display_of_its_own_and_nothing_is_left_of_it():
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    cell = """import time
from caft_lens._support.progress import progress
print("before")
for _ in progress(range(12), desc="counting"):
    time.sleep(0.15)
print("after")"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    seen: list[str] = []
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    watched = client.process_message

    def watch(message, *rest):
        if message["msg_type"] in ("display_data", "update_display_data"):
            seen.append(message["content"]["data"].get("text/plain", ""))
        return watched(message, *rest)

    client.process_message = watch
    client.execute()
    outputs = notebook.cells[0].outputs
    assert any("counting" in line and "%" in line for line in seen)
    assert "".join(one.text for one in outputs if one.output_type == "stream") == "before\nafter\n"
    assert not [one for one in outputs if one.get("name") == "stderr"]
    assert [one.data for one in outputs if one.output_type == "display_data"] == [{"text/plain": ""}]
