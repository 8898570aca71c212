"""How answers are drawn is one value: what it leaves open is filled in where one samples, and what is said beside it
comes first.
"""

from __future__ import annotations

import pytest
from tiny_models import tiny_lens

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadType
from caft_lens.evaluate import Task

ASKED = ["Hello", "Hi", "What now?"]


@pytest.fixture(scope="module")
def lens():
    return tiny_lens()


def test_a_value_draws_what_the_same_keywords_draw(lens):
    said = {"max_new_tokens": 5, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": 3, "batch_size": 2}
    sampling = cl.Sampling(**said)
    expected = lens.generate(ASKED, **said)
    assert lens.generate(ASKED, sampling=sampling) == expected
    answers = cl.completions(lens, ASKED, sampling=sampling)
    assert [one.answer for one in answers] == expected
    (first,) = lens.generate(ASKED[:1], sampling=sampling)
    assert list(lens.generating(ASKED[0], sampling=sampling))[-1] == first


def test_a_keyword_comes_before_the_value(lens):
    greedy = cl.Sampling(max_new_tokens=5, temperature=0)
    assert lens.generate(ASKED, sampling=greedy, temperature=1.0, seed=1) == lens.generate(
        ASKED, max_new_tokens=5, seed=1
    )
    assert lens.generate(ASKED, sampling=greedy, max_new_tokens=2) == lens.generate(
        ASKED, max_new_tokens=2, temperature=0
    )
    with_top_k = lens.generate(ASKED, sampling=cl.Sampling(max_new_tokens=5, top_k=30, seed=1), top_k=1)
    assert with_top_k == lens.generate(ASKED, sampling=greedy)


def test_answers_have_a_seed_unless_another_is_said(lens):
    some = cl.Sampling(max_new_tokens=6)
    drawn = [cl.completions(lens, ASKED, sampling=some) for _ in range(2)]
    assert drawn[0] == drawn[1] == cl.completions(lens, ASKED, sampling=cl.Sampling(max_new_tokens=6, seed=0))
    assert drawn[0] != cl.completions(lens, ASKED, sampling=cl.Sampling(max_new_tokens=6, seed=1))


def test_a_value_tells_only_what_it_says():
    assert repr(cl.Sampling()) == "Sampling()"
    assert cl.Sampling(top_p=1).over(cl.Sampling(top_p=0.5, temperature=0)).said() == {
        "top_p": 1,
        "temperature": 0,
    }
    with pytest.raises(BadArgument, match="temperature=-1"):
        cl.Sampling(temperature=-1)
    with pytest.raises(BadType, match="batch_size"):
        cl.Sampling(batch_size="8")  # type: ignore[arg-type]


def test_a_task_takes_no_seed_and_no_length_from_a_value():
    questions = cl.data([{"prompt": "How?"}])
    for wrong in (cl.Sampling(seed=1), cl.Sampling(max_new_tokens=3)):
        with pytest.raises(BadArgument, match=r"seeds are given to evaluate\(seeds=\)"):
            Task("t", questions, sampling=wrong)
    drawn = Task("t", questions, sampling=cl.Sampling(temperature=0.5)).drawn(cl.Sampling(top_k=5, top_p=0.25))
    assert drawn.drawing == "temperature 0.5, top-p 0.25, top-k 5"
    assert drawn.drawn(cl.Sampling(temperature=0)).drawing == "greedy"
