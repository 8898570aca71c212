"""Sampling continuations for `Lens.generate` and `Lens.generating`.

What this adds to Hugging Face's `generate`: left padding, roles that hooks can see at every step, random numbers from a
seed that leave the global state alone, and sampling from the model's own distribution whatever the checkpoint's
generation config prefers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import fields
from queue import SimpleQueue
from threading import RLock, Thread
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria, TemperatureLogitsWarper, TopKLogitsWarper
from transformers.cache_utils import DynamicLayer

from caft_lens._support.blocks import Block, random_state
from caft_lens._support.errors import BadArgument, BadTemplate, BadType, Diverged
from caft_lens._support.keywords import elsewhere
from caft_lens._support.progress import progress
from caft_lens.model.architectures import evaluating
from caft_lens.model.combination import combined
from caft_lens.model.hooked import HookedModel
from caft_lens.model.nucleus import NucleusSampler
from caft_lens.model.partial_logits import Only
from caft_lens.model.sampling import Sampling
from caft_lens.model.turns import Held, here
from caft_lens.text.batching import Batch, collate
from caft_lens.text.documents import Text, documents
from caft_lens.text.encoding import Encoded, encoded
from caft_lens.text.rows import rows_of

PLAIN = ("use_cache", "cache_implementation", "eos_token_id", "pad_token_id", "stopping_criteria", "streamer")
"""Keywords of Hugging Face's `generate` beside which the random numbers can be the call's own."""
SHARING = {
    "max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "num_beams",
    "eos_token_id", "pad_token_id", "stopping_criteria", "streamer", "logits_processor",
}  # fmt: skip
"""Keywords of `generate` beside which prompts that are the same may be run once."""
UNLESS_TOLD = Sampling(max_new_tokens=64, temperature=1.0, batch_size=256)
_global_random = RLock()
"""Whoever seeds torch's global random state has it alone."""


def generate(
    lens: HookedModel,
    prompt: Any,
    chat: bool | None,
    return_type: Literal["str", "tokens"],
    sampling: Sampling,
    **keywords: Any,
) -> Any:
    """`Lens.generate` (arguments and result as there)."""
    rows: list[Any] = continue_prompts(lens, encode_prompts(lens, prompt, chat), sampling, **keywords)
    if return_type == "str":
        rows = _decoded(lens, rows)
    return rows[0] if isinstance(prompt, str | Text) else rows


def generating(
    lens: HookedModel, prompt: Any, chat: bool | None, return_type: Literal["str", "tokens"], sampling: Sampling
) -> Generator[Any, None, None]:
    """`Lens.generating` (arguments and result as there)."""
    steps = continuing_prompts(lens, encode_prompts(lens, prompt, chat), sampling)
    return _told(lens, steps, isinstance(prompt, str | Text), return_type)


def _told(
    lens: HookedModel, steps: Generator[Any, None, None], single: bool, return_type: Literal["str", "tokens"]
) -> Generator[Any, None, None]:
    rows: list[list[int]] = []
    before: list[Any] = []
    with closing(steps):
        for rows in steps:
            before = rows if return_type == "tokens" else [so_far(lens.need_tokenizer(), row) for row in rows]
            yield before[0] if single else before
    if return_type == "str":
        whole = _decoded(lens, rows)
        if whole != before:  # a last character stayed a part of one
            yield whole[0] if single else whole


def _decoded(lens: HookedModel, rows: list[list[int]]) -> list[str]:
    tokenizer = lens.need_tokenizer()
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def encode_prompts(lens: HookedModel, prompt: Any, chat: bool | None) -> list[Encoded]:
    """What `Lens.generate` takes, as tokens: chats with the header of an answer, without the answer they may have."""
    if isinstance(prompt, Batch):
        keep = prompt.attention_mask.bool()
        return [
            Encoded(ids[row].tolist(), roles[row].cpu().numpy(), np.zeros(int(row.sum()), bool))
            for ids, roles, row in zip(prompt.input_ids, prompt.roles, keep, strict=True)
        ]
    tokenizer = lens.need_tokenizer()
    if chat and not tokenizer.chat_template:
        raise BadTemplate(f"chat=True, but the tokenizer of {lens.name} has no chat template.")
    chat = bool(tokenizer.chat_template) if chat is None else chat
    return list(encoded(tokenizer, [text.prompt for text in questions_of(prompt, chat)], add_generation_prompt=True))


