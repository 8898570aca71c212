"""Files are written whole, read whole, and each value in them is of the kind that its schema says."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from mutations import resealed
from safetensors.torch import save_file
from test_damaged_files import KINDS, concepts, fix_concepts, read_choice, read_explanations, report

from caft_lens import experiments
from caft_lens._support import files
from caft_lens._support.errors import (
    BadArgument,
    BadData,
    BadFile,
    BadRecipe,
    BadType,
    CaftLensError,
    MissingFile,
)
from caft_lens._support.files import sha256
from caft_lens.activations.store import Store
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.evaluate.report import Report
from caft_lens.evaluate.scores import read_scores, write_scores
from caft_lens.experiments.recipe import Recipe

HOOK = "blocks.1.hook_resid_post"


def written(name: str, folder: Path) -> Path:
    folder.mkdir()
    KINDS[name].write(folder, 0)
    return folder


def changed(path: Path, *keys: str | int, to: object) -> Path:
    """A JSON file with a value put in place of another, and its seal taken out, as who edits it by hand does."""
    value = json.loads(path.read_text())
    value.pop("seal", None)
    holder = value
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = to
    path.write_text(json.dumps(value))
    return path


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', 'the key "a" stands twice'),
        ('{"b": {"a": 1, "a": 1}}', "stands twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "no number"),
        ('{"a": 1e999}', "not JSON compliant"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("[" * 150 + "]" * 150, "nested more than 100 deep"),
        ("[" * 10**5 + "]" * 10**5, "nested too deeply"),
        ('"' + '\\"' * 10**6 + "[" * 200, "not valid JSON"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"a": 1', "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_json_that_readers_let_through_is_refused_and_the_file_named(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadFile, match=said) as caught:  # at once: a search for the ends of strings took hours
        files.read_json(path)
    assert str(path) in str(caught.value)


def test_brackets_in_texts_do_not_nest_and_long_lines_are_read(tmp_path):
    value = {"a": ["[" * 1000 + '"{\\' * 1000], "b": [[i] for i in range(1000)], "c": "x" * 3_000_000}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    "value",
    [
        {"a": float("nan")}, {"a": torch.ones(2)}, {1: 2, "1": 3}, {"a": "\ud800"}, {"seal": 1},
        {"a": json.loads("[" * 200 + "]" * 200)}, {("a",): 1},
    ],
)  # fmt: skip
def test_what_would_not_be_read_again_is_not_written_and_the_old_file_stays(tmp_path, value):
    files.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(BadData, match=r"a\.json is no JSON"):
        files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_sealed_file_is_refused_after_any_change_of_content_and_read_after_none(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, 2.5, "é"], "b": {"c": None}})
    path.write_text(json.dumps(json.loads(path.read_text())))  # other white space
    assert files.read_json(path) == {"a": [1, 2.5, "é"], "b": {"c": None}}
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(BadFile, match="was changed after it was written"):
        files.read_json(path)
    with pytest.raises(MissingFile, match=r'Did you mean "a\.json"'):
        files.read_json(tmp_path / "b.json")
    with pytest.raises(MissingFile, match="does not exist"):
        files.read_json(path / "b.json")


# -- values of the wrong kind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("rank",), "7"), (("rank",), True), (("rank",), 1.5), (("score",), "a"), (("score",), None),
        (("sign",), 0), (("sign",), "1"), (("reason",), ""), (("name",), ""), (("hook",), "hook_embed"),
        (("hook",), "blocks.1"), (("label",), 3), (("meta",), []), (("odd",), 1),
    ],
)  # fmt: skip
def test_a_concept_with_a_value_of_another_kind_is_refused_by_field(tmp_path, keys, value):
    folder = concepts().save(tmp_path / "set")
    changed(folder / "card.json", "concepts", 0, *keys, to=value)
    with pytest.raises(BadFile, match=r"card\.json is not the card of a concept set") as caught:
        ConceptSet.load(folder)
    assert "concepts.0" in str(caught.value)


def test_the_error_of_a_file_names_path_field_expected_found_and_what_to_do(tmp_path):
    folder = concepts().save(tmp_path / "set")
    changed(folder / "card.json", "concepts", 1, "rank", to="7")
    with pytest.raises(BadFile) as caught:
        ConceptSet.load(folder)
    assert str(caught.value) == (
        f"{folder / 'card.json'} is not the card of a concept set as it is written: at concepts.1.rank, input should "
        "be a valid integer, found '7'. Make it again, or put it right there."
    )


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"directions": torch.ones(2, 6, dtype=torch.bool)}, "is bool of shape"),
        ({"directions": torch.ones(2, 6, dtype=torch.complex64)}, "complex64"),
        ({"directions": torch.ones(2, 6, dtype=torch.int64)}, "int64"),
        ({"directions": torch.eye(6)[:1]}, r"expected floating point of shape \[2, 6\]"),
        ({"directions": torch.eye(7)[:2]}, r"expected floating point of shape \[2, 6\]"),
        ({"directions": torch.eye(6)[:2] * torch.nan}, "NaN or infinite"),
        ({"directions": 3 * torch.eye(6)[:2]}, "has length 3; expected 1"),
        ({"direction": torch.eye(6)[:2]}, 'Did you mean "direction"'),
    ],
)
def test_directions_that_are_no_unit_vectors_of_numbers_are_refused(tmp_path, tensors, said):
    folder = concepts().save(tmp_path / "set")
    save_file(tensors, folder / "directions.safetensors")
    fix_concepts(folder)
    with pytest.raises(BadFile, match=said):
        ConceptSet.load(folder)


def test_a_concept_is_made_of_numbers_only():
    for direction in (torch.ones(4, dtype=torch.bool), torch.ones(4, dtype=torch.complex64)):
        with pytest.raises(BadType, match="expected numbers"):
            Concept("a", HOOK, direction)
    for fields in ({"rank": "7"}, {"rank": True}, {"score": "a"}, {"rank": 1.5}):
        with pytest.raises(BadType, match="expected a"):
            Concept("a", HOOK, torch.ones(4), **fields)
    assert Concept("a", HOOK, torch.tensor([3, 4])).direction.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"verdict": "maybe", "reason": "x", "at": "now"}, "input should be 'ablate'"),
        ({"verdict": "ablate", "reason": " ", "at": "now"}, "has no reason"),
        ({"verdict": "ablate", "at": "now"}, "reason"),
        ("ablate", "L1.pc0"),
    ],
)
def test_a_verdict_that_is_none_or_has_no_reason_is_refused(tmp_path, value, said):
    folder = written("choice", tmp_path / "it")
    changed(folder / "choice.json", "verdicts", "L1.pc0", to=value)
    with pytest.raises(BadFile, match=said):
        read_choice(folder)


def test_a_choice_among_other_concepts_is_refused_by_name(tmp_path):
    folder = written("choice", tmp_path / "it")
    changed(folder / "choice.json", "verdicts", "L1.pc9", to={"verdict": "unsure", "reason": "", "at": "now"})
    with pytest.raises(BadFile, match=r'a decision on "L1\.pc9"\. Did you mean "L1\.pc'):
        read_choice(folder)


@pytest.mark.parametrize("key", ["count", "of", "background", "background_of", "lift", "p", "q"])
def test_a_text_where_explanations_have_a_count_is_refused(tmp_path, key):
    folder = written("explanations", tmp_path / "it")
    changed(folder / "told.json", "explanations", 0, "findings", 0, key, to="<script>alert(1)</script>")
    with pytest.raises(BadFile, match=f"explanations.0.findings.0.{key}"):
        read_explanations(folder)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ((0, "verdicts", 0), -1), ((0, "verdicts", 0), 99), ((0, "asked"), 7), ((0, "asked"), -1),
        ((0, "seed"), "1"), ((0, "texts"), {"99": ["a", "b"]}),
    ],
)  # fmt: skip
def test_a_verdict_or_question_that_is_not_there_is_refused(tmp_path, keys, value):
    path = write_scores(report(), tmp_path / "verdicts.json")
    changed(path, "cells", *keys, to=value)
    with pytest.raises(BadFile, match=r"verdicts\.json is not the scores of a report"):
        read_scores(path)


# -- names that lead out of a folder -----------------------------------------------------------------------------------

OUT = ["..", ".", "/../../../X", "../x", "a/../../b", "/etc/x", "a\x00b", "\\\\host\\x", "x" * 300]


@pytest.mark.parametrize("name", OUT)
def test_a_name_that_leads_out_of_its_folder_is_refused_in_a_contest_from_elsewhere(tmp_path, name):
    folder = written("contest", tmp_path / "it")
    value = json.loads((folder / "contest.json").read_text())["contenders"]
    changed(folder / "contest.json", "contenders", to={**value, name: value["plain"]})
    with pytest.raises(BadFile, match="is no name for the arm"):
        experiments.Result.load(folder)


@pytest.mark.parametrize("name", OUT)
def test_a_name_that_leads_out_of_its_folder_is_refused_where_it_is_typed(tmp_path, name):
    with pytest.raises(BadArgument, match="is no name for the"):
        files.file_name(name)
    with pytest.raises(BadArgument, match="is no name for the arm"):
        dataclasses.replace(report().cells["plain"][0], arm=name).save(tmp_path)
    plain = {"task": "pocket/emergent-misalignment", "texts": "pocket/insecure-code"}
    with pytest.raises(BadRecipe, match="is no name for the arm"):
        Recipe(**plain, arms={"plain": {}, name: {"arm": "none"}}).check()
    assert not any(tmp_path.iterdir())


def test_a_run_folder_that_lies_elsewhere_is_not_read(tmp_path):
    folder = written("contest", tmp_path / "it")
    (tmp_path / "run.json").write_text('{"seconds": 1.0, "peak_memory": 1}')
    changed(folder / "test/runs.json", "plain", "0", to="../..")
    with pytest.raises(BadFile, match="lies outside of it"):
        experiments.Result.load(folder).costs  # noqa: B018


def test_a_store_reads_no_file_but_its_shards(tmp_path):
    folder = written("store", tmp_path / "it")
    for name in ("../x.safetensors", "/etc/passwd", "index.json", "shard-00001.safetensors"):
        changed(folder / "index.json", "shards", 0, "file", to=name)
        with pytest.raises(BadFile, match="shard 0 is the file shard-00000"):
            Store.open(folder)


def test_a_shard_with_one_bit_turned_is_refused_when_it_is_read_and_not_before(tmp_path):
    folder = written("store", tmp_path / "it")
    path = folder / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    opened = Store.open(folder)
    first = next(opened.batches(1))
    assert len(first) == 1
    with pytest.raises(BadFile, match=r"shard-00001\.safetensors was changed or damaged"):
        list(opened.batches())


def test_a_store_without_hashes_is_read_as_before(tmp_path):
    folder = written("store", tmp_path / "it")
    before = KINDS["store"].read(folder)
    value = json.loads((folder / "index.json").read_text())
    for shard in value["shards"]:
        del shard["sha256"]
    del value["seal"]
    (folder / "index.json").write_text(json.dumps(value))
    assert KINDS["store"].read(folder) == before


# -- recipes -----------------------------------------------------------------------------------------------------------

RECIPE = "task: pocket/emergent-misalignment\ntexts: pocket/insecure-code\narms:\n  plain: {}\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("seeds: [1]\nseeds: [2]\n", 'the key "seeds" is said twice'),
        ("training: {max_steps: 1, max_steps: 2}\n", "said twice"),
        ("answers: .nan\n", "found|JSON"),
        ("answers: '7'\n", "at answers, input should be a valid integer"),
        ("answers: true\n", "at answers"),
        ("workers: 0\n", "at workers"),
        ("seeds: []\n", "at seeds"),
        ("base: 2026-01-01\n", "put it in quotes"),
        ("training: {1: 2}\n", "put it in quotes"),
        ("training: " + "[" * 300 + "]" * 300 + "\n", "nested too deeply"),
        ("training: " + "[" * 5000 + "]" * 5000 + "\n", "nested too deeply"),
        ("base: &a [*a]\n", "nested too deeply|values"),
        ("base: !!python/object/apply:os.system ['true']\n", "not YAML"),
        ("out: \x00\n", "not YAML"),
        ("tuning: {n: -1}\n", "at tuning.n"),
        ("materials: {general: {texts: [1]}}\n", "materials.general.texts"),
    ],
)
def test_a_recipe_with_a_value_of_another_kind_is_refused_and_the_file_named(tmp_path, more, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + more)
    with pytest.raises(BadRecipe, match=said) as caught:
        Recipe.read(path)
    assert "recipe.yaml" in str(caught.value)


def test_aliases_that_stand_for_more_than_memory_holds_are_refused(tmp_path):
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a, a]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "recipe.yaml").write_text(RECIPE + "\n".join(lines))
    with pytest.raises(BadRecipe, match="more than 100000 values"):
        Recipe.read(tmp_path / "recipe.yaml")


def test_a_rate_is_a_number_however_it_is_written(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE + "training: {learning_rate: 1e-4, weight_decay: 1.5E-2}\n")
    assert Recipe.read(tmp_path / "recipe.yaml").training.said == {
        "learning_rate": 1e-4,
        "weight_decay": 0.015,
    }


# -- files that are one ------------------------------------------------------------------------------------------------


def test_a_reader_beside_a_writer_always_finds_one_whole_set(tmp_path):
    sets = [concepts(number) for number in range(2)]
    for one in sets:
        one.save(tmp_path)
    known, stop, found, failed = {one.fingerprint for one in sets}, threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            try:
                found.add(ConceptSet.load(tmp_path).fingerprint)
            except CaftLensError as error:
                failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=lambda: [sets[i % 2].save(tmp_path) for i in range(40)]) for _ in range(2)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not failed
    assert found <= known
    assert sorted(os.listdir(tmp_path)) == ["README.md", "card.json", "directions.safetensors"]


def test_a_reader_puts_in_its_place_what_lies_aside_since_its_writer_was_killed(tmp_path, monkeypatch):
    old, new = b"old" * 100, b"new" * 100
    data, card = tmp_path / "a.bin", tmp_path / "a.json"
    files.write_together(data, old, card, {"is": sha256(old)})
    with monkeypatch.context() as patch:
        real = os.replace
        patch.setattr(os, "replace", lambda a, b: real(a, b) if Path(b) == card else pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            files.write_together(data, new, card, {"is": sha256(new)})
    assert data.read_bytes() == old
    read = files.read_together(data, card, lambda held: (held["is"], held["is"]))
    assert read == (sha256(new), new)
    assert (sorted(os.listdir(tmp_path)), data.read_bytes()) == (["a.bin", "a.json"], new)
    files.write_together(data, old, card, {"is": sha256(old)})
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.json"]


def test_a_report_beside_answers_of_another_evaluation_is_refused(tmp_path):
    report(0).save(tmp_path)
    report(1).cells["plain"][0].save(tmp_path)
    with pytest.raises(BadFile, match=r"report\.json was made of other answers of 'plain', seed 0"):
        Report.load(tmp_path)


def test_answers_of_another_arm_or_seed_are_refused(tmp_path):
    report().save(tmp_path)
    for end in (".json", ".jsonl"):
        (tmp_path / f"answers/plain/seed-1{end}").write_bytes((tmp_path / f"answers/base/seed-0{end}").read_bytes())
    with pytest.raises(BadFile, match=r"seed-1\.json is of 'base', seed 0"):
        Report.load(tmp_path)


def test_an_organism_with_one_bit_turned_in_its_weights_is_refused(tmp_path):
    from caft_lens.text import catalog

    folder = written("organism", tmp_path / "it")
    assert catalog.model_path(folder) == folder / "base"
    path = folder / "base" / "config.json"
    path.write_bytes(path.read_bytes().replace(b"0", b"1"))
    with pytest.raises(BadFile, match=r"config\.json was changed or damaged"):
        catalog.model_path(folder)
    resealed(folder / "organism.json", lambda card: card.pop("sha256"))
    assert catalog.model_path(folder) == folder / "base"
