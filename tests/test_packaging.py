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
from itertools import chain
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = {"caft_lens": ROOT / "caft_lens", "caft_data": ROOT / "data", "caft_widgets": ROOT / "widgets"}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built from a copy, so that the tree stays clean."""
    setuptools = pytest.importorskip("setuptools", reason="no setuptools to build a wheel with: make install")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"setuptools {setuptools.__version__} is too old to build a wheel with, 77 is needed: make install")
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
    for package, folder in PACKAGES.items():
        sources = [path.relative_to(folder) for path in folder.rglob("*.py")]
        missing = [str(path) for path in sources if f"{package}/{path.as_posix()}" not in names]
        assert not missing, f"{package} lacks {missing}: name the package in [tool.setuptools] packages"


def test_the_wheel_holds_the_data_and_nothing_that_python_left_behind(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    data = [
        p.relative_to(ROOT / "data") for p in (ROOT / "data").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ]
    missing = [str(path) for path in data if path.name[0] != "." and f"caft_data/{path.as_posix()}" not in names]
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


def test_no_import_goes_against_the_flow():
    """The contracts of [tool.importlinter], imports for types only and inside functions included."""
    code = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_at_most_seventeen_rooms_and_no_circle_of_files():
    done = subprocess.run([sys.executable, ROOT / ".ci/rooms.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _imports(path: Path) -> Iterator[str]:
    """Modules and names that a file imports, in full."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_and_no_remote_code_is_trusted(path: Path):
    roots = {module.split(".")[0] for module in _imports(path)}
    assert not roots & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
    # Its processes, yes; its files, which are pickles, no.
    joblib = {module for module in _imports(path) if module.split(".")[0] == "joblib"}
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
            assert allow is None or (isinstance(allow, ast.Constant) and allow.value is False), f"{line} unpickles"
        trust = given.get("trust_remote_code")
        assert not (isinstance(trust, ast.Constant) and trust.value is True), f"{line} runs remote code unasked"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _distributions(*requirements: str) -> set[str]:
    """Names as Python modules are spelled: `scikit_learn` for "scikit-learn>=1.5"."""
    return {re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower().replace("-", "_") for line in requirements}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_a_declared_requirement(package: str):
    declared = _distributions(*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["transport"])
    if package != "caft_lens":
        declared |= _distributions(*PROJECT["optional-dependencies"]["workbench"])
    optional = {"datasets", "IPython", "kaleido"}  # what a user brings, or what a notebook has
    distribution = {"sklearn": "scikit_learn", "yaml": "pyyaml", "Stemmer": "pystemmer", "ot": "pot"}
    known = sys.stdlib_module_names | optional | set(PACKAGES)
    for path in PACKAGES[package].rglob("*.py"):
        for root in {module.split(".")[0] for module in _imports(path)} - known:
            assert distribution.get(root, root).lower() in declared, f"{path.name} imports {root}"


def test_constraints_pin_every_direct_requirement_and_name_no_host():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line) for line in pins)
    direct = _distributions(*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values()))
    assert direct <= _distributions(*pins)
    assert "://" not in "\n".join(lines)


def test_the_citation_has_the_version_of_the_project():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


MOST_PARAMETERS = 9


def _public_functions(body: list[ast.stmt], within: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            yield within + node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public_functions(node.body, f"{node.name}.")


def _parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [one.arg for one in every if one is not None and one.arg not in ("self", "cls")]


def test_no_public_function_has_more_than_nine_parameters():
    """What travels through several functions is one value: `Scan`, `Sampling`, `TrainSettings`."""
    many = {
        f"{path.relative_to(ROOT)} {name}"
        for path in (ROOT / "caft_lens").rglob("*.py")
        if not path.name.startswith("_") or path.name == "__init__.py"
        for name, function in _public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
        if len(_parameters(function)) > MOST_PARAMETERS
    }
    assert not many
