"""Agreement of readers is what others compute from the same decisions, and a consensus is a choice like any other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from caft_lens import choose
from caft_lens._support.errors import BadArgument, BadFile, BadType, ConceptMismatch, UnknownName
from caft_lens.choose.agreement import _alpha
from caft_lens.choose.choice import Choice, Proposal
from caft_lens.choose.session import Decisions, blinded
from caft_lens.concepts.concept_set import Concept, ConceptSet

HOOK = "blocks.1.hook_resid_post"
ACTIONS = ("ablate", "leave", "unsure")


def concept_set(n: int = 6) -> ConceptSet:
    return ConceptSet(
        [Concept(f"L1.pc{at}", HOOK, torch.eye(64)[at], rank=at) for at in range(n)], {"fingerprint": "f"}
    )


CONCEPTS = concept_set()


def alpha(values: list[list[object]]) -> float:
    """Krippendorff's alpha for nominal data, from the coincidence matrix as he writes it; `[readers][units]`, `None`
    where a reader said nothing.
    """
    kinds = sorted({value for row in values for value in row if value is not None}, key=str)
    together = np.zeros((len(kinds), len(kinds)))
    for unit in zip(*values, strict=True):
        said = [kinds.index(value) for value in unit if value is not None]
        for one, other in itertools.permutations(range(len(said)), 2):
            together[said[one], said[other]] += 1 / (len(said) - 1)
    of_kind = together.sum(axis=0)
    n = of_kind.sum()
    expected = (np.outer(of_kind, of_kind) - np.diag(of_kind)) / (n - 1)
    apart = 1 - np.eye(len(kinds))
    return float(1 - (together * apart).sum() / (expected * apart).sum())


def rows(values: list[list[object]]) -> list[dict[str, str]]:
    """The same as the library has it."""
    return [
        {f"r{reader}": str(value) for reader, value in enumerate(unit) if value is not None}
        for unit in zip(*values, strict=True)
    ]


N = None
PUBLISHED = {
    # Krippendorff, Computing Krippendorff's alpha-reliability, 2011: section C, four observers of twelve units.
    "0.743": [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ],
    # The example of Wikipedia's article "Krippendorff's alpha": three coders, much missing.
    "0.691": [
        [N, N, N, N, N, 3, 4, 1, 2, 1, 1, 3, 3, N, 3],
        [1, N, 2, 1, 3, 3, 4, 3, N, N, N, N, N, N, N],
        [N, N, 2, 1, 3, 4, 4, N, 2, 1, 1, 3, 3, N, 4],
    ],
}


@pytest.mark.parametrize("published", PUBLISHED)
def test_alpha_of_published_examples_is_what_was_published_and_what_the_coincidence_matrix_gives(published):
    values = PUBLISHED[published]
    together = [row for row in rows(values) if len(row) > 1]
    assert f"{_alpha(together):.3f}" == published
    assert _alpha(together) == pytest.approx(alpha(values), abs=1e-12)


def test_alpha_of_two_readers_is_what_krippendorff_publishes_for_binary_data():
    said = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]  # section A
    found = choose.agreement(
        {f"r{at}": {f"c{unit}": ACTIONS[1 - one] for unit, one in enumerate(row)} for at, row in enumerate(said)}
    )
    assert round(found.alpha.mean, 3) == 0.095


def test_kappa_of_two_readers_is_what_is_published_for_fifty_proposals():
    # The simple example of Wikipedia's article "Cohen's kappa": 20 both yes, 5 and 10 apart, 15 both no.
    said = ["ablate"] * 20 + ["ablate"] * 5 + ["leave"] * 10 + ["leave"] * 15
    other = ["ablate"] * 20 + ["leave"] * 5 + ["ablate"] * 10 + ["leave"] * 15
    read = {"a": said, "b": other}
    found = choose.agreement({reader: dict(enumerate_names(row)) for reader, row in read.items()})
    (row,) = found.pairs().itertuples()
    assert (row.concepts, row.alike) == (50, pytest.approx(0.7))
    assert row.kappa == pytest.approx(0.4, abs=1e-12)


def enumerate_names(row: list[str]) -> Iterator[tuple[str, str]]:
    return ((f"c{at}", one) for at, one in enumerate(row))


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, str]]:
    """Four readers of forty concepts, who agree more often than not and leave some out."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 40)
    read = {}
    for reader in range(4):
        own = np.where(rng.random(40) < 0.7, truth, rng.integers(0, 3, 40))
        read[f"r{reader}"] = {f"c{at}": ACTIONS[one] for at, one in enumerate(own) if rng.random() < 0.8}
    return read


