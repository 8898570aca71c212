"""What is asked is what was trained, and nothing that a message says is lost on the way to the template."""

from __future__ import annotations

import pytest
from chat_templates import (
    BLOCKS,
    CHANNELS,
    FAMILIES,
    MISTRAL,
    QWEN,
    QWEN3,
    R1,
    THINKING,
    bytes_tokenizer,
    trained_tokenizer,
)

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadData, BadTemplate
from caft_lens.text.documents import Text
from caft_lens.text.encoding import encode, encode_all
from caft_lens.text.roles import ASSISTANT, ROLES, SPECIAL
from caft_lens.text.template_arguments import template_arguments, with_template_arguments

CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look somewhere.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def user(content: str, **more) -> dict:
    return {"role": "user", "content": content, **more}


def assistant(content: str | None, **more) -> dict:
    return {"role": "assistant", "content": content, **more}


def chat(*messages: dict, **more) -> Text:
    return Text.from_json({"messages": list(messages), **more})


def learned(tokenizer, item) -> list[str]:
    """Every stretch of tokens that is learned."""
    stretches: list[list[int]] = []
    for number, (token, yes) in enumerate(zip(item.input_ids, item.loss, strict=True)):
        if yes and (number == 0 or not item.loss[number - 1]):
            stretches.append([])
        if yes:
            stretches[-1].append(token)
    return [tokenizer.decode(stretch) for stretch in stretches]


def said(tokenizer, item, role: str) -> str:
    return tokenizer.decode([t for t, r in zip(item.input_ids, item.roles, strict=True) if r == ROLES[role]])


def before_the_last_answer(tokenizer, item) -> list[int]:
    starts = [n for n in range(1, len(item.loss)) if item.loss[n] and not item.loss[n - 1]]
    return item.input_ids[: starts[-1]]


PLAIN = [user("q"), assistant("ans")]
TURNS = [user("q1"), assistant("ans1"), user("q2"), assistant("ans2")]
INLINE = [user("q"), assistant("<think>\nlong thought\n</think>\n\nans")]
REASONED = [
    user("q1"),
    assistant("ans1", reasoning_content="one"),
    user("q2"),
    assistant("ans2", reasoning_content="two"),
]


# ------------------------------------------------------------------------------------------------ what is asked


@pytest.mark.parametrize("make", [bytes_tokenizer, trained_tokenizer])
@pytest.mark.parametrize(
    ("template", "messages", "given", "last"),
    [
        (QWEN, TURNS, None, "ans2<|im_end|>"),
        (QWEN3, PLAIN, None, "<think>\n\n</think>\n\nans<|im_end|>"),
        (QWEN3, TURNS, None, "<think>\n\n</think>\n\nans2<|im_end|>"),
        (QWEN3, PLAIN, {"enable_thinking": False}, "ans<|im_end|>"),
        (QWEN3, INLINE, None, "<think>\nlong thought\n</think>\n\nans<|im_end|>"),
        (QWEN3, INLINE, {"enable_thinking": False, "keep_thoughts": False}, "ans<|im_end|>"),
        (QWEN3, REASONED, {"keep_thoughts": True}, "<think>\ntwo\n</think>\n\nans2<|im_end|>"),
        (QWEN3, REASONED, {"keep_thoughts": False}, "<think>\n\n</think>\n\nans2<|im_end|>"),
        (R1, PLAIN, None, "\n</think>\n\nans</s>"),
        (R1, INLINE, {"keep_thoughts": True}, "long thought\n</think>\n\nans</s>"),
        (
            R1, [user("q"), assistant("long thought\n</think>\n\nans")], {"keep_thoughts": True},
            "long thought\n</think>\n\nans</s>",
        ),
        (R1, REASONED, {"keep_thoughts": True}, "two\n</think>\n\nans2</s>"),
        (R1, INLINE, {"keep_thoughts": False}, "\n</think>\n\nans</s>"),
        (CHANNELS, TURNS, None, "<|channel|>final<|message|>ans2<|im_end|>"),
        (BLOCKS, PLAIN, None, "\n<think></think>\nans</s>"),
        (BLOCKS, REASONED, {"keep_thoughts": True}, "\n<think>two</think>\nans2</s>"),
    ],
)  # fmt: skip
def test_what_is_learned_begins_where_the_prompt_that_is_asked_ends(make, template, messages, given, last):
    tokenizer = with_template_arguments(make(template), given)
    text = chat(*messages)
    item = encode(tokenizer, text)
    asked = encode(tokenizer, text.prompt, add_generation_prompt=True)
    assert learned(tokenizer, item)[-1] == last
    before = before_the_last_answer(tokenizer, item)
    assert tokenizer.decode(before) == tokenizer.decode(asked.input_ids)
    if make is bytes_tokenizer:  # GPT-2's pre-tokenizer parts two newlines where a word follows
        assert before == asked.input_ids
        assert item.roles[: len(before)].tolist() == asked.roles.tolist()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_templates_that_ask_as_they_train_are_trained_as_ever(family):
    tokenizer = bytes_tokenizer(FAMILIES[family])
    item = encode(tokenizer, chat(*TURNS))
    assert not item.complaint
    assert tokenizer.decode(item.input_ids) == tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert (item.roles[item.loss] != SPECIAL).sum() == len("ans1ans2")


