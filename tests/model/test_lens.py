"""The lens against plain transformers, which it must equal, on every architecture that it claims."""

from __future__ import annotations

import copy
import gc
import json
import warnings
import weakref

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import ARCHITECTURES, tiny_lens, tiny_model, tiny_tokenizer
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel, PreTrainedTokenizerFast

from caft_lens._support.errors import CaftLensError
from caft_lens.model import loading
from caft_lens.model.architectures import TESTED, anatomy
from caft_lens.model.lens import Lens, load
from caft_lens.text.batching import collate, padding_id
from caft_lens.text.documents import Message, Text, Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ASSISTANT

TEXTS = ["The cat sat on the mat.", "Hi"]
EXACT = {"rtol": 0.0, "atol": 1e-5}

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """References are computed on the CPU: what loads by default elsewhere would differ by rounding."""
    monkeypatch.setattr(loading, "best_device", lambda: torch.device("cpu"))


@pytest.fixture(scope="module")
def lenses() -> dict[str, Lens]:
    return {name: tiny_lens(name) for name in ARCHITECTURES}


@pytest.fixture
def lens(lenses) -> Lens:
    return lenses["llama"]


def tokens_of(text: str) -> torch.Tensor:
    return torch.tensor([tiny_tokenizer()(text).input_ids])


def batch_of(texts: list[str], side: str = "right"):
    tokenizer = tiny_tokenizer()
    return collate([encode(tokenizer, Text(text=text)) for text in texts], padding_id(tokenizer), side)


def chat(user: str, assistant: str | None = None) -> Text:
    answer = () if assistant is None else (Message("assistant", assistant),)
    return Text(messages=(Message("user", user), *answer))


def blocks_of(model) -> torch.nn.ModuleList:
    return getattr(model.get_decoder(), "layers", None) or model.get_decoder().h


def hidden_states(model, tokens) -> list[torch.Tensor]:
    """What enters the first block, then what leaves each, by a torch hook of the test's own on plain transformers."""
    seen: list[torch.Tensor] = []
    handles = [blocks_of(model)[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))]
    first = lambda out: out[0] if isinstance(out, tuple) else out  # noqa: E731
    handles += [b.register_forward_hook(lambda module, args, out: seen.append(first(out))) for b in blocks_of(model)]
    model(tokens)
    for handle in handles:
        handle.remove()
    return seen


# --- the same numbers as plain transformers -------------------------------------------------------------------


@architectures
def test_logits_and_loss_equal_those_of_plain_transformers(lenses, architecture):
    model, tokens = tiny_model(architecture), tokens_of(TEXTS[0])
    logits, loss = lenses[architecture](tokens, return_type="both")
    reference = model(tokens, labels=tokens)
    torch.testing.assert_close(logits, reference.logits, **EXACT)
    torch.testing.assert_close(loss, reference.loss, **EXACT)


@architectures
def test_gradients_equal_those_of_plain_transformers(architecture):
    model, tokens = tiny_model(architecture), tokens_of(TEXTS[0])
    lens = tiny_lens(architecture)
    with lens.hooks([(lambda name: True, lambda x, hook: x.clone())]):
        lens(tokens, return_type="loss").backward()
    model(tokens, labels=tokens).loss.backward()
    for (name, ours), theirs in zip(lens.hf.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda m, name=name: f"{name}: {m}", **EXACT)


@architectures
def test_cached_residual_stream_equals_hidden_states(lenses, architecture):
    lens, tokens = lenses[architecture], tokens_of(TEXTS[0])
    _, cache = lens.run_with_cache(tokens)
    reference = hidden_states(tiny_model(architecture), tokens)
    from_transformers = tiny_model(architecture)(tokens, output_hidden_states=True).hidden_states
    for layer in range(lens.n_layers):
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_resid_pre"], reference[layer], **EXACT)
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_resid_post"], reference[layer + 1], **EXACT)
        if layer < lens.n_layers - 1:  # the last of transformers' own is after the final norm
            torch.testing.assert_close(cache[layer], from_transformers[layer + 1], **EXACT)
    assert not any(tensor.requires_grad for tensor in cache.values())


@architectures
def test_attention_and_mlp_outputs_add_up_to_the_residual_stream(lenses, architecture):
    _, cache = lenses[architecture].run_with_cache(tokens_of(TEXTS[0]))
    for layer in range(2):
        parts = [cache[f"blocks.{layer}.hook_{name}"] for name in ("resid_pre", "attn_out", "mlp_out")]
        torch.testing.assert_close(sum(parts), cache[f"blocks.{layer}.hook_resid_post"], **EXACT)
        assert all(part.abs().mean() > 1e-3 for part in parts)


@architectures
def test_heads_projected_and_normed_give_the_output_of_attention(lenses, architecture):
    lens = lenses[architecture]
    _, cache = lens.run_with_cache(tokens_of(TEXTS[0]))
    block = lens.blocks[1].attn.hook_z
    z = cache["blocks.1.attn.hook_z"]
    assert block.name == "blocks.1.attn.hook_z"
    assert z.shape == (1, len(TEXTS[0]), lens.n_heads, lens.d_head)
    parts = anatomy(lens.hf)
    attn_out = parts.blocks[1].get_submodule(parts.z)(z.flatten(-2))
    if "norm" in parts.attn_out:
        attn_out = parts.blocks[1].get_submodule(parts.attn_out)(attn_out)
    torch.testing.assert_close(attn_out, cache["blocks.1.hook_attn_out"], **EXACT)


@architectures
def test_unembedding_the_last_residual_stream_gives_the_logits(lenses, architecture):
    logits, cache = lenses[architecture].run_with_cache(tokens_of(TEXTS[0]), names_filter=-1)
    torch.testing.assert_close(lenses[architecture].unembed(cache[-1]), logits, **EXACT)


