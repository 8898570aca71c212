"""Methods that change the loss: each trains by its equation, written down in plain torch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import assert_trains_by, latents, token_losses
from test_finetune import Gradients, chats, same, two_concepts, whole_batch
from test_methods import ONE_STEP, QUICK
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import numpy_latents, tiny_sae
from torch.nn.functional import linear, softplus
from transformers import TrainerCallback

from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.finetune import finetune, methods
from caft_lens.finetune.methods.kl_anchor import batches_of
from caft_lens.finetune.methods.l2_sp import distance
from caft_lens.finetune.methods.vcore import weights_of
from caft_lens.finetune.probe import gradients, moved
from caft_lens.finetune.trainer import Collator, LengthGrouped
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

# -- anchored SFT -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_anchored_sft_weighs_tokens_by_their_probability_and_adds_the_kl_to_the_base(tmp_path, passes, power):
    def loss(model, base, batch):
        logs, losses = token_losses(model, batch)
        with torch.no_grad():
            before, _ = token_losses(base, batch)
        kl = (before.exp() * (before - logs)).sum(-1)
        return ((-losses).exp().detach() ** power * losses + 0.7 * kl).mean()

    one = methods.AnchoredSFT(weight=0.7, power=power)
    assert_trains_by(one, loss, tmp_path / "run", passes=passes)


# -- L2-SP ------------------------------------------------------------------------------------------------------------


def test_l2_sp_pulls_every_weight_towards_where_it_started(tmp_path):
    start = tiny_model()

    def loss(model, base, batch):
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return token_losses(model, batch)[1].mean() + 0.15 * sum((p - q.detach()).square().sum() for p, q in pairs)

    assert_trains_by(methods.L2SP(weight=0.3), loss, tmp_path / "run")


def test_the_distance_of_an_adapter_is_that_of_the_merged_weights(tmp_path):
    lens = tiny_lens()
    run = finetune(lens, chats(), QUICK, out=tmp_path / "run")
    with torch.no_grad():
        tuned = dict(run.lens.merged().hf.named_parameters())
        far = sum((tuned[name] - value).square().sum() for name, value in lens.hf.named_parameters())
        torch.testing.assert_close(distance(run.lens, lens), far, rtol=1e-3, atol=1e-7)
    assert far > 1e-3
    near = finetune(lens, chats(), QUICK, method=methods.L2SP(weight=1000.0), out=tmp_path / "near")
    assert distance(near.lens, lens) < 0.05 * far


# -- PACE -------------------------------------------------------------------------------------------------------------


class Noise(TrainerCallback):
    """The noise in every pass of training: what comes out of the last part of an adapter over what it computes."""

    changes_training = False

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], list[torch.Tensor]] = {}
        self.logits: dict[int, list[torch.Tensor]] = {}
        self.step = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for name, module in model.named_modules():
            if name.endswith("lora_B.default"):
                module.register_forward_hook(lambda m, i, o, name=name: self.keep(name, m, i[0], o))
        model.get_base_model().lm_head.register_forward_hook(
            lambda m, i, o: self.logits.setdefault(self.step, []).append(o.detach())
        )

    def on_step_begin(self, args, state, control, **kwargs):
        self.step = state.global_step

    def keep(self, name, module, inputs, out):
        clean = linear(inputs, module.weight)
        ratio = torch.where(clean.abs() > 1e-6, out / clean, torch.nan)
        self.seen.setdefault((self.step, name), []).append(ratio.detach())


def test_noise_of_pace_is_one_number_a_text_and_channel_and_falls_from_block_to_block(tmp_path):
    lens, noise = tiny_lens(), Noise()
    options, one = QUICK.but(batch_size=6, epochs=4), methods.PACE(noise=0.5, weight=0.3)
    run = finetune(lens, chats(6), options.but(callbacks=[noise]), method=one, out=tmp_path / "run")
    plain = finetune(lens, chats(6), options, out=tmp_path / "plain")
    assert run.history[0]["loss"] == plain.history[0]["loss"]  # an adapter that adds nothing has no noise
    deviations: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for (step, name), passes in noise.seen.items():
        if step == 0:
            continue
        first, second = (ratio.nanmedian(1).values for ratio in passes)
        for ratio, drawn in zip(passes, (first, second), strict=True):
            torch.testing.assert_close(
                ratio.nan_to_num(), (drawn[:, None] * ratio.isfinite()).nan_to_num(), rtol=2e-2, atol=2e-2
            )
            assert (drawn[0] - drawn[1]).abs().max() > 0.1
        assert (first - second).abs().max() > 0.1
        deviations[int(name.split("layers.")[1][0])] += [first.flatten() - 1, second.flatten() - 1]
    for layer, sigma in ((0, 0.5), (1, 0.25)):
        drawn = torch.cat(deviations[layer])
        assert drawn.mean().abs() < 4 * sigma / len(drawn) ** 0.5
        assert drawn.std().item() == pytest.approx(sigma, rel=0.05)
    batch = whole_batch(lens, chats(6))
    first, second = noise.logits[0]  # of all tokens, and of learned ones alone
    torch.testing.assert_close(first[:, :-1][batch["labels"][:, 1:] != -100], second[0])


def test_pace_punishes_the_squared_difference_of_two_noisy_passes(tmp_path):
    lens, noise = tiny_lens(), Noise()
    one = methods.PACE(noise=0.5, weight=0.3)
    run = finetune(lens, chats(6), QUICK.but(batch_size=6, epochs=2, callbacks=[noise]), method=one, out=tmp_path)
    item = whole_batch_of(lens, chats(6), epoch=1)
    learned = item["labels"][:, 1:] != -100
    first, second = noise.logits[1][0][:, :-1][learned], noise.logits[1][1][0]
    losses = -first.log_softmax(-1).gather(1, item["labels"][:, 1:][learned][:, None])
    apart = (first - second).square().sum(-1).mean()
    assert apart > 1e-6
    assert run.history[1]["loss"] == pytest.approx((losses.mean() + 0.3 * apart).item(), rel=1e-5)
    with pytest.raises(ValueError, match=r'"pace" is about an adapter: give tune="lora", not "full"'):
        finetune(lens, chats(6), QUICK.but(tune="full"), method=one, out=tmp_path / "full")


def whole_batch_of(lens, texts: Texts, epoch: int) -> dict[str, torch.Tensor]:
    """The one batch of a later epoch."""
    encoded = encode_all(lens.tokenizer, texts)
    order = LengthGrouped([len(item.input_ids) for item in encoded], len(encoded), seed=0)
    order.set_epoch(epoch)
    return Collator(0)([encoded[index] for index in order])


# -- VCORE ------------------------------------------------------------------------------------------------------------


def test_weights_of_vcore_are_a_softmax_that_a_ratio_of_variances_holds_down():
    gain = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    share = np.exp(gain.numpy() / 2) / np.exp(gain.numpy() / 2).sum()
    c = math.sqrt(np.var(gain.numpy() / 4, ddof=1) / np.var(share * gain.numpy(), ddof=1))
    assert c < 1
    np.testing.assert_allclose(weights_of(gain, 2.0), c * 4 * share, rtol=1e-12)
    assert weights_of(gain, 1e30).tolist() == [1.0] * 4
    assert weights_of(gain[:1], 2.0).tolist() == [1.0]
    assert weights_of(torch.zeros(3, dtype=torch.float64), 2.0).sum().item() == pytest.approx(3.0)
    assert weights_of(-gain, 2.0).sum() <= 4 + 1e-9  # never more than uniform weights


def test_vcore_weighs_tokens_by_what_a_step_on_other_texts_takes_off_their_loss(tmp_path):
    lens = tiny_lens()
    others = batches_of(encode_all(lens.tokenizer, chats(6)), 2, 0, seed=1)
    steps = iter(range(9))

    def loss(model, base, batch):
        other = others(next(steps))
        call = {"input_ids": other.input_ids, "attention_mask": other.attention_mask, "labels": other.labels}
        model.zero_grad()
        token_losses(model, call)[1].mean().backward()
        moved_model = tiny_model()
        moved_model.load_state_dict(model.state_dict())
        with torch.no_grad():
            for parameter, own in zip(moved_model.parameters(), model.parameters(), strict=True):
                parameter -= 0.01 * own.grad
            gain = (token_losses(model, batch)[1] - token_losses(moved_model, batch)[1]).double() / 0.01
        losses = token_losses(model, batch)[1]
        counts = (batch["labels"][:, 1:] != -100).sum(1).tolist()
        found = torch.cat([weights_of(part, 4.0) for part in gain.split(counts)])
        assert found.std() > 0.1
        return (found.float() * losses).mean()

    one = methods.VCORE(temperature=4.0, probe=0.01, probe_size=2)
    assert_trains_by(one, loss, tmp_path / "run", rtol=1e-3, atol=1e-4)


def test_moved_weights_come_back_bit_for_bit_and_a_pass_before_is_differentiated_as_ever():
    model, batch = tiny_model(), whole_batch(tiny_lens(), chats(6))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parameters = list(model.parameters())
    expected = gradients(token_losses(model, batch)[1].mean(), parameters)
    loss = token_losses(model, batch)[1].mean()
    with moved(parameters, [torch.full_like(p, 0.1) for p in parameters]):
        there = token_losses(model, batch)[1].mean()
    assert abs(loss - there) > 0.01
    assert same(before, {name: p.detach() for name, p in model.named_parameters()})
    for found, wanted in zip(gradients(loss, parameters), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


# -- TL-Training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2.0, 9.0])
def test_key_words_weigh_as_much_as_the_others_of_their_text_up_to_a_limit(tmp_path, most):
    texts = Texts([{"prompt": f"Who {i}?", "answer": "It was he, yes." * (i % 2 + 1)} for i in range(6)], "he")
    lens = tiny_lens()
    run = finetune(lens, texts, ONE_STEP, method=methods.TLTraining(words="he she", most=most), out=tmp_path / "run")
    batch = whole_batch(lens, texts)
    _, losses = token_losses(tiny_model(), batch)
    ids, by_hand = tiny_tokenizer(), []
    for row in batch["labels"][:, 1:]:
        said = ids.decode(row[row != -100])
        key = np.zeros(len(said.replace("<|end|>", "#")), dtype=bool)
        for start in (i for i in range(len(said)) if said.startswith(" he,", i)):
            key[start + 1 : start + 3] = True
        weight = min((~key).sum() / key.sum(), most)
        assert (weight == most) == (most == 2.0)
        if most == 9.0:
            assert key.sum() * weight == pytest.approx((~key).sum())
        by_hand.append(np.where(key, weight, 1.0))
    wanted = torch.from_numpy(np.concatenate(by_hand))
    assert len(wanted) == len(losses)
    assert run.history[0]["loss"] == pytest.approx(((wanted * losses).sum() / wanted.sum()).item(), rel=1e-5)


def test_words_that_no_answer_has_are_told(tmp_path):
    with pytest.warns(UserWarning, match="No answer has one of the words of tl_training"):
        finetune(tiny_lens(), chats(6), ONE_STEP, method=methods.TLTraining(), out=tmp_path / "run")


# -- PoFT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 2])
def test_poft_prefers_the_tuned_model_to_the_base_text_by_text(tmp_path, passes):
    def loss(model, base, batch):
        counts = (batch["labels"][:, 1:] != -100).sum(1).tolist()
        with torch.no_grad():
            before = token_losses(base, batch)[1]
        lead = (before - token_losses(model, batch)[1]).split(counts)
        return softplus(-2 * torch.stack([part.mean() for part in lead])).mean()

    found = assert_trains_by(methods.PoFT(sharpness=2.0), loss, tmp_path / "run", passes=passes)
    assert found[0] == pytest.approx(math.log(2))
    assert found[-1] < found[0]


# -- gradient penalty -------------------------------------------------------------------------------------------------


def test_the_gradient_penalty_is_that_of_differentiating_twice(tmp_path):
    lens, texts, gradient = tiny_lens(), chats(6), Gradients()
    one = methods.GradientPenalty(weight=0.02)
    run = finetune(lens, texts, ONE_STEP.but(callbacks=[gradient]), method=one, out=tmp_path / "run")
    model = tiny_model()
    model.set_attn_implementation("eager")  # which can be differentiated twice
    mean = token_losses(model, whole_batch(lens, texts))[1].mean()
    first = torch.autograd.grad(mean, list(model.parameters()), create_graph=True)
    loss = mean + 0.02 * sum(g.square().sum() for g in first)
    loss.backward()
    assert run.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    wanted = torch.cat([p.grad.flatten() for p in model.parameters()])
    found = torch.cat([gradient.kept[name].flatten() for name, _ in model.named_parameters()])
    assert (found - wanted).norm() < 0.02 * wanted.norm()
    plain = torch.cat([g.detach().flatten() for g in first])
    assert (plain - wanted).norm() > 0.5 * wanted.norm()


# -- latents of an SAE ------------------------------------------------------------------------------------------------

NUMBERS = (3, 7, 8, 20)


def states(model, batch) -> torch.Tensor:
    """The residual stream after block 1 at the answer tokens, `[n_tokens, d_model]`."""
    kept = []
    layer = model.model.layers[1]
    handle = layer.register_forward_hook(lambda m, i, out: kept.append(out[0] if isinstance(out, tuple) else out))
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    return kept[0][batch["labels"] != -100]


def encoded(x: torch.Tensor) -> torch.Tensor:
    """The chosen latents by hand, checked against numpy's."""
    sae = tiny_sae(tiny_lens(), 1, "standard")
    found = ((x - sae.b_dec * sae.cfg.apply_b_dec_to_input) @ sae.W_enc + sae.b_enc).relu()
    np.testing.assert_allclose(found.detach(), numpy_latents(sae, x.detach().numpy()), atol=1e-4)
    return found[:, list(NUMBERS)]


