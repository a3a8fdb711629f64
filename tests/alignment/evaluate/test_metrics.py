import pytest

from alignment.errors import TrainingError
from alignment.evaluate import metrics
from tests.alignment.evaluate.rows import PAIR


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


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_number_that_is_not_finite_names_its_row_and_what_to_do(number):
    with pytest.raises(TrainingError, match=r"a KL on .*'pair-17' is .*lower its learning rate"):
        metrics.check_finite("a KL", "pair-17", number)