@architectures
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_logit_and_no_activation(lenses, architecture, side):
    lens, batch = lenses[architecture], batch_of(TEXTS, side)
    logits, cache = lens.run_with_cache(batch, names_filter=1)
    unmasked = lens(batch.input_ids)  # the tokenizer's padding token serves nothing else: recognised
    for row, text in enumerate(TEXTS):
        attended = batch.attention_mask[row].bool()
        alone, alone_cache = lens.run_with_cache(tokens_of(text), names_filter=1)
        torch.testing.assert_close(logits[row, attended], alone[0], **EXACT)
        torch.testing.assert_close(cache[1][row, attended], alone_cache[1][0], **EXACT)
        torch.testing.assert_close(unmasked[row, attended], alone[0], **EXACT)


@architectures
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hook_acts_in_cached_generation_as_in_a_loop_without_cache(architecture, dtype):
    lens = tiny_lens(architecture)
    lens.model.to(dtype)
    hooks = [
        ("blocks.0.hook_resid_post", lambda x, hook: x * 0.5),
        ("blocks.1.hook_attn_out", lambda x, hook: 1.5 * x),
    ]
    with lens.hooks(hooks), torch.no_grad():
        generated = lens.generate("Hello", max_new_tokens=6, temperature=0, chat=False, return_type="tokens")
        tokens = tokens_of("Hello")
        for token in generated:
            logits = lens(tokens)[0, -1].float()
            # bf16 may break ties between near-equal logits either way, cached or not
            assert logits[token] >= logits.max() - (1e-5 if dtype == torch.float32 else 0.1)
            tokens = torch.cat([tokens, torch.tensor([[token]])], 1)
    plain = lens.generate("Hello", max_new_tokens=6, temperature=0, chat=False, return_type="tokens")
    assert plain != generated


@architectures
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient_under_hooks(architecture, reentrant):
    batch, gradients = batch_of(TEXTS), []
    for checkpointing in (False, True):
        lens = tiny_lens(architecture)
        lens.model.train()
        if checkpointing:
            lens.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with lens.hooks([(lambda name: True, lambda x, hook: x * 0.9)]):
            lens(batch, return_type="loss").backward()
        gradients.append([parameter.grad for parameter in lens.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, **EXACT)


@architectures
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_on_every_projection_gets_gradients_through_hooks(lenses, architecture, dtype):
    base = tiny_lens(architecture)
    base.model.to(dtype)
    lens = base.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    with lens.hooks([(lambda name: True, lambda x, hook: x * 0.9)]):
        lens(tokens_of(TEXTS[0]), return_type="loss").backward()
    trained = {name: p for name, p in lens.model.named_parameters() if p.requires_grad}
    assert len(trained) >= 2 * 2 * (4 if architecture in ("gpt2", "gpt_neox", "phi3") else 7)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    assert all(p.grad is None for p in base.parameters())


@architectures
def test_bf16_equals_plain_transformers_in_bf16(architecture):
    lens, tokens = tiny_lens(architecture), tokens_of(TEXTS[0])
    lens.model.to(torch.bfloat16)
    logits, cache = lens.run_with_cache(tokens)
    torch.testing.assert_close(logits, tiny_model(architecture).to(torch.bfloat16)(tokens).logits, rtol=0, atol=0)
    assert all(tensor.dtype == torch.bfloat16 for tensor in cache.values())
    assert lens.dtype == torch.bfloat16


@architectures
def test_the_bridge_gives_the_same_logits_and_leaves_the_lens_as_it_was(architecture):
    model = tiny_model(architecture)
    model.set_attn_implementation("eager")
    lens = load(model, tokenizer=tiny_tokenizer())
    tokens, before = tokens_of(TEXTS[0]), copy.deepcopy(model.state_dict())
    logits = lens(tokens)
    bridge = lens.bridge()
    with torch.no_grad():
        torch.testing.assert_close(bridge(tokens), logits, rtol=0, atol=1e-4)
        _, cache = bridge.run_with_cache(tokens)
    assert "blocks.1.attn.hook_pattern" in cache
    torch.testing.assert_close(lens(tokens), logits, rtol=0, atol=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    pointers = {p.data_ptr() for p in model.parameters()}
    assert len(pointers & {p.data_ptr() for p in bridge.parameters()}) >= len(pointers) // 2


# --- other architectures, found by structure ------------------------------------------------------------------


def small(kind: str, **changes) -> torch.nn.Module:
    fields = {
        "vocab_size": 262,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields, **changes)).eval()


@pytest.mark.parametrize(("kind", "changes"), [
    ("cohere", {"logit_scale": 0.3}), ("glm4", {"head_dim": 8}), ("mixtral", {"num_local_experts": 2}),
    ("stablelm", {}),
])  # fmt: skip
def test_an_untested_architecture_whose_parts_add_up_has_all_hook_points(kind, changes):
    assert kind not in TESTED
    lens = load(small(kind, **changes), tokenizer=tiny_tokenizer())
    logits, cache = lens.run_with_cache("Hello")
    assert len(lens.hook_names) == 2 * 5
    torch.testing.assert_close(cache["resid_pre", 1] + cache["attn_out", 1] + cache["mlp_out", 1], cache[1], **EXACT)
    torch.testing.assert_close(lens.unembed(cache[1]), logits, **EXACT)


@pytest.mark.parametrize(("kind", "changes"), [
    ("granite", {"residual_multiplier": 0.5}), ("falcon", {"parallel_attn": True}),
])  # fmt: skip
def test_an_untested_architecture_whose_parts_do_not_add_up_offers_the_residual_stream_alone(kind, changes):
    lens = load(small(kind, **changes), tokenizer=tiny_tokenizer())
    assert "blocks.1.hook_resid_post" in lens.hook_names
    with pytest.raises(KeyError, match="hook_attn_out"):
        lens.run_with_cache("Hello", names_filter="blocks.1.hook_attn_out")
    _, cache = lens.run_with_cache("Hello", names_filter=0)
    torch.testing.assert_close(cache[0], hidden_states(lens.hf, tokens_of("Hello"))[1], **EXACT)


def test_looking_at_an_untested_architecture_leaves_every_module_in_its_mode():
    model = small("stablelm").train()
    model.model.norm.eval()
    anatomy(model)
    assert model.training
    assert model.model.layers[0].training
    assert not model.model.norm.training


def test_a_model_without_decoder_blocks_is_refused_with_the_architectures_that_are_known():
    with pytest.raises(ValueError, match=r'BertModel \(architecture "bert"\).*Tested architectures: gemma2, .*qwen3'):
        load(BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)))
    with pytest.raises(ValueError, match='architecture "Linear"'):
        load(torch.nn.Linear(2, 2))


