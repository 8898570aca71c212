"""What the figures of all modules share: the palette, and a figure that a notebook shows as it is returned.

Its title and caption are broken into lines that fit, so that neither is clipped, and are never read as mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind eyes: orange is positive, blue negative.
VERMILION, BLUE, INK, QUIET, FAINT, LINE = "#D55E00", "#0072B2", "#222222", "#666666", "#E2E2E2", "#8A8A8A"


def shown_figure(**settings: Any) -> Figure:
    """A figure of its own, not pyplot's: a notebook shows it once, as the last line of a cell; `savefig` keeps it.

    Args:
        settings: As for matplotlib's `Figure`: `figsize` in inches, `layout`.

    Example:
        >>> axes = shown_figure(figsize=(4, 3)).subplots()
        >>> axes.figure._repr_png_()[1:4]
        b'PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _shown()(**{"dpi": 110, **settings})
    FigureCanvasAgg(figure)
    return figure


@cache
def _shown() -> Any:
    # Made when it is first needed, since matplotlib takes a while to import.
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    class ShownFigure(Figure):
        def suptitle(self, t: str, **settings: Any) -> Any:
            return super().suptitle(self._fitted(t, settings), **settings)

        def supxlabel(self, t: str, **settings: Any) -> Any:
            settings = {"x": 0.01, "ha": "left", **settings}
            return super().supxlabel(self._fitted(t, settings), **settings)

        def _fitted(self, text: str, settings: Mapping[str, Any]) -> str:
            """The text in lines that fit into the figure, which grows by what they take; a dollar sign is one."""
            size = settings.get("fontsize", 12)
            font = FontProperties(size=size, weight=settings.get("fontweight", "normal"))
            renderer = self.canvas.get_renderer()  # type: ignore[attr-defined]
            room = 0.98 * self.get_figwidth() * self.dpi
            lines: list[str] = []
            for given in text.split("\n"):
                line = ""
                for word in given.split(" "):
                    longer = f"{line} {word}" if line else word
                    wide = renderer.get_text_width_height_descent(longer, font, False)[0]
                    if line and wide > room:
                        lines.append(line)
                        line = word
                    else:
                        line = longer
                lines.append(line)
            more = len(lines) - text.count("\n") - 1
            self.set_figheight(self.get_figheight() + more * size * 1.25 / 72)
            return re.sub(r"(?<!\\)\$", r"\\$", "\n".join(lines))

        def savefig(self, *args: Any, **settings: Any) -> None:
            # A constrained layout knows the place of square axes only once they were drawn.
            self.draw_without_rendering()
            super().savefig(*args, **settings)

        def _repr_png_(self) -> bytes:
            png = BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    return ShownFigure


def html(drawn: Figure, first: bool) -> str:
    """A figure as a part of a page.

    Args:
        drawn: As `shown_figure` makes it.
        first: Whether it is the first of the page.
    """
    from caft_lens.display.html import picture

    return str(picture(png(drawn) or b"", "a figure"))


def png(drawn: Figure, scale: float = 1) -> bytes | None:
    """A picture of a figure.

    Args:
        drawn: As `shown_figure` makes it.
        scale: Pixels of the picture to one of the figure.
    """
    picture = BytesIO()
    drawn.savefig(picture, format="png", dpi=87 * scale, bbox_inches="tight")
    return picture.getvalue()
