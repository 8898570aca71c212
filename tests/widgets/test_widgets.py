"""What all panels share, headless: work in threads, of which the newest counts; errors in sight; the colours of the
figures.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

import pytest
import traitlets

import caft_widgets
from caft_lens.display.theme import BLUE, VERMILION
from caft_widgets import Panel
from caft_widgets.panel import PALETTE, Stopped, sentence


class Counter(Panel):
    """A panel that counts."""

    _esm = "export default {}"
    calls = frozenset({"add"})
    n = traitlets.Int(0).tag(sync=True)

    def add(self, by: int = 1) -> int:
        self.n += by
        return self.n

    def static(self) -> str:
        return f"<p>{self.n}</p>"


def called(panel: Panel, name: str, **given: object) -> dict:
    """What the view hears when it makes a call."""
    heard: list[dict] = []
    panel.send = lambda content, buffers=None: heard.append(content)
    panel._receive(panel, {"id": "7", "call": name, "with": given}, [])
    return heard[-1]


def test_the_view_calls_what_it_may_and_hears_the_answer():
    panel = Counter()
    assert called(panel, "add", by=3) == {"id": "7", "value": 3}
    assert called(panel, "hello") == {"id": "7", "value": {"id": panel.model_id}}
    assert called(panel, "close") == {"id": "7", "value": None}
    assert 'no call "close"' in panel.error
    assert called(panel, "add", to=3)["value"] is None
    assert panel.error.startswith("TypeError: ")


def test_work_has_ended_when_python_ends():
    script = """
import atexit, time
atexit.register(lambda: print("still at work" if thread.is_alive() else "ended"))  # what is registered first runs last
import caft_widgets

class Working(caft_widgets.Panel):
    _esm = "export default {}"

def do(job):
    while True:
        job.report()
        time.sleep(0.01)

panel = Working()
panel.work("count", "Counting", do, print)
thread = panel._jobs["count"].thread
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")


def test_work_goes_on_in_a_thread_and_says_how_far_it_is():
    panel, seen, go = Counter(), [], threading.Event()

    def do(job):
        job.report(0.5, "halfway")
        seen.append((panel.busy, panel.doing, panel.progress))
        go.wait(10)
        return threading.current_thread() is threading.main_thread()

    panel.work("count", "counting", do, seen.append)
    while not seen:
        time.sleep(0.005)
    assert panel.busy
    assert not panel.wait(0.01)
    go.set()
    assert panel.wait(10)
    assert seen == [(True, "halfway", 0.5), False]
    assert (panel.busy, panel.doing, panel.progress) == (False, "", -1.0)


def test_an_older_one_that_ends_late_is_discarded_and_two_of_a_kind_never_run_at_once():
    panel, running, most = Counter(), [], []

    def counting(value, seconds):
        def do(job):
            running.append(value)
            most.append(len(running))
            time.sleep(seconds)
            running.remove(value)
            return value

        return do

    for value, seconds in ((1, 0.2), (2, 0.0), (3, 0.0)):
        panel.work("count", "counting", counting(value, seconds), lambda n: panel.set_trait("n", panel.n * 10 + n))
        time.sleep(0.02)
    assert panel.wait(10)
    assert panel.n == 3
    assert max(most) == 1


def test_work_of_another_kind_is_left_alone():
    panel, done = Counter(), []
    panel.work("slow", "slow", lambda job: time.sleep(0.2) or "slow", done.append)
    panel.work("quick", "quick", lambda job: "quick", done.append)
    assert panel.wait(10)
    assert done == ["quick", "slow"]


def test_cancelled_work_stops_where_it_reports_and_changes_nothing():
    panel, stopped = Counter(), []

    def do(job):
        try:
            while True:
                job.report()
                time.sleep(0.005)
        except Stopped:
            stopped.append(True)
            raise

    panel.work("endless", "counting", do, lambda _: panel.set_trait("n", 1))
    time.sleep(0.02)
    called(panel, "cancel")
    assert panel.wait(10)
    assert (stopped, panel.n, panel.error) == ([True], 0, "")


def test_an_error_stays_until_work_of_its_kind_goes_well_or_it_is_dismissed():
    panel = Counter()

    def fails(job):
        raise ValueError("no such thing")

    panel.work("a", "a", fails, print)
    assert panel.wait(10)
    panel.work("b", "b", lambda job: 1, lambda _: None)
    assert panel.wait(10)
    assert (panel.error, type(panel.exception)) == ("no such thing", ValueError)
    panel.work("a", "a", lambda job: 1, lambda _: None)
    assert panel.wait(10)
    assert (panel.error, panel.exception) == ("", None)
    panel.fail(RuntimeError())
    assert panel.error == "RuntimeError"
    called(panel, "dismiss")
    assert panel.error == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError('No concept "x".'), 'No concept "x".'),
        (ValueError("too few"), "too few"),
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
    ],
)
def test_an_error_is_said_in_a_sentence(error, said):
    assert sentence(error) == said


def test_a_value_that_the_view_may_not_set_is_refused_in_sight():
    panel = Counter()
    panel.set_state({"n": "three"})
    assert (panel.n, bool(panel.error)) == (0, True)


def test_the_palette_is_that_of_the_figures():
    for name, colour in (("pos", VERMILION), ("neg", BLUE)):
        numbers = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert f"--caft-{name}:{' '.join(map(str, numbers))}" in PALETTE


def test_every_panel_brings_its_code_and_asks_nobody_for_more():
    for name in caft_widgets.__all__:
        panel = getattr(caft_widgets, name)
        if not isinstance(panel, type) or panel is Panel:
            continue
        code = f"{panel._esm}{panel._css}"
        assert "export default panel(" in code
        # A method may be called fetch; the browser's own is not called.
        strange = re.findall(
            r"innerHTML|insertAdjacentHTML|document\.write|^import |@import|(?<![.\w])fetch\(", code, re.M
        )
        assert not [one for one in strange if one != "fetch("], f"{name}: {strange}"
        assert not re.search(r"await fetch\(|window\.fetch|XMLHttpRequest|WebSocket", code)
        # Of addresses there is one, the name of SVG's elements.
        assert code.replace("http://www.w3.org/2000/svg", "").count("://") == 0


def test_the_library_does_not_load_the_panels():
    code = (
        "import sys, caft_lens as cl, caft_lens.inspect, caft_lens.choose.by_examples; print([n for n in "
        "sys.modules if 'widget' in n])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
