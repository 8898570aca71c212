"""What a newcomer mixes up is refused in words that say what was meant."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadType, NotInstalled, UnknownAttribute
from caft_lens._support.keywords import values_of
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.evaluate.judging import Form
from caft_lens.finetune.run import Run
from caft_lens.model.lens import Lens
from tests.tiny_models import tiny_lens

TEXTS = cl.data([{"prompt": "Hi", "answer": "Go away."}, {"prompt": "Yes?", "answer": "No, never."}])


@pytest.fixture(scope="module")
def base() -> Lens:
    return tiny_lens()


@pytest.fixture(scope="module")
def found(base: Lens) -> ConceptSet:
    concepts = [
        Concept(f"L0.d{i}", "blocks.0.hook_resid_post", torch.eye(base.d_model)[i], source="made") for i in range(2)
    ]
    return ConceptSet(concepts).for_model(base)


def test_a_run_says_where_its_model_is(base: Lens, tmp_path: Path) -> None:
    run = cl.finetune(base, TEXTS, cl.TrainSettings(max_steps=1), out=tmp_path / "run")
    for name in ("name", "d_model", "generate", "hook_name"):
        with pytest.raises(UnknownAttribute, match=r"run\.lens"):
            getattr(run, name)
        assert not hasattr(run, name)
    for name in ("nonsense", "_parts", "__array__"):
        with pytest.raises(AttributeError) as caught:
            getattr(run, name)
        assert not isinstance(caught.value, UnknownAttribute)
    for twin in (copy.copy(run), pickle.loads(pickle.dumps(Run.load(run.folder)))):
        assert twin.folder == run.folder
    assert run.lens.d_model == base.d_model
    with pytest.raises(BadType, match=r"run\.lens"):
        cl.finetune(run, TEXTS, out=tmp_path / "again")  # type: ignore[arg-type]


def test_finetune_wants_a_lens_and_a_folder(base: Lens, found: ConceptSet, tmp_path: Path) -> None:
    with pytest.raises(BadType, match=r'cl\.load\("pocket"\)'):
        cl.finetune("pocket", TEXTS, out=tmp_path / "run")  # type: ignore[arg-type]
    (tmp_path / "m.csv").write_text("a")
    with pytest.raises(BadArgument, match="is a file"):
        cl.finetune(base, TEXTS, out=tmp_path / "m.csv")
    with pytest.raises(BadType, match=r"f\[:1\]"):
        cl.finetune(base, TEXTS, out=tmp_path / "run", ablate=found[0])  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


def test_concepts_and_texts_by_the_wrong_key(base: Lens, found: ConceptSet) -> None:
    with pytest.raises(BadType, match="choose"):
        found[found.names]  # type: ignore[call-overload]
    with pytest.raises(BadType, match="number"):
        TEXTS["x"]  # type: ignore[call-overload]
    assert found[torch.tensor(1)] is found[1]
    assert TEXTS[-1] is TEXTS[1]  # type: ignore[call-overload]
    with pytest.raises(BadType, match=rf'f\[:1\].*"{found[0].name}": "why"'):
        cl.ablate(base, found[0])  # type: ignore[arg-type]
    assert "1 of 2 concepts at" in repr(found[:1])
    assert "2 concepts at" in repr(found)


def test_arguments_in_the_wrong_place(base: Lens, found: ConceptSet) -> None:
    seen = cl.contexts(base, found, TEXTS, k=1)
    name = found.names[0]
    for show in (seen.show, seen.to_html):
        with pytest.raises(BadType, match=f'names="{name}"'):
            show(name)  # type: ignore[arg-type]
    for swapped in (found, found[0], [found[0]]):
        with pytest.raises(BadType, match=r"token_map\(lens, text, concept\)"):
            cl.inspect.token_map(base, swapped, "Hi")  # type: ignore[arg-type]
    for wrong in (TEXTS, found):
        with pytest.raises(BadType, match="activation_difference"):
            cl.find.pca(wrong, k=3)  # type: ignore[arg-type]


def test_methods_are_suggested() -> None:
    with pytest.raises(AttributeError, match='"KLAnchor"'):
        _ = cl.finetune.methods.KLAncor
    assert {"KLAnchor", "CAFT", "methods"} <= set(dir(cl.finetune.methods))


def test_false_is_the_harmless_label() -> None:
    with pytest.raises(ValueError, match="True: 'misaligned', False: 'aligned'"):
        Form(("misaligned", "incoherent", "aligned")).read(True, "it")


def test_every_minus_is_one() -> None:
    assert html.signed(-5e-7) == "−5.00e−07"
    assert html.signed(5e-7) == "+5.00e−07"


def hands_on(function: Any) -> bool:
    """Whether it gives keywords that it does not have to another function, which says what is wrong with them."""
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(function).parameters.values())


def settings_of_calls() -> list[Any]:
    """Every function of the library that takes settings as one value, with one of these settings."""
    cases = {}
    for package in (cl, cl.audit, cl.choose, cl.evaluate, cl.experiments, cl.find, cl.inspect, cl.saes):
        for name in package.__all__:
            function = getattr(package, name)
            if isinstance(function, type) or not callable(function) or hands_on(function):
                continue
            for value, (kind, fields) in values_of(function).items():
                cases[f"{name}({value}=)"] = pytest.param(function, value, kind, fields[-1], id=f"{name}({value}=)")
    return list(cases.values())


@pytest.mark.parametrize(("function", "value", "kind", "field"), settings_of_calls())
def test_a_setting_that_is_given_by_itself_is_told_where_it_goes(
    function: Any, value: str, kind: str, field: str
) -> None:
    with pytest.raises(BadType, match=rf'has no "{field}": give .*\b{value}={kind}\({field}=1\)'):
        function(**{field: 1})


def test_a_keyword_that_is_none_is_told_the_nearest_or_where_it_is_said(base: Lens) -> None:
    assert len(settings_of_calls()) > 30
    with pytest.raises(BadType, match=r'evaluate\(\) has no "progress"\. .*CAFT_LENS_PROGRESS=0'):
        cl.evaluate({"base": base}, "t", progress=False)  # type: ignore[call-arg]
    with pytest.raises(BadType, match=r'evaluate\(\) has no "tempratur"\. Did you mean "temperature"'):
        cl.evaluate({"base": base}, "t", tempratur=0)  # type: ignore[call-arg]
    # What two values have may have been meant for either.
    with pytest.raises(
        BadType, match=r"settings=TrainSettings\(batch_size=4, epochs=2\) or execution=Execution\(batch_size=4\)"
    ):
        cl.experiment(base, {}, "t", batch_size=4, epochs=2, out="x")  # type: ignore[call-arg]
    with pytest.raises(BadType, match=r"give settings=TrainSettings\(epochs=2\), execution=Execution\(workers=1\)"):
        cl.experiment(base, {}, "t", workers=1, epochs=2, out="x")  # type: ignore[call-arg]


def test_a_keyword_that_neither_the_library_nor_hugging_face_has_is_told_the_nearest(base: Lens) -> None:
    with pytest.raises(BadType, match=r'generate\(\) has no "temprature"\. Did you mean "temperature"\?'):
        base.generate("Hi", temprature=0.5)
    with pytest.raises(BadType, match=r'generate\(\) has no "progress"\. .*CAFT_LENS_PROGRESS=0'):
        base.generate("Hi", progress=False)
    assert base.generate("Hi", max_new_tokens=2, min_new_tokens=1, seed=0) is not None


def test_a_method_by_its_name_is_told_the_line_to_write(base: Lens, tmp_path: Path) -> None:
    for name, hint in (
        ("full", r'give settings=TrainSettings\(tune="full"\)'),
        ("kl_anchor", r"give KLAnchor\(general\)"),
        ("kl_ancor", r'Did you mean "kl_anchor"'),
    ):
        with pytest.raises(BadType, match=hint):
            cl.finetune(base, TEXTS, method=name, out=tmp_path / "run")  # type: ignore[arg-type]


def test_a_logger_that_is_unknown_or_not_installed_is_refused_before_the_folder_is_taken(
    base: Lens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: False)
    for asked, kind, said in (
        ("tensorbord", BadArgument, "tensorbord is not supported, only .*tensorboard"),
        ("tensorboard", NotInstalled, "tensorboard.*needs a package"),
    ):
        settings = cl.TrainSettings(max_steps=1, training_arguments={"report_to": asked})
        with pytest.raises(kind, match=said):
            cl.finetune(base, TEXTS, settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_optimizer_whose_package_is_missing_is_told_and_leaves_the_run_that_was_there(
    base: Lens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = cl.TrainSettings(max_steps=1)
    whole = cl.finetune(base, TEXTS, steps, out=tmp_path / "run")
    monkeypatch.setitem(sys.modules, "galore_torch", None)  # as where it is not installed
    galore = steps.but(overwrite=True, training_arguments={"optim": "galore_adamw", "optim_target_modules": ["q_proj"]})
    with pytest.raises(NotInstalled, match=r"package that is missing: .*galore_torch"):
        cl.finetune(base, TEXTS, galore, out=tmp_path / "run")
    assert Run.load(tmp_path / "run").record == whole.record
