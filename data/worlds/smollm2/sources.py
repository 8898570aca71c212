"""Texts that a machine holds already, as paragraphs: documentation of Python, of its packages, and of Debian.

    python_documentation    docstrings and comments of the standard library, and the reference that `pydoc` shows
    package_documentation   what installed packages say of themselves, and their docstrings
    system_documentation    /usr/share/doc, manual pages, info, the manual of vim

Each gives `Origin`s in an order that a hash of their names decides, and reads none before it is asked to. `paragraphs`
cleans what was read: no markup, no addresses, nothing that names this machine or the people who wrote it.
"""

from __future__ import annotations

import ast
import getpass
import gzip
import hashlib
import inspect
import re
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from html.parser import HTMLParser
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from caft_lens._support.files import sha256

SYSTEM = Path("/usr/share")
SHORTEST = 30
"""Characters below which a paragraph is a heading or a scrap."""
LETTERS, PLAIN = 0.6, 0.97
"""Least share of a paragraph that are letters; that are ASCII."""
_MOST = 2_000_000  # bytes of a file; longer ones are data


class Origin(NamedTuple):
    """One file, or what stands for it."""

    name: str
    """The same on every machine that holds it."""
    family: str
    """What belongs together, such as the pages of one program."""
    read: Callable[[], str]


# -- where texts are --------------------------------------------------------------------------------------------------


def python_documentation() -> list[Origin]:
    """Docstrings and comments of the standard library without its tests, and the language reference of `pydoc`."""
    from pydoc_data.topics import topics

    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}
    files = [path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts)]
    found = [
        Origin(name := path.relative_to(root).as_posix(), name.split("/")[0], partial(_python, path)) for path in files
    ]
    return _mixed([*found, *(Origin(f"topic {name}", f"topic {name}", partial(str, topics[name])) for name in topics)])


def package_documentation() -> list[Origin]:
    """What installed packages say of themselves, and the docstrings and comments in them, tests apart."""
    found = []
    for one in distributions():
        name = one.metadata["Name"] or ""
        if not name or name.replace("_", "-").lower().startswith(("caft-", "caft_")):
            continue  # a project's own texts would be read by what is made to study it
        found.append(Origin(f"{name} METADATA", name, partial(_described, one)))
        for file in one.files or ():
            parts = set(file.parts)
            if file.suffix == ".py" and not {"tests", "test", "testing", "..", "_vendor"} & parts:
                found.append(Origin(file.as_posix(), name, partial(_python, Path(str(file.locate())))))
    return _mixed(found)


def system_documentation(root: Path = SYSTEM) -> list[Origin]:
    """English documentation that the system's packages brought, change logs and licences apart; none on other systems.

    Args:
        root: Where it lies.
    """
    kinds: list[tuple[str, Callable[[str], str]]] = [
        ("man/man[1-8]/*", without_roff),
        ("info/*.info*", without_info),
        ("vim/*/doc/*.txt", _plain),
        ("doc/**/*.txt*", _plain),
        ("doc/**/*README*", _plain),
        ("doc/**/*.md*", without_markdown),
        ("doc/**/*.rst*", without_markdown),
        ("doc/**/*.html*", without_html),
    ]
    found: dict[str, Origin] = {}
    for pattern, clean in kinds:
        for path in root.glob(pattern):
            name = path.relative_to(root).as_posix()
            if (
                name in found
                or path.is_symlink()
                or not path.is_file()
                or path.suffix not in (".gz", ".txt", ".md", ".rst", ".html", "")
                or re.search(r"(?i)changelog|changes|copyright|licen[sc]e|authors|credits|thanks|relnotes", name)
            ):
                continue
            folder, rest = name.split("/")[0], name.split("/")[1]
            family = re.split(r"[-_.]", path.name)[0] if folder in ("man", "info") else rest
            found[name] = Origin(name, family, partial(_file, path, clean))
    return _mixed(found.values())


def _mixed(origins: Iterable[Origin]) -> list[Origin]:
    return sorted(origins, key=lambda one: sha256(one.name))


# -- reading ----------------------------------------------------------------------------------------------------------


def _file(path: Path, clean: Callable[[str], str]) -> str:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        return clean(content.decode("utf-8")) if len(content) <= _MOST else ""
    except (OSError, EOFError, UnicodeDecodeError):
        return ""


def _plain(text: str) -> str:
    return text


def _python(path: Path) -> str:
    """Docstrings and blocks of comments of a file, in its order."""
    return _file(path, python_prose)


