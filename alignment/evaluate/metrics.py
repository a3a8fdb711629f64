"""The arithmetic of the metrics on one row. No model is run here.

Not here: what a reply is worth (verifiers), the metrics themselves (`evaluators.py`) and what a
difference leads to (the gate).
"""

import math

from alignment.errors import TrainingError
from alignment.records import PairScore


def is_preferred(pair: PairScore) -> bool:
    """Whether the model gives the chosen reply more summed log-prob than the rejected one."""
    return pair.chosen > pair.rejected


def is_preferred_per_token(pair: PairScore) -> bool:
    """The same on the mean log-prob of a token, which a short reply does not win by length."""
    return pair.chosen / pair.chosen_tokens > pair.rejected / pair.rejected_tokens


def reward_margin(pair: PairScore) -> float:
    """Implicit reward of chosen - rejected against the base model, over beta, in nats.

    Rafailov et al. 2023, eq. 5: r(x, y) = beta log(pi(y|x) / pi_base(y|x)) + beta log Z(x);
    Z(x) cancels between two replies to one prompt.
    """
    return (pair.chosen - pair.base_chosen) - (pair.rejected - pair.base_rejected)


def check_finite(what: str, row: str, number: float) -> None:
    """Refuse a number that is not finite; it names the row and what to do.

    Raises:
        TrainingError: it is not finite.
    """
    if not math.isfinite(number):
        raise TrainingError(
            f"{what} on held-out pair {row!r} is {number}: the model's weights or logits are "
            "not finite. Look at the loss of the stage that made it, and lower its learning rate"
        )
