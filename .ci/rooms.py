"""Print the rooms of caft_lens, the arrows between them, circles of files, and imports against the flow.

    python .ci/rooms.py           # make rooms
    python .ci/rooms.py --check   # and exit with 1 if there is a circle, an import against the flow or a room too many

Every import counts, also one for types only or inside a function. The order of the rooms is that of the contract in
pyproject.toml, [tool.importlinter].
"""

from __future__ import annotations

import ast
import sys
import tokenize
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import grimp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"caft_lens": ROOT / "caft_lens", "caft_data": ROOT / "data", "caft_widgets": ROOT / "widgets"}
MOST_ROOMS = 17


def order() -> list[str]:
    """The rooms, first the one that may import no other."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (flow,) = (one for one in settings["contracts"] if one["id"] == "flow")
    return flow["layers"][::-1]


def room(module: str) -> str:
    """`find` for `caft_lens.find.pca`; `caft_widgets` for all of its files."""
    first, *rest = module.split(".")
    return rest[0] if first == "caft_lens" and rest else first


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    with path.open("rb") as file:
        tokens = [
            one for one in tokenize.tokenize(file.readline) if one.string.strip() and one.type != tokenize.COMMENT
        ]
    lines = {number for one in tokens[1:] for number in range(one.start[0], one.end[0] + 1)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def imports() -> list[tuple[str, str]]:
    """Importer and imported, of every import between files of the three packages."""
    graph = grimp.build_graph(*FOLDERS, exclude_type_checking_imports=False, cache_dir=None)
    return sorted((one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one))


def circles(arrows: list[tuple[str, str]]) -> list[list[str]]:
    """Files that import each other, straight or around."""
    names = sorted({name for arrow in arrows for name in arrow})
    number = {name: index for index, name in enumerate(names)}
    rows, columns = np.array([[number[one], number[other]] for one, other in arrows]).T
    matrix = coo_array((np.ones(len(arrows)), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(matrix, directed=True, connection="strong")
    groups = defaultdict(list)
    for name, label in zip(names, labels, strict=True):
        groups[label].append(name)
    return [group for group in groups.values() if len(group) > 1]


def against_the_flow(arrows: list[tuple[str, str]], flow: list[str]) -> list[tuple[str, str]]:
    """Imports of a room by one before it, and of data or panels by the library."""
    rank = {name: position for position, name in enumerate([*flow, "caft_data", "caft_widgets"])}
    return [
        (one, other)
        for one, other in arrows
        if one != "caft_lens" and rank.get(room(other), -1) > rank.get(room(one), len(rank))
    ]


def main(*, check: bool) -> int:
    flow, arrows = order(), imports()
    files: Counter[str] = Counter()
    code: Counter[str] = Counter()
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            name = room(".".join([package, *path.relative_to(folder).with_suffix("").parts]))
            name = package if name == "__init__" else name
            files[name] += 1
            code[name] += lines_of_code(path)

    rooms = [path.parent.name for path in FOLDERS["caft_lens"].glob("*/__init__.py")]
    print(f"{len(rooms)} rooms in caft_lens, each with the rooms that it imports\n")
    print(f"{'room':13}{'files':>6}{'code':>8}   imports (how many times)")
    for name in [*flow, *sorted(set(files) - set(flow))]:
        used = Counter(room(other) for one, other in arrows if room(one) == name and room(other) != name)
        print(
            f"{name:13}{files[name]:6}{code[name]:8,}   {', '.join(f'{to} {used[to]}' for to in sorted(used))}".rstrip()
        )
    print(
        f"{'caft_lens':13}{sum(files[name] for name in [*flow, 'caft_lens']):6}"
        f"{sum(code[name] for name in [*flow, 'caft_lens']):8,}   in all"
    )

    rounds, upstream = circles(arrows), against_the_flow(arrows, flow)
    print(f"\n{len(rounds)} circles of files")
    for group in rounds:
        print("   " + ", ".join(group))
    print(f"\n{len(upstream)} imports against the flow")
    for one, other in upstream:
        print(f"   {one} -> {other}")
    unplaced = sorted(set(rooms) - set(flow))
    if unplaced:
        print(f"\nwithout a place in the flow: {', '.join(unplaced)}")
    return int(check and bool(rounds or upstream or unplaced or len(rooms) > MOST_ROOMS))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
