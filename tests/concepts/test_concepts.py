"""A concept set keeps directions, choices and provenance, and refuses a model that it does not fit."""

from __future__ import annotations

import copy
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from tiny_models import tiny_lens

from caft_lens.concepts.concept_set import Concept, ConceptSet

D = 32


def concept(name: str, layer: int = 1, direction=None, **fields) -> Concept:
    if direction is None:
        direction = torch.randn(D, generator=torch.Generator().manual_seed(sum(name.encode()) + layer))
    return Concept(name, f"blocks.{layer}.hook_resid_post", direction, **fields)


def some(lens=None) -> ConceptSet:
    found = [
        concept("L0.pc0", 0, source="pca", score=0.5, score_name="explained variance ratio"),
        concept("L0.pc1", 0, rank=1),
    ]
    found += [concept("L1.pc0", 1), concept("L1.pc1", 1, rank=1, label="cruel", meta={"note": [1, 2]})]
    provenance = {"model": "tiny", "fingerprint": lens.fingerprint if lens else "f" * 16, "method": "pca"}
    return ConceptSet(found, provenance)


# -- directions and bases ---------------------------------------------------------------------------------------------


def test_directions_are_unit_vectors_in_float32_on_the_cpu_whatever_came_in():
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        given = torch.full((D,), 3.0, dtype=dtype, requires_grad=dtype.is_floating_point)
        kept = concept("x", direction=given).direction
        assert (kept.dtype, kept.device.type, kept.requires_grad) == (torch.float32, "cpu", False)
        assert kept.norm().item() == pytest.approx(1, abs=1e-6)
    assert concept("x", direction=np.ones(D)).direction.shape == (D,)


def test_a_direction_cannot_be_changed_from_outside():
    given = torch.eye(D)[0]
    kept = concept("x", direction=given)
    given[0] = -1
    assert kept.direction[0] == 1
    with pytest.raises(AttributeError):
        kept.label = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "bad", [torch.zeros(D), torch.full((D,), torch.nan), torch.full((D,), torch.inf), torch.eye(D)]
)
def test_a_direction_that_is_no_finite_vector_is_refused_by_name(bad):
    with pytest.raises(ValueError, match='Concept "bad"'):
        concept("bad", direction=bad)


def test_the_basis_is_orthonormal_and_spans_the_directions():
    found = [concept(f"c{i}", direction=torch.randn(D, generator=torch.Generator().manual_seed(i))) for i in range(5)]
    basis = ConceptSet(found).basis(1)
    assert basis.shape == (D, 5)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5), atol=1e-6, rtol=0)
    stacked = np.stack([c.direction.numpy() for c in found])
    reference = stacked.T @ np.linalg.pinv(stacked.T)  # the projector onto the span, by numpy
    np.testing.assert_allclose(basis @ basis.T, reference, atol=1e-5)


def test_duplicates_opposites_and_dependent_directions_add_no_column():
    a, b = torch.randn(2, D, generator=torch.Generator().manual_seed(0))
    directions = {"a": a, "b": b, "again": a * 7, "opposite": -a, "sum": a / a.norm() + b / b.norm()}
    basis = ConceptSet([concept(name, direction=d) for name, d in directions.items()]).basis(1)
    assert basis.shape == (D, 2)
    torch.testing.assert_close(basis @ (basis.T @ a), a, atol=1e-5, rtol=1e-5)


def test_directions_that_are_close_but_independent_both_count():
    a, b = torch.eye(D)[:2]
    basis = ConceptSet([concept("a", direction=a), concept("nearly a", direction=a + 1e-2 * b)]).basis(1)
    assert basis.shape == (D, 2)


def test_the_overlap_of_two_sets_is_the_mean_squared_cosine_of_their_principal_angles():
    rng = np.random.default_rng(0)
    few, many = rng.standard_normal((D, 3)), rng.standard_normal((D, 5))

    def of(columns: np.ndarray, layer: int = 1) -> ConceptSet:
        return ConceptSet([concept(f"x{i}", layer, direction=column) for i, column in enumerate(columns.T)])

    (found,) = of(few).overlap(of(many)).values()
    assert found == pytest.approx(np.mean(np.cos(subspace_angles(few, many)) ** 2), abs=1e-6)
    assert of(many).overlap(of(few)) == pytest.approx({"blocks.1.hook_resid_post": found})
    assert of(few).overlap(of(np.hstack([few, many]))) == pytest.approx({"blocks.1.hook_resid_post": 1.0})
    assert of(np.eye(D)[:, :2]).overlap(of(np.eye(D)[:, 2:9])) == {"blocks.1.hook_resid_post": 0.0}
    with pytest.raises(ValueError, match=r"share no hook point: one has blocks\.1.*other blocks\.0"):
        of(few).overlap(of(few, layer=0))
    with pytest.raises(ValueError, match="32 wide, the other 16"):
        of(few).overlap(of(few[:16]))


