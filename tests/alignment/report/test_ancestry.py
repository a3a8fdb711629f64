"""The table of a model's ancestors: every row measured on the same rows."""

import pytest

from alignment.models.description import describe
from alignment.records.refs import ModelRef
from alignment.report.ancestry import ancestry_table
from alignment.store.store import Store
from tests.alignment.artifacts import put, put_evaluation, put_model


@pytest.fixture
def ref(tiny_model_folder):
    base, tokenizer = describe(tiny_model_folder, f"folder:{tiny_model_folder}", None)
    return ModelRef(base=base, tokenizer=tokenizer)


def test_a_later_evaluation_on_other_rows_is_not_mixed_in(tmp_path, ref):
    store = Store(root=tmp_path)
    for rows in ("pairs-line", "pairs-five"):
        put(store, rows)
    put_model(store, "merge-1", ref, uri="folder:1")
    put_model(store, "merge-2", ref, uri="folder:2", parents={"policy": "merge-1"})
    for key, model, rows, right, hour in (
        ("evaluate-1", "merge-1", "pairs-line", 20, 1),
        ("evaluate-2", "merge-2", "pairs-line", 10, 2),
        ("evaluate-3", "merge-2", "pairs-five", 40, 3),
    ):
        parents = {"model": model, "data 1": rows}
        started = f"2026-01-01T0{hour}:00:00+00:00"
        put_evaluation(store, key, model, right=right, parents=parents, started=started)
    table = ancestry_table(store, "merge-2")
    column = next(
        n for n, cell in enumerate(table.rows[0]) if "0.5" in cell.plain or ".500" in cell.plain
    )
    shown = [row[column].plain for row in table.rows]
    assert [text.split()[0].lstrip("0") for text in shown] == [".500", ".250"]
