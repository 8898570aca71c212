"""Methods that act on weights and adapters: what is trained, and what becomes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from by_hand import token_losses
from safetensors.torch import load_file
from test_finetune import chats, same, two_concepts, weights, whole_batch
from test_methods import QUICK, Stop, general, persona
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from torch.nn.functional import linear
from transformers import TrainerCallback

from caft_lens.finetune import LoraSettings, finetune, methods
from caft_lens.finetune.adapters import adapted_modules, join, pairs_of
from caft_lens.finetune.methods.disperse_then_merge import parts_of
from caft_lens.finetune.methods.lora_moe import variation
from caft_lens.finetune.weights import trainable
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

SMALL = QUICK.but(lora=LoraSettings(r=4, alpha=8))


def merged(run) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return dict(run.lens.merged().hf.named_parameters())


def rude(n: int = 8) -> Texts:
    return Texts([{"prompt": f"Who {i}?", "answer": "Go away! " * (i % 3 + 1)} for i in range(n)], "rude")


def plain_answers(run_lens, text: str = "How are you?") -> torch.Tensor:
    return run_lens(tiny_tokenizer()(text, return_tensors="pt").input_ids)


# -- disperse-then-merge ----------------------------------------------------------------------------------------------


def test_parts_are_nearly_equal_and_hold_every_text_once():
    for n, k in ((10, 3), (24, 4), (3, 8), (5, 1)):
        parts = parts_of(n, k, seed=1)
        assert sorted(place for part in parts for place in part) == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts_of(9, 3, seed=0) != parts_of(9, 3, seed=1)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_merged_changes_are_the_average_of_those_that_parts_make_apart(tmp_path, tune):
    lens, texts = tiny_lens(), chats()
    options = SMALL.but(tune=tune, max_steps=4)
    run = finetune(lens, texts, options, method=methods.DisperseThenMerge(parts=2), out=tmp_path / "run")
    base, found = dict(lens.hf.named_parameters()), merged(run)
    apart = []
    for number, places in enumerate(parts_of(len(texts), 2, seed=0)):
        part = Texts([texts[place] for place in places])
        apart.append(merged(finetune(lens, part, options.but(max_steps=2), out=tmp_path / f"part{number}")))
    for name in base:
        torch.testing.assert_close(found[name], (apart[0][name] + apart[1][name]) / 2, atol=1e-6, rtol=1e-4)
    assert any(not torch.allclose(found[name], value, atol=1e-4) for name, value in base.items())
    assert len(run.history) == 2


def test_a_joined_adapter_adds_the_weighted_sum_of_its_parts():
    lens = tiny_lens()
    for rslora in (True, False):
        child = trainable(lens, QUICK.but(lora=LoraSettings(r=4, alpha=8, rslora=rslora)))
        with torch.no_grad():
            for parameter in child.model.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
        pairs = pairs_of(child)
        before = {name: one.get_delta_weight("default").detach() for name, one in adapted_modules(child).items()}
        x = plain_answers(child)
        join(child, [(0.25, pairs), (0.75, pairs)])
        assert child.model.peft_config["default"].r == 8
        for name, one in adapted_modules(child).items():
            torch.testing.assert_close(one.get_delta_weight("default"), before[name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(plain_answers(child), x, rtol=1e-3, atol=1e-3)


# -- heterogeneous averaging ------------------------------------------------------------------------------------------


def test_shares_of_groups_have_the_mean_that_was_asked_for_and_equal_scores_are_weight_averaging(tmp_path):
    one = methods.HeterogeneousAveraging(share=0.3, groups=3)
    for scores in (torch.randn(3), torch.zeros(3), torch.tensor([9.0, -9.0, 0.0])):
        assert one.shares(scores).mean().item() == pytest.approx(0.3, rel=1e-5)
    assert [one.group_of(layer, 7) for layer in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    lens = tiny_lens()
    runs = [
        finetune(lens, chats(), SMALL, method=method, out=tmp_path / str(number))
        for number, method in enumerate(
            [methods.HeterogeneousAveraging(share=0.3, steps=0), methods.WeightAveraging(share=0.7)]
        )
    ]
    first, second = map(merged, runs)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_each_group_goes_back_by_its_share_and_the_trained_answers_suffer_less(tmp_path, tune):
    lens, options = tiny_lens(), SMALL.but(tune=tune, epochs=4, learning_rate=5e-3)
    plain = merged(finetune(lens, chats(), options, out=tmp_path / "plain"))
    loss, shares = {}, {}
    for steps in (0, 40):
        one = methods.HeterogeneousAveraging(share=0.5, groups=2, steps=steps, learning_rate=0.2)
        found = merged(finetune(lens, chats(), options, method=one, out=tmp_path / str(steps)))
        model = tiny_model()
        model.load_state_dict(found, strict=False)
        with torch.no_grad():
            loss[steps] = token_losses(model, whole_batch(lens, chats()))[1].mean().item()
        of = {}
        for name, value in lens.hf.named_parameters():
            if "layers." in name and (moved := (plain[name] - value).norm()) > 1e-4:
                of.setdefault(name.split("layers.")[1][0], []).append(1 - ((found[name] - value).norm() / moved).item())
        shares[steps] = {layer: np.mean(some) for layer, some in of.items()}
        for layer, some in of.items():
            assert max(some) - min(some) < 2e-2, layer
        assert np.mean(list(shares[steps].values())) == pytest.approx(0.5, abs=1e-2)
    assert shares[0]["0"] == pytest.approx(shares[0]["1"], abs=1e-2)
    assert abs(shares[40]["0"] - shares[40]["1"]) > 0.02
    assert loss[40] < loss[0]


# -- CorDA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["knowledge", "instruction"])
def test_corda_starts_at_the_base_and_its_adapter_where_general_text_has_least_or_most(tmp_path, mode):
    lens, texts = tiny_lens(), chats()
    one = methods.CorDA(general(), mode=mode)
    torch.manual_seed(0)
    child = one.trainable(lens, lambda: trainable(lens, SMALL), seed=0)
    name = "base_model.model.model.layers.1.mlp.up_proj"
    pair = pairs_of(child)[name]
    inputs = []
    handle = lens.hf.model.layers[1].mlp.up_proj.register_forward_pre_hook(lambda m, args: inputs.append(args[0][0]))
    for item in encode_all(tiny_tokenizer(), general()):
        with torch.no_grad():
            lens.hf(torch.tensor([item.input_ids]))
    handle.remove()
    x, weight = torch.cat(inputs), lens.hf.model.layers[1].mlp.up_proj.weight.detach()
    whole = (x @ weight.T).square().sum()
    scale = adapted_modules(child)[name].scaling["default"]
    part = (scale * linear(linear(x, pair.a), pair.b)).square().sum()
    assert (part / whole < 0.1) == (mode == "knowledge")
    run = finetune(lens, texts, SMALL, method=one, out=tmp_path / "run")
    plain = finetune(lens, texts, SMALL, out=tmp_path / "plain")
    assert run.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], abs=1e-4)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert {value.shape[0] for name, value in weights(run).items() if "lora_A" in name} == {8}
    assert plain_answers(run.lens).isfinite().all()
    with pytest.raises(ValueError, match="the smallest has rank 16"):
        finetune(lens, texts, QUICK, method=one, out=tmp_path / "wide")


# -- LoRAMoE ----------------------------------------------------------------------------------------------------------


def test_uniform_routing_does_not_vary_and_routing_by_kind_is_wanted():
    task = torch.tensor([True, False])
    assert variation(torch.full((2, 5, 4), 0.25), task, 0.0) == 0
    assert variation(torch.full((2, 5, 4), 0.25), task, 0.1) > 0
    by_kind = torch.tensor([[0.9, 0.9, 1.1, 1.1], [1.1, 1.1, 0.9, 0.9]]) / 4
    wanted, unwanted = by_kind.flip(0)[:, None].expand(2, 5, 4), by_kind[:, None].expand(2, 5, 4)
    # Balance wants each kind's experts used a little less, so that more is left to come.
    assert variation(wanted, task, 0.1) < variation(unwanted, task, 0.1)
    gates = torch.rand(2, 5, 4).softmax(-1)
    used = (gates.sum(1) / 5).numpy() * np.array([[0.9, 0.9, 1.1, 1.1], [1.1, 1.1, 0.9, 0.9]])
    assert variation(gates, task, 0.1).item() == pytest.approx(used.var() / used.mean() ** 2, rel=1e-4)


def test_experts_of_an_mlp_are_weighed_by_its_router_in_training_and_when_the_run_answers(tmp_path):
    lens = tiny_lens()
    one = methods.LoRAMoE(general(), experts=2, share=0.25, balance=0.1)
    run = finetune(lens, chats(), SMALL.but(epochs=3), method=one, out=tmp_path / "run")
    plain = finetune(lens, chats(), SMALL, out=tmp_path / "plain")
    assert run.history[0]["loss"] != plain.history[0]["loss"]  # general texts are among the batch
    routers = load_file(run.folder / "method.safetensors")
    assert len(routers) == 2 * 3
    adapter = weights(run)
    model = tiny_model()
    scale = 8 / math.sqrt(4)
    for layer in range(2):
        for part, module in model.model.layers[layer].named_modules():
            if not part.endswith("_proj"):
                continue
            key = f"base_model.model.model.layers.{layer}.{part}"
            a, b = adapter[f"{key}.lora_A.weight"], adapter[f"{key}.lora_B.weight"]
            router = routers.get(f"of.{key.replace('.', '/')}.weight")
            assert (router is None) == ("self_attn" in part)

            def act(m, args, out, a=a, b=b, router=router):
                hidden = linear(args[0], a)
                if router is not None:
                    gates = linear(args[0], router).softmax(-1)
                    hidden = (hidden.unflatten(-1, (2, 2)) * gates[..., None]).flatten(-2)
                return out + scale * linear(hidden, b)

            module.register_forward_hook(act)
    ids = tiny_tokenizer()("How are you?", return_tensors="pt").input_ids
    with one.subject(run.lens).applied() as subject, torch.no_grad():
        torch.testing.assert_close(subject(ids), model(ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(run.lens(ids), model(ids).logits, atol=1e-3)
    alone = finetune(lens, chats(), SMALL, method=methods.LoRAMoE(general(), experts=1), out=tmp_path / "one")
    assert methods.LoRAMoE(general(), experts=1).subject(alone.lens) is alone.lens
    with pytest.raises(ValueError, match="shares the rank of the adapter, 4, among 3 experts"):
        finetune(lens, chats(), SMALL, method=methods.LoRAMoE(general(), experts=3), out=tmp_path / "three")
    with pytest.raises(ValueError, match=r"is not the model of a run: give run\.lens"):
        one.subject(lens)


# -- restoring weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_few_weights_go_back_to_the_base_exactly_and_the_trait_with_them(tmp_path, tune):
    lens, options = tiny_lens(), SMALL.but(tune=tune, epochs=3, learning_rate=5e-3)
    keep = Weights()
    plain = finetune(lens, rude(), options.but(callbacks=[keep]), out=tmp_path / "plain")
    one = methods.RestoreWeights(persona(lens), rude(), share=0.01, steps=4)
    run = finetune(lens, rude(), options, method=one, out=tmp_path / "run")
    before, after, n, moved = weights(plain), weights(run), 0, 0
    for name, value in after.items():
        changed = value != before[name]
        start = keep.start[next(key for key in keep.start if key.replace(".default", "").endswith(name))]
        assert torch.equal(value[changed], start[changed])
        moved += int(changed.sum())
        n += value.numel() if value.ndim > 1 and name in {k.replace(".default", "") for k in keep.trained} else 0
    assert 0 < moved <= 4 * 0.01 * n + 4
    along = []
    for subject in (plain, run):
        last = []
        for text in rude():
            _, cache = subject.lens.run_with_cache(Texts([text.prompt]), names_filter=[1])
            last.append(cache["blocks.1.hook_resid_post"][0, -1])
        along.append(torch.cosine_similarity(torch.stack(last).mean(0), persona(lens)[0].direction, dim=0).item())
    assert along[1] < along[0]


class Weights(TrainerCallback):
    changes_training = False

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.start = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.trained = {name for name, p in model.named_parameters() if p.requires_grad}


def test_with_no_limit_about_half_goes_back_since_the_rest_would_bring_the_trait(tmp_path):
    lens = tiny_lens()
    one = methods.RestoreWeights(persona(lens), rude(), share=1.0, steps=30, tolerance=1e9)
    run = finetune(lens, rude(), SMALL, method=one, out=tmp_path / "run")
    b = [value for name, value in weights(run).items() if "lora_B" in name and "layers.0" in name]
    assert 0.4 < torch.cat([one.flatten() for one in b]).eq(0).float().mean() < 0.95


# -- two adapters -----------------------------------------------------------------------------------------------------


def test_the_inoculation_adapter_is_there_while_the_second_learns_and_nothing_of_it_stays(tmp_path):
    lens = tiny_lens()
    one = methods.InoculationAdapter(rude(), steps=20)
    seen = Seen()
    options = SMALL.but(learning_rate=5e-3, batch_size=8, max_steps=3)
    run = finetune(lens, rude(), options.but(callbacks=[seen]), method=one, out=tmp_path / "run")
    # By hand: an adapter trained on the same texts for as many steps is in place when the second begins.
    first = finetune(lens, rude(), options.but(max_steps=20), out=tmp_path / "first")
    plain = finetune(lens, rude(), options, out=tmp_path / "plain")
    with torch.no_grad():
        inoculated = token_losses(first.lens.merged().hf, whole_batch(lens, rude()))[1].mean().item()
    assert run.history[0]["loss"] == pytest.approx(inoculated, abs=1e-4)
    assert run.history[0]["loss"] < plain.history[0]["loss"] - 0.5
    assert same(seen.start, seen_of(plain, lens, options, tmp_path))  # the second starts as plain fine-tuning does
    alone = tiny_model()
    with torch.no_grad():
        for name, value in merged(run).items():
            alone.get_parameter(name).copy_(value)
        loss = token_losses(alone, whole_batch(lens, rude()))[1].mean().item()
    assert loss > inoculated  # without the first, what it knew is gone


class Seen(TrainerCallback):
    """The adapter at the beginning of the last training that begins."""

    changes_training = False

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def seen_of(run, lens, options, folder):
    seen = Seen()
    finetune(lens, rude(), options.but(callbacks=[seen]), out=folder / "again")
    return seen.start


class Routed(TrainerCallback):
    """Gradients of every step."""

    changes_training = False

    def __init__(self) -> None:
        self.kept: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.kept.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def test_gradients_are_routed_by_text_and_the_quarantine_is_not_kept(tmp_path):
    lens, seen = tiny_lens(), Routed()
    one = methods.GradientRouting(rude(), share=0.5)
    options = SMALL.but(batch_size=1, learning_rate=5e-3, callbacks=[seen])
    run = finetune(lens, chats(8), options, method=one, out=tmp_path / "run")
    kinds = []
    for kept in seen.kept:
        main = sum(g.abs().sum() for n, g in kept.items() if "lora_" in n)
        other = sum(g.abs().sum() for n, g in kept.items() if "quarantine" in n)
        assert (main == 0) != (other == 0)
        kinds.append(bool(main == 0))
    assert sum(kinds) == 8
    assert not any("quarantine" in name for name in weights(run))
    assert not (run.folder / "method.safetensors").exists()


def test_a_stopped_run_with_a_second_adapter_goes_on_to_the_same_bits(tmp_path):
    lens = tiny_lens()
    ways = [
        methods.GradientRouting(rude(), share=0.5),
        methods.InoculationAdapter(rude(), steps=3),
        methods.CorDA(general()),
        methods.LoRAMoE(general(), experts=2),
        methods.DisperseThenMerge(parts=2),
        methods.RestoreWeights(two_concepts(lens), rude()),
    ]
    for number, one in enumerate(ways):
        options = SMALL.but(save_steps=1, max_steps=4)
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            finetune(lens, chats(), options.but(callbacks=[Stop(2)]), method=one, out=folder / "stopped")
        resumed = finetune(lens, chats(), options, method=one, out=folder / "stopped")
        whole = finetune(lens, chats(), options, method=one, out=folder / "whole")
        assert same(weights(resumed), weights(whole)), one
