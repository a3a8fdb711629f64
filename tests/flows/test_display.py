"""What remains, as it is told while data are prepared."""

from flows.display import Pace


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