def test_alpha_and_kappa_with_missing_decisions_are_those_of_independent_computations(drawn):
    found = choose.agreement(drawn)
    values = [[said.get(f"c{at}") for at in range(40)] for said in drawn.values()]
    assert found.alpha.mean == pytest.approx(alpha(values), abs=1e-12)
    assert found.alpha.low < found.alpha.mean < found.alpha.high
    pairs = found.pairs()
    assert len(pairs) == 6
    for row in pairs.itertuples():
        both = [name for name in drawn[row.reader] if name in drawn[row.other]]
        mine, theirs = ([drawn[reader][name] for name in both] for reader in (row.reader, row.other))
        assert row.concepts == len(both)
        assert row.kappa == pytest.approx(cohen_kappa_score(mine, theirs), abs=1e-12)
        assert row.alike == pytest.approx(np.mean(np.array(mine) == np.array(theirs)))
        # The interval is about as wide as that of the normal approximation.
        table = np.array(
            [[sum(pair == (a, b) for pair in zip(mine, theirs, strict=True)) for b in ACTIONS] for a in ACTIONS]
        )
        known = cohens_kappa(table)
        assert row.high - row.low == pytest.approx(known.kappa_upp - known.kappa_low, rel=0.3)


def test_unsure_counts_as_an_answer_of_its_own_or_as_none(drawn):
    without = {reader: {name: one for name, one in said.items() if one != "unsure"} for reader, said in drawn.items()}
    as_none, absent = choose.agreement(drawn, unsure=False).alpha, choose.agreement(without).alpha
    assert (as_none.mean, as_none.n_answers) == (absent.mean, absent.n_answers)
    assert choose.agreement(drawn).alpha.mean != absent.mean


def test_readers_who_all_say_one_thing_have_no_coefficient():
    same = {reader: dict.fromkeys(CONCEPTS.names, "leave") for reader in ("ann", "ben")}
    found = choose.agreement(same, CONCEPTS)
    assert math.isnan(found.alpha.mean)
    assert math.isnan(found.pairs().kappa[0])
    assert "not defined" in found._repr_html_()
    with pytest.raises(BadArgument, match="nothing to draw"):
        found.plot()


@pytest.fixture
def readings(tmp_path) -> dict[str, object]:
    """One reading of each kind."""
    ann = Decisions(CONCEPTS, tmp_path / "{reader}.json", by="ann")
    ann.decide("L1.pc0", "ablate", "cruel at the top", 12.5)
    ann.decide("L1.pc1", "leave", "recipes")
    ann.decide("L1.pc2", "unsure")
    ben = CONCEPTS.choose({"L1.pc0": "insults", "L1.pc1": "rude <b>cooks</b>"}, {"L1.pc2": "code"}, by="ben")
    proposals = [
        Proposal(name, name == "L1.pc0", "AUROC 0.97" if name == "L1.pc0" else "no") for name in CONCEPTS.names
    ]
    return {
        "ann": ann.file,
        "ben": ben.save(tmp_path / "ben"),
        "rule": Choice(CONCEPTS, proposals, "a rule"),
        "sheet": {"L1.pc0": "ablate", "L1.pc3": "leave"},
    }


