"""What all figures are drawn with: one palette, one plotly template, panels of known size, and text shown as it is.

    figure    an empty figure: panels, headings, title, caption
    at        the axes of a panel
    literal   text in which plotly reads no HTML and no mathematics; `lines` breaks it, `said` is what hovering shows
    html      a figure in a page, with plotly.js the first time; it follows the reader's light or dark
    png, save a picture of it; a file of it

A figure has a light paper of its own, which can be read on a light and on a dark ground alike: no one text colour has
enough contrast on both. What differs in colour differs in marker, line or filling too.
"""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from caft_lens._support.errors import BadArgument, CaftLensError
from caft_lens._support.files import atomic_path
from caft_lens.display import pictures
from caft_lens.display.html import document, element

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Okabe and Ito's colours, told apart by colour-blind eyes: orange is positive, blue negative.
VERMILION, BLUE, INK, QUIET, FAINT, LINE = "#D55E00", "#0072B2", "#222222", "#595959", "#E2E2E2", "#8A8A8A"
PAPER = "#FFFFFF"
DEPTH = ("#8CC3E8", "#4F9FD0", BLUE, "#004B78", "#00263D")
"""From light to dark with depth, so that layers stay in order in grey as well."""
DARK = {
    **dict(zip(DEPTH, ("#1F5F8A", "#3A8BC0", "#56B4E9", "#9AD3F3", "#DDF1FC"), strict=True)),
    INK: "#DDDDDD",
    QUIET: "#A8A8A8",
    FAINT: "#383838",
    PAPER: "#181818",
}
"""What stands for a colour in the dark; the others are the same there."""
LOOKS = (
    (VERMILION, "circle"), (BLUE, "square"), (INK, "triangle-up"),
    ("#009E73", "diamond"), ("#A8598B", "cross"), (LINE, "star"),
)  # fmt: skip
"""Colours and markers of several kinds of points."""
DASHES = ("solid", "dash", "dashdot", "dot")

MIME = "application/vnd.plotly.v1+json"
# plotly 4 has a button that sends a figure's data to its maker's server.
CONFIG = {
    "displaylogo": False, "typesetMath": False, "showSendToCloud": False, "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d"],
}  # fmt: skip
WIDE, EDGE, LINE_HEIGHT = 68, 10, 1.3
"""Letters in a line of what hovering shows; pixels around a figure; of a line, in sizes of its letters."""
TITLE, CAPTION, HEADING, TICK = 15, 11, 12, 11
"""Sizes of letters in pixels."""


def faded(colour: str, share: float = 0.35) -> str:
    """A colour that lets this share of itself be seen.

    Example:
        >>> faded("#D55E00")
        '#D55E0059'
    """
    return f"{colour}{round(255 * share):02X}"


# -- text -------------------------------------------------------------------------------------------------------------

_MARKS = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}
# In sizes of letters, of a wide font; what is not named is 0.63.
_NARROW = {**dict.fromkeys("ijl|'.,:;! /\\IJft()[]-", 0.36), **dict.fromkeys("mwMW%@#+<=>~", 0.93)}


def literal(text: object) -> str:
    """Text that plotly shows as it is: nothing in it is HTML or mathematics.

    Args:
        text: Anything; its `str`. Line breaks become spaces.

    Example:
        >>> literal("<b>$x$</b> & more")
        '&lt;b&gt;&#36;x&#36;&lt;/b&gt; &amp; more'
    """
    return "".join(_MARKS.get(sign, sign) for sign in " ".join(str(text).splitlines()))


def text_width(text: str, size: float = HEADING) -> float:
    """About how wide a line is, in pixels; rather too much than too little."""
    return size * sum(1.0 if unicodedata.east_asian_width(sign) in "WF" else _NARROW.get(sign, 0.63) for sign in text)


def lines(text: str, width: float, size: float = HEADING) -> list[str]:
    """Text in lines that fit a width in pixels; words that do not are cut."""
    found = []
    # A unit stays with its number.
    for given in text.replace(" %", "\u00a0%").splitlines():
        line = ""
        for word in given.split(" "):
            longer = f"{line} {word}" if line else word
            if line and text_width(longer, size) > width:
                found.append(line)
                longer = word
            while text_width(longer, size) > width and len(longer) > 1:
                fits = next(n for n in range(len(longer), 0, -1) if n == 1 or text_width(longer[:n], size) <= width)
                found.append(longer[:fits])
                longer = longer[fits:]
            line = longer
        found.append(line)
    return [line.replace("\u00a0", " ") for line in found]


def said(name: str, *facts: str) -> str:
    """What hovering over a point shows: its name in bold, and below it facts, of which empty ones are left out.

    Example:
        >>> said("caft", "5.0 % (3 to 8)", "")
        '<b>caft</b><br>5.0 % (3 to 8)'
    """
    width = WIDE * 0.63 * HEADING
    shown = [bold(line) for line in lines(name, width)]
    shown += [literal(line) for fact in facts if fact for line in lines(fact, width)]
    return "<br>".join(shown)


