"""An endpoint is asked exactly what was planned, once, patiently and without its key being seen anywhere; a model
that is here likewise.
"""

from __future__ import annotations

import json
import time
import traceback
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from stub_endpoint import SENTENCE, Stub, completion
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.inspect import Contexts, Endpoint, EndpointError, LocalModel, contexts, explain_with
from caft_lens.inspect.explain import prompts
from caft_lens.inspect.explain.explanations import Explanation
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited between tries."""
    waited: list[float] = []
    stands_for_time = types.SimpleNamespace(sleep=waited.append, time=time.time)
    monkeypatch.setattr("openai._base_client.time", stands_for_time)
    return waited


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFT_TEST_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def found() -> Contexts:
    lens = tiny_lens()
    texts = Texts([{"prompt": f"bake {n} pies?", "answer": f'<b>no {n}</b> "pie"'} for n in range(12)])
    generator = torch.Generator().manual_seed(1)
    rows = [Concept(f"L0.x{i}", "blocks.0.hook_resid_post", torch.randn(32, generator=generator)) for i in range(2)]
    return contexts(lens, ConceptSet(rows).for_model(lens), texts, k=4)


def endpoint(stub: Stub, tmp_path, **changes: Any) -> Endpoint:
    settings = {"key_env": "CAFT_TEST_KEY", "cache": tmp_path / "cache", "prices": (1.0, 10.0), **changes}
    return Endpoint(stub.url, "some-model", **settings)


def talk(*contents: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": content}] for content in contents]


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_each_end_is_one_request_that_shows_its_windows_and_carries_the_key_in_the_header_alone(stub, tmp_path, found):
    explained = explain_with(endpoint(stub, tmp_path), found)
    assert len(stub.asked) == 4
    assert set(stub.paths) == {"/v1/chat/completions"}
    assert {headers["authorization"] for headers in stub.headers} == {f"Bearer {KEY}"}
    said = {body["messages"][0]["content"] for body in stub.asked}
    for name, both in found.items():
        for end, other in ((both.top, both.bottom), (both.bottom, both.top)):
            (prompt,) = [
                one
                for one in said
                if prompts.numbered(end, marked=True) in one and prompts.numbered(other[:10], marked=False) in one
            ]
            assert [json.loads(line.split(". ", 1)[1]) for line in prompt.splitlines() if line[:3] == "1. "]
        assert explained[name].top.text == explained[name].bottom.text == "words about pies"
    assert all(
        body["model"] == "some-model" and body["temperature"] == 0.0 and body["max_tokens"] == 300
        for body in stub.asked
    )
    assert KEY not in json.dumps(stub.asked)


def test_a_dry_run_sends_nothing_and_shows_exactly_what_is_sent_later(stub, tmp_path, found):
    llm = endpoint(stub, tmp_path, concurrency=1)
    plan = explain_with(llm, found, dry_run=True)
    assert stub.asked == []
    characters = sum(len(body["messages"][0]["content"]) for body in plan.requests)
    assert plan.prompt_tokens == pytest.approx(characters / 4, rel=0.01)
    assert plan.completion_tokens == 4 * 300
    assert plan.cost == pytest.approx((plan.prompt_tokens * 1.0 + 1200 * 10.0) / 1e6)
    explain_with(llm, found)
    assert stub.asked == list(plan.requests)
    assert explain_with(llm, found, dry_run=True).cached == 4


def test_a_dry_run_needs_no_key(stub, tmp_path, found, monkeypatch):
    monkeypatch.delenv("CAFT_TEST_KEY")
    assert "Nothing was sent" in str(explain_with(endpoint(stub, tmp_path), found, dry_run=True))


def test_options_change_add_and_leave_out_fields_of_the_request(stub, tmp_path):
    llm = endpoint(
        stub,
        tmp_path,
        options={"max_tokens": None, "max_completion_tokens": 9, "temperature": None, "seed": 3},
    )
    llm.ask(talk("hi"))
    (body,) = stub.asked
    assert "max_tokens" not in body
    assert "temperature" not in body
    assert (body["max_completion_tokens"], body["seed"]) == (9, 3)
    assert llm.plan(talk("ho")).completion_tokens == 9


def test_no_more_requests_are_under_way_than_allowed_and_answers_keep_their_order(stub, tmp_path):
    stub.delay = 0.05
    stub.otherwise = lambda body: completion(body["messages"][0]["content"].upper())
    said = [f"q{n}" for n in range(9)]
    assert endpoint(stub, tmp_path, concurrency=3).ask(talk(*said)) == [one.upper() for one in said]
    assert 1 < stub.most_inside <= 3


def test_tokens_and_cost_are_those_that_the_endpoint_counted(stub, tmp_path):
    llm = endpoint(stub, tmp_path)
    llm.ask(talk("a", "b", "a"))
    assert (llm.usage.requests, llm.usage.prompt_tokens, llm.usage.completion_tokens) == (2, 200, 14)
    assert llm.cost == pytest.approx((200 * 1.0 + 14 * 10.0) / 1e6)
    assert Endpoint(stub.url, "m").cost is None


# -- patience ---------------------------------------------------------------------------------------------------------


def test_429_and_500_are_tried_again_after_as_long_as_the_server_says_or_ever_longer(stub, tmp_path, waits):
    stub.script = [(429, {"Retry-After": "3"}, {}), (500, {}, "oops"), (503, {}, "oops")]
    llm = endpoint(stub, tmp_path)
    assert llm.ask(talk("hi")) == [SENTENCE]
    assert len(stub.asked) == 4
    assert waits[0] == 3.0
    assert 0.75 <= waits[1] <= 1.0
    assert 1.5 <= waits[2] <= 2.0
    assert llm.usage.retried == 3


def test_a_date_in_retry_after_is_a_time_to_wait_for(waits, stub, tmp_path):
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    later = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    stub.script = [(429, {"Retry-After": later}, {})]
    endpoint(stub, tmp_path).ask(talk("hi"))
    assert 35 <= waits[0] <= 40


def test_a_server_that_asks_to_wait_for_an_hour_ends_the_run_instead(stub, tmp_path, waits):
    stub.script = [(429, {"Retry-After": "3600"}, {})]
    with pytest.raises(EndpointError, match="asking to wait 3600 seconds"):
        endpoint(stub, tmp_path).ask(talk("hi"))
    assert waits == []


def test_after_the_last_try_the_error_names_endpoint_status_and_what_to_do(stub, tmp_path, waits):
    stub.otherwise = lambda body: (503, {}, "overloaded")
    with pytest.raises(EndpointError) as error:
        endpoint(stub, tmp_path, retries=2).ask(talk("hi"))
    assert len(stub.asked) == 3
    for part in (stub.url, "503", "overloaded", "after 3 tries", "retries="):
        assert part in str(error.value)


def test_a_time_out_is_tried_again_and_then_told(stub, tmp_path, waits):
    stub.delay = 0.6
    with pytest.raises(EndpointError, match=r"did not answer within 0.1 seconds, after 2 tries"):
        endpoint(stub, tmp_path, timeout=0.1, retries=1).ask(talk("hi"))
    assert len(waits) == 1


def test_a_lost_connection_is_told_as_such(tmp_path, waits):
    llm = Endpoint("http://127.0.0.1:9", "m", key_env="CAFT_TEST_KEY", retries=1, cache=None)
    with pytest.raises(EndpointError, match=r"127.0.0.1:9/chat/completions could not be reached \(ConnectError\)"):
        llm.ask(talk("hi"))


@pytest.mark.parametrize("broken", ["no json", {"choices": []}, [1], {"choices": [{"message": None}]}])
def test_a_body_that_is_no_completion_is_asked_for_again(stub, tmp_path, waits, broken):
    stub.script = [(200, {}, broken)]
    assert endpoint(stub, tmp_path).ask(talk("hi")) == [SENTENCE]
    assert len(stub.asked) == 2


@pytest.mark.parametrize(("status", "advice"), [(401, "CAFT_TEST_KEY"), (404, "some-model"), (400, "options=")])
def test_a_refusal_is_not_tried_again(stub, tmp_path, waits, status, advice):
    stub.otherwise = lambda body: (status, {}, f"wrong: {KEY}")
    with pytest.raises(EndpointError, match=advice):
        endpoint(stub, tmp_path).ask(talk("hi"))
    assert len(stub.asked) == 1


# -- the cache --------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_was_and_a_finished_one_asks_nothing(stub, tmp_path, waits):
    said = ["a", "b", "c", "d"]
    stub.script = [completion("A"), completion("B"), (400, {}, "no")]
    stub.otherwise = lambda body: completion(body["messages"][0]["content"].upper())
    with pytest.raises(EndpointError):
        endpoint(stub, tmp_path, concurrency=1).ask(talk(*said))
    stub.asked.clear()
    assert endpoint(stub, tmp_path, concurrency=1).ask(talk(*said)) == ["A", "B", "C", "D"]
    # The request after the one that failed may have left before the run was stopped.
    assert {body["messages"][0]["content"] for body in stub.asked} in ({"c", "d"}, {"c"})
    stub.asked.clear()
    again = endpoint(stub, tmp_path)
    assert again.ask(talk(*said)) == ["A", "B", "C", "D"]
    assert stub.asked == []
    assert (again.usage.cached, again.usage.requests, again.cost) == (4, 0, 0.0)


def test_other_settings_another_model_or_another_address_are_other_questions(stub, tmp_path):
    for changes in ({}, {"temperature": 1.0}, {"options": {"seed": 1}}):
        endpoint(stub, tmp_path, **changes).ask(talk("a"))
    Endpoint(stub.url, "other", key_env=None, cache=tmp_path / "cache").ask(talk("a"))
    Endpoint(f"{stub.url}/v2", "some-model", key_env=None, cache=tmp_path / "cache").ask(talk("a"))
    assert len(stub.asked) == 5


def test_a_damaged_file_of_the_cache_is_asked_for_again(stub, tmp_path):
    endpoint(stub, tmp_path).ask(talk("a"))
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text('{"content": "tru')
    assert endpoint(stub, tmp_path).ask(talk("a")) == [SENTENCE]
    assert len(stub.asked) == 2
    assert json.loads(file.read_text())["content"] == SENTENCE


# -- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_is_in_no_file_repr_plan_error_or_traceback_even_when_the_server_repeats_it(
    stub, tmp_path, found, waits
):
    llm = endpoint(stub, tmp_path, retries=0)
    stub.otherwise = lambda body: completion(f"EXPLANATION: {KEY} it is", echo=KEY)
    explained = explain_with(llm, found)
    seen = [
        repr(llm),
        str(llm),
        repr(explain_with(llm, found, dry_run=True)),
        repr(explained),
        explained._repr_html_(),
    ]
    seen += [file.read_text() for file in (tmp_path / "cache").iterdir()]
    seen += [explained.save(tmp_path / "kept.json").read_text()]
    for status in (401, 500):
        stub.otherwise = lambda body, status=status: (status, {}, f"Bearer {KEY} is wrong")
        with pytest.raises(EndpointError) as error:
            llm.ask(talk("new"))
        seen += ["".join(traceback.format_exception(error.value))]
    assert all(KEY not in one for one in seen)
    assert "***" in seen[-1]


def test_nothing_that_the_environment_holds_for_the_client_goes_to_another_address(stub, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "not-for-others")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer not-for-others\nX-Gateway: not-for-others")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    endpoint(stub, tmp_path, key_env=None).ask(talk("without a key"))
    endpoint(stub, tmp_path).ask(talk("with a key"))
    without, with_key = stub.headers
    assert "authorization" not in without
    assert with_key["authorization"] == f"Bearer {KEY}"
    assert "not-for-others" not in str(stub.headers)


def test_headers_of_the_environment_go_along_where_their_variable_is_named_and_are_shown_nowhere(
    stub, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: of-the-gateway\nno header")
    stub.otherwise = lambda body: (400, {}, "what is of-the-gateway?")
    with pytest.raises(EndpointError, match="what is") as error:
        endpoint(stub, tmp_path, headers_env="OPENAI_CUSTOM_HEADERS").ask(talk("hi"))
    assert stub.headers[-1]["x-gateway"] == "of-the-gateway"
    assert "of-the-gateway" not in str(error.value)


def test_the_texts_follow_no_redirection(stub, tmp_path):
    other = Stub()
    stub.script = [(307, {"location": f"{other.url}/chat/completions"}, {})]
    with pytest.raises(EndpointError, match="answered 307"):
        endpoint(stub, tmp_path, retries=0).ask(talk("hi"))
    assert other.asked == []
    other.server.shutdown()


@pytest.mark.parametrize("held", ["sk bad", "sk\nbad", "skü-bad"])
def test_what_cannot_be_a_key_is_refused_without_being_shown(stub, tmp_path, monkeypatch, held):
    monkeypatch.setenv("CAFT_TEST_KEY", held)
    with pytest.raises(EndpointError, match="CAFT_TEST_KEY holds is no key") as error:
        endpoint(stub, tmp_path).ask(talk("hi"))
    assert "bad" not in "".join(traceback.format_exception(error.value, limit=0))


def test_a_missing_key_is_told_with_the_name_of_the_variable_and_none_is_sent_where_none_is_wanted(
    stub, tmp_path, monkeypatch
):
    monkeypatch.delenv("CAFT_TEST_KEY")
    with pytest.raises(EndpointError, match="The environment variable CAFT_TEST_KEY holds no key"):
        endpoint(stub, tmp_path).ask(talk("hi"))
    endpoint(stub, tmp_path, key_env=None).ask(talk("hi"))
    assert "authorization" not in stub.headers[0]


@pytest.mark.parametrize("url", ["https://me:sk-secret@host/v1", "https://host/v1?key=sk-secret"])
def test_an_address_that_holds_a_key_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError, match="holds a name, password or query") as error:
        Endpoint(url, "m")
    assert "sk-secret" not in str(error.value)


@pytest.mark.parametrize("wrong", [{"url": "api.openai.com"}, {"retries": -1}, {"concurrency": 0}, {"timeout": 0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Expected the address|expected a (whole )?number"):
        Endpoint(**{"url": "http://localhost/v1", "model": "m", **wrong})


# -- reading answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("[1, 0, 1]", [True, False, True]),
        ("Window 2 [the tart] is not.\n```json\n[true, false, true]\n```", [True, False, True]),
        ("[0] no: [1,0,1]", [True, False, True]),
        ("[0, 0, 0]? No: [1, 0, 1]", [True, False, True]),
        ("[1, 0]", None),
        ("[1, 0, 2]", None),
        ("1, 0, 1", None),
        ("", None),
    ],
)
def test_judgements_are_the_last_list_of_the_right_length(reply, said):
    assert prompts._judgements_in(reply, 3) == said


def test_an_answer_of_another_form_is_asked_for_once_more_and_then_counts_as_none(stub, tmp_path, found):
    windows = list(found["L0.x0"].top)
    one = [Explanation("L0.x0", "top", "pies", 4)]
    stub.script = [completion("I think so"), completion("[1, 0]"), completion("[1, 1]")]
    llm = endpoint(stub, tmp_path, concurrency=1)
    # Asked first: two batches; then again the first of them, whose answer was of another form, and once only.
    assert prompts.judged(llm, one, [windows], 2) == [[True, True, True, False]]
    stub.script, stub.otherwise = [completion("[1, 1]")], lambda body: completion("no idea")
    llm = endpoint(stub, tmp_path, concurrency=1, cache=None)
    assert prompts.judged(llm, one, [windows], 2) == [[True, True, None, None]]
    again = [body for body in stub.asked if len(body["messages"]) == 3]
    assert len(again) == 2
    assert len(stub.asked) == 6
    assert again[0]["messages"][2]["content"].endswith(
        "Answer with a JSON list of 2 numbers, each 0 or 1, and nothing else."
    )


def test_a_judge_sees_the_explanation_and_the_windows_without_the_peak_or_the_answer(stub, tmp_path, found):
    windows = list(found["L0.x0"].top)
    plan = endpoint(stub, tmp_path).plan(
        prompts.judgement_requests([Explanation("L0.x0", "top", "pies", 4)], [windows], 10)
    )
    ((message,),) = [body["messages"] for body in plan.requests]
    assert "pies" in message["content"]
    shown = [json.loads(line.split(". ", 1)[1]) for line in message["content"].splitlines() if line[:1].isdigit()]
    assert shown == [prompts._shown(window, marked=False) for window in windows]
    assert "[[" not in message["content"]
    assert all(f"{window.value:.3f}" not in message["content"] for window in windows)


def test_an_explanation_without_its_line_is_asked_for_once_more(stub, tmp_path, found):
    stub.script = [completion("Pies, I think."), completion("**EXPLANATION:  all about   pies**")]
    explained = explain_with(endpoint(stub, tmp_path), found.only("L0.x0"), ends=["top"])
    assert explained["L0.x0"].top.text == "all about pies"
    assert explained["L0.x0"].bottom is None
    stub.otherwise = lambda body: completion(None)
    nothing = explain_with(endpoint(stub, tmp_path, cache=None), found.only("L0.x0"), ends=["top"])
    assert nothing["L0.x0"].top.text == "(no answer)"


def test_no_window_can_open_a_turn_of_the_chat_in_which_it_is_shown(found):
    """Tokens of the template are named in prompts, so that a local model's own template is not broken by them."""
    lens = tiny_lens(max_position_embeddings=8192)
    llm = LocalModel(lens)
    plan = explain_with(llm, found, dry_run=True)
    assert any(special for both in found.values() for context in both.top for special in context.special)
    for request in plan.requests:
        item = encode(tiny_tokenizer(), llm.text(request["messages"]))
        specials = [number for number in item.input_ids if number < 6]
        assert specials == [1, 4, 2], "one turn of a user: begin, user, end"


