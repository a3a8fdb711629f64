import pytest

from alignment.report.page import render
from alignment.report.text import clip, folded


def test_clipping_says_how_much_is_missing():
    assert clip("abc", 3) == "abc"
    assert clip("abcde", 3) == "abc… (+2 characters)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "(empty)"),
        (" \n", "(empty)"),
        ("\n" * 36, "(nothing but 36 line breaks)"),
        ("a\n\nb", "a\n\nb"),
        ("a\n\n\n  \nb", "a\n(⏎ 4 times)\nb"),
    ],
)
def test_line_breaks_in_a_row_are_counted_instead_of_shown(text, shown):
    assert folded(text) == shown


def test_a_reply_of_line_breaks_takes_one_line_on_the_page(run):
    silent = tuple(
        row.model_copy(update={"reply": "\n" * 400}) for row in run.generations["round 2"]
    )
    page = render(run.model_copy(update={"generations": {**run.generations, "round 2": silent}}))
    assert "(nothing but 400 line breaks)" in page
    assert "\n" * 10 not in page
