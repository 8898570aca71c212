"""What the figures of all modules share: the palette, and a figure that a notebook shows as it is returned."""

from __future__ import annotations

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

    class ShownFigure(Figure):
        def savefig(self, *args: Any, **settings: Any) -> None:
            # A constrained layout knows the place of square axes only once they were drawn.
            self.draw_without_rendering()
            super().savefig(*args, **settings)

        def _repr_png_(self) -> bytes:
            png = BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    return ShownFigure