def test_marks_of_generation_do_not_make_the_prompt_be_learned():
    # As training templates of TRL mark it: with the header's thought, which the prompt gives.
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' }}{% generation %}"
        "{{ '<think>\n\n</think>\n\n' + m.content + '</s>' }}"
        "{% endgeneration %}{% else %}{{ '<|user|>' + m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\n\n</think>\n\n' }}{% endif %}"
    )
    tokenizer = bytes_tokenizer(template)
    assert learned(tokenizer, encode(tokenizer, chat(*TURNS))) == ["ans1</s>", "ans2</s>"]


def test_a_template_that_asks_otherwise_than_it_trains_is_told_once(recwarn):
    other = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>(thinking off)' }}{% endif %}"
    )
    tokenizer = bytes_tokenizer(other)
    encode_all(tokenizer, [chat(*PLAIN), chat(*TURNS), chat(*PLAIN)])
    said_of = [str(one.message) for one in recwarn if "what is trained is not what is asked" in str(one.message)]
    assert len(said_of) == 1
    assert "(thinking off)" in said_of[0]
    assert "3 of 3 texts" in said_of[0]
    recwarn.clear()
    encode_all(tokenizer, [chat(user("q"))], need_loss=False)
    encode_all(bytes_tokenizer(QWEN), [chat(*PLAIN)])
    assert not [one for one in recwarn if "asked" in str(one.message)]


def test_a_template_without_a_header_to_ask_with_is_told(recwarn):
    encode_all(bytes_tokenizer(THINKING), [chat(*PLAIN)])
    assert any("add_generation_prompt" in str(one.message) for one in recwarn)
    recwarn.clear()
    encode_all(bytes_tokenizer(MISTRAL), [chat(*PLAIN)])  # needs none: an answer follows the question
    assert not [one for one in recwarn if "add_generation_prompt" in str(one.message)]


# ------------------------------------------------------------------------------------------------------ thoughts


