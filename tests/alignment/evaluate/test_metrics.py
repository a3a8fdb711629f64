import pytest

from alignment.errors import TrainingError
from alignment.evaluate import metrics
from alignment.records import Generation, PairScore

PAIR = PairScore(
    id="a",
    task_type="city",
    source="practice",
    chosen=-4.0,
    rejected=-5.0,
    base_chosen=-6.0,
    base_rejected=-4.0,
    chosen_tokens=2,
    rejected_tokens=5,
)
THREE_PAIRS = (
    PAIR,
    PAIR.model_copy(update={"id": "b", "chosen": -6.0, "chosen_tokens": 4}),
    PAIR.model_copy(update={"id": "c", "chosen": -2.0, "task_type": "email", "source": "mail"}),
)
REPLY = Generation(
    id="a",
    task_type="city",
    source="practice",
    prompt="Name a city.",
    reply="Lima",
    tokens=2,
    stopped=True,
    passed=True,
    unseen=False,
)
THREE_REPLIES = (
    REPLY,
    REPLY.model_copy(update={"id": "b", "passed": False, "tokens": 9, "stopped": False}),
    REPLY.model_copy(update={"id": "c", "passed": False, "unseen": True, "task_type": "email"}),
)


def values(found):
    return {name: estimate.value for name, estimate in found.items()}


def test_the_reward_margin_is_what_chosen_gained_over_rejected():
    """(-4 - -6) - (-5 - -4) = 2 + 1 = 3 nats."""
    assert metrics.reward_margin(PAIR) == 3.0


def test_swapping_chosen_and_rejected_negates_the_margin():
    swapped = PAIR.model_copy(
        update={"chosen": -5.0, "rejected": -4.0, "base_chosen": -4.0, "base_rejected": -6.0}
    )
    assert metrics.reward_margin(swapped) == -3.0


def test_a_long_reply_may_be_preferred_per_token_and_not_in_sum():
    """Sum: -4 against -5, chosen wins. Per token: -4/2 = -2 against -5/5 = -1, it loses."""
    assert metrics.is_preferred(PAIR)
    assert not metrics.is_preferred_per_token(PAIR)


def test_pairs_give_accuracies_margin_and_nll():
    """Sums -4, -6, -2 against -5: 2 of 3. Per token -2, -1.5, -1 against -1: 0 of 3.

    Margins 3, 1, 5: mean 3, all positive. NLL (4 + 6 + 2) / (2 + 4 + 2) = 1.5 nats per token.
    """
    found = values(metrics.summarise(THREE_PAIRS, ()).overall)
    assert found == pytest.approx(
        {
            "preference_accuracy": 2 / 3,
            "preference_accuracy_per_token": 0.0,
            "margin": 3.0,
            "reward_accuracy": 1.0,
            "nll": 1.5,
        }
    )


def test_generations_give_pass_rates_by_phrasing_length_and_stop_rate():
    """1 of 3 pass, seen 1 of 2, unseen 0 of 1; (2 + 9 + 2) / 3 tokens; 2 of 3 stop."""
    found = values(metrics.summarise((), THREE_REPLIES).overall)
    assert found == pytest.approx(
        {
            "pass_rate": 1 / 3,
            "pass_rate_seen": 0.5,
            "pass_rate_unseen": 0.0,
            "reply_tokens": 13 / 3,
            "stop_rate": 2 / 3,
        }
    )


def test_replies_that_nothing_verifies_have_no_pass_rate():
    unverified = REPLY.model_copy(update={"passed": None, "unseen": None})
    assert set(metrics.summarise((), (unverified,)).overall) == {"reply_tokens", "stop_rate"}


def test_kl_is_weighted_by_tokens_and_drift_is_by_row_and_without_sign():
    """KL (.1 * 2 + .4 * 4) / 6 = .3 over the two pairs that have one. Drift (3 + 1) / 2 = 2."""
    found = metrics.summarise(
        THREE_PAIRS, (), kl_from_base={"a": 0.1, "b": 0.4}, logprob_drift={"a": -3.0, "c": 1.0}
    ).overall
    assert found["kl_from_base"].value == pytest.approx(0.3)
    assert found["kl_from_base"].n == 2
    assert found["logprob_drift"].value == pytest.approx(2.0)


def test_the_base_model_has_a_margin_of_exactly_zero_and_no_reward_accuracy():
    base = [p.model_copy(update={"chosen": -6.0, "rejected": -4.0}) for p in THREE_PAIRS]
    found = metrics.summarise(base, ()).overall
    assert (found["margin"].low, found["margin"].value, found["margin"].high) == (0, 0, 0)
    assert "reward_accuracy" not in found


def test_every_number_exists_by_task_type_and_by_source():
    summary = metrics.summarise(THREE_PAIRS, THREE_REPLIES)
    assert list(summary.by_task_type) == ["city", "email"]
    assert list(summary.by_source) == ["mail", "practice"]
    assert summary.by_task_type["city"]["pass_rate"].value == 0.5
    assert summary.by_task_type["email"]["nll"].value == 1.0
    assert summary.by_source["practice"]["margin"].value == 2.0


def test_a_share_of_a_few_rows_keeps_an_honest_interval():
    city = metrics.summarise((), THREE_REPLIES).by_task_type["email"]["pass_rate"]
    assert (city.value, city.n) == (0.0, 1)
    assert city.high > 0.7


def test_no_rows_give_no_numbers():
    assert metrics.summarise((), ()) == ({}, {}, {})


@pytest.mark.parametrize("field", ["chosen", "rejected", "base_chosen", "base_rejected"])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_log_prob_that_is_not_finite_names_its_pair(field, number):
    broken = PAIR.model_copy(update={"id": "pair-17", field: number})
    with pytest.raises(TrainingError, match=r"'pair-17' is .*lower its learning rate"):
        metrics.summarise((PAIR, broken), ())


def test_a_kl_that_is_not_finite_names_its_pair():
    with pytest.raises(TrainingError, match="KL from the base model on held-out pair 'a' is nan"):
        metrics.summarise(THREE_PAIRS, (), kl_from_base={"a": float("nan")})


def test_rows_by_id_are_what_a_paired_test_takes():
    assert metrics.passes_by_id(THREE_REPLIES) == {"a": True, "b": False, "c": False}
    assert metrics.passes_by_id([REPLY.model_copy(update={"passed": None})]) == {}
    assert metrics.preferences_by_id(THREE_PAIRS) == {"a": True, "b": False, "c": True}
    assert metrics.margins_by_id(THREE_PAIRS) == {"a": 3.0, "b": 1.0, "c": 5.0}


def test_the_shares_are_the_metrics_whose_rows_are_zero_or_one():
    found = metrics.summarise(THREE_PAIRS, THREE_REPLIES).overall
    assert set(found) >= metrics.SHARES
    assert set(found) - metrics.SHARES == {"margin", "nll", "reply_tokens"}