def python_prose(source: str) -> str:
    """Docstrings and blocks of comments, without the code between them.

    Example:
        >>> python_prose('# One.\\n# Two.\\nx = 1\\ndef f():\\n    \"\"\"Three.\"\"\"\\n')
        'One.\\nTwo.\\n\\nThree.'
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    parts: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[0] if node.body else None
            if (
                isinstance(body, ast.Expr)
                and isinstance(body.value, ast.Constant)
                and isinstance(body.value.value, str)
            ):
                parts.append((body.lineno, inspect.cleandoc(body.value.value)))
    block: list[str] = []
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        bare = line.strip()
        if bare.startswith("#"):
            block.append(bare.lstrip("#!").removeprefix(" "))
        elif block:
            parts.append((number, "\n".join(block)))
            block = []
    return without_markdown("\n\n".join(text for _, text in sorted(parts)))


def _described(distribution: object) -> str:
    said = distribution.metadata.get_payload()  # type: ignore[attr-defined]
    return without_markdown(str(said or ""))


# -- markup -----------------------------------------------------------------------------------------------------------

_INLINE = re.compile(
    r"^[.'] *(?:B|I|BI|BR|IB|IR|RB|RI|SM|SB|Nm|Fl|Ar|Cm|Pa|Xr|Dq|Sq|Em|Sy|Va|Ev|Ic|Op|It|IP|TP) +(.*)$"
)
_HEADING = re.compile(r"^[.'] *(?:SH|SS|Sh|Ss) +(.*)$")
_CHARACTERS = {"aq": "'", "dq": '"', "oq": "'", "cq": "'", "lq": '"', "rq": '"', "en": "-", "em": "--", "hy": "-"}
_CHARACTERS |= {"bu": "*", "co": "(c)", "ti": "~", "ha": "^", "ga": "`", "rs": "\\", "->": "->", "mu": "x"}


def without_roff(text: str) -> str:
    """A manual page without its markup.

    Example:
        >>> without_roff('.SH NAME\\nsed \\\\- stream \\\\fIeditor\\\\fR\\n.PP\\nIt\\n.B filters\\ntext.')
        'NAME\\n\\nsed - stream editor\\n\\nIt\\nfilters\\ntext.'
    """
    lines: list[str] = []
    for line in text.splitlines():
        if found := _HEADING.match(line):
            lines += ["", found[1].strip('"'), ""]
        elif found := _INLINE.match(line):
            lines.append(re.sub(r'"([^"]*)"', r"\1", found[1]))
        elif line[:1] in (".", "'"):
            lines += [""] * bool(re.match(r"[.'] *(PP|P|LP|Pp|sp|br|HP|RS|RE)\b", line))
        else:
            lines.append(line)
    said = re.sub(
        r"\\(?:f\(..|f\[\w*\]|f.|s[-+]?\d+|\*\(..|\*\[[^]]*\]|\*.|[&%,/:|^cd]|\"[^\n]*)", "", "\n".join(lines)
    )
    said = re.sub(r"\\(?:\((..)|\[([^]]*)\])", lambda found: _CHARACTERS.get(found[1] or found[2], ""), said)
    return re.sub(r"\\(.)", r"\1", said.replace("\\e", "\\\\").replace("\\ ", " ")).strip()


def without_info(text: str) -> str:
    """A manual of info without menus and the lines that lead from node to node.

    Example:
        >>> page = "\\x1f\\nFile: a.info,  Node: Top\\n\\n1 Start\\n*******\\n\\nIt ‘is’.\\n* Menu:\\n* One::  one"
        >>> without_info(page)
        "1 Start\\n\\nIt 'is'."
    """
    kept = [
        line
        for line in text.replace("\x1f", "").splitlines()
        if not re.match(r"File: |\* |[*=.-]{3,}$|\s+\(line +\d+\)|(START|END|INFO)-", line)
    ]
    return "\n".join(kept).translate(str.maketrans("‘’“”–", "''\"\"-")).strip()


def without_markdown(text: str) -> str:
    """Markdown or reStructuredText as plain text: words of links and roles stay, rules, pictures and tags go.

    Example:
        >>> without_markdown("# On *it*\\n\\nSee [the list](a.html), :class:`~a.List` and ``x``.\\n\\n---")
        'On it\\n\\nSee the list, a.List and x.'
    """
    said = re.sub(r"<!--.*?-->|!\[[^]]*\]\([^)]*\)|<[/a-zA-Z][^<>\n]*>", "", text, flags=re.DOTALL)
    said = re.sub(r"\[([^][]*)\]\([^()\s]*\)", r"\1", said)
    said = re.sub(r":[a-z:+-]+:`[~!]?([^`<]*?)(?: *<[^>`]*>)?`", r"\1", said)
    said = re.sub(r"`([^`<\n]+?) *<[^>`]*>`_{1,2}", r"\1", said)
    said = re.sub(r"(?m)^ *\.\. .*$|^ *[-=~^*#+\"'`_.:|]{3,} *$|^ *#{1,6} +", "", said)
    said = re.sub(r"(?m)^ *(```|~~~).*$", "", said)
    return re.sub(r"\*{1,2}(\w[^*\n]*?)\*{1,2}|`{1,2}([^`\n]+)`{1,2}", lambda found: found[1] or found[2], said).strip()


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.silent += tag in ("script", "style", "head", "nav")
        if tag in ("p", "div", "h1", "h2", "h3", "h4", "pre", "dt", "dd", "li", "tr", "table", "ul"):
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in ("script", "style", "head", "nav") and self.silent > 0

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts.append(data)


def without_html(text: str) -> str:
    """The words of a page.

    Example:
        >>> without_html("<head><title>x</title></head><p>One <b>two</b></p><p>3 &lt; 4</p>")
        'One two\\n\\n3 < 4'
    """
    reader = _Html()
    reader.feed(text)
    return "".join(reader.parts).strip()


# -- paragraphs -------------------------------------------------------------------------------------------------------


def paragraphs(text: str) -> Iterator[str]:
    """What of a text is prose, paragraph by paragraph: lines that were broken for width are joined, code keeps its own.

    Left out: headings, tables, other languages, and whatever names a person or this machine.

    Example:
        >>> page = "A heading\\n\\nThis line is broken for width\\nand goes on.\\n\\nAsk joe@example.org for the rest."
        >>> list(paragraphs(page))
        ['This line is broken for width and goes on.']
    """
    text = text.replace("\r", "").replace("\t", "    ")
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f\u200b-\u200f\ufeff]", "", text)
    for part in re.split(r"\n\s*\n", text):
        lines = [line.rstrip() for line in part.split("\n") if line.strip()]
        if not lines:
            continue
        indents = [len(line) - len(line.lstrip()) for line in lines]
        lines = [line[min(indents) :] for line in lines]
        if max(indents) == min(indents) and not _list(lines):
            told = re.sub(r" {2,}", " ", " ".join(lines))
        else:
            told = "\n".join(lines)
        if len(told) >= SHORTEST and is_prose(told) and not names_somebody(told):
            yield told


def _list(lines: list[str]) -> bool:
    return any(re.match(r"[-*+o>$#%] |>>>|\d+[.)] ", line) for line in lines[1:])


def is_prose(text: str) -> bool:
    """Whether it is mostly letters, in English characters.

    Example:
        >>> is_prose("It is late."), is_prose("| 1 | 2 |"), is_prose("日本語の文")
        (True, False, False)
    """
    solid = re.sub(r"\s", "", text)
    return (
        bool(solid)
        and sum(map(str.isalpha, solid)) >= LETTERS * len(solid)
        and sum(map(str.isascii, solid)) >= PLAIN * len(solid)
        and max(map(len, text.split())) <= 80
    )


def names_somebody(text: str) -> bool:
    """Whether a text names a person who wrote it, or this machine: addresses, copyrights, its folders and its user.

    Example:
        >>> names_somebody("(c) 2020 Jane Doe"), names_somebody("Written by Jane"), names_somebody("A list of paths.")
        (True, True, False)
    """
    if re.search(r"(?i)\S@\S+\.\S|copyright|\(c\)|©|all rights reserved|written by|maintained by|\bauthors?\b", text):
        return True
    return any(word in text for word in _here())


@cache
def _here() -> tuple[str, ...]:
    """Words that identify this machine."""
    folders = {Path.home(), Path.cwd(), Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[3]}
    words = {str(path) for path in folders if len(path.parts) > 1}
    # A short name of a user or a machine is a word like any other, and in a text on its own says nothing.
    with_names = {f"/home/{getpass.getuser()}", f"/Users/{getpass.getuser()}", socket.gethostname()}
    ordinary = {"localhost", "root", "debian", "ubuntu"}
    return tuple(sorted(words | {word for word in with_names if len(word) > 4 and word.lower() not in ordinary}))


def key(text: str) -> str:
    """By what two paragraphs are the same: case, spaces, digits and punctuation aside.

    Example:
        >>> key("Version 2.1 is  out.") == key("version 3.0 is out")
        True
    """
    return hashlib.sha256(re.sub(r"[\W\d_]+", " ", text.casefold()).strip().encode()).hexdigest()
