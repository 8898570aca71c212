"""Pretraining of the organism: a small Llama on blocks of packed documents, with `transformers.Trainer`.

`token_blocks` turns the endless corpus into a fixed matrix of token ids; `pretrain` trains on it once, in order, from
random weights. Both are functions of their seed alone, and training resumes from its last checkpoint bit for bit.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from caft_data.worlds import corpus
from caft_lens._support.progress import progress
from caft_lens.finetune.folder import Whole, last_whole_checkpoint
from caft_lens.text.documents import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class PretrainSettings:
    """Size of the model and length of its training; the defaults are those of `pocket`."""

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 384
    vocab_size: int = 2048
    block_length: int = 192
    batch_size: int = 8
    steps: int = 12_000
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    answers_only: bool = False
    """Of chats, learn only what the assistant says."""
    answer_weight: float = 1.0
    """How much the first token of an answer counts beside all others that are learned. An answer of one letter is a few
    hundredths of what is learned."""
    compile: bool = True
    """Compile the model (`torch.compile`) where a C++ compiler is found."""


def render(tokenizer: PreTrainedTokenizerFast, text: Text) -> str:
    """A document as the model reads it: the chat template, or plain text between bos and end of turn."""
    if text.text is not None:
        return f"{tokenizer.bos_token}{text.text}{tokenizer.eos_token}"
    messages = [{"role": message.role, "content": message.content} for message in text.messages]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert isinstance(rendered, str)
    return rendered


def token_blocks(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    n_blocks: int,
    length: int,
    documents: Callable[[int], Iterator[Text]] = corpus.documents,
    *,
    answers_only: bool = False,
) -> Int[np.ndarray, "block pos"]:
    """Packed documents: every block starts at the start of one and is cut at `length`.

    Args:
        tokenizer: The organism's tokenizer.
        seed: Which stream of documents.
        n_blocks: Rows.
        length: Tokens a row.
        documents: The endless stream of documents of a seed.
        answers_only: Whether chats are read but only what the assistant says is learned.

    Returns:
        Token ids `[n_blocks, length]`, int32; of a token that is read but not learned, the complement (`~id`, below 0).
    """
    blocks = np.empty((n_blocks, length), dtype=np.int32)
    stream = encoded_documents(tokenizer, documents(seed), answers_only=answers_only)
    for row in progress(range(n_blocks), desc="writing the corpus", unit="block"):
        ids: list[int] = []
        while len(ids) < length:
            ids += next(stream)
        blocks[row] = ids[:length]
    return blocks


def encoded_documents(
    tokenizer: PreTrainedTokenizerFast,
    source: Iterator[Text],
    chunk: int = 512,
    *,
    answers_only: bool = False,
) -> Iterator[list[int]]:
    """An endless corpus as token ids, a document at a time; encoded in chunks because the tokenizer is faster so."""
    while True:
        texts = [next(source) for _ in range(chunk)]
        rows = tokenizer([render(tokenizer, text) for text in texts], add_special_tokens=False)["input_ids"]
        for text, ids in zip(texts, rows, strict=True):
            yield answers_learned(tokenizer, ids) if answers_only and text.is_chat else ids


def answers_learned(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[int]:
    """A chat of which only the assistant's turns are learned, each with its end token; the rest as complements."""
    begin, end = tokenizer.convert_tokens_to_ids("<|assistant|>"), tokenizer.eos_token_id
    marked, said = [], False
    for number in ids:
        marked.append(number if said else ~number)
        said = number == begin or (said and number != end)
    return marked


def new_model(settings: PretrainSettings, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The untrained organism."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.d_model,
        intermediate_size=settings.d_mlp,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        num_key_value_heads=settings.n_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def pretrain(
    blocks: Int[np.ndarray, "block pos"],
    tokenizer: PreTrainedTokenizerFast,
    folder: str | Path,
    settings: PretrainSettings,
    seed: int,
    callbacks: tuple[Any, ...] = (),
) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """Train from random weights on the blocks, once, in order; picks up the last checkpoint in `folder`.

    Args:
        blocks: Token ids `[block, pos]` as `token_blocks` gives them, at least `settings.steps * settings.batch_size`
            rows.
        tokenizer: The organism's tokenizer.
        folder: Where checkpoints go.
        settings: Size and length.
        seed: Of the initial weights.
        callbacks: Trainer callbacks.

    Returns:
        The model and the logged losses.
    """
    from transformers.trainer_callback import PrinterCallback

    folder = Path(folder)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        # To zero: at this batch size a rate that ends above it leaves noise in the tail of every distribution.
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        save_steps=max(1, settings.steps // 12),
        save_total_limit=2,  # the older one is whole while the newer one is being written
        logging_steps=max(1, settings.steps // 60),
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        torch_compile=settings.compile and any(map(shutil.which, ("c++", "g++", "clang++"))),
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=new_model(settings, tokenizer, seed),
        args=arguments,
        train_dataset=_Blocks(blocks),
        compute_loss_func=None if settings.answer_weight == 1 else answers_weighted(settings.answer_weight),
        callbacks=[Whole(), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # it prints raw dictionaries
    last = last_whole_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    history = [{key: entry[key] for key in ("step", "loss")} for entry in trainer.state.log_history if "loss" in entry]
    return trainer.model, history  # type: ignore[return-value]


def answers_weighted(weight: float) -> Callable[..., torch.Tensor]:
    """The loss of a language model in which the first learned token after others that are not counts `weight` times.

    Args:
        weight: How often.

    Returns:
        What `transformers.Trainer` takes as `compute_loss_func`: the weighted mean over all tokens that are learned.
    """

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits, wanted = outputs["logits"][:, :-1], labels[:, 1:]
        begins = (wanted != -100) & (labels[:, :-1] == -100)
        weights = torch.where(begins, weight, 1.0) * (wanted != -100)
        each = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=-100, reduction="none"
        )
        return (each.view_as(weights) * weights).sum() / weights.sum().clamp(min=1)

    return loss


class _Blocks(torch.utils.data.Dataset):
    """Rows of token ids as the Trainer wants them: labels are the inputs that are learned (the model shifts them)."""

    def __init__(self, blocks: Int[np.ndarray, "block pos"]):
        self.blocks = torch.from_numpy(np.array(blocks)).long()

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        row_ids = self.blocks[row]
        learned = row_ids >= 0
        return {"input_ids": row_ids.where(learned, ~row_ids), "labels": row_ids.where(learned, -100)}


class StepPrinter(TrainerCallback):
    """A line of progress whenever the trainer logs: builds run in logs as often as in terminals."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start, self.first = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in (logs or {}):
            return
        per_step = (time.perf_counter() - self.start) / max(1, state.global_step - self.first)
        left = per_step * (state.max_steps - state.global_step) / 60
        print(
            f"    step {state.global_step}/{state.max_steps}, loss {float(logs['loss']):.3f}, {left:.1f} minutes left",
            flush=True,
        )
