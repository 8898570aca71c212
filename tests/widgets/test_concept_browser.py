"""ConceptBrowser, headless: what its traits say is what a reader did, and nothing is lost."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
import traitlets
from panels import LABEL, LEADS, SCRIPT, concept_set, found_contexts, led
from tiny_models import tiny_lens

import caft_lens as cl
from caft_lens._support.files import shown
from caft_lens.choose.session import Decisions
from caft_widgets import ConceptBrowser, link


def browser(concepts=None, **keywords) -> ConceptBrowser:
    concepts = concept_set() if concepts is None else concepts
    keywords.setdefault("file", None)
    panel = ConceptBrowser(None, concepts, **keywords)
    assert panel.wait(60)
    return panel


def names(panel: ConceptBrowser) -> list[str]:
    return [row["name"] for row in panel.rows(0, panel.total)["rows"]]


def test_what_is_to_be_ablated_and_what_is_left_is_one_choice_on_record():
    panel = browser(reader="reader")
    panel.decide("ablate", "cruel at the top", name="L1.pc0")
    panel.decide("leave", "recipes", name="L1.pc2")
    panel.decide("unsure", name="L1.pc3")
    chosen = panel.selection
    assert chosen.names == ["L1.pc0"]
    assert chosen["L1.pc0"].reason == "cruel at the top"
    (record,) = chosen.provenance["choices"]
    assert (record["by"], record["ablate"], record["leave"], record["not_considered"]) == (
        "reader",
        ["L1.pc0"],
        {"L1.pc2": "recipes"},
        4,
    )


def test_nothing_to_ablate_is_no_selection():
    with pytest.raises(ValueError, match="Nothing is chosen yet"):
        _ = browser().selection


def test_ablating_needs_a_reason_and_says_so():
    panel = browser()
    with pytest.raises(ValueError, match=r"needs a reason"):
        panel.decide("ablate", "  ")
    assert panel.choice == {}
    panel._receive(panel, {"id": "1", "call": "decide", "with": {"action": "ablate"}}, [])
    assert "needs a reason" in panel.error
    panel.decide("ablate", "read it")
    assert panel.error == ""


def test_every_step_is_undone_and_done_again_in_order():
    panel = browser()
    panel.decide("ablate", "one", name="L1.pc0")
    panel.decide("leave", "two", name="L1.pc1")
    panel.decide("leave", "three", name="L1.pc0")
    panel.undo()
    assert (panel.choice["L1.pc0"], panel.concept) == ({"decision": "ablate", "reason": "one"}, "L1.pc0")
    panel.undo()
    panel.undo()
    panel.undo()
    assert (panel.choice, panel.can_undo, panel.can_redo) == ({}, False, True)
    panel.redo()
    panel.redo()
    assert {name: one["decision"] for name, one in panel.choice.items()} == {
        "L1.pc0": "ablate",
        "L1.pc1": "leave",
    }
    panel.decide(None, name="L1.pc1")
    assert ("L1.pc1" in panel.choice, panel.can_redo) == (False, False)


def test_the_choice_is_saved_at_every_step_and_restored(tmp_path):
    file = tmp_path / "deep" / "{fingerprint}.json"
    concepts = concept_set()
    panel = browser(concepts, file=file, reader="reader")
    panel.decide("ablate", LABEL, name="L1.pc4")
    panel.decide("unsure", name="L1.pc5")
    (written,) = (tmp_path / "deep").iterdir()
    assert concepts.fingerprint in written.name
    assert panel.saved == shown(written)
    again = browser(concepts, file=file)
    assert again.choice == panel.choice
    assert again.selection["L1.pc4"].reason == LABEL
    again.undo()  # what another session did stays
    assert again.choice == panel.choice


def test_a_file_of_other_concepts_is_refused(tmp_path):
    file = tmp_path / "choice.json"
    browser(file=file).decide("ablate", "read it")
    other = cl.ConceptSet([cl.Concept("L1.pc0", "blocks.1.hook_resid_post", torch.ones(8))])
    with pytest.raises(ValueError, match="decisions on other concepts"):
        browser(other, file=file)
    file.write_text(json.dumps({"format": "something"}))
    with pytest.raises(ValueError, match="holds no decisions"):
        Decisions(other, file)


def test_a_choice_that_cannot_be_saved_still_counts_and_the_panel_says_so(tmp_path):
    (tmp_path / "file").write_text("no folder")
    panel = browser(file=tmp_path / "file" / "choice.json")
    panel._receive(panel, {"id": "1", "call": "decide", "with": {"action": "ablate", "reason": "read it"}}, [])
    assert panel.choice["L1.pc0"]["decision"] == "ablate"
    assert panel.error


def test_the_list_is_ordered_filtered_and_turned_round():
    one, other = concept_set(4), concept_set(4, layer=2, name="latent")
    panel = browser({"pca": one, "sae": other})
    assert names(panel)[:3] == ["L1.pc0", "L2.latent0", "L1.pc1"]
    panel.route = "sae"
    assert names(panel) == [f"L2.latent{i}" for i in range(4)]
    panel.descending = True
    assert names(panel)[0] == "L2.latent3"
    panel.route, panel.descending, panel.hook = "", False, "blocks.1.hook_resid_post"
    assert names(panel) == [f"L1.pc{i}" for i in range(4)]
    panel.hook = ""
    panel.sort = "name"
    assert names(panel) == [f"L1.pc{i}" for i in range(4)] + [f"L2.latent{i}" for i in range(4)]
    panel.decide("leave", "no", name="L2.latent1")
    panel.sort = "decision"
    assert names(panel)[0] == "L2.latent1"
    panel.showing = "leave"
    assert names(panel) == ["L2.latent1"]


def test_names_are_ordered_as_one_counts():
    concepts = cl.ConceptSet(
        [cl.Concept(f"L{i}.pc{i}", f"blocks.{i}.hook_resid_post", torch.eye(12)[i]) for i in (10, 9, 2, 11)]
    )
    panel = browser(concepts)
    panel.sort = "name"
    assert names(panel) == ["L2.pc2", "L9.pc9", "L10.pc10", "L11.pc11"]


def test_a_direction_that_two_routes_found_stands_once_with_both_ranks():
    one = concept_set(3)
    panel = browser({"pca": one, "again": one[1:]})
    assert panel.about["size"] == 3
    assert panel.rows(1, 2)["rows"][0]["found"] == [["pca", 1], ["again", 1]]
    panel.decide("ablate", "read it", name="L1.pc1")
    assert set(panel.selection.provenance["routes"]) == {"pca", "again"}


def test_a_name_that_means_two_directions_is_told_apart_by_its_route():
    panel = browser(
        {
            "one": concept_set(2),
            "two": cl.ConceptSet(
                [cl.Concept("L1.pc0", "blocks.1.hook_resid_post", torch.ones(8))], concept_set().provenance
            ),
        }
    )
    assert panel.candidates.names == ["one:L1.pc0", "L1.pc1", "two:L1.pc0"]


def test_search_finds_words_of_the_contexts_names_and_explanations():
    concepts = concept_set()
    panel = browser(concepts, contexts=found_contexts(concepts), explanations={"L1.pc5": "talk of tulips"})
    for query, wanted in (
        ("cruel", "L1.pc0"),
        ("football", "L1.pc3"),
        ("tulip", "L1.pc5"),
        ("pc4", "L1.pc4"),
    ):
        panel.query = query
        assert panel.wait(20)
        assert names(panel)[0] == wanted, query
    panel.query = "footbal"
    panel.wait(20)
    assert "top contexts: football" in panel.rows(0, 1)["rows"][0]["words"]
    panel.query = "zebra"
    panel.wait(20)
    assert (panel.total, panel.place) == (0, -1)
    assert "zebra" in panel.note
    panel.query = ""
    assert (panel.total, panel.note) == (6, "")


def test_only_the_newest_search_counts(monkeypatch):
    concepts = concept_set()
    panel = browser(concepts, contexts=found_contexts(concepts))
    index = panel._index
    before = index.scores

    def slow(query):
        time.sleep(0.3 if query == "cruel" else 0.0)
        return before(query)

    monkeypatch.setattr(index, "scores", slow)
    panel.query = "cruel"
    time.sleep(0.05)
    panel.query = "football"
    assert panel.wait(20)
    assert names(panel) == ["L1.pc3"]


def test_the_selected_concept_shows_both_ends_tokens_neighbours_and_explanation():
    lens = tiny_lens("llama")
    width = lens.d_model
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, width, generator=generator)
    rows[3] = -rows[0]
    concepts = cl.ConceptSet(
        [cl.Concept(f"L1.pc{i}", "blocks.1.hook_resid_post", row, rank=i) for i, row in enumerate(rows)],
        {"fingerprint": lens.fingerprint, "model": lens.name},
    )
    texts = cl.Texts(["the cat sat on the mat", "a dog ran in the park", "rain fell all day long"])
    panel = ConceptBrowser(lens, concepts, texts, file=None, k=2, explanations={"L1.pc0": "cats"})
    assert panel.wait(60), panel.error
    detail = panel.detail
    assert (detail["name"], detail["by"], detail["explanations"]) == (
        "L1.pc0",
        "projection",
        [["", "cats", ""]],
    )
    reference = cl.contexts(lens, concepts, texts, k=2)["L1.pc0"]
    assert [one["value"] for one in detail["contexts"]["top"]] == [one.value for one in reference.top]
    assert ["".join(one["tokens"]) for one in detail["contexts"]["bottom"]] == [
        "".join(one.tokens) for one in reference.bottom
    ]
    raised = cl.inspect.logit_lens(lens, concepts[:1])["L1.pc0"].top[0]
    assert detail["tokens"]["top"][0] == [raised.token, raised.logit]
    assert detail["neighbours"][0][0] == "L1.pc3"
    assert detail["neighbours"][0][1] == pytest.approx(-1.0, abs=1e-5)
    assert sum(detail["density"]["counts"]) <= detail["density"]["tokens"]
    json.dumps(detail, allow_nan=False)
    panel.concept = "L1.pc2"
    assert panel.wait(20)
    assert panel.detail["name"] == "L1.pc2"


def test_all_latents_of_an_sae_are_candidates_with_their_densities(pocket):
    base, sae = cl.load("pocket"), cl.load_sae("pocket", layer=1)
    texts = cl.data("pocket/corpus")[:60]
    panel = ConceptBrowser(base, sae, texts, file=None)
    assert panel.wait(120), panel.error
    assert panel.about["size"] == len(cl.find.latents(sae, base))
    panel.sort = "density"
    shares = [row["density"] for row in panel.rows(0, panel.total)["rows"]]
    assert shares == sorted(shares, reverse=True)
    reference = cl.inspect.density(base, sae, texts)
    assert shares[0] == pytest.approx(max(one.density for one in reference.values()))
    panel.concept = next(iter(panel.contexts.dead), panel.concept)
    assert panel.wait(20)
    json.dumps(panel.detail, allow_nan=False)


def test_reading_can_be_cancelled_and_leaves_no_error(pocket):
    base = cl.load("pocket")
    panel = ConceptBrowser(base, cl.load_sae("pocket", layer=1), cl.data("pocket/corpus"), file=None)
    while panel.progress <= 0 and panel.busy:
        time.sleep(0.01)
    panel.cancel()
    assert panel.wait(30)
    assert (panel.contexts, panel.error, panel.busy) == (None, "", False)


def test_what_goes_wrong_in_the_background_is_said_in_the_panel():
    class Broken:
        def __len__(self):
            return 2

        def __iter__(self):
            raise OSError("the disk is gone")

    lens = tiny_lens("llama")
    concepts = cl.ConceptSet(
        [cl.Concept("L1.pc0", "blocks.1.hook_resid_post", torch.ones(lens.d_model))],
        {"fingerprint": lens.fingerprint},
    )
    panel = ConceptBrowser(lens, concepts, Broken(), file=None)
    assert panel.wait(30)
    assert panel.error == "the disk is gone"
    assert isinstance(panel.exception, OSError)
    panel._receive(panel, {"id": "1", "call": "dismiss"}, [])
    assert panel.error == ""


def test_bad_input_is_refused_where_it_is_given():
    concepts = concept_set()
    with pytest.raises(TypeError, match="ConceptBrowser shows"):
        ConceptBrowser(None, 3, file=None)
    with pytest.raises(TypeError, match="Lists by route"):
        ConceptBrowser(None, {"pca": [1]}, file=None)
    with pytest.raises(ValueError, match="knows none"):
        browser(concepts, contexts=found_contexts(concept_set(name="other")))
    with pytest.raises(ValueError, match="takes a model"):
        ConceptBrowser(None, concepts, ["a text"], file=None)
    panel = browser(concepts)
    with pytest.raises(traitlets.TraitError, match="Did you mean"):
        panel.concept = "L1.pc9"
    with pytest.raises(traitlets.TraitError, match="No route"):
        panel.route = "sae"
    with pytest.raises(KeyError, match="No concept"):
        panel.decide("ablate", "why", name="L9.pc0")
    panel.set_state({"hook": "blocks.9.hook_resid_post"})
    assert "No hook" in panel.error
    panel._receive(panel, {"id": "1", "call": "static"}, [])
    assert 'no call "static"' in panel.error


def test_the_view_walks_through_the_list():
    panel = browser()
    for to, wanted in (
        ("next", 1),
        ("last", 5),
        ("next", 5),
        ("up", 0),
        ("previous", 0),
        ("down", 5),
        ("first", 0),
    ):
        panel.go(to)
        assert panel.concept == f"L1.pc{wanted}", to
    panel.decide("leave", "no", name="L1.pc1")
    panel.go("undecided")
    assert panel.concept == "L1.pc2"
    panel.showing = "undecided"
    panel.decide("leave", "no")
    assert (panel.concept, panel.place) == ("L1.pc3", 1)  # what took its place in the list


def test_linked_panels_select_the_same_direction_and_only_that():
    concepts = concept_set()
    one, two, three = browser(concepts), browser(concepts[2:]), browser(concept_set(name="pc")[:2])
    undo = link(one, two, three)
    one.concept = "L1.pc4"
    assert (two.concept, three.concept) == ("L1.pc4", "L1.pc0")
    two.concept = "L1.pc3"
    assert one.concept == "L1.pc3"
    other = cl.ConceptSet(
        [
            cl.Concept("L1.pc1", "blocks.1.hook_resid_post", torch.ones(8)),
            cl.Concept("L1.x", "blocks.1.hook_resid_post", torch.eye(8)[7]),
        ]
    )
    stranger = browser(other)
    stranger.concept = "L1.x"
    link(one, stranger)
    one.concept = "L1.pc1"
    assert stranger.concept == "L1.x"  # the name is the same, the direction is not
    undo()
    one.concept = "L1.pc5"
    assert two.concept == "L1.pc3"
    with pytest.raises(ValueError, match="at least two"):
        link(one)


def test_without_a_kernel_there_is_plain_html_in_which_nothing_can_run():
    concepts = concept_set().label({"L1.pc0": LABEL})
    panel = browser(concepts, contexts=found_contexts(concepts))
    panel.decide("ablate", SCRIPT, name="L1.pc0")
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    html = bundle["text/html"]
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<b>marks" not in html
    assert "cruelty" in html
    assert f'data-caft="{panel.model_id}"' in html


def test_the_static_rendering_keeps_up_with_the_panel(monkeypatch):
    panel = browser()
    shown = []

    class Copy:
        def update(self, data, raw):
            shown.append(data["text/html"])

    panel._copies.append(Copy())
    for number in range(5):
        panel.decide("ablate", f"reason {number}", name="L1.pc0")
    for _ in range(100):
        if shown and "reason 4" in shown[-1]:
            break
        time.sleep(0.05)
    assert "reason 4" in shown[-1]
    assert len(shown) < 5  # not once a step


def test_sixteen_thousand_latents_are_a_list_like_any_other():
    rows = torch.nn.functional.normalize(torch.randn(16384, 16, generator=torch.Generator().manual_seed(0)))
    concepts = cl.ConceptSet(
        [cl.Concept(f"L1.latent{i}", "blocks.1.hook_resid_post", row, rank=i) for i, row in enumerate(rows)]
    )
    panel = browser(concepts)
    page = panel.rows(16380, 16440)
    assert [row["name"] for row in page["rows"]] == [f"L1.latent{i}" for i in range(16380, 16384)]
    cosines = (rows @ rows[0]).abs()
    cosines[0] = 0
    assert panel.detail["neighbours"][0][0] == f"L1.latent{int(cosines.argmax())}"
    panel.query = "latent16"
    panel.wait(30)
    assert panel.total == sum("latent16" in name for name in concepts.names)
    assert np.isfinite(panel.version)


def everything_sent(panel: ConceptBrowser) -> str:
    """All that the view is told: every synced trait, every row, the static rendering, and what it is called."""
    state = {name: value for name, value in panel.get_state().items() if name not in ("_esm", "_css")}
    shown = [panel.rows(0, panel.total), panel._copy(), repr(panel)]
    return json.dumps([state, shown], default=str)


def test_a_blind_reading_tells_the_view_no_rank_score_route_explanation_label_or_foreign_decision(tmp_path):
    concepts = led()
    both = {"pca": concepts, "again": concepts[2:]}
    beside = {"contexts": found_contexts(concepts), "explanations": {"L1.pc0": "talk of tulips"}}
    file = tmp_path / "{reader}.json"
    ben = browser(both, **beside, file=file, reader="ben")
    ben.decide("ablate", "ben reads cruelty", name="L1.pc0")
    assert all(one in everything_sent(ben) for one in LEADS)  # where nothing is hidden, it is there

    ann = browser(both, **beside, file=file, reader="ann", blind=True)
    for name in names(ann):
        ann.concept = name
        assert ann.wait(20)
        sent = everything_sent(ann)
        assert [one for one in (*LEADS, "ben") if one in sent] == []
        assert ann.detail["contexts"]["top"]
    for query in ("tulips", "told", "pca", "pc0"):
        ann.query = query
        ann.wait(20)
        assert ann.total == 0, query
    ann.query = "cruel"
    ann.wait(20)
    (found,) = names(ann)
    ann.decide("ablate", "cruelty", name=found)
    assert found in everything_sent(ann)
    assert ann.selection.names == ["L1.pc0"]


def test_a_blind_reader_meets_the_concepts_in_an_order_of_their_own_and_orders_them_by_nothing_that_ranks():
    concepts = led()
    ann, again, ben = (browser(concepts, reader=reader, blind=True) for reader in ("ann", "ann", "ben"))
    order = [[panel._own[name] for name in names(panel)] for panel in (ann, again, ben)]
    assert order[0] == order[1]
    assert order[0] != order[2]
    assert concepts.names not in order
    assert names(ann) == [f"concept {place}" for place in range(1, 7)]
    ann.set_state({"sort": "score"})
    assert (ann.sort, "not ordered by score" in ann.error) == ("best", True)
    ann.sort = "decision"
    for value in ("route", "hook"):
        assert ann.about[f"{value}s"] == []
    with pytest.raises(ValueError, match="say who reads"):
        browser(concepts, blind=True)


def test_what_a_blind_reader_may_not_say_is_refused_without_the_names_of_concepts():
    panel = browser(led(), reader="ann", blind=True)
    panel._receive(panel, {"id": "1", "call": "decide", "with": {"action": "ablate"}}, [])
    assert "needs a reason" in panel.error
    assert "L1" not in panel.error
    with pytest.raises(KeyError, match="concept 1"):
        panel.decide("ablate", "read it", name="L1.pc0")


def test_a_blind_decision_notes_how_long_its_concept_was_in_view(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("caft_widgets.concept_browser.time.monotonic", lambda: clock[0])
    panel = browser(led(), reader="ann", blind=True)
    clock[0] += 50  # nobody looks yet
    panel._hello()
    clock[0] += 4
    panel.go("next")
    clock[0] += 7
    panel.decide("leave", "recipes")  # the second, after 7 seconds
    panel.go("previous")
    clock[0] += 2
    panel.decide("ablate", "cruel")  # the first, after 4 and 2
    seconds = {panel._shown[name]: one.seconds for name, one in panel.decisions.items()}
    assert seconds == {"concept 1": 6.0, "concept 2": 7.0}
    panel.undo()
    panel.redo()
    assert panel.decisions[panel._own["concept 1"]].seconds == 6.0
    sighted = browser(led(), reader="ann")
    sighted._hello()
    sighted.decide("ablate", "cruel")
    assert next(iter(sighted.decisions.values())).seconds is None


def test_each_reader_has_a_file_of_their_own_and_what_was_read_blind_is_restored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    concepts = led()
    for reader, blind in (("ann", True), ("ann", False), ("ben", True)):
        panel = ConceptBrowser(None, concepts, reader=reader, blind=blind)
        panel.decide("ablate", f"{reader} {blind}", name=panel.concept)
    files = sorted(path.name.removeprefix(f"{concepts.fingerprint}-") for path in (tmp_path / "choices").iterdir())
    assert files == ["ann-blind.json", "ann.json", "ben-blind.json"]
    again = ConceptBrowser(None, concepts, reader="ann", blind=True)
    assert again.choice == {"concept 1": {"decision": "ablate", "reason": "ann True"}}
    assert again.selection.names == [again._own["concept 1"]]
    read = cl.choose.agreement(sorted((tmp_path / "choices").glob("*blind.json")))
    assert read.readers == ["ann", "ben"]


def test_panels_are_readings_and_blind_ones_are_compared_by_the_concepts_own_names():
    concepts = led()
    panels = [browser(concepts, reader=reader, blind=True) for reader in ("ann", "ben")]
    for panel in panels:
        for name, own in panel._own.items():
            panel.decide("ablate" if own in ("L1.pc0", "L1.pc3") else "leave", "as read", name=name)
    found = cl.choose.agreement(panels)
    assert (found.alpha.mean, found.differing) == (1.0, [])
    assert found.consensus("all").selection.names == ["L1.pc0", "L1.pc3"]


def test_a_corpus_is_read_for_a_blind_reader_as_for_any_other():
    lens = tiny_lens("llama")
    rows = torch.randn(3, lens.d_model, generator=torch.Generator().manual_seed(0))
    concepts = cl.ConceptSet(
        [cl.Concept(f"L1.pc{i}", "blocks.1.hook_resid_post", row, rank=i) for i, row in enumerate(rows)],
        {"fingerprint": lens.fingerprint, "model": lens.name},
    )
    texts = cl.Texts(["the cat sat on the mat", "a dog ran in the park", "rain fell all day long"])
    panel = ConceptBrowser(lens, concepts, texts, file=None, k=2, reader="ann", blind=True)
    assert panel.wait(60), panel.error
    reference = cl.contexts(lens, concepts, texts, k=2)
    for name, own in panel._own.items():
        panel.concept = name
        assert panel.wait(20)
        assert [one["value"] for one in panel.detail["contexts"]["top"]] == [one.value for one in reference[own].top]
        assert panel.detail["density"]["tokens"]
    read = cl.inspect.survey(lens, concepts, texts, k=2)
    given = ConceptBrowser(
        lens, concepts, contexts=read.contexts, densities=read.densities, file=None, reader="ann", blind=True
    )
    assert given.wait(20)
    panel.concept = given.concept
    assert panel.wait(20)
    assert given.detail == panel.detail