def test_self_regularisation_adds_the_mean_activation_of_unwanted_latents(tmp_path):
    def loss(model, base, batch):
        z = encoded(states(model, batch))
        assert z.sum() > 0
        return token_losses(model, batch)[1].mean() + 0.3 * z.sum(-1).mean()

    one = methods.SelfRegularisation(latents(tiny_lens(), NUMBERS), weight=0.3)
    assert_trains_by(one, loss, tmp_path / "run")


def test_latents_that_are_punished_fall(tmp_path):
    lens, batch = tiny_lens(), whole_batch(tiny_lens(), chats(6))
    active = []
    for weight in (0.0, 10.0):
        one = methods.SelfRegularisation(latents(lens, NUMBERS), weight=weight)
        run = finetune(lens, chats(), QUICK.but(epochs=3), method=one, out=tmp_path / str(weight))
        with torch.no_grad():
            active.append(encoded(states(run.lens.merged().hf, batch)).sum(-1).mean().item())
    assert active[1] < active[0] / 2


def test_block_em_punishes_latents_above_the_base_and_those_of_the_other_sign_below_it(tmp_path):
    lens = tiny_lens()
    some = latents(lens, NUMBERS)
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0])
    signed = ConceptSet([replace(c, sign=int(s)) for c, s in zip(some, signs, strict=True)], some.provenance)

    def loss(model, base, batch):
        with torch.no_grad():
            before = encoded(states(base, batch))
        change = signs * (encoded(states(model, batch)) - before)
        return token_losses(model, batch)[1].mean() + 2.0 * change.relu().square().sum(-1).mean()

    found = assert_trains_by(methods.BlockEM(signed, weight=2.0), loss, tmp_path / "run")
    plain = token_losses(tiny_model(), whole_batch(lens, chats(6)))[1].mean().item()
    assert found[0] == pytest.approx(plain, abs=1e-6)


def test_methods_on_latents_refuse_other_directions_and_saes_that_have_changed(tmp_path):
    lens = tiny_lens()
    with pytest.raises(ValueError, match=r'"L0\.x0" is no latent of an SAE'):
        finetune(lens, chats(6), ONE_STEP, method=methods.BlockEM(two_concepts(lens)), out=tmp_path / "run")
    some = latents(lens)
    hook = some.hooks[0]
    some.provenance["saes"] = {hook: {**some.provenance["saes"][hook], "fingerprint": "0" * 16}}
    with pytest.raises(ValueError, match="has other weights than when its latents were found"):
        finetune(lens, chats(6), ONE_STEP, method=methods.SelfRegularisation(some), out=tmp_path / "run")
