"""What all panels share: state in traits, work in threads, errors in sight, links, a rendering that needs no kernel.

    Panel   the base class: `work` runs something in a thread, `cancel` stops it, `static` is the panel as plain HTML
    Job     one piece of such work, which reports how far it is and hears when it is to stop
    link    one panel's concept selects in the others
    source  the text of files beside this one: the ES module and the style of a panel

A panel is shown by two outputs: the live view, and its static rendering, brought up to date as the panel changes. The
live view hides the static one while it is connected to a kernel; in a notebook without that kernel, the static one
hides what is left of the live view. So a closed notebook shows what was seen last.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

import anywidget
import traitlets

from caft_lens._support.errors import nearest
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.display.theme import BLUE, VERMILION
from caft_lens.display.token_lines import Line
from caft_lens.inspect.context_windows import ConceptContexts

Result = TypeVar("Result")

WIDGET = "application/vnd.jupyter.widget-view+json"
PATIENCE = 1.0
"""Seconds for which showing a panel waits for work that the static rendering shows."""
LEAVE = 10.0
"""Seconds for which Python, before it ends, waits for work that was told to stop."""
OFTEN = 1.0
"""Seconds between two updates of the static rendering."""
# One for all panels: with one each, two linked panels that are used from two threads could wait for each other.
LOCK = threading.RLock()
SHOWN: WeakSet[Panel] = WeakSet()
"""All panels that there are."""

# Until the live view is connected to its kernel it has no class `caft-panel`: then, or when there is no kernel any
# more, the output before the static rendering holds nothing but "Loading widget" or "model not found", and is hidden.
STATIC_STYLE = ".jp-OutputArea-child:has(+ .jp-OutputArea-child [data-caft]):not(:has(.caft-panel)){display:none}"


def source(*names: str) -> str:
    """The text of files beside this one, one after another."""
    return "\n".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in names)


def _rgb(colour: str) -> str:
    return " ".join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))


PALETTE = f":root{{--caft-pos:{_rgb(VERMILION)};--caft-neg:{_rgb(BLUE)}}}\n"
"""The colours of the project's figures: vermilion is positive, blue negative."""


class Stopped(Exception):
    """The work is not wanted any more."""