def test_bases_come_per_hook_point_in_the_dtype_asked_for():
    bases = some().bases(dtype=torch.bfloat16)
    assert {hook: (q.shape, q.dtype) for hook, q in bases.items()} == {
        f"blocks.{layer}.hook_resid_post": ((D, 2), torch.bfloat16) for layer in (0, 1)
    }


# -- choosing ---------------------------------------------------------------------------------------------------------


def test_concepts_are_found_by_name_position_slice_and_hook_point():
    concepts = some()
    assert concepts["L1.pc1"].label == "cruel"
    assert concepts[0].name == "L0.pc0"
    assert concepts[1:3].names == ["L0.pc1", "L1.pc0"]
    assert concepts.at(1).names == concepts.at("blocks.1.hook_resid_post").names == ["L1.pc0", "L1.pc1"]
    assert concepts.top(1).names == ["L0.pc0", "L1.pc0"]
    assert "L1.pc0" in concepts
    assert "L9.pc0" not in concepts
    assert concepts.without("L0.pc0").names == ["L0.pc1", "L1.pc0", "L1.pc1"]
    assert concepts.label({"L0.pc0": "code"})["L0.pc0"].label == "code"
    assert concepts["L0.pc0"].label == ""


def test_choosing_records_who_and_why_and_keeps_the_order():
    kept = some().choose({"L1.pc1": "cruel answers at the top", "L0.pc0": "insults"}, by="reader one")
    assert kept.names == ["L0.pc0", "L1.pc1"]
    assert kept["L1.pc1"].reason == "cruel answers at the top"
    assert kept["L1.pc1"].meta["chosen_by"] == "reader one"
    assert kept["L1.pc1"].meta["note"] == [1, 2]
    assert kept["L1.pc1"].meta["chosen_at"].startswith("20")
    assert kept.provenance["fingerprint"] == some().provenance["fingerprint"]


def test_every_choice_is_on_record_with_what_is_left_in_the_model_and_survives_saving(tmp_path):
    first = some().without({"L0.pc0": "code at both ends"}, by="reader one")
    kept = first.choose({"L1.pc1": "cruel"}, leave={"L1.pc0": "only names"}, by="reader two")
    one, two = ConceptSet.load(kept.save(tmp_path / "kept")).provenance["choices"]
    assert (one["by"], one["ablate"], one["leave"]) == (
        "reader one",
        ["L0.pc1", "L1.pc0", "L1.pc1"],
        {"L0.pc0": "code at both ends"},
    )
    assert (two["by"], two["ablate"], two["leave"]) == ("reader two", ["L1.pc1"], {"L1.pc0": "only names"})
    assert (one["not_considered"], two["not_considered"]) == (0, 1)
    assert "choices" not in some().provenance
    assert "choices" not in some().without("L0.pc0").provenance


def test_a_misspelt_name_is_an_error_that_names_the_nearest():
    concepts = some()
    for attempt in (
        lambda: concepts["L1.cp1"],
        lambda: concepts.choose({"L1.cp1": "why"}),
        lambda: concepts.choose({"L1.pc0": "why"}, leave={"L1.cp1": "why not"}),
        lambda: concepts.without(["L1.cp1"]),
        lambda: concepts.label({"L1.cp1": "x"}),
    ):
        with pytest.raises(KeyError, match=r"L1\.cp1.*L1\.pc1"):
            attempt()
    with pytest.raises(KeyError, match=r"blocks\.7"):
        concepts.at(7)


