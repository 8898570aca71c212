"""What mkdocs does beside its plugins: brings in pages from outside of docs/, writes those that follow from the code,
mends notebooks.

Notebooks, results and cards lie on the site at the paths that they have in the repository, so that links between them
hold in both.
"""

from __future__ import annotations

import ast
import html
import importlib
import inspect
import json
import posixpath
import re
import tempfile
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FROM_OUTSIDE = (
    "notebooks/*.ipynb",
    "notebooks/exercises/*.ipynb",
    "notebooks/exercises/README.md",
    "benchmarks/results/**/*.md",
    "benchmarks/results/**/*.png",
    "data/*/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
# The rooms in the order of their flow: a file imports only from its own and from those before it.
ROOMS = [
    "display",
    "text",
    "model",
    "activations",
    "saes",
    "concepts",
    "find",
    "inspect",
    "choose",
    "finetune",
    "evaluate",
    "audit",
    "experiments",
    "course",
]
FOLDERS = {f"caft_lens.{room}": f"caft_lens/{room}" for room in ROOMS} | {
    "caft_widgets": "widgets",
    "caft_data.worlds": "data/worlds",
}
FIGURE = "application/vnd.plotly.v1+json"
COPIES = tempfile.TemporaryDirectory(prefix="site-")
"""Of notebooks as the site shows them; gone when mkdocs ends."""
LINK = re.compile(r"(\]\(|\b(?:src|href|srcset)=\")([^)\s\"#]+)(#[^)\s\"]*)?(?=[)\s\"])")


class Examples(griffe.Extension):
    """Examples of docstrings are read as code: what the parser knows is "Examples", and here it is "Example"."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    for pattern in FROM_OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            uri = path.relative_to(ROOT).as_posix()
            root = _interactive(path) or ROOT
            files.append(File(uri, str(root), config.site_dir, config.use_directory_urls))
    library = Path(importlib.import_module("plotly").__file__ or "").parent / "package_data" / "plotly.min.js"
    files.append(File.generated(config, "assets/plotly.min.js", abs_src_path=str(library)))
    for name, folder in FOLDERS.items():
        page = f"api/{name.removeprefix('caft_lens.')}.md"
        files.append(File.generated(config, page, content=_room(name, ROOT / folder)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    for word, written in {
        "<!-- errors -->": _errors,
        "<!-- public names -->": _public_names,
        "<!-- methods -->": _methods,
    }.items():
        if word in markdown:
            markdown = markdown.replace(word, written())
    if page.file.abs_src_path is None:
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def on_the_site(link: re.Match[str]) -> str:
        target = _target(link[2], page, files)
        return f"{link[1]}{posixpath.relpath(target.src_uri, here or '.')}{link[3] or ''}" if target else link[0]

    return LINK.sub(on_the_site, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A notebook in the site's own style: without the half megabyte of styles and the scripts that mkdocs-jupyter
    brings.
    """
    if not page.file.src_uri.endswith(".ipynb"):
        return content
    content = re.sub(r"<(script|style)\b.*?</\1>", "", content, flags=re.DOTALL)
    content = re.sub(
        r'<div class="zeroclipboard-container">.*?</clipboard-copy>\s*</div>', "", content, flags=re.DOTALL
    )
    content = re.sub(r'<div class="clipboard-copy-txt".*?</div>', "", content, flags=re.DOTALL)
    content = content.replace("highlight-ipynb", "highlight")

    def on_the_site(link: re.Match[str]) -> str:
        target = _target(html.unescape(link[2]), page, files)
        return f"{link[1]}{target.url_relative_to(page.file)}{link[3] or ''}" if target else link[0]

    return LINK.sub(on_the_site, content)


def _interactive(path: Path) -> Path | None:
    """The root of a copy of a notebook whose figures can be hovered over; `None` where there is no figure in it."""
    if path.suffix != ".ipynb" or FIGURE not in (text := path.read_text(encoding="utf-8")):
        return None
    dark = json.dumps(importlib.import_module("caft_lens.display.theme").DARK)
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if FIGURE in data:
                figure = html.escape(json.dumps(data.pop(FIGURE), separators=(",", ":")))
                picture = data.pop("image/png", "").replace("\n", "")
                shown = f'<img alt="" src="data:image/png;base64,{picture}">' if picture else ""
                data["text/html"] = f'<div data-figure="{figure}" data-dark="{html.escape(dark)}">{shown}</div>'
    root = Path(COPIES.name)
    copy = root / path.relative_to(ROOT)
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(json.dumps(notebook), encoding="utf-8")
    return root


def _target(link: str, page: Page, files: Files) -> File | None:
    """The file of the site that a link in the repository means; `None` for other hosts and for what mkdocs finds by
    itself.
    """
    if re.match(r"[a-z]+:|/|data:", link) or page.file.abs_src_path is None:
        return None
    source = page.file.src_uri if page.file.src_dir != str(ROOT / "docs") else f"docs/{page.file.src_uri}"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return files.get_file_from_path(path.removeprefix("docs/"))


def _room(name: str, folder: Path) -> str:
    """The page of a room: what it is for, its files, and everything public in them."""
    docs = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in folder.rglob("*.py")}
    modules = sorted(path for path in docs if not any(part.startswith("_") for part in path.relative_to(folder).parts))
    lines = [
        f"# {name}",
        "",
        _paragraph(docs.get(folder / "__init__.py", "")),
        "",
        "| module | |",
        "| --- | --- |",
    ]
    for path in modules:
        inside = path.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
        lines.append(f"| [`{inside}`][{name}.{inside}] | {_paragraph(docs[path]).replace('|', '&#124;')} |")
    for path in modules:
        inside = path.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
        lines += [
            "",
            f"::: {name}.{inside}",
            "    options: {show_root_heading: true, show_root_toc_entry: true, heading_level: 2}",
        ]
    return "\n".join(lines) + "\n"


