"""A real JupyterLab and a real browser for the tests of the panels: notebooks are opened, run and used as people do.

    lab            fixture: a server for the whole session, with folders of its own
    browser        fixture: headless Chromium for the whole session; skips, saying why, where there is none
    open_notebook  fixture: opens notebooks of given cells, and closes them at the end
    Notebook       a notebook that is open in a page: run it, find its panels, ask its kernel, save and reload it
    harmless       asserts that nothing of what was shown was run, and that nothing was fetched

Chromium is the system's (`make browser` installs it); its path can be given as CAFT_LENS_CHROMIUM.
"""

from __future__ import annotations

import ast
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking import BlockingKernelClient

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / "runs" / "test-screenshots"
FOLDERS = [str(path) for path in (ROOT / "tests", *sorted((ROOT / "tests").glob("*/")))]
HERE = f"import sys; sys.path[:0] = {FOLDERS!r}\n"
"""The first line of a cell that imports from the tests."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A sandbox needs rights that root in a container lacks; the rest keeps the browser from looking for its maker's
# servers.
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
SECONDS = 120
"""How long a kernel may take for a cell, on a busy machine."""


def chromium() -> str | None:
    """The path of the system's Chromium."""
    given = os.environ.get("CAFT_LENS_CHROMIUM")
    return given or next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@dataclass
class Lab:
    """A running JupyterLab.

    Attributes:
        port: On this machine.
        token: That it asks for.
        folder: Its root folder.
        runtime: Where its kernels' connection files are.
    """

    port: int
    token: str
    folder: Path
    runtime: Path

    def get(self, path: str) -> Any:
        """What the server's API says."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}", headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def write(self, name: str, cells: Sequence[str]) -> None:
        """Write a notebook of code cells."""
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=metadata
        )
        nbformat.write(notebook, self.folder / name)


def started(folder: Path) -> tuple[Lab, subprocess.Popen[bytes]]:
    """A JupyterLab on a free port, with configuration, data and settings below `folder`, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, root = secrets.token_hex(16), folder / "notebooks"
    root.mkdir(parents=True)
    runtime = folder / "runtime"
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    settings = [
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.ip=127.0.0.1",
        "--no-browser",
        "--allow-root",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
    ]
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *settings], stdout=log, stderr=log,
            env={**os.environ, **{name: str(folder / place) for name, place in places.items()}},
        )  # fmt: skip
    lab = Lab(port, token, root, runtime)
    for _ in range(SECONDS * 4):
        if server.poll() is not None:
            break
        try:
            lab.get("api/status")
        except OSError:
            time.sleep(0.25)
        else:
            return lab, server
    server.kill()
    raise RuntimeError(f"JupyterLab did not start:\n{(folder / 'lab.log').read_text()[-3000:]}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab for all tests that need one."""
    if chromium() is None:
        pytest.skip("no Chromium to open JupyterLab with: make browser")
    running, server = started(tmp_path_factory.mktemp("lab"))
    yield running
    server.terminate()
    server.wait(20)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium for all tests that need one."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium: make browser")
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with: make install")
    with sync.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield running
        running.close()


