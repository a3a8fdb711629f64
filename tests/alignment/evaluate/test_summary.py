import pytest

from alignment.errors import TrainingError
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.evaluators import EVALUATORS
from alignment.evaluate.summary import differences, summarise
from tests.alignment.evaluate.rows import PAIR, REPLY, THREE_PAIRS, THREE_REPLIES


def values(found, names):
    return {name: found[name].value for name in names}


def with_kl(*nats):
    """The three pairs with these KLs."""
    rows = zip(THREE_PAIRS, nats, strict=True)
    return [pair.model_copy(update={"kl_from_base": kl}) for pair, kl in rows]


def computed_from(need):
    """The names of the metrics that need this and nothing else."""
    return {evaluator.name for evaluator in EVALUATORS if evaluator.needs == need}


def test_pairs_give_accuracies_margin_and_nll():
    """Sums -4, -6, -2 against -5: 2 of 3. Per token -2, -1.5, -1 against -1: 0 of 3.

    Margins 3, 1, 5: mean 3, all positive. NLL (4 + 6 + 2) / (2 + 4 + 2) = 1.5 nats per token.
    """
    found = summarise(ScoredRows(pairs=THREE_PAIRS)).overall
    expected = {
        "preference_accuracy": 2 / 3,
        "preference_accuracy_per_token": 0.0,
        "margin": 3.0,
        "reward_accuracy": 1.0,
        "nll": 1.5,
    }
    assert values(found, expected) == pytest.approx(expected)
    assert set(found) == computed_from("pairs")


def test_generations_give_pass_rates_by_phrasing_length_and_stop_rate():
    """1 of 3 pass, seen 1 of 2, unseen 0 of 1; (2 + 9 + 2) / 3 tokens; 2 of 3 stop."""
    found = summarise(ScoredRows(generations=THREE_REPLIES)).overall
    expected = {
        "pass_rate": 1 / 3,
        "pass_rate_seen": 0.5,
        "pass_rate_unseen": 0.0,
        "reply_tokens": 13 / 3,
        "stop_rate": 2 / 3,
    }
    assert values(found, expected) == pytest.approx(expected)
    assert set(found) == computed_from("generations")


def test_replies_that_nothing_verifies_have_no_pass_rate():
    unverified = REPLY.model_copy(update={"passed": None, "unseen": None})
    found = set(summarise(ScoredRows(generations=(unverified,))).overall)
    assert not found & {"pass_rate", "pass_rate_seen", "pass_rate_unseen"}
    assert found >= {"reply_tokens", "stop_rate"}


def test_kl_is_weighted_by_tokens_and_drift_is_by_row_and_without_sign():
    """KL (.1 * 2 + .4 * 4) / 6 = .3 over the two pairs that have one. Drift (3 + 1) / 2 = 2."""
    found = summarise(
        ScoredRows(
            pairs=with_kl(0.1, 0.4, None),
            logprob_drift={"a": -3.0, "c": 1.0},
        )
    ).overall
    assert found["kl_from_base"].value == pytest.approx(0.3)
    assert found["kl_from_base"].n == 2
    assert found["logprob_drift"].value == pytest.approx(2.0)


def test_the_base_model_has_a_margin_of_exactly_zero_and_no_reward_accuracy():
    base = [p.model_copy(update={"chosen": -6.0, "rejected": -4.0}) for p in THREE_PAIRS]
    found = summarise(ScoredRows(pairs=base)).overall
    assert (found["margin"].low, found["margin"].value, found["margin"].high) == (0, 0, 0)
    assert "reward_accuracy" not in found


def test_every_number_exists_by_task_type_and_by_source():
    summary = summarise(ScoredRows(pairs=THREE_PAIRS, generations=THREE_REPLIES))
    assert list(summary.by_task_type) == ["city", "email"]
    assert list(summary.by_source) == ["mail", "practice"]
    assert summary.by_task_type["city"]["pass_rate"].value == 0.5
    assert summary.by_task_type["email"]["nll"].value == 1.0
    assert summary.by_source["practice"]["margin"].value == 2.0


def test_a_share_of_a_few_rows_keeps_an_honest_interval():
    city = summarise(ScoredRows(generations=THREE_REPLIES)).by_task_type["email"]["pass_rate"]
    assert (city.value, city.n) == (0.0, 1)
    assert city.high > 0.7


def test_no_rows_give_no_numbers():
    assert summarise(ScoredRows()) == ({}, {}, {}, ())
    assert differences(ScoredRows(), ScoredRows()) == ({}, {}, {})


@pytest.mark.parametrize("field", ["chosen", "rejected", "base_chosen", "base_rejected"])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_log_prob_that_is_not_finite_names_its_pair(field, number):
    broken = PAIR.model_copy(update={"id": "pair-17", field: number})
    with pytest.raises(TrainingError, match=r"'pair-17' is .*lower its learning rate"):
        summarise(ScoredRows(pairs=(PAIR, broken)))


def test_a_kl_that_is_not_finite_names_its_pair():
    with pytest.raises(TrainingError, match="KL from the base model on held-out pair 'a' is nan"):
        summarise(ScoredRows(pairs=with_kl(float("nan"), None, None)))


def test_a_model_differs_from_another_in_every_metric_in_total_and_by_group():
    """Pairs a and c under both; the other model has them the wrong way round, at -6 and -6.

    Accuracy 1 against 0. NLL (4 + 2) / 4 = 1.5 against 12 / 4 = 3. City is a, email c.
    """
    own = ScoredRows(pairs=(THREE_PAIRS[0], THREE_PAIRS[2]), generations=THREE_REPLIES)
    other = ScoredRows(pairs=[p.model_copy(update={"chosen": -6.0}) for p in THREE_PAIRS])
    found = differences(own, other)
    assert found.overall["preference_accuracy"].value == 1.0
    assert found.overall["nll"].value == pytest.approx(-1.5)
    assert found.by_task_type["city"]["nll"].value == pytest.approx(2 - 3)
    assert found.by_source["mail"]["nll"].value == pytest.approx(1 - 3)
    assert {estimate.n for estimate in found.overall.values()} == {2}
    assert "pass_rate" not in found.overall


def test_a_model_does_not_differ_from_itself():
    rows = ScoredRows(pairs=with_kl(0.1, 0.2, 0.3), generations=THREE_REPLIES)
    found = differences(rows, rows).overall
    assert set(found) == set(summarise(rows).overall)
    assert all(estimate.low <= estimate.value == 0 <= estimate.high for estimate in found.values())


def test_four_copies_of_every_prompts_row_say_no_more_than_one():
    """Each interval is that of a quarter of the rows; up to its bootstrap, which draws others."""
    rows = [
        PAIR.model_copy(update={"id": f"{n}", "prompt": f"p{n}", "chosen": -4.0 - n % 5 / 2})
        for n in range(60)
    ]
    copies = [p.model_copy(update={"id": f"{p.id}-{i}"}) for p in rows for i in range(4)]
    once, four = (summarise(ScoredRows(pairs=pairs)).overall for pairs in (rows, copies))
    for name in ("preference_accuracy", "length_controlled_accuracy", "margin", "nll"):
        width = once[name].high - once[name].low
        assert four[name].n == 4 * once[name].n
        assert four[name].high - four[name].low == pytest.approx(width, rel=0.05), name