# --- early exit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_early_exit_gives_the_residual_stream_and_runs_nothing_after_it(lenses, architecture, layer):
    lens, tokens = lenses[architecture], tokens_of(TEXTS[0])
    ran = []
    watched = {f"block {i}": block for i, block in enumerate(blocks_of(lens.hf))} | {
        "head": lens.hf.get_output_embeddings()
    }
    handles = [module.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, module in watched.items()]
    try:
        residual, cache = lens.run_with_cache(tokens, stop_at_layer=layer)
    finally:
        for handle in handles:
            handle.remove()
    until = layer % lens.n_layers if layer < 0 else layer
    assert ran == [f"block {i}" for i in range(until)]
    torch.testing.assert_close(residual, hidden_states(tiny_model(architecture), tokens)[until], **EXACT)
    assert {name.split(".")[1] for name in cache} == {str(i) for i in range(until)}


def test_hooks_before_the_exit_act_on_what_it_returns(lens):
    with lens.hooks([(1, lambda x, hook: x + 1)]):
        for layer in (2, -1):
            changed = lens("Hello", stop_at_layer=layer)
            expected = hidden_states(tiny_model("llama"), tokens_of("Hello"))[layer] + (1 if layer == 2 else 0)
            torch.testing.assert_close(changed, expected if layer == 2 else changed, **EXACT)
    assert lens("Hello", return_type=None) is None


def test_early_exit_under_gradients_reaches_the_weights_before_it():
    lens = tiny_lens()
    lens("Hello", stop_at_layer=1).sum().backward()
    blocks = blocks_of(lens.hf)
    assert all(p.grad is not None for p in blocks[0].parameters())
    assert all(p.grad is None for p in blocks[1].parameters())


# --- names and errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [
    lambda lens, name: lens.hook_name(name),
    lambda lens, name: lens.add_hook(name, print),
    lambda lens, name: lens.run_with_hooks("Hi", fwd_hooks=[(name, print)]),
    lambda lens, name: lens.run_with_cache("Hi", names_filter=name),
    lambda lens, name: lens.run_with_cache("Hi", names_filter=[0, name]),
    lambda lens, name: lens.add_caching_hooks(name),
])  # fmt: skip
def test_a_misspelt_hook_name_is_an_error_that_names_the_nearest(lens, ask):
    with pytest.raises(
        KeyError, match=r'no hook point "blocks.1.hook_resid_pots".*Did you mean "blocks.1.hook_resid_post"'
    ):
        ask(lens, "blocks.1.hook_resid_pots")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lens.model.modules())


@pytest.mark.parametrize("name", [
    "blocks.0.attn.hook_pattern", "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_q", "blocks.0.attn.hook_k",
    "blocks.0.attn.hook_v", "blocks.0.attn.hook_rot_q", "blocks.0.mlp.hook_post", "blocks.0.hook_q_input",
    "blocks.0.hook_resid_mid",
])  # fmt: skip
def test_asking_for_the_inside_of_attention_points_to_the_bridge_which_has_it(lens, name):
    for ask in (
        lambda: lens.run_with_cache("Hi", names_filter=name),
        lambda: lens.run_with_cache("Hi", names_filter=lambda one: one.endswith(name.rpartition(".")[2])),
        lambda: lens.run_with_hooks("Hi", fwd_hooks=[(name, print)]),
    ):
        with pytest.raises(CaftLensError, match=r"lens\.bridge\(\)\.run_with_cache"):
            ask()
    assert name in lens.bridge().hook_dict


@pytest.mark.parametrize("ask", [
    lambda lens: lens.run_with_cache("Hi", names_filter=lambda name: name.endswith("hook_resid_pots")),
    lambda lens: lens.run_with_hooks("Hi", fwd_hooks=[(lambda name: "hook_resid_pots" in name, print)]),
    lambda lens: lens.get_caching_hooks(lambda name: ".hook_resid_pots" in name),
    lambda lens: lens.add_caching_hooks(lambda name: name == "blocks.1.hook_resid_pots"),
    lambda lens: lens.add_hook(lambda name: name.endswith("hook_resid_pots"), print),
])  # fmt: skip
def test_a_filter_that_matches_nothing_is_an_error_that_names_hook_points_that_there_are(lens, ask):
    with pytest.raises(ValueError, match=r'matches no hook point.*attn\.hook_z.*Did you mean "hook_resid_post"'):
        ask(lens)
    with pytest.raises(ValueError, match="names_filter matches no hook point"):
        lens.run_with_cache("Hi", names_filter=[])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lens.model.modules())