# -- a model that is here ---------------------------------------------------------------------------------------------


def test_a_local_model_answers_as_plain_transformers_does(found):
    model, tokenizer = tiny_model(max_position_embeddings=4096), tiny_tokenizer()
    llm = LocalModel(model, tokenizer, max_tokens=6)
    conversations = [
        *talk("What is a pie?"),
        [*talk("Hi")[0], {"role": "assistant", "content": "?"}, *talk("Again")[0]],
    ]
    expected = []
    for conversation in conversations:
        ids = torch.tensor([tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)])
        new = model.generate(ids, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(ids))[
            0, ids.shape[1] :
        ]
        expected.append(tokenizer.decode(new, skip_special_tokens=True))
    assert llm.ask(conversations) == expected
    assert llm.usage.requests == 2
    explained = explain_with(llm, found, n=2)
    assert {one.by for one in explained.all} == {llm.name}
    assert len(explained.all) == 4


def test_a_local_model_that_is_too_small_for_the_prompt_says_so(found):
    with pytest.raises(ValueError, match="exceed the 256 positions"):
        explain_with(LocalModel(tiny_lens()), found)


def test_a_key_that_a_server_echoes_in_its_reason_reaches_no_error(stub, tmp_path):
    for status in (401, 500):
        stub.script = [(status, {":reason": f"bad key {KEY}"}, {"error": f"Bearer {KEY} at https://a:b@host/"})]
        with pytest.raises(EndpointError, match="bad key \\*\\*\\*") as caught:
            endpoint(stub, tmp_path, retries=0).ask(talk("hi"))
        shown = "".join(traceback.format_exception(caught.value))
        assert KEY not in shown
        assert "a:b@" not in shown


