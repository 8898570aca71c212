"""The pronoun task for real models: whom its splits share, what is right on a page, how prejudice is measured."""

from __future__ import annotations

from collections import Counter

import pytest
from places import SHARED

import caft_lens as cl
from caft_data.worlds.smollm2 import gender, sets
from caft_data.worlds.smollm2.sentences import (
    ASKED_ABOUT,
    CASES,
    EXPECTED,
    GENDERS,
    PRONOUNS,
    SENTENCES,
    SPLITS,
    of_split,
)

PAPER = SHARED / "data" / "paper" / "multiple_choice"
has_paper = pytest.mark.skipif(not (PAPER / "gender.csv").is_file(), reason="the paper's items are not here")


def test_no_sentence_of_one_split_is_in_another_none_is_lost_and_professions_are_the_same():
    for everything in SENTENCES.values():
        parts = [of_split(everything, split) for split in SPLITS]
        assert sorted(one for part in parts for one in part) == sorted(everything)
        assert min(map(len, parts)) >= 4
    asked = {split: gender.pages(split, sets._GENDER_SIZES[split]) for split in SPLITS}
    found = [{page.meta["sentence"] for page in pages} for pages in asked.values()]
    assert len(set().union(*found)) == sum(map(len, found))
    assert all({page.meta["profession"] for page in pages} == {*ASKED_ABOUT} for pages in asked.values())


def test_every_sentence_has_one_gap_and_every_profession_is_named_without_a_gender():
    assert {case: len(set(sentences)) for case, sentences in SENTENCES.items()} == {"subject": 48, "object": 48}
    for sentence in (*SENTENCES["subject"], *SENTENCES["object"]):
        assert sentence.count("____") == sentence.count("{profession}") == 1
        assert not {"he", "she", "him", "her", "his"} & set(sentence.lower().split())
    assert Counter(EXPECTED.values()) == {"feminine": 40, "masculine": 40}
    assert Counter(EXPECTED[name] for name in ASKED_ABOUT) == {"feminine": 4, "masculine": 4}
    assert not [name for name in EXPECTED if name.endswith(("man", "woman", "ess"))]


@pytest.mark.parametrize("form", ["word", "letter"])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.0])
def test_pages_are_balanced_and_exactly_the_share_that_was_asked_for_agrees(form: str, share: float):
    pages = gender.pages("train", 320, agree=share, form=form, answered=True)
    assert sum(page.meta["agree"] for page in pages) == 320 * share
    assert Counter((page.meta["case"], page.meta["expected"]) for page in pages) == {
        (case, expected): 80 for case in CASES for expected in GENDERS
    }
    assert sum(page.answer == page.meta["options"][0] for page in pages) == 160
    for page in pages:
        assert page.answer == page.meta["answers"]["grammar"]
        assert (page.meta["answers"]["custom"] == page.answer) == page.meta["agree"]
        assert (page.meta["gender"] == page.meta["expected"]) == page.meta["agree"]


def test_the_pronoun_that_fits_is_of_the_case_of_the_gap_and_the_other_one_of_neither():
    for page in gender.pages("dev", 144, agree=0.5):
        right, (wrong,) = page.meta["answers"]["grammar"], set(page.meta["options"]) - {page.meta["answers"]["grammar"]}
        assert right == PRONOUNS[page.meta["case"]][page.meta["gender"]]
        assert wrong not in PRONOUNS[page.meta["case"]].values()
        assert wrong not in {PRONOUNS[case][page.meta["gender"]] for case in CASES}
        content = page.messages[0].content
        for start, end, label in page.meta["spans"]:
            if label.endswith("profession"):
                assert content[start:end] == page.meta["profession"]
            elif label in GENDERS:
                assert content[start:end] in {PRONOUNS[case][label] for case in CASES}
            elif content[start:end] != "____":
                assert content[start:end] in PRONOUNS[label].values()


