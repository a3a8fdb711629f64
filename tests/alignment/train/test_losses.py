import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from alignment.scoring.pairs import PairLogProbs
from alignment.train.callbacks import loss_at_start
from alignment.train.losses import (
    ApoZero,
    Hinge,
    Ipo,
    Loss,
    Robust,
    Sigmoid,
    SigmoidNorm,
    SimPo,
    SppoHard,
)

OF_MARGIN = [Sigmoid(beta=0.1), Sigmoid(beta=2.0), Ipo(beta=0.5), Hinge(), Robust(), SigmoidNorm()]
WITH_REFERENCE = [*OF_MARGIN, ApoZero(), SppoHard(beta=0.5)]
LOSSES = [*WITH_REFERENCE, SimPo()]


def logprobs(chosen, rejected, chosen_tokens=1, rejected_tokens=1):
    """Log-probs of replies of this many tokens; with one token, sum and mean are the same."""
    sums = torch.as_tensor(chosen), torch.as_tensor(rejected)
    lengths = (chosen_tokens, rejected_tokens)
    return PairLogProbs(*sums, *(torch.full((len(sums[0]),), n) for n in lengths))


SAME = logprobs([-3.0, -20.0], [-5.0, -1.0])


def test_loss_is_log_two_when_policy_equals_reference():
    """The margin is 0, and -log sigmoid(0) = -log(1/2) = log 2."""
    assert Sigmoid()(SAME, SAME).tolist() == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Sigmoid(beta=2.0), math.log(2)),
        (Ipo(beta=0.1), 1 / (4 * 0.1**2)),
        (Hinge(), 1.0),
        (Robust(label_smoothing=0.2), math.log(2)),  # (0.8 - 0.2) / (1 - 0.4) = 1
        (SigmoidNorm(), math.log(2)),
        (ApoZero(), 1.0),  # 1 - 1/2 + 1/2
        (SppoHard(beta=0.5), 2.0),  # two squares of 0.5 / 0.5 = 1
    ],
    ids=repr,
)
def test_the_loss_at_the_start_is_that_of_equal_models(loss, expected):
    assert loss(SAME, SAME).tolist() == pytest.approx([expected] * 2)
    assert loss_at_start(loss) == pytest.approx(expected)


def test_the_sigmoid_loss_of_three_numbers():
    """Policy prefers chosen by -2 - -5 = 3 nats, the reference by -4 - -5 = 1: margin 2.

    beta 0.5: -log sigmoid(0.5 * 2) = log(1 + e^-1) = 0.313262.
    """
    found = Sigmoid(beta=0.5)(logprobs([-2.0], [-5.0]), logprobs([-4.0], [-5.0]))
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert found.item() == pytest.approx(0.313262, abs=1e-6)


def test_the_ipo_loss_of_three_numbers():
    """The same margin of 2; with beta 0.5 the target is 1 / (2 * 0.5) = 1: (2 - 1)^2 = 1."""
    found = Ipo(beta=0.5)(logprobs([-2.0], [-5.0]), logprobs([-4.0], [-5.0]))
    assert found.item() == pytest.approx(1.0)


def test_ipo_is_zero_exactly_at_its_margin():
    """With beta 0.1 the target is 1 / (2 * 0.1) = 5 nats."""
    assert Ipo(beta=0.1)(logprobs([-1.0], [-6.0]), logprobs([-3.0], [-3.0])).item() == 0.0


def test_swapping_chosen_and_rejected_negates_the_margin():
    """loss(-m) - loss(m) = log(1 + e^bm) - log(1 + e^-bm) = beta * m, here 0.5 * 2 = 1."""
    policy, reference = logprobs([-2.0], [-5.0]), logprobs([-4.0], [-5.0])
    swapped = [logprobs(p.rejected, p.chosen) for p in (policy, reference)]
    assert swapped[0].ratio.item() == -policy.ratio.item() == -3.0
    loss = Sigmoid(beta=0.5)
    assert (loss(*swapped) - loss(policy, reference)).item() == pytest.approx(1.0)


def test_the_sigmoid_loss_falls_as_the_margin_grows():
    margins = [-100.0, -3.0, 0.0, 0.5, 100.0]
    zero = logprobs([0.0] * 5, [0.0] * 5)
    losses = Sigmoid()(logprobs(margins, [0.0] * 5), zero).tolist()
    assert losses == sorted(losses, reverse=True)


