"""What a chat template is rendered with beside the messages, kept with the tokenizer that renders it.

They stand among the tokenizer's own settings, so that whatever encodes with it sees them, `save_pretrained` writes them
beside the template, and the fingerprint of how a model reads (`Lens.reading`) is over them too.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

from caft_lens._support.errors import BadArgument, BadTemplate, BadType, nearest
from caft_lens.text.rows import described, json_value

KEEP_THOUGHTS = "keep_thoughts"
"""Whether the thoughts of an assistant's messages are kept in every turn (True) or dropped from all (False)."""
_ENTRY = "template_arguments"
_OURS = (
    "messages", "conversation", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template",
    "return_dict",
)  # fmt: skip
_OF_TEMPLATES = ("bos_token", "eos_token", "raise_exception", "strftime_now", "namespace")


def template_arguments(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer's chat template is rendered with.

    Example:
        >>> template_arguments(None)
        {}
    """
    return dict((getattr(tokenizer, "init_kwargs", None) or {}).get(_ENTRY) or {})


def with_template_arguments(tokenizer: Any, arguments: Mapping[str, Any] | None) -> Any:
    """A tokenizer that renders its chat template with some arguments; the one given stays as it is.

    Args:
        tokenizer: A Hugging Face tokenizer.
        arguments: Name -> JSON value, over those that it has; `None` as a value takes one away. `"keep_thoughts"` is
            understood for every template: True keeps the thoughts (`<think>...</think>`, `reasoning_content`) of every
            turn, False drops them from all; by default the template decides, and losing a thought is an error.

    Returns:
        A second tokenizer over the same vocabulary; the same one when there is nothing to change.

    Raises:
        BadArgument: For a name that the template does not read.

    Example:
        >>> lens = cl.load("Qwen/Qwen3-8B", template_arguments={"enable_thinking": False})  # doctest: +SKIP
    """
    if not arguments:
        return tokenizer
    if not isinstance(arguments, Mapping):
        raise BadType(f"template_arguments= takes a dict of names and values, not {described(arguments)}.")
    if tokenizer is None:
        raise BadArgument(
            "template_arguments= are for the chat template of a tokenizer, and there is none: give tokenizer=."
        )
    _check(tokenizer, arguments)
    given = json_value({**template_arguments(tokenizer), **arguments}, "template_arguments")
    kept = {name: value for name, value in given.items() if value is not None}
    if kept == template_arguments(tokenizer):
        return tokenizer
    twin = copy.copy(tokenizer)
    twin.init_kwargs = {key: value for key, value in tokenizer.init_kwargs.items() if key != _ENTRY}
    if kept:
        twin.init_kwargs[_ENTRY] = kept
    return twin


def _check(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise BadTemplate(
            "template_arguments= are for a chat template, and the tokenizer has none: set tokenizer.chat_template "
            "first."
        )
    source = template if isinstance(template, str) else json.dumps(template)
    for name, value in arguments.items():
        if name == KEEP_THOUGHTS:
            if value is not None and not isinstance(value, bool):
                raise BadArgument(
                    f"{KEEP_THOUGHTS}={value!r}: True keeps the thoughts of every turn, False drops them, None "
                    f"leaves it to the template."
                )
        elif name in _OURS:
            raise BadArgument(f'template_arguments["{name}"] is given by whatever renders a chat.')
        elif not isinstance(name, str) or not re.search(rf"\b{re.escape(name)}\b", source):
            raise BadArgument(
                f'The chat template reads no "{name}".{nearest(name, sorted({*_variables(source), KEEP_THOUGHTS}))}'
            )


def _variables(source: str) -> set[str]:
    """The names that a template expects to be given."""
    from jinja2 import meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        environment = _compile_jinja_template(source).environment
        found = meta.find_undeclared_variables(environment.parse(source))
    except Exception:  # only for the words of an error
        return set()
    return found - {*_OURS, *_OF_TEMPLATES}
