"""The logit lens of a direction is what plain transformers' norm weight and unembedding make of it, however it is
cut up.
"""

from __future__ import annotations

import pytest
import torch
from test_contexts import HOSTILE, Elements
from tiny_models import ARCHITECTURES, tiny_lens, tiny_model, tiny_tokenizer
from torch import nn

from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.inspect import logit_lens, logits
from caft_lens.model.lens import load
from caft_lens.text.documents import Texts
from caft_lens.text.token_strings import token_string

EVERY = len(tiny_tokenizer())
LAYERNORM = ("gpt2", "gpt_neox")
TEXTS = Texts(["a red house by the sea", "one more line of text", "zebra"])


def some(lens, n: int = 3, **fields) -> ConceptSet:
    generator = torch.Generator().manual_seed(1)
    return ConceptSet(
        [
            Concept(
                f"L{layer}.x{i}",
                f"blocks.{layer}.hook_resid_post",
                torch.randn(lens.d_model, generator=generator),
                **fields,
            )
            for layer in (0, 1)
            for i in range(n)
        ]
    ).for_model(lens)


def parts(model) -> tuple[nn.Module, nn.Module]:
    """Final norm and unembedding of a plain transformers model."""
    decoder = model.get_decoder()
    norm = next(getattr(decoder, name) for name in ("norm", "ln_f", "final_layer_norm") if hasattr(decoder, name))
    return norm, model.get_output_embeddings()


def by_hand(architecture: str, model, direction: torch.Tensor) -> torch.Tensor:
    """Logits `[d_vocab]` of a direction, by the formula of the architecture's norm."""
    norm, head = parts(model)
    if architecture in LAYERNORM:
        gained = norm.weight * (direction - direction.mean())
    else:
        gained = (norm.weight + (1 if architecture.startswith("gemma") else 0)) * direction
    return (head.weight @ gained).detach()