def test_a_key_among_the_options_is_sent_but_neither_kept_nor_shown(stub, tmp_path):
    options = {"api_key": "other-secret", "extra": {"Authorization": "Bearer abcdefgh1234"}, "user": "me"}
    llm = endpoint(stub, tmp_path, options=options)
    stub.otherwise = lambda body: completion("The key is other-secret.")
    assert llm.ask(talk("hi")) == ["The key is ***."]
    assert stub.asked[0]["api_key"] == "other-secret"
    assert stub.asked[0]["extra"] == options["extra"]
    kept = "".join(file.read_text() for file in (tmp_path / "cache").iterdir())
    plan = str(llm.plan(talk("hi")).requests)
    for text in (kept, plan):
        assert "other-secret" not in text
        assert "abcdefgh1234" not in text
        assert "'me'" in text or '"me"' in text
    # It is found again, whatever the key is.
    assert endpoint(stub, tmp_path, options={**options, "api_key": "third"}).ask(talk("hi"))
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://example.org/v1", True),
        ("http://10.0.0.7:8000/v1", True),
        ("http://localhost:8000/v1", False),
        ("http://127.0.0.1/v1", False),
        ("http://[::1]:1/v1", False),
        ("https://example.org/v1", False),
    ],
)
def test_a_key_that_would_go_over_the_network_in_the_open_is_warned_of(url, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert Endpoint(url, "m", key_env="CAFT_TEST_KEY", cache=None)._checked_key() == KEY
        assert Endpoint(url, "m", key_env=None, cache=None)._checked_key() is None
    assert [("without encryption" in str(one.message)) for one in caught] == [True] * warned


def test_the_cache_stays_where_it_is_when_the_working_directory_changes(stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llm = endpoint(stub, tmp_path, cache="answers")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    llm.ask(talk("hi"))
    assert len(list((tmp_path / "answers").iterdir())) == 1
