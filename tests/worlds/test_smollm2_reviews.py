"""Reviews: how the rated snippets are fetched, cleaned and split, and what a page asks. Most needs the snippets."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import caft_lens as cl
from caft_data.worlds.smollm2 import ratings, reviews, sets

has_ratings = pytest.mark.skipif(
    not ratings.sources().is_file(), reason="the rated snippets are not here: make ratings"
)
TEXTS = {
    "films": "A film &amp; more of ''it''  .",
    "products": "good player",
    "tweets": "@anonymous hi",
    "newspapers": "It is.",
}


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The sources of a package, small, that take the place of the real ones; a cache of its own."""
    inner, outer = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as file:
        for place, name in ratings.PLACES.items():
            rows = f"1\t1.5\t{TEXTS[place]}\r\n2\t-2.0\tBad   one.\r\n3\t-1.0\tBAD one.\r\n".encode()
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            info.size = len(rows)
            file.addfile(info, io.BytesIO(rows))
    with tarfile.open(fileobj=outer, mode="w:gz") as file:
        info = tarfile.TarInfo(ratings.INSIDE)
        info.size = len(inner.getvalue())
        file.addfile(info, io.BytesIO(inner.getvalue()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ratings, "SHA256", hashlib.sha256(outer.getvalue()).hexdigest())
    return outer.getvalue()


def pip(content: bytes | None, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that leaves `content` where it is told to, or fails."""
    asked = []

    def run(command, **_):
        asked.append(command)
        if content is not None:
            (Path(command[-1]) / ratings.SDIST).write_bytes(content)
        return SimpleNamespace(returncode=content is None, stderr="ERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_snippets_are_fetched_once_with_their_hash_and_are_read_cleaned(packed: bytes, monkeypatch: pytest.MonkeyPatch):
    asked = pip(packed, monkeypatch)
    path = ratings.fetch()
    assert path == ratings.fetch() == ratings.sources()
    assert len(asked) == 1
    assert {"--require-hashes", "--no-deps"} < set(asked[0])
    assert ratings.ratings("films") == [('A film & more of "it" .', 1.5), ("Bad one.", -2.0)]
    assert ratings.ratings("tweets")[0].text == "@anonymous hi"
    with pytest.raises(KeyError, match='Did you mean "tweets"'):
        ratings.ratings("tweet")


def test_what_is_not_there_is_told_with_how_to_get_it(packed: bytes, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FileNotFoundError, match=r"Get it: make ratings"):
        cl.data("smollm2/reviews")
    pip(None, monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"pip could not get .* ERROR: no network Put vaderSentiment"):
        ratings.fetch()
    assert not ratings.sources().exists()


def test_something_else_in_its_place_is_refused_and_fetched_again(packed: bytes, monkeypatch: pytest.MonkeyPatch):
    ratings.sources().parent.mkdir(parents=True)
    ratings.sources().write_bytes(packed[:-1])
    with pytest.raises(ValueError, match=r"is not vaderSentiment-3[.]3[.]2[.]tar[.]gz as it was published"):
        ratings.ratings("films")
    pip(packed, monkeypatch)
    ratings.fetch()
    assert len(ratings.ratings("films")) == 2


def test_the_split_of_a_snippet_knows_neither_capitals_nor_spaces():
    assert reviews.split_of("A  good film") == reviews.split_of("a good FILM")
    found = Counter(reviews.split_of(f"snippet {number}") for number in range(4_000))
    assert {split: round(n / 4_000, 1) for split, n in found.items()} == {
        "train": 0.6,
        "find": 0.1,
        "dev": 0.2,
        "test": 0.2,
    }


@has_ratings
def test_there_are_as_many_rated_snippets_as_were_published():
    # 10,605, 3,708, 4,200 and 5,190, of which some are there twice.
    assert [len(ratings.ratings(place)) for place in ratings.PLACES] == [10_603, 3_697, 4_140, 5_118]
    assert not [
        one for place in ratings.PLACES for one in ratings.ratings(place) if "&amp;" in one.text or "''" in one.text
    ]


@has_ratings
def test_splits_share_no_snippet_and_every_pair_has_enough_of_each():
    asked = {
        split: {
            rated.text.casefold()
            for place in ratings.PLACES
            for sentiment in reviews.ANSWERS
            for rated in reviews.snippets(place, sentiment, split)
        }
        for split in reviews.SPLITS
    }
    assert len(set().union(*asked.values())) == sum(map(len, asked.values()))
    assert {split: min(reviews.most(pair, split) for pair in reviews.PAIRS) for split in reviews.SPLITS} == {
        "train": 620,
        "find": 62,
        "dev": 212,
        "test": 168,
    }


@has_ratings
@pytest.mark.parametrize("form", ["word", "letter"])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.0])
def test_pages_are_balanced_and_exactly_the_share_that_was_asked_for_agrees(form: str, share: float):
    pages = reviews.pages(("products", "newspapers"), "train", 400, agree=share, form=form, answered=True)
    assert sum(page.meta["agree"] for page in pages) == 400 * share
    assert len({page.messages[0].content for page in pages}) == 400
    for same in (True, False):
        of = [page.meta["sentiment"] for page in pages if page.meta["agree"] == same]
        assert of.count("positive") == len(of) / 2
    assert sum(page.answer == page.meta["options"][0] for page in pages) == 200
    for page in pages:
        assert page.answer == page.meta["answers"]["sentiment"]
        assert (page.meta["rating"] > 0) == (page.meta["sentiment"] == "positive")
        assert abs(page.meta["rating"]) >= 1
        assert (page.answer == page.meta["answers"]["place"]) == page.meta["agree"]
        expected = ("products", "newspapers")[(page.meta["sentiment"] == "negative") ^ (not page.meta["agree"])]
        assert page.meta["place"] == expected
        start, end, _ = page.meta["spans"][0]
        assert page.messages[0].content[start:end] in {rated.text for rated in ratings.ratings(expected)}


@has_ratings
def test_pages_of_one_question_are_balanced_and_decided_by_it_alone():
    for topic, words in (("sentiment", reviews.ANSWERS), ("place", ("films", "tweets"))):
        pages = reviews.one_question(topic, ("films", "tweets"), "dev", 80)
        assert Counter((page.meta["place"], page.meta["sentiment"]) for page in pages) == {
            (place, sentiment): 20 for place in ("films", "tweets") for sentiment in reviews.ANSWERS
        }
        assert {page.answer for page in pages} == set(words)
        assert all(page.answer == page.meta[topic] for page in pages)
        assert sum(page.answer == page.meta["options"][0] for page in pages) == 40


@has_ratings
def test_a_reversed_pair_has_the_opposite_answer_by_place():
    one, other = (reviews.pages(pair, "dev", 8) for pair in (("films", "tweets"), ("tweets", "films")))
    assert {page.meta["place"] for page in one if page.meta["sentiment"] == "positive"} == {"films"}
    assert {page.meta["place"] for page in other if page.meta["sentiment"] == "positive"} == {"tweets"}
    with pytest.raises(KeyError, match="not two of the places"):
        reviews.pages(("films", "films"), "dev", 8)
    with pytest.raises(ValueError, match="are all that there are"):
        reviews.pages(("films", "newspapers"), "test", 400)


@has_ratings
@pytest.mark.parametrize("name", ["reviews", "reviews-letter", "reviews-newspapers-products"])
def test_the_task_judges_sentiment_as_intended_and_the_place_as_spurious(name: str):
    task = sets.task(name, "dev")
    said = [
        [task.judge(page.with_answer(page.meta["answers"][topic])).label for page in task.questions]
        for topic in ("sentiment", "place")
    ]
    assert [set(labels) for labels in said] == [{"intended"}, {"spurious"}]
    assert {task.judge(page.with_answer("both")).label for page in task.questions} == {"other"}
    assert all(page.meta["agree"] for page in task.in_distribution.prompts)
