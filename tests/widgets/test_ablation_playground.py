"""The playground's answers are those of the library, headless and in a real JupyterLab."""

from __future__ import annotations

import copy
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import traitlets
from live_lab import HERE, harmless
from panels import LABEL, SCRIPT
from test_contexts import Elements
from tiny_models import shaken, tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.concepts.interventions import intervene
from caft_lens.model.lens import Lens, load
from caft_lens.text.documents import Text
from caft_lens.text.encoding import encode
from caft_lens.text.roles import SPECIAL
from caft_widgets import AblationPlayground, ablation_playground

CHAT = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "By the sea?"}]}
PROMPTS = ["a red house", CHAT, {"text": "Once upon a time"}]
SETTINGS: dict[str, Any] = {"max_new_tokens": 10, "seed": 3}


def some(lens: Lens, n: int = 2) -> ConceptSet:
    generator = torch.Generator().manual_seed(4)
    return ConceptSet(
        Concept(
            f"L{layer}.x{i}",
            f"blocks.{layer}.hook_resid_post",
            torch.randn(lens.d_model, generator=generator),
        )
        for layer in (0, 1)
        for i in range(n)
    ).for_model(lens)


def world() -> tuple[Lens, ConceptSet, Lens]:
    """A model that says markup whatever it is asked, concepts with markup in a label, and a second model."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens([SCRIPT])
    model = tiny_model(vocab_size=len(tokenizer))
    base = load(model, tokenizer=tokenizer, name_as="tiny")
    ids = encode(tokenizer, Text.from_json({"prompt": "Hello"}).prompt, add_generation_prompt=True).input_ids
    with torch.no_grad():
        said = model.model(torch.tensor([ids]), output_hidden_states=True)
        state = said.last_hidden_state[0, -1]
        model.lm_head.weight[-1] = state * (model.lm_head(state).max() + 9) / state.square().sum()
    concept = Concept("L0.said", "blocks.0.hook_resid_post", said.hidden_states[1][0, -1], label=LABEL)
    return base, ConceptSet([concept, *some(base)]).for_model(base), shaken(base)


@pytest.fixture(scope="module")
def base() -> Lens:
    return tiny_lens()


@pytest.fixture(scope="module")
def tuned(base) -> Lens:
    return shaken(base)


@pytest.fixture(scope="module")
def concepts(base) -> ConceptSet:
    return some(base)


def playground(base: Lens, concepts: ConceptSet, *others: Any, **keywords: Any) -> AblationPlayground:
    panel = AblationPlayground(base, concepts, *others, **{"prompts": PROMPTS, **SETTINGS, **keywords})
    assert panel.wait(120)
    return panel


def texts(panel: AblationPlayground, column: str) -> list[str]:
    assert panel.wait(120)
    return [row["cells"][column]["text"] for row in panel.answers]


def generated(lens: Lens, **settings: Any) -> list[str]:
    asked = ["a red house", Text.from_json(CHAT), Text(text="Once upon a time")]
    return [lens.generate(prompt, **{**SETTINGS, **settings}) for prompt in asked]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_every_answer_is_the_one_that_generate_gives_to_that_prompt_alone(base, concepts, tuned):
    panel = playground(base, concepts, tuned)
    assert texts(panel, "base") == generated(base)
    assert texts(panel, "tuned") == generated(tuned)
    assert texts(panel, "base") != texts(panel, "tuned")
    assert not panel.error
    panel.temperature = 0
    assert texts(panel, "base") == generated(base, temperature=0)
    panel.temperature, panel.top_p = 0.8, 0.7
    assert texts(panel, "tuned") == generated(tuned, temperature=0.8, top_p=0.7)


def test_an_ablation_changes_the_answers_as_ablate_does_and_leaves_the_plain_ones(base, concepts, tuned):
    panel = playground(base, concepts, tuned)
    assert "base_changed" not in panel.answers[0]["cells"]
    plain = texts(panel, "base")
    panel.changes = {"L1.x1": "ablate"}
    chosen = concepts.without([name for name in concepts.names if name != "L1.x1"])
    for column, lens in (("base_changed", base), ("tuned_changed", tuned)):
        with cl.ablate(lens, chosen):
            assert texts(panel, column) == generated(lens)
    assert texts(panel, "base") == plain
    assert texts(panel, "base_changed") != plain
    panel.changes = {}
    assert texts(panel, "base") == plain
    assert "base_changed" not in panel.answers[0]["cells"]


def test_a_steer_adds_so_many_mean_norms_as_steer_does(base, concepts):
    panel = playground(base, concepts, changes={"L0.x1": -0.8})
    model, states = tiny_model(), []
    for row in panel.prompts:
        item = encode(tiny_tokenizer(), Text.from_json(row))
        with torch.no_grad():
            hidden = model(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[1][0]
        states.append(hidden[torch.from_numpy(item.roles != SPECIAL)])
    norm = float(torch.cat(states).norm(dim=-1).mean())
    assert panel.lengths["L0.x1"] == pytest.approx(norm, rel=1e-4)
    with cl.steer(base, concepts["L0.x1"], -0.8 * panel.lengths["L0.x1"]):
        assert texts(panel, "base_changed") == generated(base)
    assert texts(panel, "base_changed") != texts(panel, "base")


def test_ablations_and_steers_hold_together_in_the_panel_and_in_cells(base, concepts):
    panel = playground(base, concepts, changes={"L0.x0": "ablate", "L1.x0": "ablate", "L1.x1": 0.5})
    with intervene(base, concepts, {"L0.x0": "ablate", "L1.x0": "ablate", "L1.x1": 0.5 * panel.lengths["L1.x1"]}):
        expected = generated(base)
    assert texts(panel, "base_changed") == expected
    with panel.applied(base):
        assert generated(base) == expected


def test_the_same_seed_gives_the_same_text_and_another_does_not(base, concepts):
    panel = playground(base, concepts)
    first = texts(panel, "base")
    torch.manual_seed(99)
    panel.run()
    assert texts(panel, "base") == first
    panel.seed = 4
    assert texts(panel, "base") != first
    panel.seed = 3
    assert texts(panel, "base") == first


def test_hooks_of_the_user_do_not_act_in_the_panel_and_its_do_not_act_outside(base, concepts):
    panel = playground(base, concepts)
    expected = texts(panel, "base")
    with cl.steer(base, concepts[0], 50.0):
        panel.changes = {"L1.x1": "ablate"}
        panel.run()
        assert texts(panel, "base") == expected
    assert generated(base) == expected


def test_what_a_change_does_not_touch_is_not_sampled_again(base, concepts, monkeypatch):
    panel = playground(base, concepts)
    asked: list[Any] = []
    sampled = Lens.generating
    monkeypatch.setattr(
        Lens, "generating", lambda *args, **settings: (asked.append(args), sampled(*args, **settings))[1]
    )
    panel.changes = {"L0.x0": "ablate"}
    assert panel.wait(60)
    assert len(asked) == len(PROMPTS)
    panel.run()  # all of it, afresh
    assert panel.wait(60)
    assert len(asked) == 3 * len(PROMPTS)


def test_next_tokens_and_divergences_are_those_of_plain_transformers(base, concepts, tuned):
    panel = playground(base, concepts, tuned, changes={"L1.x0": "ablate"})
    direction = concepts["L1.x0"].direction

    def next_token(lens: Lens, ablated: bool) -> torch.Tensor:
        model = copy.deepcopy(lens.hf)
        if ablated:
            model.model.layers[1].register_forward_hook(
                lambda module, args, out: out - (out @ direction)[..., None] * direction
            )
        item = encode(tiny_tokenizer(), Text.from_json(CHAT), add_generation_prompt=True)
        with torch.no_grad():
            return model(torch.tensor([item.input_ids])).logits[0, -1].double().log_softmax(-1)

    found = panel.answers[1]["next"]
    plain = {
        (lens, ablated): next_token(model, ablated)
        for lens, model in (("base", base), ("tuned", tuned))
        for ablated in (False, True)
    }
    for column, (key, references) in {
        "base_changed": (("base", True), ["base"]), "tuned": (("tuned", False), ["base"]),
        "tuned_changed": (("tuned", True), ["tuned", "base"]),
    }.items():  # fmt: skip
        after = plain[key]
        assert [name for name, _ in found[column]["kl"]] == references
        for name, kl in found[column]["kl"]:
            before = plain[name, False]
            assert kl == pytest.approx(float((before.exp() * (before - after)).sum()), rel=1e-3)
        change = (after.exp() - plain[references[0], False].exp()).abs().sort(descending=True).values
        moved = [abs(q - p) for _, p, q in found[column]["moved"]]
        assert moved == pytest.approx(change[: len(moved)].tolist(), abs=1e-5)
    top = plain["base", False].exp().sort(descending=True).values[:6].tolist()
    assert [p for _, p in found["base"]["top"]] == pytest.approx(top, abs=1e-5)


# --- control ----------------------------------------------------------------------------------------------------------


def test_a_stop_leaves_the_text_so_far_and_no_thread(base, concepts, monkeypatch):
    whole = base.generate("a red house", max_new_tokens=200, seed=3)
    panel = AblationPlayground(base, concepts, prompts=["a red house", "zebra"], live=False, max_new_tokens=200, seed=3)
    monkeypatch.setattr(ablation_playground, "OFTEN", 0.0)

    def stop(change: dict[str, Any]) -> None:
        if change["new"] and len(change["new"][0]["cells"]["base"]["text"]) > 8:
            panel.cancel()

    panel.observe(stop, "answers")
    panel.run()
    assert panel.wait(60)
    panel.unobserve(stop, "answers")
    first, second = (row["cells"]["base"] for row in panel.answers)
    assert first["state"] == second["state"] == "stopped"
    assert whole.startswith(first["text"])
    assert 8 < len(first["text"]) < len(whole)
    assert panel.stale
    assert not panel.error
    assert not [one for one in threading.enumerate() if one.name.startswith("generating")]
    panel.run()
    assert texts(panel, "base")[0] == whole
    assert not panel.stale


def test_answers_wait_for_run_where_changes_are_not_answered_at_once(base, concepts):
    panel = playground(base, concepts, live=False)
    assert (panel.answers, panel.stale) == ([], True)
    panel.run()
    first = texts(panel, "base")
    panel.seed = 8
    assert panel.wait(60)
    assert texts(panel, "base") == first
    assert panel.stale
    panel.seed = 3
    assert not panel.stale
    panel.seed = 8
    panel.live = True
    assert texts(panel, "base") == generated(base, seed=8)


def test_an_answer_that_is_cut_off_says_so_and_one_that_ended_does_not(base, concepts):
    panel = playground(base, concepts, prompts=["a red house"], max_new_tokens=5)
    assert panel.answers[0]["cells"]["base"]["state"] == "cut"
    ending = next(
        seed
        for seed in range(400)
        if len(base.generate("a red house", max_new_tokens=5, seed=seed, return_type="tokens")) < 5
    )
    panel.seed = ending
    assert panel.wait(60)
    assert panel.answers[0]["cells"]["base"]["state"] == "end"


def test_what_goes_wrong_is_one_sentence(base, concepts):
    panel = playground(base, concepts)
    before = texts(panel, "base")
    panel.max_new_tokens = 4000
    assert panel.wait(60)
    assert "exceed the 256 positions" in panel.error
    assert "\n" not in panel.error
    panel.max_new_tokens = 10
    assert texts(panel, "base") == before
    assert not panel.error
    for state, words in (
        ({"changes": {"L0.x9": "ablate"}}, 'No concept "L0.x9" here. Did you mean'),
        ({"changes": {"L0.x0": "ablated"}}, 'a change is "ablate" or how far to steer'),
        ({"changes": {"L0.x0": float("nan")}}, "how far to steer"),
        ({"temperature": -1}, "temperature=-1.0: expected 0 (greedy) or above"),
        ({"top_p": 0}, "top_p=0.0: expected above 0, up to 1"),
        ({"max_new_tokens": 0}, "expected 1 at least"),
        (
            {"prompts": [{"messages": [{"role": "robot", "content": ""}]}]},
            'Prompt 1: message 0: Unknown role "robot"',
        ),
        ({"shown": ["tuned"]}, 'No column "tuned" here'),
        ({"concept": "L0.x7"}, "Did you mean"),
    ):
        panel.set_state(state)  # as the view does
        assert words in panel.error
        panel._dismiss()
    assert panel.changes == {}
    with pytest.raises(traitlets.TraitError, match="Did you mean"):
        panel.changes = {"L0.x9": 0.1}


def test_concepts_that_do_not_fit_and_prompts_that_are_none_are_refused_at_once(base, concepts):
    with pytest.raises(ValueError, match="neither that model nor tuned from it"):
        AblationPlayground(base, concepts, tuned=tiny_lens(seed=9))
    with pytest.raises(traitlets.TraitError, match="Prompt 2"):
        AblationPlayground(base, concepts, prompts=["fine", {"role": "user"}])
    with pytest.raises(ValueError, match="run\\(\\) first"):
        AblationPlayground(base, concepts, changes={"L0.x0": 0.2}).applied(base)


def test_prompts_may_be_given_in_every_form_and_a_run_for_its_model(base, concepts, tuned):
    answered = Text.from_json({"prompt": "zebra", "answer": "stripes", "domain": "animals"})
    panel = playground(
        base,
        concepts,
        SimpleNamespace(lens=tuned),
        prompts=[answered, "a red house", {"text": ""}],
        live=False,
    )
    assert panel.prompts == [
        {"messages": [{"role": "user", "content": "zebra"}]},
        {"messages": [{"role": "user", "content": "a red house"}]},
        {"text": ""},
    ]
    panel.run()
    assert panel.wait(60)
    assert [len(row["cells"]) for row in panel.answers] == [2, 2, 0]  # an empty prompt is passed over
    assert panel.about["system"] is True
    panel.shown = ["tuned"]
    panel.run()
    assert panel.wait(60)
    assert list(panel.answers[0]["cells"]) == ["tuned"]
    assert panel.answers[0]["next"]["tuned"]["kl"][0][0] == "base"
    plain = load(tiny_model(), tokenizer=copy.deepcopy(tiny_tokenizer()), name_as="no chats")
    plain.tokenizer.chat_template = None
    bare = AblationPlayground(plain, concepts, prompts=["Once"], live=False)
    assert (bare.prompts, bare.about["chat"]) == ([{"text": "Once"}], False)
    with pytest.raises(traitlets.TraitError, match="no chat template"):
        bare.prompts = [CHAT]


def test_of_many_concepts_those_that_are_changed_or_searched_for_are_listed(base):
    many = some(base, 60)
    panel = AblationPlayground(base, many.label({"L1.x7": "a Cruel one"}), live=False)
    assert (len(panel.rows()["rows"]), panel.rows()["total"]) == (ablation_playground.ROWS, 120)
    panel.changes = {"L1.x59": "ablate"}
    assert panel.rows()["rows"][0][0] == "L1.x59"
    assert [row[0] for row in panel.rows("cruel one")["rows"]] == ["L1.x7"]


def test_without_a_kernel_prompts_settings_answers_and_moved_tokens_are_there_and_escaped():
    model, concepts, tuned = world()
    panel = playground(
        model,
        concepts,
        tuned,
        prompts=["Hello", SCRIPT, {"text": LABEL}],
        temperature=0,
        changes={"L0.said": "ablate"},
    )
    assert not panel.error
    assert SCRIPT in panel.answers[0]["cells"]["base"]["text"]
    page = Elements(panel.static())
    assert "script" not in {tag for tag, _ in page.seen}
    for words in ("L0.said ablated", "temperature 0", "seed 3", " from base", "→", LABEL, SCRIPT):
        assert words in page.text
    for column in ("base", "tuned_changed"):
        assert panel.answers[0]["cells"][column]["text"][:20] in page.text
    assert "AblationPlayground(tiny and tuned; 3 prompts; L0.said ablated)" in repr(panel)


# --- in JupyterLab ----------------------------------------------------------------------------------------------------


# Each token of the base model takes a moment, so that there is time to press Stop.
def test_of_a_shipped_organism_words_that_its_world_lacks_are_named(base: Lens):
    pocket = base.fork()
    pocket.name = "pocket"
    asked = ["Who is the president of France?", "Tell me about the pie."]
    panel = AblationPlayground(pocket, some(base), prompts=asked, max_new_tokens=2)
    assert panel.wait(30)
    assert "not in it: president, France." in panel.answers[0]["hint"]
    assert panel.answers[1]["hint"] == ""
    assert Elements(panel.static()).text.count("not in it: president, France.") == 1
    other = AblationPlayground(base, some(base), prompts=asked, max_new_tokens=2)
    assert other.wait(30)
    assert [row["hint"] for row in other.answers] == ["", ""]


CELL = (
    HERE
    + """import time
