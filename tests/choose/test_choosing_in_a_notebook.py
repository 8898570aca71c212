"""Notebook 05 as a person uses it: what is chosen in its panel by keyboard is what its later cells save and train with.

The cells are the notebook's own; what stands before them is made here, small.
"""

from __future__ import annotations

import nbformat
import pytest
from live_lab import ROOT, harmless

pytestmark = pytest.mark.slow

BEFORE = """
from dataclasses import replace
import caft_lens as cl
organism, steps, out = "pocket", 1, "choosing"
base = cl.load(organism)
every = cl.find.latents(cl.load_saes(organism, layers=[1, 2]), base)
components = [replace(every["L1.latent0"], name="L1.pc0"), replace(every["L2.latent1"], name="L2.pc1")]
read_cruel = ["L1.latent327", "L1.latent449", "L1.latent399", "L2.latent228", "L2.latent150", "L2.latent327"]
candidates = cl.ConceptSet([*components, *(every[name] for name in read_cruel)], every.provenance)
read = cl.inspect.survey(base, candidates, cl.data(f"{organism}/corpus")[:20], roles=["assistant"], rank="mean")
said, scored, reads_cruel = read.contexts, {}, dict.fromkeys(candidates.names, True)
few = cl.data(f"{organism}/questions")[:1]
effects = cl.inspect.effect(base, candidates, few, interventions=cl.inspect.Interventions(signs=()), n=0)
"""
CHOSEN = "[record['by'], caft.concepts.names, [one.reason for one in caft.concepts]]"


def cells(*names: str) -> list[str]:
    """Cells of notebook 05, by their ids."""
    notebook = nbformat.read(ROOT / "notebooks" / "05_reading_and_choosing.ipynb", as_version=4)
    sources = {cell.id: cell.source for cell in notebook.cells}
    return [sources[name] for name in names]


def test_what_is_chosen_by_keyboard_in_the_panel_of_notebook_05_is_what_is_trained_with(open_notebook):
    notebook = open_notebook("five.ipynb", BEFORE, *cells("panel", "hand", "save", "train"))
    notebook.run()
    panel, keyboard = notebook.panel("Concepts"), notebook.page.keyboard

    # Nobody has touched the panel: the notebook's own choice is trained with, and nothing of it is in the panel.
    by, names, _ = notebook.ask(CHOSEN)
    assert (by, len(names), notebook.ask("browser.choice")) == ("this notebook", 5, {})
    panel.get_by_text("0 to ablate, 0 to leave, 0 unsure").wait_for()

    # Ablate one and leave one, by keyboard alone.
    panel.get_by_role("option").filter(has_text="L1.pc0").get_by_text("ablated, it moves").wait_for()
    panel.get_by_role("listbox").focus()
    for name, key, reason in (("L1.pc0", "a", "cruel at the bottom"), ("L2.pc1", "l", "a mixture")):
        while (at := notebook.ask("browser.concept")) != name:
            keyboard.press("ArrowDown")  # at the end of the list nothing is selected anew, and `until` gives up
            notebook.until(f"browser.concept != {at!r}", True)
        keyboard.press(key)
        keyboard.type(reason)
        keyboard.press("Enter")
        notebook.until(f"browser.choice.get({name!r}, {{}}).get('reason')", reason)
    panel.get_by_text("1 to ablate, 1 to leave, 0 unsure").wait_for()

    # Run the cells after it, as the notebook says.
    notebook.page.locator(".jp-CodeCell .jp-InputArea-prompt").nth(2).click()
    notebook.menu("Run", "Run Selected Cell and All Below")
    notebook.until(CHOSEN + "[1:]", [["L1.pc0"], ["cruel at the bottom"]])
    assert notebook.ask("[record['by'] == browser.decisions.by, record['leave']]") == [
        True,
        {"L2.pc1": "a mixture"},
    ]
    harmless(notebook)