def test_nothing_is_chosen_in_silence():
    concepts = some()
    with pytest.raises(ValueError, match="chooses nothing"):
        concepts.choose({})
    with pytest.raises(ValueError, match=r"reason is missing for L1\.pc1"):
        concepts.choose({"L1.pc1": "  "})
    with pytest.raises(TypeError, match="name: reason"):
        concepts.choose(["L1.pc1"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"reason is missing for L1\.pc0"):
        concepts.choose({"L1.pc1": "cruel"}, leave={"L1.pc0": ""})
    with pytest.raises(ValueError, match=r"reason is missing for L1\.pc0"):
        concepts.without({"L1.pc0": ""})
    with pytest.raises(ValueError, match=r"Both to be ablated and to be left: L1\.pc1"):
        concepts.choose({"L1.pc1": "cruel"}, leave={"L1.pc1": "kind"})
    with pytest.raises(ValueError, match="at least one concept"):
        concepts.without(concepts.names)
    with pytest.raises(ValueError, match="more than once: twin"):
        ConceptSet([concept("twin"), concept("twin")])
    with pytest.raises(ValueError, match="widths"):
        ConceptSet([concept("a"), concept("b", direction=torch.ones(8))])


def test_sets_of_one_model_join_and_sets_of_two_do_not():
    first = some()
    second = ConceptSet([concept("L1.mean0")], {**first.provenance, "method": "means"})
    both = first + second
    assert both.names == [*first.names, "L1.mean0"]
    assert both.provenance["method"] == ["pca", "means"]
    assert both.provenance["fingerprint"] == first.provenance["fingerprint"]
    with pytest.raises(ValueError, match="different models"):
        first + ConceptSet([concept("x")], {"fingerprint": "0" * 16})
    with pytest.raises(ValueError, match="unique"):
        first + first


# -- the model they fit -----------------------------------------------------------------------------------------------


def test_a_set_fits_its_model_and_what_is_tuned_from_it_and_refuses_others():
    lens = tiny_lens()
    concepts = some(lens)
    concepts.check(lens)
    tuned = lens.copy()
    with torch.no_grad():
        next(tuned.model.parameters()).add_(1)
    assert tuned.fingerprint != lens.fingerprint
    concepts.check(tuned)
    other = tiny_lens(seed=1)
    with pytest.raises(ValueError, match=r"neither that model nor tuned from it.*for_model"):
        concepts.check(other)
    carried = concepts.for_model(other)
    carried.check(other)
    assert carried.provenance["carried_from"] == {"model": "tiny", "fingerprint": lens.fingerprint}
    with pytest.raises(ValueError, match="neither"):
        carried.check(lens)


def test_a_set_that_does_not_say_where_it_is_from_is_refused():
    with pytest.raises(ValueError, match="does not say which model"):
        ConceptSet([concept("x")]).check(tiny_lens())


def test_width_layers_and_sites_are_checked_even_when_carried_over():
    lens = tiny_lens()
    for found, message in (
        (concept("wide", direction=torch.ones(64)), "64 wide.*is 32"),
        (concept("deep", layer=9), "layers 0 to 1"),
        (Concept("odd", "blocks.1.hook_resid_pots", torch.ones(D)), r"blocks\.1\.hook_resid_post"),
    ):
        concepts = ConceptSet([found], {"fingerprint": lens.fingerprint})
        for attempt in (concepts.check, concepts.for_model):
            with pytest.raises(ValueError, match=message):
                attempt(lens)
    with pytest.raises(ValueError, match="no hook point of a block"):
        Concept("x", "hook_embed", torch.ones(D))


# -- files ------------------------------------------------------------------------------------------------------------


def test_saving_and_loading_changes_no_bit_and_no_word(tmp_path):
    concepts = some().choose({"L1.pc1": "<cruel> & | unkind", "L0.pc0": "why"}, by="reader")
    loaded = ConceptSet.load(concepts.save(tmp_path / "set"))
    assert loaded.provenance == concepts.provenance
    for before, after in zip(concepts, loaded, strict=True):
        assert torch.equal(before.direction, after.direction)
        assert {**vars(before), "direction": 0} == {**vars(after), "direction": 0}
    assert loaded.fingerprint == concepts.fingerprint
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "README.md",
        "card.json",
        "directions.safetensors",
    ]


def test_the_readme_and_the_html_show_reasons_and_escape_them(tmp_path):
    concepts = (
        some().choose({"L1.pc1": "<script>alert(1)</script> | a\nb"}, by="reader").label({"L1.pc1": "<b>bold</b>"})
    )
    readme = (concepts.save(tmp_path) / "README.md").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| a b" in readme
    for shown in (readme, concepts._repr_html_()):
        assert "<script>" not in shown
        assert "<b>" not in shown
        assert "L1.pc1" in shown


def test_the_readme_tells_every_choice_and_what_is_left_in_the_model(tmp_path):
    first = some().without({"L0.pc0": "code | at both ends"}, by="reader <one>")
    kept = first.choose({"L1.pc1": "cruel"}, leave={"L1.pc0": "only names"}, by="reader two")
    readme = (kept.save(tmp_path / "kept") / "README.md").read_text()
    told = (
        "by reader &lt;one&gt;, to ablate: L0.pc1, L1.pc0, L1.pc1.",
        "by reader two, to ablate: L1.pc1; 1 not considered.",
    )
    assert [line for line in readme.splitlines() if line.endswith(told[0])]
    assert readme.index(told[0]) < readme.index("| L0.pc0 | code \\| at both ends |") < readme.index(told[1])
    assert "| L1.pc0 | only names |" in readme
    both = ConceptSet(some(), {**some().provenance, "method": ["pca", "sae"]})
    readme = (both.save(tmp_path / "all") / "README.md").read_text()
    assert "by pca and sae." in readme
    assert "Kept at" not in readme


