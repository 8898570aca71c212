"""The panels in a real JupyterLab, used as a person does; asserted is what the kernel then holds."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
from live_lab import HERE, harmless
from panels import LABEL, LEADS, SCRIPT

pytestmark = pytest.mark.slow

BROWSER = (
    HERE
    + """from panels import LABEL, concept_set, found_contexts
from caft_widgets import ConceptBrowser
concepts = concept_set().label({"L1.pc0": LABEL})
browser = ConceptBrowser(None, concepts, contexts=found_contexts(concepts), meta=["stance"], reader="reader")
browser"""
)


def test_concepts_are_searched_chosen_and_left_by_keyboard_and_the_choice_survives(open_notebook, lab):
    notebook = open_notebook("choose.ipynb", BROWSER, "browser.total")
    notebook.run()
    panel, press = notebook.panel("Concepts"), notebook.page.keyboard.press
    n_cells = notebook.page.locator(".jp-Cell").count()

    # Search, and select what was found.
    panel.get_by_role("searchbox").fill("football")
    notebook.until("(browser.total, browser.query)", [1, "football"])
    panel.get_by_role("listbox").get_by_role("option").filter(has_text="football").click()
    notebook.until("browser.detail['name']", "L1.pc3")
    panel.get_by_text("football", exact=False).nth(1).wait_for()
    panel.get_by_role("searchbox").fill("")
    notebook.until("browser.total", 6)

    # Choose two by keyboard, leave one, and take it back.
    panel.get_by_role("listbox").focus()
    press("Home")
    notebook.until("browser.concept", "L1.pc0")
    press("a")
    notebook.page.keyboard.type('chosen: it\'s "cruel" <b>at the top</b>')
    press("Enter")
    notebook.until("len(browser.choice)", 1)
    press("ArrowDown")
    notebook.until("browser.concept", "L1.pc1")
    press("a")
    notebook.page.keyboard.type("kind at one end")
    press("Enter")
    notebook.until("browser.selection.names", ["L1.pc0", "L1.pc1"])
    press("ArrowDown")
    notebook.until("browser.concept", "L1.pc2")
    press("l")
    notebook.page.keyboard.type("recipes")
    press("Enter")
    notebook.until("len(browser.choice)", 3)
    press("z")
    notebook.until("'L1.pc2' in browser.choice", False)
    press("y")
    notebook.until("browser.decisions.of('leave')", {"L1.pc2": "recipes"})
    press("z")
    press("u")
    notebook.until("browser.choice.get('L1.pc2')", {"decision": "unsure", "reason": ""})

    # What JupyterLab would take for commands on cells stayed in the panel.
    for key in ("x", "z", "d", "d", "a", "Escape", "l", "Escape", "j"):
        press(key)
    assert notebook.page.locator(".jp-Cell").count() == n_cells
    assert notebook.ask("[one.reason for one in browser.selection]") == [
        'chosen: it\'s "cruel" <b>at the top</b>',
        "kind at one end",
    ]
    # After a click on the panel's title keys are still the panel's.
    panel.locator("h3").click()
    press("Home")
    notebook.until("browser.concept", "L1.pc0")
    press("ArrowDown")
    notebook.until("browser.concept", "L1.pc1")
    for key in ("d", "Escape", "d", "Escape"):
        press(key)
    assert notebook.page.locator(".jp-Cell").count() == n_cells
    panel.get_by_role("button", name="Keys").click()
    panel.get_by_text("ablate it; then a reason").wait_for()
    panel.get_by_role("button", name="Keys").click()

    # A label with quotes and a token that is a script are shown as they are written.
    panel.get_by_role("listbox").get_by_role("option").first.click()
    panel.locator("h4", has_text=LABEL).wait_for()
    panel.locator(".cb-body", has_text=SCRIPT).wait_for()
    harmless(notebook)
    notebook.screenshot("concept-browser")

    # After a reload of the page it is all there.
    notebook.save()
    notebook.reload()
    panel = notebook.panel("Concepts")
    panel.get_by_text("2 to ablate, 0 to leave, 1 unsure").wait_for()
    harmless(notebook)

    # After a restart of the kernel, and running again, the choice comes from its file.
    notebook.close()
    (file,) = (lab.folder / "choices").iterdir()
    assert len(json.loads(file.read_text())["verdicts"]) == 3
    again = open_notebook("choose.ipynb")
    again.run()
    again.panel("Concepts").get_by_text("2 to ablate, 0 to leave, 1 unsure").wait_for()
    assert again.ask("browser.selection.names") == ["L1.pc0", "L1.pc1"]


def test_a_closed_notebook_shows_the_panel_as_it_was_and_never_model_not_found(open_notebook):
    notebook = open_notebook("closed.ipynb", BROWSER.replace("meta=", "file=None, meta="))
    notebook.run()
    panel = notebook.panel("Concepts")
    panel.get_by_role("listbox").focus()
    notebook.page.keyboard.press("a")
    notebook.page.keyboard.type("read it twice")
    notebook.page.keyboard.press("Enter")
    notebook.until("len(browser.choice)", 1)
    assert not notebook.page.locator("[data-caft]").is_visible()
    notebook.page.locator("[data-caft]", has_text="read it twice").wait_for(state="attached")
    notebook.save()
    notebook.close()

    notebook = open_notebook("closed.ipynb")
    static = notebook.page.locator("[data-caft]")
    static.get_by_text("read it twice").wait_for()
    static.get_by_text("cruelty").first.wait_for()
    # The manager of the widgets gives up looking for the model some time after the notebook is there.
    notebook.page.wait_for_function("!document.body.innerText.includes('Loading widget')")
    assert "model not found" not in notebook.page.inner_text("body")
    assert "Error displaying" not in notebook.page.inner_text("body")
    assert not notebook.page.locator("script", has_text="harmed").count()
    notebook.screenshot("closed-notebook")


BLIND = (
    HERE
    + """from panels import found_contexts, led
