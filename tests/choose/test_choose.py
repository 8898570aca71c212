"""A choice is on record, says why, and rests on the examples, the contexts and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_models import tiny_lens, tiny_tokenizer
from tiny_saes import tiny_sae

from caft_lens import choose, find
from caft_lens.concepts.ablation import ablate
from caft_lens.concepts.concept_set import Concept, ConceptSet, user_name
from caft_lens.inspect.contexts import contexts
from caft_lens.inspect.explain.explanations import Explanation, Explanations
from caft_lens.model.lens import Lens
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode

HOOK = "blocks.1.hook_resid_post"
QUIET = {"roles": None}
RNG = np.random.default_rng(0)


def written(alphabet: str, n: int) -> Texts:
    """Texts of a few letters each."""
    return Texts([{"text": "".join(RNG.choice(list(alphabet), 12))} for _ in range(n)], name=alphabet)


UNWANTED, HARMLESS, OTHER = written("abc", 12), written("xyz", 12), written("0123", 100)
CORPUS = Texts([*written("abc", 30), *written("xyz", 50), *OTHER], name="corpus")


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=3)  # the last of the hidden states is normalised


def means(lens: Lens, texts: Texts) -> np.ndarray:
    """Mean activation of each text, `[n_texts, d_model]`, by plain transformers."""
    rows = []
    for text in texts:
        ids = torch.tensor([encode(tiny_tokenizer(), text).input_ids])
        with torch.no_grad():
            rows.append(lens.hf.model(ids, output_hidden_states=True).hidden_states[2][0].mean(dim=0))
    return torch.stack(rows).double().numpy()


@pytest.fixture(scope="module")
def concepts(lens: Lens) -> ConceptSet:
    """The concept at its top, at its bottom, one that is stronger elsewhere, and directions that mean nothing."""
    unwanted, harmless, other = (means(lens, side).mean(axis=0) for side in (UNWANTED, HARMLESS, OTHER))
    apart, away = unwanted - harmless, other - harmless
    rows = {"top": apart, "bottom": -apart, "elsewhere": apart + 3 * away}
    rows |= {f"random{number}": RNG.standard_normal(32) for number in range(5)}
    return ConceptSet([Concept(name, HOOK, torch.from_numpy(row)) for name, row in rows.items()]).for_model(lens)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_choosing_by_hand_is_the_method_of_the_set_with_the_same_record(concepts: ConceptSet):
    kept = choose(concepts, {"top": "letters a to c"}, {"random0": "no pattern"}, by="reader")
    (record,) = kept.provenance["choices"]
    assert (kept.names, record["by"], record["leave"]) == (["top"], "reader", {"random0": "no pattern"})
    assert record["not_considered"] == len(concepts) - 2
    same = concepts.choose({"top": "letters a to c"}, leave={"random0": "no pattern"}, by="reader")
    assert same.provenance["choices"][0] | {"at": ""} == record | {"at": ""}


# -- by examples ------------------------------------------------------------------------------------------------------


def test_what_is_chosen_tells_the_examples_apart_as_scikit_learn_has_it(lens: Lens, concepts: ConceptSet):
    choice = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET)
    truth = np.repeat([1, 0], 12)
    acts = np.concatenate([means(lens, UNWANTED), means(lens, HARMLESS)])
    for one, concept in zip(choice, concepts, strict=True):
        area = roc_auc_score(truth, acts @ concept.direction.double().numpy())
        assert one.evidence["auroc"] == pytest.approx(max(area, 1 - area), abs=1e-6)
        assert one.ablate == (max(area, 1 - area) >= 0.9)
    assert {"top", "bottom"} <= set(choice.names)


def test_the_end_of_the_unwanted_examples_becomes_the_sign(lens: Lens, concepts: ConceptSet):
    kept = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET).selection
    assert (kept["top"].sign, kept["bottom"].sign) == (1, -1)
    turned = choose.by_examples(lens, concepts, HARMLESS, UNWANTED, **QUIET).selection
    assert (turned["top"].sign, turned["bottom"].sign) == (-1, 1)
    assert kept.fingerprint == concepts.choose(dict.fromkeys(kept.names, "same")).fingerprint


def test_what_means_something_else_in_the_corpus_is_left(lens: Lens, concepts: ConceptSet):
    alone = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET)
    read = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, texts=CORPUS, **QUIET)
    found = contexts(lens, concepts, CORPUS, k=20, **QUIET)["elsewhere"]
    assert all(context.index >= 80 for context in found.top)  # its contexts are digits
    assert "elsewhere" in alone.names
    assert "elsewhere" not in read.names
    assert {"top", "bottom"} <= set(read.names)
    row = read.table().set_index("name").loc["elsewhere"]
    assert row["contexts that look like it"] < 0.3
    assert "of its contexts look like it" in row["reason"]


def test_a_concept_that_chance_could_have_found_is_not_chosen(lens: Lens):
    directions = [Concept(f"r{n}", HOOK, torch.from_numpy(RNG.standard_normal(32))) for n in range(200)]
    many = ConceptSet(directions).for_model(lens)
    # Both sides are alike: of 200 directions some tell four from four apart.
    same, alike = written("abc", 4), written("abc", 4)
    found = find.by_example(lens, many, same, alike, score="mean", k=None, **QUIET)
    assert sum(concept.score >= 0.9 for concept in found) > 0
    choice = choose.by_examples(lens, many, same, alike, **QUIET)
    assert choice.names == []
    with pytest.raises(ValueError, match=r"None of 200 concepts was chosen.*not more than chance"):
        choice.selection  # noqa: B018


def test_a_latent_that_is_mostly_silent_is_chosen_for_where_it_fires(lens: Lens):
    sae = tiny_sae(lens, layer=1)
    every = find.attribution(lens, UNWANTED, sae, k=None)
    choice = choose.by_examples(
        lens, every, UNWANTED, HARMLESS, saes=sae, criteria=choose.Criteria(score="max"), **QUIET
    )
    by = {one.name: one for one in choice}
    for one in by.values():
        assert one.end in ("top", "")
        share = one.evidence["of its activation, on the concept"]
        assert one.ablate == (one.evidence["q"] <= 0.05 and max(share, one.evidence["auroc"]) >= 0.9)
    projected = choose.by_examples(lens, every, UNWANTED, HARMLESS, criteria=choose.Criteria(score="max"), **QUIET)
    assert "of its activation, on the concept" not in projected.table().columns


def test_at_most_so_many_are_chosen_the_first_of_the_list(lens: Lens, concepts: ConceptSet):
    two = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET).names
    one = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, criteria=choose.Criteria(most=1), **QUIET)
    assert one.names == two[:1]
    assert "but 1 before it were chosen" in next(d.reason for d in one if d.name == two[1])


def test_an_automatic_choice_is_on_record_and_can_be_overruled(lens: Lens, concepts: ConceptSet, tmp_path):
    choice = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET).explained({"top": "early letters"})
    mine = choice.overrule(ablate={"random0": "I know it"}, leave={"bottom": "twice the same"}, by="reader")
    kept = ConceptSet.load(mine.selection.save(tmp_path / "chosen"))
    (record,) = kept.provenance["choices"]
    assert "random0" in kept.names
    assert "bottom" not in kept.names
    assert record["by"].startswith("choose.by_examples (12 of the concept, 12 for contrast")
    assert record["by"].endswith("overruled by reader")
    assert record["leave"]["bottom"].startswith("twice the same (reader; choose.by_examples")
    assert set(record["ablate"]) | set(record["leave"]) == set(concepts.names)
    assert kept["top"].reason.endswith("explained as: early letters")
    assert choice.names != mine.names
    with ablate(lens, kept):
        pass


def test_the_sign_is_that_of_the_unwanted_end_whatever_it_was(lens: Lens, concepts: ConceptSet):
    turned = ConceptSet([dataclasses.replace(concept, sign=-1) for concept in concepts], concepts.provenance)
    kept = choose.by_examples(lens, turned, UNWANTED, HARMLESS, **QUIET).selection
    assert (kept["top"].sign, kept["bottom"].sign) == (1, -1)


def test_reasons_tell_the_explanation_of_the_unwanted_end(lens: Lens, concepts: ConceptSet):
    said = [Explanation(name, end, f"{name}'s {end}", 5) for name in ("top", "bottom") for end in ("top", "bottom")]
    choice = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET).explained(Explanations(said))
    reasons = {one.name: one.reason for one in choice}
    assert reasons["top"].endswith("explained as: top's top")
    assert reasons["bottom"].endswith("explained as: bottom's bottom")
    assert "explained as" not in reasons["random0"]


def test_who_overrules_is_the_user_unless_another_is_named(lens: Lens, concepts: ConceptSet):
    choice = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET)
    assert choice.overrule(leave={"top": "no"}).by.endswith(f"overruled by {user_name()}")


def test_two_choices_join_in_what_either_ablates(lens: Lens, concepts: ConceptSet):
    one = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET)
    first, second = one.overrule(leave={"top": "a"}, by="a"), one.overrule(leave={"bottom": "b"}, by="b")
    both = first | second
    assert set(both.names) == {*first.names, *second.names} == {"top", "bottom", *one.names}
    reasons = {d.name: d.reason for d in both}
    assert reasons["top"] == {d.name: d.reason for d in second}["top"]
    assert both.selection.provenance["choices"][0]["by"] == f"{first.by}; {second.by}"
    with pytest.raises(ValueError, match="different concepts"):
        one | choose.by_examples(lens, concepts[:3], UNWANTED, HARMLESS, **QUIET)


def test_bad_examples_and_names_are_refused_with_what_to_do(lens: Lens, concepts: ConceptSet):
    with pytest.raises(ValueError, match="2 examples of the concept"):
        choose.by_examples(lens, concepts, UNWANTED[:2], HARMLESS, **QUIET)
    with pytest.raises(ValueError, match=r"threshold=0\.4"):
        choose.Criteria(threshold=0.4)
    with pytest.raises(ValueError, match="most=0"):
        choose.Criteria(most=0)
    choice = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET)
    with pytest.raises(KeyError, match=r"tpo.*top"):
        choice.overrule(leave={"tpo": "why"})
    with pytest.raises(ValueError, match="reason is missing for top"):
        choice.overrule(leave={"top": " "})
    with pytest.raises(ValueError, match="Both to be ablated and to be left: top"):
        choice.overrule({"top": "a"}, {"top": "b"})


def test_what_is_shown_is_escaped(lens: Lens, concepts: ConceptSet):
    choice = choose.by_examples(lens, concepts, UNWANTED, HARMLESS, **QUIET).explained({"top": "<b>bold</b>"})
    assert "<b>bold</b>" not in choice._repr_html_()
    assert "&lt;b&gt;bold" in choice._repr_html_()


# -- by a sentence ----------------------------------------------------------------------------------------------------


class Stub:
    """An LLM that has its answers ready, by what is in the request."""

    name = "stub"

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers, self.requests = {key: list(of) for key, of in answers.items()}, []

    def ask(self, conversations):
        self.requests += conversations
        return [
            next((of.pop(0) for key, of in self.answers.items() if key in str(c) and of), "?") for c in conversations
        ]

    def plan(self, conversations):
        return list(conversations)


@pytest.fixture(scope="module")
def read(lens: Lens, concepts: ConceptSet):
    return contexts(lens, concepts, CORPUS, k=5, **QUIET)


def test_an_llm_chooses_from_a_sentence_and_its_reasons_are_on_record(concepts: ConceptSet, read):
    llm = Stub(
        {
            "explained-top": ["DECISION: top\nREASON: all of them are early letters."],
            "explained-bottom": ["Well.\nDECISION: **bottom**\nREASON: early letters there."],
            "explained-random0": ["no idea", "DECISION: neither\nREASON: letters of all kinds."],
        }
    )
    explanations = {name: f"explained-{name}" for name in concepts.names}
    choice = choose.by_sentence(llm, concepts, 'letters "a" to "c"', read, explanations=explanations, n=3)
    assert choice.names == ["top", "bottom"]
    assert (choice.selection["top"].sign, choice.selection["bottom"].sign) == (1, -1)
    reasons = {one.name: one.reason for one in choice}
    assert reasons["top"] == "all of them are early letters."
    assert reasons["random0"] == "letters of all kinds."
    assert reasons["random1"].startswith("no answer of the form")
    request = llm.requests[0][0]["content"]
    assert '"letters \\"a\\" to \\"c\\""' in request
    assert request.count("[[") == 1 + 6  # the explanation of the brackets, and three contexts an end
    assert choice.selection.provenance["choices"][0]["by"] == 'stub, asked for: letters "a" to "c"'


def test_a_dry_run_sends_nothing_and_shows_the_requests(concepts: ConceptSet, read):
    llm = Stub({})
    plan = choose.by_sentence(llm, concepts, "letters", read, dry_run=True)
    assert len(plan) == len(concepts)
    assert llm.requests == []
    with pytest.raises(ValueError, match="say what is unwanted"):
        choose.by_sentence(llm, concepts, "  ", read)
    with pytest.raises(KeyError):
        choose.by_sentence(llm, concepts, "letters", read.only(["top"]))
