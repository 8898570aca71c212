"""What all figures have in common: text that stays text, colours that can be read, small JSON, a picture where one
can be drawn.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from typing import Any

import numpy as np
import psutil
import pytest
from drawn import seen, words
from live_lab import chromium

from caft_lens._support.errors import CaftLensError
from caft_lens.display import pictures, theme
from caft_lens.display.curves import curves
from caft_lens.display.heat_maps import Shades, heat_map

HOSTILE = "</script><b>$x$</b> & $y$ %{x} <extra>"
PNG = b"\x89PNG and so on"


def drawn(name: str = "caft") -> Any:
    return curves(
        {name: {1: 0.1234567891, 2: 0.5}, "b": {1: 1.0}}, x_label=name, y_label=name, title=name, caption=name
    )


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["<b>x</b>", "$x$ and $y$", "&lt;", "a\nb", "%{x}", HOSTILE])
def test_text_is_shown_as_it_is_and_has_no_sign_that_plotly_reads(text):
    shown = theme.literal(text)
    assert seen(shown) == text.replace("\n", " ")
    assert not set("<>$\n") & set(shown)
    assert not re.search(r"&(?!(amp|lt|gt|#36);)", shown)


def test_no_text_of_a_figure_is_read_as_markup_or_mathematics():
    heat = heat_map(
        np.eye(2),
        [HOSTILE, "a"],
        [HOSTILE, HOSTILE],
        shades=Shades(HOSTILE),
        title=HOSTILE,
        caption=HOSTILE,
        labels=(HOSTILE, HOSTILE),
    )
    for figure in (drawn(HOSTILE), heat):
        shown = figure.small()
        del shown["layout"]["meta"]  # what is said where nothing is drawn
        found = json.dumps(shown)
        for marks in ("<b>$", "$x", "<extra>$", "</script>"):
            assert marks not in found
        assert HOSTILE in words(figure)
    assert "%{x}" not in heat.data[0].hovertemplate.replace("%{x}", "", 1)


def test_a_title_and_a_caption_are_broken_into_lines_that_fit_and_the_figure_grows():
    long = "Filled: mean; bar: 95 % interval over 3 seeds and 200 prompts each, from $5 to $6. " * 3
    small, large = (
        theme.figure([300], [100], title="T", caption="C"),
        theme.figure([300], [100], title=long, caption=long),
    )
    assert large.layout.height > small.layout.height + 100
    for shown in large.layout.annotations:
        assert all(theme.text_width(line, 11) <= large.layout.width for line in seen(shown.text).split("\n"))
        assert seen(shown.text).split() == long.split()
    assert theme.lines("a" * 300, 100)[0] == "a" * len(theme.lines("a" * 300, 100)[0]), (
        "a word that does not fit is cut"
    )


def test_hovering_shows_the_name_in_bold_and_leaves_out_what_is_empty():
    assert theme.said("<a>", "", "x\ny") == "<b>&lt;a&gt;</b><br>x<br>y"


# -- colours ----------------------------------------------------------------------------------------------------------


def light(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def over(ground: str) -> str:
    """The paper of a figure on a ground, which shines through."""
    paper = theme.figure().layout.template.layout.paper_bgcolor
    share = int(paper[7:], 16) / 255
    mixed = [
        share * int(paper[place : place + 2], 16) + (1 - share) * int(ground[place : place + 2], 16)
        for place in (1, 3, 5)
    ]
    return "#" + "".join(f"{round(part):02X}" for part in mixed)


@pytest.mark.parametrize("ground", ["#FFFFFF", "#111111", "#0D1117"])
def test_words_and_points_can_be_read_on_a_light_and_on_a_dark_ground(ground):
    paper = over(ground)
    assert min(contrast(colour, paper) for colour in (theme.INK, theme.QUIET)) >= 4.5
    assert min(contrast(colour, paper) for colour, _ in theme.LOOKS) >= 3


def test_the_colours_of_the_dark_can_be_read_there():
    paper = theme.DARK[theme.PAPER]
    assert min(contrast(theme.DARK[colour], paper) for colour in (theme.INK, theme.QUIET)) >= 4.5
    assert min(contrast(theme.DARK.get(colour, colour), paper) for colour, _ in theme.LOOKS) >= 3


def test_kinds_of_points_differ_in_grey_and_layers_stay_in_order():
    assert len({symbol for _, symbol in theme.LOOKS}) == len(theme.LOOKS)
    shades = [light(colour) for colour in theme.DEPTH]
    assert shades == sorted(shades, reverse=True)


def test_a_dark_figure_has_the_same_things_in_other_colours():
    figure = drawn()
    shaded = json.dumps(theme.in_the_dark(figure.small()))
    assert theme.INK not in shaded
    assert theme.DARK[theme.INK] in shaded
    plain = re.sub("#[0-9A-F]{6}", "", json.dumps(figure.small()))
    assert re.sub("#[0-9A-F]{6}", "", shaded) == plain


# -- in a notebook ----------------------------------------------------------------------------------------------------


def test_a_figure_is_small_and_what_is_not_finite_is_left_out():
    figure = theme.figure().add_scatter(x=np.array([1 / 3, np.nan, np.inf]), y=[1.0, 2, 3])
    (trace,) = figure.small()["data"]
    assert trace["x"] == [0.33333, None, None]
    assert json.loads(json.dumps(figure.small(), allow_nan=False)) == figure.small()


def test_a_notebook_gets_a_figure_to_hover_over_and_its_picture(monkeypatch):
    monkeypatch.setattr(pictures, "picture", lambda *_: PNG)
    shown = drawn("<b>$x$")._repr_mimebundle_()
    assert set(shown) == {theme.MIME, "image/png", "text/plain"}, "no HTML, which is not run where it is not trusted"
    assert base64.b64decode(shown["image/png"]) == PNG
    assert shown[theme.MIME]["config"]["typesetMath"] is False
    assert shown["text/plain"] == "Figure\n<b>$x$\n<b>$x$"


def test_without_a_chromium_a_figure_says_so_and_stays_one_to_hover_over(monkeypatch):
    monkeypatch.setattr(pictures, "picture", lambda *_: None)
    shown = drawn()._repr_mimebundle_()
    assert set(shown) == {theme.MIME, "text/plain"}
    assert "No Chromium" in shown["text/plain"]
    assert "interactive" in shown["text/plain"]


def test_ipython_shows_these_and_nothing_else(monkeypatch):
    from IPython.core.formatters import DisplayFormatter

    monkeypatch.setattr(pictures, "picture", lambda *_: PNG)
    data, _ = DisplayFormatter().format(drawn())
    assert set(data) == {theme.MIME, "image/png", "text/plain"}


# -- as a file --------------------------------------------------------------------------------------------------------


def test_a_page_holds_plotly_once_its_figures_as_data_and_fetches_nothing():
    page = theme.html(drawn(HOSTILE), first=True) + theme.html(drawn(HOSTILE), first=False)
    assert page.count("window.drawFigure =") == 1
    assert page.count("drawFigure(document.currentScript") == 2
    kept = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert [json.loads(one) for one in kept] == [drawn(HOSTILE).small()] * 2
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert len(theme.html(drawn(), first=False)) < 10_000


def test_a_figure_is_kept_as_page_or_picture_and_as_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "picture", lambda figure, kind, scale: f"{kind} {scale}".encode())
    assert drawn().save(tmp_path / "a.png", scale=2).read_bytes() == b"png 2"
    assert theme.save(drawn(), tmp_path / "new" / "a.svg").read_bytes() == b"svg 1"
    assert "<title>&lt;a&gt;</title>" in theme.save(drawn("<a>"), tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match=r"kept as \.html, \.png or \.svg"):
        drawn().save(tmp_path / "a.pdf")
    monkeypatch.setattr(pictures, "picture", lambda *_: None)
    with pytest.raises(CaftLensError, match=r"a\.png: No Chromium .*BROWSER_PATH.* as \.html, which needs none"):
        drawn().save(tmp_path / "a.png")


# -- the browser that draws -------------------------------------------------------------------------------------------


def run(code: str, **environment: str) -> tuple[str, float]:
    """What a process prints, and the seconds that it took."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, time.monotonic() - started