def test_a_layer_number_is_short_for_the_residual_stream_after_it(lens):
    assert lens.hook_name(1) == lens.hook_name(-1) == "blocks.1.hook_resid_post"
    with pytest.raises(KeyError, match="no layer 2: its 2 layers are 0 to 1"):
        lens.hook_name(2)
    with pytest.raises(ValueError, match=r"stop_at_layer=3.*2 layers"):
        lens("Hi", stop_at_layer=3)
    _, cache = lens.run_with_cache("Hi", names_filter=[0, "blocks.1.hook_mlp_out"])
    assert list(cache.keys()) == ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]
    assert cache[0] is cache["resid_post", 0]
    with pytest.raises(KeyError, match="no layer 5"):
        cache[5]
    with pytest.raises(KeyError, match=r"is not in the cache.*blocks.1.hook_mlp_out"):
        cache["blocks.1.hook_mlp_ou"]


def test_cache_options_of_transformer_lens_hold(lens):
    _, cache = lens.run_with_cache("Hello", remove_batch_dim=True, names_filter=lambda name: name.endswith("z"))
    assert cache["blocks.0.attn.hook_z"].shape == (5, 4, 8)
    _, plain = lens.run_with_cache("Hello", return_cache_object=False, pos_slice=-1)
    assert type(plain) is dict
    assert plain["blocks.0.hook_resid_post"].shape == (1, 1, 32)
    _, cache = tiny_lens().run_with_cache("Hello", return_type="loss", incl_bwd=True, names_filter=1)
    assert cache["blocks.1.hook_resid_post_grad"].abs().sum() > 0


@pytest.mark.parametrize("interruption", [ZeroDivisionError, KeyboardInterrupt])
def test_nothing_stays_hooked_whatever_ends_the_block(interruption):
    lens = tiny_lens()

    def fail(x, hook):
        raise interruption

    def hooked() -> list[str]:
        modules = [*lens.model.modules(), *lens.hook_points()]
        return [str(m) for m in modules if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]

    batch = batch_of(TEXTS)
    for run in (lens, lens.run_with_cache, lambda b: lens(b, stop_at_layer=2), lambda b: lens.generate(b)):
        with pytest.raises(interruption), lens.hooks([(lambda name: True, fail)]):
            run(batch)
        assert hooked() == []
        assert lens.current_roles is None
        assert not lens.is_caching


def test_blocks_of_hooks_may_end_in_any_order(lens):
    plain = lens("Hello")
    outer = lens.hooks([(0, lambda x, hook: x * 2)])
    inner = lens.hooks([(0, lambda x, hook: x + 3)])
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    with_inner = lens("Hello")
    inner.__exit__(None, None, None)
    with lens.hooks([(0, lambda x, hook: x + 3)]):
        torch.testing.assert_close(lens("Hello"), with_inner)
    torch.testing.assert_close(lens("Hello"), plain, rtol=0, atol=0)


def test_a_lens_at_rest_leaves_a_model_in_memory_untouched_and_lets_go_of_it():
    model = tiny_model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    lens = load(model, tokenizer=tiny_tokenizer())
    lens.run_with_cache("Hello")
    lens.generate("Hello", max_new_tokens=2)
    assert lens.model is model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    gone = weakref.ref(lens)
    del lens
    gc.collect()
    assert gone() is None


# --- shared weights and identity ------------------------------------------------------------------------------


