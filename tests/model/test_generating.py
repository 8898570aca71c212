"""Answers that are seen as they grow: at last they are what `generate` gives, and whoever stops asking leaves
nothing behind.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_lens, tiny_tokenizer

import caft_lens as cl
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model import generation
from caft_lens.model.generation import so_far

PROMPTS = ["Hello there", "Hi", "What is it, by the sea?"]
SAMPLING = {
    "greedy": {"temperature": 0},
    "all": {},
    "warm": {"temperature": 0.6},
    "nucleus": {"top_p": 0.8},
    "top-k": {"top_k": 5},
    "all three": {"temperature": 1.3, "top_p": 0.9, "top_k": 20},
}


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    return tiny_lens()


def concepts(lens: cl.Lens) -> ConceptSet:
    direction = torch.randn(lens.d_model, generator=torch.Generator().manual_seed(1))
    return ConceptSet([Concept("L0.x", "blocks.0.hook_resid_post", direction)]).for_model(lens)


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("generating")]


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=SAMPLING)
@pytest.mark.parametrize("seed", [0, 7])
def test_the_last_is_what_generate_gives_with_the_same_seed(lens, sampling, seed):
    settings = {"sampling": cl.Sampling(max_new_tokens=12, seed=seed, **sampling)}
    for prompt in (PROMPTS, PROMPTS[0], cl.Text.from_json({"prompt": "Hi"}), cl.Text(text="Once")):
        assert list(lens.generating(prompt, **settings))[-1] == lens.generate(prompt, **settings)
    tokens = list(lens.generating(PROMPTS, return_type="tokens", **settings))
    assert tokens[-1] == lens.generate(PROMPTS, return_type="tokens", **settings)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_grows_as_it_generates(architecture):
    lens = tiny_lens(architecture)
    settings = {"sampling": cl.Sampling(max_new_tokens=10, seed=3), "return_type": "tokens"}
    with cl.ablate(lens, concepts(lens), roles=["assistant"]):
        assert list(lens.generating(PROMPTS, **settings))[-1] == lens.generate(PROMPTS, **settings)


def test_answers_grow_by_a_token_until_each_has_ended(lens):
    seen = list(lens.generating(PROMPTS, sampling=cl.Sampling(max_new_tokens=40, seed=1), return_type="tokens"))
    for before, after in pairwise(seen):
        assert all(new[: len(old)] == old and len(new) <= len(old) + 1 for old, new in zip(before, after, strict=True))
        assert before != after
    assert [len(row) for row in seen[0]] == [1, 1, 1]


def test_leaving_early_ends_the_thread_and_leaves_the_model_as_it_was(lens):
    whole = lens.generate("Hello", max_new_tokens=30, seed=2)
    for answer in lens.generating("Hello", sampling=cl.Sampling(max_new_tokens=30, seed=2)):
        if len(answer) > 3:
            break
    assert whole.startswith(answer)
    assert answer != whole
    asked = lens.generating("Hello", sampling=cl.Sampling(max_new_tokens=30, seed=2))
    next(asked)
    assert len(threads()) == 1
    asked.close()
    assert not threads()
    assert lens.current_roles is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lens.model.modules())
    assert lens.generate("Hello", max_new_tokens=30, seed=2) == whole


def test_several_asked_in_turn_are_as_each_alone_whatever_else_draws_random_numbers(lens):
    forks = [lens.fork(), lens.fork()]
    asked = [
        fork.generating("Hello", sampling=cl.Sampling(max_new_tokens=20, seed=seed)) for seed, fork in enumerate(forks)
    ]
    torch.manual_seed(5)
    drawn = []
    last = [None, None]
    for _ in range(20):
        drawn.append(torch.rand(()))
        last = [next(one, before) for one, before in zip(asked, last, strict=True)]
    assert last == [lens.generate("Hello", max_new_tokens=20, seed=seed) for seed in (0, 1)]
    torch.manual_seed(5)
    assert drawn == [torch.rand(()) for _ in range(20)]


def test_without_a_seed_random_numbers_are_the_global_ones(lens):
    torch.manual_seed(9)
    first = list(lens.generating("Hello", sampling=cl.Sampling(max_new_tokens=12)))[-1]
    torch.manual_seed(9)
    assert lens.generate("Hello", max_new_tokens=12) == first


def test_what_goes_wrong_in_a_step_is_raised_where_the_tokens_are_asked_for(lens):
    def fail(x, hook):
        raise ArithmeticError("on purpose")

    with lens.hooks([(1, fail)]), pytest.raises(ArithmeticError, match="on purpose"):
        next(lens.generating("Hello"))
    assert not threads()
    with pytest.raises(ValueError, match="exceed the 256 positions"):
        lens.generating("Hello", sampling=cl.Sampling(max_new_tokens=1000))  # at once, before any token is asked for


def test_part_of_a_character_is_held_back_until_the_rest_is_there():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("aé€", add_special_tokens=False).input_ids
    assert [so_far(tokenizer, ids[:n]) for n in range(len(ids) + 1)] == [
        "",
        "a",
        "a",
        "aé",
        "aé",
        "aé",
        "aé€",
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_several_answers_to_one_prompt_are_those_of_prompts_run_apart_and_run_its_tokens_once(
    architecture, monkeypatch
):
    lens = tiny_lens(architecture)
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    rows = []
    handle = lens.anatomy.blocks[0].register_forward_pre_hook(
        lambda _, args, keywords: rows.append(tuple((args[0] if args else keywords["hidden_states"]).shape[:2])),
        with_kwargs=True,
    )
    for roles in (None, ["assistant"], ["user"]):
        for sampling in ({"temperature": 0}, {"seed": 1, "top_p": 0.8}):
            settings = {"max_new_tokens": 10, "return_type": "tokens", **sampling}
            with cl.ablate(lens, concepts(lens), roles=roles):
                rows.clear()
                found = lens.generate(prompts, **settings)
                first, then = rows[:2]
                assert (first[0], then) == (len(PROMPTS), (len(prompts), 1))
                with monkeypatch.context() as patched:
                    patched.setattr(generation, "_prefilled", lambda *_: None)
                    assert lens.generate(prompts, **settings) == found
    handle.remove()
    rows.clear()


def test_prompts_that_differ_in_roles_alone_or_are_few_are_run_apart():
    lens = tiny_lens()
    chat = cl.Text.from_json({"prompt": "Hi"})
    (item,) = generation.encode_prompts(lens, chat, None)
    assert generation._prefilled(lens, [item, item]) is not None
    others = [replace(item, roles=item.roles * 0), item]
    assert generation._prefilled(lens, others) is None
    assert generation._prefilled(lens, [item]) is None