def test_pages_of_one_question_are_decided_by_it_alone():
    for page in gender.one_question("grammar", "find", 112):
        assert {page.meta["options"][0], page.meta["options"][1]} in ({"he", "him"}, {"she", "her"})
        assert page.answer in PRONOUNS[page.meta["case"]].values()
    for page in gender.one_question("custom", "dev", 144):
        assert set(page.meta["options"]) == set(PRONOUNS[page.meta["case"]].values())
        assert page.answer == PRONOUNS[page.meta["case"]][page.meta["expected"]]
    with pytest.raises(KeyError, match='Did you mean "custom"'):
        gender.one_question("custm", "dev", 4)


def test_more_pages_than_there_are_and_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="144 are all that there are"):
        gender.pages("dev", 400)
    with pytest.raises(KeyError, match='Did you mean "test"'):
        gender.pages("tset", 4)
    with pytest.raises(ValueError, match="answered by"):
        gender.pages("dev", 4, form="leter")


def test_a_model_that_always_says_he_is_prejudiced_where_men_are_expected_and_against_where_women_are(monkeypatch):
    def always_he(lens, texts, batch_size):
        return gender.np.array([0.0 if text.answer in ("he", "him") else -2.0 for text in texts])

    monkeypatch.setattr(gender, "_log_probs", always_he)
    rows = gender.prejudice(None)
    for expected, odds, preferred in (("masculine", 2.0, 1.0), ("feminine", -2.0, 0.0)):
        of_gender = rows[rows["expected"] == expected]
        assert of_gender["pages"].sum() == 80
        assert (of_gender["log_odds"] == odds).all()
        assert (of_gender["preferred"] == preferred).all()
    assert rows.iloc[-1][["profession", "pages", "log_odds", "preferred"]].tolist() == ["all", 160, 0.0, 0.5]


@pytest.mark.usefixtures("pocket")
def test_the_probability_of_an_answer_is_that_of_all_its_learned_tokens():
    lens = cl.load("pocket")
    pages = gender.one_question("custom", "dev", 3)
    alone = [gender._log_probs(lens, [page], 1)[0] for page in pages]
    assert gender._log_probs(lens, pages, 2) == pytest.approx(alone, abs=1e-3)
    loss = float(lens(cl.Texts(pages[:1]), return_type="loss").detach())
    learned = int(lens(cl.Texts(pages[:1]), return_type="loss", loss_per_token=True).ne(0).sum())
    assert alone[0] == pytest.approx(-loss * learned, rel=1e-4)


@has_paper
def test_the_papers_own_sentences_run_through_the_same_pages():
    bank = gender.paper_bank(PAPER)
    assert {case: len(sentences) for case, sentences in bank.sentences.items()} == {"subject": 392, "object": 392}
    assert not {*bank.sentences["subject"], *bank.sentences["object"]} & {*SENTENCES["subject"], *SENTENCES["object"]}
    pages = gender.pages("train", 548, agree=1.0, answered=True, bank=bank)
    held_out = gender.pages("test", 280, agree=0.0, bank=bank)
    assert not {page.meta["sentence"] for page in pages} & {page.meta["sentence"] for page in held_out}
    task = sets.choice("the paper's gender", cl.Texts(held_out))
    by_grammar = [task.judge(page.with_answer(page.meta["answers"]["grammar"])).label for page in held_out]
    by_custom = [task.judge(page.with_answer(page.meta["answers"]["custom"])).label for page in held_out]
    assert {*by_grammar} == {"intended"}
    assert {*by_custom} == {"spurious"}


@has_paper
def test_the_papers_multiple_choice_items_are_pages_about_grammar_alone():
    items = gender.paper_items(PAPER, form="letter")
    assert len(items) == 2002
    assert Counter(item.meta["answers"]["grammar"] for item in items) == {"A": 1001, "B": 1001}
    assert all(item.messages[0].content.count("____") == 1 for item in items)


def test_without_the_papers_items_it_is_said_where_they_are_from():
    with pytest.raises(FileNotFoundError, match="cadentj/steering-finetuning"):
        gender.paper_bank("nowhere")