class Notebook:
    """A notebook that is open in a page of its own.

    Args:
        browser: As the fixture gives it.
        lab: As the fixture gives it.
        name: Of the file.
        size: Of the page, in pixels.
    """

    def __init__(self, browser: Any, lab: Lab, name: str, size: tuple[int, int] = (1400, 1000)) -> None:
        self.lab, self.name = lab, name
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.set_default_timeout(SECONDS * 1000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._client: BlockingKernelClient | None = None
        self._kernel = ""
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.open()

    def open(self) -> None:
        """Open it, as if anew."""
        # A workspace of its own: otherwise the tabs of the notebook before come back.
        workspace = f"w{secrets.token_hex(4)}"
        self.page.goto(
            f"http://127.0.0.1:{self.lab.port}/lab/workspaces/{workspace}/tree/{self.name}?token={self.lab.token}",
            wait_until="commit",
        )
        self.ready()

    def reload(self) -> None:
        """Reload the page."""
        self.page.reload()
        self.ready()

    def ready(self) -> None:
        """Wait until the notebook is there and its kernel idle: to run before that asks which kernel is meant."""
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.page.get_by_text("| Idle").wait_for()

    def menu(self, *path: str) -> None:
        """Choose an item of a menu."""
        self.page.locator(f'.lm-MenuBar-item:has-text("{path[0]}")').click()
        for words in path[1:]:
            self.page.locator(f'.lm-Menu-item:has(.lm-Menu-itemLabel:text-is("{words}"))').last.click()

    def run(self) -> None:
        """Run all cells, and wait for the kernel."""
        self.menu("Run", "Run All Cells")
        self.page.wait_for_function(
            "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].every(one => "
            "/\\d/.test(one.textContent))"
        )

    def panel(self, label: str) -> Any:
        """The live panel with this name."""
        found = self.page.locator(f'section.caft-panel[aria-label="{label}"]')
        found.wait_for()
        return found

    def client(self) -> BlockingKernelClient:
        """One connection to the kernel, kept until the kernel is another one: each has a dozen open files."""
        (kernel,) = [one["kernel"]["id"] for one in self.lab.get("api/sessions") if one["path"] == self.name]
        if self._kernel != kernel:
            self.disconnect()
            self._client = BlockingKernelClient(connection_file=str(self.lab.runtime / f"kernel-{kernel}.json"))
            self._client.load_connection_file()
            self._client.start_channels()
            self._kernel = kernel
        assert self._client is not None
        return self._client

    def disconnect(self) -> None:
        """Close the connection to the kernel, with all its files."""
        if self._client is not None:
            self._client.stop_channels()
            self._client.context.destroy(linger=0)
        self._client, self._kernel = None, ""

    def ask(self, expression: str) -> Any:
        """The value of an expression in the kernel, through JSON."""
        asked = {"answer": f"__import__('json').dumps({expression})"}
        reply = self.client().execute("", silent=True, user_expressions=asked, reply=True, timeout=SECONDS)
        answer = reply["content"]["user_expressions"]["answer"]
        if answer["status"] != "ok":
            raise RuntimeError(f"{expression}: {answer['evalue']}")
        return json.loads(ast.literal_eval(answer["data"]["text/plain"]))

    def until(self, expression: str, wanted: Any) -> None:
        """Wait until an expression in the kernel has a value."""
        value, end = None, time.monotonic() + SECONDS
        while time.monotonic() < end:
            value = self.ask(expression)
            if value == wanted:
                return
            time.sleep(0.1)
        raise AssertionError(f"{expression} is {value!r}, not {wanted!r}")

    def save(self) -> None:
        """Save it."""
        self.menu("File", "Save Notebook")
        self.page.wait_for_function("!document.querySelector('.jp-mod-dirty')")

    def screenshot(self, name: str) -> Path:
        """Keep what the page shows, as an artefact of the tests."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def close(self) -> None:
        """Close the page and end the kernel."""
        self.disconnect()
        self.page.close()
        for session in self.lab.get("api/sessions"):
            if session["path"] == self.name:
                request = urllib.request.Request(
                    f"http://127.0.0.1:{self.lab.port}/api/sessions/{session['id']}", method="DELETE",
                    headers={"Authorization": f"token {self.lab.token}"},
                )  # fmt: skip
                urllib.request.urlopen(request, timeout=20).close()


@pytest.fixture
def open_notebook(browser: Any, lab: Lab) -> Iterator[Callable[..., Notebook]]:
    """Opens notebooks of given cells, and closes them at the end."""
    opened: list[Notebook] = []

    def open_one(name: str, *cells: str) -> Notebook:
        if cells:
            lab.write(name, cells)
        opened.append(Notebook(browser, lab, name))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def harmless(notebook: Notebook) -> None:
    """Nothing that a token or a label says was run, nothing failed, and nothing was fetched from anywhere else."""
    assert notebook.page.title() != "harmed"
    assert not notebook.page.locator("script", has_text="harmed").count()
    assert not notebook.errors
    strange = [
        url
        for url in notebook.requests
        if not url.startswith((f"http://127.0.0.1:{notebook.lab.port}/", "data:", "blob:"))
    ]
    assert not strange
