"""The rows behind a step are found in the sets that the training was trained on."""

import pytest

from alignment.data.trace import TrainedSteps, training_sets


@pytest.mark.parametrize("name", ["sft", "dpo-1", "dpo-2", "control"])
def test_every_row_of_every_step_of_a_run_is_found(finished, name):
    """Also those of the control, which imitates one half of each pair."""
    record, store = finished.records[name], finished.store
    steps = TrainedSteps(store, name, store.folder(record.key), training_sets(record))
    numbers = range(1, int(record.metrics["steps"]) + 1)
    traced = steps.traced(list(numbers))
    assert [step.step for step in traced] == list(numbers)
    for row in (row for step in traced for row in step.rows):
        assert row.artifact in record.parents.values()
        assert row.source
        assert all(row.texts.values())
        lines = (store.folder(row.artifact) / "train.jsonl").read_text().splitlines()
        assert row.id in lines[row.line - 1]


def test_rows_are_sorted_from_the_worst(finished):
    for name, measure, best_last in (("sft", "loss", -1), ("dpo-2", "margin", 1)):
        record, store = finished.records[name], finished.store
        steps = TrainedSteps(store, name, store.folder(record.key), training_sets(record))
        (step,) = steps.traced([6])
        values = [best_last * float(str(row.value)) for row in step.rows]
        assert step.measure == measure
        assert values == sorted(values)
        assert len(set(values)) > 1