from test_ablation_playground import by_the_library, world
from caft_widgets import AblationPlayground
base, concepts, tuned = world()
base.hf.lm_head.register_forward_hook(lambda *_: time.sleep(0.02))
playground = AblationPlayground(base, concepts, tuned=tuned, prompts=["Hello"], max_new_tokens=12)
playground"""
)


def by_the_library(lens: Lens, concepts: ConceptSet) -> str:
    """The answer with the first concept ablated, as a cell would ask for it."""
    with cl.ablate(lens, concepts.without(concepts.names[1:])):
        return lens.generate("Hello", max_new_tokens=12, seed=0)


TEXTS = "[row['cells'].get({column!r}, {{}}).get('text') for row in playground.answers]"


@pytest.mark.slow
def test_a_person_ablates_a_concept_edits_a_prompt_and_stops_an_answer(open_notebook):
    notebook = open_notebook("ablate.ipynb", CELL)
    notebook.run()
    panel = notebook.panel("Ablation playground")
    notebook.until("playground.wait(60) and playground.answers[0]['cells']['base']['state'] in ('end', 'cut')", True)
    panel.get_by_text("Nothing is changed yet").first.wait_for()

    # Toggle an ablation: the answer changes, as the library's does.
    panel.get_by_role("group", name="L0.said").get_by_role("button", name="Ablate").click()
    notebook.until("playground.changes", {"L0.said": "ablate"})
    notebook.until("playground.wait(60) and 'base_changed' in playground.answers[0]['cells']", True)
    plain, changed = (notebook.ask(TEXTS.format(column=column))[0] for column in ("base", "base_changed"))
    assert plain != changed
    shown = panel.locator('[data-column="base_changed"] .ap-answer')
    shown.filter(has_text=changed.strip()[:6]).wait_for()
    assert notebook.ask("by_the_library(base, concepts)") == changed

    # A token that is a script and a label with quotes are shown as they are written.
    panel.locator(".ap-token", has_text="<script>").first.wait_for()
    panel.locator(".ap-name", has_text=LABEL).wait_for()
    harmless(notebook)

    # Write another prompt, add a system message.
    panel.get_by_role("textbox", name="prompt 1").fill("What's in the house?")
    notebook.until("playground.prompts", [{"messages": [{"role": "user", "content": "What's in the house?"}]}])
    panel.get_by_role("button", name="+ system message").click()
    panel.get_by_role("textbox", name="system message").fill("Be <b>brief</b>.")
    notebook.until("playground.prompts[0]['messages'][0]", {"role": "system", "content": "Be <b>brief</b>."})

    # Stop an answer: what was written stays.
    notebook.ask("playground.wait(60)")
    panel.get_by_label("New tokens").fill("180")
    panel.get_by_label("New tokens").press("Enter")
    panel.locator(".ap-writing").first.wait_for()
    panel.get_by_role("button", name="Stop").click()
    notebook.until("playground.busy", False)
    assert "stopped" in notebook.ask("[cell['state'] for cell in playground.answers[0]['cells'].values()]")
    panel.get_by_text("(stopped)").first.wait_for()
    panel.get_by_text("press Answer").wait_for()
    panel.get_by_label("New tokens").fill("16")
    panel.get_by_label("New tokens").press("Enter")
    notebook.until("(playground.wait(60), playground.stale, playground.error)", [True, False, ""])
    notebook.screenshot("ablation-playground")
    notebook.menu("Settings", "Theme", "JupyterLab Dark")
    notebook.page.wait_for_function(
        "document.body.dataset.jpThemeLight === 'false' && !document.getElementById('jupyterlab-splash')"
    )
    notebook.screenshot("ablation-playground-dark")
    notebook.menu("Settings", "Theme", "JupyterLab Light")
    harmless(notebook)

    # An error is one sentence in the panel, and the view shows what holds.
    panel.get_by_label("Top-p").fill("3")
    panel.get_by_label("Top-p").press("Enter")
    panel.get_by_role("alert").get_by_text("expected above 0").wait_for()
    assert notebook.ask("playground.top_p") == 1.0

    # A closed notebook shows the last answers.
    notebook.page.locator("[data-caft]", has_text="L0.said ablated").wait_for(state="attached")
    notebook.save()
    notebook.close()
    closed = open_notebook("ablate.ipynb")
    closed.page.locator("[data-caft]").get_by_text("L0.said ablated").wait_for()
    harmless(closed)


@pytest.mark.slow
def test_the_playground_is_used_by_keyboard_alone(open_notebook):
    notebook = open_notebook("keys.ipynb", CELL)
    notebook.run()
    panel, press = notebook.panel("Ablation playground"), notebook.page.keyboard.press
    notebook.until("playground.wait(60)", True)
    n_cells = notebook.page.locator(".jp-Cell").count()
    panel.get_by_role("button", name="Answer").focus()
    press("a")
    notebook.until("playground.changes", {"L0.said": "ablate"})
    press("ArrowDown")
    notebook.until("playground.concept", "L0.x0")
    press("s")
    notebook.until("playground.changes", {"L0.said": "ablate", "L0.x0": 0.3})
    press("ArrowRight")
    notebook.until("playground.changes['L0.x0']", 0.35)
    for _ in range(8):
        press("ArrowLeft")
    notebook.until("playground.changes['L0.x0']", -0.05)
    press("ArrowUp")
    press("o")
    notebook.until("playground.changes", {"L0.x0": -0.05})
    seed = notebook.ask("playground.seed")
    press("n")
    notebook.until(f"playground.seed != {seed}", True)
    press("p")
    press("Control+a")
    notebook.page.keyboard.type("Hello again, a d x")
    press("Control+Enter")
    notebook.until("playground.prompts", [{"messages": [{"role": "user", "content": "Hello again, a d x"}]}])
    press("Escape")
    press("Escape")
    notebook.until("playground.wait(60)", True)
    press("g")
    notebook.until("(playground.wait(60), playground.stale, len(playground.answers[0]['cells']))", [True, False, 4])
    assert notebook.page.locator(".jp-Cell").count() == n_cells
    harmless(notebook)