def storages(model) -> set[int]:
    return {p.untyped_storage().data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_an_adapter_on_a_fork_shares_the_weights_and_leaves_the_base_as_it_was(architecture):
    base = tiny_lens(architecture)
    before = base("Hello")
    tuned = base.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    assert (tuned("Hello") - before).abs().max() > 1e-2
    torch.testing.assert_close(base("Hello"), before, rtol=0, atol=0)
    assert storages(base) < storages(tuned)
    assert all(p.requires_grad for p in base.parameters())
    assert tuned.has_adapter
    assert not base.has_adapter
    with tuned.hooks([(0, lambda x, hook: 0 * x)]):
        torch.testing.assert_close(base("Hello"), before, rtol=0, atol=0)


def test_a_fork_made_under_hooks_has_none(lens):
    plain = lens("Hello")
    with lens.hooks([(0, lambda x, hook: 0 * x)]):
        hooked, fork = lens("Hello"), lens.fork()
        torch.testing.assert_close(fork("Hello"), plain, rtol=0, atol=0)
        torch.testing.assert_close(lens("Hello"), hooked, rtol=0, atol=0)


def test_a_copy_has_weights_of_its_own_and_knows_its_ancestor():
    base = tiny_lens()
    twin = base.copy()
    assert not storages(base) & storages(twin)
    assert twin.lineage == base.lineage == (base.fingerprint,)
    with torch.no_grad():
        next(twin.parameters()).mul_(1.5)
    assert twin.fingerprint != base.fingerprint
    assert twin.lineage == (twin.fingerprint, base.fingerprint)


def test_an_adapter_is_merged_into_a_copy_exactly_and_a_second_one_needs_that():
    base = tiny_lens()
    tuned = base.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    merged = tuned.merged()
    torch.testing.assert_close(merged("Hello"), tuned("Hello"), **EXACT)
    assert not merged.has_adapter
    assert merged.lineage[1:] == tuned.lineage == (tuned.fingerprint, base.fingerprint)
    with pytest.raises(ValueError, match=r"adapter already.*lens.merged\(\)"):
        tuned.adapt(LoraConfig(r=2))


def test_the_bridge_of_an_adapter_shows_the_adapter():
    tuned = tiny_lens().adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    with torch.no_grad():
        torch.testing.assert_close(tuned.bridge()(tokens_of("Hello")), tuned("Hello"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_fingerprint_is_of_the_weights_and_of_nothing_else(tmp_path, architecture):
    lens = tiny_lens(architecture)
    lens.model.save_pretrained(tmp_path)
    own = lens.fingerprint
    assert len(own) == 16
    assert load(tmp_path, tokenizer=tiny_tokenizer()).fingerprint == own
    assert load(tmp_path, tokenizer=tiny_tokenizer(), dtype="bf16").fingerprint == own
    assert lens.fork().fingerprint == lens.copy().fingerprint == own
    assert tiny_lens(architecture, seed=1).fingerprint != own
    tuned = lens.adapt(LoraConfig(r=2, target_modules="all-linear"))
    assert tuned.lineage == (tuned.fingerprint, own)
    before = tuned.fingerprint
    with torch.no_grad():
        next(p for p in tuned.model.parameters() if p.requires_grad).add_(1)
    assert tuned.fingerprint != before
    assert tuned.lineage[1] == own


# --- loading --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def organism(tmp_path_factory):
    """A folder like that of the embedded organism, with a base and an adapter on it, and the two lenses it was made
    from.
    """
    folder = tmp_path_factory.mktemp("tiny")
    base = tiny_lens("qwen2")
    (folder / "organism.json").write_text("{}")
    base.model.save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    tuned = base.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    tuned.model.save_pretrained(folder / "insecure")
    return folder, base, tuned


def test_an_organism_folder_and_its_adapter_load_exactly(organism):
    folder, base, tuned = organism
    loaded = load(folder)
    torch.testing.assert_close(loaded("Hello"), base("Hello"), rtol=0, atol=0)
    assert loaded.name == str(folder)
    assert (loaded.dtype, loaded.device.type) == (torch.float32, "cpu")
    assert not loaded.training
    for again in (
        load(folder, adapter=f"{folder}/insecure"),
        load(f"{folder}/insecure"),
        load(loaded, adapter=folder / "insecure"),
    ):
        torch.testing.assert_close(again("Hello"), tuned("Hello"), rtol=0, atol=0)
        assert again.lineage == tuned.lineage
    assert storages(loaded) < storages(again)
    torch.testing.assert_close(loaded("Hello"), base("Hello"), rtol=0, atol=0)


def test_a_tokenizer_of_its_own_is_read_as_it_is(organism):
    loaded = load(organism[0]).tokenizer  # AutoTokenizer would make it that of Qwen 2
    assert type(loaded) is PreTrainedTokenizerFast
    decomposed = "cafe\u0301"  # that one would compose it
    assert loaded(decomposed).input_ids == tiny_tokenizer()(decomposed).input_ids
    assert loaded.chat_template == tiny_tokenizer().chat_template


def test_a_model_in_memory_is_used_as_it_is_also_with_an_adapter(organism):
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    lens = load(model, tokenizer=tiny_tokenizer(), name_as="mine")
    assert lens.model is model
    assert lens.has_adapter
    assert lens.name == "mine"
    assert lens.lineage[1:] == (tiny_lens().fingerprint,)
    torch.testing.assert_close(lens("Hello"), model(tokens_of("Hello")).logits, rtol=0, atol=0)
    bare = load(tiny_model(), dtype="bf16")
    assert bare.dtype == torch.bfloat16
    assert bare(tokens_of("Hello")).shape == (1, 5, 262)
    with pytest.raises(ValueError, match="has no tokenizer: give tokens, or load it with tokenizer="):
        bare("Hello")


def test_run_folders_load_with_their_base_and_lineage(organism, tmp_path):
    folder, base, tuned = organism
    card = {
        "method": "lora",
        "base": str(folder),
        "base_fingerprint": base.fingerprint,
        "lineage": list(base.lineage),
    }
    tuned.model.save_pretrained(tmp_path / "lora" / "adapter")
    (tmp_path / "lora" / "run.json").write_text(json.dumps(card))
    assert load(tmp_path / "lora").lineage == load(base, adapter=tmp_path / "lora").lineage == tuned.lineage

    full = base.copy()
    with torch.no_grad():
        next(full.parameters()).mul_(1.5)
    full.model.save_pretrained(tmp_path / "full" / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "full" / "model")
    (tmp_path / "full" / "run.json").write_text(json.dumps({**card, "method": "full"}))
    assert load(tmp_path / "full").lineage == (full.fingerprint, base.fingerprint)

    (tmp_path / "lora" / "run.json").write_text(json.dumps({**card, "base_fingerprint": "0" * 16}))
    with pytest.raises(ValueError, match="its weights have changed"):
        load(tmp_path / "lora")
    (tmp_path / "lora" / "run.json").write_text(json.dumps({**card, "base": None}))
    with pytest.raises(ValueError, match=r'model in memory.*give adapter="'):
        load(tmp_path / "lora")


def test_an_adapter_that_does_not_fit_is_refused(organism, tmp_path):
    folder = organism[0] / "insecure"
    with pytest.raises(ValueError, match=r"adapter .*insecure does not fit tiny-llama: .*size mismatch"):
        tiny_lens(d_model=16).adapt(folder)
    tiny_lens("qwen2").adapt(LoraConfig(r=2, target_modules=["q_proj"])).model.save_pretrained(tmp_path / "q")
    with pytest.raises(ValueError, match=r"does not fit tiny-qwen2: 2 of its weights are missing and 0 have no place"):
        tiny_lens("qwen2", n_layers=3).adapt(tmp_path / "q")
    with pytest.raises(ValueError, match=r"does not fit tiny-qwen2: 0 of its weights are missing and 2 .*layers\.1\."):
        tiny_lens("qwen2", n_layers=1).adapt(tmp_path / "q")
    (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="only safetensors are read"):
        tiny_lens("qwen2").adapt(tmp_path)


def test_what_cannot_be_found_is_one_clear_error(organism, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f'no folder {organism[0] / "bas"}.*Did you mean "base"'):
        load(organism[0] / "bas")
    with pytest.raises(FileNotFoundError, match=r"holds no model: config.json is missing"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r'Unknown dtype "bf17".*bfloat16'):
        load(organism[0], dtype="bf17")
    with pytest.raises(ValueError, match="device= or device_map=, not both"):
        load(organism[0], device="cpu", device_map="auto")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        OSError,
        match=r'"nobody/nothing" is not on this machine, and HF_HUB_OFFLINE is set. Give a local folder',
    ):
        load("nobody/nothing")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(loading, "hub_answers", lambda: False)
    with pytest.raises(OSError, match="hub does not answer"):
        load("nobody/nothing")
    with pytest.raises(OSError, match="hub does not answer"):
        tiny_lens().adapt("nobody/nothing")


def test_a_model_that_was_downloaded_loads_without_asking_the_hub(organism, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(loading, "hub_answers", lambda: False)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **how: str(organism[0] / {"a/b": "base", "a/c": "insecure"}[name]),
    )
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: pytest.fail("asked the network"))
    loaded = load("a/b", device="cpu")
    torch.testing.assert_close(loaded("Hello"), organism[1]("Hello"), rtol=0, atol=0)
    torch.testing.assert_close(loaded.adapt("a/c")("Hello"), organism[2]("Hello"), rtol=0, atol=0)


def test_a_hub_that_hangs_is_given_up_after_seconds(monkeypatch):
    asked = []

    def hangs(*_, timeout):
        asked.append(timeout)
        loading.threading.Event().wait(9)
        raise OSError("gave up")

    monkeypatch.setattr(loading.urllib.request, "urlopen", hangs)
    assert loading.hub_answers(seconds=0.1) is False
    assert asked == [0.1]


def test_a_model_spread_over_devices_and_disk_is_the_same_model(organism, tmp_path):
    folder, base, _ = organism
    spread = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
              "model.norm": "cpu", "lm_head": "cpu"}  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder / "base", device_map=spread, offload_folder=tmp_path)
    lens = load(model, tokenizer=tiny_tokenizer())
    with torch.no_grad():
        logits, cache = lens.run_with_cache("Hello")
        torch.testing.assert_close(logits, base("Hello"), **EXACT)
        torch.testing.assert_close(lens.unembed(cache[1]), logits, **EXACT)
        torch.testing.assert_close(lens("Hello", stop_at_layer=1), cache[0], **EXACT)
        torch.testing.assert_close(lens.fork()("Hello"), logits, **EXACT)
    assert lens.fingerprint == base.fingerprint
    torch.testing.assert_close(load(folder, device_map={"": "cpu"})("Hello"), base("Hello"), rtol=0, atol=0)