def questions_of(prompt: Any, chat: bool) -> Iterator[Text]:
    """What `Lens.generate` takes, as documents: a string is a question to a chat model, else plain text."""
    rows = rows_of([prompt] if isinstance(prompt, str | Text) else prompt)
    return documents((where, {"prompt": row} if chat and isinstance(row, str) else row) for where, row in rows)


def continue_prompts(
    lens: HookedModel, prompts: Sequence[Encoded], sampling: Sampling, **keywords: Any
) -> list[list[int]]:
    """The new tokens after each prompt, in the order of the prompts (arguments as for `Lens.generate`)."""
    told = sampling.over(UNLESS_TOLD)
    temperature, seed = told.temperature or 0.0, told.seed
    _check_room(lens, prompts, told)
    settings = {
        "max_new_tokens": told.max_new_tokens, "do_sample": temperature > 0, "temperature": temperature or 1.0,
        "top_p": told.top_p or 1.0, "top_k": told.top_k or 0, "repetition_penalty": 1.0, "num_beams": 1, **keywords,
    }  # fmt: skip
    alone: Any = nullcontext()
    if settings["do_sample"] and seed is not None and set(keywords) <= set(PLAIN):
        # The random numbers that the global ones would be, drawn from a generator: other threads may draw meanwhile.
        generator = torch.Generator(lens.device).manual_seed(seed)
        settings = _drawn(settings, _draws(temperature, told.top_p, told.top_k, generator))
    else:
        if settings["do_sample"] and settings["top_p"] < 1 and settings["num_beams"] == 1:
            drawing = _draws(settings["temperature"], settings["top_p"], settings["top_k"] or None, None)
            settings = _drawn(settings, drawing)
        alone = nullcontext() if seed is None else Held(_global_random)
    # Longest first: alike lengths waste no padding, and what does not fit into memory fails at once.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].input_ids))
    size = told.batch_size or len(order)
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    answers: dict[int, list[int]] = {}
    seeded = random_state(seed, lens.device) if isinstance(alone, Held) else nullcontext()
    bar = progress(total=len(prompts), desc="generating", unit="answer", show=len(parts) > 1)
    with alone, seeded, bar:
        for part in parts:
            try:
                with evaluating(lens.model):
                    new = _continue_batch(lens, [prompts[i] for i in part], settings)
            except ValueError as error:
                _check_known(lens, keywords, error)
                raise
            answers.update(zip(part, new, strict=True))
            bar.update(len(part))
    return [answers[i] for i in range(len(prompts))]


def _check_known(lens: HookedModel, keywords: Mapping[str, Any], error: ValueError) -> None:
    """Say the nearest of a keyword that neither Hugging Face's `generate` nor the model has, as its `error` says."""
    stray = [name for name in keywords if f"'{name}'" in str(error)]
    if "`model_kwargs`" in str(error) and stray:
        known = [*(one.name for one in fields(Sampling)), *lens.hf.generation_config.to_dict()]
        raise BadType(f'generate() has no "{stray[0]}".{elsewhere(stray[0], known)}') from error


def continuing_prompts(
    lens: HookedModel, prompts: Sequence[Encoded], sampling: Sampling
) -> Generator[list[list[int]], None, None]:
    """The new tokens after each prompt so far, every time that there is one more; at last those of `continue_prompts`.

    Hugging Face's `generate` runs in a thread, one step each time that the iterator is asked for more, so that several
    such iterators (over lenses of their own) can be asked in turn; closing one ends its thread. All prompts run at
    once, in one batch.
    """
    told = sampling.over(UNLESS_TOLD)
    _check_room(lens, prompts, told)
    settings: dict[str, Any] = {
        "max_new_tokens": told.max_new_tokens, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
        "repetition_penalty": 1.0, "num_beams": 1,
    }  # fmt: skip
    if told.temperature:
        generator = None if told.seed is None else torch.Generator(lens.device).manual_seed(told.seed)
        settings["logits_processor"] = _draws(told.temperature, told.top_p, told.top_k, generator)
    return _steps(lens, prompts, settings)


def _steps(
    lens: HookedModel, prompts: Sequence[Encoded], settings: Mapping[str, Any]
) -> Generator[list[list[int]], None, None]:
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].input_ids))
    ends = end_tokens(lens)
    before: list[list[int]] | None = None
    with _Worker(lens, [prompts[i] for i in order], settings) as worker:
        while (rows := worker.next()) is not None:
            found = dict(zip(order, (_until_end(row, ends) for row in rows), strict=True))
            now = [found[i] for i in range(len(prompts))]
            if now != before:
                before = now
                yield now


