"""Labelled documents: every character once, the right ones marked, nothing of the text taken for HTML."""

from __future__ import annotations

import re
from html import unescape

import pytest

from caft_lens.inspect import Labelled
from caft_lens.text.documents import Message, Text

CHAT = Text(
    (Message("user", "Is <b>it</b> a dog?"), Message("assistant", "Yes & no.")),
    meta={"spans": [[15, 18, "animal", 0], [13, 18, "noun", 0], [0, 3, "answer", 1]]},
)


def test_every_character_is_shown_once_and_escaped():
    page = Labelled([CHAT], ["animal", "noun", "answer"])._repr_html_()
    shown = unescape(re.sub(r"<sup>.*?</sup>|<[^>]*>", "", page))
    for message in CHAT.messages:
        assert shown.count(message.content) == 1


def test_the_labelled_characters_are_marked_with_all_their_labels_and_the_colour_of_the_first():
    page = Labelled([CHAT], ["animal", "noun"])._repr_html_()
    marks = re.findall(r'<u style="background:#(\w+)" title="([^"]*)">(.*?)</u><sup>(.*?)</sup>', page)
    assert [one[1:] for one in marks] == [("noun", "a ", "2"), ("animal, noun", "dog", "1,2")]
    assert marks[0][0] != marks[1][0]
    assert "answer" not in page


def test_a_label_that_no_document_has_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r'labelled "animl". Did you mean "animal"'):
        Labelled([CHAT], ["animl"])
    with pytest.raises(ValueError, match="choose fewer"):
        Labelled([CHAT], ["animal"] * 8)