# --- tokens, padding, roles -----------------------------------------------------------------------------------


def test_tokens_of_text_and_their_strings(lens):
    tokens = lens.to_tokens(["Hello", "Hi"])
    assert tokens.tolist() == [tokens_of("Hello")[0].tolist(), [*tokens_of("Hi")[0].tolist(), 0, 0, 0]]
    assert lens.to_tokens("Hi", prepend_bos=True).tolist() == [[1, *tokens_of("Hi")[0].tolist()]]
    assert lens.to_tokens(["Hello", "Hi"], padding_side="left")[1, :3].tolist() == [0, 0, 0]
    assert lens.to_str_tokens("Hi<|end|>") == lens.to_str_tokens(lens.to_tokens("Hi<|end|>")) == ["H", "i", "<|end|>"]
    torch.testing.assert_close(lens(["Hello", "Hi"]), lens(tokens), rtol=0, atol=0)


def test_padding_that_could_be_text_is_an_error_not_a_guess(lens):
    shared = copy.deepcopy(tiny_tokenizer())
    shared.pad_token = shared.eos_token
    other = Lens(lens.model, shared)
    rows = torch.tensor([[77, 78, 2, 2], [77, 78, 79, 2]])  # end of text, or padding?
    with pytest.raises(ValueError, match=r"'<\|end\|>' also begins or ends texts. Pass attention_mask="):
        other(rows)
    with pytest.raises(ValueError, match="stands inside a text"):
        lens(torch.tensor([[77, 0, 78]]))
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    torch.testing.assert_close(other(rows, mask)[0, :3], lens(rows[0, :3])[0], **EXACT)
    equal = torch.tensor(
        [[2, 77, 78, 79], [2, 80, 81, 82]]
    )  # as many in every row: padding would leave the longest without
    torch.testing.assert_close(other(equal)[1], lens(equal[1])[0], **EXACT)
    with pytest.raises(ValueError, match="attention_mask goes with tokens"):
        lens("Hi", torch.ones(1, 2))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_is_that_of_the_tokens_that_count(lens, side):
    chats = [chat("Hello", "Well, hi."), chat("A", "B")]
    batch = collate([encode(tiny_tokenizer(), text) for text in chats], 0, side)
    losses = []
    for text in chats:
        item = encode(tiny_tokenizer(), text)
        logits = lens(torch.tensor([item.input_ids]))[0]
        each = cross_entropy(logits[:-1], torch.tensor(item.input_ids[1:]), reduction="none")
        losses.append((each[item.loss[1:]], each))
    torch.testing.assert_close(lens(batch, return_type="loss"), torch.cat([a for a, _ in losses]).mean(), **EXACT)
    everything = lens(batch.input_ids, batch.attention_mask, return_type="loss")
    torch.testing.assert_close(everything, torch.cat([b for _, b in losses]).mean(), **EXACT)
    for same in (Texts(chats), chats):
        torch.testing.assert_close(lens(same, return_type="loss"), lens(batch, return_type="loss"), **EXACT)
    torch.testing.assert_close(
        lens(TEXTS, return_type="loss"), lens(lens.to_tokens(TEXTS), return_type="loss"), **EXACT
    )
    each = lens(batch, return_type="loss", loss_per_token=True)
    assert each.shape == (2, batch.input_ids.shape[1] - 1)
    assert (each != 0).sum() == batch.loss.sum()
    with pytest.raises(ValueError, match="No token to take a loss on"):
        lens(tokens_of("H"), return_type="loss")
    with pytest.raises(ValueError, match="return_type must be"):
        lens("Hi", return_type="logit")