def _paragraph(docstring: str) -> str:
    return " ".join(docstring.split("\n\n")[0].split())


def _errors() -> str:
    """Every error of the library: what it means, what to do, what it is besides, and where it comes from."""
    errors = importlib.import_module("caft_lens._support.errors")
    raised: dict[str, set[str]] = {}
    for path in sorted((ROOT / "caft_lens").rglob("*.py")):
        room = path.relative_to(ROOT / "caft_lens").parts[0].removesuffix(".py")
        for name in re.findall(r"\braise (?:errors\.)?(\w+)", path.read_text(encoding="utf-8")):
            raised.setdefault(name, set()).add(room)
    lines = []
    for name, one in vars(errors).items():
        if not (inspect.isclass(one) and issubclass(one, errors.CaftLensError) and one.__module__ == errors.__name__):
            continue
        also = [f"`{base.__name__}`" for base in one.__bases__ if base is not Exception]
        rooms = [room for room in ("_support", *ROOMS) if room in raised.get(name, ())]
        lines += [
            f"### {name}",
            "",
            inspect.cleandoc(one.__doc__ or "").replace("What to do:", "**What to do:**"),
            "",
        ]
        lines += (
            [f"*Is also:* {', '.join(also)}." + (f" *Raised in:* {', '.join(rooms)}." if rooms else ""), ""]
            if also
            else []
        )
    return "\n".join(lines)


def _methods() -> str:
    """The ways to fine-tune, from their cards: a table of all, and each with its idea, family by family."""
    known = importlib.import_module("caft_lens.finetune.methods").methods()
    families = importlib.import_module("caft_lens.finetune.protocol").FAMILIES
    tests = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests/finetune").glob("test_*.py"))}
    head = "method | equation | needs | costs beside plain fine-tuning | source | file, test"
    lines = [f"| {head} |", "| --- | --- | --- | --- | --- | --- |"]
    said = []
    for family in families:
        said += [f"## {family.capitalize()}", ""]
        for name, method in known.items():
            card = method.card
            if card.family != family:
                continue
            proof = re.compile(rf'\b{method.__name__}\(|"{name}"')
            test = max(tests, key=lambda path: len(proof.findall(tests[path])))
            paper = f"[arXiv {card.arxiv}](https://arxiv.org/abs/{card.arxiv})"
            cells = [
                f"[{name}](#{name})",
                _cell(card.equation),
                ", ".join(method.needs()) or "–",
                _cell(card.cost),
                paper if card.arxiv else _cell(card.source),
                f"[`{method.__module__.rpartition('.')[2]}.py`][{method.__module__}], `{test.relative_to(ROOT)}`",
            ]
            lines.append(f"| {' | '.join(cells)} |")
            source = f"{card.source}, {paper}" if card.arxiv else card.source
            said += [f"### {name}", "", card.idea, "", "```text", card.equation, "```", "", f"*Source:* {source}.", ""]
    return "\n".join([*lines, "", *said])


def _cell(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _public_names() -> str:
    """A table of what `import caft_lens as cl` gives, with the place where each is described."""
    cl = importlib.import_module("caft_lens")
    lines = ["| name | |", "| --- | --- |"]
    for name in sorted(set(cl.__all__) - {"__version__"}, key=str.lower):
        value = getattr(cl, name)
        where = f"{value.__module__}.{value.__qualname__}" if not inspect.ismodule(value) else value.__name__
        lines.append(f"| [`cl.{name}`][{where}] | {_paragraph(inspect.getdoc(value) or '')} |")
    return "\n".join(lines)
