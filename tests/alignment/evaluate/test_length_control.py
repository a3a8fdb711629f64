import math

import numpy as np
import pytest
from scipy.differentiate import hessian
from scipy.optimize import minimize

from alignment.evaluate import length_control
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.evaluators.preference import LengthControlledAccuracy, PreferenceAccuracy
from alignment.evaluate.summary import differences, summarise
from tests.alignment.evaluate.rows import PAIR


def biased(quality, slope, *, rows=400, seed=0):
    """Rows where the chance to be right is sigmoid(quality + slope * tanh(d / sd(d)))."""
    generator = np.random.default_rng(seed)
    longer = generator.normal(40, 60, size=rows)
    logits = quality + slope * np.tanh(longer / longer.std())
    return generator.random(rows) < 1 / (1 + np.exp(-logits)), longer


def test_the_fit_is_the_maximum_that_scipy_finds():
    right, longer = biased(0.5, -1.5)
    scaled = np.tanh(longer / longer.std())

    def loss(at):
        signs = np.where(right, 1, -1)
        rows = np.logaddexp(0, -signs * (at[0] + at[1] * scaled)).sum()
        halves = (np.logaddexp(0, -at[0]) + np.logaddexp(0, at[0])) / 2
        return rows + halves + at[1] ** 2 / (2 * 10**2)

    expected = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-6})
    found = length_control.fit(right.tolist(), longer.tolist())
    assert (found.logit, found.slope) == pytest.approx(tuple(expected.x), abs=1e-5)
    curvature = hessian(lambda at: np.apply_along_axis(loss, 0, at), expected.x).ddf
    assert found.variance == pytest.approx(np.linalg.inv(curvature)[0, 0], rel=1e-4)


def test_what_each_row_adds_is_what_leaving_it_out_takes():
    right, longer = biased(0.5, -1.0, rows=200)
    whole = length_control.fit(right.tolist(), longer.tolist())
    for row in (0, 7, 50):
        keep = np.arange(200) != row
        without = length_control.fit(right[keep].tolist(), longer[keep].tolist())
        assert whole.logit - without.logit == pytest.approx(whole.influence[row], rel=0.15)


def test_a_model_that_only_likes_short_replies_has_no_accuracy_at_equal_lengths():
    """Right where the chosen reply is shorter, which three pairs of four are: .75, and about .5."""
    longer = [float(d) for d in range(-150, 51) if d]
    found = length_control.fit([d < 0 for d in longer], longer)
    assert found.accuracy == pytest.approx(0.5, abs=0.05)


def test_few_rows_that_are_all_right_are_not_certain():
    """20.5 of 21, on the logit scale ln(41), with the width that the model itself gives."""
    found = length_control.fit([True] * 20, [0.0] * 20)
    assert found.accuracy == pytest.approx(20.5 / 21)
    estimate = found.estimate([str(row) for row in range(20)])
    half = 1.96 / math.sqrt(21 * 20.5 / 21 * 0.5 / 21)
    assert estimate.low == pytest.approx(1 / (1 + math.exp(half - math.log(41))), abs=1e-3)


def test_its_interval_covers_the_truth_about_95_times_in_100():
    draws = [length_control.fit(*map(list, biased(0.4, -1.5, seed=seed))) for seed in range(300)]
    estimates = [draw.estimate([str(row) for row in range(400)]) for draw in draws]
    truth = 1 / (1 + math.exp(-0.4))
    covered = sum(estimate.low <= truth <= estimate.high for estimate in estimates) / 300
    assert 0.91 < covered < 0.99


def rows(right, longer):
    return ScoredRows(
        pairs=[
            PAIR.model_copy(
                update={
                    "id": f"{n}",
                    "chosen": -4.0 if good else -6.0,
                    "chosen_tokens": 200 + int(d),
                    "rejected_tokens": 200,
                }
            )
            for n, (good, d) in enumerate(zip(right, longer, strict=True))
        ]
    )


def test_the_metric_is_the_fit_and_its_rows_average_to_it():
    right, longer = biased(0.5, -1.5)
    scored = rows(right, longer)
    found = summarise(scored).overall
    expected = length_control.fit(right.tolist(), [int(d) for d in longer])
    assert found["length_controlled_accuracy"].value == expected.accuracy
    by_row = LengthControlledAccuracy().by_row(scored)
    assert sum(by_row.values()) / 400 == pytest.approx(expected.accuracy)
    assert PreferenceAccuracy().name in found


def test_a_gain_that_only_comes_from_length_is_no_gain_at_equal_lengths():
    """Both have a quality of 0; one likes the shorter reply, the other the longer, which chosen
    replies are. Accuracy differs by far, accuracy at equal lengths does not.
    """
    (short, longer), (long_, _) = biased(0.0, -2.0), biased(0.0, 2.0)
    found = differences(rows(long_, longer), rows(short, longer)).overall
    assert found["preference_accuracy"].low > 0.2
    controlled = found["length_controlled_accuracy"]
    assert controlled.low < 0 < controlled.high
