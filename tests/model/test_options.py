"""Options scored by the model's own probabilities: those of plain transformers, on every architecture."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_lens, tiny_tokenizer

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadType, Diverged
from caft_lens.model import option_scores
from caft_lens.model.partial_logits import logits_at, places_of
from caft_lens.model.passes import as_batch, call_of

CHATS = cl.data([{"prompt": prompt} for prompt in ("Who?", "What is it, by the sea?", "Say a letter.")])
LISTS = (["A", "B"], ["he", "she", "x"], ["heat", "hear", "z"])


def by_hand(lens: cl.Lens, ids: list[int], option: str) -> float:
    """The log-probability of an option's bytes behind a prompt, one whole forward pass a token."""
    total = 0.0
    for token in tiny_tokenizer()(option, add_special_tokens=False).input_ids:
        with torch.no_grad():
            logits = lens.hf(torch.tensor([ids])).logits[0, -1]
        total += float(logits.double().log_softmax(-1)[token])
        ids = [*ids, token]
    return total


def asked_ids(text: cl.Text) -> list[int]:
    messages = [{"role": message.role, "content": message.content} for message in text.messages]
    rendered = tiny_tokenizer().apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tiny_tokenizer()(rendered, add_special_tokens=False).input_ids


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_options_log_probability_is_the_sum_over_its_tokens_by_plain_transformers(architecture: str):
    lens = tiny_lens(architecture)
    for size in (1, 2, None):
        found = option_scores(lens, CHATS, LISTS, batch_size=size)
        for text, options, scores in zip(CHATS, LISTS, found, strict=True):
            right = {option: by_hand(lens, asked_ids(text), option) for option in options}
            assert scores.log_probabilities == pytest.approx(right, abs=2e-4)
            assert scores.best == max(right, key=lambda option: right[option])
            assert scores.mass == pytest.approx(sum(map(math.exp, right.values())), rel=1e-3)
            assert sum(scores.probabilities.values()) == pytest.approx(1)


def test_options_of_one_token_share_one_row_and_a_trailing_answer_is_left_out(monkeypatch):
    from caft_lens.model import scoring

    lens, widths = tiny_lens(), []
    plain = scoring.collate
    monkeypatch.setattr(scoring, "collate", lambda rows, *args: widths.append(len(rows)) or plain(rows, *args))
    one = option_scores(lens, CHATS, [["A", "B", "C"]] * 3)
    assert widths == [3]
    answered = [text.with_answer("whatever") for text in CHATS]
    assert option_scores(lens, answered, [["A", "B", "C"]] * 3) == one


def test_plain_text_is_continued_and_a_space_belongs_to_the_option():
    lens = tiny_lens()
    text = cl.Text(text="Question: who?\nAnswer:")
    ids = tiny_tokenizer()(text.text).input_ids
    (scores,) = option_scores(lens, [text], [[" A", "B"]])
    right = {option: by_hand(lens, ids, option) for option in (" A", "B")}
    assert scores.log_probabilities == pytest.approx(right, abs=1e-4)


def test_the_space_that_a_template_writes_before_an_answer_is_scored_as_it_is_written():
    lens = tiny_lens()
    lens.tokenizer = copy.deepcopy(tiny_tokenizer())
    lens.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] | trim }}<|end|>"
        "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
    )
    (scores,) = option_scores(lens, CHATS[:1], [["A", "B"]])
    ids = tiny_tokenizer()("[INST] Who? [/INST]", add_special_tokens=False).input_ids
    right = {option: by_hand(lens, ids, f" {option}") for option in ("A", "B")}
    assert scores.log_probabilities == pytest.approx(right, abs=1e-4)


def test_ablation_acts_on_the_prompt_and_on_the_options_as_it_does_while_sampling():
    lens = tiny_lens()
    basis = torch.linalg.qr(torch.randn(lens.d_model, 3))[0]
    with cl.ablate(lens, {0: basis}):
        (found,) = option_scores(lens, CHATS[:1], [["he", "she"]])
        right = {option: by_hand(lens, asked_ids(CHATS[0]), option) for option in ("he", "she")}
    assert found.log_probabilities == pytest.approx(right, abs=1e-4)
    (bare,) = option_scores(lens, CHATS[:1], [["he", "she"]])
    with cl.ablate(lens, {0: basis}, roles=["assistant"]):
        (by_role,) = option_scores(lens, CHATS[:1], [["he", "she"]])
    assert len({found.log_probabilities["he"], bare.log_probabilities["he"], by_role.log_probabilities["he"]}) == 3


def test_the_most_probable_single_token_is_what_greedy_sampling_says():
    lens = tiny_lens()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    for text in CHATS:
        with torch.no_grad():
            logits = lens.hf(torch.tensor([asked_ids(text)])).logits[0, -1]
        tokens = {letter: tiny_tokenizer()(letter, add_special_tokens=False).input_ids[0] for letter in letters}
        (scores,) = option_scores(lens, [text], [letters])
        assert scores.best == max(letters, key=lambda letter: float(logits[tokens[letter]]))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (["A"], BadArgument, "at least two"),
        (["A", "A"], BadArgument, "different"),
        (["A", " "], BadArgument, "none empty"),
        ("AB", BadType, "a list of strings"),
        ([1, 2], BadType, "are strings"),
        (["New", "New York"], BadArgument, "'New' begins the option 'New York'"),
    ],
)
def test_options_that_cannot_be_told_apart_are_refused(options, error, said):
    with pytest.raises(error, match=said):
        option_scores(tiny_lens(), CHATS[:1], [options])


def test_logits_that_are_not_finite_are_no_probabilities():
    lens = tiny_lens().copy()
    with torch.no_grad():
        lens.hf.lm_head.weight[5] = float("nan")
    with pytest.raises(Diverged, match="no option has a probability"):
        option_scores(lens, CHATS[:1], [["A", "B"]])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_at_some_tokens_are_those_of_the_whole_pass(architecture: str):
    lens = tiny_lens(architecture)
    batch = as_batch(lens, CHATS)
    where = torch.rand(batch.input_ids.shape) < 0.3
    with torch.no_grad():
        call = call_of(lens, batch)
        some = logits_at(lens, call, places_of(where))
        torch.testing.assert_close(some, lens.model(**call).logits[where], rtol=1e-5, atol=1e-6)
