"""Reports: headings, paragraphs, tables and figures as one HTML file that needs no network, or Markdown with pictures.

Both are written from the same parts. Everything in them is text and is shown as it is: in HTML all of it is escaped, in
Markdown nothing of it is markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from caft_lens._support.files import atomic_path
from caft_lens.display import theme
from caft_lens.display.html import NO_MATHS
from caft_lens.display.markdown import plain

if TYPE_CHECKING:
    from jinja2 import Template

LINE = " ⏎ "
"""A line break, in Markdown."""
SHARP = 1.5
"""Pixels of a picture to one of its figure."""


@dataclass(frozen=True)
class Heading:
    """A section begins."""

    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph; a quiet one is of less weight."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        head: Names of the columns.
        rows: Cells, row by row.
        numbers: From this column on they are numbers; `None` where none is.
        folded: A title that is clicked to see the table; "" for one that is always seen.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int | None = None
    folded: str = ""

    def is_number(self, column: int) -> bool:
        """Whether a column is of numbers."""
        return self.numbers is not None and column >= self.numbers


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: Of its file, beside the Markdown.
        figure: As `display.theme` makes it.
        says: What it shows.
    """

    name: str
    figure: Any
    says: str


Part = Heading | Words | Table | Picture


def write(folder: str | Path, title: str, parts: Iterable[Part], *, name: str = "report") -> tuple[Path, Path]:
    """Write a report: an HTML file that holds all that it shows, and a Markdown file with pictures beside it.

    Args:
        folder: Where to.
        title: Of the report.
        parts: What it says, in order.
        name: Of the files: `<name>.html`, `<name>.md` and `<name>_<picture>.png`. Without a Chromium there are no
            pictures; the Markdown says so.

    Returns:
        The HTML file and the Markdown file.

    Example:
        >>> from tempfile import mkdtemp
        >>> pies = Table(["pie", "g"], [["apple", "300"]], numbers=1)
        >>> page, words = write(mkdtemp(), "Pies", [Heading("1 < 2"), pies])
        >>> "<h2>1 &lt; 2</h2>" in page.read_text()
        True
        >>> print(words.read_text())
        # Pies
        <BLANKLINE>
        ## 1 &lt; 2
        <BLANKLINE>
        | pie | g |
        | --- | ---: |
        | apple | 300 |
        <BLANKLINE>
    """
    folder, parts = Path(folder), list(parts)
    page, words = folder / f"{name}.html", folder / f"{name}.md"
    _keep(words, "\n\n".join([f"# {plain(title)}", *_markdown(parts, folder, name)]) + "\n")
    _keep(page, html(title, parts))
    return page, words


def html(title: str, parts: Sequence[Part]) -> str:
    """A report as a page.

    Args:
        title: Of the report.
        parts: What it says, in order.
    """
    # The kind of each part, the part, and of a figure its HTML; what draws figures comes with the first.
    pictures = [part for part in parts if isinstance(part, Picture)]
    drawn = {id(part): Markup(theme.html(part.figure, part is pictures[0])) for part in pictures}
    shown = [(type(part).__name__, part, drawn.get(id(part))) for part in parts]
    return _template().render(title=title, parts=shown, no_maths=NO_MATHS)


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.jinja")


def _markdown(parts: Sequence[Part], folder: Path, name: str) -> Iterator[str]:
    for part in parts:
        match part:
            case Heading(text):
                yield f"## {plain(text)}"
            case Words(text):
                yield plain(text, LINE)
            case Table():
                yield from [f"**{plain(part.folded)}**"] if part.folded else []
                yield _markdown_table(part)
            case Picture(of, figure, says):
                drawn, file = theme.png(figure, SHARP), f"{name}_{of}.png"
                if drawn is not None:
                    _keep(folder / file, drawn)
                yield f"![{plain(says)}]({file})" if drawn else f"{plain(says)} (Figure in {name}.html.)"


def _markdown_table(table: Table) -> str:
    lines = [
        [plain(cell, LINE) for cell in table.head],
        ["---:" if table.is_number(column) else "---" for column in range(len(table.head))],
        *([plain(cell, LINE) for cell in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _keep(path: Path, content: str | bytes) -> None:
    with atomic_path(path) as file:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