def test_a_file_a_folder_an_automatic_choice_and_a_sheet_are_readings_alike(readings):
    found = choose.agreement(readings)
    assert found.readers == ["ann", "ben", "rule", "sheet"]
    assert found.table().loc["L1.pc1"].tolist() == ["leave", "ablate", "leave", ""]
    assert found.differing == ["L1.pc1", "L1.pc2"]
    told = found.differences().set_index(["concept", "reader"])
    assert told.loc[("L1.pc1", "ben"), "reason"] == "rude <b>cooks</b>"
    in_a_list = choose.agreement([readings["ann"], readings["ben"], readings["rule"]])
    assert in_a_list.readers == ["ann", "ben", "a rule"]
    shown = found._repr_html_()
    assert "&lt;b&gt;cooks" in shown
    assert "<b>cooks" not in shown
    assert found.plot().data
    assert "4 readers of 6 concepts" in repr(found)


def test_how_long_a_reader_looked_is_told_with_what_was_said(readings):
    found = choose.agreement({**readings, "sheet": {"L1.pc0": "leave"}})
    told = found.differences().set_index(["concept", "reader"])
    assert told.loc[("L1.pc0", "ann"), "seconds"] == 12.5


def test_a_consensus_is_what_most_say_or_all_and_says_who_said_what(readings):
    found = choose.agreement(readings)
    most = found.consensus()
    assert {one.name: one.ablate for one in most} == {
        "L1.pc0": True,
        "L1.pc1": False,  # two of three
        "L1.pc2": False,  # unsure, leave, leave
        "L1.pc3": False,
        "L1.pc4": False,  # one of one
        "L1.pc5": False,
    }
    every = found.consensus("all")
    assert [one.ablate for one in every] == [True, None, None, None, None, None]
    chosen = choose(CONCEPTS, every)
    assert (chosen.names, chosen.fingerprint) == (["L1.pc0"], CONCEPTS[:1].fingerprint)
    (record,) = chosen.provenance["choices"]
    assert (record["by"], record["leave"], record["not_considered"]) == ("all of ann, ben, rule, sheet", {}, 5)
    assert chosen["L1.pc0"].reason.startswith("4 of 4 (ann: ablate, cruel at the top; ben: ablate, insults;")
    assert "not decided" in every._repr_html_()
    again = every.overrule({"L1.pc2": "on reading it again"}, by="ann")
    assert again.names == ["L1.pc0", "L1.pc2"]


def test_half_of_the_readers_is_no_majority():
    found = choose.agreement({"ann": {"L1.pc0": "ablate"}, "ben": {"L1.pc0": "leave"}}, CONCEPTS)
    assert found.consensus().names == []
    with pytest.raises(BadArgument, match="no agreement"):
        found.consensus().selection  # noqa: B018


def test_what_nobody_decided_is_joined_to_what_somebody_did():
    def of(*said):
        return Choice(CONCEPTS[:3], [Proposal(f"L1.pc{at}", one, "why") for at, one in enumerate(said)], "r")

    assert [one.ablate for one in of(None, None, False) | of(True, False, None)] == [True, False, False]
    assert [one.ablate for one in of(True, False, None) | of(None, None, False)] == [True, False, False]


def test_choose_takes_a_choice_only_as_it_is_and_only_among_these_concepts(readings):
    rule = readings["rule"]
    assert choose(CONCEPTS, rule).names == ["L1.pc0"]
    with pytest.raises(BadArgument, match="overrule"):
        choose(CONCEPTS, rule, by="ann")
    with pytest.raises(ConceptMismatch, match="other concepts"):
        choose(concept_set(5), rule)


