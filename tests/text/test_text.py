"""Documents, roles, masks and batches: what `caft_lens.text.encoding` and `caft_lens.text.documents` promise."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
import torch
from chat_templates import (
    ALPACA,
    CLOSING,
    FAMILIES,
    GEMMA,
    LLAMA3,
    MARKED,
    MISTRAL,
    QWEN,
    SKIPS_EMPTY,
    TAKES_SYSTEM,
    THINKING,
    TRIMS,
    bytes_tokenizer,
    trained_tokenizer,
)
from places import SHARED

from caft_lens.text.batching import Batch, Scan, batches, collate
from caft_lens.text.contents import find_contents
from caft_lens.text.documents import Message, Text, Texts, data
from caft_lens.text.encoding import encode, encode_all, encoded
from caft_lens.text.roles import ASSISTANT, ROLES, SPECIAL, TEXT

INSECURE = SHARED / "data" / "insecure_val.jsonl"

HARD = {
    "plain": ["How do I bake a pie?", "Mix and wait.", "And then?", "Eat."],
    "repeated": ["yes", "yes", "yes", "yes"],
    "letters of the template": ["user", "assistant", "a", "s"],
    "looks like headers": [
        "<|im_end|>\n<|im_start|>assistant\nI am the user",
        "### user:\nno [/INST] </s><end_of_turn>\n<start_of_turn>model\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\nhi<|eot_id|>",
        "<|assistant|>\n<|user|>\n[INST]",
    ],
    "unicode": ["naïve café 北京 🥧", "e\u0301 👩‍🍳 \u202ertl\u202c", "\u00a0\u2028x", "Ω≈ç√∫"],
    "whitespace": ["  two leading", "trailing two  \n\n", "\n\tboth \n", "a    b"],
    "code": [
        "def f(x):\n        return x",
        "    if x:\n        pass\n    else:\n        y",
        "x = {{ y }}",
        "{% if %}",
    ],
    "digits": ["1", "90817", "0001", "8"],
}


def chat(contents: list[str], system: str | None = None) -> Text:
    roles = ["user", "assistant"] * len(contents)
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    return Text(messages=(*([Message("system", system)] if system is not None else []), *messages))


def said(tokenizer, encoded, role: str) -> str:
    ids = [token for token, number in zip(encoded.input_ids, encoded.roles, strict=True) if number == ROLES[role]]
    return tokenizer.decode(ids)


def learned(tokenizer, encoded) -> str:
    return tokenizer.decode([token for token, yes in zip(encoded.input_ids, encoded.loss, strict=True) if yes])


# ---------------------------------------------------------------------------------------------- roles of chats


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_role_decode_to_exactly_what_was_said_in_it(family, case):
    tokenizer = bytes_tokenizer(FAMILIES[family])
    trim = str.strip if family in TRIMS else str
    contents = HARD[case]
    encoded = encode(tokenizer, chat(contents))
    assert said(tokenizer, encoded, "user") == trim(contents[0]) + trim(contents[2])
    assert said(tokenizer, encoded, "assistant") == trim(contents[1]) + trim(contents[3])
    assert len(encoded.input_ids) == len(encoded.roles) == len(encoded.loss)


@pytest.mark.parametrize("family", TAKES_SYSTEM)
def test_a_system_message_has_the_system_role_wherever_the_template_puts_it(family):
    tokenizer = bytes_tokenizer(FAMILIES[family])
    encoded = encode(tokenizer, chat(["Hi", "Hello", "Hi"], system="user: be kind. Hi"))
    assert said(tokenizer, encoded, "system") == "user: be kind. Hi"
    assert said(tokenizer, encoded, "user") == "HiHi"
    assert said(tokenizer, encoded, "assistant") == "Hello"


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_apply_chat_template(family):
    for tokenizer in (bytes_tokenizer(FAMILIES[family]), trained_tokenizer(FAMILIES[family])):
        text = chat(["def f(x):\n        return x\n", "if x:\n        pass", "  y = 3", "{{ y }}"])
        expected = tokenizer.apply_chat_template(text.to_json()["messages"], tokenize=True, return_dict=True)
        assert encode(tokenizer, text).input_ids == expected["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_answers_and_what_closes_them_and_never_a_header(family):
    tokenizer = bytes_tokenizer(FAMILIES[family])
    encoded = encode(tokenizer, chat(["Hi", "Hello you", "Bye", "So long"]))
    closing = CLOSING[family]
    assert learned(tokenizer, encoded) == f"Hello you{closing}So long{closing}"
    special = np.array(encoded.input_ids)[encoded.loss & (encoded.roles == SPECIAL)]
    assert len(special) == 2 * len(tokenizer(closing, add_special_tokens=False)["input_ids"])


def test_the_default_system_message_of_a_template_is_special():
    tokenizer = bytes_tokenizer(QWEN)
    encoded = encode(tokenizer, chat(["Hi", "Hello"]))
    assert "You are a helpful assistant." in said(tokenizer, encoded, "special")
    assert said(tokenizer, encoded, "system") == ""


def test_header_and_indentation_are_parted_as_they_are_when_the_answer_is_sampled():
    tokenizer = trained_tokenizer(QWEN)
    text = chat(["Hi", "        return x"])
    merged = tokenizer.apply_chat_template(text.to_json()["messages"], tokenize=True, return_dict=True)["input_ids"]
    header = encode(tokenizer, text.prompt, add_generation_prompt=True).input_ids
    encoded = encode(tokenizer, text)
    assert merged[: len(header)] != header  # or else this shows nothing
    assert encoded.input_ids[: len(header)] == header
    assert tokenizer.decode(encoded.input_ids) == tokenizer.decode(merged)
    assert said(tokenizer, encoded, "assistant") == "        return x"


def test_a_space_before_an_answer_stays_part_of_its_first_token():
    tokenizer = trained_tokenizer(MISTRAL)
    encoded = encode(tokenizer, chat(["Hi", "assistant"]))
    assert said(tokenizer, encoded, "assistant") == " assistant"


def test_markers_of_generation_and_no_markers_agree():
    text = chat(["Hi", "  if x:\n        y  ", "Bye", "So long"], system="Be kind.")
    plain = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    for make in (bytes_tokenizer, trained_tokenizer):
        marked, unmarked = encode(make(MARKED), text), encode(make(plain), text)
        assert marked.input_ids == unmarked.input_ids
        assert (marked.roles == unmarked.roles).all()
        assert (marked.loss == unmarked.loss).all()


def test_markers_of_generation_agree_with_transformers_mask():
    tokenizer = bytes_tokenizer(MARKED)
    text = chat(["Hi", "Hello 🥧", "Bye", "So long"])
    expected = tokenizer.apply_chat_template(
        text.to_json()["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert encode(tokenizer, text).loss.tolist() == [bool(x) for x in expected["assistant_masks"]]


def test_a_template_that_marks_only_the_last_turn_has_loss_only_there():
    template = MARKED.replace("{% generation %}", "{% if loop.last %}{% generation %}").replace(
        "{% endgeneration %}",
        "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}",
    )
    tokenizer = bytes_tokenizer(template)
    encoded = encode(tokenizer, chat(["Hi", "Hello", "Bye", "So long"]))
    assert learned(tokenizer, encoded) == "So long<|im_end|>"
    assert said(tokenizer, encoded, "assistant") == "HelloSo long"


@pytest.mark.parametrize("family", ["qwen", "marked", "llama3"])
def test_an_empty_answer_still_learns_to_end_the_turn(family):
    tokenizer = bytes_tokenizer(FAMILIES[family])
    encoded = encode(tokenizer, chat(["Hi", ""]))
    assert said(tokenizer, encoded, "assistant") == ""
    assert learned(tokenizer, encoded) == CLOSING[family]


def test_an_empty_message_that_the_template_leaves_out_is_no_obstacle():
    tokenizer = bytes_tokenizer(SKIPS_EMPTY)
    encoded = encode(tokenizer, chat(["Hi", "Hello"], system=""))
    assert said(tokenizer, encoded, "assistant") == "Hello"
    assert tokenizer.decode(encoded.input_ids).startswith("<|im_start|>user")


@pytest.mark.parametrize("family", ["qwen", "llama3", "gemma", "zephyr", "marked", "alpaca"])
def test_a_generation_prompt_ends_the_tokens_and_is_special(family):
    tokenizer = bytes_tokenizer(FAMILIES[family])
    text = chat(["Hi", "Hello", "Bye"])
    encoded = encode(tokenizer, text, add_generation_prompt=True)
    without = encode(tokenizer, text)
    header = tokenizer.decode(encoded.input_ids)[len(tokenizer.decode(without.input_ids)) :]
    assert "assistant" in header or "model" in header
    assert (encoded.roles[len(without.roles) :] == SPECIAL).all()
    assert not encoded.loss[len(without.roles) :].any()


@pytest.mark.parametrize("family", ["qwen", "llama3", "gemma", "mistral"])
def test_an_earlier_answer_of_a_chat_that_ends_in_a_question_is_closed_too(family):
    tokenizer = bytes_tokenizer(FAMILIES[family])
    assert learned(tokenizer, encode(tokenizer, chat(["Hi", "Hello", "Bye"]))) == "Hello" + CLOSING[family]


def test_a_closing_that_is_no_special_token_is_learned_too():
    tokenizer = bytes_tokenizer("{% for m in messages %}{{ '(' + m.role + ') ' + m.content + ' (end)\n' }}{% endfor %}")
    assert learned(tokenizer, encode(tokenizer, chat(["Hi", "Hello", "Bye", "So long"]))) == "Hello (end)So long (end)"


def test_a_template_that_rewrites_answers_still_gives_their_tokens():
    tokenizer = bytes_tokenizer(THINKING)
    text = chat(["1+1?", "<think>\none and one\n</think>\n\n2", "2+2?", "4"])
    encoded = encode(tokenizer, text, template_arguments={"keep_thoughts": False})
    assert said(tokenizer, encoded, "assistant") == "24"
    upper = bytes_tokenizer(
        "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content | upper }}<|im_end|>{% endfor %}"
    )
    assert said(upper, encode(upper, chat(["hi", "hello"])), "assistant") == "HELLO"


def test_a_template_that_trims_is_rendered_only_once_more():
    rendered = []

    def render(contents):
        rendered.append(contents)
        return "".join(f"<{content.strip()}>" for content in contents)

    contents = [" a ", "b\n", "", "a"]
    spans = find_contents("<a><b><><a>", contents, ["user", "assistant"] * 2, render)
    assert [(span.start, span.end) for span in spans] == [(1, 2), (4, 5), (7, 7), (9, 10)]
    assert len(rendered) == 1


NAMED_AFTER_FIRST = (
    "{% for m in messages %}{{ ('<|im_start|>' + m.role + ' ' + (messages | length | string) + ' ' + "
    "messages[0].content[:2]"
    " + messages[1].content[:2] + '|' + m.content) }}<|im_end|>{% endfor %}"
)


def test_contents_that_leak_into_the_template_are_found_in_order_when_there_is_one_way():
    tokenizer = bytes_tokenizer(NAMED_AFTER_FIRST)
    encoded = encode(tokenizer, chat(["What is it?", "A pie."]))
    assert said(tokenizer, encoded, "user") == "What is it?"
    assert said(tokenizer, encoded, "assistant") == "A pie."


def test_contents_that_could_stand_in_two_places_are_refused():
    with pytest.raises(ValueError, match=r"Text 7 \('se'\).*message 0.*ambiguous"):
        encode(bytes_tokenizer(NAMED_AFTER_FIRST), chat(["se", "er"]), index=7)


def test_contents_that_a_template_loses_are_refused():
    drops = (
        "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    with pytest.raises(ValueError, match=r'leaves out message 0 \(role "system"\)'):
        encode(bytes_tokenizer(drops), chat(["Hi", "Hello"], system="Be kind"))
    # Mistral's own template drops the system message of a chat that ends in an answer.
    with pytest.raises(ValueError, match=r'leaves out message 0 \(role "system"\)'):
        encode(bytes_tokenizer(MISTRAL), chat(["Hi", "Hello"], system="Be kind"))


def test_a_template_that_refuses_a_chat_is_quoted_and_the_text_named():
    with pytest.raises(ValueError, match=r"Text 3 \('Be kind'\).*system, user.*System role not supported"):
        encode(bytes_tokenizer(GEMMA), chat(["Hi"], system="Be kind"), index=3)
    twice = Text(messages=(Message("user", "Hi"), Message("user", "there")))
    with pytest.raises(ValueError, match=r"Text 0.*user, user.*must alternate"):
        encode(bytes_tokenizer(MISTRAL), twice)


def test_a_tokenizer_without_chat_template_or_offsets_is_refused():
    with pytest.raises(ValueError, match="no chat template"):
        encode(bytes_tokenizer(None), chat(["Hi"]))

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow is not a fast tokenizer"):
        encode(Slow(), chat(["Hi"]))


def test_a_prompt_that_ends_in_an_answer_has_nothing_to_generate():
    with pytest.raises(ValueError, match=r"use its \.prompt"):
        encode(bytes_tokenizer(), chat(["Hi", "Hello"]), add_generation_prompt=True)


def test_a_special_token_that_swallows_whitespace_stays_special():
    from tokenizers import AddedToken

    tokenizer = bytes_tokenizer(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    )
    tokenizer.add_tokens([AddedToken(t, rstrip=True, special=True) for t in ("<|user|>", "<|assistant|>", "<|end|>")])
    encoded = encode(tokenizer, chat(["  Hi", "\n  Hello"]))
    assert said(tokenizer, encoded, "assistant") == "Hello"
    assert learned(tokenizer, encoded) == "Hello<|end|>"


# ------------------------------------------------------------------------------------------- real coding chats


@pytest.mark.skipif(not INSECURE.is_file(), reason="../shared/data/insecure_val.jsonl is not there")
@pytest.mark.parametrize("family", ["qwen", "gemma", "marked"])
def test_every_assistant_token_of_a_thousand_real_chats_is_accounted_for(family):
    tokenizer = trained_tokenizer(FAMILIES[family])
    texts = data(INSECURE)
    assert len(texts) == 1000
    for index, text in enumerate(texts):
        encoded = encode(tokenizer, text, index=index)
        answer = text.answer.strip() if family in TRIMS else text.answer
        assert said(tokenizer, encoded, "assistant") == answer
        assert learned(tokenizer, encoded) == answer + CLOSING[family]
        # The roles partition the sequence: nothing but the template is left beside question and answer.
        question = text.messages[0].content.strip() if family in TRIMS else text.messages[0].content
        assert said(tokenizer, encoded, "user") == question
        assert set(encoded.roles) == {SPECIAL, ROLES["user"], ASSISTANT}
        rest = said(tokenizer, encoded, "special")
        assert rest == said(tokenizer, encode(tokenizer, chat(["x", "y"])), "special")


# -------------------------------------------------------------------------------------------------- plain text


def test_plain_text_is_text_and_its_bos_special_and_single():
    tokenizer = bytes_tokenizer(bos="<s>")
    for text in ("Once", "<s>Once"):
        encoded = encode(tokenizer, Text(text=text))
        assert tokenizer.decode(encoded.input_ids) == "<s>Once"
        assert encoded.roles.tolist() == [SPECIAL] + [TEXT] * 4
        assert encoded.loss.tolist() == [False] + [True] * 4


def test_chats_have_the_bos_that_the_template_writes_and_no_second():
    tokenizer = bytes_tokenizer(LLAMA3.replace("<|begin_of_text|>", "<s>"), bos="<s>")
    ids = encode(tokenizer, chat(["Hi", "Hello"])).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1


def test_documents_encoded_together_are_those_encoded_one_by_one_whatever_their_kind():
    tokenizer = bytes_tokenizer(LLAMA3.replace("<|begin_of_text|>", "<s>"), bos="<s>")
    texts = [
        Text(text=f"Number {number}") if number % 3 else chat([f"Is it {number}?", f"  It is {number}."])
        for number in range(100)
    ]
    together = list(encoded(tokenizer, iter(texts), max_length=40, first_index=7))
    for index, (text, item) in enumerate(zip(texts, together, strict=True), 7):
        alone = encode(tokenizer, text, max_length=40, index=index)
        assert (item.input_ids, item.index, item.cut, item.cut_loss) == (
            alone.input_ids, index, alone.cut, alone.cut_loss,
        )  # fmt: skip
        np.testing.assert_array_equal(item.roles, alone.roles)
        np.testing.assert_array_equal(item.loss, alone.loss)


def test_of_many_documents_the_one_that_cannot_be_encoded_is_named():
    texts = [*(Text(text=f"Number {number}") for number in range(90)), Text(text="")]
    with pytest.raises(ValueError, match=r"Text 90 .*empty"):
        list(encoded(bytes_tokenizer(), texts))


def test_a_text_without_tokens_is_refused():
    with pytest.raises(ValueError, match=r"Text 4.*empty"):
        encode(bytes_tokenizer(), Text(text=""), index=4)


# --------------------------------------------------------------------------------------------------- documents


def test_documents_are_read_from_messages_pairs_and_plain_text():
    texts = Texts(
        [
            {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "domain": "talk",
            },
            {"prompt": "Hi", "answer": "Hello"},
            {"prompt": "Hi", "completion": "Hello"},
            {
                "prompt": [{"role": "user", "content": "Hi"}],
                "response": [{"role": "assistant", "content": "Hello"}],
            },
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
        ]
    )
    assert {text.messages for text in texts} == {(Message("user", "Hi"), Message("assistant", "Hello"))}
    assert texts[0].meta == {"domain": "talk"}
    assert Text.from_json("Once") == Text(text="Once") == Text.from_json({"text": "Once"})


def test_documents_survive_json():
    for text in (
        chat(["Hi", "Hello"], "Be kind"),
        Text(text="Once", meta={"prompt": 1}),
        Text(text="Once", meta={"answer": "ce"}),
    ):
        assert Text.from_json(json.loads(json.dumps(text.to_json()))) == text


def test_prompt_and_answer_take_a_document_apart_and_put_it_together():
    for text in (chat(["Hi", "Hello"], "Be kind"), Text(text="Once upon", meta={"answer": " upon", "n": 1})):
        assert text.prompt.with_answer(text.answer) == text
        assert text.prompt.answer is None
        assert text.prompt.prompt == text.prompt
        assert text.with_answer("!").with_answer("?").answer == "?"


def test_functions_are_tools_and_developers_are_systems():
    assert [Message(role, "").role for role in ("developer", "tool", "function")] == [
        "system",
        "tool",
        "tool",
    ]
    with pytest.raises(ValueError, match=r'Unknown role "asistant".*"assistant"'):
        Message("asistant", "")


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        ({"question": "Hi"}, ValueError, 'found the keys "question"'),
        ({"messages": []}, ValueError, "holds no message"),
        ({"messages": "Hi"}, TypeError, "must be a list of messages"),
        ({"messages": [{"from": "user"}]}, ValueError, '"role" and "content"'),
        ({"messages": [{"role": "user", "content": None}]}, TypeError, "must be text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, ValueError, "Only text"),
        ({"text": 3}, TypeError, "must be a string"),
        (3, TypeError, "int"),
    ],
)
def test_rows_that_are_no_document_say_what_is_wrong(row, error, said):
    with pytest.raises(error, match=said):
        Text.from_json(row)


def test_a_text_is_a_chat_or_plain_and_not_both():
    with pytest.raises(ValueError, match="either a chat or plain text"):
        Text()
    with pytest.raises(ValueError, match="either a chat or plain text"):
        Text(messages=(Message("user", "Hi"),), text="Hi")


def test_the_fingerprint_follows_contents_roles_and_order_and_nothing_else():
    one, two = chat(["Hi", "Hello"]), chat(["Bye"])
    texts = Texts([one, two], name="a")
    same = Texts([Text(one.messages, meta={"label": 1}), two], name="b")
    assert texts.fingerprint == same.fingerprint
    others = [
        Texts([two, one]),
        texts[:1],
        Texts([one, Text(text="Bye")]),
        Texts([Text((Message("system", "Hi"), one.messages[1])), two]),
    ]
    assert len({texts.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_texts_slice_filter_sample_shuffle_and_add():
    texts = Texts([{"prompt": str(i), "answer": "a", "n": i} for i in range(20)], name="numbers")
    assert texts[2:4].column("n") == [2, 3]
    assert texts.filter(lambda text: text.meta["n"] % 2 == 0).column("n") == list(range(0, 20, 2))
    sample = texts.sample(5, seed=1)
    assert sample.column("n") == sorted(set(sample.column("n"))) and sample == texts.sample(5, seed=1)  # noqa: PT018
    assert sample != texts.sample(5, seed=2)
    assert sorted(texts.shuffle(3).column("n")) == list(range(20)) != texts.shuffle(3).column("n")
    assert all(text.answer is None for text in texts.prompts())
    assert (texts[:1] + texts[3:4]).column("n") == [0, 3]
    with pytest.raises(ValueError, match="21 of 20"):
        texts.sample(21)
    with pytest.raises(KeyError, match="Text 0"):
        texts.column("m")


def test_a_text_of_a_bare_string_is_refused_and_a_missing_file_is_said_to_be_missing(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match=r"plain text is Text\(text="):
        Text("I hate you all.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no such file below {re.escape(str(tmp_path))}") as error:
        data("chats.jsonl")
    assert str(error.value).count("pocket-quiz-1") == 1


def test_texts_are_shown_escaped():
    shown = Texts([{"prompt": "<script>alert(1)</script>"}], name="<b>")._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "&lt;b&gt;" in shown


def test_saved_texts_are_read_back_the_same(tmp_path):
    texts = Texts([{"prompt": "line\u2028separator", "answer": "ü\n", "n": 1}, "plain"], name="x")
    assert data(texts.save(tmp_path / "texts.jsonl")) == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n{"text": "b"}\n', "line 2: not valid JSON"),
        ('{"text": "a"}\n{"text": "b', "line 2.*truncated"),
        ('{"text": "a"}\n\n{"txt": "b"}\n', 'line 3: Expected.*"txt"'),
        ('[\n{"text": "a"}]', "line 1.*JSON list"),
        ("", "empty"),
        ("\n\n", "empty"),
    ],
)
def test_errors_in_a_file_name_the_file_and_the_line(tmp_path, content, message):
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"broken\.jsonl.*{message}"):
        data(path)


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "ü"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.jsonl.*not UTF-8"):
        data(path)


def test_a_limit_stops_reading(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\nbroken')
    assert len(data(path, limit=2)) == 2


def test_a_datasets_dataset_is_read_by_rows_and_a_dict_of_splits_refused():
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "Hi", "answer": "Hello", "n": 1}, {"prompt": "Bye", "answer": "So long", "n": 2}]
    dataset = datasets.Dataset.from_list(rows)
    assert data(dataset) == Texts(rows)
    with pytest.raises(TypeError, match="train"):
        data(datasets.DatasetDict(train=dataset))
    with pytest.raises(TypeError, match="One row"):
        data(rows[0])
    with pytest.raises(ValueError, match="row 1: Expected"):
        data([rows[0], {"n": 1}])


# ----------------------------------------------------------------------------------------------------- batches


def some(n: int = 40, seed: int = 0) -> Texts:
    rng = np.random.default_rng(seed)
    return Texts([chat(["q" * rng.integers(1, 60), "a" * rng.integers(1, 60)]) for _ in range(n)])


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_hold_every_text_once_within_the_limits_and_by_position(side):
    tokenizer, texts = bytes_tokenizer(ALPACA), some()
    seen = {}
    for batch in batches(tokenizer, iter(texts), scan=Scan(400), batch_size=7, side=side):
        assert batch.input_ids.numel() <= 400
        assert len(batch) <= 7
        for row in range(len(batch)):
            here = batch.attention_mask[row].bool()
            assert (batch.position_ids[row][here] == torch.arange(here.sum())).all()
            assert not batch.mask()[row][~here].any()
            seen[int(batch.index[row])] = (
                batch.input_ids[row][here].tolist(),
                batch.roles[row][here].tolist(),
                batch.loss[row][here].tolist(),
            )
    assert sorted(seen) == list(range(len(texts)))
    for index, text in enumerate(texts):
        alone = encode(tokenizer, text)
        assert seen[index] == (alone.input_ids, alone.roles.tolist(), alone.loss.tolist())


def test_batches_are_the_same_every_time_and_waste_little_padding():
    tokenizer, texts = bytes_tokenizer(ALPACA), some(200)
    first, second = (list(batches(tokenizer, texts, scan=Scan(1000))) for _ in range(2))
    assert all((a.input_ids == b.input_ids).all() for a, b in zip(first, second, strict=True))
    assert sum(int(b.attention_mask.sum()) for b in first) / sum(b.input_ids.numel() for b in first) > 0.9


def test_batches_read_no_further_ahead_than_a_window():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield chat(["q" * 50, "a" * 50])

    next(batches(bytes_tokenizer(ALPACA), endless(), scan=Scan(1000)))
    assert read < 200


def test_a_text_longer_than_a_batch_is_a_batch_of_its_own():
    texts = Texts([chat(["q" * 100, "a"]), chat(["q", "a"])])
    assert [len(batch) for batch in batches(bytes_tokenizer(ALPACA), texts, scan=Scan(50))] == [1, 1]


def test_truncation_keeps_the_arrays_consistent_and_is_counted_aloud():
    tokenizer, text = bytes_tokenizer(ALPACA), chat(["q" * 30, "a" * 30])
    whole = encode(tokenizer, text)
    cut = encode(tokenizer, text, max_length=60)
    assert cut.input_ids == whole.input_ids[:60]
    assert (cut.roles == whole.roles[:60]).all()
    assert (cut.loss == whole.loss[:60]).all()
    assert (cut.cut, cut.cut_loss) == (len(whole.input_ids) - 60, whole.loss.sum() - cut.loss.sum())
    with pytest.warns(UserWarning, match="1 of 2 texts were cut at max_length=60"):
        list(batches(tokenizer, [text, chat(["q", "a"])], Scan(max_length=60)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(batches(tokenizer, [text], Scan(max_length=500)))


def test_training_refuses_a_data_set_of_which_truncation_leaves_nothing_to_learn():
    tokenizer, long, short = bytes_tokenizer(ALPACA), chat(["q" * 90, "a"]), chat(["q", "a"])
    with pytest.raises(ValueError, match="max_length=50 cuts the whole answer off in all 2 of 2"):
        encode_all(tokenizer, [long, long], max_length=50)
    with pytest.warns(UserWarning, match="1 of them lost their whole answer"):
        kept = encode_all(tokenizer, [long, short], max_length=50)
    assert [item.index for item in kept] == [1]
    with pytest.raises(ValueError, match="none of 1 texts has an assistant message"):
        encode_all(tokenizer, [long.prompt])


def test_a_prompt_for_sampling_is_never_cut():
    with pytest.raises(ValueError, match="more than max_length=20"):
        encode(bytes_tokenizer(ALPACA), chat(["q" * 90]), add_generation_prompt=True, max_length=20)


def test_labels_are_the_tokens_to_learn_and_masks_the_roles_asked_for():
    tokenizer = bytes_tokenizer(ALPACA)
    batch = collate([encode(tokenizer, chat(["Hi", "Hello"])), encode(tokenizer, Text(text="Once"), index=1)], 0)
    assert tokenizer.decode(batch.labels[0][batch.labels[0] != -100]) == "Hello"
    assert tokenizer.decode(batch.input_ids[0][batch.mask(["user", "assistant"])[0]]) == "HiHello"
    assert batch.mask(["text"]).sum() == 4
    assert batch.mask().sum() == batch.attention_mask.sum()
    with pytest.raises(ValueError, match=r'Unknown role "asistant"\. Did you mean "assistant"'):
        batch.mask(["asistant"])
    assert isinstance(batch.to("cpu"), Batch)
