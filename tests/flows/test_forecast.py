"""The time left, as shown during a run and during data preparation."""

from types import SimpleNamespace
from typing import Any

import pytest

from alignment.store.progress import Mark, Pace
from flows.forecast import Forecast

TRAINING: Any = SimpleNamespace(name="sft", stage="sft")
EVALUATION: Any = SimpleNamespace(name="evaluate-1", stage="evaluate")


def at(phase, done, total, time):
    return Mark(phase=phase, done=done, total=total, time=time)


def test_time_left_follows_the_pace_of_the_last_marks():
    """1,000 rows in 2 s; 3,000 are left: 6 s. Skipped shards, far faster, are soon forgotten."""
    pace = Pace()
    assert pace.left("reading", 1000, 5000, now=10.0) is None
    assert pace.left("reading", 2000, 5000, now=12.0) == 6.0
    fast = [pace.left("reading", 10_000 * n, 10**6, now=12 + n / 100) for n in range(1, 40)]
    assert fast[-1] is not None
    assert fast[-1] < 1.0
    slow = [pace.left("reading", 400_000 + n, 10**6, now=20.0 + n) for n in range(31)]
    assert slow[-1] == 10**6 - 400_030


def test_a_new_phase_resets_the_pace_and_without_a_total_there_is_no_forecast():
    pace = Pace()
    pace.left("reading", 1000, 5000, now=0.0)
    assert pace.left("comparing", 10, 100, now=1.0) is None
    assert pace.left("comparing", 20, 0, now=2.0) is None


def test_a_training_is_forecast_by_its_own_pace_once_that_is_known():
    forecast = Forecast([TRAINING], {"sft": 9000.0})
    forecast.started()
    assert forecast.within(TRAINING, at("training", 1, 100, 30.0), spent=30.0) == 8970.0
    assert forecast.within(TRAINING, at("training", 2, 100, 32.0), spent=32.0) == 98 * 2.0


def test_the_forecast_of_an_evaluation_includes_generation_after_scoring():
    forecast = Forecast([EVALUATION], {"evaluate": 300.0})
    forecast.started()
    forecast.within(EVALUATION, at("scoring", 8, 64, 40.0), spent=40.0)
    assert forecast.within(EVALUATION, at("scoring", 64, 64, 50.0), spent=50.0) == 250.0
    assert forecast.within(EVALUATION, at("answering", 8, 80, 60.0), spent=60.0) == 240.0
    assert forecast.within(EVALUATION, at("answering", 16, 80, 70.0), spent=70.0) == 80.0


def test_a_kind_not_seen_yet_is_scaled_by_the_total_time_of_the_steps_so_far():
    """3 minutes of SFT weigh more than 45 s of a stack, nominally 2 s: (180 + 45) / (60 + 2)."""
    stack: Any = SimpleNamespace(name="stack-sft", stage="stack")
    forecast = Forecast([TRAINING, stack, EVALUATION], {})
    assert forecast.between() is None  # a guess for another machine helps nobody
    forecast.finished(TRAINING, 180.0, reused=False)
    forecast.finished(stack, 45.0, reused=False)
    assert forecast.between() == pytest.approx(29 * 225 / 62)


def test_the_running_step_already_scales_the_forecast_of_the_others():
    """After 1 of 10 training steps in 10 s, 90 s are left: 100 s instead of a nominal 60 s."""
    forecast = Forecast([TRAINING, EVALUATION], {})
    forecast.started()
    forecast.within(TRAINING, at("training", 0, 10, 0.0), spent=0.0)
    found = forecast.within(TRAINING, at("training", 1, 10, 10.0), spent=10.0)
    assert found == pytest.approx(90 + 29 * 100 / 60)


def test_steps_that_have_not_started_take_as_long_as_the_last_of_their_kind():
    forecast = Forecast([TRAINING, EVALUATION], {"evaluate": 300.0, "sft": 100.0})
    assert forecast.between() == 400.0
    forecast.started()
    assert forecast.within(TRAINING, at("loading", 0, 0, 40.0), spent=40.0) == 60.0 + 300.0
    forecast.finished(TRAINING, 90.0, reused=False)
    assert forecast.between() == 300.0
