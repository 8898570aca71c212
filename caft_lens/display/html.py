"""The one place where HTML is built: everything shown passes through `element`, which escapes what is not HTML already.

Views read right wherever a notebook is opened. Styles are inline, of those that JupyterLab's sanitizer keeps. Colours
are half transparent, so that they can be read in light and dark; where they are taken away, as on GitHub, elements say
the same: bold is strong, italic negative, underlined the peak, small the template. Nothing shown is read as
mathematics: `view` carries the classes that MathJax leaves alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from markupsafe import Markup, escape

if TYPE_CHECKING:
    import pandas

Content: TypeAlias = "str | Markup | float | Iterable[Content] | None"

FAINT = 0.08
"""Below this share of the largest activation a token is left unshaded: it would hardly show."""
CLEAR = 0.25
"""From this share on a negative token is italic: of fainter ones the sign hardly matters."""
STRONG = 0.5
"""From this share on a token is bold."""
POSITIVE, NEGATIVE = "#d50", "#07b"
# The last of four hexadecimal digits is the opacity, at most 9 of 15: text over it has contrast 4.5 in either theme.
_DEEPEST = 9
LABELS = ("#e908", "#5be8", "#0978", "#c7a8", "#d508", "#07b8", "#aa28")
"""Backgrounds for labels, of one opacity."""

NO_MATHS = "mathjax_ignore tex2jax_ignore"
LINE = "border-top:1px solid #8886"
SOFT = "opacity:.75"
LEFT = "text-align:left;vertical-align:top"
RIGHT = "text-align:right;vertical-align:top"
WORDS = "white-space:pre-wrap;overflow-wrap:break-word"

KEY = (
    "Orange background: positive, blue: negative; the deeper, the larger. Bold: half of the largest or more; italic: "
    "negative; underlined: the peak; small: of the template."
)
"""What the marks on tokens mean, with and without colour."""


def element(name: str, *content: Content, style: str = "", **attributes: str) -> Markup:
    """An element. Strings are escaped, in attributes as well; what `element` gave before is HTML already.

    Args:
        name: Such as `"td"`.
        content: Strings, numbers, other elements, or collections of them; `None` is nothing.
        style: Inline style.
        attributes: Others, a trailing underscore left out, as in `class_="note"`; empty ones are left out.

    Example:
        >>> element("b", "1 < 2", title='"')
        Markup('<b title="&#34;">1 &lt; 2</b>')
    """
    given = {**({"style": style} if style else {}), **attributes}
    said = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in given.items() if value)
    return Markup(f"<{name}{said}>{together(*content)}</{name}>")


def together(*content: Content) -> Markup:
    """Several pieces, one after another.

    Example:
        >>> together("a < ", element("b", "b"), None, ["c", 1])
        Markup('a &lt; <b>b</b>c1')
    """
    there = (one for one in content if one is not None)
    return Markup("").join(escape(one) if isinstance(one, (str, int, float)) else together(*one) for one in there)


def made(shown: str) -> Markup:
    """HTML that was made and escaped before: a view within another one, or what pandas says of a data frame."""
    return Markup(shown)


def framed(frame: pandas.DataFrame, title: str = "", **settings: Any) -> str:
    """A data frame as a view.

    Args:
        frame: Of pandas, which escapes what it holds.
        title: Above it.
        settings: As for `DataFrame.to_html`.
    """
    table = made(frame.to_html(border=0, **settings))
    return view(element("div", title) if title else None, element("div", table, style="overflow-x:auto"))


def view(*content: Content, key: str = "", also: str = "") -> str:
    """What a notebook shows.

    Args:
        content: As for `element`.
        key: A line above that says what is shown.
        also: A line below that says how it is marked.
    """
    parts = [note(key) if key else None, *content, note(also) if also else None]
    style = "font-size:13px;line-height:1.55;max-width:1200px"
    return str(element("div", *parts, class_=f"caft {NO_MATHS}", style=style))


def note(*content: Content) -> Markup:
    """A quiet line."""
    return element("div", element("small", *content), style=f"{SOFT};margin:2px 0 6px")


def section(name: str, label: str, facts: Iterable[str], *content: Content) -> Markup:
    """A part of a view: a heading of name, label and facts, and what is below it."""
    said = " · ".join(fact for fact in facts if fact)
    head = element(
        "div",
        element("b", name),
        [" ", element("i", label)] if label else None,
        [" ", element("small", said, style=SOFT)] if said else None,
        style="margin:0 0 4px",
    )
    return element("div", head, *content, style="border-top:2px solid #8886;padding:8px 0 12px")


def rows(items: Iterable[tuple[Content, Content]], width: str = "5.2em") -> Markup:
    """Lines of a value and what it is of.

    Args:
        items: Value and text; the text keeps its spaces.
        width: Of the values at least; longer ones take what they need.
    """
    return together(
        element(
            "div",
            element("span", value, style=f"flex:0 0 auto;min-width:{width};text-align:right;white-space:nowrap"),
            " ",
            element("span", said, style=f"flex:1 1 0;min-width:0;{WORDS}"),
            style=f"display:flex;gap:10px;{LINE};padding:3px 0",
        )
        for value, said in items
    )


def side_by_side(*parts: Content) -> Markup:
    """Parts beside each other, below each other where there is no room."""
    boxes = [element("div", part, style="flex:1 1 380px;min-width:0") for part in parts]
    return element("div", boxes, style="display:flex;flex-wrap:wrap;gap:4px 24px")


def end(kind: str, title: str) -> Markup:
    """The heading of one end of a direction, told apart by words, a sign and a colour."""
    sign, colour = ("▲", f"{POSITIVE}5") if kind == "top" else ("▼", f"{NEGATIVE}5")
    return element("b", f"{sign} {title}", style=f"background:{colour};padding:0 6px")


def table(
    head: Sequence[Content], body: Iterable[Sequence[Content]], *, numbers: Iterable[int] = (), title: str = ""
) -> Markup:
    """A table.

    Args:
        head: The columns.
        body: Cells by row, strings or elements.
        numbers: Columns that are set to the right.
        title: Above it.
    """
    right = set(numbers)
    side = [RIGHT if place in right else f"{LEFT};{WORDS}" for place in range(len(head))]
    first = element(
        "tr", (element("th", cell, style=one[:16].rstrip(";")) for cell, one in zip(head, side, strict=True))
    )
    lines = (
        element("tr", (element("td", cell, style=one) for cell, one in zip(row, side, strict=True))) for row in body
    )
    made = element("table", element("thead", first), element("tbody", lines))
    return together(
        element("div", title, style="margin:2px 0") if title else None, element("div", made, style="overflow-x:auto")
    )


def token(text: str, value: float | None, scale: float, *, peak: bool = False, special: bool = False) -> Markup:
    """One token.

    Args:
        text: What it says.
        value: Its activation; `None` where none was taken.
        scale: The activation that gets the full shade.
        peak: Whether the context is shown for this token.
        special: Whether it is a token of the template rather than text.

    Example:
        >>> token("<b>", 0.5, 1.0)
        Markup('<span style="background:#d505" title="+0.500"><b>&lt;b&gt;</b></span>')
    """
    share = share_of(value, scale)
    said = visible(text)
    body: Content = said
    if peak:  # the space before a word is not underlined
        word = said.lstrip(" ") or said
        body = [said[: len(said) - len(word)], element("u", word)]
    body = element("small", body, style="" if share else SOFT) if special else body
    body = _marked(body, value or 0.0, share, strong=peak)
    if not share or value is None:
        return together(body)
    return element("span", body, style=shade(value, share), title=signed(value))


def chips(tokens: Iterable[tuple[str, float, str]], scale: float) -> Markup:
    """Tokens by themselves, each in a frame of its own, spaces and line breaks as signs.

    Args:
        tokens: What each says, the value that shades it, and a note beside it, possibly empty.
        scale: The value that gets the full shade.

    Example:
        >>> chips([(" a", -0.1, "")], 1.0)
        Markup('<code style="background:#07b1" title="−0.100">␣a</code> ')
    """
    parts: list[Content] = []
    for text, value, words in tokens:
        share = share_of(value, scale)
        style = shade(value, share) if share else "background:#8882"
        chip = element("code", _marked(spaced(text), value, share), style=style, title=signed(value) if share else "")
        if words:
            chip = element("span", chip, " ", element("small", words), style="white-space:nowrap")
        parts += [chip, " "]
    return together(*parts)


def _marked(body: Content, value: float, share: float, strong: bool = False) -> Content:
    body = element("i", body) if share >= CLEAR and value < 0 else body
    return element("b", body) if strong or share >= STRONG else body


def share_of(value: float | None, scale: float) -> float:
    """The share of the full shade that a value gets, 0 where it would hardly show."""
    share = 0.0 if value is None or not scale else min(1.0, abs(value) / scale)
    return share if share >= FAINT else 0.0


def shade(value: float, share: float) -> str:
    """The style of a background: the colour of a value's sign, as deep as its share of the largest.

    Example:
        >>> shade(2.0, 1.0), shade(-2.0, 0.3)
        ('background:#d509', 'background:#07b3')
    """
    deep = max(1, int(share * _DEEPEST + 0.5))
    return f"background:{POSITIVE if value > 0 else NEGATIVE}{deep}"


def visible(text: str) -> str:
    """A token with line breaks shown as a sign, and a dot for one that is but a part of a character.

    Example:
        >>> visible("a\\n"), visible("")
        ('a⏎', '·')
    """
    return text.replace("\r", "").replace("\n", "⏎") or "·"


def spaced(text: str) -> str:
    """A single token with its spaces and line breaks shown as signs.

    Example:
        >>> spaced(" pie"), spaced("\\n")
        ('␣pie', '⏎')
    """
    return visible(text).replace(" ", "␣")


def signed(value: float) -> str:
    """Three significant digits and a sign of the width of a plus; from 1,000 on the whole number, where short.

    Example:
        >>> signed(1.23456), signed(-20.0), signed(-25094.3), signed(5.2e7), signed(-5.2e-7)
        ('+1.23', '−20.0', '−25,094', '+5.20e+07', '−5.20e−07')
    """
    whole = 999.5 <= abs(value) < 1e7
    return (f"{value:+,.0f}" if whole else f"{value:+#.3g}").replace("-", "−")


def document(title: str, style: str, *content: Content) -> str:
    """A page of its own, that loads and runs nothing.

    Args:
        title: Of the window.
        style: A style sheet, of ours.
        content: As for `element`.
    """
    head = element("head", Markup('<meta charset="utf-8">'), element("title", title), element("style", Markup(style)))
    page = Markup('<html lang="en">{}\n{}\n</html>').format(head, element("body", *content, class_=NO_MATHS))
    return f"<!doctype html>\n{page}\n"