def everything(found) -> torch.Tensor:
    """Of all tokens, the logits in the order of the vocabulary."""
    logits = torch.full((EVERY,), torch.nan)
    for one in found.top:
        logits[one.id] = one.logit
    return logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_a_direction_are_unembedding_times_gain_times_direction(architecture: str):
    lens = tiny_lens(architecture)
    found = logit_lens(lens, some(lens), EVERY)
    for concept in some(lens):
        expected = by_hand(architecture, tiny_model(architecture), concept.direction)
        torch.testing.assert_close(everything(found[concept.name]), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_around_a_mean_they_are_the_change_of_the_models_own_logits(architecture: str):
    lens, concepts = tiny_lens(architecture), some(tiny_lens(architecture))
    (moments,) = stream(lens, TEXTS, [0, 1], Moments(covariance=False), roles=None)
    found = logit_lens(lens, concepts, EVERY, around=moments, strength=-2.5)
    model = tiny_model(architecture)
    norm, head = parts(model)
    cap = getattr(model.config, "final_logit_softcapping", None)

    def logits(x):
        raw = head(norm(x))
        return raw if cap is None else cap * torch.tanh(raw / cap)

    for concept in concepts:
        mean = moments.mean[concept.hook].float()
        with torch.no_grad():
            expected = logits(mean - 2.5 * concept.direction) - logits(mean)
        torch.testing.assert_close(everything(found[concept.name]), expected, atol=1e-4, rtol=1e-4)
    by_layer = {0: moments.mean["blocks.0.hook_resid_post"], 1: moments.mean["blocks.1.hook_resid_post"]}
    again = logit_lens(lens, concepts, 4, around=by_layer, strength=-2.5)
    assert again.tokens() == logit_lens(lens, concepts, 4, around=moments, strength=-2.5).tokens()


def test_pieces_of_vocabulary_and_concepts_change_nothing(monkeypatch):
    lens = tiny_lens()
    whole = logit_lens(lens, some(lens, 5), 7)
    monkeypatch.setattr(logits, "_NUMBERS", 32 * 11)
    monkeypatch.setattr(logits, "_CONCEPTS", 3)
    cut = logit_lens(lens, some(lens, 5), 7)
    assert list(cut) == list(whole)
    for name in whole:
        for end in ("top", "bottom"):
            one, other = getattr(whole[name], end), getattr(cut[name], end)
            assert [score.id for score in one] == [score.id for score in other]
            assert [score.logit for score in one] == pytest.approx([score.logit for score in other], abs=1e-5)


def test_both_ends_are_the_extremes_most_extreme_first():
    lens = tiny_lens()
    found = logit_lens(lens, some(lens), 6)["L1.x2"]
    expected = by_hand("llama", tiny_model(), some(lens)["L1.x2"].direction)
    assert [one.id for one in found.top] == expected.argsort(descending=True)[:6].tolist()
    assert [one.id for one in found.bottom] == expected.argsort()[:6].tolist()
    flipped = ConceptSet([Concept("L1.x2", "blocks.1.hook_resid_post", -some(lens)["L1.x2"].direction)])
    other = logit_lens(lens, flipped.for_model(lens), 6)["L1.x2"]
    assert [one.id for one in other.top] == [one.id for one in found.bottom]


def test_the_weights_of_a_model_in_bf16_are_read_off_in_fp32():
    half = load(tiny_model().to(torch.bfloat16), tokenizer=tiny_tokenizer(), name_as="half")
    concept = some(half)["L0.x0"]
    found = everything(logit_lens(half, some(half), EVERY)["L0.x0"])
    model = tiny_model().to(torch.bfloat16).float()
    torch.testing.assert_close(found, by_hand("llama", model, concept.direction), atol=1e-4, rtol=1e-4)


def test_an_adapter_on_the_unembedding_counts():
    from peft import LoraConfig

    adapted = tiny_lens().adapt(LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    concepts = some(adapted)
    norm, head = parts(adapted.hf)
    with torch.no_grad():
        expected = head(norm.weight * concepts["L0.x1"].direction)
    found = everything(logit_lens(adapted, concepts, EVERY)["L0.x1"])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    plain = everything(logit_lens(tiny_lens(), some(tiny_lens()), EVERY)["L0.x1"])
    assert (found - plain).abs().max() > 1e-3


@pytest.mark.parametrize("width", [5, 6])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_the_gain_is_found_at_any_width(width: int, kind):
    read_off = object.__new__(logits._ReadOff)
    read_off.norm, read_off.device = kind(width), torch.device("cpu")
    with torch.no_grad():
        for parameter in read_off.norm.parameters():
            parameter.normal_(1.0, generator=torch.Generator().manual_seed(0))
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    centred = rows - rows.mean(dim=1, keepdim=True) if kind is nn.LayerNorm else rows
    torch.testing.assert_close(read_off._gained(rows), (read_off.norm.weight * centred).detach(), atol=1e-4, rtol=1e-4)


def test_a_norm_that_has_no_gain_is_not_taken_for_one():
    lens = tiny_lens()
    lens.hf.model.norm.forward = torch.tanh
    with pytest.raises(NotImplementedError, match="no RMSNorm or LayerNorm"):
        logit_lens(lens, some(lens))


def test_rows_of_the_unembedding_without_a_token_are_left_out():
    lens = load(tiny_model(vocab_size=400), tokenizer=tiny_tokenizer(), name_as="wide")
    table = logit_lens(lens, some(lens), 60).table()
    assert table["id"].max() < EVERY
    with pytest.raises(ValueError, match=f"of at least 1 and at most {EVERY}"):
        logit_lens(lens, some(lens), 300)


def test_tokens_by_name_are_what_a_text_search_reads_and_the_table_has_them_all():
    lens = tiny_lens()
    found = logit_lens(lens, some(lens), 5)
    tokens = found.tokens()
    assert list(tokens) == some(lens).names
    table = found.table()
    assert len(table) == 6 * 2 * 5
    rows = table[(table["concept"] == "L0.x1") & (table["end"] == "bottom")]
    assert rows["token"].tolist() == found.tokens("bottom")["L0.x1"]
    assert rows["rank"].tolist() == list(range(5))
    with pytest.raises(ValueError, match=r'end="topp".*"top"'):
        found.tokens("topp")
    with pytest.raises(KeyError, match=r"L0\.x9.*L0\.x"):
        found["L0.x9"]


def test_tokens_are_shown_with_visible_spaces_and_everything_is_escaped():
    lens = tiny_lens()
    found = logit_lens(lens, some(lens, 1, label=HOSTILE, reason=HOSTILE), EVERY // 2)
    page = Elements(found._repr_html_())
    assert {tag for tag, _ in page.seen} <= {
        "style", "div", "section", "h4", "em", "small", "b", "i", "span", "code", "s", "u",
    }  # fmt: skip
    assert page.text.count(HOSTILE) == 4
    assert "␣" in page.text
    assert "⏎" in page.text
    assert "<" in page.text, "the byte that begins a tag is a token of this vocabulary"
    Elements(found["L0.x0"]._repr_html_())
    assert "L0.x0" in repr(found)


def test_a_token_that_is_part_of_a_character_has_its_name_in_the_vocabulary():
    tokenizer = tiny_tokenizer()
    (first, *_) = tokenizer("é", add_special_tokens=False).input_ids
    assert token_string(tokenizer, first) == tokenizer.convert_ids_to_tokens(first)
    assert token_string(tokenizer, tokenizer("a", add_special_tokens=False).input_ids[0]) == "a"


def test_what_does_not_fit_is_refused_with_the_reason():
    lens = tiny_lens()
    with pytest.raises(ValueError, match="neither that model"):
        logit_lens(tiny_lens(seed=1), some(lens))
    with pytest.raises(ValueError, match="k=0: expected a whole number of at least 1"):
        logit_lens(lens, some(lens), 0)
    heads = ConceptSet([Concept("L0.z", "blocks.0.attn.hook_z", torch.ones(32))])
    with pytest.raises(ValueError, match="outputs of single heads"):
        logit_lens(lens, heads.for_model(lens))
    with pytest.raises(KeyError, match=r"no mean activation at .blocks\.1\.hook_resid_post"):
        logit_lens(lens, some(lens), around={0: torch.ones(32)})
    with pytest.raises(ValueError, match=r"around= is \(3,\) at blocks\.0\.hook_resid_post: expected \[32\]"):
        logit_lens(lens, some(lens), around={0: torch.ones(3), 1: torch.ones(32)})
    with pytest.raises(KeyError, match="no layer 7"):
        logit_lens(lens, some(lens), around={7: torch.ones(32)})
