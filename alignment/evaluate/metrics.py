"""The arithmetic of the metrics on one row. No model is run here.

Not here: judging a reply (`data/verifiers.py`), the metrics themselves
(`evaluators/`), the consequences of a difference (`gate.py`).
"""

import math
from functools import lru_cache
from itertools import pairwise

from alignment.errors import TrainingError
from alignment.records.evaluation import PairScore


def is_preferred(pair: PairScore) -> bool:
    """Whether the chosen reply has a higher summed log-prob than the rejected one."""
    return pair.chosen > pair.rejected


def is_preferred_per_token(pair: PairScore) -> bool:
    """The same with the mean log-prob per token, which does not favour short replies."""
    return pair.chosen / pair.chosen_tokens > pair.rejected / pair.rejected_tokens


def reward_margin(pair: PairScore) -> float:
    """Implicit reward of chosen - rejected against the base model, divided by beta, in nats.

    Rafailov et al. 2023, eq. 5: r(x, y) = beta log(pi(y|x) / pi_base(y|x)) + beta log Z(x);
    Z(x) cancels between two replies to one prompt.
    """
    return (pair.chosen - pair.base_chosen) - (pair.rejected - pair.base_rejected)


def adjacent_words(reply: str) -> list[tuple[str, str]]:
    """All pairs of adjacent words of a reply, in order."""
    return list(pairwise(reply.split()))


@lru_cache(maxsize=4096)  # a report compares each reply with those of several models
def repeated_share(reply: str, n: int = 4) -> float:
    """The share of n-grams of words that repeat an earlier one, 0 to 1 (Welleck et al. 2020).

    Seq-rep-n: 1 - distinct n-grams / n-grams. Shorter replies use the longest n that gives two.
    """
    words = reply.split()
    n = max(1, min(n, len(words) - 1))
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def check_finite(what: str, row: str, number: float) -> None:
    """Raise an error if a number is not finite; it names the row and what to do.

    Raises:
        TrainingError: the number is not finite.
    """
    if not math.isfinite(number):
        raise TrainingError(
            f"{what} on held-out pair {row!r} is {number}: the model's weights or logits are "
            "not finite. Look at the loss of the stage that made it, and lower its learning rate"
        )
