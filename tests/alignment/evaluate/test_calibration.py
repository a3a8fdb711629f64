import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from alignment.evaluate import calibration
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.summary import summarise
from tests.alignment.evaluate.rows import PAIR


def pairs_of(margins):
    """Pairs with these margins: the base model's margin is 0, so the model's own is the margin."""
    same = {"rejected": -5.0, "base_chosen": -5.0, "base_rejected": -5.0}
    return [
        PAIR.model_copy(update={"id": f"{n:04d}", "chosen": -5.0 + margin, **same})
        for n, margin in enumerate(margins)
    ]


def calibrated(rows, scale):
    """Margins whose sign is right with a chance of sigmoid(scale * |margin|)."""
    generator = np.random.default_rng(0)
    sizes = generator.exponential(4, size=rows)
    right = generator.random(rows) < 1 / (1 + np.exp(-scale * sizes))
    return np.where(right, sizes, -sizes).tolist()


def test_the_scale_is_the_maximum_that_scipy_finds():
    margins = np.array(calibrated(300, 0.3))
    expected = minimize_scalar(
        lambda scale: np.logaddexp(0, -scale * margins).sum(), bounds=(0, 5), method="bounded"
    )
    assert calibration.fitted_scale(margins.tolist()) == pytest.approx(expected.x, abs=1e-4)
    assert calibration.fitted_scale([1.0, -1.0, -2.0]) == 0


def test_twenty_pairs_make_two_bins_of_ten():
    """Small margins are right 6 times of 10, large ones always."""
    small, large = [0.1] * 6 + [-0.1] * 4, [9.0] * 10
    low, high = calibration.reliability(pairs_of([*large, *small]))
    assert (low.right.value, low.right.n) == (0.6, 10)
    assert high.right.value == 1.0
    assert high.confidence > low.confidence >= 0.5


def test_the_error_is_the_mean_distance_of_the_bins():
    pairs = pairs_of(calibrated(300, 0.3))
    bins = calibration.reliability(pairs)
    expected = sum(abs(b.right.value - b.confidence) * b.right.n for b in bins) / 300
    assert summarise(ScoredRows(pairs=pairs)).overall["calibration_error"].value == pytest.approx(
        expected
    )
    assert len(bins) == 10


def test_margins_that_are_wrong_where_they_are_large_have_a_larger_error():
    """The best scale is then 0: confidences of .5, where 1 - 1 / e = .632 are right."""
    good = calibrated(2000, 0.3)
    upside_down = [margin if abs(margin) < 4 else -abs(margin) for margin in map(abs, good)]
    errors = [
        summarise(ScoredRows(pairs=pairs_of(margins))).overall["calibration_error"].value
        for margins in (good, upside_down)
    ]
    assert errors[0] < 0.03
    assert errors[1] == pytest.approx(1 - 1 / np.e - 0.5, abs=0.03)


def test_the_base_model_prefers_nothing_and_has_no_calibration():
    found = summarise(ScoredRows(pairs=pairs_of([0.0] * 20)))
    assert found.reliability == ()
    assert "calibration_error" not in found.overall
