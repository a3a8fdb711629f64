"""Accuracy with the influence of reply length taken out, by a logistic regression.

AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475) models who wins by quality and length, and
predicts with the length set to zero. Here, for pair i with reply lengths in tokens:

    P(right_i) = sigmoid(a + b * tanh(d_i / sd(d))),    d_i = chosen - rejected tokens

and the accuracy is sigmoid(a), that of pairs of equal length. Their term for the difficulty of a
prompt is left out, since each pair is judged once. Half a right and half a wrong pair of equal
length are added, and b has a normal prior with a standard deviation of 10, so that there is an
answer if all pairs are right. Not here: the metric (`evaluators/preference.py`).
"""

import math
from collections.abc import Sequence
from statistics import pstdev
from typing import NamedTuple

from alignment.evaluate.clusters import summed
from alignment.evaluate.intervals import Z
from alignment.records.evaluation import Estimate

_PRIOR = 1 / 10**2
_STEPS, _CLOSE = 50, 1e-10


class LengthControlled(NamedTuple):
    """A fitted regression.

    Attributes:
        logit: a.
        slope: b.
        variance: of `logit` if all rows were independent.
        influence: `[rows]`, what each row adds to `logit`.
    """

    logit: float
    slope: float
    variance: float
    influence: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """The accuracy of pairs of equal length."""
        return _sigmoid(self.logit)

    def accuracy_influence(self) -> list[float]:
        """`[rows]`, what each row adds to the accuracy, to first order."""
        slope = self.accuracy * (1 - self.accuracy)
        return [slope * number for number in self.influence]

    def estimate(self, clusters: Sequence[str]) -> Estimate:
        """The accuracy with its interval, normal on the logit scale.

        The variance is that between clusters (the sandwich), and not less than the model's own:
        few rows that are all right would seem to be certain.
        """
        between = sum(total**2 for total in summed(self.influence, clusters))
        half = Z * max(between, self.variance) ** 0.5
        low, high = _sigmoid(self.logit - half), _sigmoid(self.logit + half)
        return Estimate(value=self.accuracy, low=low, high=high, n=len(clusters))


def fit(right: Sequence[bool], longer_by: Sequence[float]) -> LengthControlled:
    """Fit the regression by Newton's method.

    Args:
        right: `[rows]`, whether the model prefers the chosen reply.
        longer_by: `[rows]`, tokens of the chosen reply minus those of the rejected one.
    """
    scale = pstdev(longer_by) or 1.0
    lengths = [*(math.tanh(length / scale) for length in longer_by), 0.0]
    outcomes = [*map(float, right), 0.5]  # the last row is two halves
    logit = slope = 0.0
    for _ in range(_STEPS):
        odds = [_sigmoid(logit + slope * length) for length in lengths]
        inverse = _inverse_curvature(odds, lengths)
        missing = [outcome - chance for outcome, chance in zip(outcomes, odds, strict=True)]
        up = math.fsum(missing)
        across = (
            math.fsum(rest * length for rest, length in zip(missing, lengths, strict=True))
            - _PRIOR * slope
        )
        steps = (
            inverse[0] * up + inverse[1] * across,
            inverse[1] * up + inverse[2] * across,
        )
        logit, slope = logit + steps[0], slope + steps[1]
        if max(map(abs, steps)) < _CLOSE:
            break
    influence = [
        rest * (inverse[0] + inverse[1] * length)
        for rest, length in zip(missing, lengths, strict=True)
    ]
    return LengthControlled(logit, slope, inverse[0], tuple(influence[:-1]))


def _inverse_curvature(odds: Sequence[float], lengths: Sequence[float]) -> tuple[float, ...]:
    """The inverse of the symmetric 2 x 2 second derivative: both variances and the covariance."""
    weights = [chance * (1 - chance) for chance in odds]
    both = math.fsum(weights)
    mixed = math.fsum(w * length for w, length in zip(weights, lengths, strict=True))
    own = math.fsum(w * length**2 for w, length in zip(weights, lengths, strict=True)) + _PRIOR
    determinant = both * own - mixed**2
    return own / determinant, -mixed / determinant, both / determinant


def difference(
    first: LengthControlled, second: LengthControlled, clusters: Sequence[str]
) -> Estimate:
    """First accuracy minus second on the same rows, with a normal interval.

    As for other shares (Agresti and Min 2005), one row is taken to differ if none does.
    """
    value = first.accuracy - second.accuracy
    both = zip(first.accuracy_influence(), second.accuracy_influence(), strict=True)
    changes = [own - other for own, other in both]
    rows = len(clusters)
    variance = sum(total**2 for total in summed(changes, clusters)) + 1 / (rows + 2) ** 2
    half = Z * variance**0.5
    return Estimate(value=value, low=max(-1.0, value - half), high=min(1.0, value + half), n=rows)


def _sigmoid(logit: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * logit))
