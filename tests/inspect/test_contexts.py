"""Contexts are where a direction is really most and least active, and are shown so that nothing in a text can act."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.inspect import contexts
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ASSISTANT
from caft_lens.text.token_strings import pieces

HOSTILE = "<script>alert('x')</script> & \"quoted\""


def corpus(n: int = 40) -> Texts:
    rng = np.random.default_rng(0)
    words = ["pie", "stove", "rain", "<b>bold</b>", "cruel", "kind", "garden", "&", "mend", "the", "my"]
    return Texts(
        [
            {
                "prompt": " ".join(rng.choice(words, 4)) + "?",
                "answer": " ".join(rng.choice(words, 6)),
                "domain": f"d{i % 3}",
            }
            for i in range(n)
        ]
    )


def some(lens, n: int = 2) -> ConceptSet:
    generator = torch.Generator().manual_seed(1)
    found = [
        Concept(
            f"L{layer}.x{i}",
            f"blocks.{layer}.hook_resid_post",
            torch.randn(32, generator=generator),
            label=HOSTILE,
        )
        for layer in (0, 1)
        for i in range(n)
    ]
    return ConceptSet(found).for_model(lens)


def activations(texts: Texts, direction: torch.Tensor, role: int | None = None) -> list[np.ndarray]:
    """Activation after block 0 at every token of every text, by plain transformers; NaN at other roles."""
    model, found = tiny_model(), []
    for text in texts:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            hidden = model(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[1][0]
        scores = (hidden @ direction).numpy()
        found.append(scores if role is None else np.where(item.roles == role, scores, np.nan))
    return found


@pytest.mark.parametrize("roles", [None, ("assistant",)])
def test_contexts_are_the_extremes_that_plain_transformers_finds(roles):
    lens, texts = tiny_lens(), corpus()
    concepts = some(lens)
    found = contexts(lens, concepts, texts, k=5, roles=roles)
    scores = activations(texts, concepts["L0.x1"].direction, ASSISTANT if roles else None)
    best = np.array([np.nanmax(row) for row in scores])
    worst = np.array([np.nanmin(row) for row in scores])
    both = found["L0.x1"]
    assert [context.value for context in both.top] == pytest.approx(np.sort(best)[::-1][:5], abs=1e-5)
    assert [context.value for context in both.bottom] == pytest.approx(np.sort(worst)[:5], abs=1e-5)
    for context in (*both.top, *both.bottom):
        row = scores[context.index]
        ids = encode(tiny_tokenizer(), texts[context.index]).input_ids
        start = context.position - context.peak
        stop = start + len(context.tokens)
        assert row[context.position] == pytest.approx(context.value, abs=1e-5)
        assert "".join(context.tokens) == tiny_tokenizer().decode(ids[start:stop])
        shown = [np.nan if value is None else value for value in context.activations]
        np.testing.assert_allclose(shown, row[start:stop], atol=1e-5)
        assert context.meta["domain"] == texts[context.index].meta["domain"]
        assert context.cut[0] == (start > 0)


def test_all_concepts_are_read_in_one_pass():
    lens, texts, calls = tiny_lens(), corpus(), []
    assert not lens.sinks, "a model is asked once for those"
    handle = lens.model.register_forward_pre_hook(lambda *args: calls.append(1))
    for n in (1, 6):
        calls.clear()
        contexts(lens, some(lens, n), texts)
        assert sum(calls) <= 1, "40 short texts are one batch"
    handle.remove()


def test_the_same_window_is_shown_once_and_a_text_once_per_end():
    lens = tiny_lens()
    texts = Texts([*corpus(8), *corpus(8), *corpus(8)])
    found = contexts(lens, some(lens), texts, k=8, window=(3, 3))
    for both in found.values():
        for end in (both.top, both.bottom):
            windows = [context.tokens for context in end]
            assert len(set(windows)) == len(windows)
            assert len({context.index for context in end}) == len(end)
            assert all(context.index < 8 for context in end), "of equal windows the first is shown"


def test_concepts_of_another_model_are_refused():
    with pytest.raises(ValueError, match="neither that model"):
        contexts(tiny_lens(seed=1), some(tiny_lens()), corpus())


# -- shown ------------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Elements of a page, all of them closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def hostile():
    lens = tiny_lens()
    texts = Texts([{"prompt": f"{HOSTILE} {i}", "answer": f"{HOSTILE}</div> {i}", HOSTILE: HOSTILE} for i in range(6)])
    return contexts(lens, some(lens), texts, k=3, window=(40, 40))


def test_nothing_in_a_text_a_label_or_meta_becomes_markup():
    page = Elements(hostile().to_html(meta=[HOSTILE]))
    assert {tag for tag, _ in page.seen} <= {"div", "small", "b", "i", "span", "u"}
    assert {name for _, attributes in page.seen for name in attributes} <= {"class", "style", "title"}
    assert page.text.count(HOSTILE) >= 12
    one = hostile()["L0.x0"]
    Elements(one._repr_html_())


def test_both_ends_signs_and_peak_are_in_the_page_and_nothing_runs():
    lens = tiny_lens()
    found = contexts(lens, some(lens), corpus())
    page = found.to_html(n=3)
    assert page.count("▲ top, highest") == page.count("▼ bottom, lowest") == 4
    assert sum(tag == "u" for tag, _ in Elements(page).seen) == 4 * 2 * 3, "one peak a context"
    assert "background:#d5" in page
    assert "background:#07b" in page
    assert "The number is the activation at the underlined token." in page
    assert not any(word in page.lower() for word in ("<script", "onclick", "javascript:", "http:", "https:", "<style"))
    assert sum(tag == "u" for tag, _ in Elements(found.to_html(n=1)).seen) == 8
    assert "L1.x0" not in found.to_html(names="L0.x0")


def test_a_token_is_shaded_by_its_share_of_the_largest_and_the_sign_by_colour():
    assert html.token("a", 0.6, 2.0) == '<span style="background:#d503" title="+0.600">a</span>'
    assert html.token("a", 1.0, 2.0) == '<span style="background:#d505" title="+1.00"><b>a</b></span>'
    assert html.token(" a", -2.0, 2.0, peak=True) == (
        '<span style="background:#07b9" title="−2.00"><b><i> <u>a</u></i></b></span>'
    )
    assert html.token("a", 0.01, 2.0) == "a"
    assert html.token("<i>", None, 2.0, special=True) == '<small style="opacity:.75">&lt;i&gt;</small>'


def test_the_number_of_a_context_that_is_a_mean_is_said_to_be_one():
    lens = tiny_lens()
    found = contexts(lens, some(lens), corpus(), rank="mean")
    assert {item.rank for item in found.values()} == {"mean"}
    assert "The number is the mean activation over the text" in found.to_html(n=1)
    assert "the activation at the underlined token" not in found.to_html(n=1)


def test_without_a_notebook_contexts_are_text(capsys):
    lens = tiny_lens()
    found = contexts(lens, some(lens), corpus())
    found.show(n=2, names=["L0.x0"])
    shown = capsys.readouterr().out
    assert shown.count("  top ") == shown.count("  bottom ") == 2
    assert "[[" in shown
    assert repr(found).count("  top ") == 12
    with pytest.raises(KeyError, match=r"L0\.y0.*L0\.x0"):
        found.show(names="L0.y0")


def test_the_table_has_a_row_per_context_with_text_source_and_meta():
    lens, texts = tiny_lens(), corpus()
    found = contexts(lens, some(lens), texts, k=4)
    table = found.table()
    assert len(table) == 4 * 2 * 4
    first = table.iloc[0]
    assert (first["concept"], first["end"], first["rank"]) == ("L0.x0", "top", 0)
    assert first["value"] == found["L0.x0"].top[0].value
    assert f"[[{first['peak']}]]" in first["text"]
    assert first["meta.domain"] == texts[first["index"]].meta["domain"]


def test_pieces_join_to_the_text_and_no_character_is_torn():
    tokenizer = tiny_tokenizer()
    text = "a café 😀 naïve\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = pieces(tokenizer, ids)
    assert "".join(found) == text
    assert len(found) == len(ids) == len(text.encode())
    assert "😀" in found
    assert found[found.index("😀") - 3 : found.index("😀")] == ["", "", ""]
    assert len(pieces(tokenizer, ids[:-7])) == len(ids) - 7, "a window that ends within a character"


def test_texts_ranked_by_their_mean_are_those_that_numpy_finds():
    lens, texts = tiny_lens(), corpus()
    concepts = some(lens)
    found = contexts(lens, concepts, texts, k=5, roles=["assistant"], rank="mean")["L0.x1"]
    scores = activations(texts, concepts["L0.x1"].direction, ASSISTANT)
    means = np.array([np.nanmean(row) for row in scores])
    assert [context.value for context in found.top] == pytest.approx(np.sort(means)[::-1][:5], abs=1e-5)
    assert [context.value for context in found.bottom] == pytest.approx(np.sort(means)[:5], abs=1e-5)
    for context in found.top:
        assert means[context.index] == pytest.approx(context.value, abs=1e-5)
        assert context.position == np.nanargmax(scores[context.index])


def test_strings_are_read_as_texts_are():
    lens = tiny_lens()
    given = ["the stove is cruel", "rain in the garden"]
    read = [contexts(lens, some(lens), texts, k=2) for texts in (given, Texts(given))]
    assert repr(read[0]) == repr(read[1])
    assert read[0]["L0.x0"].top[0].text == read[1]["L0.x0"].top[0].text


def test_outside_of_a_notebook_the_meta_of_a_context_stands_behind_it(capsys):
    lens = tiny_lens()
    contexts(lens, some(lens), corpus(), k=3).show(n=2, meta=["domain"])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(printed) == 16
    assert all(line.rsplit(" · ", 1)[1] in {"domain d0", "domain d1", "domain d2"} for line in printed)


def test_an_unknown_way_to_rank_texts_names_the_known_ones():
    lens = tiny_lens()
    with pytest.raises(ValueError, match=r'rank="average".*peak'):
        contexts(lens, some(lens), corpus(), rank="average")


def test_what_the_texts_at_both_ends_say_of_themselves_is_counted():
    lens, texts = tiny_lens(), corpus()
    found = contexts(lens, some(lens), texts, k=6)
    counted = found.counts("domain")
    assert list(counted.index) == list(found)
    for name, item in found.items():
        for end, ends in (("top", item.top), ("bottom", item.bottom)):
            said = [texts[context.index].meta["domain"] for context in ends]
            assert {v: said.count(v) for v in set(said)} == {v: n for v, n in counted.loc[name, end].items() if n}
    with pytest.raises(KeyError, match=r'No text says "domian" of itself.*domain'):
        found.counts("domian")


def test_the_share_of_peaks_on_labelled_tokens_is_counted_at_each_end():
    lens, texts = tiny_lens(), corpus()
    concepts = some(lens)
    found = contexts(lens, concepts, texts, k=6, roles=["assistant"])
    rng = np.random.default_rng(1)
    labels = [
        [[True, False, None][pick] for pick in rng.integers(0, 3, len(encode(tiny_tokenizer(), text).input_ids))]
        for text in texts
    ]
    shares = found.peaks_on(labels)
    assert list(shares.index) == concepts.names
    table = found.table()
    table["on"] = [labels[text][place] is True for text, place in zip(table["index"], table["position"], strict=True)]
    for (name, end), on in table.groupby(["concept", "end"])["on"]:
        assert shares.loc[name, end] == pytest.approx(on.sum() / len(on))
    assert 0 < shares.to_numpy().mean() < 1
    everywhere = [[True] * len(row) for row in labels]
    assert (found.peaks_on(everywhere) == 1).all(axis=None)
    with pytest.raises(ValueError, match="no label: give the labels of the texts"):
        found.peaks_on(labels[:3])
    with pytest.raises(ValueError, match="no label"):
        found.peaks_on([row[:2] for row in labels])


def test_keys_of_meta_that_no_text_has_are_refused_with_the_nearest(capsys):
    lens = tiny_lens()
    texts = Texts([{"text": "a red house", "stance": "kind"}, {"text": "a blue house"}])
    found = contexts(lens, some(lens), texts, k=2)
    for show in (found.show, found.to_html):
        with pytest.raises(KeyError, match=r'"stnce" of itself.*Did you mean "stance"'):
            show(meta=["stance", "stnce"])
    found.show(meta="stance")
    assert "stance kind" in capsys.readouterr().out
