import math

import numpy as np
import pytest
from scipy import stats

from alignment.evaluate import bootstrap, intervals
from alignment.evaluate.clusters import design_effect


def test_a_share_is_its_hits_over_its_rows_with_wilsons_interval():
    """Wilson 1927 for 1 of 4: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96."""
    share = intervals.proportion(1, 4)
    z = 1.959964
    centre = (0.25 + z * z / 8) / (1 + z * z / 4)
    half = z / (1 + z * z / 4) * math.sqrt(0.25 * 0.75 / 4 + z * z / 64)
    assert (share.value, share.n) == (0.25, 4)
    assert share.low == pytest.approx(centre - half, abs=1e-6)
    assert share.high == pytest.approx(centre + half, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 20, 240, 5000])
def test_wilsons_interval_is_scipys(n):
    for hits in {*range(0, n, max(1, n // 40)), n}:
        expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
        share = intervals.proportion(hits, n)
        assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-14)


def test_the_interval_of_a_share_keeps_its_width_when_every_row_agrees():
    """Twenty of twenty: low = n / (n + z²) = 20 / 23.84 = .839; high is 1, and not above."""
    assert intervals.proportion(20, 20).low == pytest.approx(0.8389, abs=1e-4)
    assert intervals.proportion(20, 20).high == 1.0
    assert intervals.proportion(0, 20).low == 0.0
    assert intervals.proportion(0, 20).high == pytest.approx(0.1611, abs=1e-4)


def test_a_ratio_weighs_rows_by_their_tokens():
    """(3 + 1 + 2) nats / (3 + 1 + 8) tokens = .5, where the mean of the row ratios is .75."""
    assert intervals.ratio([3.0, 1.0, 2.0], [3.0, 1.0, 8.0]).value == pytest.approx(0.5)


@pytest.mark.parametrize(
    "totals",
    [
        [1.0, 2.0],
        [0.0] * 19 + [1.0],
        [0.0] * 50 + [1e6],
        np.random.default_rng(3).integers(5, size=240).tolist(),
        np.random.default_rng(3).exponential(size=60).tolist(),
    ],
    ids=["two rows", "ties", "outlier", "few values", "skewed"],
)
def test_the_bootstrap_of_a_ratio_is_scipys_bca(totals):
    weights = np.random.default_rng(4).integers(1, 300, size=len(totals)).astype(float)
    expected = stats.bootstrap(
        (np.array(totals), weights),
        lambda x, y, axis=-1: x.sum(axis=axis) / y.sum(axis=axis),
        paired=True,
        n_resamples=bootstrap.RESAMPLES,
        rng=np.random.default_rng(5),
    ).confidence_interval
    found = intervals.ratio(totals, weights.tolist(), seed=5)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_a_mean_says_the_same_twice_and_another_seed_hardly_differs():
    values = np.random.default_rng(0).normal(size=100).tolist()
    first, again = intervals.mean(values, seed=1), intervals.mean(values, seed=1)
    other = intervals.mean(values, seed=2)
    assert first == again
    assert first != other
    assert first.low == pytest.approx(other.low, abs=0.03)


def test_many_rows_are_resampled_in_blocks_with_the_same_result(monkeypatch):
    values = np.random.default_rng(0).normal(size=50).tolist()
    whole = intervals.mean(values)
    monkeypatch.setattr(bootstrap, "_PICKS_AT_ONCE", 333)
    assert intervals.mean(values) == whole


def test_equal_rows_have_no_spread():
    assert intervals.mean([2.5, 2.5, 2.5]).model_dump() == {
        "value": 2.5,
        "low": 2.5,
        "high": 2.5,
        "n": 3,
    }


def test_one_row_is_its_own_interval():
    assert intervals.mean([7.0]).model_dump() == {"value": 7.0, "low": 7.0, "high": 7.0, "n": 1}


def test_a_95_percent_interval_of_a_skewed_mean_covers_it_about_95_times_in_100(monkeypatch):
    """Exponential rows, n = 80, 300 draws: .94 seen; below .89 or above .99 would be a bug."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator = np.random.default_rng(0)
    draws = [intervals.mean(generator.exponential(size=80).tolist()) for _ in range(300)]
    covered = sum(draw.low <= 1 <= draw.high for draw in draws) / len(draws)
    assert 0.89 < covered < 0.99


def test_the_sign_test_counts_splits_at_least_as_uneven():
    """3 wins, 0 losses: 2 * (1/2)³ = 1/4. 2 and 1: 2 * (1 + 3) / 8 = 1. None at all: 1."""
    assert intervals.sign_test(3, 0) == 0.25
    assert intervals.sign_test(0, 3) == 0.25
    assert intervals.sign_test(2, 1) == 1.0
    assert intervals.sign_test(0, 0) == 1.0


@pytest.mark.parametrize("wins", [0, 1, 8, 24, 45, 900])
@pytest.mark.parametrize("losses", [1, 2, 12, 18, 45, 1000])
def test_the_sign_test_is_scipys_binomial_test(wins, losses):
    expected = stats.binomtest(wins, wins + losses).pvalue
    assert intervals.sign_test(wins, losses) == pytest.approx(expected, rel=1e-11)


def test_a_paired_share_counts_rows_that_changed():
    """Rows a, b up, c down, d equal: (2 - 1) / 4 = .25."""
    first = {"a": True, "b": True, "c": False, "d": True}
    second = {"a": False, "b": False, "c": True, "d": True}
    found = intervals.paired_shares(first, second)
    assert found is not None
    assert (found.wins, found.losses, found.ties) == (2, 1, 1)
    assert found.difference.value == 0.25
    assert found.p_value == 1.0


def test_a_paired_share_has_agresti_and_mins_interval():
    """2 up, 1 down of 4: counts 2.5 and 1.5 of 6; d = 1/6, se = sqrt(4 - 1/6) / 6."""
    first = {"a": True, "b": True, "c": False, "d": True}
    second = {"a": False, "b": False, "c": True, "d": True}
    found = intervals.paired_shares(first, second)
    assert found is not None
    half = 1.959964 * math.sqrt(4 - 1 / 6) / 6
    assert found.difference.low == pytest.approx(1 / 6 - half, abs=1e-6)
    assert found.difference.high == pytest.approx(1 / 6 + half, abs=1e-6)


def test_two_models_that_agree_everywhere_may_still_differ_a_little():
    same = {str(row): True for row in range(20)}
    found = intervals.paired_shares(same, same)
    assert found is not None
    assert found.difference.value == 0
    assert found.difference.low < 0 < found.difference.high
    assert not found.shown


def test_swapping_the_models_negates_the_difference():
    first = {str(row): row % 3 == 0 for row in range(60)}
    second = {str(row): row % 5 == 0 for row in range(60)}
    there, back = intervals.paired_shares(first, second), intervals.paired_shares(second, first)
    assert there is not None
    assert back is not None
    assert there.difference.value == -back.difference.value
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert there.p_value == back.p_value


def test_a_paired_mean_is_over_the_rows_that_both_have():
    """Common rows a and b: ((5 - 1) + (4 - 2)) / 2 = 3."""
    found = intervals.paired_means({"a": 5.0, "b": 4.0, "x": 9.0}, {"a": 1.0, "b": 2.0, "y": 0.0})
    assert found is not None
    assert (found.difference.value, found.difference.n) == (3.0, 2)
    assert (found.wins, found.losses, found.ties) == (2, 0, 0)


def test_models_without_a_common_row_are_not_compared():
    assert intervals.paired_shares({"a": True}, {"b": True}) is None
    assert intervals.paired_means({}, {}) is None


def test_a_difference_is_shown_when_interval_and_test_agree():
    better = {str(row): True for row in range(30)}
    found = intervals.paired_shares(better, {row: int(row) >= 12 for row in better})
    assert found is not None
    assert found.difference.low > 0
    assert found.p_value < 0.001
    assert found.shown


def test_an_interval_that_excludes_zero_alone_shows_nothing():
    """Five wins and no loss in 30 rows: low is above 0, but the exact p is 2 / 2⁵ = .0625."""
    better = {str(row): True for row in range(30)}
    found = intervals.paired_shares(better, {row: int(row) >= 5 for row in better})
    assert found is not None
    assert found.difference.low > 0
    assert found.p_value == 0.0625
    assert not found.shown


def test_rows_of_one_prompt_are_drawn_together():
    """Ten prompts with three equal rows each are worth ten rows, whatever is estimated."""
    values = np.random.default_rng(2).normal(size=10)
    thrice, prompts = np.repeat(values, 3).tolist(), [f"{row // 3}" for row in range(30)]
    once, found = intervals.mean(values.tolist()), intervals.mean(thrice, clusters=prompts)
    assert (found.low, found.high, found.n) == pytest.approx((once.low, once.high, 30), abs=1e-3)
    hits = intervals.proportion(18, 30, effect=design_effect([1.0] * 18 + [0.0] * 12, prompts))
    alone = intervals.proportion(6, 10)
    assert (hits.low, hits.high) == pytest.approx((alone.low, alone.high))


def test_a_difference_counts_the_prompts_that_changed():
    """Six prompts of two rows: five won twice, one tied. McNemar on 5 to 0 prompts: 2 / 2⁵."""
    first = {f"{row}": float(row < 10) for row in range(12)}
    second = dict.fromkeys(first, 0.0)
    found = intervals.paired_shares(first, second, {row: f"p{int(row) // 2}" for row in first})
    alone = intervals.difference_of(5, 0, 6)
    assert found is not None
    assert (found.wins, found.losses, found.ties) == (10, 0, 2)
    assert found.p_value == alone.p_value == 2 / 2**5
    assert found.difference.low == pytest.approx(alone.difference.low)


def test_rows_that_are_all_of_one_prompt_are_drawn_one_by_one():
    values = [1.0, 2.0, 4.0]
    assert intervals.mean(values, clusters=["p"] * 3) == intervals.mean(values)


def test_a_clustered_interval_covers_the_mean_about_95_times_in_100(monkeypatch):
    """40 prompts of 1 to 5 rows, half of the variance between prompts; 300 draws.

    Without clusters .80 would cover it.
    """
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        sizes = generator.integers(1, 6, size=40)
        prompts = np.repeat(np.arange(40), sizes)
        rows = generator.normal(size=40)[prompts] + generator.normal(size=len(prompts))
        found = intervals.mean(rows.tolist(), clusters=[f"{name}" for name in prompts])
        covered += found.low <= 0 <= found.high
    assert 0.89 < covered / 300 < 0.99