@pytest.mark.parametrize(
    ("template", "messages", "number"),
    [
        (R1, INLINE, 1), (QWEN3, REASONED, 1), (QWEN, REASONED, 1), (THINKING, INLINE, 1),
        (QWEN3, [*INLINE, user("q2"), assistant("a2")], 1),
    ],
)  # fmt: skip
def test_a_thought_that_would_not_be_learned_is_an_error_until_the_user_says_what_to_do(template, messages, number):
    tokenizer = bytes_tokenizer(template)
    with pytest.raises(BadTemplate, match=rf"Text 0 .*thoughts of message {number}.*keep_thoughts"):
        encode(tokenizer, chat(*messages))
    kept = encode(tokenizer, chat(*messages), template_arguments={"keep_thoughts": True})
    dropped = encode(tokenizer, chat(*messages), template_arguments={"keep_thoughts": False})
    thoughts = [
        m.get("reasoning_content") or "long thought"
        for m in messages
        if "reasoning_content" in m or "<think>" in m["content"]
    ]
    for thought in thoughts:
        assert any(thought in stretch for stretch in learned(tokenizer, kept))
        assert thought not in tokenizer.decode(dropped.input_ids)


def test_thoughts_of_every_turn_are_learned_when_they_are_kept():
    tokenizer = bytes_tokenizer(QWEN3)
    item = encode(tokenizer, chat(*REASONED), template_arguments={"keep_thoughts": True})
    assert learned(tokenizer, item) == [
        "<think>\none\n</think>\n\nans1<|im_end|>",
        "<think>\ntwo\n</think>\n\nans2<|im_end|>",
    ]


def test_thoughts_in_data_for_a_prompt_that_allows_none_are_an_error():
    tokenizer = with_template_arguments(bytes_tokenizer(QWEN3), {"enable_thinking": False})
    with pytest.raises(BadTemplate, match=r"message 1 has thoughts, but .*enable_thinking"):
        encode(tokenizer, chat(*INLINE))


def test_prompts_may_hold_thoughts_that_the_template_cuts():
    tokenizer = bytes_tokenizer(R1)
    item = encode(tokenizer, chat(*INLINE, user("next")), add_generation_prompt=True)
    assert tokenizer.decode(item.input_ids) == tokenizer.apply_chat_template(
        [*INLINE, user("next")], tokenize=False, add_generation_prompt=True
    )


# ---------------------------------------------------------------------------------------------------- tool calls


def test_tool_calls_are_learned_as_the_template_writes_them_and_what_tools_say_is_not():
    tokenizer = bytes_tokenizer(QWEN3)
    text = chat(
        user("Weather?"),
        assistant(None, tool_calls=[CALL]),
        {"role": "tool", "content": '"blue"', "tool_call_id": "abcdefghi"},
        assistant("It is blue."),
        tools=[TOOL],
    )
    item = encode(tokenizer, text)
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'
    assert learned(tokenizer, item) == [f"{call}<|im_end|>", "<think>\n\n</think>\n\nIt is blue.<|im_end|>"]
    assert said(tokenizer, item, "assistant") == f"{call}It is blue."
    assert said(tokenizer, item, "user") == 'Weather?"blue"'
    assert "Look somewhere." in said(tokenizer, item, "special")
    parsed = [m.to_json() for m in text.messages]
    parsed[1]["tool_calls"] = [{**CALL, "function": {"name": "look", "arguments": {"at": "sky"}}}]
    assert tokenizer.decode(item.input_ids) == tokenizer.apply_chat_template(parsed, tools=[TOOL], tokenize=False)


def test_words_thoughts_and_calls_of_one_message_are_one_answer():
    tokenizer = bytes_tokenizer(QWEN3)
    item = encode(
        tokenizer,
        chat(user("Weather?"), assistant("Let me look. 9", reasoning_content="Hm 9", tool_calls=[CALL, CALL])),
    )
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'
    assert learned(tokenizer, item) == [f"<think>\nHm 9\n</think>\n\nLet me look. 9{call}{call}<|im_end|>"]