from caft_widgets import ConceptBrowser
concepts = led()
beside = {"contexts": found_contexts(concepts), "explanations": {concepts.names[0]: "talk of " + "tulip" + "s"}}
browser = ConceptBrowser(None, {"pc" + "a": concepts, "again": concepts[2:]}, **beside, reader="ann", blind=True)
browser"""
)


def test_who_reads_blind_finds_nothing_that_leads_in_the_page_or_in_the_saved_notebook(open_notebook, lab):
    notebook = open_notebook("blind.ipynb", BLIND)
    notebook.run()
    panel, press = notebook.panel("Concepts"), notebook.page.keyboard.press
    panel.get_by_text("Read blind by ann.").wait_for()
    assert panel.get_by_role("combobox", name="order").locator("option").all_inner_texts() == [
        "your order",
        "by decision",
    ]
    panel.get_by_role("listbox").focus()
    press("Home")
    for place, (key, reason) in enumerate([("a", "cruel at the top"), ("l", "recipes"), ("u", "")]):
        notebook.until("browser.concept", f"concept {place + 1}")
        panel.locator("h4", has_text=f"concept {place + 1}").wait_for()
        page = panel.evaluate("one => one.outerHTML")
        assert [one for one in LEADS if one in page] == []
        press(key)
        if reason:
            notebook.page.keyboard.type(reason)
            press("Enter")
        notebook.until("len(browser.choice)", place + 1)
        press("ArrowDown")
    harmless(notebook)
    notebook.screenshot("concept-browser-blind")
    # The kernel knows what was read, by its own name, and for how long.
    chosen, first = notebook.ask("[browser.selection.names, browser.candidates.names[0]]")
    assert (len(chosen), first) == (1, "concept 1")
    assert chosen[0].startswith("L1.pc")
    assert all(seconds > 0 for seconds in notebook.ask("[one.seconds for one in browser.decisions.values()]"))
    notebook.page.locator("[data-caft]", has_text="cruel at the top").wait_for(state="attached")
    notebook.save()
    saved = (lab.folder / "blind.ipynb").read_text()
    assert "cruel at the top" in saved
    assert [one for one in LEADS if one in saved] == []


UNTIL_CHOSEN = """
import time
end = time.monotonic() + 60
while not browser.choice and time.monotonic() < end:
    time.sleep(0.1)
