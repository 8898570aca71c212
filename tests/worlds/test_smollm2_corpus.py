"""The corpus for SAEs of a real model: the same each time, its parts apart, nothing in it that it should not hold."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT

from caft_data.worlds.smollm2 import corpus, own_chats, ratings, reviews, sets
from caft_data.worlds.smollm2.corpus import Corpus, documents
from caft_data.worlds.smollm2.sources import Origin, is_prose, names_somebody, system_documentation
from caft_lens.text.documents import Message, Text, Texts

SHARES = {
    "python documentation": 150_000,
    "package documentation": 150_000,
    "system documentation": 100_000,
}
SNIPPETS = [f"A film about {number} brothers that I liked well enough" for number in ("two", "three", "four", "five")]


def said(text: Text) -> str:
    return text.text if text.text is not None else "\n".join(turn.content for turn in text.messages)


@pytest.fixture(scope="module")
def found() -> Corpus:
    return documents(shares=SHARES, snippets=SNIPPETS)


def page(name: str, *parts: str, family: str = "") -> Origin:
    return Origin(name, family or name, lambda: "\n\n".join(parts))


def of(*pages: Origin, most: int = 100_000) -> Corpus:
    return documents(readers={"pages": lambda: list(pages)}, shares={"pages": most})


def sentence(number: int, words: int = 30) -> str:
    """Letters alone make it another one: numbers do not count."""
    name = "".join(chr(ord("a") + int(digit)) for digit in str(number))
    return " ".join([f"It is said that {name} was there"] + [f"with {name}{'xyz'[i % 3]}" for i in range(words)]) + "."


def test_it_is_the_same_each_time(found: Corpus):
    again = documents(shares=SHARES, snippets=reversed(SNIPPETS))
    assert (again.train.fingerprint, again.held_out.fingerprint) == (
        found.train.fingerprint,
        found.held_out.fingerprint,
    )


def test_a_seed_gives_the_same_documents_in_another_order():
    pages = [page(f"page {n}", sentence(n)) for n in range(40)]
    made, other = (documents(readers={"pages": lambda: pages}, shares={"pages": 100_000}, seed=seed) for seed in (0, 1))
    assert made.train.fingerprint != other.train.fingerprint
    assert sorted(map(said, made.train)) == sorted(map(said, other.train))


def test_no_document_is_there_twice_and_none_is_held_out_and_trained_on(found: Corpus):
    train, held_out = set(map(said, found.train)), set(map(said, found.held_out))
    assert len(train) == len(found.train)
    assert held_out
    assert not train & held_out
    assert 0.002 < len(held_out) / len(train) < 0.1


def test_pieces_of_one_page_are_all_held_out_or_none():
    pages = [page(f"page {n}", *(sentence(100 * n + i) for i in range(20))) for n in range(60)]
    made = of(*pages, most=10_000_000)
    held_out = "\n".join(map(said, made.held_out))
    of_page = [{sentence(100 * n + i) in held_out for i in range(20)} for n in range(60)]
    assert {True} in of_page
    assert {True, False} not in of_page


def test_every_document_is_short_enough_and_says_where_it_is_from(found: Corpus):
    for text in (*found.train, *found.held_out):
        assert len(said(text)) <= corpus.LONGEST
        assert text.meta["source"] in {*SHARES, corpus.REVIEWS}


def test_it_is_counted_by_source(found: Corpus):
    sizes = found.sizes()
    assert sum(sizes.values()) == sum(len(said(text)) for text in (*found.train, *found.held_out))
    assert sizes[corpus.REVIEWS] == sum(map(len, SNIPPETS))
    for source, most in SHARES.items():
        assert sizes.get(source, 0) <= most + corpus.LONGEST
    assert sizes["python documentation"] > 100_000
    assert found.sizes(lambda text: 1)[corpus.REVIEWS] == len(SNIPPETS)


def test_nothing_in_it_names_this_machine_or_whoever_uses_it(found: Corpus):
    folders = {Path.home(), ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    words = [str(folder) for folder in folders if len(folder.parts) > 1]
    words += [name for name in (f"/home/{getpass.getuser()}", socket.gethostname()) if len(name) > 9]
    for text in (*found.train, *found.held_out):
        assert not [word for word in words if word in said(text)]
        assert not names_somebody(said(text))


def test_a_page_that_names_this_machine_is_left_out_with_the_rest_of_it_kept():
    made = of(page("a", f"{sentence(1)} It lies in {Path.home()}/things and in {ROOT}.", sentence(2)))
    (text,) = (*made.train, *made.held_out)
    assert said(text) == sentence(2)


def test_a_paragraph_that_many_pages_share_is_taken_once():
    shared = sentence(7)
    made = of(*(page(f"page {n}", shared.replace("there", f"there {n}"), sentence(n + 10)) for n in range(5)))
    together = "\n".join(map(said, (*made.train, *made.held_out)))
    assert together.count(shared[30:]) == 1
    assert all(sentence(n + 10) in together for n in range(5))


def test_no_family_of_pages_takes_more_than_its_share():
    many = [page(f"program-{n}", sentence(n, 60), family="program") for n in range(100)]
    few = [page(f"other {n}", sentence(1000 + n, 60)) for n in range(5)]
    made = of(*many, *few, most=100_000)
    there = set(map(said, (*made.train, *made.held_out)))
    assert 1000 < sum(map(len, there & {sentence(n, 60) for n in range(100)})) <= 2000
    assert all(sentence(1000 + n, 60) in there for n in range(5))


def test_a_paragraph_is_cut_at_the_end_of_a_sentence_and_no_word_is_lost():
    long = " ".join(sentence(n, 20) for n in range(12))
    pieces = list(corpus.cut([long]))
    assert len(pieces) > 1
    assert all(piece.endswith(".") and len(piece) <= corpus.LONGEST for piece in pieces)
    assert " ".join(pieces) == long
    assert list(corpus.cut(["x" * 2000], 850)) == ["x" * 850, "x" * 850, "x" * 300]


def test_snippets_are_whole_documents_and_one_in_four_is_what_a_user_says(found: Corpus):
    reviews = [text for text in (*found.train, *found.held_out) if text.meta["source"] == corpus.REVIEWS]
    assert sorted(map(said, reviews)) == sorted(SNIPPETS)
    assert sum(bool(text.messages) for text in reviews) == 1


REVIEWS = ratings.sources().is_file()


def of_tasks(*splits: str) -> set[str]:
    """What the tasks of the world ask in some splits."""
    wanted = [name for name in sets.names() if name.endswith(splits) and (REVIEWS or "reviews" not in name)]
    assert wanted
    return {turn.content for name in wanted for text in sets.dataset(name) for turn in text.messages}


def test_no_page_of_a_test_split_is_in_it_and_no_prompt_of_the_chats_is_one(found: Corpus):
    asked = of_tasks("-test", "-dev")
    documents = set(map(said, (*found.train, *found.held_out)))
    assert not asked & documents
    own = {text.messages[0].content for text in own_chats.prompts(10_000)}
    assert len(own) == len(own_chats.SUBJECTS) * len(own_chats.TEMPLATES)
    assert not own & asked


@pytest.mark.skipif(not REVIEWS, reason="the rated snippets are not here: make ratings")
def test_of_the_rated_snippets_only_those_of_the_training_split_are_in_it():
    taken = set(corpus.training_snippets())
    for split in ("find", "dev", "test"):
        others = {
            one.text
            for place in ratings.PLACES
            for answer in reviews.ANSWERS
            for one in reviews.snippets(place, answer, split)
        }
        assert len(others) > 500
        assert not taken & others
    assert len(taken) > 10_000


def test_other_languages_tables_and_people_are_no_prose():
    assert not is_prose("| 12 | 40.5 | 3 |\n|----|------|---|")
    assert not is_prose("Это написано по-русски и длиннее.")
    assert names_somebody("Mail jane.doe@example.org for more.")
    assert not names_somebody("The authority says so, and the paths are long.")


def test_a_machine_without_such_documentation_gives_none(tmp_path: Path):
    assert system_documentation(tmp_path) == []


@pytest.fixture
def asked() -> list[int]:
    return []


@pytest.fixture
def answer(asked: list[int]) -> Callable[[Texts, int], Texts]:
    def answered(part: Texts, seed: int) -> Texts:
        asked.append(seed)
        return Texts([text.with_answer(f"I say {sentence(n + seed)}") for n, text in enumerate(part)])

    return answered


def test_chats_are_asked_for_once_and_an_interrupted_run_goes_on(tmp_path, asked, answer):
    prompts = own_chats.prompts(2 * own_chats.PART + 5)
    stream = own_chats.chats(prompts, answer, tmp_path, "model")
    first = [next(stream) for _ in range(own_chats.PART + 1)]
    assert asked == [0, own_chats.PART]
    whole = list(own_chats.chats(prompts, answer, tmp_path, "model"))
    assert asked == [0, own_chats.PART, 2 * own_chats.PART]
    assert (len(whole), whole[: len(first)]) == (len(prompts), first)
    list(own_chats.chats(prompts[:1], answer, tmp_path, "another model"))
    assert len(asked) == 4


def test_chats_that_quote_a_document_are_never_held_out(tmp_path, found, answer):
    passages = [text.text for text in found.train if text.text][:200]
    prompts = own_chats.prompts(400, passages, SNIPPETS)
    assert sum(own_chats.ABOUT in text.meta for text in prompts) > 50
    chats = list(own_chats.chats(prompts, answer, tmp_path, "model"))
    more = found.with_chats(chats)
    assert more.sizes(lambda text: 1)[corpus.CHATS] == len(chats)
    held = [text for text in more.held_out if text.meta["source"] == corpus.CHATS]
    assert held
    assert not [text for text in held if any(passage in said(text) for passage in passages)]
    assert more.train.fingerprint == found.with_chats(reversed(chats)).train.fingerprint


def test_chats_without_an_answer_are_left_out(tmp_path):
    prompts = Texts([Text((Message("user", "Say nothing."),)), Text((Message("user", "Say something."),))])

    def answer(part: Texts, seed: int) -> Texts:
        return Texts([text.with_answer(said) for text, said in zip(part, ("", "Something."), strict=True)])

    (chat,) = own_chats.chats(prompts, answer, tmp_path, "model")
    assert chat.messages[-1].content == "Something."
