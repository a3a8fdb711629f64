"""The score test of paired shares, against a numeric maximum of the likelihood and by hand."""

import math

import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from alignment.evaluate.noninferiority import (
    PairedCounts,
    is_shown_above,
    is_shown_below,
    lower_bound,
    margin_shown,
    paired_counts,
    rows_needed,
    score,
)

CASES = [(5, 3, 100), (0, 0, 100), (0, 20, 300), (5, 0, 5), (80, 70, 1000), (900, 950, 8000)]


def by_likelihood(wins, losses, n, margin):
    """The score with the variance at the numeric maximum of the restricted likelihood."""

    def minus_log_likelihood(lost):
        won = lost - margin
        terms = ((wins, won), (losses, lost), (n - wins - losses, 1 - lost - won))
        return -sum(k * math.log(p) for k, p in terms if k)

    low, high = max(0.0, margin) + 1e-12, (1 + margin) / 2 - 1e-12
    found = minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    )
    variance = n * (2 * found.x - margin - margin**2)
    return (wins - losses + n * margin) / math.sqrt(variance)


@pytest.mark.parametrize(("wins", "losses", "n"), CASES)
@pytest.mark.parametrize("margin", [0.03, 0.1])
def test_score_has_the_variance_of_the_likeliest_model_at_the_margin(wins, losses, n, margin):
    expected = by_likelihood(wins, losses, n, margin)
    assert score(PairedCounts(wins, losses, n), margin) == pytest.approx(expected, abs=1e-4)


def test_no_loss_in_few_rows_shows_nothing():
    """20 rows without a loss: a true loss rate of .03 gives that with a chance of .97^20 = .54."""
    assert not is_shown_above(PairedCounts(0, 0, 20), 0.03, 0.05)
    assert is_shown_above(PairedCounts(0, 0, 500), 0.03, 0.05)


def test_collapse_of_few_rows_is_shown():
    assert is_shown_below(PairedCounts(0, 30, 30), 0.1, 0.001)


@pytest.mark.parametrize(("wins", "losses", "n"), CASES)
def test_lower_bound_is_where_the_test_turns(wins, losses, n):
    counts = PairedCounts(wins, losses, n)
    bound = lower_bound(counts, 0.01)
    assert is_shown_above(counts, -bound + 2e-4, 0.01)
    assert not is_shown_above(counts, -bound - 2e-4, 0.01)


def test_error_at_the_margin_is_the_level():
    """Exact: 1,000 rows, 8 % lost and 5 % won, so the true difference is the margin of -.03."""
    n, won, lost, level = 1000, 0.05, 0.08, 0.05
    passed = 0.0
    for losses in range(40, 130):
        chance = binom.pmf(losses, n, lost)
        wins = next(
            (w for w in range(130) if is_shown_above(PairedCounts(w, losses, n), 0.03, level)), 130
        )
        passed += chance * binom.sf(wins - 1, n - losses, won / (1 - lost))
    assert passed == pytest.approx(level, abs=0.01)


def test_rows_of_one_prompt_count_once():
    """Ten prompts of four equal rows are as good as ten rows."""
    first = {f"{prompt}-{row}": float(prompt < 6) for prompt in range(10) for row in range(4)}
    second = {name: float(name.startswith("9")) for name in first}
    cluster = {name: name[0] for name in first}
    assert paired_counts(first, second, cluster) == pytest.approx((6, 1, 10))
    assert paired_counts(first, second, {}) == pytest.approx((24, 4, 40))


def test_rows_needed_by_hand():
    """z = 3.0902 + 1.2816; 4.3718^2 * .42 / .03^2 = 8,919.1."""
    assert rows_needed(0.03, 0.001, discordant=0.42, power=0.9) == 8920
    assert margin_shown(8920, 0.001, discordant=0.42, power=0.9) == pytest.approx(0.03, abs=1e-5)
