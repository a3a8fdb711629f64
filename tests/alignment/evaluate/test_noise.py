"""What a model changes by when it is measured again, and what that forbids to claim."""

from dataclasses import replace

import pytest

from alignment.evaluate.anchored import margin_finding
from alignment.evaluate.gate import judge
from alignment.evaluate.intervals import paired_shares
from alignment.evaluate.judged import JudgedModel
from alignment.evaluate.noise import parts, spread
from alignment.evaluate.noninferiority import PairedCounts
from alignment.evaluate.settings import AnchoredGate, EvaluationConfig, PlainGate
from tests.alignment.evaluate.test_gate import measured


def test_the_floor_of_a_metric_is_the_distance_of_its_lowest_and_highest_mean():
    means = [{"nll": 2.0, "pass_rate": 0.5}, {"nll": 2.5, "pass_rate": 0.5}, {"nll": 1.75}]
    means[0]["kl_from_base"] = 0.0  # measured once
    assert spread(means) == {"nll": 0.75, "pass_rate": 0.0}
    assert spread(means[:1]) == {}


def test_each_measurement_has_all_rows_in_other_parts():
    seen = [list(parts(range(10), number)) for number in (1, 2, 3)]
    assert [len(found) for found in seen] == [2, 3, 4]
    assert all(sorted(row for part in found for row in part) == list(range(10)) for found in seen)
    assert seen[0] != seen[1][:2]
    assert list(parts([], 1)) == []


def test_a_difference_within_the_noise_is_not_shown():
    """10 of 100 rows lost, none won."""
    first = {str(row): float(row >= 10) for row in range(100)}
    found = paired_shares(first, dict.fromkeys(first, 1.0))
    assert found is not None
    assert found.shown
    assert found.above(0.09).shown
    assert not found.above(0.11).shown


@pytest.mark.parametrize(("noise", "kept"), [(0.0, False), (0.29, False), (0.31, True)])
def test_a_round_is_not_rejected_for_less_than_the_noise(noise, kept):
    """12 of 40 pairs lost: .3."""
    candidate = replace(measured("round 2", right=()), noise={"preference_accuracy": noise})
    champion = measured("round 1", right=range(12))
    verdict = judge(PlainGate(), candidate=candidate, champion=champion)
    assert verdict.kept is kept
    assert ("noise" in verdict.checks[0].words) is (noise > 0)


def test_noise_leaves_a_margin_undecided_that_it_is_not_smaller_than():
    """100 of 1,000 lost, and none lost nor won, where .03 is allowed."""
    gate = AnchoredGate()
    lost, equal = PairedCounts(wins=0, losses=100, n=1000), PairedCounts(wins=0, losses=0, n=1000)
    assert margin_finding(gate, lost) == margin_finding(gate, lost, noise=0.09) == "failed"
    assert margin_finding(gate, lost, noise=0.11) == "inconclusive"
    assert margin_finding(gate, equal) == margin_finding(gate, equal, noise=0.01) == "passed"
    assert margin_finding(gate, equal, noise=0.029) == "inconclusive"
    assert margin_finding(gate, equal, noise=0.11) == "inconclusive"


def test_settings_without_it_are_written_as_before_it_existed():
    assert "noise_floor" not in EvaluationConfig().model_dump(mode="json")
    assert JudgedModel(label="sft").noise == {}
