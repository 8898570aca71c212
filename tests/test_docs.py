"""The site: it builds without a network and without a warning, every link in it leads somewhere, and it asks no
other host for anything.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import posixpath
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from places import ROOT

pytestmark = pytest.mark.slow
FETCHED = {
    ("link", "href"),
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("source", "src"),
    ("source", "srcset"),
}
FETCHED |= {
    ("iframe", "src"),
    ("object", "data"),
    ("embed", "src"),
    ("video", "src"),
    ("audio", "src"),
    ("use", "href"),
}
FROM_ELSEWHERE = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)")


class Page(HTMLParser):
    """What a page names: its anchors, where its links lead, what a browser fetches for it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        text = file.read_text(encoding="utf-8")
        self.feed(text)
        self.fetched += FROM_ELSEWHERE.findall(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        canonical = tag == "link" and given.get("rel") in ("canonical", "prev", "next")
        for name, value in given.items():
            if (tag, name) in FETCHED and not canonical:
                addresses = [one.split()[0] for one in value.split(",")] if name == "srcset" else [value]
                self.fetched += addresses
                self.links += addresses


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [
        name
        for name in ("mkdocs", "material", "mkdocs_jupyter", "mkdocstrings")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        pytest.skip(f"the site is not built without {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("site")
    # A proxy that is not there: whoever would fetch something while building fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {file.relative_to(site).as_posix(): Page(file) for file in sorted(site.rglob("*.html"))}


def test_every_internal_link_and_anchor_of_the_site_leads_somewhere(site: Path, pages: dict[str, Page]):
    assert list(_broken(site, pages)) == []


def _broken(site: Path, pages: dict[str, Page]) -> Iterator[str]:
    for name, page in pages.items():
        if name == "404.html":  # shown at any depth, so that its links begin at the root of the site
            continue
        for link in page.links:
            parts = urlsplit(urljoin(name, link))
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            path = unquote(parts.path)
            if not (site / path).is_file():
                yield f"{name}: {link}"
            elif parts.fragment and path in pages and unquote(parts.fragment) not in pages[path].anchors:
                yield f"{name}: {link} (no such anchor)"


def test_no_page_asks_another_host_for_scripts_styles_fonts_or_pictures(site: Path, pages: dict[str, Page]):
    elsewhere = {
        f"{name}: {address}"
        for name, page in pages.items()
        for address in page.fetched
        if re.match(r"(https?:)?//", address)
    }
    elsewhere |= {
        f"{file.name}: {address}"
        for file in site.rglob("*.css")
        for address in FROM_ELSEWHERE.findall(file.read_text(encoding="utf-8"))
    }
    assert elsewhere == set()


def test_the_site_has_every_notebook_every_room_and_every_result(pages: dict[str, Page]):
    notebooks = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    rooms = {f"api/{path.parent.name}.html" for path in (ROOT / "caft_lens").glob("[!_]*/__init__.py")}
    results = ROOT / "benchmarks" / "results"
    results_pages = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in results.rglob("*.md")}
    assert notebooks | rooms | results_pages <= set(pages)


def test_every_page_leads_to_how_to_contribute_and_to_what_has_changed(pages: dict[str, Page]):
    for page in ("index.html", "concepts/index.html", "api/find.html"):
        inside = {posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link in pages[page].links}
        assert {"CONTRIBUTING.html", "CHANGELOG.html"} <= inside
    assert "docs/glossary.md" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "glossary.html" in pages["CONTRIBUTING.html"].links


def test_a_function_of_a_room_is_on_its_page_with_its_arguments(site: Path, pages: dict[str, Page]):
    assert "caft_lens.find.pca.pca" in pages["api/find.html"].anchors
    assert "Parameters" in (site / "api" / "find.html").read_text(encoding="utf-8")


def test_every_error_is_on_the_site_and_says_what_to_do(site: Path, pages: dict[str, Page]):
    from caft_lens._support import errors

    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.CaftLensError)]
    assert len(kinds) > 10
    assert [kind.__name__ for kind in kinds if "What to do: " not in (kind.__doc__ or "")] == []
    assert {kind.__name__.lower() for kind in kinds} <= pages["errors.html"].anchors


def test_every_method_of_fine_tuning_is_on_the_site(pages: dict[str, Page]):
    from caft_lens.finetune.methods import methods

    assert {*methods()} <= pages["concepts/methods.html"].anchors


def test_a_figure_of_a_notebook_can_be_hovered_over_on_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mkdocs")
    hooks = _hooks()
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    mime = {
        "application/vnd.plotly.v1+json": {"data": [], "layout": {"title": "<b>"}},
        "image/png": "aGk=\n",
        "text/plain": "Figure",
    }
    cells = [{"outputs": [{"data": mime}, {"name": "stdout"}]}, {"source": "# prose"}]
    notebook = tmp_path / "notebooks" / "figures.ipynb"
    notebook.parent.mkdir()
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    shown = json.loads((hooks._interactive(notebook) / "notebooks" / "figures.ipynb").read_text(encoding="utf-8"))
    data = shown["cells"][0]["outputs"][0]["data"]
    assert {*data} == {"text/html", "text/plain"}
    assert "&lt;b&gt;" in data["text/html"]
    assert '<img alt="" src="data:image/png;base64,aGk=">' in data["text/html"]
    notebook.write_text(json.dumps({"cells": cells[1:]}), encoding="utf-8")
    assert hooks._interactive(notebook) is None


def _hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_in_a_browser_pages_ask_no_other_host_no_script_fails_and_the_search_finds(site: Path, browser):
    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_address[1]}"
        page = browser.new_page(color_scheme="dark")
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        for name in ("index", "concepts/methods", "notebooks/00_quickstart", "api/find", "results"):
            page.goto(f"{here}/{name}.html", wait_until="networkidle")
        search = page.locator("input.md-search__input")
        search.click()
        search.press_sequentially("attention sink")
        page.locator("a.md-search-result__link[href*='concepts/sinks.html']").first.wait_for()
        page.close()
        server.shutdown()
    assert [url for url in asked if not url.startswith((here, "data:", "blob:"))] == []
    assert wrong == []


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_: Any) -> None:
        pass
