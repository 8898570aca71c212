"""What a user sees who asks for help: `cl.finetune?` or shift-tab in a notebook, `help(...)`, `inspect.getdoc`."""

from __future__ import annotations

import inspect
import pydoc
import types
from typing import Any

import pytest
from IPython.core.oinspect import Inspector

import caft_lens as cl
import caft_widgets
from caft_lens import audit, choose, course, evaluate, experiments, find, finetune
from caft_lens import inspect as inspection
from caft_lens.evaluate.evaluation import evaluate as evaluate_function
from caft_lens.finetune import methods
from caft_lens.finetune.finetuning import finetune as finetune_function

PACKAGES: dict[str, types.ModuleType] = {
    "cl": cl,
    "cl.audit": audit,
    "cl.choose": choose,
    "cl.course": course,
    "cl.find": find,
    "cl.inspect": inspection,
    "cl.evaluate": evaluate,
    "cl.finetune": finetune,
    "cl.finetune.arms": methods,
    "cl.experiments": experiments,
    "cl.judges": evaluate.judges,
    "caft_widgets": caft_widgets,
}
PUBLIC = [(f"{package}.{name}", module, name) for package, module in PACKAGES.items() for name in module.__all__]
CALLED_LIKE_THEIR_FUNCTION = {
    "audit": audit.audit,
    "finetune": finetune_function,
    "evaluate": evaluate_function,
    "choose": choose.choose,
}


def shown(thing: Any, name: str) -> dict[str, Any]:
    """What IPython's `?` and Jupyter's shift-tab show."""
    return dict(Inspector(theme_name="nocolor").info(thing, oname=name))


def parameters(thing: Any) -> list[str]:
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return []
    given = inspect.signature(thing).parameters.values()
    return [one.name for one in given if one.kind is not one.VAR_KEYWORD]


@pytest.mark.parametrize(("path", "module", "name"), PUBLIC, ids=[path for path, _, _ in PUBLIC])
def test_every_public_name_shows_what_it_does_how_it_is_called_and_every_argument(path, module, name):
    thing = getattr(module, name)
    if isinstance(thing, str):  # the version
        return
    info = shown(thing, path)
    said = info["docstring"]
    assert said
    assert said != "<no docstring>"
    assert len(said.splitlines()[0]) > 10
    if not callable(thing):  # a package that holds names
        return
    asked = parameters(thing)
    if asked:
        assert info["definition"] or info["init_definition"]
        section = next((said.split(f"{head}:", 1)[1] for head in ("Args", "Attributes") if f"{head}:" in said), "")
        missing = [one for one in asked if one not in section]
        assert not missing, f"{path} does not explain {missing}"


@pytest.mark.parametrize("name", CALLED_LIKE_THEIR_FUNCTION)
def test_a_module_that_is_called_like_its_function_is_documented_like_it(name):
    module, function = getattr(cl, name, None) or getattr(experiments, name), CALLED_LIKE_THEIR_FUNCTION[name]
    assert isinstance(module, types.ModuleType)
    assert inspect.getdoc(module) == inspect.getdoc(function)
    assert inspect.signature(module) == inspect.signature(function)
    info, alone = shown(module, name), shown(function, name)
    for key in ("docstring", "definition"):
        assert info[key] == alone[key]
    # Nothing else beside them: neither a second way to call it nor the documentation of modules.
    assert not info["call_def"]
    assert not info["call_docstring"]
    assert not info["class_docstring"]
    page = pydoc.plain(pydoc.render_doc(module))
    first = inspect.getdoc(function).splitlines()[0]
    assert page.index(first) < 300
    assert "Args:" in page
    assert f"    {name}(" in page


def test_a_call_of_such_a_module_is_told_by_the_function_what_is_wrong():
    with pytest.raises(TypeError, match=r"finetune\(\) missing"):
        cl.finetune(texts=[])