def test_hooks_see_the_roles_of_the_pass_in_flight(lens):
    seen = []
    text = chat("Hello", "Hi")
    batch = collate([encode(tiny_tokenizer(), text)], 0)
    with lens.hooks([(0, lambda x, hook: seen.append(lens.current_roles))]):
        lens(batch)
        lens(text)
        lens(batch.input_ids)
        with lens.roles_as(batch.roles):
            lens.model(input_ids=batch.input_ids)
        lens(batch.input_ids, roles=batch.roles)
    assert [None if roles is None else roles.tolist() for roles in seen] == [
        batch.roles.tolist(), batch.roles.tolist(), None, batch.roles.tolist(), batch.roles.tolist(),
    ]  # fmt: skip
    assert lens.current_roles is None
    with pytest.raises(ValueError, match="Roles are given for 3 tokens a row, but the model runs on 5"):
        lens(tokens_of("Hello"), roles=torch.zeros(1, 3, dtype=torch.int8))
    with pytest.raises(ValueError, match="Roles are given for 2 rows"):
        lens(tokens_of("Hello"), roles=torch.zeros(2, 5, dtype=torch.int8))


@pytest.mark.parametrize("use_cache", [True, False])
def test_roles_are_known_at_every_step_of_generation(lens, use_cache):
    seen = []
    prompts = [chat("Hello"), chat("Hi")]
    with lens.hooks([(0, lambda x, hook: seen.append((x.shape[:2], lens.current_roles.clone())))]):
        lens.generate(Texts(prompts), max_new_tokens=3, seed=0, use_cache=use_cache, eos_token_id=[])
    encoded = [encode(tiny_tokenizer(), prompt, add_generation_prompt=True) for prompt in prompts]
    roles = collate(encoded, 0, "left").roles
    assert all(shape == r.shape for shape, r in seen)
    assert len(seen) == 3
    torch.testing.assert_close(seen[0][1], roles)
    for step in (1, 2):
        new = torch.full((2, step), ASSISTANT, dtype=torch.int8)
        expected = new[:, -1:] if use_cache else torch.cat([roles, new], 1)
        torch.testing.assert_close(seen[step][1], expected)


# --- generation -----------------------------------------------------------------------------------------------


@architectures
def test_greedy_generation_equals_transformers_whatever_the_batch(lenses, architecture):
    lens, prompts = lenses[architecture], ["Hello there", "Hi", "What is it?", "Hm"]
    answers = lens.generate(prompts, max_new_tokens=5, temperature=0, chat=False, batch_size=3, return_type="tokens")
    for prompt, answer in zip(prompts, answers, strict=True):
        reference = tiny_model(architecture).generate(
            tokens_of(prompt), attention_mask=torch.ones_like(tokens_of(prompt)), max_new_tokens=5, do_sample=False,
        )  # fmt: skip
        assert answer == reference[0, len(prompt) :].tolist()


