"""A part of the table of chat templates is measured again in every run of the tests."""

from pathlib import Path

import pytest

from benchmarks.families import table
from benchmarks.templates import COLUMNS, rows_of

TABLE = Path(__file__).parents[2] / "docs" / "models.md"


def documented():
    """The rows of the table in the docs, by template."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.count(" | ") == len(COLUMNS) - 1]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def test_nothing_is_silently_wrong():
    header, *templates = documented()
    assert header == COLUMNS[0]
    assert len(templates) >= 40
    cells = [cell.strip() for line in documented().values() for cell in line.split("|")]
    assert not [cell for cell in cells if cell.startswith("W ")]


@pytest.mark.parametrize("template", ["deepseek_r1_distill", "gemma", "gptoss"])
def test_the_documented_row_is_what_is_measured(template):
    *_, row = table(rows_of([template]), COLUMNS)
    assert row == documented()[template]
