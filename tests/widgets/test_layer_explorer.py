"""LayerExplorer, headless: the map is what the model holds, and it follows what is typed."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
import traitlets
from panels import LABEL, SCRIPT, found_contexts
from tiny_models import tiny_lens

import caft_lens as cl
from caft_widgets import LayerExplorer, link


@pytest.fixture(scope="module")
def lens():
    return tiny_lens("llama")


@pytest.fixture(scope="module")
def concepts(lens):
    rows = torch.randn(6, lens.d_model, generator=torch.Generator().manual_seed(0))
    return cl.ConceptSet(
        [cl.Concept(f"L1.pc{i}", "blocks.1.hook_resid_post", row, rank=i) for i, row in enumerate(rows)],
        {"fingerprint": lens.fingerprint, "model": lens.name},
    )


def explorer(lens, concepts, text="the cat sat", **keywords) -> LayerExplorer:
    keywords.setdefault("chat", False)
    panel = LayerExplorer(lens, concepts, text, **keywords)
    assert panel.wait(60), panel.error
    return panel


def projections(lens, text: str, hook: str, direction: torch.Tensor) -> np.ndarray:
    """The independent reference: TransformerLens's cache."""
    _, cache = lens.run_with_cache(text)
    return (cache[hook][0].float() @ direction).detach().numpy()


def test_the_map_is_the_projection_at_every_layer_and_token(lens, concepts):
    panel = explorer(lens, concepts, shown=["L1.pc0", "L1.pc3"])
    assert panel.maps["layers"] == list(range(lens.n_layers))
    assert "".join(panel.maps["tokens"]).endswith("the cat sat")
    for one in panel.maps["of"]:
        for layer, row in enumerate(one["values"]):
            wanted = projections(
                lens, "the cat sat", f"blocks.{layer}.hook_resid_post", concepts[one["name"]].direction
            )
            np.testing.assert_allclose(row, wanted, atol=1e-4)


def test_another_site_is_read_where_it_is(lens, concepts):
    panel = explorer(lens, concepts)
    panel.site = "hook_mlp_out"
    assert panel.wait(20)
    wanted = projections(lens, "the cat sat", "blocks.1.hook_mlp_out", concepts["L1.pc0"].direction)
    np.testing.assert_allclose(panel.maps["of"][0]["values"][1], wanted, atol=1e-4)
    with pytest.raises(traitlets.TraitError, match="No site"):
        panel.site = "hook_mlp"


def test_what_is_typed_is_drawn_and_only_the_newest_counts(lens, concepts):
    panel = explorer(lens, concepts)
    for text in ("a", "a dog", "a dog ran in the park"):
        panel.text = text
    assert panel.wait(30)
    assert "".join(panel.maps["tokens"]).endswith("a dog ran in the park")
    panel.text = "  "
    assert panel.wait(20)
    assert panel.maps == {}
    assert "Layers: no text yet." in panel.static()


def test_a_cell_tells_what_would_come_next_from_there(lens, concepts):
    panel = explorer(lens, concepts, contexts=found_contexts(concepts))
    last = lens.n_layers - 1
    panel.cell = [last, len(panel.maps["tokens"]) - 1]
    assert panel.wait(30)
    # After the last layer the logit lens is the model's own prediction.
    logits = lens("the cat sat", return_type="logits")[0, -1]
    share = logits.softmax(-1).max().item()
    assert panel.detail["next"][0][1] == pytest.approx(share, abs=1e-4)
    token = lens.tokenizer.decode([int(logits.argmax())])
    assert panel.detail["next"][0][0] == token
    assert panel.detail["contexts"]["top"][0]["tokens"][1] == " cruelty"
    panel.concept = "L1.pc1"
    assert panel.wait(30)
    assert (panel.detail["name"], panel.shown) == ("L1.pc1", ["L1.pc1"])
    panel.text = "a"
    assert panel.wait(30)
    assert panel.cell == []
    json.dumps([panel.maps, panel.detail], allow_nan=False)
    with pytest.raises(traitlets.TraitError, match="No cell"):
        panel.cell = [99, 0]


