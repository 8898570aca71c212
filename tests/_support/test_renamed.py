"""What was said in other words is understood: committed choices, choice files, recipes, keywords of before."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from places import ROOT
from tiny_models import tiny_lens

import caft_lens as cl
from caft_lens import find
from caft_lens._support import renamed
from caft_lens._support.errors import BadType
from caft_lens.choose.choosing import Choice, Decision
from caft_lens.choose.session import Verdicts
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.experiments.recipe import Recipe

HOOK = "blocks.1.hook_resid_post"
CARDS = sorted(ROOT.glob("benchmarks/choices/**/card.json"))


def three() -> ConceptSet:
    return ConceptSet([Concept(f"L1.pc{n}", HOOK, row) for n, row in enumerate(torch.eye(3))])


@pytest.mark.parametrize("card", CARDS, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_a_committed_choice_loads_with_its_record_in_todays_words(card: Path):
    written, loaded = json.loads(card.read_text()), ConceptSet.load(card.parent)
    for before, now in zip(
        written["provenance"].get("choices", []), loaded.provenance.get("choices", []), strict=True
    ):
        assert (now["ablate"], now["leave"]) == (before["kept"], before["dropped"])
        assert not {"kept", "dropped"} & set(now)
    for before, now in zip(written["concepts"], loaded, strict=True):
        assert now.meta.get("chosen_by") == before["meta"].get("kept_by")
        assert now.meta.get("chosen_at") == before["meta"].get("kept_at")


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
    verdicts = Verdicts(concepts, file)
    assert verdicts.of("ablate") == {"L1.pc0": "cruel"}
    assert verdicts.of("leave") == {"L1.pc1": "code"}
    assert verdicts.selection.names == ["L1.pc0"]
    verdicts.decide("L1.pc2", "leave", "names")
    assert [one["verdict"] for one in json.loads(file.read_text())["verdicts"].values()] == [
        "ablate",
        "leave",
        "leave",
    ]


def test_old_verdicts_mean_what_they_meant_and_warn():
    verdicts = Verdicts(three())
    with pytest.warns(DeprecationWarning, match='"keep" is called "ablate" now'):
        verdicts.decide("L1.pc0", "keep", "cruel")  # type: ignore[arg-type]
    with pytest.warns(DeprecationWarning, match='"drop" is called "leave" now'):
        verdicts.decide("L1.pc1", "drop", "code")  # type: ignore[arg-type]
    assert {name: one.verdict for name, one in verdicts.items()} == {"L1.pc0": "ablate", "L1.pc1": "leave"}


def test_old_names_of_choosing_work_and_warn():
    concepts = three()
    with pytest.warns(DeprecationWarning, match="choose"):
        old = concepts.keep({"L1.pc0": "cruel"}, dropped={"L1.pc1": "code"}, by="me")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = cl.choose(concepts, {"L1.pc0": "cruel"}, {"L1.pc1": "code"}, by="me")
    drop_time = lambda record: {key: value for key, value in record.items() if key != "at"}  # noqa: E731
    assert old.names == new.names == ["L1.pc0"]
    assert drop_time(old.provenance["choices"][0]) == drop_time(new.provenance["choices"][0])
    with pytest.warns(DeprecationWarning, match=re.escape("choose(keep=) is called ablate= now")):
        assert cl.choose(concepts, keep={"L1.pc0": "cruel"}).names == ["L1.pc0"]
    with pytest.warns(DeprecationWarning, match="without"):
        assert concepts.drop("L1.pc0").names == ["L1.pc1", "L1.pc2"]
    choice = Choice(concepts, [Decision(name, name == "L1.pc2", "why") for name in concepts.names], "me")
    with pytest.warns(DeprecationWarning, match="selection"):
        assert choice.kept.names == ["L1.pc2"]


def test_the_old_keywords_of_difference_of_means_give_the_same_directions_and_warn():
    lens = tiny_lens()
    one, other = (
        cl.Texts([{"prompt": "say", "answer": f"{word} {n}"} for n in range(4)]) for word in ("yes", "no")
    )
    new = find.difference_of_means(lens, concept=one, contrast=other, layers=[0])
    with pytest.warns(DeprecationWarning, match="is called") as said:
        old = find.difference_of_means(lens, wanted=one, unwanted=other, layers=[0])
    assert [str(one.message).split(" ", 1)[1] for one in said] == [
        "is called concept= now.",
        "is called contrast= now.",
    ]
    assert old.fingerprint == new.fingerprint
    with pytest.raises(BadType, match="give one of them"):
        find.difference_of_means(lens, wanted=one, concept=one, contrast=other, layers=[0])


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
    assert not [
        line for line in source.splitlines() if OLD_WORDS.search(line) and 'entry.get("kept")' not in line
    ]


def test_a_recipe_of_before_is_read_and_written_in_todays_words(tmp_path: Path):
    named = "task: pocket/emergent-misalignment\ntexts: pocket/insecure-code\n"
    before, today = tmp_path / "before.yaml", tmp_path / "today.yaml"
    before.write_text(named + "training: {method: full}\narms: {base: {arm: none}, tuned: {arm: plain}}\n")
    today.write_text(named + "training: {tune: full}\narms: {base: {method: none}, tuned: {method: plain}}\n")
    assert Recipe.read(before) == Recipe.read(today)
    assert "method: plain" in Recipe.read(before).write(tmp_path / "written.yaml").read_text()
