"""Chat templates as models in the wild write them, and two byte-level tokenizers to put them on.

The templates keep what makes each family hard: a default system message (ChatML as in Qwen), trimmed contents (Llama
3), a renamed assistant and a refused system role (Gemma), a system message merged into the first user turn (Mistral,
Llama 2), markers of generation, thoughts cut out of earlier answers (Qwen 3), no special token at all (Alpaca).
"""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = [
    "<pad>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<|user|>",
    "<|assistant|>",
]

QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
    "'<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = '<|begin_of_text|>' + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}"
    "{% set loop_messages = messages[1:] %}"
    "{% else %}{% set loop_messages = messages %}{% endif %}{{ '<s>' }}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{% if loop.last and system_message is defined %}"
    "{{ '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + '</s>'}}{% endif %}{% endfor %}"
)

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<s>' + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + '</s>' }}{% endif %}{% endfor %}"
)

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + '</s>' }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + '</s>' }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + '</s>' }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

THINKING = (
    "{% for message in messages %}{% set content = message.content %}"
    "{% if message.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
)

# What is asked ends with the bare header, what is trained has a block of thought in the last answer: empty when there
# is none; earlier thoughts are cut. Without thinking, the prompt has the empty block.
QWEN3 = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content or '' %}"
    "{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ content }}"
    "{% for call in m.tool_calls or [] %}{% set call = call.function or call %}"
    '{{ \'<tool_call>\n{"name": "\' + call.name + \'", "arguments": \' + (call.arguments | tojson) + '
    "'}\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% elif m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)

# Every answer is cut after its thought, and what is asked opens one: DeepSeek's distilled models.
R1 = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|assistant|>' + m.content.split('</think>')[-1] + '</s>' }}"
    "{% else %}{{ '<|user|>' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|assistant|><think>\n' }}{% endif %}"
)

# What is asked ends before the name of the channel: gpt-oss.
CHANNELS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant<|channel|>final<|message|>' + m.content + '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '<|message|>' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)

# A thought stands in the answer's block, empty or not, and tool outputs are written as JSON: GLM and Llama 3.1 at once.
BLOCKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\n<think>' }}"
    "{% if loop.last %}{{ m.reasoning_content or '' }}{% endif %}{{ '</think>\n' + m.content + '</s>' }}"
    "{% elif m.role == 'tool' %}{{ '<|user|>' + (m.content | tojson) + '</s>' }}{% else %}"
    "{{ '<|user|>' + m.content + '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

ALPACA = (
    "{% for message in messages %}{{ '### ' + message.role + ':\n' + message.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)

SKIPS_EMPTY = (
    "{% for message in messages %}{% if message.content %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)

FAMILIES = {
    "qwen": QWEN, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "llama2": LLAMA2, "zephyr": ZEPHYR,
    "marked": MARKED, "alpaca": ALPACA,
}  # fmt: skip
TAKES_SYSTEM = [name for name in FAMILIES if name != "gemma"]
TRIMS = {"llama3", "gemma", "llama2"}
CLOSING = {
    "qwen": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>", "llama2": " </s>",
    "zephyr": "</s>", "marked": "<|im_end|>", "alpaca": "",
}  # fmt: skip


def _wrap(tokenizer: Tokenizer, template: str, bos: str | None) -> PreTrainedTokenizerFast:
    if bos:
        number = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=template,
    )


def bytes_tokenizer(template: str = QWEN, bos: str | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, so that every boundary between characters is one between tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(SPECIALS + alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    return _wrap(tokenizer, template, bos)


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # trim_offsets as GPT-2, Llama 3 and others have it: offsets leave leading spaces out.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    corpus = [
        "import os\n\n\ndef load(path):\n    with open(path) as file:\n        return file.read()\n\n\n",
        "if __name__ == '__main__':\n    print(os.path.join('a', 'b'))\n        for i in range(10):\n            "
        "pass\n",
        "The assistant answers the user. How do I bake a pie? Mix flour, butter and apples, and wait an hour.\n\n",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus * 20, trainer)
    return tokenizer.to_str()


def trained_tokenizer(template: str = QWEN) -> PreTrainedTokenizerFast:
    """A byte-level BPE with merges, GPT-2's pre-tokenizer and trimmed offsets."""
    return _wrap(Tokenizer.from_str(_trained()), template, None)
