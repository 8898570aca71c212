"""Ways to damage the files of a folder, one at a time, drawn by hypothesis: bytes, JSON values, headers of tensors,
whole files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from caft_lens._support.files import SEAL, sealed

DEEP = "[" * 3000 + "]" * 3000
ODD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    2**70,
    10**400,
    1.5,
    -0.0,
    1e308,
    "",
    "7",
    "a",
    "../x",
    "/../../../x",
    "..",
    "<script>alert(1)</script>",
    [],
    {},
    [[]],
    ["a"],
    [1, 2],
    {"a": 1},
    "\x00",
    "é" * 300,
)
"""Values to stand where others are expected."""
RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    '"\\ud800"',
    DEEP,
    '{"a": 1, "a": 2}',
    "9" * 5000,
    "01",
    "'a'",
    "",
)
"""Texts to stand where a value is expected, most of which are no JSON."""


@st.composite
def damaged(draw: st.DrawFn, folder: Path, other: Path, fix: Callable[[Path], None] | None = None) -> str:
    """Damage one file of a folder in one way; what was done.

    Args:
        draw: Of hypothesis.
        folder: Whose files are damaged.
        other: A folder of the same kind with another content, from which a file may be put in the place of this one's.
        fix: Makes hashes and seals right again after the damage, so that only a schema can tell.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = draw(st.sampled_from(files))
    content = path.read_bytes()
    ways = {"flip": _flip, "cut": _cut, "insert": _insert, "remove": _remove, "swap": _swap, "copy": _copy}
    if path.suffix == ".json":
        ways |= {f"json {n}": _json for n in range(6)}
    if path.suffix == ".safetensors":
        ways |= {f"header {n}": _header for n in range(3)}
    name = draw(st.sampled_from(sorted(ways)))
    said = ways[name](draw, path, content, files, other / path.relative_to(folder))
    if fix is not None and path.exists():
        fix(folder)
    return f"{path.name}: {name} {said}"


def _flip(draw: st.DrawFn, path: Path, content: bytes, *rest: Any) -> str:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] ^= draw(st.integers(1, 255))
    path.write_bytes(bytes(changed))
    return ""


def _cut(draw: st.DrawFn, path: Path, content: bytes, *rest: Any) -> str:
    at = draw(st.integers(0, max(0, len(content) - 1)))
    path.write_bytes(content[:at])
    return f"after {at}"


def _insert(draw: st.DrawFn, path: Path, content: bytes, *rest: Any) -> str:
    at, what = draw(st.integers(0, len(content))), draw(st.binary(min_size=1, max_size=8))
    path.write_bytes(content[:at] + what + content[at:])
    return f"{what!r} at {at}"


def _remove(draw: st.DrawFn, path: Path, *rest: Any) -> str:
    path.unlink()
    return ""


def _swap(draw: st.DrawFn, path: Path, content: bytes, files: list[Path], other: Path) -> str:
    partner = draw(st.sampled_from(files))
    path.write_bytes(partner.read_bytes())
    partner.write_bytes(content)
    return partner.name


def _copy(draw: st.DrawFn, path: Path, content: bytes, files: list[Path], other: Path) -> str:
    if other.is_file():
        path.write_bytes(other.read_bytes())
    return "of the other"


def _json(draw: st.DrawFn, path: Path, content: bytes, *rest: Any) -> str:
    text, said = changed_json(draw, content.decode())
    path.write_text(text, encoding="utf-8")
    return said


def _header(draw: st.DrawFn, path: Path, content: bytes, *rest: Any) -> str:
    size = struct.unpack("<Q", content[:8])[0]
    text, said = changed_json(draw, content[8 : 8 + size].decode())
    header = text.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])
    return said


def changed_json(draw: st.DrawFn, text: str) -> tuple[str, str]:
    """JSON with one value or key changed, and what was done; a seal is left as it was."""
    value = json.loads(text)
    places = list(_places(value))
    if not places:
        return draw(st.sampled_from(RAW)), "raw"
    holder, key = draw(st.sampled_from(places))
    how = draw(st.sampled_from(("delete", "rename", "twice", "odd", "raw", "scale")))
    if how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif how == "twice" and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif how == "odd":
        holder[key] = draw(st.sampled_from(ODD))
    elif how == "scale" and isinstance(holder[key], (int, float)):
        holder[key] = holder[key] * -3 + 1
    elif how in ("raw", "twice"):
        marker = "@@@@"
        before = json.dumps(holder[key])
        holder[key] = marker
        put = draw(st.sampled_from(RAW)) if how == "raw" else f"{before}, {json.dumps(key)}: 1"
        return json.dumps(value, ensure_ascii=False).replace(json.dumps(marker), put, 1), f"{how} {key}"
    return json.dumps(value, ensure_ascii=False), f"{how} {key}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


def resealed(path: Path, change: Callable[[dict[str, Any]], None] = lambda value: None) -> None:
    """Put the seal of a JSON file right after it was changed, where it still is one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            value.pop(SEAL, None)
            change(value)
            path.write_text(json.dumps(sealed(value)), encoding="utf-8")
    except (ValueError, TypeError, LookupError, RecursionError, AttributeError):
        return
