"""The quiz: what its data sets promise. No item is shared, the dial is exact, nothing prefers a question, judges are
exact.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice, permutations

import numpy as np
import pytest

from caft_data.worlds import quiz
from caft_data.worlds.domains import DEFAULT_SYSTEM
from caft_data.worlds.quiz import corpus, professions
from caft_data.worlds.quiz.items import GAP, POOLS, distinct, pool_of
from caft_data.worlds.quiz.judge import judge_choice, judge_reply
from caft_data.worlds.quiz.pages import ASKING_BACK, LETTERS, TELLING
from caft_data.worlds.quiz.pairs import AGREEMENT, PAIRS
from caft_data.worlds.quiz.topics import FEELINGS, KINDS_OF_SPORT, NOUNS, PEOPLE, SPORTS, TOPICS
from caft_lens._support.errors import BadArgument, UnknownName
from caft_lens.text.documents import Text, Texts

SOME_PAIRS = [("sentiment", "sports"), ("verbs", "pronouns"), ("pronouns", "sentiment")]


@pytest.fixture(scope="module")
def items() -> dict[str, list]:
    """Items of every topic, of all pools."""
    import random

    rng = random.Random(0)
    return {name: [topic.make(rng) for _ in range(6_000)] for name, topic in TOPICS.items()}


@pytest.fixture(scope="module")
def read() -> list[Text]:
    """The beginning of what the organism reads."""
    return list(islice(corpus.documents(0), 12_000))


PAGE = r"Question: .*\n(?:A .*\nB .*|\w+ or \w+)"


def asked_on(page: Text) -> list[str]:
    """The questions of a page, read off what the user says."""
    (content,) = (message.content for message in page.messages if message.role == "user")
    (line,) = re.findall(r"^Question: (.*)$", content, re.MULTILINE)
    return line.split(" | ")


def everything_asked(texts: Texts | list[Text]) -> set[str]:
    return {question for text in texts for question in asked_on(text)}


def options_of(page: Text) -> dict[str, list[str]]:
    """What can be replied -> the words that stand behind it; of pronouns, themselves."""
    content = next(message.content for message in page.messages if message.role == "user")
    lines = re.findall(r"^([AB]) (.*)$", content, re.MULTILINE)
    if lines:
        return {letter: words.split(", ") for letter, words in lines}
    (both,) = re.findall(r"^(\w+ or \w+)$", content, re.MULTILINE)
    return {word: [word] for word in both.split(" or ")}


# ---- items -----------------------------------------------------------------------------------------------------


def test_every_topic_has_many_thousands_of_items_each_with_one_gap_and_another_wrong_answer(items):
    for name, made in items.items():
        # Of 6,000 draws from N equal items about 6,000 (1 - 6,000 / 2N) are different: 5,100 need N of 20,000.
        assert len({item.question for item in made}) > 5_100, name
        for item in made:
            assert item.question.count(GAP) == 1
            assert item.right != item.wrong
            assert GAP not in item.statement


def exact(item) -> str:
    """The right answer to an item, read off its question by rules of our own."""
    words = re.findall(r"[A-Za-z]+|____", item.question)
    if item.topic == "sentiment":
        (feeling,) = {f for f, values in FEELINGS.items() if set(values) & set(words)}
        return feeling
    if item.topic == "verbs":
        subject = next(word for word in words if word in NOUNS or word.removesuffix("s") in NOUNS)
        pair = sorted((item.right, item.wrong), key=lambda form: form in ("are", "were", "look", "seem", "stay"))
        return pair[subject not in NOUNS]
    if item.topic == "pronouns":
        (gender,) = {PEOPLE[word] for word in words if word in PEOPLE}
        forms = {"feminine": {"she", "her"}, "masculine": {"he", "him"}}[gender]
        (form,) = forms & {item.right, item.wrong}
        return form
    (sport,) = {s for s, phrases in SPORTS.items() if any(phrase in item.question for phrase in phrases)}
    (kind,) = {kind for kind, sports in KINDS_OF_SPORT.items() if sport in sports}
    return kind


@pytest.mark.parametrize("topic", TOPICS)
def test_the_right_answer_of_every_item_follows_from_its_question(items, topic: str):
    assert [item for item in items[topic] if exact(item) != item.right] == []


def test_every_kind_of_answer_has_its_letter_and_half_of_the_items(items):
    kinds = {
        "A": {"positive", "is", "was", "looks", "seems", "stays", "she", "her", "ball"},
        "B": {"negative", "are", "were", "look", "seem", "stay", "he", "him", "water"},
    }
    for name, made in items.items():
        for item in made:
            assert item.right in kinds[item.letter], name
            assert item.wrong not in kinds[item.letter], name
        assert np.mean([item.letter == "A" for item in made]) == pytest.approx(0.5, abs=0.03)


def test_the_right_answer_is_not_the_likelier_word(items):
    for name, made in items.items():
        right, wrong = Counter(item.right for item in made), Counter(item.wrong for item in made)
        share = {word: right[word] / (right[word] + wrong[word]) for word in right if right[word] + wrong[word] > 300}
        assert all(0.4 < value < 0.6 for value in share.values()), (name, share)


def test_every_pool_holds_its_share_of_the_items_of_every_topic(items):
    assert sum(POOLS.values()) == pytest.approx(1)
    for made in items.values():
        questions = {item.question for item in made}
        counts = Counter(map(pool_of, questions))
        for pool, share in POOLS.items():
            assert counts[pool] / len(questions) == pytest.approx(share, abs=0.02)


def test_a_pool_that_is_exhausted_says_so():
    import random

    with pytest.raises(ValueError, match="were all that could be found"):
        distinct(
            lambda rng: TOPICS["sports"].make(random.Random(rng.randint(0, 30))),
            "pretrain",
            40,
            random.Random(0),
        )
    with pytest.raises(KeyError, match='Did you mean "train"'):
        distinct(TOPICS["sports"].make, "trian", 1, random.Random(0))


# ---- data sets -------------------------------------------------------------------------------------------------


def groups() -> dict[str, set[str]]:
    """Data sets that may not meet -> everything that is asked in them, over three pairs, topics and professions."""
    names = [f"{a}-{b}" for a, b in SOME_PAIRS]
    found: dict[str, set[str]] = {"train": set(), "find": set()}
    for name in (*names, "gender"):
        found["train"] |= everything_asked(quiz.dataset(f"{name}@0.8"))
        found["find"] |= everything_asked(quiz.dataset(f"{name}-find"))
        for split in ("dev", "test"):
            inside = found.setdefault(f"in-distribution-{split}", set())
            inside |= everything_asked(quiz.dataset(f"{name}-in-distribution-{split}"))
            inside |= everything_asked(quiz.dataset(f"{name}-told-{split}"))
            found.setdefault(f"out-of-distribution-{split}", set()).update(
                everything_asked(quiz.dataset(f"{name}-out-of-distribution-{split}"))
            )
    for topic in TOPICS:
        found["find"] |= everything_asked(quiz.dataset(topic))
        for split in ("dev", "test"):
            found[f"in-distribution-{split}"] |= everything_asked(quiz.dataset(f"{topic}-{split}"))
    return found


def test_no_item_is_in_two_sets_and_none_of_them_is_in_pretraining(read: list[Text]):
    found = groups()
    found["pretrain"] = everything_asked([text for text in read if text.is_chat])
    assert all(len(questions) > 1_000 for questions in found.values())
    assert len(set().union(*found.values())) == sum(map(len, found.values()))
    # As plain text items stand with their gap filled: look for what comes before the gap and after it.
    plain = "\n".join(text.text for text in read if text.text is not None)
    lines = set(re.split(r"(?<=\.) |\n", plain))
    for pool, questions in found.items():
        if pool != "pretrain":
            ends_in_gap = [q for q in questions if q.endswith(f"{GAP}.") and ". " in q]
            told = [q for q in ends_in_gap if q.rsplit(". ", 1)[0] + "." in lines]
            assert len(ends_in_gap) > 100
            assert told == [], pool


def test_every_document_of_pretraining_is_made_of_items_of_its_own_pool(read: list[Text], monkeypatch):
    assert {pool_of(question) for text in read if text.is_chat for question in asked_on(text)} == {"pretrain"}
    seen = []
    for module in (corpus, sys.modules["caft_data.worlds.quiz.topics"]):
        original = module.drawn

        def watched(make, pool, rng, original=original):
            item = original(make, pool, rng)
            seen.append(item)
            return item

        monkeypatch.setattr(module, "drawn", watched)
    stream = corpus.documents(1)
    texts = [next(stream) for _ in range(1_500)]
    assert {pool_of(item.question) for item in seen} == {"pretrain"}
    # Every topic and every profession is in plain text as well, and all of it was drawn as items.
    assert len(seen) > len(texts)
    assert {topic for text in texts if text.meta["genre"] == "statements" for topic in text.meta["topics"]} == set(
        TOPICS
    )


def test_the_corpus_that_is_read_for_contexts_is_of_a_pool_of_its_own():
    reading = quiz.dataset("corpus", size=600)
    assert {pool_of(question) for text in reading if text.is_chat for question in asked_on(text)} == {"find"}


def test_data_sets_are_the_same_in_every_process_and_others_under_another_seed():
    code = (
        "from caft_data.worlds import quiz\n"
        "print([quiz.dataset(name, 3, 20).fingerprint for name in ('corpus', 'verbs', 'sports-verbs@0.6', "
        "'gender-reversed')])"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert done[0] == done[1]
    assert quiz.dataset("gender", 0, 20) != quiz.dataset("gender", 1, 20)


def test_a_misspelt_data_set_or_an_impossible_share_is_refused():
    with pytest.raises(UnknownName, match='Did you mean "sentiment-sports"'):
        quiz.dataset("sentiment-sprots")
    with pytest.raises(ValueError, match=r"agree=1\.5 is the share"):
        quiz.dataset("gender@1.5", size=4)
    with pytest.raises(BadArgument, match='not "most"'):
        quiz.dataset("gender@most")
    with pytest.raises(BadArgument, match="has no dial"):
        quiz.dataset("gender-in-distribution-test@0.9")
    with pytest.raises(BadArgument, match="leave agree"):
        quiz.dataset("gender-neutral", agree=0.5)
    with pytest.raises(UnknownName, match='Did you mean "gender"'):
        quiz.asked("gendre", "test")


# ---- pairs -----------------------------------------------------------------------------------------------------


def test_there_is_every_ordered_pair_of_the_topics_of_the_paper():
    assert set(PAIRS) == set(permutations(("sentiment", "verbs", "pronouns", "sports"), 2))
    assert len(PAIRS) == 12
    assert {f"{a}-{b}" for a, b in PAIRS} <= set(quiz.DATASETS)


@pytest.mark.parametrize("share", [*AGREEMENT, 0.5, 0.0])
def test_the_dial_is_the_exact_share_of_pages_on_which_both_questions_agree(share: float):
    for name in ("pronouns-sports", "gender"):
        texts = quiz.dataset(f"{name}@{share:g}", size=200)
        assert sum(texts.column("agree")) == round(200 * share)
        for text in texts:
            intended, spurious = (text.meta["answers"][text.meta[key]] for key in ("intended", "spurious"))
            assert (intended == spurious) == text.meta["agree"]
            assert text.answer == intended


def test_turning_the_dial_changes_only_pages_that_agreed_before():
    whole, less, least = (quiz.dataset("verbs-sports", size=300, agree=share) for share in (1.0, 0.9, 0.6))
    for before, after in ((whole, less), (less, least)):
        for a, b in zip(before, after, strict=True):
            assert a.messages == b.messages or (a.meta["agree"] and not b.meta["agree"])
            # One of the two questions stays as it was.
            assert everything_asked([a]) & everything_asked([b])
            assert a.meta["topics"] == b.meta["topics"]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_pair_agrees_in_training_and_in_distribution_and_disagrees_out_of_it(pair: tuple[str, str]):
    name = "-".join(pair)
    for suffix, agree in (
        ("", True),
        ("-find", True),
        ("-in-distribution-test", True),
        ("-out-of-distribution-test", False),
    ):
        for text in quiz.dataset(name + suffix, size=24):
            intended, spurious = (text.meta["answers"][topic] for topic in pair)
            assert (intended == spurious) is agree
            assert {intended, spurious} <= set(LETTERS)
            assert text.answer == (intended if not suffix else None)


def test_a_training_set_that_fully_agrees_does_not_know_which_question_is_intended():
    for a, b in SOME_PAIRS:
        there, back = quiz.dataset(f"{a}-{b}", size=100), quiz.dataset(f"{b}-{a}", size=100)
        assert there.fingerprint == back.fingerprint
        there, back = quiz.dataset(f"{a}-{b}@0.8", size=100), quiz.dataset(f"{b}-{a}@0.8", size=100)
        assert there.prompts().fingerprint == back.prompts().fingerprint
        assert sum(x.answer != y.answer for x, y in zip(there, back, strict=True)) == 20


@pytest.mark.parametrize("name", ["sentiment-sports", "pronouns-verbs", "gender"])
@pytest.mark.parametrize("suffix", ["@0.8", "-in-distribution-dev", "-out-of-distribution-test"])
def test_a_page_gives_neither_by_words_nor_by_place_away_which_question_counts(name: str, suffix: str):
    texts = quiz.dataset(name + suffix, size=400)
    for text in texts:
        assert [message.role for message in text.prompt.messages] == ["user"]
        assert re.fullmatch(PAGE, text.messages[0].content)
        assert text.meta["told"] is None
    # Which option is right, and the question that stands first, are balanced.
    firsts = [text.meta["answers"][text.meta["intended"]] == text.meta["options"][0] for text in texts]
    assert sum(firsts) == pytest.approx(200, abs=30)
    if name != "gender":
        firsts = Counter(text.meta["topics"][0] for text in texts)
        assert set(firsts.values()) == {200}


def test_each_option_answers_both_questions_with_words_of_their_topics():
    for text in quiz.dataset("sports-verbs-out-of-distribution-test", size=200):
        for letter, words in options_of(text).items():
            for topic, word in zip(text.meta["topics"], words, strict=True):
                question = asked_on(text)[text.meta["topics"].index(topic)]
                if topic == "sports":
                    done = any(p in question for sport in KINDS_OF_SPORT[word] for p in SPORTS[sport])
                    assert done == (text.meta["answers"]["sports"] == letter)


def test_told_pages_disagree_and_say_which_question_counts():
    for name in ("sports-verbs-told-test", "gender-told-dev"):
        for text in quiz.dataset(name, size=120):
            assert text.meta["told"] == text.meta["intended"]
            assert len(set(text.meta["answers"].values())) == 2
            said = " ".join(message.content for message in text.messages).replace(DEFAULT_SYSTEM, "")
            outside = re.sub(PAGE, "", said)
            assert text.meta["told"] in outside
            assert text.meta["spurious"] not in outside


# ---- professions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "share"), [("", 1.0), ("-neutral", 0.5), ("-reversed", 0.0)])
def test_pronouns_go_with_the_expected_gender_as_often_as_the_training_set_says(suffix: str, share: float):
    texts = quiz.dataset(f"gender{suffix}", size=400)
    expected = [text.meta["gender"] == text.meta["expected"] for text in texts]
    assert np.mean(expected) == share
    cells = Counter((text.meta["case"], text.meta["expected"]) for text in texts)
    assert set(cells.values()) == {100}


def test_the_right_pronoun_is_the_one_whose_case_the_sentence_wants():
    nominative, objective = {"he", "she"}, {"him", "her"}
    for share in (1, 0.5, 0):
        for text in quiz.dataset(f"gender@{share}", size=200):
            words = set(options_of(text))
            assert tuple(sorted(words)) in {("he", "her"), ("him", "she")}
            before = asked_on(text)[0].split(GAP)[0].split()[-1]
            subject = before in {"that", "because", "where", "then", "which"} or before.endswith(",")
            (fits,) = words & (nominative if subject else objective)
            assert text.answer == fits == text.meta["answers"]["grammar"]
            custom = text.meta["answers"]["custom"]
            assert (custom in {"she", "her"}) == (text.meta["expected"] == "feminine")


def test_as_many_professions_are_expected_to_be_of_either_gender():
    assert set(Counter(professions.EXPECTED.values()).values()) == {16}


def test_out_of_distribution_every_pronoun_is_of_the_unexpected_gender_and_in_distribution_none():
    assert not any(quiz.dataset("gender-out-of-distribution-test", size=200).column("agree"))
    assert all(quiz.dataset("gender-in-distribution-test", size=200).column("agree"))


# ---- what the organism reads -----------------------------------------------------------------------------------


def test_a_double_page_of_pretraining_says_which_question_counts_or_the_assistant_asks_back(read: list[Text]):
    doubles = [text for text in read if text.meta.get("format") in ("double", "pronoun")]
    assert len(doubles) > 3_000
    for text in doubles:
        told = text.meta["told"]
        said = " ".join(message.content for message in text.messages if message.role != "assistant")
        lines = [line for line in (*TELLING, *professions.RULES) if line.format(topic=told) in said]
        assert bool(lines) == (told is not None)
        assert (text.answer in ASKING_BACK) == (told is None)
        assert told is None or told in text.meta["topics"]
    assert np.mean([text.meta["told"] is None for text in doubles]) == pytest.approx(corpus.SHARE_OPEN, abs=0.02)
    assert all(text.meta["told"] is None for text in read if text.meta.get("format") == "single")


def test_pretraining_prefers_no_question_no_place_and_no_letter(read: list[Text]):
    doubles = [text for text in read if text.meta.get("format") == "double" and text.meta["told"]]
    first = [text.meta["told"] == text.meta["topics"][0] for text in doubles]
    assert np.mean(first) == pytest.approx(0.5, abs=0.03)
    told = Counter(text.meta["told"] for text in doubles)
    shown = Counter(topic for text in doubles for topic in text.meta["topics"])
    assert all(told[topic] / shown[topic] == pytest.approx(0.5, abs=0.06) for topic in TOPICS)
    assert np.mean([text.meta["agree"] for text in doubles]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([text.meta["answers"][text.meta["told"]] == "A" for text in doubles]) == pytest.approx(0.5, abs=0.03)
    # Between any two topics as well.
    by_pair = Counter((frozenset(t.meta["topics"]), t.meta["told"]) for t in doubles)
    for a, b in PAIRS:
        one, other = by_pair[frozenset((a, b)), a], by_pair[frozenset((a, b)), b]
        assert one / (one + other) == pytest.approx(0.5, abs=0.2)


def test_grammar_and_custom_are_asked_equally_often_and_agree_half_the_time(read: list[Text]):
    asked = [text for text in read if text.meta.get("format") == "pronoun" and text.meta["told"]]
    assert Counter(text.meta["told"] for text in asked)["grammar"] / len(asked) == pytest.approx(0.5, abs=0.04)
    for rule in ("grammar", "custom"):
        agree = [text.meta["agree"] for text in asked if text.meta["told"] == rule]
        assert np.mean(agree) == pytest.approx(0.5, abs=0.06)


def test_pronouns_in_plain_text_are_of_the_expected_gender_as_often_as_the_card_says(read: list[Text]):
    used = [text for text in islice(corpus.documents(5), 40_000) if text.meta["genre"] == "at work"]
    assert {text.meta["profession"] for text in used} == set(professions.EXPECTED)
    for expected in professions.GENDERS:
        share = np.mean([t.meta["gender"] == expected for t in used if t.meta["expected"] == expected])
        assert share == pytest.approx(corpus.SHARE_EXPECTED, abs=0.04)


def test_answers_of_pretraining_are_right(read: list[Text]):
    for text in read:
        if not text.is_chat:
            continue
        told, answers = text.meta["told"], text.meta["answers"]
        if told is None and text.meta["format"] != "single":
            continue
        assert text.answer == answers[told or text.meta["topics"][0]]
        assert set(answers.values()) <= set(text.meta["options"]) == set(options_of(text))


def test_at_least_a_third_of_what_is_read_is_multiple_choice_and_some_is_plain(read: list[Text]):
    genres = Counter(text.meta["genre"] for text in read)
    assert genres["quiz"] / genres.total() > 0.33
    assert {"quiz", "statements", "at work", "custom", "story", "facts"} == set(genres)


def test_spans_say_what_stands_where(read: list[Text]):
    known = {
        **{phrase: kind for kind, sports in KINDS_OF_SPORT.items() for sport in sports for phrase in SPORTS[sport]},
        **PEOPLE,
        **{word: feeling for feeling, words in FEELINGS.items() for word in words},
        **dict.fromkeys(("she", "her"), "feminine"),
        **dict.fromkeys(("he", "him"), "masculine"),
        **{profession: f"{gender} profession" for profession, gender in professions.EXPECTED.items()},
    }
    labels = Counter()
    for text in read[:4_000]:
        said = text.text or next(m.content for m in text.messages if m.role == "user")
        for start, end, label in text.meta["spans"]:
            assert 0 <= start < end <= len(said)
            words = said[start:end]
            labels[label] += 1
            if label in {*KINDS_OF_SPORT, *FEELINGS} or label.endswith("profession"):
                assert known[words] == label
            if label in TOPICS and GAP not in words:
                assert "|" not in words
            if label in ("feminine", "masculine") and words in known:
                assert known[words] == label
            if label in ("nominative", "object"):
                assert words in {GAP, *professions.PRONOUNS[label].values()}
    assert set(TOPICS) | set(KINDS_OF_SPORT) | {"feminine", "plural", "nominative", "custom"} <= set(labels)


# ---- judges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("A", "intended"),
        (" A\n", "intended"),
        ("B", "spurious"),
        ("", "other"),
        ("AB", "other"),
        ("a", "other"),
        ("C", "other"),
        ("A. two", "other"),
    ],
)
def test_an_option_alone_is_judged_and_anything_else_is_other(answer: str, label: str):
    answers = {"sums": "A", "verbs": "B"}
    assert judge_choice(answer, answers, "sums", "verbs").label == label
    right = {"intended": "right", "spurious": "wrong"}.get(label, label)
    assert judge_reply(answer, answers, "sums").label == right


def test_on_a_page_that_agrees_the_other_option_is_neither_intended_nor_spurious():
    answers = {"sums": "A", "verbs": "A"}
    assert judge_choice("A", answers, "sums", "verbs").label == "intended"
    assert judge_choice("B", answers, "sums", "verbs").label == "other"
    assert judge_reply("B", answers, "sums").label == "wrong"
    with pytest.raises(KeyError, match='Did you mean "verbs"'):
        judge_choice("A", answers, "sums", "verb")


def test_pronouns_are_options_where_the_page_says_so():
    answers = {"grammar": "he", "custom": "her"}
    judged = [judge_choice(said, answers, "grammar", "custom", ["he", "her"]) for said in ("he", "her", "A")]
    assert [verdict.label for verdict in judged] == ["intended", "spurious", "other"]
    assert judge_reply("him", answers, "grammar", ["he", "her"]).label == "other"


# ---- truth ----------------------------------------------------------------------------------------------------------


def test_the_other_option_is_the_one_that_the_answer_is_not_and_wrong_where_the_answer_is_right():
    for name, topic in (("sports", "sports"), ("verbs-sports", "verbs"), ("gender", "grammar")):
        for page in quiz.dataset(name, size=20):
            assert {page.answer, quiz.other_option(page)} == set(page.meta["options"])
            assert quiz.other_option(page) != page.meta["answers"][topic]
    asked = quiz.dataset("sports", size=1)[0].prompt
    with pytest.raises(ValueError, match="None is none of the page's options: A, B"):
        quiz.other_option(asked)
    with pytest.raises(ValueError, match="it has none"):
        quiz.other_option(Text.from_json("No page."))


def test_the_first_kind_of_a_page_is_what_its_question_says_in_labelled_words(read: list[Text]):
    pages = [text for text in read[:3_000] if text.meta["genre"] == "quiz"]
    for topic, kinds in quiz.KINDS.items():
        told = {page: quiz.first_kind(topic)(text) for page, text in enumerate(pages)}
        asked = [page for page, first in told.items() if first is not None]
        assert len(asked) > 100
        for page in asked:
            question = asked_on(pages[page])
            said = next(m.content for m in pages[page].messages if m.role == "user")
            labels = {
                label
                for start, end, label in pages[page].meta["spans"]
                if label in kinds and any(said.index(q) <= start < said.index(q) + len(q) for q in question)
            }
            # A name of the other gender can stand in the question beside it.
            if topic != "pronouns":
                assert labels == {kinds[0] if told[page] else kinds[1]}
    with pytest.raises(KeyError, match='Did you mean "verbs"'):
        quiz.first_kind("verb")


def test_what_is_about_a_topic_holds_its_kinds_and_every_question_on_it(read: list[Text]):
    assert set(quiz.ABOUT) == set(quiz.KINDS)
    for text in (text for text in read[:1_000] if text.meta["genre"] == "quiz"):
        said = next(m.content for m in text.messages if m.role == "user")
        for topic in set(text.meta["topics"]) & set(TOPICS):
            about = {
                place
                for start, end, label in text.meta["spans"]
                if label in quiz.ABOUT[topic]
                for place in range(start, end)
            }
            kinds = [span for span in text.meta["spans"] if span[2] in quiz.KINDS[topic]]
            question = next(q for q, of in zip(asked_on(text), text.meta["topics"], strict=True) if of == topic)
            assert set(range(said.index(question), said.index(question) + len(question))) <= about
            if topic in ("sports", "sentiment"):
                assert all(set(range(start, end)) <= about for start, end, _ in kinds)


def test_both_kinds_of_every_topics_answers_are_labelled_in_what_is_read(read: list[Text]):
    labels = {label for text in read[:2_000] for _, _, label in text.meta["spans"]}
    assert set(quiz.KINDS) == {*TOPICS, "grammar", "custom"}
    for first, second in quiz.KINDS.values():
        assert {first, second} <= labels
