"""Every artefact in the repository is read, and counts what it counted when it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from places import ROOT

from caft_lens import experiments
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.saes.cards import cards
from caft_lens.saes.loading import load_sae
from caft_lens.text import catalog

RESULTS = ROOT / "benchmarks" / "results"
SETS = sorted(path.parent for path in (ROOT / "benchmarks" / "choices").rglob("card.json"))
CONTESTS = sorted(path.parent for path in RESULTS.rglob("contest.json"))


def test_every_set_of_concepts_is_read_to_the_last_bit():
    assert len(SETS) > 100
    for folder in SETS:
        found, card = ConceptSet.load(folder), json.loads((folder / "card.json").read_text())
        assert found.names == [one["name"] for one in card["concepts"]]
        assert [one.reason for one in found] == [one["reason"] for one in card["concepts"]]
        assert found.provenance["fingerprint"] == card["provenance"]["fingerprint"]
        lengths = torch.stack([one.direction for one in found]).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(len(found)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("folder", CONTESTS, ids=lambda path: path.name)
def test_every_contest_counts_as_it_did(folder: Path):
    found, record = experiments.Result.load(folder), json.loads((folder / "contest.json").read_text())
    assert found.arms
    assert {arm: vars(cost) for arm, cost in found.costs.items()} == record["costs"]
    labels = found.evaluation.labels
    for arm in found.arms:
        assert found.evaluation.seeds(arm) == record["evaluation"]["arms"][arm]["seeds"]
        for metric in labels:
            share = float(found.evaluation.values(arm, metric).mean())
            assert share == pytest.approx(record["evaluation"]["arms"][arm][metric]["mean"], abs=1e-12)


def test_every_organism_and_its_saes_are_whole_and_say_what_they_are():
    shipped = catalog.shipped()
    assert set(shipped) >= {"pocket", "pocket-1", "pocket-quiz", "pocket-quiz-1"}
    for name in shipped:
        card = catalog.card(name)
        assert card.sha256
        assert Path(catalog.model_path(name)).is_dir()
        for hook, of_sae in cards(catalog.sae_folder(name)).items():
            sae = load_sae(name, layer=hook)
            assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.metadata.hook_name) == (
                of_sae["d_in"],
                of_sae["d_sae"],
                hook,
            )
            assert of_sae["figures"] == card.saes[hook]
    assert Path(catalog.adapter_path("pocket/insecure")).is_dir()
