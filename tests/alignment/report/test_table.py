import pytest
from rich.cells import cell_len

from alignment.report.table import Cell, Table, escape_markdown, printable

TABLE = Table.of(
    "Scores",
    ["Model", "Pass rate"],
    [["base", Cell(text=".05", small="[.03, .09]")], ["round 1", Cell(text="—", tone="muted")]],
    note="n = 240.",
)


def test_text_aligns_names_left_and_numbers_right():
    assert TABLE.to_text().splitlines() == [
        "Scores",
        "Model         Pass rate",
        "───────────────────────",
        "base     .05 [.03, .09]",
        "round 1               —",
        "n = 240.",
    ]


def test_markdown_is_a_table_under_its_title():
    assert TABLE.to_markdown().splitlines() == [
        "**Scores**",
        "",
        "| Model | Pass rate |",
        "| :--- | ---: |",
        "| base | .05 [.03, .09] |",
        "| round 1 | — |",
        "",
        "n = 240.",
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_text_is_never_wider_than_asked(width):
    long = "a sentence of many words " * 9
    table = Table.of("T", ["Step", "Key", "Notes"], [["dpo-1", "k" * 70, long]], align="lll")
    assert max(map(cell_len, table.to_text(width).splitlines())) <= width


def test_a_wrapped_cell_keeps_its_words_and_its_column():
    table = Table.of("T", ["A", "B"], [["one", "red green blue"]], align="ll")
    assert table.to_text(14).splitlines()[-2:] == ["one  red green", "     blue"]


def test_wide_characters_count_twice():
    """A Chinese character takes two columns, a combining accent none."""
    table = Table.of("T", ["Model", "N"], [["模型", "1"], ["abcd", "2"], ["e\u0301", "3"]])
    assert table.to_text().splitlines()[-3:] == ["模型   1", "abcd   2", "e\u0301      3"]


def test_a_cell_cannot_drive_the_terminal():
    assert printable("red \x1b[31m\x07 \u202eback\nnext") == "red �[31m� �back next"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("<img src=x>", "&lt;img src=x>"),
        ("p < .001", "p < .001"),
        ("&lt;b>", "&amp;lt;b>"),
        ("[x](javascript:1)", "[x]\\(javascript:1)"),
        ("`code`", "\\`code\\`"),
        ("\\|", "\\\\\\|"),
        ("two\nlines", "two lines"),
    ],
)
def test_a_cell_cannot_start_markup(text, shown):
    assert escape_markdown(text) == shown
