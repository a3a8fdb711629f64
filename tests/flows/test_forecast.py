"""What remains, as it is told while a run goes on and while data are prepared."""

from types import SimpleNamespace
from typing import Any

import pytest

from alignment.store.progress import Mark
from flows.forecast import Forecast, Pace

TRAINING: Any = SimpleNamespace(name="sft", stage="sft")
EVALUATION: Any = SimpleNamespace(name="evaluate-1", stage="evaluate")


def at(phase, done, total, time):
    return Mark(phase=phase, done=done, total=total, time=time)


def test_what_remains_follows_the_pace_of_the_last_marks():
    """1,000 rows in 2 s; 3,000 are left: 6 s. Skipped shards, far faster, are soon forgotten."""
    pace = Pace()
    assert pace.left("reading", 1000, 5000, now=10.0) is None
    assert pace.left("reading", 2000, 5000, now=12.0) == 6.0
    fast = [pace.left("reading", 10_000 * n, 10**6, now=12 + n / 100) for n in range(1, 40)]
    assert fast[-1] is not None
    assert fast[-1] < 1.0
    slow = [pace.left("reading", 400_000 + n, 10**6, now=20.0 + n) for n in range(31)]
    assert slow[-1] == 10**6 - 400_030


def test_another_phase_starts_anew_and_without_a_total_nothing_is_foretold():
    pace = Pace()
    pace.left("reading", 1000, 5000, now=0.0)
    assert pace.left("comparing", 10, 100, now=1.0) is None
    assert pace.left("comparing", 20, 0, now=2.0) is None


def test_what_remains_of_a_training_is_told_by_its_own_pace_not_by_another_runs():
    forecast = Forecast([TRAINING], {"sft": 9000.0})
    forecast.started()
    assert forecast.within(TRAINING, at("training", 1, 100, 30.0), spent=30.0) == 8970.0
    assert forecast.within(TRAINING, at("training", 2, 100, 32.0), spent=32.0) == 98 * 2.0


def test_an_evaluation_is_neither_over_when_its_scoring_is_nor_as_slow_as_its_loading():
    forecast = Forecast([EVALUATION], {"evaluate": 300.0})
    forecast.started()
    forecast.within(EVALUATION, at("scoring", 8, 64, 40.0), spent=40.0)
    assert forecast.within(EVALUATION, at("scoring", 64, 64, 50.0), spent=50.0) == 250.0
    assert forecast.within(EVALUATION, at("answering", 8, 80, 60.0), spent=60.0) == 240.0
    assert forecast.within(EVALUATION, at("answering", 16, 80, 70.0), spent=70.0) == 80.0


def test_a_kind_not_seen_yet_takes_as_much_longer_than_usual_as_all_that_was_done():
    """3 minutes of SFT count for more than 45 s of a stack, usually 2: (180 + 45) / (60 + 2)."""
    stack: Any = SimpleNamespace(name="stack-sft", stage="stack")
    forecast = Forecast([TRAINING, stack, EVALUATION], {})
    assert forecast.between() == 60 + 2 + 29
    forecast.finished(TRAINING, 180.0, reused=False)
    forecast.finished(stack, 45.0, reused=False)
    assert forecast.between() == pytest.approx(29 * 225 / 62)


def test_the_step_at_work_already_tells_how_slow_the_others_will_be():
    """At 10 s of 1 of 10 steps a training takes another 90: 100 where 60 are usual."""
    forecast = Forecast([TRAINING, EVALUATION], {})
    forecast.started()
    forecast.within(TRAINING, at("training", 0, 10, 0.0), spent=0.0)
    found = forecast.within(TRAINING, at("training", 1, 10, 10.0), spent=10.0)
    assert found == pytest.approx(90 + 29 * 100 / 60)


def test_steps_that_have_not_begun_take_what_their_kind_took():
    forecast = Forecast([TRAINING, EVALUATION], {"evaluate": 300.0, "sft": 100.0})
    assert forecast.between() == 400.0
    forecast.started()
    assert forecast.within(TRAINING, at("loading", 0, 0, 40.0), spent=40.0) == 60.0 + 300.0
    forecast.finished(TRAINING, 90.0, reused=False)
    assert forecast.between() == 300.0
