"""What remains, as it is told while a run goes on and while data are prepared."""

from types import SimpleNamespace
from typing import Any

from alignment.progress import Mark
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


def test_steps_that_have_not_begun_take_what_their_kind_took():
    forecast = Forecast([TRAINING, EVALUATION], {"evaluate": 300.0, "sft": 100.0})
    assert forecast.between() == 400.0
    forecast.started()
    assert forecast.within(TRAINING, at("loading", 0, 0, 40.0), spent=40.0) == 60.0 + 300.0
    forecast.finished(TRAINING, 90.0, reused=False)
    assert forecast.between() == 300.0
