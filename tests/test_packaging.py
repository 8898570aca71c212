"""What ships, and how the parts may lean on one another."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from places import ROOT

LIBRARY = ROOT / "caft_lens"
SOURCES = sorted(path for path in LIBRARY.rglob("*.py"))

# Text to evidence: a room may import those before it, never one after it.
ROOMS = (
    "_support",
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
    "experiments",
    "cli",
    "__main__",
)
RANK = {name: rank for rank, name in enumerate(ROOMS)}
# The world is drawn without a model, so that a judge costs no torch.
WORLD = ("grammar", "domains", "labels", "stories", "code", "judge", "code_judge", "quiz")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built from a copy, so that the tree stays clean."""
    setuptools = pytest.importorskip("setuptools", reason="no setuptools to build a wheel with: make install")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(
            f"setuptools {setuptools.__version__} is too old to build a wheel with, 77 is needed: make install"
        )
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("caft_lens", "widgets", "data"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        source,
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_source_file_of_the_three_packages(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    for folder, package in (("caft_lens", "caft_lens"), ("widgets", "caft_widgets"), ("data", "caft_data")):
        sources = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.py")]
        missing = [str(path) for path in sources if f"{package}/{path.as_posix()}" not in names]
        assert not missing, f"{package} lacks {missing}: name the package in [tool.setuptools] packages"


def test_the_wheel_holds_the_data_and_nothing_that_python_left_behind(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    data = [
        p.relative_to(ROOT / "data")
        for p in (ROOT / "data").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    ]
    missing = [
        str(path) for path in data if path.name[0] != "." and f"caft_data/{path.as_posix()}" not in names
    ]
    assert not missing
    assert "caft_lens/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "notebooks/"))]


def test_the_wheel_carries_licence_and_version(wheel: zipfile.ZipFile):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    text = wheel.read(metadata).decode()
    assert f"Version: {version('caft-lens')}" in text
    assert "License-Expression: MIT" in text
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_three_packages_import():
    code = "import caft_lens, caft_widgets, caft_data; print(caft_lens.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == version("caft-lens")


def _imports(path: Path, *, at_module_level: bool) -> Iterator[str]:
    """Modules that a file imports, in full; at module level is what runs when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _module_level(tree.body) if at_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(path, node)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = path.relative_to(ROOT).parent.parts
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _module_level(node.body)
            yield from _module_level(node.orelse)
        elif isinstance(node, (ast.Try, ast.With, ast.ClassDef)):
            yield from _module_level(node.body)
        else:
            yield node


def _part(path: Path) -> str:
    """The part of the library that a file belongs to: `find` for `caft_lens/find/pca.py`."""
    first = path.relative_to(LIBRARY).parts[0]
    return first.removesuffix(".py")


def test_every_room_of_the_library_has_its_place_in_the_flow():
    parts = {_part(path) for path in SOURCES} - {"__init__"}
    assert parts <= set(RANK), (
        f"say in ROOMS where {sorted(parts - set(RANK))} stands between text and evidence"
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_flow_one_way_from_text_to_evidence(path: Path):
    part = _part(path)
    if part in ("__init__", "organism"):
        return
    for module in _imports(path, at_module_level=True):
        target = module.split(".")[1] if module.startswith("caft_lens.") else None
        if target in RANK and part in RANK:
            assert RANK[target] <= RANK[part], f"{part} imports {module}, which comes after it"
        # Only the last step knows the organism: everything else works on any model.
        assert target != "organism" or part == "evaluate", f"{part} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_the_library_never_imports_the_widgets(path: Path):
    assert not [
        module
        for module in _imports(path, at_module_level=False)
        if module.split(".")[0] in ("caft_widgets", "widgets")
    ]


def test_the_world_and_its_judges_need_no_model():
    heavy = {"torch", "transformers", "transformer_lens", "peft"}
    for name in WORLD:
        for path in (LIBRARY / "organism" / f"{name}.py", *(LIBRARY / "organism" / name).glob("*.py")):
            if path.is_file():
                roots = {module.split(".")[0] for module in _imports(path, at_module_level=True)}
                assert not roots & heavy, f"{path.name} imports {sorted(roots & heavy)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_nothing_is_unpickled_and_no_remote_code_is_trusted(path: Path):
    roots = {module.split(".")[0] for module in _imports(path, at_module_level=False)}
    assert not roots & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
    # Its processes, yes; its files, which are pickles, no.
    joblib = {module for module in _imports(path, at_module_level=False) if module.split(".")[0] == "joblib"}
    assert joblib <= {"joblib", "joblib.Parallel", "joblib.delayed", "joblib.parallel_config"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert "joblib" not in {alias.name.split(".")[0] for alias in node.names}, "import its names"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        line = f"{path.name}:{node.lineno}"
        if name == "torch.load":
            weights_only = given.get("weights_only")
            assert isinstance(weights_only, ast.Constant), f"{line} unpickles"
            assert weights_only.value is True, f"{line} unpickles"
        if name in ("np.load", "numpy.load"):
            allow = given.get("allow_pickle")
            assert allow is None or (isinstance(allow, ast.Constant) and allow.value is False), (
                f"{line} unpickles"
            )
        trust = given.get("trust_remote_code")
        assert not (isinstance(trust, ast.Constant) and trust.value is True), (
            f"{line} runs remote code unasked"
        )


def test_every_import_of_the_library_is_a_declared_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower().replace("-", "_")
        for line in project["dependencies"]
    }
    optional = {"datasets", "IPython"}  # what a user brings, or what ipykernel always has
    distribution = {"sklearn": "scikit_learn", "yaml": "pyyaml", "Stemmer": "pystemmer"}
    for path in [*SOURCES, *(ROOT / "widgets").rglob("*.py")]:
        for module in _imports(path, at_module_level=False):
            root = module.split(".")[0]
            if root in sys.stdlib_module_names or root in {
                "caft_lens",
                "caft_widgets",
                "caft_data",
                *optional,
            }:
                continue
            assert distribution.get(root, root).lower() in declared, f"{path.name} imports {root}"


def test_constraints_pin_every_direct_requirement_and_name_no_host():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line) for line in pins)
    pinned = {line.split("==")[0].lower().replace("-", "_") for line in pins}
    direct = {
        re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower().replace("-", "_")
        for line in project["dependencies"]
    }
    assert direct <= pinned
    assert "://" not in "\n".join(lines)


def test_the_citation_has_the_version_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
