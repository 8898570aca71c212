"""Views read right in a trusted and an untrusted notebook of JupyterLab, in both themes, without any style as on
GitHub, and exported.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from live_lab import Notebook, harmless
from panels import LABEL, SCRIPT, concept_set, found_contexts
from places import ROOT

import caft_lens as cl
from caft_lens.display import html
from caft_lens.display.frames import Frame
from caft_lens.display.markdown import code, plain
from caft_lens.inspect import Labelled
from caft_lens.inspect.context_windows import ConceptContexts, Context
from caft_lens.inspect.contexts import Contexts
from caft_lens.inspect.logits import ConceptTokens, LogitLens, TokenScore
from caft_lens.inspect.token_map import TokenMap
from caft_lens.text.roles import SPECIAL

MATHS = "from $100 to $200, \\(x\\)"
CONTROL = f"<style>.caft-control{{color:red}}</style><p class='caft-control'>$x^2$ and {'$y$'}</p>"
"""An output of somebody else: it is typeset, and its style goes when the notebook is not trusted."""


def context(sign: int = 1, special: bool = False) -> Context:
    """The template, a faint, a strong token of the other end, the peak."""
    return Context(
        ("<|user|>", " a", f" {MATHS}", " cruel"),
        (sign * 9000.0 if special else None, sign * 900.0, sign * -6000.0, sign * 9000.0),
        3,
        sign * 9000.0,
        5,
        7,
        (True, False, False, False),
    )


def views() -> dict[str, str]:
    """Every kind of view, with text that looks like mathematics and like HTML."""
    concepts = concept_set(2).label({"L1.pc0": f"{LABEL} {MATHS}"}).choose({"L1.pc0": MATHS}, by="reader")
    one = concepts[0]
    scores = [TokenScore(" pie", 1, 2.0), TokenScore("$", 2, 1.5)]
    lowered = [TokenScore(SCRIPT, 3, -2.0), TokenScore("\n", 4, -0.2)]
    found = Contexts([ConceptContexts(one, [context()], [context(-1)])])
    text = cl.data([{"prompt": f"{MATHS} {SCRIPT}", "answer": "Yes"}])
    spans = cl.Text(text=f"{MATHS} then", meta={"spans": [[0, 9, "money"], [5, 12, "verb"]]})
    values = np.array([[0.0, 1.0, -4.0], [5.0, -2.0, 30.0]])
    map_ = TokenMap(
        (one,) * 2,
        ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"),
        ("<|bos|>", " a", f" {MATHS}"),
        (SPECIAL, 1, 1),
        values,
        "projection",
    )
    return {
        "contexts": found.to_html(),
        "latent": Contexts([ConceptContexts(one, [context()], [], "latent")]).to_html(),
        "token map": map_.to_html(),
        "logit lens": LogitLens([ConceptTokens(one, tuple(scores), tuple(lowered))])._repr_html_(),
        "texts": text._repr_html_(),
        "concepts": concepts._repr_html_(),
        "labelled": Labelled([spans], ["money", "verb"])._repr_html_(),
        "frame": str(Frame({"text": [MATHS, SCRIPT]}).head()._repr_html_()),
        "framed": html.framed(Frame({"text": [MATHS]}), MATHS),
    }


def written(path: Path) -> nbformat.NotebookNode:
    """A notebook whose cells have shown all views, and the control."""
    shown = [*views().values(), CONTROL]
    cells = [
        nbformat.v4.new_code_cell(
            "view", execution_count=1, outputs=[nbformat.v4.new_output("display_data", {"text/html": page})]
        )
        for page in shown
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(notebook, path)
    return notebook


# Of everything with a background of its own: how far it stands out, and the contrast of its text (WCAG 2), with all
# that lies below.
MEASURE = """() => {
  const parsed = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const linear = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const ground = (one) => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) layers.push(parsed(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const faded = (one, root) => {
    let left = 1;
    for (let at = one; at && at !== root; at = at.parentElement) left *= Number(getComputedStyle(at).opacity);
    return left;
  };
  const found = [];
  for (const view of document.querySelectorAll(".caft")) {
    const words = document.createTreeWalker(view, NodeFilter.SHOW_TEXT);
    for (let text; (text = words.nextNode()); ) {
      const one = text.parentElement;
      if (!text.textContent.trim() || one.closest("details:not([open]) > :not(summary)")) continue;
      const below = ground(one), colour = parsed(getComputedStyle(one).color);
      colour[3] *= faded(one, view);
      const [low, high] = [light(over(colour, below)), light(below)].sort((a, b) => a - b);
      const marked = one.closest("[style*=background]");
      found.push({ text: text.textContent, contrast: (high + 0.05) / (low + 0.05),
        alpha: marked && view.contains(marked) ? parsed(getComputedStyle(marked).backgroundColor)[3] : null });
    }
  }
  return found;
}"""


def read(page: Any) -> None:
    """All marks are seen, and all text can be read."""
    found = page.evaluate(MEASURE)
    marked = [one for one in found if one["alpha"] is not None]
    assert {"cruel", "▲ top, highest", "▼ bottom, lowest", "␣pie"} <= {one["text"].strip() for one in marked}
    assert min(one["alpha"] for one in marked) > 0
    worst = min(found, key=lambda one: one["contrast"])
    assert worst["contrast"] >= 4.5, worst


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [False, True])
def test_every_view_is_coloured_readable_and_never_mathematics_in_both_themes(browser, lab, trusted):
    from nbformat.sign import NotebookNotary

    name = f"{'' if trusted else 'un'}trusted.ipynb"
    notebook = written(lab.folder / name)
    if trusted:
        notary = NotebookNotary(data_dir=str(lab.folder.parent / "data"))
        notary.sign(nbformat.read(lab.folder / name, as_version=4))
        notary.store.close()
    opened = Notebook(browser, lab, name, (1300, 3600))
    try:
        page = opened.page
        page.locator(".caft-control mjx-container").nth(1).wait_for(state="attached")
        assert page.locator(".jp-OutputArea style").count() == (2 if trusted else 0), "pandas' and the control's"
        for theme in ("Light", "Dark"):
            opened.menu("Settings", "Theme", f"JupyterLab {theme}")
            page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'")
            page.wait_for_timeout(300)
            read(page)
            opened.screenshot(f"views-{name.removesuffix('.ipynb')}-{theme.lower()}")
        assert page.locator(".jp-OutputArea s, .jp-OutputArea strike, .jp-OutputArea del").count() == 0
        assert page.locator("mjx-container").count() == 2, "only the control is typeset"
        assert page.locator(".jp-RenderedHTML", has_text=MATHS).count() >= len(notebook.cells) - 2
        harmless(opened)
    finally:
        opened.close()


def test_an_html_export_shows_every_view_as_it_is(browser, tmp_path):
    exporter = pytest.importorskip("nbconvert").HTMLExporter()
    page, _ = exporter.from_notebook_node(written(tmp_path / "views.ipynb"))
    # Nothing is fetched from a network: what the page names elsewhere is MathJax, which honours the classes of the
    # views.
    (tmp_path / "views.html").write_text(re.sub(r'<script[^>]*src="http[^>]*></script>', "", page))
    tab = browser.new_page(viewport={"width": 1300, "height": 3600})
    try:
        tab.goto((tmp_path / "views.html").as_uri())
        read(tab)
        assert tab.locator("s, strike, del").count() == 0
        assert tab.locator(".mathjax_ignore.tex2jax_ignore").count() == len(views())
    finally:
        tab.close()


class Bare(HTMLParser):
    """What GitHub leaves of a page: elements, no styles, classes or tooltips. Collects the text and what stands in
    each element.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.inside, self._open = "", {}, []
        self.feed(page)
        self.inside = {tag: [" ".join(one.split()) for one in found] for tag, found in self.inside.items()}

    def handle_starttag(self, tag, attrs):
        self._open.append((tag, len(self.text)))
        if tag in ("div", "tr", "td", "th"):
            self.text += "\n"

    def handle_endtag(self, tag):
        name, begun = self._open.pop()
        assert name == tag
        self.inside.setdefault(tag, []).append(self.text[begun:])

    def handle_data(self, data):
        self.text += data


def test_without_any_style_words_bold_italic_and_underline_say_the_same():
    page = Bare(views()["contexts"])
    lines = [" ".join(line.split()) for line in page.text.splitlines() if line.strip()]
    top, bottom = lines.index("▲ top, highest"), lines.index("▼ bottom, lowest")
    assert lines[top + 1] == f"+9,000 <|user|> a {MATHS} cruel text 5", "the value stands apart from the text"
    assert lines[bottom + 1] == f"−9,000 <|user|> a {MATHS} cruel text 5"
    assert page.inside["u"] == ["cruel", "cruel"], "the peak of each"
    assert page.inside["small"].count("<|user|>") == 2, "the template is small"
    assert MATHS in page.inside["b"], "a strong token that is not the peak"
    assert page.inside["i"].count(MATHS) == page.inside["i"].count("cruel") == 1, "what is negative is italic"
    assert " a" not in page.inside["b"]
    assert any("Bold: half of the largest or more; italic: negative; underlined: the peak" in one for one in lines)

    tokens = Bare(views()["logit lens"])
    assert "␣pie +2.00 $ " in tokens.text, "the strongest says its value"
    assert SCRIPT in tokens.inside["i"]

    layers = Bare(views()["token map"])
    assert "L1 +30.0" in layers.text
    assert layers.inside["u"] == [MATHS, MATHS]

    labelled = Bare(views()["labelled"])
    assert "1 money" in labelled.text
    assert labelled.inside["u"] == ["1 money", "2 verb", "from", "$100", "to"]
    assert labelled.inside["sup"] == ["1", "1,2", "2"]


def test_no_view_strikes_out_hangs_on_a_style_sheet_or_holds_what_jupyterlab_would_take_away():
    for name, page in views().items():
        assert not re.search(r"<(s|strike|del|script)[ >]", page), name
        assert name == "frame" or "<style" not in page, name
        assert SCRIPT not in page, name
        assert re.match(r'<div [^>]*class="[^"]*mathjax_ignore tex2jax_ignore"', page), name
        properties = {
            one.split(":")[0].strip()
            for style in re.findall(r'style="([^"]*)"', page)
            for one in style.split(";")
            if one
        }
        assert properties <= {
            "background",
            "border-top",
            "display",
            "flex",
            "flex-wrap",
            "font-size",
            "gap",
            "line-height",
            "margin",
            "max-width",
            "min-width",
            "opacity",
            "overflow-wrap",
            "overflow-x",
            "padding",
            "text-align",
            "vertical-align",
            "white-space",
        }, name


@pytest.mark.parametrize("share", [0.09, 0.5, 1.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_shade_is_deeper_for_more_and_never_so_deep_that_text_on_it_is_lost(share, sign):
    style = html.shade(sign * share, share)
    depth = int(style[-1], 16)
    assert style.startswith("background:#d50" if sign > 0 else "background:#07b")
    assert 1 <= depth <= 9
    assert depth == {0.09: 1, 0.5: 5, 1.0: 9}[share]


def test_numbers_from_a_thousand_on_are_whole_and_short():
    assert html.signed(5280.4) == "+5,280"
    assert html.signed(-25094.3) == "−25,094"
    assert html.signed(999.4) == "+999."
    assert html.signed(0.0) == "+0.00"
    assert len(html.signed(-1e12)) <= 10


def test_what_is_derived_from_a_frame_is_never_mathematics_either():
    frame = Frame({"text": ["$x$ to $y$", "b"], "n": [1, 2]})
    for derived in (frame, frame[["text"]], frame.query("n > 1"), frame.head(1), frame.assign(m=1), frame.T):
        assert "mathjax_ignore" in derived._repr_html_()
    assert "mathjax_ignore" in concept_set().table()._repr_html_()
    assert "mathjax_ignore" in found_contexts(concept_set()).table()._repr_html_()


@pytest.mark.parametrize(
    "label",
    ["[a](http://evil.example)", "![x](http://evil.example/p.png)", "<img src=x>", "a | b", "`code`", "$x$",
     "www.evil.example", "https://evil.example", "# head", "1. item", "+ item", "- item", "-", "---", "~~gone~~",
     "a\n\n# b"],
)  # fmt: skip
def test_markdown_written_from_a_label_shows_it_and_nothing_more(label, tmp_path):
    mistune = pytest.importorskip("mistune")
    render = mistune.create_markdown(plugins=["table", "strikethrough", "url", "math"])
    shown = render(plain(label))
    assert re.sub(r"<[^>]*>", "", shown).strip()
    assert set(re.findall(r"<(\w+)", shown)) == {"p"}
    card = (concept_set(2).label({"L1.pc0": label}).save(tmp_path) / "README.md").read_text()
    page = render(card)
    assert set(re.findall(r"<(\w+)", page)) <= {
        "h1",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "code",
    }
    assert page.count("<tr>") == 3
    assert render(f"| a |\n|---|\n| {code('a|b`c')} |").count("<td>") == 1


@pytest.mark.parametrize("number", ["16.4", "+0.29", "-3", "−1.1", "0 (0 to 0.15)"])
def test_a_number_is_written_to_markdown_as_it_is(number):
    assert plain(number) == number


def test_an_explanation_with_markup_in_place_of_a_count_stays_text():
    from caft_lens.inspect.explain.explanations import Finding, _details

    finding = Finding("at", "x", "", SCRIPT, 4, 1, 2, 3.0, 0.1)  # type: ignore[arg-type]
    page = str(_details([finding]))
    assert SCRIPT not in page
    assert "&lt;script&gt;" in page


def test_a_panel_beside_its_static_rendering_escapes_what_that_holds(monkeypatch):
    from caft_widgets import ConceptBrowser

    panel = ConceptBrowser(None, concept_set(2).label({"L1.pc0": SCRIPT}), file=None)
    page = panel._copy()
    assert SCRIPT not in page
    assert page.count("mathjax_ignore") == 1


# -- what make does ----------------------------------------------------------------------------------------------------

PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
  *papermill*)
    mkdir -p runs/quickstart
    echo "{{}}" | tee runs/quickstart/result.json > runs/quickstart/00_quickstart.ipynb;;
  *nbformat.sign*) exit {status};;
  *psutil*) echo 1;;