def test_a_larger_beta_punishes_a_wrong_order_more():
    wrong, zero = logprobs([-3.0], [0.0]), logprobs([0.0], [0.0])
    assert Sigmoid(beta=1.0)(wrong, zero) > Sigmoid(beta=0.1)(wrong, zero) > math.log(2)


def test_a_common_shift_of_both_replies_changes_nothing():
    shifted = logprobs(SAME.chosen + 7, SAME.rejected + 7)
    for loss in OF_MARGIN:
        torch.testing.assert_close(loss(shifted, SAME), loss(SAME, SAME))


def test_the_gradient_raises_chosen_and_lowers_rejected_alike():
    """d/dm -log sigmoid(b m) = -b sigmoid(-b m); at m = 0 that is -b / 2 = -0.05."""
    chosen, rejected = (torch.tensor([-4.0], requires_grad=True) for _ in range(2))
    reference = logprobs([-4.0], [-4.0])
    Sigmoid(beta=0.1)(logprobs(chosen, rejected), reference).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.05)
    assert rejected.grad.item() == pytest.approx(+0.05)


def test_a_margin_of_a_thousand_nats_overflows_nowhere():
    """-log sigmoid(-100) = 100 to fp32, as log-sum-exp gives it and exp alone would not."""
    far, zero = logprobs([-1000.0], [0.0]), logprobs([0.0], [0.0])
    assert Sigmoid(beta=0.1)(far, zero).item() == pytest.approx(100.0)


# Policy and reference of one pair: log-ratios +2 (chosen, 4 tokens) and -1 (rejected, 2 tokens).
POLICY, REFERENCE = logprobs([-2.0], [-5.0], 4, 2), logprobs([-4.0], [-4.0], 4, 2)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Sigmoid(beta=0.5), -math.log(sigmoid(0.5 * 3))),
        (Ipo(beta=0.5), (2 / 4 + 1 / 2 - 1) ** 2),
        (Hinge(beta=0.25), 1 - 0.25 * 3),
        (Hinge(beta=0.5), 0.0),  # beyond the margin
        (
            Robust(beta=0.5, label_smoothing=0.2),
            (-0.8 * math.log(sigmoid(1.5)) + 0.2 * math.log(sigmoid(-1.5))) / 0.6,
        ),
        (SigmoidNorm(beta=2.0), -math.log(sigmoid(2 * (2 / 4 + 1 / 2)))),
        (SimPo(beta=2.0, gamma=0.5), -math.log(sigmoid(2 * (-2 / 4 + 5 / 2) - 0.5))),
        (ApoZero(beta=0.5), 1 - sigmoid(0.5 * 2) + sigmoid(0.5 * -1)),
        (SppoHard(beta=0.5), (2 - 1) ** 2 + (-1 + 1) ** 2),
    ],
    ids=repr,
)
def test_each_loss_of_one_pair_equals_the_value_worked_out_by_hand(loss, expected):
    assert loss(POLICY, REFERENCE).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_chosen_reply_that_becomes_likelier_never_costs_more(loss):
    """Not so for losses with a target (IPO, SPPO) beyond it, so below it: from -4 to -3.9."""
    likelier = logprobs([-3.9], [-5.0], 4, 2)
    before = logprobs([-4.0], [-5.0], 4, 2)
    assert loss(likelier, REFERENCE) <= loss(before, REFERENCE)


def test_simpo_takes_no_reference():
    assert SimPo()(POLICY, REFERENCE) == SimPo()(POLICY, POLICY)
    assert [loss.uses_reference for loss in LOSSES].count(False) == 1


@pytest.mark.parametrize("loss", WITH_REFERENCE, ids=repr)
def test_the_trainer_library_gets_the_same_loss_under_its_own_names(loss):
    from trl.trainer.dpo_config import DPOConfig

    arguments = DPOConfig(output_dir="unused", use_cpu=True, bf16=False, **loss.trl_arguments())
    assert arguments.loss_type == [loss.name]
    assert arguments.beta == loss.beta


def test_a_field_of_another_loss_is_refused():
    with pytest.raises(ValidationError, match="gamma"):
        TypeAdapter(Loss).validate_python({"name": "sigmoid", "gamma": 1.0})


def test_a_loss_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="'sigmoid', 'ipo'"):
        TypeAdapter(Loss).validate_python({"name": "orpo"})
