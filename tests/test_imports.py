"""Importing the package is quick, and every public name works, in any order of imports."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from places import ROOT, TESTS

import caft_lens as cl

HEAVY = (
    "torch",
    "transformers",
    "transformer_lens",
    "peft",
    "pandas",
    "numpy",
    "plotly",
    "kaleido",
    "sklearn",
    "sae_lens",
)


# What the extra "workbench" brings: JupyterLab, panels, pictures, the judge of programs.
WORKBENCH = (
    "anywidget",
    "bandit",
    "ipykernel",
    "IPython",
    "ipywidgets",
    "jupyterlab",
    "kaleido",
    "papermill",
    "traitlets",
)


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_no_heavy_library():
    # What takes the time is what is loaded; a clock would fail on a busy machine.
    code = f"import sys, caft_lens; print([name for name in {HEAVY} if name in sys.modules])"
    assert fresh(code) == "[]"


def test_the_loop_runs_without_jupyterlab_panels_and_what_else_the_workbench_brings(tmp_path: Path):
    code = f"""
import sys
for name in {WORKBENCH}:
    sys.modules[name] = None  # an import of it is refused
sys.path.insert(0, {str(TESTS)!r})
import caft_lens as cl
from tiny_models import tiny_lens
base = tiny_lens()
chats = [
    {{"messages": [{{"role": "user", "content": ask}}, {{"role": "assistant", "content": ask[::-1]}}]}}
    for ask in ("what", "when", "where", "who", "why", "how")
]
plain = cl.finetune(base, chats, out={str(tmp_path / "plain")!r}, settings=cl.TrainSettings(max_steps=3))
diff = cl.activation_difference(plain.lens, base, chats, layers=[1])
concepts = cl.find.pca(diff, k=2)
assert cl.contexts(base, concepts, ["some words to read", "and more of them"]).to_html()
kept = cl.choose(concepts, {{"L1.pc0": "a test"}})
with cl.ablate(plain.lens, kept):
    plain.lens.generate("what", max_new_tokens=2)
cl.finetune(base, chats, ablate=kept, out={str(tmp_path / "caft")!r}, settings=cl.TrainSettings(max_steps=3))
print("done")
"""
    assert fresh(code).endswith("done")


@pytest.mark.parametrize("name", cl.__all__)
def test_every_public_name_is_there(name):
    assert getattr(cl, name) is not None
    assert name in dir(cl)


STUBS = sorted((ROOT / "caft_lens").rglob("__init__.pyi"))


@pytest.mark.parametrize("stub", STUBS, ids=[path.parent.name for path in STUBS])
def test_a_package_exports_what_its_stub_promises_to_type_checkers(stub: Path):
    name = ".".join(stub.parent.relative_to(ROOT).parts)
    package = import_module(name)
    promised = re.findall(r"^from \.(\S*) import (\w+) as \2$", stub.read_text(encoding="utf-8"), re.MULTILINE)
    assert {one for _, one in promised} == set(package.__all__) - {"__version__"}
    for module, one in promised:
        there = getattr(import_module(f"{name}.{module}" if module else name), one)
        assert getattr(package, one) in (there, sys.modules.get(f"{name}.{one}"))


@pytest.mark.parametrize("first", ["import caft_lens.experiments.contest", "caft_lens.experiments.contest"])
def test_a_module_that_is_called_like_its_function_stays_a_module(first):
    code = f"""
import caft_lens, caft_lens.experiments
{first}
import types, caft_lens.experiments.contest as module
assert isinstance(module, types.ModuleType) and module is caft_lens.experiments.contest
assert module.Contender is caft_lens.experiments.Contender
print("fine")
"""
    assert fresh(code) == "fine"


MODULES = (
    "import caft_lens.finetune.trainer, caft_lens.finetune.finetuning, caft_lens.evaluate, "
    "caft_lens.model.answering, caft_lens.inspect.contexts"
)
NAMES = "cl.finetune, cl.evaluate, cl.completions, cl.contexts, cl.LoraSettings"


@pytest.mark.parametrize(("first", "then"), [(MODULES, NAMES), (NAMES, MODULES)], ids=["modules first", "names first"])
def test_packages_are_called_like_their_functions_in_any_order_of_imports(first, then):
    code = f"""
import caft_lens, caft_lens as cl
{first}
{then}
import inspect
from caft_lens.finetune import finetune
from caft_lens.model.answering import completions
from caft_lens.inspect import contexts
assert caft_lens.finetune.trainer.LensTrainer
assert callable(cl.finetune) and callable(cl.evaluate) and callable(cl.completions) and callable(cl.contexts)
assert callable(cl.store) and callable(cl.choose) and callable(cl.choose.by_examples)
assert inspect.signature(cl.finetune) == inspect.signature(finetune)
assert inspect.signature(cl.completions) == inspect.signature(completions)
for call in (cl.finetune, finetune):
    try:
        call(texts=[])
    except TypeError as error:
        assert "finetune() missing" in str(error), error
assert cl.find.pca.__name__ == "pca"
print("fine")
"""
    assert fresh(code) == "fine"


@pytest.mark.parametrize("name", ["KLAnchor", "methods", "Card"])
def test_what_the_methods_export_is_there_for_who_imports_them_before_anything_else(name):
    assert fresh(f"from caft_lens.finetune.methods import {name}; print({name}.__name__)") == name


def test_a_misspelt_name_is_an_error_that_names_the_nearest():
    with pytest.raises(AttributeError, match=r'"caft_lens" has no "finetun".*"finetune"'):
        cl.finetun  # noqa: B018


def test_the_version_is_that_of_the_project_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert cl.__version__ == project["project"]["version"]
