"""Secrets are taken out wherever text leaves the process."""

from __future__ import annotations

import pytest

from caft_lens._support.redaction import command_line, is_secret, redact

KEY = "sk-abcdefghijklmnop1234567890"


@pytest.mark.parametrize(
    "name",
    ["api_key", "apiKey", "X-Api-Key", "OPENAI_API_KEY", "hub_token", "hf_token", "HF_TOKEN", "token", "--token",
     "accessToken", "password", "DB_PASSWORD", "secret", "client_secret", "aws_secret_access_key", "Authorization",
     "credentials", "private_key"],
)  # fmt: skip
def test_what_is_called_like_a_secret_is_one(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "max_completion_tokens", "pad_token", "eos_token", "bos_token", "tokens", "tokenizer", "key_env",
     "keys", "monkey", "secretary", "token_ids", "next_token", "author", "key"],
)  # fmt: skip
def test_what_only_resembles_one_is_none(name):
    assert not is_secret(name)


def test_secrets_are_found_by_name_place_form_and_value(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "not-of-any-known-form")
    record = {
        "training_arguments": {"hub_token": "abc", "learning_rate": 1e-4, "pad_token": "<pad>"},
        "options": [{"extra_headers": {"Authorization": "Bearer abcdefgh12345"}}],
        "url": "https://me:pw@host/v1?api_key=abc&page=2",
        "said": f"401: {KEY} and not-of-any-known-form and hf_{'a' * 30} are wrong; bearer abcdefgh12345 too",
        "seeds": (0, 1),
        "none": None,
    }
    assert redact(record) == {
        "training_arguments": {"hub_token": "***", "learning_rate": 1e-4, "pad_token": "<pad>"},
        "options": [{"extra_headers": {"Authorization": "***"}}],
        "url": "https://***@host/v1?api_key=***&page=2",
        "said": "401: *** and *** and *** are wrong; bearer *** too",
        "seeds": (0, 1),
        "none": None,
    }


def test_what_holds_no_secret_stays_as_it_is():
    text = "Ask for the password at https://host/v1/chat?page=2, or sk-8 people; bearer of news; me@host.org"
    assert redact(text) == text
    assert redact({"text": text, "n": [1, 2.5, True, None]}) == {"text": text, "n": [1, 2.5, True, None]}


def test_a_command_line_shows_no_secret():
    typed = [
        "caft-lens",
        "--token",
        "abc",
        "--api-key=def",
        "--seed",
        "0",
        f"--url=https://a:b@c/?key={KEY}",
        "-v",
    ]
    shown = [
        "caft-lens",
        "--token",
        "***",
        "--api-key=***",
        "--seed",
        "0",
        "--url=https://***@c/?key=***",
        "-v",
    ]
    assert command_line(typed) == shown
