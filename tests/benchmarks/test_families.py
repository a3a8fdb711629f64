"""A part of the table of model families is measured again in every run of the tests."""

from pathlib import Path

import pytest

from benchmarks.families import COLUMNS, rows_of, table
from benchmarks.tiny_models import ALL

TABLE = Path(__file__).parents[2] / "docs" / "models.md"


def documented():
    """The rows of the table in the docs, by family."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.count(" | ") == len(COLUMNS) - 1]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def test_the_docs_have_a_row_for_every_family():
    header, *families = documented()
    assert header == COLUMNS[0]
    assert set(families) == set(ALL)


def test_nothing_is_silently_wrong_refused_late_or_crashes():
    """W, L and X of the legend; R is refused before any work."""
    cells = [cell.strip() for line in documented().values() for cell in line.split("|")]
    assert not [cell for cell in cells if cell[:2] in ("W ", "L ", "X ")]


@pytest.mark.parametrize("family", ["gemma2", "qwen3-moe", "gemma3-vision"])
def test_the_documented_row_is_what_is_measured(family):
    *_, row = table(rows_of([family]))
    assert row == documented()[family]
