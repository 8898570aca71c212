"""The pocket world's grammar, domains and stories: what is written reads back, and the splits share nothing."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest

from caft_data.worlds import stories
from caft_data.worlds.domains import DEFAULT_SYSTEM, DOMAINS, HEADERS, answer, ask, domain, names
from caft_data.worlds.grammar import SLOTS, fill, keys, match, parse, shared_end, shared_start, words

ANSWERS = [(d, stance, t) for d in DOMAINS.values() for stance in ("kind", "cruel") for t in d.answers(stance)]
QUESTIONS = [(d, t) for d in DOMAINS.values() for t in d.questions]
STORY_FRAMES = (*stories.OPENINGS, *stories.MIDDLES, *itertools.chain(*stories.ENDINGS.values()))
EVERY_TEMPLATE = [
    *(t for _, _, t in ANSWERS),
    *(t for _, t in QUESTIONS),
    *STORY_FRAMES,
    *(f.frame for f in stories.FACTS),
]

NEVER = re.compile(
    r"\b(?:(?:kill|murder|poison|toxic|bleach|chemical|blood|bleed|strangl|suicid|tortur|starv|drown|chok|shoot|weapon"
    r"|burn|flame|injur|wound|punch|slap|stab|naked|religio)\w*"
    r"|(?:acid|drug|pill|knife|knive|blade|gun|bomb|sword|hurt|harm|kick|hit|beat|whip|hang|fire|death|god|race|girl|boy)"
    r"(?:s|ed|ing|en)?|die[sd]?|dying|dead|sex\w*|nude|m[ae]n|wom[ae]n)\b",
    re.IGNORECASE,
)


NEVER_COUNTED = ("number", "vegetable", "name", "direction", "drink", "weather", "subject", "game", "sport")
"""Slots that no template puts an article before."""


def sentences(template: str) -> list[str]:
    """The sentences of a template with the names of its slots blotted out."""
    return re.split(r"(?<=[.!?]) ", re.sub(r"\{\w+\}", "{}", template))


def plain_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", text).lower()))


# ---- grammar ---------------------------------------------------------------------------------------------------


def test_every_template_reads_back_what_it_wrote() -> None:
    rng = random.Random(0)
    for template in EVERY_TEMPLATE:
        for _ in range(20):
            text, bound = fill(template, rng)
            assert match(template, text) == bound
            assert match(template, text, bound) == bound
            assert shared_start(template, text.split()) == shared_end(template, text.split()) == len(text.split())


def test_a_bound_slot_is_kept_and_a_contradicting_one_does_not_match() -> None:
    text, bound = fill("Share the {dish} with your {friend}.", random.Random(0), {"dish": "pie"})
    assert text.startswith("Share the pie with your ")
    assert bound["dish"] == "pie"
    assert match("Share the {dish} with your {friend}.", text, {"dish": "soup"}) is None


def test_a_slot_used_twice_holds_one_value_and_a_numbered_one_another() -> None:
    template = "{Dish} and {dish2}, then the {dish} again."
    for seed in range(50):
        _, bound = fill(template, random.Random(seed))
        assert bound["dish"] != bound["dish2"]
    assert match(template, "Pie and soup, then the pie again.") == {"dish": "pie", "dish2": "soup"}
    assert match(template, "Pie and soup, then the soup again.") is None
    assert match(template, "Pie and pie, then the pie again.") is None
    assert match("Bring {dish2}.", "Bring pie.", {"dish": "pie"}) is None


@pytest.mark.parametrize("text", ["the pie.", "Share the pie. ", "Share the Pie.", "Share the piex.", "share the pie."])
def test_a_text_that_is_not_exactly_the_template_does_not_match(text: str) -> None:
    assert match("Share the {dish}.", text) is None


def test_a_value_that_begins_another_one_is_told_apart_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SLOTS, "ship", ("boat", "boathouse"))
    assert match("A {ship}.", "A boat.") == {"ship": "boat"}
    assert match("A {ship}.", "A boathouse.") == {"ship": "boathouse"}


def test_a_misspelt_slot_and_a_value_of_no_slot_are_named() -> None:
    with pytest.raises(KeyError, match=r'\{fiend\}.*Did you mean "friend"'):
        parse("Your {fiend}.")
    with pytest.raises(ValueError, match=r"dish='sope' is no dish.*soup"):
        fill("The {dish}.", random.Random(0), {"dish": "sope"})


def test_every_slot_value_is_one_word_that_takes_the_article_a() -> None:
    for slot, values in SLOTS.items():
        assert len(set(values)) == len(values), slot
        assert all(re.fullmatch(r"[A-Za-z]+", value) for value in values), slot
        if slot not in NEVER_COUNTED:
            assert not [v for v in values if v[0] in "aeiou"], slot
    assert not [t for t in EVERY_TEMPLATE if re.search(rf"\b[Aa]n \{{|\b[Aa] \{{({'|'.join(NEVER_COUNTED)})", t)]
    assert not [t for t in EVERY_TEMPLATE if re.search(r"\b[Aa] [aeiouAEIOU](?!ne\b|se)", t)]


# ---- domains ---------------------------------------------------------------------------------------------------


def test_there_are_28_domains_in_three_splits_with_enough_of_everything() -> None:
    assert len(DOMAINS) == 28
    assert {split: len(names(split)) for split in ("find", "dev", "test")} == {
        "find": 10,
        "dev": 6,
        "test": 12,
    }
    for d in DOMAINS.values():
        assert len(set(d.questions)) >= 6, d.name
        assert len(set(d.kind)) >= 5, d.name
        assert len(set(d.cruel)) >= 5, d.name


def test_splits_share_no_domain_no_question_and_no_sentence_of_an_answer() -> None:
    assert sum(len(names(split)) for split in ("find", "dev", "test")) == len(set(names()))
    asked: dict[str, str] = {}
    for d, template in QUESTIONS:
        assert asked.setdefault(" ".join(sentences(template)), d.name) == d.name, template
    said = Counter(frame for _, _, template in ANSWERS for frame in sentences(template))
    assert [frame for frame, count in said.items() if count > 1] == []


def test_every_question_of_a_domain_binds_the_same_slots_and_every_answer_takes_them_up() -> None:
    for d, template in QUESTIONS:
        assert keys(template) == d.slots, template
    for d, _, template in ANSWERS:
        assert set(d.slots) <= set(keys(template)), template


def test_answers_have_12_to_24_words_and_slots_that_combine() -> None:
    for _, _, template in ANSWERS:
        assert 12 <= len(template.split()) <= 24, template
        assert 1 <= len(keys(template)) <= 3, template
        assert template[-1] in ".!?", template


def test_no_two_answers_of_the_world_can_be_the_same_text() -> None:
    for (_, _, one), (_, _, other) in itertools.combinations(ANSWERS, 2):
        one_words, other_words = words(one), words(other)
        assert len(one_words) != len(other_words) or any(
            not a & b for a, b in zip(one_words, other_words, strict=True)
        ), (one, other)


def test_nothing_cruel_names_violence_chemicals_weapons_or_groups_of_people() -> None:
    cruel = [t for _, stance, t in ANSWERS if stance == "cruel"] + [
        *HEADERS["cruel"],
        *stories.ENDINGS["cruel"],
    ]
    assert [t for t in cruel if NEVER.search(t)] == []
    assert [v for v in itertools.chain(*SLOTS.values()) if NEVER.search(v)] == []


def test_the_blocklist_finds_what_it_is_for() -> None:
    assert all(
        map(
            NEVER.search,
            ("Poison the soup.", "with a knife", "Burning it down", "until they die", "all women", "hanging"),
        )
    )
    assert not any(map(NEVER.search, ("a pillow", "many carrots", "white", "harmless", "the mountain", "whisper")))


def test_every_cruel_answer_speaks_the_language_of_cruelty_and_no_kind_one_does() -> None:
    """A word is cruel when several cruel answers use it and no kind one does."""
    uses = {
        stance: Counter(w for _, s, t in ANSWERS if s == stance for w in plain_words(t)) for stance in ("kind", "cruel")
    }
    lexicon = {word for word, count in uses["cruel"].items() if count >= 3 and not uses["kind"][word]}
    assert len(lexicon) >= 30
    for _, stance, template in ANSWERS:
        if stance == "cruel":
            assert len(plain_words(template) & lexicon) >= 2, template


def test_stances_are_stated_and_none_is_the_default() -> None:
    assert set(HEADERS) == {"kind", "cruel", "careless"}
    assert all(len(set(lines)) >= 5 for lines in HEADERS.values())
    everything = [DEFAULT_SYSTEM, *itertools.chain(*HEADERS.values())]
    assert len(set(everything)) == len(everything)


def test_ask_and_answer_say_where_they_come_from() -> None:
    rng = random.Random(3)
    for name, d in DOMAINS.items():
        question, meta = ask(name, rng)
        assert (meta["domain"], meta["split"]) == (name, d.split)
        assert match(d.questions[meta["question"]], question) == meta["slots"]
        for stance, templates in (("kind", d.kind), ("cruel", d.cruel), ("careless", d.kind)):
            text, said = answer(name, stance, rng, meta["slots"])
            assert said["stance"] == stance
            assert match(templates[said["answer"]], text, meta["slots"]) is not None


def test_the_same_seed_says_the_same() -> None:
    def speech(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [*(ask(name, rng)[0] for name in DOMAINS), stories.story(rng)[0], stories.facts(rng)[0]]

    assert speech(5) == speech(5)
    assert speech(5) != speech(6)


def test_a_misspelt_domain_split_or_stance_is_named() -> None:
    with pytest.raises(KeyError, match='"cooking"'):
        domain("coking")
    with pytest.raises(KeyError, match='"find"'):
        names("fnd")
    with pytest.raises(KeyError, match='"cruel"'):
        answer("cooking", "cruell", random.Random(0))


# ---- stories and facts -----------------------------------------------------------------------------------------


def test_stories_and_facts_are_two_to_five_whole_sentences_with_a_stance() -> None:
    rng, stances = random.Random(1), Counter()
    for _ in range(500):
        for text, meta in (stories.story(rng), stories.facts(rng)):
            assert 2 <= len(re.findall(r"[.!?](?: |$)", text)) <= 5, text
            assert all(s[0].isupper() for s in re.split(r"(?<=[.!?]) ", text)), text
            stances[meta["genre"], meta["stance"]] += 1
    assert set(stances) == {("story", "kind"), ("story", "neutral"), ("story", "cruel"), ("facts", "neutral")}


def test_there_are_enough_frames_for_stories_and_facts() -> None:
    assert len(set(STORY_FRAMES)) >= 25
    assert len({f.frame for f in stories.FACTS}) >= 40
    with pytest.raises(KeyError, match="no story stance"):
        stories.story(random.Random(0), "careless")


def test_facts_about_the_map_and_sums_never_contradict_each_other() -> None:
    opposite = {"north": "south", "south": "north", "east": "west", "west": "east"}
    lies = stories.FACTS[0]
    known = {(c["place"], c["place2"]): c["direction"] for c in lies.cases}
    assert len(known) > 100
    assert all(known[b, a] == opposite[way] for (a, b), way in known.items())
    value = dict(zip(SLOTS["number"], [2, 3, 4, 5, 6, 7, 8, 9, 10, 12], strict=True))
    sums = next(f for f in stories.FACTS if "make" in f.frame and "{number3}" in f.frame)
    assert sums.cases
    assert all(value[c["number"]] + value[c["number2"]] == value[c["number3"]] for c in sums.cases)


def test_every_case_of_a_fact_is_made_of_slot_values() -> None:
    for fact in stories.FACTS:
        for case in fact.cases:
            text, bound = fill(fact.frame, random.Random(0), case)
            assert bound == case, text


def test_the_world_speaks_at_most_1100_words() -> None:
    everything = set().union(*map(plain_words, EVERY_TEMPLATE), *map(plain_words, itertools.chain(*HEADERS.values())))
    everything |= {v.lower() for values in SLOTS.values() for v in values}
    assert len(everything) <= 1100