class _Worker(Block["_Worker"]):
    """A thread that generates a batch, a token whenever it is asked for one; it is gone when the block is over."""

    def __init__(self, lens: HookedModel, prompts: Sequence[Encoded], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self._lens, self._prompts, self._settings = lens, prompts, settings
        self._said: SimpleQueue[list[list[int]] | BaseException | None] = SimpleQueue()
        self._more: SimpleQueue[bool] = SimpleQueue()
        self._mode = evaluating(lens.model)
        self._asking = here()
        self._thread = Thread(target=self._run, name=f"generating with {lens.name}", daemon=True)

    def begin(self) -> _Worker:
        self._thread.start()
        return self

    def undo(self, error: BaseException | None) -> None:
        self._more.put(False)
        if self._thread.ident is not None:
            self._thread.join()

    def next(self) -> list[list[int]] | None:
        """The new tokens after one more step; `None` when there are no more."""
        self._asking = here()  # the hooks that act are those of whoever asks
        self._more.put(True)
        rows = self._said.get()
        if isinstance(rows, BaseException):
            raise rows
        return rows

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            if self._more.get():
                here().acts_for = self._asking
                self._mode.__enter__()
                try:
                    stepping = {"stopping_criteria": [_EveryStep(self._step)]}
                    _continue_batch(self._lens, self._prompts, {**self._settings, **stepping})
                finally:
                    self._mode.__exit__(None, None, None)
        except BaseException as error:  # it belongs to whoever asks for the tokens
            end = error
        self._said.put(end)

    def _step(self, rows: list[list[int]]) -> bool:
        self._mode.__exit__(None, None, None)  # between two tokens the model is everyone's
        self._said.put(rows)
        try:
            return self._more.get()
        finally:
            here().acts_for = self._asking
            self._mode.__enter__()


class _EveryStep(StoppingCriteria):
    """Tells the new tokens after every step of `generate`, and ends it when the answer is no."""

    def __init__(self, step: Callable[[list[list[int]]], bool]) -> None:
        self._step, self._before, self._going = step, 0, True

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self._before = self._before or input_ids.shape[1] - 1
        # On some devices transformers notices the end one step late.
        self._going = self._going and self._step(input_ids[:, self._before :].tolist())
        return torch.full((len(input_ids),), not self._going, device=input_ids.device)


def so_far(tokenizer: Any, tokens: Sequence[int]) -> str:
    """What new tokens say, up to a last character of which only a part is there yet."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).rstrip("\N{REPLACEMENT CHARACTER}")


def _drawn(settings: Mapping[str, Any], drawing: Sequence[LogitsProcessor]) -> dict[str, Any]:
    """The same sampling, by what makes `generate(do_sample=False)` draw."""
    others = settings.get("logits_processor") or []
    greedy = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    return {**settings, **greedy, "logits_processor": [*others, *drawing]}


def _draws(
    temperature: float, top_p: float | None, top_k: int | None, generator: torch.Generator | None
) -> list[LogitsProcessor]:
    """What makes `generate(do_sample=False)` sample, with random numbers from a generator or torch's global ones."""
    if top_p is not None and top_p < 1:
        return [NucleusSampler(top_p, temperature, top_k, generator)]
    only = [TopKLogitsWarper(top_k)] if top_k else []
    return [TemperatureLogitsWarper(float(temperature)), *only, _Draw(generator)]


class _Draw(LogitsProcessor):
    """Scores of which the argmax is the token that transformers would sample, with random numbers from a generator."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self._generator = generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn = torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


class _Finite(LogitsProcessor, StoppingCriteria):
    """Looks at the logits of every step: where they are NaN or infinite, generating ends.

    On an accelerator looking would wait: there what was found ends the rows that it is about, and is told at the end.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bad: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any) -> Tensor:
        if not isinstance(scores, Tensor):  # a step is over, and the question is which rows end
            known = self._bad is not None and len(self._bad) == len(input_ids)
            return self._bad if known else torch.zeros_like(input_ids[:, 0], dtype=torch.bool)  # type: ignore[return-value]
        # The largest is NaN where any is. A token that may not come has -inf, which is no fault.
        bad = ~torch.isfinite(scores.amax(dim=-1))
        self._bad = bad if self._bad is None else self._bad | bad
        if scores.device.type == "cpu":
            self.check()
            return scores
        return torch.where(bad[:, None], 0.0, scores)  # what is drawn from next must be a distribution

    def check(self) -> None:
        """End with what was found, where anything was."""
        if self._bad is not None and (bad := int(self._bad.sum())):
            raise Diverged(
                f"The logits of {self._name} are NaN or infinite in {bad} of {len(self._bad)} rows, so there is "
                "nothing to sample from. Are the weights whole, and what acts at its hook points finite? In float16 "
                "try bfloat16 or float32."
            )


