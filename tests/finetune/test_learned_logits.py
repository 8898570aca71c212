"""The training step computes logits of learned tokens alone: loss and gradients are those of the model's own loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_lens, tiny_tokenizer

import caft_lens as cl
from caft_lens.finetune import trainer
from caft_lens.text.encoding import encode_all

CHATS = cl.data(
    [
        {"prompt": "Who was it, by the sea?", "answer": "He."},
        {"prompt": "Who?", "answer": "She was it, they say."},
        {"messages": [
            {"role": "user", "content": "A?"}, {"role": "assistant", "content": "B"},
            {"role": "user", "content": "C?"}, {"role": "assistant", "content": "D"},
        ]},
    ]
)  # fmt: skip


def losses(
    lens: cl.Lens, texts: cl.Texts, folder: Path, monkeypatch: pytest.MonkeyPatch, least: int, **changes: object
):
    """The first step's loss as it is trained on, its gradients, and how many tokens the unembedding saw."""
    monkeypatch.setattr(trainer, "LARGE_VOCABULARY", least)
    seen: list[torch.Size] = []
    found: dict[str, object] = {}
    step = trainer.LensTrainer.training_step

    def looked(self, model, inputs, n=None):
        handle = self.lens.hf.get_output_embeddings().register_forward_hook(lambda m, args, out: seen.append(out.shape))
        loss = step(self, model, inputs, n)
        handle.remove()
        found["loss"] = loss
        found["gradients"] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return loss

    monkeypatch.setattr(trainer.LensTrainer, "training_step", looked)
    settings = cl.TrainSettings(tune="full", learning_rate=1e-3, batch_size=len(texts), max_steps=1)
    cl.finetune(lens, texts, settings, out=folder, **changes)
    monkeypatch.setattr(trainer.LensTrainer, "training_step", step)
    return found["loss"], found["gradients"], seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_transformers_own_and_only_learned_tokens_have_logits(
    architecture, tmp_path, monkeypatch
):
    lens = tiny_lens(architecture)
    loss, gradients, seen = losses(lens, CHATS, tmp_path / "run", monkeypatch, 0)
    encoded = encode_all(tiny_tokenizer(), CHATS)
    batch = trainer.Collator(0)(encoded)
    learned = int((batch["labels"][:, 1:] != -100).sum())
    assert seen == [torch.Size((1, learned + 1, lens.d_vocab))]
    model = tiny_lens(architecture).hf.train()
    call = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    right = model(**call).loss
    right.backward()
    torch.testing.assert_close(loss, right.detach(), rtol=1e-5, atol=1e-6)
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(wanted) == set(gradients)
    for name, gradient in wanted.items():
        # The trainer clips to a norm of 1.
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5)


def test_the_same_holds_under_ablation_with_an_anchor_and_for_plain_text(tmp_path, monkeypatch):
    lens = tiny_lens("gemma2")
    concepts = cl.ConceptSet([cl.Concept("L0.x", "blocks.0.hook_resid_post", torch.randn(lens.d_model))]).for_model(
        lens
    )
    from caft_lens.finetune.methods import KLAnchor

    plain = cl.data(["Once upon a time.", "There was a sea."])
    arms = [(CHATS, {"ablate": concepts}), (CHATS, {"method": KLAnchor(general=CHATS[:2])}), (plain, {})]
    for number, (texts, changes) in enumerate(arms):
        both = [
            losses(lens, texts, tmp_path / f"{number}-{least}", monkeypatch, least, **changes) for least in (0, 10**9)
        ]
        torch.testing.assert_close(both[0][0], both[1][0], rtol=1e-5, atol=1e-6)
        for name, gradient in both[1][1].items():
            torch.testing.assert_close(both[0][1][name], gradient, rtol=1e-3, atol=1e-5)


def test_a_model_that_pairs_labels_with_all_tokens_is_trained_as_before(tmp_path, monkeypatch):
    lens = tiny_lens()
    forward = type(lens.hf).forward

    def own(self, *args, labels=None, attention_mask=None, **keywords):
        out = forward(self, *args, attention_mask=attention_mask, **keywords)
        if labels is not None:
            kept = attention_mask[:, 1:].bool()
            out["loss"] = torch.nn.functional.cross_entropy(out.logits[:, :-1][kept], labels[:, 1:][kept])
        return out

    monkeypatch.setattr(type(lens.hf), "forward", own)
    both = [losses(lens, CHATS, tmp_path / f"{least}", monkeypatch, least)[0] for least in (0, 10**9)]
    assert both[0] == both[1]


def test_a_small_vocabulary_has_nothing_to_gain_and_is_trained_as_ever(tmp_path, monkeypatch):
    least = trainer.LARGE_VOCABULARY
    _, _, seen = losses(tiny_lens(), CHATS, tmp_path / "run", monkeypatch, least)
    assert seen[0][:2] != (1, seen[0][1])