def test_a_missing_truncated_or_foreign_file_is_a_clear_error(tmp_path):
    folder = some().save(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=r"card\.json is missing"):
        ConceptSet.load(tmp_path / "nowhere")
    whole = (folder / "directions.safetensors").read_bytes()
    (folder / "directions.safetensors").write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="interrupted"):
        ConceptSet.load(folder)
    (folder / "directions.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"directions\.safetensors is missing"):
        ConceptSet.load(folder)
    (folder / "directions.safetensors").write_bytes(whole)
    card = (folder / "card.json").read_text()
    (folder / "card.json").write_text(card[: len(card) // 2])
    with pytest.raises(ValueError, match="truncated"):
        ConceptSet.load(folder)
    (folder / "card.json").write_text(json.dumps({"format": "something else"}))
    with pytest.raises(ValueError, match="no card of a concept set"):
        ConceptSet.load(folder)


@pytest.mark.parametrize("step", ["write_bytes", "replace", "unlink"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_save_that_breaks_off_anywhere_over_an_older_set_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, step, error
):
    older, newer = some(), ConceptSet([concept("L1.new0")], some().provenance)
    where = os if step == "replace" else Path
    real = getattr(where, step)
    for fails_at in range(1, 4):
        folder = older.save(tmp_path / f"{step}-{fails_at}")
        seen = []

        def breaks(*args, _seen=seen, **keywords):
            _seen.append(args)
            if len(_seen) == fails_at:  # noqa: B023
                raise error
            return real(*args, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(where, step, breaks)
            with suppress(KeyboardInterrupt, OSError):
                newer.save(folder)
        assert ConceptSet.load(folder).fingerprint in (older.fingerprint, newer.fingerprint)
        newer.save(folder)
        assert ConceptSet.load(folder).fingerprint == newer.fingerprint
        assert sorted(path.name for path in folder.iterdir()) == [
            "README.md",
            "card.json",
            "directions.safetensors",
        ]


def test_the_table_has_a_row_per_concept_and_the_text_names_them():
    table = some().choose({"L1.pc1": "why"}, by="reader").table()
    assert table.loc[0, ["name", "layer", "label", "reason", "chosen_by"]].tolist() == [
        "L1.pc1",
        1,
        "cruel",
        "why",
        "reader",
    ]
    assert repr(some()).startswith(
        "ConceptSet(4 concepts at blocks.0.hook_resid_post, blocks.1.hook_resid_post: L0.pc0"
    )


def test_the_fingerprint_is_that_of_the_directions_and_not_of_words_about_them():
    concepts = some()
    assert concepts.fingerprint == copy.deepcopy(concepts).label({"L0.pc0": "x"}).fingerprint
    assert concepts.fingerprint != concepts.without("L0.pc0").fingerprint


def test_the_top_like_another_set_has_as_many_of_the_first_at_each_of_its_hook_points():
    found = ConceptSet(
        [concept(f"L{layer}.pc{i}", layer, rank=i) for layer in (0, 1) for i in range(3)], some().provenance
    )
    chosen = found.choose({"L1.pc2": "cruel at the top", "L1.pc1": "cruel at the top"})
    assert found.top(chosen).names == ["L1.pc0", "L1.pc1"]
    with pytest.raises(ValueError, match=r"3 concepts wanted .* has 2 there"):
        found.choose({"L1.pc0": "a", "L1.pc1": "b"}).top(found.at(1))


def test_a_part_of_a_set_says_of_how_many_it_is_and_does_the_same_to_a_model(tmp_path):
    hook = "blocks.1.hook_resid_post"
    whole = ConceptSet([Concept(f"L1.pc{i}", hook, row) for i, row in enumerate(torch.eye(4))])
    assert repr(whole).startswith("ConceptSet(4 concepts at")
    parts = (whole[:3], whole.top(3), whole.without("L1.pc3"), whole[:3].label({"L1.pc0": "a"}), whole[:3].top(3))
    for part in parts:
        assert repr(part).startswith("ConceptSet(3 of 4 concepts at")
        assert part.fingerprint == ConceptSet(list(whole)[:3]).fingerprint
    assert "1 of 4 concepts" in repr(whole[:3].choose({"L1.pc1": "why"}, by="me"))
    assert repr(whole[:]).startswith("ConceptSet(4 concepts at")
    assert repr(whole[:2] + whole[2:]).startswith("ConceptSet(4 concepts at")
    again = ConceptSet.load(whole[:3].save(tmp_path / "set"))
    assert "3 of 4 concepts" in repr(again)
    assert "3 of 4 concepts found on" in again._repr_html_()
    assert (tmp_path / "set/README.md").read_text().startswith("# 3 of 4 concepts")