PICTURE = """
    import os, psutil
    from caft_lens.display import pictures, theme
    {before}
    figure = theme.figure().add_scatter(x=[1, 2], y=[1, 2])
    found = [theme.png(figure) for _ in range(3)]
    print([one and one[1:4] for one in found])
    print(*(one.pid for one in psutil.Process().children(recursive=True)))
    {after}
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", ["", "os.kill(os.getpid(), 9)"])
def test_one_browser_draws_all_pictures_and_none_is_left_when_the_process_ends(after):
    if chromium() is None:
        pytest.skip("no Chromium: make browser")
    code = textwrap.dedent(PICTURE.format(before="", after=after))
    process = subprocess.run(
        [sys.executable, "-u", "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    pictured, pids = process.stdout.splitlines()
    assert pictured == "[b'PNG', b'PNG', b'PNG']"
    assert pids
    end = time.monotonic() + 30
    while (left := [pid for pid in map(int, pids.split()) if psutil.pid_exists(pid)]) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["", "import sys; sys.modules['kaleido'] = None"])
def test_where_no_browser_or_no_kaleido_is_there_is_no_picture_and_no_error(tmp_path, missing):
    without = {} if missing else {"BROWSER_PATH": str(tmp_path / "none"), "PATH": str(tmp_path)}
    printed, _ = run(PICTURE.format(before=missing, after=""), **without)
    assert printed.splitlines()[0] == "[None, None, None]"


@pytest.mark.slow
def test_a_browser_that_never_answers_is_waited_for_once_and_ended(tmp_path):
    deaf = tmp_path / "chromium"
    deaf.write_text("#!/bin/sh\nexec sleep 600\n")
    deaf.chmod(0o755)
    printed, seconds = run(
        PICTURE.format(before="pictures.START = pictures.CLOSE = 3.0", after=""), BROWSER_PATH=str(deaf)
    )
    assert printed.splitlines()[0] == "[None, None, None]"
    assert seconds < 60
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(deaf) in (one.info["cmdline"] or [])]


@pytest.mark.slow
def test_a_forked_process_leaves_its_parents_browser_alone():
    if chromium() is None:
        pytest.skip("no Chromium: make browser")
    fork = """
    child = os.fork()
    if child == 0:
        raise SystemExit(0)
    os.waitpid(child, 0)
    print(theme.png(figure)[1:4])
    """
    printed, _ = run(PICTURE.format(before="", after="") + fork)
    assert printed.splitlines()[-1] == "b'PNG'"
