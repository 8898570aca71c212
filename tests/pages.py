"""Python blocks of the README and of the pages in docs/, and what may keep one from being run."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"(?:<!-- (not run|needs): (.*?) -->\n)?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        source: The code.
        line: Its first line in the page, from 1.
        why_not: Why it is not run; empty where it is.
    """

    source: str
    line: int
    why_not: str


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        missing = (
            [name for name in (match[2] or "").split(", ") if importlib.util.find_spec(name) is None]
            if match[1] == "needs"
            else []
        )
        why = match[2] if match[1] == "not run" else f"{', '.join(missing)} not installed" if missing else ""
        found.append(Block(match[3], text[: match.start(3)].count("\n") + 1, why))
    return found
