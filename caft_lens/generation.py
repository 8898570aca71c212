"""Sampling continuations: prompts to tokens, batches by length, Hugging Face's `generate`, tokens back in order.

`Lens.generate` is the way in. What this adds to Hugging Face's: left padding, roles that hooks can see at every step,
random numbers from a seed that leave the global state alone, and sampling from the model's own distribution whatever the
checkpoint's generation config prefers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from caft_lens.architectures import evaluating
from caft_lens.progress import progress
from caft_lens.text import Batch, Encoded, Message, Text, collate, encoded, padding_id

if TYPE_CHECKING:
    from caft_lens.lens import Lens


def encode_prompts(lens: Lens, prompt: Any, chat: bool | None) -> list[Encoded]:
    """What `Lens.generate` takes, as tokens: chats with the header of an answer, without the answer they may have."""
    if isinstance(prompt, Batch):
        keep = prompt.attention_mask.bool()
        return [
            Encoded(ids[row].tolist(), roles[row].cpu().numpy(), np.zeros(int(row.sum()), bool))
            for ids, roles, row in zip(prompt.input_ids, prompt.roles, keep, strict=True)
        ]
    tokenizer = lens.need_tokenizer()
    if chat and not tokenizer.chat_template:
        raise ValueError(f"chat=True, but the tokenizer of {lens.name} has no chat template.")
    chat = bool(tokenizer.chat_template) if chat is None else chat
    texts = [
        item
        if isinstance(item, Text)
        else Text(messages=(Message("user", item),))
        if chat
        else Text(text=item)
        for item in ([prompt] if isinstance(prompt, str | Text) else prompt)
    ]
    return list(encoded(tokenizer, (text.prompt for text in texts), add_generation_prompt=True))


def continue_prompts(
    lens: Lens,
    prompts: Sequence[Encoded],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    batch_size: int,
    **keywords: Any,
) -> list[list[int]]:
    """The new tokens after each prompt, in the order of the prompts (arguments as for `Lens.generate`)."""
    _check_room(lens, prompts, max_new_tokens)
    settings = {
        "max_new_tokens": max_new_tokens, "do_sample": temperature > 0, "temperature": temperature or 1.0,
        "top_p": top_p or 1.0, "top_k": top_k or 0, "repetition_penalty": 1.0, "num_beams": 1, **keywords,
    }  # fmt: skip
    if settings["do_sample"] and settings["top_p"] < 1 and settings["num_beams"] == 1:
        settings = _by_nucleus(settings)
    # Longest first: alike lengths waste no padding, and what does not fit into memory fails at once.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].input_ids))
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    answers: dict[int, list[int]] = {}
    with seeded(seed, lens.device), evaluating(lens.model):
        for part in progress(parts, desc="generating", unit="batch", show=len(parts) > 1):
            answers.update(
                zip(part, _continue_batch(lens, [prompts[i] for i in part], settings), strict=True)
            )
    return [answers[i] for i in range(len(prompts))]


def _by_nucleus(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same sampling, drawn by `NucleusSampler` instead of Hugging Face's sorting."""
    from caft_lens.nucleus import NucleusSampler

    sampler = NucleusSampler(settings["top_p"], settings["temperature"], settings["top_k"] or None)
    others = settings.get("logits_processor") or []
    greedy = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    return {**settings, **greedy, "logits_processor": [*others, sampler]}


def _continue_batch(lens: Lens, prompts: Sequence[Encoded], settings: Mapping[str, Any]) -> list[list[int]]:
    pad = padding_id(lens.tokenizer) if lens.tokenizer is not None else 0
    batch = collate(prompts, pad, "left")
    ends = _ends(lens.hf, lens.tokenizer)
    with lens.roles_as(batch.roles, growing=True):
        tokens = lens.model.generate(
            input_ids=batch.input_ids.to(lens.device),
            attention_mask=batch.attention_mask.to(lens.device),
            **{"eos_token_id": ends or None, "pad_token_id": pad, **settings},
        )
    new = tokens[:, batch.input_ids.shape[1] :].tolist()
    return [row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))] for row in new]


def _check_room(lens: Lens, prompts: Sequence[Encoded], max_new_tokens: int) -> None:
    room = getattr(lens.hf.config.get_text_config(), "max_position_embeddings", None)
    longest = max((len(prompt.input_ids) for prompt in prompts), default=0)
    if room and longest + max_new_tokens > room:
        raise ValueError(
            f"A prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed the {room} positions of {lens.name}."
        )


def _ends(hf: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a text: the checkpoint's generation config and the tokenizer say so."""
    ends: list[int] = []
    for value in (
        getattr(hf.generation_config, "eos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    ):
        ends += [value] if isinstance(value, int) else list(value or [])
    return list(dict.fromkeys(ends))


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` while a block is open, and the global random state as before at its end."""
    if seed is None:
        yield
        return
    if device.type in ("cuda", "mps", "xpu"):
        fork = torch.random.fork_rng(devices=[device], device_type=device.type)
    else:
        fork = torch.random.fork_rng(devices=[])
    with fork:
        torch.manual_seed(seed)
        yield
