"""A lens that two threads use: each has its own hooks, roles and random numbers, and gets what it would get alone."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens._support.errors import Busy, Diverged
from caft_lens.model import turns

PROMPTS = ["Hello there", "Hi", "What is it, by the sea?"]


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    return tiny_lens()


def basis(lens: cl.Lens, seed: int) -> dict[int | str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {0: torch.linalg.qr(torch.randn(lens.d_model, 4, generator=generator))[0]}


def at_once(*work: Callable[[], Any], timeout: float = 60) -> list[Any]:
    """What each gives when all run at the same time, in threads of their own."""
    found: list[Any] = [None] * len(work)
    start = threading.Barrier(len(work))

    def run(number: int) -> None:
        start.wait()
        try:
            found[number] = work[number]()
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a thread waits for ever"
    return found


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.8}, {"top_k": 5}, {"typical_p": 0.9}], ids=str)
def test_two_threads_that_generate_with_seeds_get_the_texts_of_one_after_the_other(lens, sampling):
    def texts(seed: int) -> Callable[[], list[list[int]]]:
        settings = {"seed": seed, "max_new_tokens": 6, "batch_size": 1, "return_type": "tokens", **sampling}
        return lambda: [lens.generate(PROMPTS, **settings) for _ in range(4)]

    torch.manual_seed(3)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    expected = [texts(seed)() for seed in (0, 1)]
    assert at_once(texts(0), texts(1)) == expected
    assert torch.equal(torch.rand(4), drawn)  # the global state is as it was


def test_ablation_by_role_in_two_threads_is_that_of_each_alone(lens):
    def texts(number: int) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            found = []
            for _ in range(3):
                with cl.ablate(lens, basis(lens, number), roles=[["user"], ["assistant"]][number]):
                    found.append(lens.generate(PROMPTS[number:], max_new_tokens=6, seed=number))
            return found

        return run

    expected = [texts(0)(), texts(1)()]
    assert at_once(texts(0), texts(1)) == expected
    assert expected[0] != [lens.generate(PROMPTS, max_new_tokens=6, seed=0)] * 3


def test_a_block_of_one_thread_does_not_reach_another_which_need_not_wait_for_its_end(lens):
    plain = lens.generate(PROMPTS, max_new_tokens=6, seed=0)
    with cl.ablate(lens, basis(lens, 0)):
        ablated = lens.generate(PROMPTS, max_new_tokens=6, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert at_once(lambda: lens.generate(PROMPTS, max_new_tokens=6, seed=0)) == [plain]
        assert lens.generate(PROMPTS, max_new_tokens=6, seed=0) == ablated
    assert ablated != plain


def test_a_model_that_runs_in_a_thread_beside_the_block_says_that_nothing_is_hooked_there():
    lens = tiny_lens()
    ids = torch.tensor([[1, 20, 30]])
    with cl.ablate(lens, basis(lens, 0)), pytest.warns(UserWarning, match="thread that opened no hooks"):
        at_once(lambda: lens.model(input_ids=ids))


def test_an_iterator_over_growing_answers_leaves_the_lens_to_others_between_two_tokens(lens):
    settings = {"sampling": cl.Sampling(max_new_tokens=6, seed=0), "return_type": "tokens"}
    whole = lens.generate("Hello", **settings)
    with cl.ablate(lens, basis(lens, 0)):
        ablated = lens.generate("Hello", **settings)
    first, second = lens.generating("Hello", **settings), lens.generating("Hello", **settings)
    last: list[Any] = [[], []]
    for _ in range(6):
        last[0] = next(first, last[0])
        with cl.ablate(lens, basis(lens, 0)):  # what acts is what is open where the token is asked for
            last[1] = next(second, last[1])
        assert at_once(lambda: lens.generate("Hello", **settings)) == [whole]
    assert last == [whole, ablated] != [whole, whole]
    first.close()
    second.close()


def test_modes_of_a_model_in_training_are_right_in_both_threads_and_come_back():
    lens = cl.load(tiny_model(attention_dropout=0.5), tokenizer=tiny_tokenizer())
    expected = lens.generate(PROMPTS, max_new_tokens=6, seed=0)
    lens.model.train()
    work = lambda: [lens.generate(PROMPTS, max_new_tokens=6, seed=0) for _ in range(3)]  # noqa: E731
    assert at_once(work, work) == [[expected] * 3] * 2
    assert all(module.training for module in lens.model.modules())


def test_a_thread_of_pytorch_acts_for_the_one_that_has_hooks_and_asks_where_there_are_two(lens, monkeypatch):
    ids = torch.tensor([[1, 20, 30]])
    with torch.no_grad(), cl.ablate(lens, basis(lens, 0), roles=["user"]):
        with lens.roles_as(torch.full_like(ids, 2)):
            lens.model(input_ids=ids)

        def foreign() -> Any:
            turns.here().foreign = True  # as autograd's threads on an accelerator are
            with torch.no_grad():
                return lens.model(input_ids=ids).logits

        with lens.roles_as(torch.full((1, 3), cl_role("user"), dtype=torch.int8)):
            mine = lens.model(input_ids=ids).logits
            assert torch.equal(at_once(foreign)[0], mine)

        def two() -> Any:
            with cl.ablate(lens, basis(lens, 1)):
                return at_once(foreign)[0]

        assert isinstance(at_once(two)[0], Busy)
    assert not torch.equal(mine, lens.model(input_ids=ids).logits)


def cl_role(name: str) -> int:
    from caft_lens.text.roles import ROLES

    return ROLES[name]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.9}, {"num_beams": 2}], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_generation(settings, value):
    lens = tiny_lens()
    with torch.no_grad():
        lens.hf.get_output_embeddings().weight[5] = value
    with pytest.raises(Diverged, match=r"logits of tiny-llama are NaN or infinite in \d of \d rows"):
        lens.generate("Hello", max_new_tokens=3, **settings)
    if "num_beams" not in settings:
        with pytest.raises(Diverged):
            list(lens.generating("Hello", sampling=cl.Sampling(max_new_tokens=3, **settings)))


def test_logits_that_rule_a_token_out_are_no_fault(lens):
    with lens.hooks([]), torch.no_grad():
        forbidden = lens.generate("Hello", max_new_tokens=4, seed=0, bad_words_ids=[[7]], return_type="tokens")
    assert 7 not in forbidden
