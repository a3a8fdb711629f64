"""Which records make a round, and what share of it its evaluation took."""

import pytest

from benchmarks.share import round_times
from tests.alignment.store.test_store import record


def test_share_is_of_pairs_training_handover_and_evaluation_of_the_same_round():
    """6 of 10 + 20 + 4 + 6 seconds; the evaluation of another model is no round."""
    made = {"prompts": "prompts-1", "answers": "answers-1", "labels": "labels-1", "base": "base"}
    records = [
        record("base", stage="base", seconds=50.0),
        record("prompts-1", stage="prompts", seconds=1.0),
        record("answers-1", stage="answers", seconds=6.0),
        record("labels-1", stage="labels", seconds=2.0),
        record("pairs-1", stage="own-pairs", parents=made, seconds=1.0),
        record("dpo-1", stage="dpo", parents={"data": "pairs-1"}, seconds=20.0),
        record("merge-1", stage="merge", parents={"adapter": "dpo-1"}, seconds=4.0),
        record("evaluate-1", stage="evaluate", parents={"model": "merge-1"}, seconds=6.0),
        record("evaluate-0", stage="evaluate", parents={"model": "base"}, seconds=9.0),
    ]
    (found,) = round_times(records)
    assert found.pairs == 10
    assert found.share == pytest.approx(0.15)
