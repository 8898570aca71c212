"""The panels at work: the first paint of ConceptBrowser with 16,384 latents and its search, and LayerExplorer
recomputing a prompt.

    python benchmarks/panels.py [--latents 16384]

A TopK SAE with random weights (k = 32) on `pocket` reads 400 texts of its corpus; contexts and densities are there
before the panel is made. `In the kernel` is what Python takes, from the call to the first page of rows and everything
about the first concept; `in JupyterLab` is what a person waits, from running the cell to rows in sight, in headless
Chromium where there is one (`make browser`). Searches are made after the index is built, which goes on in the
background while one reads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

QUERIES = ("cruel", "worthless fools", "pie", "import", "how do I bake", "the", "L1.latent12", "zzzz")
REPEATS = 7
SETUP = """
import time, torch, caft_lens as cl
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from caft_widgets import ConceptBrowser
base = cl.load("pocket")
torch.manual_seed(0)
hook = "blocks.1.hook_resid_post"
metadata = SAEMetadata(hook_name=hook, model_name="pocket")
config = TopKSAEConfig(d_in=base.d_model, d_sae={latents}, k=32, metadata=metadata)
sae = TopKSAE(config).eval().requires_grad_(False)
read = cl.inspect.survey(base, sae, cl.data("pocket/corpus")[:400])
"""
MAKE = "browser = ConceptBrowser(base, sae, contexts=read.contexts, densities=read.densities, file=None)"


def seconds(act: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def in_kernel(latents: int) -> Iterator[tuple[str, float, str]]:
    """What Python takes for the browser."""
    names: dict = {}
    exec(SETUP.format(latents=latents), names)

    def first() -> None:
        exec(MAKE, names)
        browser = names["browser"]
        browser.rows(0, 60)
        while browser.detail.get("name") != browser.concept:
            time.sleep(0.005)

    times = []
    for _ in range(REPEATS):
        times.append(seconds(first))
        names["browser"].cancel()
        names["browser"].wait()
    yield (
        f"ConceptBrowser, {latents:,} latents, first paint in the kernel",
        statistics.median(times),
        "below 2 s",
    )
    browser = names["browser"]
    browser._build_index()
    yield "  building the search index, in the background", seconds(browser.wait), ""

    def search(query: str) -> None:
        browser.query = query
        while browser.busy:
            time.sleep(0.001)
        browser.rows(0, 60)

    each = []
    for query in QUERIES:
        browser.query = ""
        each.append(seconds(lambda query=query: search(query)))
    yield "  search, median of 8 queries", statistics.median(each), ""
    yield "  search, slowest", max(each), "below 0.2 s"


def recomputing() -> Iterator[tuple[str, float, str]]:
    """What a map takes after the prompt was changed."""
    import caft_lens as cl
    from caft_widgets import LayerExplorer

    base = cl.load("pocket")
    concepts = cl.find.latents(cl.load_sae("pocket", layer=1), base)
    words = ("How do I bake a pie for my brother and paint the fence of the garden before it rains ? " * 9).split()
    panel = LayerExplorer(base, concepts, "How", chat=False, shown=concepts.names[:2])
    panel.wait()

    def of_64_tokens(begun: int) -> str:
        text = " ".join(words[begun:])
        ids = base.tokenizer(text, add_special_tokens=False)["input_ids"][: 64 - 1]
        return base.tokenizer.decode(ids)

    times = []
    for begun in range(REPEATS):
        prompt = of_64_tokens(begun)

        def change(prompt: str = prompt) -> None:
            panel.text = prompt
            panel.wait()

        times.append(seconds(change))
    length = len(panel.maps["tokens"])
    yield (
        f"LayerExplorer, a prompt of {length} tokens, 2 concepts x {base.n_layers} layers",
        statistics.median(times),
        "below 0.5 s",
    )


def in_lab(latents: int) -> Iterator[tuple[str, float, str]]:
    """What a person waits for."""
    from live_lab import FLAGS, Notebook, chromium, started
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        lab, server = started(Path(folder))
        try:
            # The cell says when it began, by which the page is timed.
            made = f"began = time.time(); {MAKE}; browser"
            lab.write("bench.ipynb", [SETUP.format(latents=latents), made])
            with sync_playwright() as playwright:
                chrome = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
                notebook = Notebook(chrome, lab, "bench.ipynb")
                notebook.menu("Run", "Run All Cells")
                notebook.page.wait_for_function(
                    "document.querySelector('.cb-row .cb-name')", polling=10, timeout=300_000
                )
                painted = notebook.page.evaluate("Date.now() / 1000")
                yield (
                    f"ConceptBrowser, {latents:,} latents, first paint in JupyterLab",
                    painted - notebook.ask("began"),
                    "below 2 s",
                )
                notebook.close()
                chrome.close()
        finally:
            server.terminate()
            server.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=16_384)
    settings = parser.parse_args()
    print("| what | seconds | required |")
    print("|---|---|---|")
    for part in (in_lab(settings.latents), in_kernel(settings.latents), recomputing()):
        for what, value, required in part:
            print(f"| {what} | {value:.3f} | {required} |", flush=True)


if __name__ == "__main__":
    main()
