"""Rows of dots: the largest first or in an order given, which has to be of all rows."""

from __future__ import annotations

import pytest
from drawn import ends, hover, ticks, words

from caft_lens.display.dots import Dots, dot_rows

KINDS = [
    Dots("one", {"a": 1.0, "b": 3.0}, {"a": (0.5, 2.0)}, {"a": "for example, 1 < $2"}),
    Dots("other", {"b": 0.5, "c": 2.0}),
]


def test_rows_stand_in_order_of_their_largest_value_unless_an_order_is_given():
    assert ticks(dot_rows(KINDS, x_label="x")) == ["b", "c", "a"]
    assert ticks(dot_rows(KINDS, x_label="x", order=["c", "a", "b"])) == ["c", "a", "b"]


def test_dots_and_intervals_stand_in_the_row_of_their_name():
    one, other = dot_rows(KINDS, x_label="x", order=["c", "a", "b"]).data
    assert dict(zip(one.x, map(round, one.y), strict=True)) == {1.0: 1, 3.0: 2}
    assert dict(zip(other.x, map(round, other.y), strict=True)) == {0.5: 2, 2.0: 0}
    assert ends(one) == [(0.5, 2.0), (3.0, 3.0)]
    assert other.error_x.array is None


def test_hovering_says_row_kind_value_interval_and_what_else_is_known():
    said = hover(dot_rows(KINDS, x_label="length, m", order=["a", "b", "c"]))
    assert said[:2] == ["a\none: 1 (0.5 to 2)\nlength, m\nfor example, 1 < $2", "b\none: 3\nlength, m"]


def test_a_logarithmic_axis_has_a_place_for_nothing_and_says_values_as_they_are():
    figure = dot_rows([Dots("one", {"a": 0.0, "b": 0.001, "c": 1.0})], x_label="x", linear_below=1e-3)
    assert dict(zip(ticks(figure), figure.data[0].x, strict=True)) == {"c": 4.0, "b": 1.0, "a": 0.0}
    assert ticks(figure, "xaxis") == ["0", "0.001", "0.01", "0.1", "1"]
    assert [said.split("\n")[1] for said in hover(figure)] == ["one: 1", "one: 0.001", "one: 0"]


def test_rows_are_bold_where_that_is_asked():
    figure = dot_rows(KINDS, x_label="x", bold=["c"])
    assert figure.layout.yaxis.ticktext == ("b", "<b>c</b>", "a")


def test_a_line_is_drawn_where_it_is_asked_and_says_what_it_is():
    figure = dot_rows(KINDS, x_label="x", line=(0.5, "chance <1>"))
    assert [line.x0 for line in figure.layout.shapes] == [0.5]
    assert "chance <1>" in words(figure)


@pytest.mark.parametrize("order", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", "b", "c"]])
def test_an_order_that_is_not_of_all_rows_is_refused(order):
    with pytest.raises(ValueError, match=r"order= names .*; the rows are a, b, c\."):
        dot_rows(KINDS, x_label="x", order=order)