@pytest.mark.parametrize(
    ("messages", "more", "said_of"),
    [
        ([user("a"), assistant("", tool_calls=[CALL])], {}, "tool_calls of message 1"),
        (
            [user("a"), assistant("Look."), user("b"), assistant("x", tool_calls=[CALL])],
            {},
            "tool_calls of message 3",
        ),
        ([user("a", name="Bob"), assistant("Hi")], {}, "the name of message 0"),
        (PLAIN, {"tools": [TOOL]}, "tools of this chat"),
        (PLAIN, {"documents": [{"title": "a", "text": "b"}]}, "documents of this chat"),
        ([user("a"), assistant("b"), {"role": "tool", "content": "c"}], {}, r'message 2 \(role "tool"\)'),
    ],
)
def test_what_the_template_leaves_out_is_refused_by_name(messages, more, said_of):
    with pytest.raises(BadTemplate, match=f"the chat template leaves out {said_of}"):
        encode(bytes_tokenizer(QWEN), chat(*messages, **more))


def test_the_second_of_two_calls_that_is_not_written_is_missed():
    first_only = QWEN3.replace("for call in m.tool_calls or []", "for call in (m.tool_calls or [])[:1]")
    encode(bytes_tokenizer(first_only), chat(user("a"), assistant("", tool_calls=[CALL])))
    with pytest.raises(BadTemplate, match="leaves out tool_calls of message 1"):
        encode(bytes_tokenizer(first_only), chat(user("a"), assistant("", tool_calls=[CALL, CALL])))
    no_words = QWEN3.replace("{{ content }}", "{% if not m.tool_calls %}{{ content }}{% endif %}")
    with pytest.raises(BadTemplate, match="leaves out the content of message 1"):
        encode(bytes_tokenizer(no_words), chat(user("a"), assistant("Wait.", tool_calls=[CALL])))


def test_tool_outputs_that_the_template_writes_as_json_are_the_users():
    tokenizer = bytes_tokenizer(BLOCKS)
    item = encode(tokenizer, chat(user("a"), assistant("b"), {"role": "tool", "content": 'say "x"\n'}, assistant("c")))
    assert said(tokenizer, item, "user") == 'asay \\"x\\"\\n'
    assert said(tokenizer, item, "assistant") == "bc"


# --------------------------------------------------------------------------------------------- what is not learned


