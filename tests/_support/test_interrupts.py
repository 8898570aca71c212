"""Ctrl-C at whatever moment leaves no hook, no role, no mode behind: lines of the library are tried one by one."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack

import pytest
import torch
from interrupts import state, walk
from tiny_models import tiny_lens

import caft_lens as cl
from caft_lens._support import blocks
from caft_lens._support.blocks import Block, block
from caft_lens.activations.capture import captured
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.concepts.interventions import intervene
from caft_lens.model.attach import fired
from caft_lens.text.batching import Scan
from caft_lens.text.batching import batches as in_batches

TEXTS = cl.Texts([{"prompt": "Hi", "answer": "by the sea"}, {"text": "zebra"}])


@pytest.fixture
def lens() -> cl.Lens:
    lens = tiny_lens()
    lens.model.train()
    lens.hf.get_input_embeddings().training = False  # a mode of its own, which must come back too
    return lens


def concepts(lens: cl.Lens) -> ConceptSet:
    generator = torch.Generator().manual_seed(1)
    sites = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.1.hook_resid_pre"]
    return ConceptSet(
        Concept(f"c{i}", site, torch.randn(lens.d_model, generator=generator)) for i, site in enumerate(sites)
    ).for_model(lens)


def generate(lens: cl.Lens) -> None:
    lens.generate(["Hello", "Hi"], max_new_tokens=2, seed=0, batch_size=1)


def generate_from_the_global_state(lens: cl.Lens) -> None:
    lens.generate("Hi", max_new_tokens=1, seed=0, typical_p=0.9)


def growing(lens: cl.Lens) -> None:
    for _ in lens.generating("Hi", sampling=cl.Sampling(max_new_tokens=2, seed=0)):
        pass


def cache(lens: cl.Lens) -> None:
    lens.run_with_cache("Hello", names_filter=[0, 1], stop_at_layer=2)


def capture(lens: cl.Lens) -> None:
    packed = in_batches(lens.need_tokenizer(), TEXTS, scan=Scan(12))
    for _ in captured((lens,), packed, ["blocks.0.hook_resid_post"], None):
        pass


def ablate(lens: cl.Lens) -> None:
    with cl.ablate(lens, {0: torch.eye(lens.d_model)[:, :1]}, roles=["user"]), torch.no_grad():
        lens(TEXTS[0])


CONCEPTS = concepts(tiny_lens())


def many(lens: cl.Lens) -> None:
    with (
        fired(lens, [0]),
        intervene(lens, CONCEPTS, {"c0": "ablate", "c1": 2.0, "c2": -1.0}),
        torch.no_grad(),
    ):
        lens("Hi")


ACTIVITIES = [generate, generate_from_the_global_state, growing, cache, capture, ablate, many]


# Every so manyth line, from a start of its own: a number without divisors in common with what repeats.
@pytest.mark.parametrize("start", [1, 6])
@pytest.mark.parametrize("do", ACTIVITIES, ids=lambda do: do.__name__)
def test_an_interrupt_at_any_line_leaves_nothing_behind(lens, do, start):
    with torch.no_grad():
        plain = lens("Hello")
    do(lens)
    before = state(lens)
    kept, at, tried = None, start, 0
    while True:
        lines, kept = walk(lambda: do(lens), at)  # kept, as a notebook keeps the last traceback
        left = {name: value for name, value in state(lens).items() if value != before[name]}
        assert not left, f"an interrupt at line {at} left {left}"
        tried += kept is not None
        if lines < at:
            break
        at += 53
    assert tried > 10
    del kept
    with torch.no_grad():
        assert torch.equal(lens("Hello"), plain)


def test_an_interrupted_fine_tuning_leaves_the_model_as_it_was_and_can_be_repeated(lens, tmp_path):
    lens.model.eval()
    kept = CONCEPTS.choose({"c0": "a test"})

    def tune(name: str) -> None:
        cl.finetune(lens, TEXTS, cl.TrainSettings(epochs=1, batch_size=1), ablate=kept, out=tmp_path / name, seed=0)

    tune("whole")
    before, prints = state(lens), lens.fingerprint
    whole, _ = walk(lambda: tune("counted"), 10**9)
    for tenth in (4, 7, 9):
        _, interrupt = walk(lambda: tune("interrupted"), whole * tenth // 10)
        assert interrupt is not None
        assert state(lens) == before
        assert lens.fingerprint == prints
    tune("interrupted")
    runs = [cl.Run.load(tmp_path / name, lens) for name in ("whole", "interrupted")]
    assert runs[0].lens.fingerprint == runs[1].lens.fingerprint


class Log(Block[list]):
    def __init__(self, log: list[str], name: str) -> None:
        super().__init__()
        self.log, self.name = log, name

    def begin(self) -> list[str]:
        self.log.append(self.name)
        return self.log

    def undo(self, error: BaseException | None) -> None:
        if self.name in self.log:
            self.log.remove(self.name)


@block
def both(log: list[str]):
    with Log(log, "a"), Log(log, "b"):
        yield log


def nested(log: list[str]) -> None:
    with Log(log, "c"), both(log) as same:
        same.append("d")
        log.remove("d")


@pytest.mark.parametrize("kind", ["with", "decorator"])
def test_a_block_is_over_when_its_with_is_over_also_between_two_steps_of_the_machinery(kind):
    log: list[str] = []

    def do() -> None:
        if kind == "with":
            nested(log)
        else:
            both(log)(lambda: None)()

    at, kept = 1, []
    while True:
        lines, interrupt = walk(do, at, lambda file: file in (blocks.__file__, contextlib.__file__))
        kept.append(interrupt)
        assert not log, at
        if lines < at:
            break
        at += 1
    assert at > 40


def test_what_ends_a_block_is_raised_or_swallowed_as_usual_and_it_may_be_opened_again():
    log: list[str] = []
    opened = both(log)
    for _ in range(2):
        with opened:
            assert log == ["a", "b"]
        assert log == []
        with pytest.raises(ZeroDivisionError), opened:
            1 / 0  # noqa: B018
        assert log == []
    with ExitStack() as stack:
        stack.enter_context(opened)
        assert log == ["a", "b"]
    assert log == []
    assert hasattr(opened, "__exit__")  # looking is not leaving
    with opened:
        assert hasattr(opened, "__exit__")
        assert log == ["a", "b"]
    assert log == []


def test_cleanup_that_is_interrupted_again_and_again_comes_to_its_end():
    class Slow(Block[None]):
        tries = 0

        def begin(self) -> None: ...

        def undo(self, error: BaseException | None) -> None:
            self.tries += 1
            if self.tries < 5:
                raise KeyboardInterrupt

    slow = Slow()
    with pytest.raises(KeyboardInterrupt), slow:
        pass
    assert slow.tries == 5
