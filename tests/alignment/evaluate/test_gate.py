"""The gate on rows small enough to count."""

from dataclasses import replace

import pytest

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.gate import judge
from alignment.evaluate.judged import JudgedModel
from alignment.evaluate.settings import PlainGate
from alignment.records.evaluation import Estimate, EvalReport, Generation, PairScore

EMPTY = EvalReport(
    model="round 1", overall={}, by_task_type={}, by_source={}, generations="", pairs=""
)


def measured(label, right, *, passed=(), tokens=10.0, stops=1.0):
    """A model that has these pairs right of 40, and passes these prompts of 20."""
    overall = {
        "reply_tokens": Estimate(value=tokens, low=tokens, high=tokens, n=20),
        "stop_rate": Estimate(value=stops, low=stops, high=stops, n=20),
    }
    return JudgedModel.of(
        report=EvalReport(
            model=label,
            overall=overall,
            by_task_type={},
            by_source={},
            generations="none",
            pairs="none",
        ),
        rows=ScoredRows(
            pairs=tuple(pair(row, right=row in right) for row in range(40)),
            generations=tuple(reply(row, passed=row in passed) for row in range(20)),
        ),
    )


def pair(row, *, right):
    return PairScore(
        id=f"q{row}",
        task_type="any",
        source="any",
        chosen=-1.0 if right else -3.0,
        rejected=-2.0,
        base_chosen=-2.0,
        base_rejected=-2.0,
        chosen_tokens=4,
        rejected_tokens=4,
    )


def reply(row, *, passed):
    return Generation(
        id=f"p{row}",
        task_type="any",
        source="any",
        prompt=f"{row}?",
        reply="!",
        tokens=4,
        stopped=True,
        passed=passed,
    )


def verdict(candidate, champion, **settings):
    return judge(PlainGate(**settings), candidate=candidate, champion=champion)


def test_round_that_is_shown_to_be_worse_is_rejected_with_its_numbers():
    """Of 40 pairs 12 were lost and 1 was won: 2 * (1 + 13) / 2^13 = .0034 by McNemar's test."""
    champion = measured("round 1", right=range(12))
    found = verdict(measured("round 2", right={39}), champion)
    assert not found.kept
    assert found.sentence.startswith(
        "round 2 is rejected, round 1 stays: preference accuracy fell by 0.275 (95 % interval -0."
    )
    assert found.sentence.endswith("1 won, 12 lost of 40 rows, p = 0.003)")


def test_chance_as_good_as_ruled_out_is_not_said_to_be_zero():
    """All 12 lost: 2 / 2^12 = .0005."""
    found = verdict(measured("round 2", right=()), measured("round 1", right=range(12)))
    assert found.sentence.endswith("0 won, 12 lost of 40 rows, p < 0.001)")


def test_round_that_may_be_worse_by_chance_is_kept():
    """5 lost, none won: 2 * 1 / 2^5 = .0625."""
    found = verdict(measured("round 2", right=()), measured("round 1", right=range(5)))
    assert found.kept
    assert "0 won, 5 lost of 40 rows, p = 0.062" in found.sentence


def test_round_that_fails_more_checks_is_rejected_though_its_preferences_hold():
    """Of 20 replies 10 no longer pass: 2 / 2^10 = .002."""
    champion = measured("round 1", right=range(20), passed=range(10))
    found = verdict(measured("round 2", right=range(20)), champion)
    assert [check.name for check in found.checks if not check.passed] == ["pass rate"]


def test_round_that_is_better_is_kept():
    found = verdict(measured("round 2", right=range(30)), measured("sft", right=range(10)))
    assert found.kept
    assert found.sentence.startswith("round 2 is kept: preference accuracy rose by 0.500")


@pytest.mark.parametrize(("tokens", "kept"), [(15.0, True), (15.1, False), (5.0, True)])
def test_replies_may_grow_to_one_and_a_half_times(tokens, kept):
    found = verdict(measured("round 2", range(9), tokens=tokens), measured("round 1", range(9)))
    assert found.kept is kept


@pytest.mark.parametrize(("stops", "kept"), [(0.75, True), (0.7, False)])
def test_a_quarter_of_the_replies_may_stop_to_end_where_the_config_says_so(stops, kept):
    champion = measured("round 1", range(9))
    found = verdict(measured("round 2", range(9), stops=stops), champion, max_stop_drop=0.25)
    assert found.kept is kept
    assert f"from 1.000 to {stops:.3f} (may fall by 0.25)" in found.checks[-1].words


def test_round_that_cannot_be_compared_is_not_kept():
    found = verdict(JudgedModel(label="round 2"), measured("round 1", range(9)))
    assert found.finding == "cannot be judged"
    assert "the two models have no held-out row in common" in found.reasons


@pytest.mark.parametrize("missing", [1, 20])
def test_a_round_whose_replies_were_left_unchecked_cannot_be_judged(missing):
    rows = ScoredRows(
        pairs=tuple(pair(row, right=True) for row in range(40)),
        generations=tuple(reply(row, passed=None if row < missing else True) for row in range(20)),
    )
    champion = measured("sft", range(40), passed=range(20))
    candidate = replace(JudgedModel.of(report=EMPTY, rows=rows), stored=champion.stored)
    found = verdict(candidate, champion)
    assert (found.finding, found.kept) == ("cannot be judged", False)
    assert found.reasons == (f"pass rate: {missing} of the 20 rows of sft are missing",)


def test_a_round_without_a_metric_that_has_a_guard_cannot_be_judged():
    measured_so = measured("round 1", range(40), passed=range(20))
    lacking = replace(measured_so, stored={"reply_tokens": measured_so.stored["reply_tokens"]})
    found = verdict(lacking, measured("sft", range(40), passed=range(20)))
    assert (found.finding, found.reasons) == (
        "cannot be judged",
        ("stop rate of round 1 was not measured",),
    )
