"""Dropout that follows what general text needs, and a head that is trained first."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from by_hand import token_losses
from test_finetune import chats, same, weights, whole_batch
from test_methods import QUICK, general
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from transformers import TrainerCallback

from caft_lens.finetune import finetune, methods
from caft_lens.finetune.methods.guided_dropout import rates_of
from caft_lens.finetune.protocol import Training
from caft_lens.text.encoding import encode_all

# -- guided dropout ---------------------------------------------------------------------------------------------------


def training(lens) -> Training:
    return Training(lens, lens, chats(), chats(), [], None, seed=0)


def test_fisher_information_is_the_mean_squared_gradient_of_general_texts():
    lens = tiny_lens()
    found = methods.GuidedDropout(general(4)).fisher(training(lens))
    model = tiny_model()
    sums = {f"blocks.{layer}.hook_{part}": 0.0 for layer in range(2) for part in ("attn_out", "mlp_out")}
    for item in encode_all(tiny_tokenizer(), general(4)):
        model.zero_grad()
        labels = torch.where(torch.from_numpy(item.loss), torch.tensor(item.input_ids), -100)[None]
        model(torch.tensor([item.input_ids]), labels=labels).loss.backward()
        for layer, one in enumerate(model.model.layers):
            for part, module in (("attn_out", one.self_attn), ("mlp_out", one.mlp)):
                flat = torch.cat([p.grad.flatten() for p in module.parameters()])
                sums[f"blocks.{layer}.hook_{part}"] += flat.square().mean().item()
    assert found == pytest.approx(sums, rel=1e-3)
    assert not any(
        p.requires_grad != q.requires_grad for p, q in zip(lens.hf.parameters(), tiny_model().parameters(), strict=True)
    )


def test_rates_fall_from_the_least_fisher_information_to_none_at_the_most_and_have_half_the_mean():
    fisher = {str(i): float((7 * i) % 37) for i in range(37)}
    rates = rates_of(fisher, 0.099)
    order = sorted(fisher, key=fisher.get)
    steps = [rates[a] - rates[b] for a, b in pairwise(order)]
    assert steps == pytest.approx([0.00275] * 36)  # the authors' step for as many modules
    assert (rates[order[0]], rates[order[-1]]) == (0.099, 0.0)
    assert sum(rates.values()) / 37 == pytest.approx(0.0495)


class Dropped(TrainerCallback):
    """The share of zeros among what each module adds to the residual stream while training."""

    changes_training = False

    def __init__(self, lens) -> None:
        self.zeros: dict[str, list[float]] = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for layer, one in enumerate(model.model.layers):
            for part, module in (("attn_out", one.self_attn), ("mlp_out", one.mlp)):
                name = f"blocks.{layer}.hook_{part}"
                module.register_forward_hook(lambda m, i, o, name=name: self.keep(name, m, o))

    def keep(self, name, module, out):
        out = out[0] if isinstance(out, tuple) else out
        self.zeros.setdefault(name, []).append((out == 0).float().mean().item())


def test_so_much_is_dropped_behind_each_module_and_nothing_when_the_model_answers(tmp_path):
    lens, seen = tiny_lens(), Dropped(None)
    one = methods.GuidedDropout(general(4), most=0.4)
    rates = rates_of(one.fisher(training(lens)), 0.4)
    run = finetune(lens, chats(), QUICK.but(tune="full", callbacks=[seen]), method=one, out=tmp_path / "run")
    for hook, shares in seen.zeros.items():
        assert sum(shares) / len(shares) == pytest.approx(rates[hook], abs=0.02)
    ids = tiny_tokenizer()("How are you?", return_tensors="pt").input_ids
    assert torch.equal(run.lens(ids), run.lens(ids))


# -- linear probing, then fine-tuning ---------------------------------------------------------------------------------


def test_the_first_stage_trains_the_head_alone_and_the_second_starts_from_its_loss(tmp_path):
    lens = tiny_lens()
    short = QUICK.but(tune="full", max_steps=1, batch_size=24, learning_rate=1e-2)
    run = finetune(lens, chats(), short, method=methods.LPFT(steps=20), out=tmp_path / "run")
    model, batch = tiny_model(), whole_batch(lens, chats())
    with torch.no_grad():
        hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    head = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    optimizer = torch.optim.AdamW([head], lr=1e-2, weight_decay=0.01)
    learned = batch["labels"][:, 1:] != -100
    for step in range(21):
        logits = hidden[:, :-1][learned] @ head.T
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:][learned])
        if step == 20:
            break
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 20)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([head], 1.0)
        optimizer.step()
    assert run.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-3)
    assert loss < token_losses(tiny_model(), batch)[1].mean() - 0.5


def test_features_move_less_after_linear_probing_and_an_adapter_on_the_head_comes_back(tmp_path):
    lens, batch = tiny_lens("qwen2"), whole_batch(tiny_lens("qwen2"), chats())  # whose head is its embedding
    drift = {}
    options = QUICK.but(epochs=3)
    for steps in (0, 60):
        run = finetune(lens, chats(), options, method=methods.LPFT(steps=steps), out=tmp_path / str(steps))
        states = [
            one.run_with_cache(batch["input_ids"], attention_mask=batch["attention_mask"], names_filter=[1])[1]
            for one in (lens, run.lens)
        ]
        apart = states[1]["blocks.1.hook_resid_post"] - states[0]["blocks.1.hook_resid_post"]
        drift[steps] = apart[batch["labels"] != -100].norm(dim=-1).mean().item()
    assert drift[60] < 0.9 * drift[0]
    assert any("lm_head" in name for name in weights(run))
    ids = tiny_tokenizer()("How are you?", return_tensors="pt").input_ids
    torch.testing.assert_close(run.lens.merged()(ids), run.lens(ids), rtol=1e-4, atol=1e-4)
    plain = finetune(lens, chats(), options, out=tmp_path / "plain")
    assert same(
        weights(plain), weights(finetune(lens, chats(), options, method=methods.LPFT(steps=0), out=tmp_path / "0"))
    )
    with pytest.raises(ValueError, match="is its embedding, so the method"):
        finetune(lens, chats(), QUICK.but(tune="full"), method=methods.LPFT(), out=tmp_path / "full")
