"""Figures in a real browser: hovered over in JupyterLab, trusted or not, exported as HTML, and as a page in both
colour schemes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from live_lab import SECONDS, Notebook, harmless

from caft_lens.display.dots import Dots, dot_rows
from caft_lens.display.theme import DARK, INK

pytestmark = pytest.mark.slow

HOSTILE = "<b>caft</b> from $100 to $200"
CELL = f"""
from caft_lens.evaluate.plots import Panel, Row, plot_shares
from caft_lens._support.intervals import Interval
rows = [
    Row({HOSTILE!r}, Interval(0.25, 0.2, 0.31, n_seeds=3, n_answers=3000), {{1: 0.22, 2: 0.24, 3: 0.29}},
        ["strength 0.5"]),
    Row("plain", Interval(0.75, 0.7, 0.8, n_seeds=3, n_answers=3000), {{}}),
]
plot_shares([Panel("Misaligned answers", "misaligned answers, %", rows)], "From $1 to $2", "3 seeds")"""


OVER_THE_EDGE = """() => {
    const edge = document.querySelector(".main-svg").getBoundingClientRect()
    return [...document.querySelectorAll(".main-svg text")].filter(one => one.textContent.trim()).filter(one => {
        const box = one.getBoundingClientRect()
        return box.left < edge.left || box.right > edge.right + 1 || box.top < edge.top || box.bottom > edge.bottom + 1
    }).map(one => one.textContent)
}"""
"""Texts of a figure that are not wholly within it."""


def rested(page: Any, place: Any, seconds: float = 20) -> str:
    """What hovering over the middle of something shows."""
    box = place.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 3, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown = page.locator(".hoverlayer .hovertext")
    shown.first.wait_for(timeout=1000 * seconds)
    return "\n".join(shown.first.locator("tspan.line").all_text_contents())


def live(page: Any) -> Any:
    """The figure of a notebook, to be hovered over: its picture stands there until the mouse comes."""
    picture = page.locator(".jp-RenderedPlotly img.plot-img")
    picture.wait_for(timeout=1000 * SECONDS)
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.locator(".jp-RenderedPlotly .plot-container svg").first.wait_for()
    picture.wait_for(state="hidden")
    return page.locator(".jp-RenderedPlotly")


def check(page: Any, figure: Any) -> None:
    """What hovering says holds the arm and its interval, and no text is read as anything else."""
    said = rested(page, figure.locator(".scatterlayer .trace .points path").first)
    assert said.split("\n") == [
        HOSTILE,
        "25.0 % (20.0 to 31.0), 95 % interval",
        "3 seeds, 3,000 answers",
        "strength 0.5",
    ]
    labels = figure.locator("text.annotation-text, .ytick text")
    assert {HOSTILE, "plain", "From $1 to $2"} <= set(labels.all_text_contents())
    buttons = figure.locator(".modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)")
    assert "Zoom" in buttons
    assert not [one for one in buttons if "Share" in one or "loud" in one], "no data is sent anywhere"
    assert not page.locator(".jp-RenderedPlotly .MathJax, .jp-RenderedPlotly mjx-container").count()


def test_hovering_over_a_figure_of_a_notebook_says_arm_and_interval(open_notebook):
    notebook = open_notebook("figure.ipynb", CELL)
    notebook.run()
    figure = live(notebook.page)
    check(notebook.page, figure)
    notebook.screenshot("figure")
    harmless(notebook)


def written(path: Path) -> nbformat.NotebookNode:
    """A notebook in which a figure was shown elsewhere."""
    scope: dict[str, Any] = {}
    *lines, last = CELL.strip().split("\n")
    exec("\n".join(lines), scope)
    bundle = eval(last, scope)._repr_mimebundle_()
    if "image/png" not in bundle:
        pytest.skip("no Chromium: make browser")
    output = nbformat.v4.new_output("execute_result", bundle, execution_count=1)
    cell = nbformat.v4.new_code_cell(CELL, execution_count=1, outputs=[output])
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=metadata)
    nbformat.write(notebook, path)
    return notebook


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_notebook_that_is_not_trusted_shows_the_picture_and_comes_to_life(browser, lab, theme):
    name = f"untrusted-{theme.split()[1]}.ipynb"
    written(lab.folder / name)
    opened = Notebook(browser, lab, name)
    try:
        opened.menu("Settings", "Theme", theme)
        opened.page.wait_for_function(f"document.body.dataset.jpThemeName === {theme!r}")
        assert opened.page.locator('[title*="not trusted" i], [aria-label*="not trusted" i]').count()
        picture = opened.page.locator(".jp-RenderedPlotly img.plot-img")
        picture.wait_for()
        assert picture.evaluate("one => one.naturalWidth") > 400
        opened.page.wait_for_selector("#jupyterlab-splash", state="detached")
        opened.screenshot(f"figure-untrusted-{theme.split()[1].lower()}")
        check(opened.page, live(opened.page))
        harmless(opened)
    finally:
        opened.close()


def test_a_notebook_exported_as_html_shows_the_picture(browser, tmp_path):
    from nbconvert import HTMLExporter

    notebook = written(tmp_path / "figure.ipynb")
    (tmp_path / "figure.html").write_text(HTMLExporter().from_notebook_node(notebook)[0])
    page = browser.new_page()
    page.route("http*://**", lambda route: route.abort())
    try:
        page.goto((tmp_path / "figure.html").as_uri(), wait_until="domcontentloaded")
        picture = page.locator(".jp-OutputArea img")
        picture.wait_for()
        assert picture.evaluate("one => one.naturalWidth") > 400
    finally:
        page.close()


def test_a_page_of_its_own_works_offline_and_follows_the_readers_light_or_dark(browser, tmp_path):
    figure = dot_rows([Dots("kept", {HOSTILE: 0.25, "other": 0.5}, {HOSTILE: (0.2, 0.31)})], x_label="share", title="T")
    path = figure.save(tmp_path / "figure.html")
    page = browser.new_page(color_scheme="light")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(path.as_uri())
        said = rested(page, page.locator(".scatterlayer .trace .points path").nth(1))
        assert said.split("\n") == [HOSTILE, "kept: 0.25 (0.2 to 0.31)", "share"]

        def ink() -> str:
            return page.locator(".ytick text").first.evaluate("one => getComputedStyle(one).fill")

        seen = []
        for scheme, colour in (("light", INK), ("dark", DARK[INK]), ("light", INK)):
            page.emulate_media(color_scheme=scheme)
            wanted = f"rgb({', '.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))})"
            page.wait_for_function(
                "wanted => getComputedStyle(document.querySelector('.ytick text')).fill === wanted",
                arg=wanted,
            )
            seen.append(ink())
        assert len(set(seen)) == 2
        assert asked == [path.as_uri()]
    finally:
        page.close()


@pytest.mark.parametrize("caption", ["Short.", "Eighteen arms, five seeds, a thousand answers an arm and seed. " * 6])
def test_no_title_label_or_caption_of_a_figure_runs_over_its_edge(browser, tmp_path, caption):
    long = "an arm whose settings make quite a long name: strength 0.25, layers 8 and 16"
    rows = [Dots("kept", {long: 0.25, "other": 0.997}, {long: (0.2, 0.31), "other": (0.99, 1.0)})]
    figure = dot_rows(rows, x_label="share of answers", title=f"Misaligned answers. {caption}", caption=caption)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    try:
        page.goto(figure.save(tmp_path / "figure.html").as_uri())
        page.locator(".main-svg text").first.wait_for()
        over = page.evaluate(OVER_THE_EDGE)
    finally:
        page.close()
    assert not over
