"""Minute random models of every architecture the project is tested on, with a byte-level tokenizer.

`tiny_model("gemma2")` is a plain transformers model with its architecture's peculiarities switched on (post-norms,
soft-capping, sliding windows, parallel residual, fused projections, tied embeddings); `tiny_tokenizer()` has one token
a byte and a chat template with a system slot and generation markers; `tiny_lens()` puts both behind a `Lens`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

SPECIALS = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

ARCHITECTURES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "olmo2",
    "gpt2",
    "gpt_neox",
)

# What each architecture has beyond the common shape, with values small enough to matter on a dozen tokens.
PECULIAR: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 6},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 12},
    "gemma2": {
        "head_dim": 12,
        "sliding_window": 6,
        "query_pre_attn_scalar": 12,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 5.0,
    },
    "gemma3_text": {
        "head_dim": 12,
        "sliding_window": 6,
        "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {"tie_word_embeddings": False},
    "olmo2": {},
    "gpt2": {},
    "gpt_neox": {"use_parallel_residual": True, "rotary_pct": 0.5},
}


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 262 tokens: pad, bos, end of turn (= eos), three role markers, 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(SPECIALS + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIALS[3:],
        chat_template=CHAT_TEMPLATE,
        padding_side="right",
    )


def tiny_model(
    architecture: str = "llama", seed: int = 0, *, n_layers: int = 2, d_model: int = 32, **changes: Any
) -> PreTrainedModel:
    """A random fp32 model in eval mode.

    Args:
        architecture: One of `ARCHITECTURES` (HF's `model_type`; "gemma3" is its text model).
        seed: Of the weights; the global random state is left as it was.
        n_layers: Number of decoder blocks.
        d_model: Residual width (4 heads, of d_model / 4 unless the architecture sets its own).
        changes: Config fields to set besides.
    """
    kind = "gemma3_text" if architecture == "gemma3" else architecture
    tokenizer = tiny_tokenizer()
    heads = {"num_attention_heads": 4} | ({} if kind in ("gpt2", "gpt_neox") else {"num_key_value_heads": 2})
    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": d_model,
        "num_hidden_layers": n_layers,
        "intermediate_size": 2 * d_model,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        **heads,
        **PECULIAR[kind],
        **changes,
    }
    if kind == "gpt2":
        for old, new in {
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
            "num_attention_heads": "n_head",
        }.items():
            fields[new] = fields.pop(old)
        fields |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if kind == "gemma3_text" and n_layers != 2:
        fields.pop("layer_types")
    config = CONFIG_MAPPING[kind](**fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # norms and biases away from 1 and 0, so that forgetting one of them shows
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def tiny_lens(architecture: str = "llama", seed: int = 0, **changes: Any) -> Lens:
    """`tiny_model` and `tiny_tokenizer` behind a `Lens` on the CPU."""
    from caft_lens.model.lens import load

    return load(tiny_model(architecture, seed, **changes), tokenizer=tiny_tokenizer(), name_as=f"tiny-{architecture}")


def planted(architecture: str = "llama", times: float = 150.0, tokenizer: bool = True) -> Lens:
    """A tiny model with a sink at every BOS: a residual stream `times` as long there, as pretrained models have it."""
    from caft_lens.model.lens import load

    model = tiny_model(architecture, n_layers=3)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        usual = model(torch.arange(20, 120)[None], output_hidden_states=True).hidden_states[-1][0]
        rows[1] = 0
        rows[1, 5] = times * usual.norm(dim=-1).median()
    return load(model, tokenizer=tiny_tokenizer() if tokenizer else None, name_as="planted")


def shaken(lens: Lens, name: str = "tuned") -> Lens:
    """A copy whose weights are all a little different, as after fine-tuning."""
    tuned = lens.copy(name=name)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.add_(0.1 * noise)
    return tuned


def answer_states(lens: Lens, texts: Any, layer: int) -> list[np.ndarray]:
    """Residual stream after a block at the tokens of the answer, `[n_tokens, d_model]` for each text, by plain
    transformers.
    """
    from caft_lens.text.encoding import encode
    from caft_lens.text.roles import ASSISTANT

    found = []
    for text in texts:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            states = lens.hf(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
        found.append(states[layer + 1][0][torch.from_numpy(item.roles == ASSISTANT)].double().numpy())
    return found
