"""What was said in other words is understood in files: committed choices, choice files, recipes of before."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from places import ROOT

from caft_lens._support import renamed
from caft_lens.choose.session import Decisions
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.experiments.recipe import Recipe

HOOK = "blocks.1.hook_resid_post"
WORDS = {"kept": "ablate", "dropped": "leave"}  # of a record, then and now
META_WORDS = {"kept_by": "chosen_by", "kept_at": "chosen_at"}
CARDS = sorted(ROOT.glob("benchmarks/choices/**/card.json"))


def three() -> ConceptSet:
    return ConceptSet([Concept(f"L1.pc{n}", HOOK, row) for n, row in enumerate(torch.eye(3))])


@pytest.mark.parametrize("card", CARDS, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_a_committed_choice_loads_with_its_record_in_todays_words(card: Path):
    written, loaded = json.loads(card.read_text()), ConceptSet.load(card.parent)
    for before, now in zip(written["provenance"].get("choices", []), loaded.provenance.get("choices", []), strict=True):
        of_then = {new: before[new] if new in before else before[old] for old, new in WORDS.items() if new in now}
        assert {new: now[new] for new in of_then} == of_then
        assert {"ablate", "leave"} <= set(now)
        assert not {"kept", "dropped"} & set(now)
    for before, now in zip(written["concepts"], loaded, strict=True):
        for old, new in META_WORDS.items():
            assert now.meta.get(new) == before["meta"].get(new, before["meta"].get(old))


def test_committed_choices_were_found():
    assert len(CARDS) > 10


def test_an_old_choice_file_is_restored_and_saved_in_todays_words(tmp_path: Path):
    concepts, file = three(), tmp_path / "choice.json"
    said = {
        "L1.pc0": {"verdict": "keep", "reason": "cruel", "at": "2025-01-01T00:00:00+00:00"},
        "L1.pc1": {"verdict": "drop", "reason": "code", "at": "2025-01-01T00:00:00+00:00"},
        "L1.pc2": {"verdict": "unsure", "reason": "", "at": "2025-01-01T00:00:00+00:00"},
    }
    about = {"format": "caft_lens.verdicts/1", "concepts": concepts.fingerprint, "model": None, "by": "me"}
    file.write_text(json.dumps({**about, "verdicts": said}))
    decisions = Decisions(concepts, file)
    assert decisions.of("ablate") == {"L1.pc0": "cruel"}
    assert decisions.of("leave") == {"L1.pc1": "code"}
    assert decisions.selection.names == ["L1.pc0"]
    decisions.decide("L1.pc2", "leave", "names")
    assert [one["verdict"] for one in json.loads(file.read_text())["verdicts"].values()] == [
        "ablate",
        "leave",
        "leave",
    ]


def test_what_is_no_card_passes_through_for_its_reader_to_refuse():
    for odd in (None, [], "text", {}, {"provenance": 3, "concepts": 4}, {"concepts": [1, {"meta": 2}]}):
        assert renamed.card(odd) == odd


OLD_WORDS = re.compile(
    r"\.keep\(|\.kept\b(?!_)|dropped=|unwanted=|[^_]wanted=|\[[\"'](kept|dropped|kept_by)[\"']\]|(of|decide)\([\"'](keep|drop)[\"']"
)
WRITTEN = [
    ROOT / "README.md",
    *ROOT.glob("notebooks/*.ipynb"),
    *ROOT.glob("benchmarks/*.py"),
    *ROOT.glob("docs/*.py"),
]


@pytest.mark.parametrize("file", WRITTEN, ids=lambda path: path.name)
def test_what_people_copy_from_is_written_in_todays_words(file: Path):
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        source = "\n".join("".join(cell["source"]) for cell in json.loads(source)["cells"])
    elif file.name == "latent_contexts.py":  # where every active latent is kept, in memory
        source = source.replace("self.kept", "")
    assert not [line for line in source.splitlines() if OLD_WORDS.search(line) and 'entry.get("kept")' not in line]


def test_a_recipe_of_before_is_read_and_written_in_todays_words(tmp_path: Path):
    named = "task: pocket/emergent-misalignment\ntexts: pocket/insecure-code\n"
    before, today = tmp_path / "before.yaml", tmp_path / "today.yaml"
    before.write_text(named + "training: {method: full}\narms: {base: {arm: none}, tuned: {arm: plain}}\n")
    today.write_text(named + "training: {tune: full}\narms: {base: {method: none}, tuned: {method: plain}}\n")
    assert Recipe.read(before) == Recipe.read(today)
    assert "method: plain" in Recipe.read(before).write(tmp_path / "written.yaml").read_text()
