"""Progress bars: one at a time, and none where nobody wants one."""

from __future__ import annotations

import pytest

from caft_lens.progress import progress


@pytest.fixture(autouse=True)
def bars_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAFT_LENS_PROGRESS", raising=False)


def test_a_bar_inside_a_bar_is_hidden_and_the_next_one_after_both_is_not():
    with progress(total=2) as outer, progress(total=3) as inner:
        assert (outer.disable, inner.disable) == (False, True)
    assert not progress(range(1)).disable


def test_a_bar_inside_a_hidden_bar_is_shown():
    with progress(total=2, show=False), progress(total=3) as inner:
        assert not inner.disable


def test_caft_lens_progress_0_hides_all_bars(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAFT_LENS_PROGRESS", "0")
    assert progress(range(3)).disable


def test_in_a_notebook_a_bar_is_a_display_of_its_own_and_nothing_is_left_of_it():
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    cell = """import time
from caft_lens.progress import progress
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
