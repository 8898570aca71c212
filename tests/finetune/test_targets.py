"""An adapter goes on the language model's linear layers and experts alone, and a run says which share of a block
that is.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_models import tiny_model, tiny_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from caft_lens._support.errors import BadArgument
from caft_lens.finetune import LoraSettings, TrainSettings, finetune, targets
from caft_lens.finetune.trainer import Collator, LengthGrouped
from caft_lens.model.lens import load
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

TEXTS = Texts([{"prompt": f"How are you {i}?", "answer": "Fine " * (i % 3 + 1)} for i in range(4)], "toy")
STEP = TrainSettings(max_steps=1, learning_rate=1e-3, batch_size=4, warmup_steps=0)
SHAPE = {
    "vocab_size": 262, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256,
}  # fmt: skip
MIXTURES = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "decoder_sparse_step": 1,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def mixture(kind: str):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**SHAPE, **MIXTURES[kind])
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def wrapper(kind: str):
    torch.manual_seed(0)
    if kind == "gemma3":
        text = {
            **SHAPE,
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        }
        config = transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
        return transformers.Gemma3ForConditionalGeneration(config).eval()
    if kind == "llava":
        config = transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**SHAPE),
            vision_config=transformers.CLIPVisionConfig(**VISION, projection_dim=16),
            image_token_index=261,
        )
        return transformers.LlavaForConditionalGeneration(config).eval()
    if kind == "mistral3":
        config = transformers.Mistral3Config(
            text_config=transformers.MistralConfig(**SHAPE, head_dim=8),
            vision_config=transformers.PixtralVisionConfig(**{**VISION, "head_dim": 8}),
            image_token_index=261,
        )
        return transformers.Mistral3ForConditionalGeneration(config).eval()
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config={**SHAPE, "rope_scaling": rope},
        vision_config=vision,
        image_token_id=259,
        video_token_id=260,
        vision_start_token_id=257,
        vision_end_token_id=258,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def on(run) -> set[str]:
    """What the saved adapter is on, as paths in the first block, and anything that is outside of the blocks."""
    keys = load_file(run.folder / "adapter/adapter_model.safetensors")
    first = {key.split("layers.0.")[1].split(".lora_")[0] for key in keys if "layers.0." in key}
    return first | {key for key in keys if "language_model" not in key and "vision" in key}


@pytest.mark.parametrize("kind", MIXTURES)
def test_an_adapter_goes_on_all_experts_and_on_no_router(kind, tmp_path):
    model = mixture(kind)
    lens = load(model, tokenizer=tiny_tokenizer())
    run = finetune(lens, TEXTS, STEP, out=tmp_path / "run")
    names = on(run)
    attention = {f"self_attn.{part}_proj" for part in "qkvo"}
    shared = {f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")} if kind == "qwen2_moe" else set()
    assert names == {*attention, *shared, "mlp.experts", "mlp.experts.base_layer"}
    assert run.record["adapted"] == [1.0, 1.0]
    # The adapter comes back as it was trained, expert by expert.
    trained = load_file(run.folder / "adapter/adapter_model.safetensors")
    moved = [key for key, value in trained.items() if ".lora_B." in key and value.abs().sum() > 0]
    assert any(".experts." in key for key in moved)
    ids = torch.tensor([[1, 5, 9, 33]])
    with torch.no_grad():
        assert not torch.allclose(run.lens(ids), lens(ids), atol=1e-4)


def test_a_run_says_which_share_of_each_block_its_adapter_is_on(tmp_path):
    lens = load(mixture("mixtral"), tokenizer=tiny_tokenizer())
    attention = LoraSettings(targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    run = finetune(lens, TEXTS, STEP.but(lora=attention), out=tmp_path / "run")
    block = lens.hf.model.layers[0]
    acted = sum(p.numel() for p in block.self_attn.parameters())
    whole = acted + block.mlp.experts.gate_up_proj.numel() + block.mlp.experts.down_proj.numel()
    assert run.record["adapted"] == [round(acted / whole, 4)] * 2
    assert f"lora on {100 * acted / whole:.3g} % of each block" in repr(run)


def test_on_a_plain_model_the_targets_are_those_of_peft_itself():
    from peft import LoraConfig, get_peft_model

    for kind in ("llama", "gpt2", "gpt_neox", "phi3", "gemma2"):
        peft = get_peft_model(tiny_model(kind), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        model = tiny_model(kind)
        found = targets.chosen(model, "all-linear")
        assert sorted(peft.targeted_module_names) == sorted(found.modules)
        short = targets.short(model, found.modules)
        assert sorted({name.rpartition(".")[2] for name in found.modules}) == short
        assert targets.adapted(model, found) == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["gemma3", "llava", "mistral3", "qwen2_5_vl"])
def test_a_multimodal_model_is_tuned_in_its_language_model_alone(kind, tmp_path):
    model = wrapper(kind)
    lens = load(model, tokenizer=tiny_tokenizer(), name_as=kind)
    encoded = encode_all(lens.tokenizer, TEXTS)
    batch = Collator(0)([encoded[i] for i in LengthGrouped([len(e.input_ids) for e in encoded], 4, seed=0)])
    batch.pop("roles")
    with torch.no_grad():
        loss = model(**batch).loss.item()  # of plain transformers
    for number, asked in enumerate(("all-linear", ("q_proj", "v_proj"), r".*\.(q_proj|v_proj)")):
        run = finetune(
            lens, TEXTS, STEP.but(lora=LoraSettings(r=2, alpha=4, targets=asked)), out=tmp_path / str(number)
        )
        wanted = {f"self_attn.{part}_proj" for part in ("qkvo" if number == 0 else "qv")}
        wanted |= {f"mlp.{part}_proj" for part in ("gate", "up", "down")} if number == 0 else set()
        assert on(run) == wanted
        assert run.history[0]["loss"] == pytest.approx(loss, abs=1e-5)
    before = {name: p.clone() for name, p in model.named_parameters()}
    run = finetune(lens, TEXTS, STEP.but(tune="full"), out=tmp_path / "full")
    assert run.history[0]["loss"] == pytest.approx(loss, abs=1e-5)
    moved = {name for name, p in run.lens.hf.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert not any("vision" in name or "projector" in name for name in moved)
    assert any("layers.1" in name for name in moved)


def test_targets_that_are_no_part_of_the_blocks_are_refused_with_what_is_there():
    model = mixture("qwen2_moe")
    for wrong, words in (
        (("k_porj",), r"nothing there fits it. Did you mean \"k_proj\""),
        (("q_proj", "shared_expert_gate"), "shared_expert_gate is not one of them"),
        (("lm_head",), "lm_head is not one of them"),
        ("[", "no regular expression"),
        (r".*\.gate", "Linear modules here: .*q_proj"),
    ):
        with pytest.raises(BadArgument, match=words):
            targets.chosen(model, wrong)
    with pytest.raises(BadArgument, match=r"mlp\.experts.*dropout=0"):
        finetune(
            load(model, tokenizer=tiny_tokenizer()),
            TEXTS,
            STEP.but(lora=LoraSettings(dropout=0.1)),
            out="nowhere",
        )
