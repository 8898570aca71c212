"""Pictures of figures, drawn by kaleido in the Chromium of this machine: one for a process, closed when it ends.

Starting it takes a second or more, a picture after that some tenths. Where there is no Chromium, or where one does not
answer, there is no picture, and nothing waits for it a second time.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any

MISSING = "No Chromium draws a picture here: install the extra `workbench` and a Chromium, or name one in BROWSER_PATH."
START, DRAW, CLOSE = 60.0, 30.0, 8.0
"""Seconds that a busy machine may take for each."""
_LOCK = threading.Lock()


def picture(figure: dict[str, Any], kind: str = "png", scale: float = 1) -> bytes | None:
    """A picture of a figure.

    Args:
        figure: `data` and `layout` as JSON values, the layout with `width` and `height`.
        kind: `"png"` or `"svg"`.
        scale: Pixels of the picture to one of the figure.

    Returns:
        The file's bytes; `None` where there is no Chromium.
    """
    # A forked process has no part in its parent's browser.
    with _LOCK:
        browser = _browser(os.getpid())
    return browser.draw(figure, kind, scale)


@cache
def _browser(process: int) -> _Browser:
    return _Browser(process)


class _Browser:
    """A Chromium and the thread in which it is spoken to."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._kaleido: Any = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="pictures", daemon=True).start()
        atexit.register(self.close)
        try:
            self._ask(self._open(), START)
        except Exception:
            self.close()

    async def _open(self) -> None:
        from kaleido import Kaleido

        # Without mathematics: nothing is fetched from a network.
        self._kaleido = Kaleido(n=1, timeout=DRAW, mathjax=False)
        await self._kaleido.open()

    def draw(self, figure: dict[str, Any], kind: str, scale: float) -> bytes | None:
        if self._kaleido is None:
            return None
        layout = figure["layout"]
        size = {"format": kind, "width": layout["width"], "height": layout["height"], "scale": scale}
        try:
            return self._ask(self._kaleido.calc_fig(figure, opts=size), 2 * DRAW)
        except Exception:
            self.close()
            return None

    def _ask(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result(seconds)
        finally:
            asked.cancel()

    def close(self) -> None:
        """End the browser, gently or not."""
        if self._kaleido is None or self._process != os.getpid():
            return
        kaleido, self._kaleido = self._kaleido, None
        try:
            self._ask(kaleido.close(), CLOSE)
        except Exception:
            if getattr(kaleido, "subprocess", None) is not None:
                kaleido.subprocess.kill()
