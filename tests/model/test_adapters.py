"""Adapters of every PEFT type: a whole one loads exactly, one with a weight missing or too many is refused, virtual
tokens are refused.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens._support.errors import BadModel

Q = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
KINDS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=4, **Q),
    "lora with a module saved": lambda: peft.LoraConfig(r=4, modules_to_save=["lm_head"], **Q),
    "lora on embeddings": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"
    ),
    "lora of single tokens": lambda: peft.LoraConfig(r=4, trainable_token_indices=[1, 2], **Q),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, **Q),
    "adalora": lambda: peft.AdaLoraConfig(total_step=10, **Q),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "vera": lambda: peft.VeraConfig(r=4, **Q),
    "loha": lambda: peft.LoHaConfig(r=4, **Q),
    "lokr": lambda: peft.LoKrConfig(r=4, **Q),
    "oft": lambda: peft.OFTConfig(oft_block_size=8, r=0, **Q),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, **Q),
    "norms": lambda: peft.LNTuningConfig(task_type="CAUSAL_LM"),
}
VIRTUAL: dict[str, Any] = {
    "prefix tuning": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prompt tuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "p tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, task_type="CAUSAL_LM"),
}
IDS = torch.tensor([[1, 20, 30, 40]])


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")
        yield


def saved(folder: Path, config: Any) -> tuple[torch.Tensor, Path]:
    """The logits of a model with a shaken adapter by PEFT itself, and where the adapter lies."""
    model = peft.get_peft_model(tiny_model(), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(str(folder))
        return model.eval()(input_ids=IDS).logits, folder / "adapter_model.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_adapter_is_exact_and_half_of_one_or_one_too_many_is_refused(kind: str, tmp_path: Path):
    right, file = saved(tmp_path, KINDS[kind]())
    base = tiny_lens()
    torch.testing.assert_close(base.adapt(tmp_path)(IDS), right, rtol=1e-5, atol=1e-5)
    assert (base(IDS) - right).abs().max() > 1e-3

    whole = load_file(file)
    last = max(key for key in whole if "embed_tokens.base_layer" not in key)
    save_file({key: value for key, value in whole.items() if key != last}, file, {"format": "pt"})
    with pytest.raises(BadModel, match="1 of its weights are missing and 0 have no place"):
        base.adapt(tmp_path)
    save_file({**whole, last.replace("model.layers.1", "model.layers.7") + "x": whole[last].clone()}, file)
    with pytest.raises(BadModel, match="0 of its weights are missing and 1 have no place"):
        base.adapt(tmp_path)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_refused_from_disk_and_in_memory(kind: str, tmp_path: Path):
    _, _ = saved(tmp_path, VIRTUAL[kind]())
    with pytest.raises(BadModel, match=f"{kind}: it puts 3 virtual tokens"):
        tiny_lens().adapt(tmp_path)
    with pytest.raises(BadModel, match="virtual tokens"):
        cl.load(peft.get_peft_model(tiny_model(), VIRTUAL[kind]()), tokenizer=tiny_tokenizer())
    with pytest.raises(BadModel, match="virtual tokens"):
        tiny_lens().adapt(VIRTUAL[kind]())


def test_an_adapter_of_another_width_or_a_broken_file_is_one_clear_error(tmp_path: Path):
    _, file = saved(tmp_path, KINDS["ia3"]())
    with pytest.raises(BadModel, match="does not fit"):
        tiny_lens(d_model=16).adapt(tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadModel, match="does not fit"):
        tiny_lens().adapt(tmp_path)
