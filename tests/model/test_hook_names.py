"""The grammar of hook names: TransformerLens's, read and written in one place."""

from __future__ import annotations

import re

import pytest
from places import ROOT

from caft_lens._support.errors import BadArgument
from caft_lens.model.hook_names import SYNONYMS, full_name, in_stream, of_heads, place_of, short_name, written


@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_z"])
@pytest.mark.parametrize("layer", [0, 7, 103])
def test_a_name_that_is_written_says_the_same_when_it_is_read(layer, site):
    assert place_of(written(layer, site)) == (layer, site)
    assert full_name(written(layer, site)) == written(layer, site)


def test_a_layer_number_is_the_residual_stream_after_the_block():
    assert full_name(2) == written(2) == "blocks.2.hook_resid_post"


def test_newer_names_of_transformer_lens_are_synonyms():
    assert {full_name(f"blocks.4.{new}") for new in SYNONYMS} == {f"blocks.4.{old}" for old in SYNONYMS.values()}
    assert full_name("ln_final.hook_scale") == "ln_final.hook_scale"


@pytest.mark.parametrize("name", ["", "blocks.1", "blocks.x.hook_z", "hook_embed", "blocks.1.", "layers.1.hook_out"])
def test_what_is_no_hook_point_of_a_block_is_told(name):
    with pytest.raises(BadArgument, match="no hook point of a block; expected"):
        place_of(name)


def test_only_the_stream_itself_is_in_the_stream():
    names = [
        written(1, site)
        for site in ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z")
    ]
    assert [in_stream(name) for name in names] == [True, True, False, False, False]
    assert [of_heads(name) for name in names] == [False] * 4 + [True]


def test_a_label_leaves_out_what_is_usual():
    assert [short_name(written(3, site)) for site in ("hook_resid_post", "hook_mlp_out", "attn.hook_z")] == [
        "L3", "L3.mlp_out", "L3.attn.z",
    ]  # fmt: skip


BY_HAND = re.compile(
    r"""f["']blocks\.|r["']blocks|split\("\."\)\[1\]|replace\(["']hook_|(ends|starts)with\(["'](attn\.)?hook_"""
)


def test_no_other_file_of_the_library_takes_hook_names_apart_or_puts_them_together():
    files = [path for room in ("caft_lens", "widgets", "data") for path in (ROOT / room).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if BY_HAND.search(path.read_text(encoding="utf-8"))}
    assert found == {"caft_lens/model/hook_names.py"}
