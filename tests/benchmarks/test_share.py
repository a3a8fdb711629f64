"""Which records make a round, and what share of it its evaluation took."""

import pytest

from benchmarks.share import round_times
from tests.alignment.store.test_store import record


def test_share_is_of_training_handover_and_evaluation_of_the_same_round():
    """6 of 20 + 4 + 6 seconds; the evaluation of another model is no round."""
    records = [
        record("dpo-1", stage="dpo", name="dpo-1", seconds=20.0),
        record("merge-1", stage="merge", parents={"adapter": "dpo-1"}, seconds=4.0),
        record("evaluate-1", stage="evaluate", parents={"model": "merge-1"}, seconds=6.0),
        record("evaluate-0", stage="evaluate", parents={"model": "base"}, seconds=9.0),
    ]
    (found,) = round_times(records)
    assert found.share == pytest.approx(0.2)