def bold(text: str) -> str:
    """A text in bold, for a figure."""
    return f"<b>{literal(text)}</b>"


def small(text: str, size: float) -> str:
    """A text of another size in pixels, for a figure."""
    return f"<span style='font-size:{size:g}px'>{literal(text)}</span>"


def short(text: str, letters: int = 180) -> str:
    """The beginning of a text."""
    flat = " ".join(text.split())
    return flat if len(flat) <= letters else f"{flat[: letters - 1].rstrip()}…"


# -- figures ----------------------------------------------------------------------------------------------------------


def figure(
    columns: Sequence[float] = (560,),
    rows: Sequence[float] = (300,),
    *,
    title: str | None = None,
    caption: str = "",
    headings: Sequence[str] = (),
    left: float = 64,
    right: float = 24,
    below: float = 48,
    between: tuple[float, float] = (36, 64),
) -> Figure:
    """An empty figure with panels, which a notebook shows as the last line of a cell: to hover over, and as a picture.

    Args:
        columns: Widths of the panels, in pixels.
        rows: Their heights.
        title: Above the figure.
        caption: Below it.
        headings: Above the panels, row by row; `""` leaves one out.
        left: Room for what stands beside the panels, in pixels.
        right: Likewise.
        below: Room for ticks and labels under the panels.
        between: Pixels between columns, and between rows.

    Returns:
        A plotly figure: `add_scatter(..., **at(0))` and so on draw into a panel, `.save(path)` keeps it.

    Example:
        >>> drawn = figure(title="$5 < $6").add_scatter(x=[1, 2], y=[3, 4], **at(0))
        >>> drawn.layout.annotations[0].text, drawn.layout.width
        ('<b>&#36;5 &lt; &#36;6</b>', 648)
    """
    head = HEADING * 1.8 if any(headings) else 0
    inner = sum(columns) + between[0] * (len(columns) - 1), sum(rows) + between[1] * (len(rows) - 1)
    width = round(left + inner[0] + right)
    titled = lines(title, width - 2 * EDGE, TITLE * 1.08) if title else []
    captioned = lines(caption, width - 2 * EDGE, CAPTION) if caption else []
    top = EDGE + len(titled) * TITLE * LINE_HEIGHT + (6 if titled else 0) + head
    bottom = below + len(captioned) * CAPTION * LINE_HEIGHT + EDGE
    height = round(top + inner[1] + bottom)
    drawn: Figure = _kind()(
        layout={
            "template": _template(),
            "width": width,
            "height": height,
            "margin": {"l": left, "r": right, "t": top, "b": bottom, "autoexpand": False},
            "meta": {"title": title or "", "caption": caption},
        }
    )
    edge = {"xshift": EDGE - left, "yanchor": "top"}
    if titled:
        note(drawn, "<br>".join(map(bold, titled)), 0, 1, yshift=top - EDGE, font={"size": TITLE}, **edge)
    if captioned:
        font = {"size": CAPTION, "color": QUIET}
        note(drawn, "<br>".join(map(literal, captioned)), 0, 0, yshift=-below, font=font, **edge)
    for place in range(len(columns) * len(rows)):
        row, column = divmod(place, len(columns))
        across = sum(columns[:column]) + between[0] * column
        down = sum(rows[:row]) + between[1] * row
        x = [across / inner[0], (across + columns[column]) / inner[0]]
        y = [1 - (down + rows[row]) / inner[1], 1 - down / inner[1]]
        across_name, up_name = at(place).values()
        drawn.update_layout(
            {
                f"xaxis{across_name[1:]}": {"domain": x, "anchor": up_name},
                f"yaxis{up_name[1:]}": {"domain": y, "anchor": across_name},
            }
        )
        if place < len(headings) and headings[place]:
            note(drawn, literal(headings[place]), x[0], y[1], yshift=3, yanchor="bottom", font={"color": INK})
    return drawn


def at(place: int) -> dict[str, str]:
    """The axes of a panel, for a trace: the first panel is 0.

    Example:
        >>> at(0), at(1)
        ({'xaxis': 'x', 'yaxis': 'y'}, {'xaxis': 'x2', 'yaxis': 'y2'})
    """
    number = "" if place == 0 else str(place + 1)
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def axes(drawn: Figure, place: int, x: dict[str, Any] | None = None, y: dict[str, Any] | None = None) -> None:
    """Settings of a panel's axes, as plotly has them; a `title` is text, shown as it is."""
    for (key, name), given in zip(at(place).items(), (x, y), strict=True):
        settings = dict(given or {})
        if "title" in settings:
            settings["title"] = {"text": literal(settings["title"])}
        if "ticktext" in settings:
            settings["ticktext"] = [literal(words) for words in settings["ticktext"]]
        drawn.update_layout({f"{key}{name[1:]}": settings})