esac
"""


@pytest.mark.parametrize("status", [0, 1])
def test_make_trusts_what_it_made_and_goes_on_where_that_fails(tmp_path, status):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in (
        "pyproject.toml",
        "constraints.txt",
        "notebooks/00_quickstart.ipynb",
        ".venv/.created",
        ".venv/.installed",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    log, python = tmp_path / "log", tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text(PYTHON.format(log=log, status=status))
    python.chmod(0o755)
    made = subprocess.run(["make", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    signed = [line for line in log.read_text().splitlines() if "nbformat.sign" in line]
    assert signed == [
        "-m nbformat.sign notebooks/00_quickstart.ipynb",
        "-m nbformat.sign runs/quickstart/00_quickstart.ipynb",
    ]


def test_the_kernel_that_make_installs_has_the_name_that_the_notebooks_have():
    (installed,) = re.findall(r'--name (\S+) --display-name "([^"]*)"', (ROOT / "Makefile").read_text())
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        spec = json.loads(path.read_text())["metadata"]["kernelspec"]
        assert (spec["name"], spec["display_name"]) == installed, path.name


def test_the_jupyterlab_that_make_installs_asks_nobody_for_news_and_keeps_what_was_set(tmp_path, monkeypatch):
    (script,) = re.findall(r"define QUIET_LAB\n(.*?)endef", (ROOT / "Makefile").read_text(), re.DOTALL)
    settings = tmp_path / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"a plugin": {"colour": "red"}}')
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    exec(script, {})
    assert json.loads(settings.read_text()) == {
        "a plugin": {"colour": "red"},
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    }


def test_html_is_built_in_one_place_alone():
    tags = re.compile(r"</?(div|p|table|td|th|tr|span|section|style|mark|code|h[1-6]|b|i|u|s|small|img|details)[ >]")
    found = []
    for path in [*sorted((ROOT / "caft_lens").rglob("*.py")), *sorted((ROOT / "widgets").glob("*.py"))]:
        # The worlds are about code that writes HTML.
        if {"display", "organism"} & set(path.relative_to(ROOT).parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node not in documentation
            and tags.search(node.value)
        ]
    assert not found