def _continue_batch(lens: HookedModel, prompts: Sequence[Encoded], settings: Mapping[str, Any]) -> list[list[int]]:
    batch = collate(prompts, lens.padding, "left")
    if combined(lens.hf) and settings.get("num_beams", 1) != 1:
        raise BadArgument(f"{lens.name} answers together with other models, which cannot search in beams: num_beams=1.")
    ends, finite = end_tokens(lens), _Finite(lens.name)
    first = {"logits_processor": [finite, *(settings.get("logits_processor") or [])]}
    looking = {"stopping_criteria": [*(settings.get("stopping_criteria") or []), finite]}
    shared = _prefilled(lens, prompts) if set(settings) <= SHARING and settings.get("num_beams", 1) == 1 else None
    cached = {} if shared is None else {"past_key_values": shared}
    with lens.roles_as(batch.roles, growing=True):
        tokens = lens.model.generate(
            input_ids=batch.input_ids.to(lens.device),
            attention_mask=batch.attention_mask.to(lens.device),
            **{"eos_token_id": ends or None, "pad_token_id": lens.padding, **settings, **first, **looking, **cached},
        )
    finite.check()
    new = tokens[:, batch.input_ids.shape[1] :].tolist()
    return [_until_end(row, ends) for row in new]


@torch.no_grad()
def _prefilled(lens: HookedModel, prompts: Sequence[Encoded]) -> DynamicCache | None:
    """A cache of all tokens but the last of prompts of which some are the same, each of which is run once.

    Returns:
        The cache, a row for each prompt; `None` where there is little to share, or the cache is of another kind.
    """
    if combined(lens.hf):
        return None  # the caches of the other models are not shared
    numbers: dict[tuple[tuple[int, ...], bytes], int] = {}
    keys = [(tuple(prompt.input_ids), prompt.roles.tobytes()) for prompt in prompts]
    which = [numbers.setdefault(key, len(numbers)) for key in keys]
    if len(numbers) > len(prompts) / 2 or min(len(prompt.input_ids) for prompt in prompts) < 2:
        return None
    batch = collate([prompts[which.index(number)] for number in range(len(numbers))], lens.padding, "left")
    # The last token is generate's: it gives the first logits. The head has nothing to do here but at one token.
    call = {
        "input_ids": batch.input_ids[:, :-1].to(lens.device),
        "attention_mask": batch.attention_mask[:, :-1].to(lens.device),
        "use_cache": True,
    }
    if "position_ids" in inspect.signature(lens.hf.forward).parameters:
        call["position_ids"] = batch.position_ids[:, :-1].to(lens.device)
    with lens.roles_as(batch.roles[:, :-1]), Only(lens, torch.zeros(1, dtype=torch.long)):
        cache = lens.model(**call).past_key_values
    if type(cache) is not DynamicCache or not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
        return None
    cache.batch_select_indices(torch.tensor(which, device=lens.device))
    return cache


def _until_end(row: list[int], ends: Sequence[int]) -> list[int]:
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]


def _check_room(lens: HookedModel, prompts: Sequence[Encoded], sampling: Sampling) -> None:
    new = sampling.max_new_tokens or 0
    room = getattr(lens.hf.config.get_text_config(), "max_position_embeddings", None)
    longest = max((len(prompt.input_ids) for prompt in prompts), default=0)
    if room and longest + new > room:
        raise BadArgument(
            f"A prompt of {longest} tokens and max_new_tokens={new} exceed the {room} positions of {lens.name}."
        )


def end_tokens(lens: HookedModel) -> list[int]:
    """The tokens that end a text: the checkpoint's generation config and the tokenizer say so."""
    ends: list[int] = []
    for one in (lens.hf.generation_config, lens.tokenizer):
        value = getattr(one, "eos_token_id", None)
        ends += [value] if isinstance(value, int) else list(value or [])
    return list(dict.fromkeys(ends))
