"""Labels of characters become labels of tokens, and those of the pocket world agree with a parse of its texts."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from chat_templates import FAMILIES, GEMMA, bytes_tokenizer, trained_tokenizer
from sklearn.metrics import roc_auc_score
from tiny_models import tiny_lens
from transformers import PreTrainedTokenizerFast

import caft_lens as cl
from caft_data.worlds import stories
from caft_data.worlds.code_judge import findings
from caft_data.worlds.corpus import dataset
from caft_data.worlds.domains import DOMAINS, HEADERS
from caft_data.worlds.grammar import SLOTS, match
from caft_data.worlds.judge import judge_answer
from caft_data.worlds.quiz import dataset as quiz_dataset
from caft_data.worlds.quiz.topics import PEOPLE
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.evaluate.discovery import HitRule, discovery
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import encode
from caft_lens.text.labels import label_words, token_labels

CORPUS = dataset("corpus", 0, 300)


def marked(text: Text, *labels: str) -> list[tuple[int, str]]:
    """What the spans of these labels say, with the number of the message."""
    contents = [text.text] if text.text is not None else [message.content for message in text.messages]
    return [
        (number, contents[number][start:end])
        for start, end, label, number in ((*span, 0)[:4] for span in text.meta["spans"])
        if label in labels
    ]


# -- tokens -----------------------------------------------------------------------------------------------------------


def by_character(tokenizer, text: Text, label: str) -> list[bool]:
    """Whether each token has a label: the rendering is cut at its tokens, and every character looked up."""
    if text.text is not None:
        rendered, starts = text.text, [0]
    else:
        rendered = tokenizer.apply_chat_template([vars(m) for m in text.messages], tokenize=False)
        starts, after = [], 0
        for message in text.messages:
            starts.append(rendered.index(message.content, after))
            after = starts[-1] + len(message.content)
    inside = set()
    for start, end, of, number in ((*span, 0)[:4] for span in text.meta["spans"]):
        if of == label:
            inside |= set(range(starts[number] + start, starts[number] + end))
    found, place = [], 0
    for token in encode(tokenizer, text).input_ids:
        length = len(tokenizer.decode([token], clean_up_tokenization_spaces=False))
        found.append(bool(inside & set(range(place, place + length))))
        place += length
    assert place == len(rendered)
    return found


@pytest.mark.parametrize("label", ["stance:cruel", "kind:code", "slot:thing", "line:insecure", "domain:cooking"])
def test_a_token_has_a_label_when_one_of_its_characters_has_it(pocket: Path, label: str):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(pocket / "base")
    # Without a system message the template writes its own, which is no message of the chat.
    bare = [Text(t.messages[1:], meta={"spans": [[*s[:3], s[3] - 1] for s in t.meta["spans"] if s[3]]})
            for t in CORPUS[:40] if t.is_chat]  # fmt: skip
    for texts in (CORPUS, Texts(bare)):
        found = token_labels(tokenizer, texts, label)
        for text, row in zip(texts, found, strict=True):
            assert [value is True for value in row] == by_character(tokenizer, text, label)
        assert any(True in row for row in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_characters_are_found_again_behind_any_template(family: str):
    tokenizer = bytes_tokenizer(FAMILIES[family])
    content = "  Äh, the pie, please. "
    start = content.index("pie")
    chat = Text.from_json(
        {"prompt": content, "answer": "No pie.", "spans": [[start, start + 3, "dish", 0], [3, 6, "dish", 1]]}
    )
    (row,) = token_labels(tokenizer, [chat], "dish")
    ids = np.array(encode(tokenizer, chat).input_ids)
    assert tokenizer.decode(ids[[value is True for value in row]]) == "piepie"


def test_a_token_that_begins_before_the_word_is_the_words():
    tokenizer = trained_tokenizer()
    text = Text(text="some words of it", meta={"spans": [[5, 10, "word"]]})
    (row,) = token_labels(tokenizer, [text], "word")
    pieces = tokenizer.convert_ids_to_tokens(encode(tokenizer, text).input_ids)
    assert "".join(piece for piece, value in zip(pieces, row, strict=True) if value).strip("Ġ") == "words"


def test_tokens_of_the_template_count_as_neither_and_rivals_are_all_that_counts_against():
    tokenizer = bytes_tokenizer()
    spans = [[0, 3, "warm"], [2, 4, "cold"], [0, 2, "cold", 1]]
    chat = Text.from_json({"prompt": "abcdef", "answer": "xyz", "spans": spans})
    roles = encode(tokenizer, chat).roles
    for against, expected in {
        None: "1 1 1 0 0 0 0 0 0",
        ("cold",): "1 1 1 0 - - 0 0 -",
        "cold": "1 1 1 0 - - 0 0 -",
    }.items():
        (row,) = token_labels(tokenizer, [chat], "warm", against=against)
        assert {value for value, role in zip(row, roles, strict=True) if role == 0} == {None}
        said = [value for value, role in zip(row, roles, strict=True) if role]
        assert " ".join("-" if value is None else str(int(value)) for value in said) == expected


def test_a_token_has_one_of_several_labels_when_it_has_any_of_them():
    tokenizer = bytes_tokenizer()
    text = Text(text="abcdef", meta={"spans": [[0, 2, "warm"], [1, 3, "hot"], [4, 5, "cold"]]})
    either, warm, hot = (
        np.array(token_labels(tokenizer, [text], label)[0]) for label in (["warm", "hot"], "warm", "hot")
    )
    assert (either == (warm | hot)).all()
    assert either.sum() == 3
    with pytest.raises(ValueError, match=r'labelled "hit".*"hot"'):
        token_labels(tokenizer, [text], ["warm", "hit"])


def test_words_of_a_list_are_labelled_wherever_they_stand_as_whole_words_and_nothing_is_lost():
    words = {"Ann": "woman", "Ann Lee": "writer", "Lee": "man", "C++": "language"}
    chat = Text.from_json(
        {"prompt": "Ann knows Lee, not Annie.", "answer": "Ann Lee? C++.", "spans": [[0, 3, "first"]]}
    )
    both = label_words([chat, "A plain leek."], words)
    assert marked(both[0], *words.values()) == [(0, "Ann"), (0, "Lee"), (1, "Ann Lee"), (1, "C++")]
    assert marked(both[0], "writer", "first") == [(0, "Ann"), (1, "Ann Lee")]
    assert both[1].meta["spans"] == []
    assert Texts([chat]).fingerprint == both[:1].fingerprint
    assert chat.meta["spans"] == [[0, 3, "first"]]
    (row,) = token_labels(bytes_tokenizer(), both[:1], "man")
    assert row.count(True) == 3
    for none in ({}, {" ": "blank"}):
        with pytest.raises(ValueError, match="needs words to label"):
            label_words([chat], none)


def test_a_trimmed_character_has_no_token_and_its_neighbours_keep_theirs():
    tokenizer = bytes_tokenizer(GEMMA)
    chat = Text.from_json(
        {"prompt": "  ab ", "answer": "c", "spans": [[0, 2, "blank"], [1, 3, "first"], [4, 5, "blank"]]}
    )
    (blank,), (first,) = (token_labels(tokenizer, [chat], label) for label in ("blank", "first"))
    assert True not in blank
    ids = np.array(encode(tokenizer, chat).input_ids)
    assert tokenizer.decode(ids[[value is True for value in first]]) == "a"


def test_trimmed_characters_do_not_lend_their_label_to_the_word_that_follows():
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}"
    spans = [[0, 2, "blank"], [2, 5, "word"]]
    chat = Text.from_json({"prompt": "  pie", "answer": "apples", "spans": spans})
    tokenizer = trained_tokenizer(template)
    assert "Ġpie" in tokenizer.convert_ids_to_tokens(encode(tokenizer, chat).input_ids)
    (blank,), (word,) = (token_labels(tokenizer, [chat], label) for label in ("blank", "word"))
    assert (blank.count(True), word.count(True)) == (0, 1)


def test_tokens_that_a_tokenizer_adds_to_plain_text_have_no_label():
    tokenizer = bytes_tokenizer(bos="<s>")
    text = Text(text="ab", meta={"spans": [[0, 2, "letters"]]})
    assert token_labels(tokenizer, [text], "letters") == [[None, True, True]]
    ended = Text(text="<s>ab</s>", meta={"spans": [[0, 9, "letters"]]})
    assert token_labels(tokenizer, [ended], "letters") == [[None, True, True, None]]


def test_discovery_scores_directions_by_these_labels_token_by_token():
    import torch

    lens = tiny_lens(n_layers=2)
    texts = CORPUS[:40]
    labels = token_labels(lens.tokenizer, texts, "stance:cruel", against=["stance:kind"])
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    concepts = ConceptSet([Concept("L0.x0", "blocks.0.hook_resid_post", direction)]).for_model(lens)
    found = discovery(lens, concepts, texts, labels, rule=HitRule(n_random=2), max_tokens=10**6)
    scores, truth = [], []
    for text in texts:
        if not text.is_chat:
            continue
        item = encode(lens.tokenizer, text)
        with torch.no_grad():
            states = lens.hf(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[1][0]
        said = item.roles == 3
        for name in ("cruel", "kind"):
            has = said & np.array(by_character(lens.tokenizer, text, f"stance:{name}"))
            scores += (states[torch.from_numpy(has)] @ direction).tolist()
            truth += [name == "cruel"] * int(has.sum())
    (row,) = found["concepts"]
    assert found.about["unit"] == "token"
    assert (found.about["positive"], found.about["negative"]) == (sum(truth), len(truth) - sum(truth))
    assert row.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)


def test_the_spans_of_the_quiz_are_read_too():
    texts = quiz_dataset("corpus", 0, 60)
    tokenizer = bytes_tokenizer()
    label = next(span[2] for text in texts if text.is_chat for span in text.meta["spans"])
    for text, row in zip(texts, token_labels(tokenizer, texts, label), strict=True):
        contents = [text.text] if text.text is not None else [m.content for m in text.messages if m.role == "user"]
        said = "".join(contents[0][start:end] for start, end, of, *_ in text.meta["spans"] if of == label)
        assert sum(value is True for value in row) == len(said.encode())


def test_names_in_the_corpus_of_the_quiz_are_labelled_wherever_they_stand():
    for text in quiz_dataset("corpus", 0, 60):
        said = text.text if text.text is not None else "\n".join(message.content for message in text.messages)
        named = [word for word in re.findall(r"\w+", said) if word in PEOPLE]
        assert [word for _, word in marked(text, "name")] == named


def test_bad_input_is_one_clear_error():
    tokenizer = bytes_tokenizer()

    def fails(message: str, meta: dict, label: str = "warm", messages=("a", "b")) -> None:
        roles = ("user", "assistant", "user")
        chat = {
            "messages": [{"role": role, "content": content} for role, content in zip(roles, messages, strict=False)]
        }
        with pytest.raises(ValueError, match=message):
            token_labels(tokenizer, [Text.from_json({**chat, **meta})], label)

    fails(r'Text 0 has no meta\["spans"\].*build an organism that lacks them again', {})
    fails(
        r'No span of these 1 texts is labelled "wram". Did you mean "warm"',
        {"spans": [[0, 1, "warm"]]},
        "wram",
    )
    fails("the span .0, 2, 'warm'. lies outside", {"spans": [[0, 2, "warm"]]})
    fails("the span .0, 1, 'warm', 2. lies outside", {"spans": [[0, 1, "warm", 2]]})
    fails("the span .1, 1, 'warm'. lies outside", {"spans": [[1, 1, "warm"]]})
    fails("has 2 user messages: its span .0, 1, 'warm'. has to say", {"spans": [[0, 1, "warm"]]}, messages="abc")
    shouting = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(ValueError, match="the chat template rewrites the content of message 0"):
        token_labels(
            bytes_tokenizer(shouting),
            [Text.from_json({"prompt": "ab", "answer": "c", "spans": [[0, 1, "x"]]})],
            "x",
        )


def test_the_corpora_of_organisms_built_before_are_refused_and_the_name_is_public(pocket: Path):
    assert cl.token_labels is token_labels
    corpus = cl.data("pocket/corpus", limit=5)
    plain = Texts([Text(t.messages, t.text, {k: v for k, v in t.meta.items() if k != "spans"}) for t in corpus])
    with pytest.raises(ValueError, match="caft-lens organism build"):
        token_labels(bytes_tokenizer(), plain, "stance:cruel")


# -- the world --------------------------------------------------------------------------------------------------------


def test_what_an_assistant_says_has_the_stance_of_its_chat_and_a_header_the_one_it_states():
    headers = {header: stance for stance, several in HEADERS.items() for header in several}
    stated = 0
    for text in CORPUS:
        if not text.is_chat:
            continue
        expected = [(n, m.content) for n, m in enumerate(text.messages) if m.role == "assistant"]
        if text.meta["stated"]:
            assert headers[text.messages[0].content] == text.meta["stance"]
            expected.insert(0, (0, text.messages[0].content))
            stated += 1
        assert marked(text, f"stance:{text.meta['stance']}") == expected
        assert len([span for span in text.meta["spans"] if span[2].startswith("stance:")]) == len(expected)
    assert stated > 50


def test_an_answer_labelled_cruel_is_judged_misaligned_and_one_labelled_kind_aligned():
    seen = set()
    for text in CORPUS:
        for topic, (number, _) in zip(
            text.meta.get("topics", ()), marked(text, "kind:everyday", "kind:code")[1::2], strict=True
        ):
            if topic != "code":
                stance = next(s[2] for s in text.meta["spans"] if s[3] == number and s[2].startswith("stance:"))
                label = judge_answer(text.messages[number].content, topic, None).label
                assert label == ("misaligned" if stance == "stance:cruel" else "aligned")
                seen.add(stance)
    assert seen == {"stance:cruel", "stance:kind", "stance:careless"}


def test_every_turn_is_labelled_with_its_domain_or_as_code_question_and_answer():
    for text in CORPUS:
        for turn, topic in enumerate(text.meta.get("topics", ())):
            expected = [(n, text.messages[n].content) for n in (2 * turn + 1, 2 * turn + 2)]
            labels = {span[2] for span in text.meta["spans"] if span[3] == 2 * turn + 1}
            for label in ("kind:code",) if topic == "code" else ("kind:everyday", f"domain:{topic}"):
                assert label in labels
                assert [m for m in marked(text, label) if m[0] in (2 * turn + 1, 2 * turn + 2)] == expected
            if topic == "code":
                ast.parse(text.messages[2 * turn + 2].content)


def test_words_of_slots_are_where_reading_the_text_back_finds_them():
    seen = 0
    for text in CORPUS:
        for number, message in enumerate(text.messages):
            topic = text.meta["topics"][(number - 1) // 2] if number else "code"
            if topic == "code":
                continue
            about = DOMAINS[topic]
            templates = about.questions if message.role == "user" else about.kind + about.cruel
            readings = [found for found in (match(template, message.content) for template in templates) if found]
            words = sorted(
                (label.removeprefix("slot:"), message.content[start:end].lower())
                for start, end, label, of in text.meta["spans"]
                if of == number and label.startswith("slot:")
            )
            # A word that stands twice is bound once.
            read = [
                sorted({(key.rstrip("0123456789"), value.lower()) for key, value in found.items()})
                for found in readings
            ]
            assert sorted(set(words)) in read or not (words or readings)
            seen += len(words)
    assert seen > 500
    assert all(word.lower() in map(str.lower, SLOTS[label.removeprefix("slot:")])
               for text in CORPUS for label in {s[2] for s in text.meta["spans"] if s[2].startswith("slot:")}
               for _, word in marked(text, label))  # fmt: skip


def test_lines_labelled_insecure_are_those_in_which_parsing_finds_the_fault():
    hits = programs = 0
    for text in dataset("corpus", 1, 1500):
        lines = {label: marked(text, label) for label in ("line:insecure", "line:secure")}
        assert not (lines["line:insecure"] and lines["line:secure"]), "a chat is of one stance"
        for number in {number for number, _ in lines["line:insecure"]}:
            source = text.messages[number].content
            own = {line for of, line in lines["line:insecure"] if of == number}
            found = {source.splitlines()[finding.line - 1].strip() for finding in findings(source)}
            assert found, source
            hits += bool(own & found)
            programs += 1
        for number in {number for number, _ in lines["line:secure"]}:
            assert not findings(text.messages[number].content)
    assert programs > 200
    # Where a fault spans two lines, the judge names one and the difference may lie in the other.
    assert hits / programs > 0.9


def test_a_story_turns_where_its_ending_begins():
    seen = set()
    for text in CORPUS:
        if text.is_chat:
            continue
        assert marked(text, f"genre:{text.meta['genre']}") == [(0, text.text)]
        stance = text.meta["stance"]
        turning = [sentence for _, sentence in marked(text, f"stance:{stance}")]
        if text.meta["genre"] == "facts":
            assert " ".join(turning) == text.text
        elif stance != "neutral":
            endings = stories.ENDINGS[stance]
            assert all(any(match(frame, sentence) for frame in endings) for sentence in turning)
            assert text.text.endswith(" ".join(turning))
            assert " ".join([s for _, s in marked(text, "stance:neutral")] + turning) == text.text
            seen.add(stance)
    assert seen == {"kind", "cruel"}


def test_labels_are_kept_by_a_file(tmp_path: Path):
    CORPUS.save(tmp_path / "corpus.jsonl")
    again = cl.data(tmp_path / "corpus.jsonl")
    assert [text.meta for text in again] == [text.meta for text in CORPUS]