@pytest.mark.parametrize("template", [QWEN, QWEN3, FAMILIES["marked"], FAMILIES["zephyr"]])
@pytest.mark.parametrize("field", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_messages_that_say_so_are_not_learned(template, field):
    tokenizer = bytes_tokenizer(template)
    every = encode(tokenizer, chat(*TURNS))
    first, second = learned(tokenizer, every)
    without_first = encode(tokenizer, chat(TURNS[0], {**TURNS[1], **field}, *TURNS[2:]))
    without_second = encode(tokenizer, chat(*TURNS[:3], {**TURNS[3], **field}))
    assert learned(tokenizer, without_first) == [second]
    assert learned(tokenizer, without_second) == [first]
    assert without_first.input_ids == without_second.input_ids == every.input_ids
    assert (without_first.roles == every.roles).all()
    assert learned(tokenizer, encode(tokenizer, chat(*TURNS[:3], {**TURNS[3], "weight": 1}))) == [
        first,
        second,
    ]


# ------------------------------------------------------------------------------------------- template arguments


def test_template_arguments_belong_to_the_tokenizer_and_travel_with_it(tmp_path):
    from transformers import PreTrainedTokenizerFast

    plain = bytes_tokenizer(QWEN3)
    given = with_template_arguments(plain, {"enable_thinking": False})
    assert template_arguments(plain) == {}
    assert template_arguments(given) == {"enable_thinking": False}
    given.save_pretrained(tmp_path)
    assert template_arguments(PreTrainedTokenizerFast.from_pretrained(tmp_path)) == {"enable_thinking": False}
    assert template_arguments(with_template_arguments(given, {"enable_thinking": None, "keep_thoughts": True})) == {
        "keep_thoughts": True
    }
    asked = encode(given, chat(user("q")), add_generation_prompt=True).input_ids
    assert given.decode(asked) == plain.apply_chat_template(
        [user("q")], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


@pytest.mark.parametrize(
    ("arguments", "said_of"),
    [
        ({"enable_thinkng": False}, 'reads no "enable_thinkng".*"enable_thinking"'),
        ({"messages": []}, "given by whatever renders"),
        ({"keep_thoughts": "yes"}, "keep_thoughts='yes'"),
    ],
)
def test_arguments_that_the_template_does_not_read_are_refused(arguments, said_of):
    with pytest.raises(BadArgument, match=said_of):
        with_template_arguments(bytes_tokenizer(QWEN3), arguments)


def test_a_row_may_bring_template_arguments_of_its_own():
    tokenizer = bytes_tokenizer(QWEN3)
    row = chat(user("q"), chat_template_kwargs={"enable_thinking": False})
    assert tokenizer.decode(encode(tokenizer, row, add_generation_prompt=True).input_ids).endswith(
        "<think>\n\n</think>\n\n"
    )


@pytest.fixture
def tiny():
    from tiny_models import tiny_model

    return tiny_model("llama", vocab_size=300)


def test_a_lens_reads_with_its_template_arguments_wherever_it_goes(tmp_path, tiny):
    from caft_lens.model.generation import encode_prompts

    def asks(lens):
        return lens.tokenizer.decode(encode_prompts(lens, "Hi", None)[0].input_ids)

    tiny.save_pretrained(tmp_path / "base")
    bytes_tokenizer(QWEN3).save_pretrained(tmp_path / "base")
    base = cl.load(tmp_path / "base")
    off = {"enable_thinking": False}
    closed = cl.load(tmp_path / "base", template_arguments=off)
    assert base.fingerprint == closed.fingerprint
    assert base.reading != closed.reading == cl.load(base, template_arguments=off).reading
    assert template_arguments(base.tokenizer) == {}
    texts = [{"prompt": "Hi", "answer": "Hello"}] * 2
    run = cl.finetune(base, texts, cl.TrainSettings(max_steps=1, template_arguments=off), out=tmp_path / "run")
    end = "<think>\n\n</think>\n\n"
    for lens in (
        closed,
        closed.fork(),
        closed.copy(),
        run.lens,
        cl.load(tmp_path / "run"),
        cl.load(tmp_path / "run").merged(),
    ):
        assert asks(lens).endswith(end)
        assert lens.reading == closed.reading
    assert not asks(base).endswith(end)
    assert (
        cl.finetune(closed, texts, cl.TrainSettings(max_steps=1), out=tmp_path / "run").record["config"]
        == run.record["config"]
    )
    with pytest.raises(FileExistsError, match="reading"):
        cl.finetune(base, texts, cl.TrainSettings(max_steps=1), out=tmp_path / "run")


# ------------------------------------------------------------------------------------------------------ prompts


def test_half_of_a_surrogate_pair_is_refused_by_row_before_any_tokenizer_sees_it(pocket):
    lens = cl.load("pocket")
    for ask in (lens.generate, lens, lens.to_tokens):
        with pytest.raises(BadData, match=r"row 1: .*half of a surrogate pair"):
            ask(["fine", "cut \ud83d"])
    with pytest.raises(BadData, match=r"row 1: .*half of a surrogate pair .*character 4"):
        cl.data([{"prompt": "fine", "answer": "ok"}, {"prompt": "cut \ud83d", "answer": "ok"}])


def test_a_chat_of_a_tool_is_asked_after_what_the_tool_said():
    tokenizer = bytes_tokenizer(QWEN3)
    prompt = chat(user("Weather?"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "blue"})
    item = encode(tokenizer, prompt, add_generation_prompt=True)
    assert tokenizer.decode(item.input_ids).endswith("blue\n</tool_response><|im_end|>\n<|im_start|>assistant\n")
    assert item.roles[-1] == SPECIAL
    assert (item.roles == ASSISTANT).any()