class Job:
    """One piece of work in a thread of its own.

    Attributes:
        kind: What sort of work; of one kind only the newest counts.
        words: What is being done, for people.
        fraction: How much of it is done, 0 to 1; below 0 when that is not known.
    """

    def __init__(self, kind: str, words: str, told: Callable[[], None]) -> None:
        self.kind, self.words, self.fraction = kind, words, -1.0
        self._told, self._stop, self._last = told, threading.Event(), 0.0
        self.thread: threading.Thread | None = None

    def stop(self) -> None:
        """Ask the work to stop; it does so when it next looks."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def report(self, fraction: float | None = None, words: str = "") -> None:
        """Say how far the work is; shown at most ten times a second.

        Raises:
            Stopped: When the work is not wanted any more.
        """
        if self.stopped:
            raise Stopped
        self.fraction, self.words = -1.0 if fraction is None else fraction, words or self.words
        if time.monotonic() - self._last >= 0.1:
            self._last = time.monotonic()
            self._told()


class Panel(anywidget.AnyWidget):
    """A view whose state is in traits and whose logic is in `caft_lens`.

    A subclass names its module and style (`_esm`, `_css`), the calls of its view (`calls`), and writes `static`.

    Attributes:
        concept: Name of the selected concept.
        busy: Whether work is going on.
        doing: What, in words.
        progress: How much of it is done, 0 to 1; below 0 when that is not known.
        error: What went wrong last, in a sentence; empty when nothing did.
        exception: The error itself, for its traceback; `None` when there is none.
    """

    calls: ClassVar[frozenset[str]] = frozenset()
    volatile: ClassVar[frozenset[str]] = frozenset({"busy", "doing", "progress"})
    """Traits that the static rendering does not show."""
    awaited: ClassVar[frozenset[str]] = frozenset()
    """Kinds of work whose result the static rendering shows and that take a moment."""

    concept = traitlets.Unicode(help="name of the selected concept").tag(sync=True)
    busy = traitlets.Bool(False, help="whether work is going on").tag(sync=True)
    doing = traitlets.Unicode(help="what is being done").tag(sync=True)
    progress = traitlets.Float(-1.0, help="how much of it is done, 0 to 1").tag(sync=True)
    error = traitlets.Unicode(help="what went wrong last").tag(sync=True)

    def __init__(self, **keywords: Any) -> None:
        self._jobs: dict[str, Job] = {}
        self._copies: list[Any] = []
        self._shown_at, self._due = 0.0, False
        self.exception: Exception | None = None
        self._failed = ""
        super().__init__(**keywords)
        SHOWN.add(self)
        self.on_msg(self._receive)
        shown = [name for name in self.traits(sync=True) if name[0] != "_" and name not in self.volatile]
        self.observe(lambda _: self._freshen(), shown)

    def open(self) -> None:
        """Open the line to the view."""
        super().open()
        # JupyterLab sends what a view says past the cells that run or wait, so that a panel can be used meanwhile.
        # ipykernel 7.4 would put it behind them again: it goes by from where the panel spoke last, and that is the cell
        # which made it.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda _, subshell: subshell

    @property
    def candidates(self) -> ConceptSet:
        """The concepts that the panel is about."""
        raise NotImplementedError

    def static(self) -> str:
        """The panel as it is now, as plain HTML: nothing runs."""
        raise NotImplementedError

    def knows(self, concept: Concept) -> bool:
        """Whether a concept, this very direction at this hook point, is among those of the panel."""
        if concept.name not in self.candidates:
            return False
        mine = self.candidates[concept.name]
        return mine.hook == concept.hook and mine.direction.equal(concept.direction)

    # -- work ---------------------------------------------------------------------------------------------------------

    def work(
        self,
        kind: str,
        words: str,
        do: Callable[[Job], Result],
        then: Callable[[Result], None],
    ) -> None:
        """Do something in a thread, and something with its result, unless newer work of its kind has begun.

        Of one kind, one runs at a time: the older is asked to stop and waited for. Errors are shown in `error`.

        Args:
            kind: Such as `"contexts"`.
            words: What is being done, for people.
            do: The work; it calls `job.report` now and then, by which it is stopped.
            then: Takes the result, with the panel locked.
        """
        with LOCK:
            before = self._jobs.get(kind)
            if before is not None:
                before.stop()
            job = self._jobs[kind] = Job(kind, words, self._tell)
            job.thread = threading.Thread(
                target=self._run,
                args=(job, before, do, then),
                name=f"{type(self).__name__} {kind}",
                daemon=True,
            )
            job.thread.start()
        self._tell()

    def cancel(self, kind: str | None = None) -> None:
        """Stop the work of one kind, or all of it."""
        with LOCK:
            for job in self._jobs.values():
                if kind in (None, job.kind):
                    job.stop()

    def wait(self, seconds: float | None = None, kinds: Collection[str] | None = None) -> bool:
        """Wait until no work is going on; whether that is so.

        Args:
            seconds: For so long at most; `None` for as long as it takes.
            kinds: Only for work of these kinds; `None` for all.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            with LOCK:
                jobs = [job for job in self._jobs.values() if kinds is None or job.kind in kinds]
                threads = [job.thread for job in jobs if job.thread is not None]
            threads = [one for one in threads if one is not threading.current_thread()]
            if not threads:
                return True
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return False
            threads[0].join(left)

    def fail(self, error: Exception, kind: str = "") -> None:
        """Show what went wrong, until it is dismissed or work of the same kind goes well."""
        with LOCK:
            self.exception, self._failed = error, kind
            self.error = sentence(error)

    def mend(self, kind: str = "") -> None:
        """Take back what went wrong with work of a kind; `""` are the calls of the view."""
        if self._failed == kind:
            self._dismiss()

    def _run(self, job: Job, before: Job | None, do: Callable[[Job], Any], then: Callable[[Any], None]) -> None:
        try:
            if before is not None and before.thread is not None:
                before.thread.join()
            if job.stopped:
                raise Stopped
            result = do(job)
            with LOCK:
                if not job.stopped:
                    self.mend(job.kind)
                    then(result)
        except Stopped:
            pass
        except Exception as error:
            if not job.stopped:
                self.fail(error, job.kind)
        finally:
            with LOCK:
                if self._jobs.get(job.kind) is job:
                    del self._jobs[job.kind]
            self._tell()

    def _tell(self) -> None:
        with LOCK:
            newest = next(reversed(self._jobs.values()), None)
            with self.hold_sync():
                self.busy = newest is not None
                self.doing = newest.words if newest else ""
                self.progress = newest.fraction if newest else -1.0

    # -- the view -----------------------------------------------------------------------------------------------------

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take in what the view changed; what is wrong with it is shown there."""
        try:
            with LOCK:
                super().set_state(sync_data)
        except Exception as error:
            self.fail(error)
            self.send_state(list(sync_data))

    def _receive(self, _: Any, content: Mapping[str, Any], __: Any) -> None:
        """Answer a call from the view: `{"id": …, "call": name, "with": {…}}`."""
        name, value = content.get("call"), None
        try:
            if name not in self.calls | {"hello", "cancel", "dismiss"}:
                raise ValueError(f'This panel has no call "{name}".{nearest(name, self.calls)}')
            with LOCK:
                value = getattr(self, f"_{name}" if name in ("hello", "dismiss") else name)(**content.get("with", {}))
        except Exception as error:
            self.fail(error)
        self.send({"id": content.get("id"), "value": value})

    def _hello(self) -> dict[str, str]:
        return {"id": self.model_id}

    def _dismiss(self) -> None:
        self.error, self.exception = "", None

    # -- without a kernel ---------------------------------------------------------------------------------------------

    def _repr_mimebundle_(self, **keywords: Any) -> dict[str, Any]:  # type: ignore[override]
        return {**self._view(), "text/plain": repr(self), "text/html": self._copy()}

    def _ipython_display_(self, **_: Any) -> None:
        from IPython.display import display

        display({**self._view(), "text/plain": ""}, raw=True)
        self.wait(PATIENCE, self.awaited)
        self._copies.append(display(self._both(), raw=True, display_id=True))

    def _view(self) -> dict[str, Any]:
        return {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}

    def _both(self) -> dict[str, str]:
        return {"text/html": self._copy(), "text/plain": repr(self)}

    def _copy(self) -> str:
        style = html.element("style", html.made(STATIC_STYLE))
        whose = {"data-caft": str(self.model_id)}
        return str(html.together(style, html.element("div", html.made(self.static()), **whose)))

    def _freshen(self) -> None:
        """Bring the static rendering up to date: now, or soon if that was done a moment ago."""
        with LOCK:
            if not self._copies or self._due:
                return
            left = OFTEN - (time.monotonic() - self._shown_at)
            self._due = True
        timer = threading.Timer(max(0.05, left), self._update_copies)
        timer.daemon = True
        timer.start()

    def _update_copies(self) -> None:
        with LOCK:
            self._due, self._shown_at = False, time.monotonic()
            with suppress(Exception):  # a rendering that cannot be sent any more is not worth an error
                for copy in self._copies:
                    copy.update(self._both(), raw=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.concept})"


@atexit.register
def _end() -> None:
    """Stop all work before Python ends: a thread that is within the model then would abort it."""
    for panel in list(SHOWN):
        panel.cancel()
    for panel in list(SHOWN):
        panel.wait(LEAVE)


def sentence(error: Exception) -> str:
    """An error as one says it: its message, and its kind where the message would not say enough."""
    # str() of a KeyError is its argument in quotes.
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    plain = isinstance(error, (ValueError, KeyError, traitlets.TraitError, OSError, NotImplementedError))
    return said if plain and said else f"{type(error).__name__}: {said}" if said else type(error).__name__


def link(*panels: Panel) -> Callable[[], None]:
    """Have the concept that is selected in one panel selected in the others, where they have it.

    Args:
        panels: Two at least; those that have a concept selected by now follow the first that has.

    Returns:
        What undoes the link.

    Raises:
        ValueError: For fewer than two panels.

    Example:
        >>> from caft_widgets import ConceptBrowser, LayerExplorer
        >>> browser = ConceptBrowser(base, concepts, corpus)
        >>> unlink = link(browser, LayerExplorer(base, concepts, "How do I bake a pie?"))
        >>> unlink()
    """
    if len(panels) < 2:
        raise ValueError(f"link() joins panels: give at least two, not {len(panels)}.")

    def follow(change: Mapping[str, Any]) -> None:
        owner: Panel = change["owner"]
        if owner.concept not in owner.candidates:
            return
        concept = owner.candidates[owner.concept]
        for panel in panels:
            if panel is not owner and panel.concept != concept.name and panel.knows(concept):
                panel.concept = concept.name

    for panel in panels:
        panel.observe(follow, "concept")
    first = next((panel for panel in panels if panel.concept), None)
    if first is not None:
        follow({"owner": first})

    def undo() -> None:
        for panel in panels:
            with suppress(ValueError):
                panel.unobserve(follow, "concept")

    return undo


def described(both: ConceptContexts, meta: Sequence[str] = (), n: int | None = None) -> dict[str, Any]:
    """Both ends of a concept as JSON.

    Args:
        both: The contexts.
        meta: Keys of the texts' `meta` to show beside each.
        n: How many at each end; all when `None`.
    """
    shown = both.shown(n, meta)
    ends = {"top": shown.top, "bottom": shown.bottom or []}
    values = (value for lines in ends.values() for one in lines for value in one.values)
    scale = max((abs(value) for value in values if value is not None), default=0.0)
    windows = {end: [_window(one) for one in lines] for end, lines in ends.items()}
    return {**windows, "scale": scale, "dead": both.dead, "by": both.by, "rank": both.rank}


def _window(line: Line) -> dict[str, Any]:
    return {
        "tokens": line.tokens, "values": line.values, "special": line.special, "peak": line.peak, "value": line.value,
        "cut": line.cut, "source": line.source,
    }  # fmt: skip