def note(drawn: Figure, text: str, x: float, y: float, **settings: Any) -> None:
    """Text in a figure, at shares of the panels' area unless `xref` and `yref` say otherwise; already escaped."""
    usual = {"xref": "paper", "yref": "paper", "xanchor": "left", "align": "left", "showarrow": False}
    drawn.add_annotation({"text": text, "x": x, "y": y, **usual, **settings})


def room_for_key(names: Iterable[str]) -> float:
    """Room for a key of these names right of the panels, in pixels: `update_layout(showlegend=True)` shows it."""
    return max(map(text_width, names)) + 60


def marker(place: int, size: float = 9, filled: bool = True, look: tuple[str, str] | None = None) -> dict[str, Any]:
    """The marker of a kind of points, by its place among `LOOKS`; an open one has the same outline."""
    colour, symbol = look or LOOKS[place % len(LOOKS)]
    edge = {"color": PAPER, "width": 1} if filled else {"color": colour, "width": 1.4}
    return {"color": colour if filled else PAPER, "symbol": symbol, "size": size, "line": edge, "opacity": 1}


def bars(
    values: Sequence[float], ends: Sequence[tuple[float, float]], colour: str, thickness: float = 5
) -> dict[str, Any]:
    """Intervals about values, as `error_x` or `error_y` of a trace: half transparent bars."""
    return {
        "type": "data", "symmetric": False, "color": faded(colour), "thickness": thickness, "width": 0,
        "array": [high - value for value, (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [value - low for value, (low, _) in zip(values, ends, strict=True)],
    }  # fmt: skip


def room_for(names: Iterable[str]) -> float:
    """Room for the names of rows, left of a panel, in pixels."""
    return max((text_width(name, TICK) for name in names), default=0) + 16


@cache
def _template() -> Any:
    """Light; `DARK` says what it is in the dark."""
    import plotly.graph_objects as go

    axis = {
        "gridcolor": FAINT, "zeroline": False, "showline": False, "ticks": "", "tickcolor": LINE, "automargin": False,
        "title": {"font": {"size": 12, "color": INK}, "standoff": 8}, "tickfont": {"size": TICK, "color": INK},
    }  # fmt: skip
    font = {"size": HEADING, "color": INK}
    layout = {
        "font": {"family": "Helvetica, Arial, 'DejaVu Sans', sans-serif", **font},
        # Not quite opaque, so that it does not glare on a dark ground.
        "paper_bgcolor": faded(PAPER, 0.95),
        "plot_bgcolor": faded(PAPER, 0),
        "colorway": [colour for colour, _ in LOOKS],
        "xaxis": axis,
        "yaxis": axis,
        "showlegend": False,
        "legend": {"bgcolor": faded(PAPER, 0), "font": {"size": 11.5}, "itemsizing": "constant", "tracegroupgap": 4},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": PAPER, "bordercolor": LINE, "namelength": -1, "font": font},
        "modebar": {"bgcolor": faded(PAPER, 0), "color": LINE, "activecolor": INK},
        "coloraxis": {"colorbar": {"outlinewidth": 0}},
    }
    return go.layout.Template(layout=layout)


@cache
def _kind() -> Any:
    # Made when it is first needed, since plotly takes a while to import.
    from plotly.graph_objects import Figure as Plain

    class Figure(Plain):
        """A plotly figure that a notebook shows as one to hover over and as a picture, whichever can be shown there."""

        # plotly's own way to show itself writes a script, which an untrusted notebook does not run.
        _ipython_display_ = None
        _repr_html_ = None

        def small(self) -> dict[str, Any]:
            """The figure as JSON values, its numbers of five digits."""
            traces = [_small(trace.to_plotly_json()) for trace in self.data]
            return {"data": traces, "layout": _small(self.layout.to_plotly_json())}

        def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
            drawn, picture = self.small(), png(self)
            words = repr(self) if picture else f"{self!r}\n({pictures.MISSING} This figure is interactive only.)"
            found: dict[str, Any] = {MIME: {**drawn, "config": CONFIG}, "text/plain": words}
            if picture:
                found["image/png"] = base64.b64encode(picture).decode()
            return found

        def save(self, path: str | Path, scale: float = 1.5, *, dark: bool = False) -> Path:
            """Keep it as a file; see `save`."""
            return save(self, path, scale, dark=dark)

        def __repr__(self) -> str:
            return "\n".join(["Figure", *_words(self)])

    return Figure


def _small(value: Any) -> Any:
    """JSON values, floating numbers with five digits; what is not finite is left out of a figure."""
    if isinstance(value, dict):
        return {key: _small(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_small(one) for one in value]
    if hasattr(value, "tolist"):
        return _small(value.tolist())
    if isinstance(value, float):
        short = float(f"{value:.5g}") if value - value == 0 else None
        return int(short) if short is not None and short == int(short) and abs(short) < 1e15 else short
    return value


# -- elsewhere --------------------------------------------------------------------------------------------------------

# The colours of a figure are strings of its JSON, each perhaps with an opacity: in the dark others stand there.
_COLOUR = r'"(#[0-9A-F]{6})(?=[0-9A-F]{0,2}")'
_SCRIPT = (
    """
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)"), shades = SHADES, places = [];
  const shaded = text => dark.matches ? text.replace(/COLOUR/g, (_, colour) => '"' + (shades[colour] || colour)) : text;
  const draw = place => {
    const {data, layout} = JSON.parse(shaded(place.nextElementSibling.textContent));
    Plotly.react(place, data, layout, CONFIG);
  };
  window.drawFigure = place => { places.push(place); draw(place); };
  dark.addEventListener("change", () => places.forEach(draw));
})();
""".replace("SHADES", json.dumps(DARK))
    .replace("CONFIG", json.dumps(CONFIG))
    .replace("COLOUR", _COLOUR)
)


def in_the_dark(values: dict[str, Any]) -> dict[str, Any]:
    """A figure as JSON values, in the colours of the dark."""
    text = re.sub(_COLOUR, lambda one: f'"{DARK.get(one[1], one[1])}', json.dumps(values))
    found: dict[str, Any] = json.loads(text)
    return found


def _picture(drawn: Figure, kind: str, scale: float, dark: bool) -> bytes | None:
    values: dict[str, Any] = drawn.small()
    return pictures.picture(in_the_dark(values) if dark else values, kind, scale)


def _words(drawn: Figure) -> list[str]:
    """Title and caption of a figure, where it has them."""
    meta = drawn.layout.meta or {}
    return [meta[key] for key in ("title", "caption") if meta.get(key)]


def html(drawn: Figure, first: bool) -> str:
    """A figure as a part of a page, which loads nothing and follows the reader's light or dark.

    Args:
        drawn: As `figure` makes it.
        first: Whether it is the first of the page: then plotly.js comes with it, which is 5 MB.
    """
    from plotly.offline import get_plotlyjs

    # Within a script nothing but its end is read as HTML.
    safe = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
    kept = re.sub("[<>&]", lambda sign: safe[sign[0]], json.dumps(drawn.small(), separators=(",", ":")))
    words = " ".join(_words(drawn))
    library = [element("script", Markup(get_plotlyjs())), element("script", Markup(_SCRIPT))] if first else []
    without = element("noscript", f"{words} (A figure, which needs scripts.)")
    draw = Markup("drawFigure(document.currentScript.previousElementSibling.previousElementSibling)")
    return str(
        element(
            "div",
            *library,
            element("div", without, role="img", **{"aria-label": words}),
            element("script", Markup(kept), type="application/json"),
            element("script", draw),
            style="overflow-x:auto",
        )
    )


def png(drawn: Figure, scale: float = 1) -> bytes | None:
    """A picture of a figure, by the Chromium of this machine; `None` where there is none, or where it does not answer.

    Args:
        drawn: As `figure` makes it.
        scale: Pixels of the picture to one of the figure.
    """
    return _picture(drawn, "png", scale, dark=False)


class NoPicture(CaftLensError, RuntimeError):
    """A picture was asked for where there is no Chromium to draw it."""


def save(drawn: Figure, path: str | Path, scale: float = 1.5, *, dark: bool = False) -> Path:
    """Keep a figure as a file: `.html`, to be opened without a network, `.png` or `.svg`.

    Args:
        drawn: As `figure` makes it.
        path: Of the file.
        scale: Of a PNG, pixels to one of the figure.
        dark: Whether a picture is for a dark ground; a page follows its reader.

    Returns:
        The path.

    Raises:
        BadArgument: For another kind of file.
        NoPicture: For a picture, where there is no Chromium; a `RuntimeError`.

    Example:
        >>> save(figure(title="Nothing yet"), "figure.html")
        PosixPath('figure.html')
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("html", "png", "svg"):
        raise BadArgument(f"{path}: a figure is kept as .html, .png or .svg.")
    if kind == "html":
        style = ":root{color-scheme:light dark}body{background:light-dark(#FFFFFF,#181818)}"
        title = (drawn.layout.meta or {}).get("title") or path.stem
        kept: bytes | None = document(title, style, Markup(html(drawn, first=True))).encode()
    else:
        kept = _picture(drawn, kind, scale if kind == "png" else 1, dark)
    if kept is None:
        raise NoPicture(f"{path}: {pictures.MISSING} Keep the figure as .html, which needs none.")
    with atomic_path(path) as file:
        file.write_bytes(kept)
    return path