def test_concepts_are_added_and_taken_away(lens, concepts):
    panel = explorer(lens, concepts)
    assert [name for name, _ in panel.suggest("pc4")] == ["L1.pc4"]
    for number in (1, 2, 3, 4):
        panel.show_concept(f"L1.pc{number}")
    assert (panel.shown, panel.concept) == (["L1.pc1", "L1.pc2", "L1.pc3", "L1.pc4"], "L1.pc4")
    panel.hide_concept("L1.pc4")
    assert (panel.shown[-1], panel.concept) == ("L1.pc3", "L1.pc1")
    assert panel.wait(20)
    assert [one["name"] for one in panel.maps["of"]] == panel.shown
    with pytest.raises(KeyError, match="Did you mean"):
        panel.show_concept("L1.pc9")


def test_values_of_layers_can_be_made_comparable(lens, concepts):
    panel = explorer(lens, concepts)
    panel.cosine, panel.shade = True, "layer"
    assert panel.wait(20)
    only = panel.maps["of"][0]
    assert np.abs(only["values"]).max() <= 1
    assert len(set(only["scales"])) == lens.n_layers


def test_a_hook_of_the_user_does_not_act_in_the_panel(lens, concepts):
    panel = explorer(lens, concepts)
    before = panel.maps["of"][0]["values"]
    with cl.ablate(lens, concepts):
        panel.text = "the cat sat "
        panel.text = "the cat sat"
        assert panel.wait(30)
        assert panel.maps["of"][0]["values"] == before


def test_a_map_and_a_cell_that_are_read_at_once_do_not_disturb_each_other(lens, concepts, monkeypatch):
    panel = explorer(lens, concepts)
    failures: list[str] = []
    panel.observe(lambda change: failures.append(change["new"]), "error")
    layer = type(lens.model.model.layers[0])
    forward = layer.forward

    def slowly(self, *given, **named):
        time.sleep(0.02)
        return forward(self, *given, **named)

    monkeypatch.setattr(layer, "forward", slowly)
    for site in ("hook_mlp_out", "hook_resid_post", "hook_attn_out"):
        panel.site = site
        panel.cell = [1, 2] if panel.cell == [0, 1] else [0, 1]
        assert panel.wait(60)
        assert not failures
        wanted = projections(lens, "the cat sat", f"blocks.1.{site}", concepts["L1.pc0"].direction)
        np.testing.assert_allclose(panel.maps["of"][0]["values"][1], wanted, atol=1e-4)


def test_two_models_show_what_tuning_changed(lens, concepts):
    panel = explorer((lens, lens), concepts)
    assert np.abs(panel.maps["of"][0]["values"]).max() == 0
    assert "difference" in panel.maps["quantity"]


def test_a_chat_ends_where_the_answer_would_begin(pocket):
    base = cl.load("pocket")
    concepts = cl.find.latents(cl.load_sae("pocket", layer=1), base)[:2]
    panel = explorer(base, concepts, "How do I bake a pie?", chat=None)
    assert panel.chat
    asked = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": "How do I bake a pie?"}], add_generation_prompt=True, return_dict=False
    )
    assert len(panel.maps["tokens"]) == len(asked)
    panel.cell = [base.n_layers - 1, len(asked) - 1]
    assert panel.wait(30)
    logits = base(torch.tensor([asked]), return_type="logits")[0, -1]
    assert panel.detail["next"][0][1] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-4)
    panel.answer = "Mix flour and butter."
    assert panel.wait(30)
    assert "flour" in "".join(panel.maps["tokens"])


def test_what_does_not_fit_is_refused(lens, concepts):
    other = cl.ConceptSet(concepts, {**concepts.provenance, "fingerprint": "another"})
    with pytest.raises(ValueError, match="found on"):
        LayerExplorer(lens, other, "text")
    with pytest.raises(ValueError, match="one to 4"):
        LayerExplorer(lens, concepts, "text", shown=concepts.names, chat=False)
    with pytest.raises(IndexError, match="no token 99"):
        cl.inspect.read_off(lens, "a", 0, 99)
    with pytest.raises(ValueError, match="no residual stream"):
        cl.inspect.read_off(lens, "a", "blocks.0.hook_mlp_out", 0)


def test_it_follows_a_linked_panel(lens, concepts):
    one, other = explorer(lens, concepts), explorer(lens, concepts)
    link(one, other)
    one.concept = "L1.pc2"
    assert other.wait(20)
    assert (other.concept, other.maps["of"][0]["name"]) == ("L1.pc2", "L1.pc2")


def test_the_static_rendering_escapes_what_is_typed(lens, concepts):
    panel = explorer(lens, concepts.label({"L1.pc0": LABEL}), SCRIPT)
    html = panel._repr_mimebundle_()["text/html"]
    assert "<script" not in html
    assert "<b>marks" not in html
    assert "L0" in html