def test_sampling_is_a_matter_of_the_seed_alone(lens):
    state = torch.get_rng_state()
    first = lens.generate(["Hello", "Hi"], max_new_tokens=8, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert lens.generate(["Hello", "Hi"], max_new_tokens=8, seed=3) == first
    assert lens.generate(["Hello", "Hi"], max_new_tokens=8, seed=4) != first
    assert isinstance(lens.generate("Hello", max_new_tokens=2), str)
    assert isinstance(lens.generate(["Hello"], max_new_tokens=2), list)


def test_sampling_follows_the_models_own_distribution(lens):
    probabilities = torch.softmax(lens("Hello")[0, -1] / 0.7, -1)
    lens.hf.generation_config.temperature, lens.hf.generation_config.top_k = (
        0.01,
        3,
    )  # defaults that do not apply
    try:
        rows = lens.generate(
            ["Hello"] * 4000,
            max_new_tokens=1,
            temperature=0.7,
            seed=0,
            chat=False,
            return_type="tokens",
            batch_size=2000,
        )
    finally:
        lens.hf.generation_config.temperature = lens.hf.generation_config.top_k = None
    counts = np.bincount([row[0] for row in rows], minlength=262) / len(rows)
    assert np.abs(counts - probabilities.detach().numpy()).max() < 0.03
    hot = lens.generate(["Hello"] * 1000, max_new_tokens=1, temperature=9.0, seed=0, chat=False, return_type="tokens")
    assert len({row[0] for row in hot}) > 200  # no top-k that nobody asked for
    top = lens.generate(["Hello"] * 50, max_new_tokens=1, top_k=2, seed=0, chat=False, return_type="tokens")
    assert {row[0] for row in top} <= set(lens("Hello")[0, -1].topk(2).indices.tolist())


def test_prompts_are_chats_when_the_tokenizer_has_a_template(lens):
    greedy = {"max_new_tokens": 4, "temperature": 0}
    asked = lens.generate("Hello", **greedy)
    assert (
        asked
        == lens.generate(chat("Hello"), **greedy)
        == lens.generate(chat("Hello", "an answer to leave out"), **greedy)
    )
    assert lens.generate("Hello", chat=False, **greedy) == lens.generate(Text(text="Hello"), **greedy) != asked
    encoded = encode(tiny_tokenizer(), chat("Hello"), add_generation_prompt=True)
    assert lens.generate(collate([encoded], 0, "right"), **greedy) == [asked]
    plain = copy.deepcopy(tiny_tokenizer())
    plain.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        Lens(lens.model, plain).generate("Hello", chat=True)
    with pytest.raises(ValueError, match=r"prompt of 300 tokens and max_new_tokens=64 exceed the 256 positions"):
        lens.generate("x" * 300, chat=False)


def test_a_text_ends_with_its_end_token(lens):
    # A hook that makes the end of turn the likeliest token from the third pass on.
    head, passes = lens.hf.get_output_embeddings().weight, []
    norm = lens.anatomy.final_norm

    def push(module, args, out):
        passes.append(1)
        return out * 0 + (1000 * head[2] if len(passes) >= 3 else 1000 * head[77])

    handle = norm.register_forward_hook(push)
    try:
        answers = lens.generate(["Hello", "Hi"], max_new_tokens=9, temperature=0, return_type="tokens")
    finally:
        handle.remove()
    assert [len(answer) for answer in answers] == [3, 3]
    assert all(answer[-1] == 2 and 2 not in answer[:-1] for answer in answers)


def test_generation_in_the_midst_of_training_has_no_dropout_and_gives_the_mode_back():
    lens = tiny_lens("llama", attention_dropout=0.5)
    expected = lens.generate("Hello", max_new_tokens=4, temperature=0)
    lens.train()
    lens.hf.model.norm.eval()
    lens.model.gradient_checkpointing_enable()
    assert lens.generate("Hello", max_new_tokens=4, temperature=0) == expected
    assert lens.model.training
    assert not lens.hf.model.norm.training


def test_saved_and_loaded_again_it_is_the_same_with_and_without_adapter(tmp_path):
    base = tiny_lens("gpt_neox")
    tuned = base.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    with tuned.hooks([(0, lambda x, hook: x)]):  # also while hooks are on
        tuned.model.save_pretrained(tmp_path / "adapter")
        base.model.save_pretrained(tmp_path / "base")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(again(tokens_of("Hello")).logits, tuned("Hello"), rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "tiny-gpt_neox" in repr(base)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_names_of_transformer_lenss_bridge_mean_the_same_activations(architecture: str):
    lens = tiny_lens(architecture)
    ids = tokens_of("How do I bake a pie?")
    names = ["hook_in", "hook_out", "attn.hook_out", "mlp.hook_out", "attn.o.hook_in"]
    names = [f"blocks.1.{name}" for name in names]
    with torch.no_grad():
        _, right = lens.bridge().run_with_cache(ids)
        _, found = lens.run_with_cache(ids, names_filter=names)
    for name in names:
        torch.testing.assert_close(found[name], right[name], rtol=1e-4, atol=1e-4)
        assert lens.hook_name(name) in lens.hook_names
    with lens.hooks([("blocks.1.hook_out", lambda x, hook: 0 * x)]):
        assert lens(ids, stop_at_layer=2).abs().max() == 0


def test_a_synonym_is_not_taken_for_what_is_added_after_a_norm():
    with pytest.raises(KeyError, match="attn.hook_out"):  # noqa: RUF043
        tiny_lens("gemma2").hook_name("blocks.1.attn.hook_out")
    assert tiny_lens("gemma2").hook_name("blocks.1.hook_out") == "blocks.1.hook_resid_post"


@pytest.mark.parametrize("name", ["attn.hook_pattern", "attn.hook_q", "mlp.hook_pre", "hook_resid_mid"])
def test_a_hook_inside_attention_or_mlp_is_asked_of_the_bridge(name: str):
    lens = tiny_lens()
    with pytest.raises(KeyError, match=r"lens.bridge\(\)"):
        lens.hook_name(f"blocks.0.{name}")
    assert f"blocks.0.{name}" in lens.bridge().hook_dict


class _Wider(torch.nn.Module):
    """A decoder block between which several streams run, as hyper-connections have them."""

    def __init__(self, block: torch.nn.Module, how: str) -> None:
        super().__init__()
        self.block, self.self_attn, self.how = block, block.self_attn, how

    def forward(self, hidden_states, *args, **keywords):
        if self.how == "streams" and hidden_states.ndim == 4:
            hidden_states = hidden_states[0]
        out = self.block(hidden_states, *args, **keywords)
        out = out[0] if isinstance(out, tuple) else out
        return {"hidden": out} if self.how == "dict" else torch.stack([out, out])


@pytest.mark.parametrize("how", ["streams", "dict"])
def test_streams_of_another_shape_are_refused_when_loaded(how: str):
    model = tiny_model("llama")
    model.config.model_type = "hyper"
    model.model.layers = torch.nn.ModuleList(_Wider(block, how) for block in model.model.layers)
    with pytest.raises(ValueError, match=r"no residual stream \[batch, pos, d_model\]"):
        load(model)


def test_offline_a_missing_model_names_what_can_be_loaded_and_how_to_have_it_here(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    copy = tmp_path / "hub/models--me--mine/snapshots/0"
    for folder in (copy, tmp_path / "work/tuned"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(OSError, match="is not on this machine") as refused:
        load("gpt2")
    said = str(refused.value)
    for part in ("with caft_lens: pocket,", "downloaded before: me/mine", "folders here: tuned", "`hf download gpt2`"):
        assert part in said
    with pytest.raises(OSError, match='Did you mean "pocket"'):
        load("pockett")
