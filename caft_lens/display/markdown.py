"""Text that Markdown shows as it is: no markup, link, picture, HTML, formula or cell border comes of it."""

from __future__ import annotations

import re
from html import escape

_SIGNS = re.compile(r"[\\`*_\[\]|~$]")
# What would begin a heading or a list at the beginning of a line; 0.5 and +3 do not.
_BEGINS = re.compile(r"^(?:#|[+-](?=\s|$)|[=-]+(?=\s|$)|\d+(?=[.)](?:\s|$)))")
# GitHub makes links of addresses by themselves.
_ADDRESS = re.compile(r"(?i)(://|\bwww\.|\b(?:mailto|xmpp):)")


def plain(text: object, line_break: str = " ") -> str:
    """Text as Markdown that shows it, in one line, in a cell of a table as well.

    Args:
        text: Anything; its `str`.
        line_break: What stands in place of a line break.

    Example:
        >>> plain("a|b ![x](http://x) <b>")
        'a\\\\|b !\\\\[x\\\\](http\\\\:\\\\/\\\\/x) &lt;b&gt;'
    """
    lines = (" ".join(line.split()) for line in str(text).splitlines())
    said = escape(line_break.join(line for line in lines if line), quote=False)
    said = _SIGNS.sub(lambda found: f"\\{found[0]}", said)
    said = _ADDRESS.sub(lambda found: re.sub(r"[:/.]", lambda sign: f"\\{sign[0]}", found[0]), said)
    begun = _BEGINS.match(said)
    if begun is None:
        return said
    # A number is no list if the sign after it is escaped; the other signs are escaped themselves.
    return f"{begun[0]}\\{said[begun.end() :]}" if begun[0].isdigit() else f"\\{said}"


def code(text: object) -> str:
    """Text as a code span, in a cell of a table as well.

    Example:
        >>> code("a_b|c")
        '`a_b\\\\|c`'
    """
    said = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{said}`"