def test_what_is_no_reading_or_of_other_concepts_is_refused(readings, tmp_path):
    said = {"L1.pc0": "ablate"}
    with pytest.raises(BadArgument, match="give two or more"):
        choose.agreement({"ann": said})
    with pytest.raises(BadArgument, match='Two readings are by "ann"'):
        choose.agreement([readings["ann"], readings["ann"]])
    with pytest.raises(BadArgument, match="no name"):
        choose.agreement([readings["ann"], said])
    with pytest.raises(BadArgument, match=r'said to be "ablat".*"ablate"'):
        choose.agreement({"ann": said, "ben": {"L1.pc0": "ablat"}})
    with pytest.raises(BadType, match="not int"):
        choose.agreement([1, 2])
    with pytest.raises(BadArgument, match="no choice on record"):
        choose.agreement([CONCEPTS, CONCEPTS])
    with pytest.raises(UnknownName, match=r'ben decided on "L1.pc9"'):
        choose.agreement({"ann": said, "ben": {"L1.pc9": "leave"}}, CONCEPTS)
    with pytest.raises(BadArgument, match=r"choose\.agreement\(readings, concepts\)"):
        choose.agreement({"ann": said, "ben": said}).consensus()
    with pytest.raises(BadArgument, match="majority"):
        choose.agreement(readings).consensus("most")
    turned = ConceptSet([Concept("L1.pc0", HOOK, torch.ones(64))], {"fingerprint": "f"})
    other = Decisions(turned, tmp_path / "other.json", by="cy")
    other.decide("L1.pc0", "ablate", "why")
    for strange in (other, other.file, turned.choose({"L1.pc0": "why"}, by="cy")):
        with pytest.raises(ConceptMismatch, match="cy read other concepts"):
            choose.agreement([readings["ann"], readings["rule"], strange])
    with pytest.raises(ConceptMismatch, match="cy read other concepts than ann"):
        choose.agreement([readings["ann"], other.file])


# -- blind ------------------------------------------------------------------------------------------------------------


def test_a_blind_reading_has_an_order_of_its_own_and_nothing_that_leads():
    many = ConceptSet(
        [
            Concept(
                f"L1.pc{at}",
                HOOK,
                torch.eye(64)[at],
                source="pca",
                rank=at,
                score=1 / (at + 1),
                score_name="explained variance ratio",
                label="cruel",
                reason="read it",
                meta={"latent": at, "chosen_by": "ben"},
            )
            for at in range(30)
        ],
        {"fingerprint": "f", "model": "m", "method": "pca", "choices": [1]},
    )
    mine, again, theirs = blinded(many, "ann"), blinded(many, "ann"), blinded(many, "ben")
    assert mine.names == again.names
    assert mine.names != theirs.names
    assert list(mine.names.values()) != many.names
    assert sorted(mine.names.values()) == sorted(many.names)
    for place, one in enumerate(mine.concepts):
        real = many[mine.names[one.name]]
        assert one.direction.equal(real.direction)
        assert (one.name, one.rank, one.meta) == (f"concept {place + 1}", place, {"latent": real.meta["latent"]})
        assert (one.source, one.score, one.score_name, one.label, one.reason) == ("", 0.0, "", "", "")
    assert {"method", "choices"}.isdisjoint(mine.concepts.provenance)


def test_the_file_of_a_blind_reading_says_so_and_is_nobody_elses(tmp_path):
    file = tmp_path / "{reader}.json"
    ann = Decisions(CONCEPTS, file, by="ann", blind=True)
    ann.decide("L1.pc0", "ablate", "cruel", 3.2)
    again = Decisions(CONCEPTS, file, by="ann", blind=True)
    assert again["L1.pc0"] == ann["L1.pc0"]
    assert again["L1.pc0"].seconds == 3.2
    assert again.selection.provenance["choices"][0]["blind"] is True
    saved = again.selection.save(tmp_path / "set")
    assert "ann, who read blind" in (saved / "README.md").read_text()
    assert ConceptSet.load(saved).provenance["choices"][0]["blind"] is True
    with pytest.raises(BadFile, match="made blind; these are made with all in sight"):
        Decisions(CONCEPTS, file, by="ann")
    with pytest.raises(BadFile, match="holds the decisions of ann, not of ben"):
        Decisions(CONCEPTS, ann.file, by="ben", blind=True)
    assert (tmp_path / "ann.json").is_file()
    with pytest.raises(BadArgument, match="no name for the reader"):
        Decisions(CONCEPTS, file, by="../ann")


def test_a_time_below_nothing_is_refused_naming_the_field(tmp_path):
    ann = Decisions(CONCEPTS, tmp_path / "a.json", by="ann")
    ann.decide("L1.pc0", "ablate", "cruel", -3.0)
    with pytest.raises(BadFile, match="seconds"):
        Decisions(CONCEPTS, ann.file)