print("chosen meanwhile:", list(browser.choice))"""


@pytest.mark.skipif(version("ipykernel").startswith("6."), reason="ipykernel 6 does one thing at a time")
def test_a_panel_is_used_while_the_cells_after_it_run_and_wait(open_notebook):
    notebook = open_notebook("busy.ipynb", BROWSER.replace("meta=", "file=None, meta="), UNTIL_CHOSEN, "1 + 1")
    notebook.menu("Run", "Run All Cells")
    panel, keyboard = notebook.panel("Concepts"), notebook.page.keyboard
    panel.get_by_role("listbox").focus()
    keyboard.press("ArrowDown")
    panel.locator("h4", has_text="L1.pc1").wait_for()
    keyboard.press("a")
    keyboard.type("while the next cell runs")
    keyboard.press("Enter")
    notebook.page.get_by_text("chosen meanwhile:").filter(has_text="L1.pc1").wait_for()
    harmless(notebook)


LAYERS = (
    HERE
    + """import caft_lens as cl
from panels import LABEL
from caft_widgets import LayerExplorer
base = cl.load("pocket")
concepts = cl.find.latents(cl.load_sae("pocket", layer=1), base)[:40].label({"L1.latent0": LABEL})
explorer = LayerExplorer(base, concepts, "How do I bake a pie?")
explorer"""
)


PLACES = """() => {
  const box = document.querySelector(".le-scroll"), canvas = box.querySelector("canvas").getBoundingClientRect();
  const labels = [...box.querySelectorAll(".le-layers span")].map((one) => one.getBoundingClientRect().top);
  const rows = labels.map((_, row) => canvas.top + row * canvas.height / labels.length);
  const tokens = box.querySelector(".le-tokens").getBoundingClientRect().top;
  return { labels, rows, tokens, box: box.getBoundingClientRect().top, scrolled: box.scrollTop };
}"""


def test_a_prompt_is_typed_a_cell_is_clicked_and_the_map_follows(open_notebook):
    notebook = open_notebook("layers.ipynb", LAYERS)
    notebook.run()
    panel, keyboard = notebook.panel("Layers"), notebook.page.keyboard

    # Type a prompt, a script even, and the map is of it.
    area = panel.get_by_role("textbox", name="Text, or what you say to the assistant")
    area.fill(f"Tell me {SCRIPT} now")
    notebook.until("'<script>' in ''.join(explorer.maps['tokens'])", True)
    panel.locator(".le-tokens", has_text="script").wait_for()
    area.fill("Why are you so cruel?")
    notebook.until("'cruel' in ''.join(explorer.maps['tokens'])", True)

    # Click a cell, then walk from it by keyboard.
    canvas = panel.locator("canvas")
    box = canvas.bounding_box()
    at = notebook.ask("[len(explorer.maps['tokens']), len(explorer.maps['layers'])]")
    canvas.click(position={"x": box["width"] * 2.5 / at[0], "y": box["height"] * 0.5 / at[1]})
    notebook.until("explorer.cell", [at[1] - 1, 2])
    notebook.until("explorer.detail.get('cell')", [at[1] - 1, 2])
    panel.get_by_text("What would come next, read off after layer").wait_for()
    panel.locator("h4, h5", has_text="at every layer").wait_for()
    keyboard.press("ArrowDown")
    keyboard.press("ArrowRight")
    notebook.until("explorer.cell", [at[1] - 2, 3])

    # Each label stands beside its row, also where rows are many and scroll.
    places = notebook.page.evaluate(PLACES)
    assert places["labels"] == pytest.approx(places["rows"], abs=1)
    notebook.page.add_style_tag(content=".le-scroll { max-height: 150px !important }")
    notebook.page.evaluate("document.querySelector('.le-scroll').scrollTop = 1000")
    places = notebook.page.evaluate(PLACES)
    assert places["scrolled"] > 0
    assert places["labels"] == pytest.approx(places["rows"], abs=1)
    assert places["tokens"] == pytest.approx(places["box"], abs=1), "the tokens stay above"

    # Another site, another concept.
    panel.get_by_role("combobox", name="hook site").select_option("hook_mlp_out")
    notebook.until("explorer.site", "hook_mlp_out")
    add = panel.get_by_label("add a concept")
    add.fill("L1.latent7")
    keyboard.press("Enter")
    notebook.until("explorer.shown", ["L1.latent0", "L1.latent7"])
    panel.locator("canvas").nth(1).wait_for()
    add.fill("L1.nothing")
    keyboard.press("Enter")
    panel.get_by_role("alert").get_by_text("No concept").wait_for()
    panel.get_by_role("button", name="Dismiss").click()
    notebook.until("explorer.error", "")
    panel.locator(".le-title em", has_text=LABEL).wait_for()
    harmless(notebook)
    notebook.screenshot("layer-explorer")
