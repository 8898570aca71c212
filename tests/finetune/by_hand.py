"""Fine-tuning by plain torch and transformers, to hold methods against; and latents of a minute SAE."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from test_finetune import chats, weights, whole_batch
from tiny_models import tiny_lens, tiny_model
from tiny_saes import tiny_sae

from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.find.sae import latents as all_latents
from caft_lens.finetune import TrainSettings, finetune
from caft_lens.finetune.protocol import Method
from caft_lens.saes.loading import load_sae

SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
RATE = 0.05
Batch = dict[str, torch.Tensor]


def by_sgd(n: int = 3, passes: int = 1, **others: Any) -> TrainSettings:
    """Full fine-tuning by steps of plain gradient descent on six texts."""
    return TrainSettings(
        tune="full",
        learning_rate=RATE,
        batch_size=6 // passes,
        gradient_accumulation=passes,
        max_steps=n,
        warmup_steps=0,
        weight_decay=0.0,
        training_arguments=SGD,
        **others,
    )


def token_losses(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities before each learned token `[n, d_vocab]`, and the token's own cross-entropy `[n]`."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    learned = batch["labels"][:, 1:] != -100
    logs = logits[learned].log_softmax(-1)
    return logs, -logs.gather(1, batch["labels"][:, 1:][learned][:, None])[:, 0]


def assert_trains_by(
    method: Method,
    loss: Callable[[Any, Any, Batch], torch.Tensor],
    folder: Path,
    *,
    passes: int = 1,
    steps: int = 3,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> list[float]:
    """That a method's losses and weights are those of gradient descent on `loss(model, base, batch)` by hand."""
    lens, texts = tiny_lens(), chats(6)
    run = finetune(lens, texts, by_sgd(steps, passes), method=method, out=folder)
    model, base, batch = tiny_model(), tiny_model(), whole_batch(lens, texts)
    found = []
    for step in range(steps):
        value = loss(model, base, batch)
        found.append(value.item())
        assert run.history[step]["loss"] == pytest.approx(value.item(), abs=5 * atol, rel=rtol), f"step {step}"
        model.zero_grad()
        value.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= RATE * parameter.grad
    for key, value in weights(run).items():
        torch.testing.assert_close(value, model.state_dict()[key], atol=atol, rtol=rtol)
    return found


@cache
def _folder() -> TemporaryDirectory:
    return TemporaryDirectory(prefix="tiny-sae-")


def latents(lens: Any, numbers: tuple[int, ...] = (3, 7, 8, 20)) -> ConceptSet:
    """Latents of a minute SAE of the residual stream after block 1, kept in a folder."""
    folder = Path(_folder().name) / lens.fingerprint
    if not folder.is_dir():
        tiny_sae(lens, 1, "standard").save_model(folder)
    every = all_latents(load_sae(folder, lens=lens), lens)
    return every.choose({every[number].name: "unwanted" for number in numbers}, by="the test")
