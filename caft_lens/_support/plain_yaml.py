"""YAML that says no more than JSON could: every key once, plain values, nothing that would fill the memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from caft_lens._support.errors import BadData, BadFile
from caft_lens._support.files import DEPTH, read_text

MOST_VALUES = 100_000
"""Values in a file, each counted where it stands: aliases of aliases can stand for more than any memory holds."""


class _Loader(yaml.SafeLoader):
    """YAML without a key that is said twice, and in which 1e-4 is a number, as in JSON."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{name:.80}" is said twice', key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}$"), list("-+0123456789")
)


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says.

    Raises:
        MissingFile: When there is no such file.
        BadFile: When it is not YAML, says a key twice, or holds other values than JSON has.
    """
    try:
        # A loader that makes nothing but plain values, as `yaml.SafeLoader`.
        content = yaml.load(read_text(path), Loader=_Loader)
        _check(content)
    except BadFile:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, ArithmeticError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise BadFile(f"{path} is not YAML of plain values: {why}") from error
    return content


def _check(content: Any) -> None:
    """Refuse what is not of JSON's kinds, or stands for too much."""
    left, seen = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEPTH:
            raise BadData(f"more than {MOST_VALUES} values" if seen > MOST_VALUES else "nested too deeply")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise BadData(f"the key {key!r} is a {type(key).__name__}, not a text: put it in quotes")
            left += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list):
            left += [(one, depth + 1) for one in value]
        elif value is not None and not isinstance(value, (str, int, float, bool)):
            raise BadData(f"{value!r:.80} is a {type(value).__name__}: put it in quotes")
