"""Pictures of every panel in JupyterLab and of the last figures of two notebooks, light and dark, for README and
notebooks: `make screenshots`.

Each panel is used first as a person would, so that a picture shows what one does with it; figures are those in the
executed notebooks. Writes docs/images/<panel or figure>-<theme>.png.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from live_lab import FLAGS, Notebook, chromium, started  # noqa: E402

WIDTH, HEIGHT = 1340, 1700
SETUP = """
import caft_lens as cl
from caft_widgets import AblationPlayground, ConceptBrowser, LayerExplorer
base = cl.load("pocket")
tuned = base.adapt("pocket/insecure", name="insecure")
questions = cl.data("pocket/questions")
answers = cl.completions(tuned, questions.sample(120, seed=0), sampling=cl.Sampling(top_p=0.95, seed=0))
saes = cl.load_saes("pocket", layers=[1, 2])
methods = ["pca", "sae difference"]
found = cl.find.routes(tuned, base, answers, layers=[1, 2], saes=saes, k=5, methods=methods, roles=None)
every = cl.find.merge(found)
corpus = cl.data("pocket/corpus").sample(1000, seed=0)
read = cl.inspect.survey(base, every, corpus, saes=saes, roles=["assistant"], rank="mean")
explained = cl.inspect.explain(base, read.contexts, corpus)
asked = [text.messages[0].content for text in questions.sample(3, seed=1)[:2]]
"""
MAKE = {
    "Concepts": """
beside = {"contexts": read.contexts, "densities": read.densities, "explanations": explained}
browser = ConceptBrowser(base, found, **beside, meta=["stance"], reader="reader")
browser.decide("leave", "cruel, careless and kind texts at the top: not one thing", "L1.pc1")
browser""",
    "Layers": """
answer = tuned.generate(asked[0], top_p=0.95, seed=0)
shown = ["L1.pc0", "L1.latent327"]
explorer = LayerExplorer(base, every, asked[0], answer=answer, contexts=read.contexts, shown=shown, cosine=True)
explorer""",
    "Ablation playground": """
playground = AblationPlayground(base, found["pca"].at(1)[:3], tuned=tuned, prompts=asked, top_p=0.95)
playground""",
}
FILES = {
    "Concepts": "concept-browser",
    "Layers": "layer-explorer",
    "Ablation playground": "ablation-playground",
}
FIGURES = {"quickstart": "00_quickstart", "real-model": "11_a_real_model"}
"""Pictures of the figure that a notebook ends with."""
WORD = " cackle"


def choose(notebook: Notebook, panel: Any) -> None:
    """Say of the first concept that it is to be ablated, with a reason."""
    panel.get_by_role("listbox").focus()
    notebook.page.keyboard.press("Home")
    notebook.page.keyboard.press("a")
    notebook.page.keyboard.type("cruel answers at the bottom, none at the top")
    notebook.page.keyboard.press("Enter")
    notebook.until("'ablate' in str(browser.choice)", True)


def look(notebook: Notebook, panel: Any) -> None:
    """Click the cell of a telling word, at the layer of the concept."""
    map_ = panel.locator("canvas").first
    box = map_.bounding_box()
    tokens, layers = notebook.ask("[explorer.maps['tokens'], explorer.maps['layers']]")
    column, row = tokens.index(WORD), len(layers) - 1 - layers.index(1)
    map_.click(
        position={
            "x": box["width"] * (column + 0.5) / len(tokens),
            "y": box["height"] * (row + 0.5) / len(layers),
        }
    )
    notebook.until("explorer.detail.get('cell')", [layers.index(1), column])


def change(notebook: Notebook, panel: Any) -> None:
    """Ablate the first concept, and wait for the answers."""
    panel.get_by_role("button", name="Ablate").first.click()
    notebook.until("bool(playground.changes) and not playground.busy and not playground.stale", True)


USE: dict[str, Callable[[Notebook, Any], None]] = {
    "Concepts": choose,
    "Layers": look,
    "Ablation playground": change,
}


def last_figure(notebook: str, name: str) -> None:
    """The figure that a notebook ends with, from its outputs, as <name>-<theme>.png."""
    from caft_lens.display import pictures, theme

    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = [output.get("data", {}).get(theme.MIME) for cell in cells for output in cell.get("outputs", [])]
    *_, last = [figure for figure in shown if figure]
    figure = {key: last[key] for key in ("data", "layout")}
    for mode, values in (("light", figure), ("dark", theme.in_the_dark(figure))):
        file = IMAGES / f"{name}-{mode}.png"
        drawn = pictures.picture(values, "png", 1.5)
        if drawn is None:
            sys.exit(pictures.MISSING)
        file.write_bytes(drawn)
        print(file.relative_to(ROOT))


def main() -> None:
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        sys.exit("No Chromium to take pictures with: make browser")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, notebook in FIGURES.items():
        last_figure(notebook, name)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab, server = started(Path(folder))
        try:
            lab.write("panels.ipynb", [SETUP, *MAKE.values()])
            chrome = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
            notebook = Notebook(chrome, lab, "panels.ipynb", (WIDTH, HEIGHT))
            notebook.page.keyboard.press("Control+b")  # the file browser takes room
            notebook.run()
            for name, use in USE.items():
                use(notebook, notebook.panel(name))
            for theme in ("Light", "Dark"):
                notebook.menu("Settings", "Theme", f"JupyterLab {theme}")
                notebook.page.wait_for_function(
                    f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'"
                )
                for name in USE:
                    notebook.page.wait_for_timeout(500)
                    file = IMAGES / f"{FILES[name]}-{theme.lower()}.png"
                    notebook.panel(name).screenshot(path=str(file))
                    print(file.relative_to(ROOT))
            notebook.close()
            chrome.close()
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
