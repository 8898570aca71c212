"""A report says the same in HTML, which loads nothing, and in Markdown, and shows every text as it is."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from caft_lens.display import pictures, theme
from caft_lens.display.report import Heading, Picture, Table, Words, html, write

EVIL = "<script>alert(1)</script> | *x* ![y](http://z) {{ 7 * 7 }} {% raw %} \"'"


class Read(HTMLParser):
    """What a browser finds: tags, text, and what would be loaded."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self.loaded = "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [
            value for name, value in attributes if name in ("src", "href") and not value.startswith("data:")
        ]

    def handle_data(self, data):
        self.text += data


def parts() -> list:
    return [
        Heading(EVIL),
        Words(EVIL, quiet=True),
        Words("two\nlines"),
        Table([EVIL, "number"], [[EVIL, "1"], ["b", "2"]], numbers=1, folded=EVIL),
        Table(["a"], [["1"]]),
    ]


def test_whatever_a_report_is_told_is_text_in_its_page_and_no_tag_or_template():
    read = Read(html(EVIL, parts()))
    assert set(read.tags) == {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "details",
        "summary",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert read.text.count(EVIL) == 7
    assert "49" not in read.text
    assert read.loaded == []


def test_markdown_has_the_same_cells_and_no_markup_of_what_it_is_told(tmp_path):
    page, words = write(tmp_path, EVIL, parts(), name="mine")
    assert (page.name, words.name) == ("mine.html", "mine.md")
    said = words.read_text()
    assert "<script>" not in said
    assert "![" not in said
    assert "two ⏎ lines" in said
    assert [line.count(" | ") for line in said.splitlines() if line.startswith("| ")] == [1] * 4 + [0] * 3
    assert "| --- | ---: |" in said


@pytest.fixture
def drawn():
    return theme.figure([200], [100]).add_scatter(x=[1, 2], y=[1, 2])


def test_a_figure_is_in_the_page_and_as_a_picture_beside_the_markdown(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "picture", lambda figure, kind, scale: b"\x89PNG")
    page, words = write(tmp_path, "t", [Picture("line", drawn, "A <line>.")])
    read = Read(page.read_text())
    assert "figure" in read.tags
    assert "A <line>." in read.text
    assert read.loaded == []
    assert "![A &lt;line&gt;.](report_line.png)" in words.read_text()
    assert (tmp_path / "report_line.png").read_bytes()[1:4] == b"PNG"


def test_where_no_picture_can_be_made_the_markdown_says_where_the_figure_is(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(theme, "png", lambda figure, scale=1: None)
    monkeypatch.setattr(theme, "html", lambda figure, first: f"<i>{first}</i>")
    shown = [Picture("a", drawn, "One."), Picture("b", drawn, "Two.")]
    page, words = write(tmp_path, "t", shown)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["report.html", "report.md"]
    assert "One. (Figure in report.html.)" in words.read_text()
    assert "<i>True</i>" in page.read_text()
    assert page.read_text().count("<i>") == 2


def test_the_folder_of_a_report_is_made(tmp_path):
    assert Path(write(tmp_path / "deep/er", "t", [])[0]).is_file()
