"""Secrets do not leave the process: keys, tokens and passwords are taken out of errors, records, caches and reports.

A secret is known by what it is called (`api_key`, `--token`), by where it stands (the password of an address), by its
form (`sk-…`, `hf_…`), and by its value where an environment variable with such a name holds it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HIDDEN = "***"
"""What stands in the place of a secret."""

_NAME = re.compile(
    r"(?i)(?:^|[_\-. "
    r"])(?:api[_\-]?key|apikey|(?:access|auth|hub|hf|api|bearer|secret|session|refresh|id)[_\-]?token|token|password|"
    r"passwd|passphrase|secret|(?:secret|private|access)[_\-]?key|authorization|credentials?|cookie)$"
)
_FORMS = re.compile(
    r"\b(?:sk-[A-Za-z0-9_\-]{16,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|xox[abprs]-[A-Za-z0-9\-]{10,}"
    r"|AKIA[A-Z0-9]{16}|AIza[A-Za-z0-9_\-]{30,}|glpat-[A-Za-z0-9_\-]{16,})"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{8,}")
_ADDRESS = re.compile(r"(?i)\b([a-z][a-z0-9+.\-]*://)[^\s/@'\"]+@")
_QUERY = re.compile(r"(?i)([?&](?:api[_-]?key|key|token|access_token|auth|password|secret|sig|signature)=)[^&\s'\"#]+")
_SHORTEST = 8  # a shorter value of a variable may be a word of any text


def is_secret(name: str) -> bool:
    """Whether something with this name is not for others to see.

    Example:
        >>> is_secret("api_key"), is_secret("hub_token"), is_secret("max_tokens"), is_secret("pad_token")
        (True, True, False, False)
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.lstrip("-"))
    return bool(_NAME.search(name)) and not re.search(
        r"(?i)(?:^|[_\-. "
        r"])(?:pad|eos|bos|unk|sep|cls|mask|image|audio|video|boi|eoi|next|new|special|end|stop)[_\-]?token$",
        name,
    )


def redact(value: Any, *, known: Iterable[str] = ()) -> Any:
    """Text or JSON values without secrets, also those `known` by value. What holds none comes back equal.

    Example:
        >>> redact({"api_key": "abc", "url": "https://me:pw@host/v1", "max_tokens": 5})
        {'api_key': '***', 'url': 'https://***@host/v1', 'max_tokens': 5}
    """
    named = (one.strip() for name, one in os.environ.items() if is_secret(name))
    known = {*known, *(one for one in named if len(one) >= _SHORTEST)} - {""}
    return _redacted(value, sorted(known, key=len, reverse=True))


def command_line(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command without secrets: neither `--api-key=…` nor what follows `--token`.

    Example:
        >>> command_line(["caft-lens", "--token", "abc", "--api-key=def", "--seed", "0"])
        ['caft-lens', '--token', '***', '--api-key=***', '--seed', '0']
    """
    found, hide = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide and not argument.startswith("--"):
            found.append(HIDDEN)
        elif equals and is_secret(name):
            found.append(f"{name}={HIDDEN}")
        else:
            found.append(redact(argument))
        hide = argument.startswith("-") and not equals and is_secret(name)
    return found


def _redacted(value: Any, known: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in known:
            value = value.replace(secret, HIDDEN)
        value = _BEARER.sub(rf"\1 {HIDDEN}", value)
        value = _ADDRESS.sub(rf"\1{HIDDEN}@", value)
        return _QUERY.sub(rf"\1{HIDDEN}", _FORMS.sub(HIDDEN, value))
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if isinstance(key, str) and is_secret(key) and isinstance(one, str) and one
            else _redacted(one, known)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)([_redacted(one, known) for one in value]) if type(value) in (list, tuple) else value
    return value
