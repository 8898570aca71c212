"""Rows of dots: the largest first or in an order given, which has to be of all rows."""

from __future__ import annotations

import pytest

from caft_lens.display.dots import Dots, dot_rows

KINDS = [Dots("one", {"a": 1.0, "b": 3.0}, {"a": (0.5, 2.0)}), Dots("other", {"b": 0.5, "c": 2.0})]


def rows(figure) -> list[str]:
    (axes,) = figure.axes
    return [label.get_text() for label in axes.get_yticklabels()]


def test_rows_stand_in_order_of_their_largest_value_unless_an_order_is_given():
    assert rows(dot_rows(KINDS, x_label="x")) == ["b", "c", "a"]
    assert rows(dot_rows(KINDS, x_label="x", order=["c", "a", "b"])) == ["c", "a", "b"]


def test_dots_and_intervals_stand_in_the_row_of_their_name():
    (axes,) = dot_rows(KINDS, x_label="x", order=["c", "a", "b"]).axes
    drawn = [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    (_, interval, at), (_, values, places), (_, of_other, others) = drawn
    assert interval == [0.5, 2.0]
    assert [round(y) for y in at] == [1, 1]
    assert dict(zip(values, map(round, places), strict=True)) == {1.0: 1, 3.0: 2}
    assert dict(zip(of_other, map(round, others), strict=True)) == {0.5: 2, 2.0: 0}


def test_rows_are_bold_where_that_is_asked():
    (axes,) = dot_rows(KINDS, x_label="x", bold=["c"]).axes
    assert {label.get_text(): label.get_fontweight() for label in axes.get_yticklabels()} == {
        "b": "normal", "c": "bold", "a": "normal",
    }  # fmt: skip


@pytest.mark.parametrize("order", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", "b", "c"]])
def test_an_order_that_is_not_of_all_rows_is_refused(order):
    with pytest.raises(ValueError, match=r"order= names .*; the rows are a, b, c\."):
        dot_rows(KINDS, x_label="x", order=order)
