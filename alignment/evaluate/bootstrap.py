"""The bias-corrected and accelerated (BCa) bootstrap of a ratio of sums over rows."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NORMAL = NormalDist()
RESAMPLES = 4000
_PICKS_AT_ONCE = 1_000_000
"""Row indices drawn at a time (8 MB), so that memory does not grow with the number of rows."""


def bca_of_ratio(
    totals: Sequence[float], weights: Sequence[float], *, z: float, seed: int
) -> tuple[float, float, float]:
    """sum(totals) / sum(weights) over at least one row, and the ends of its interval.

    Args:
        totals: numerator of each row.
        weights: denominator of each row.
        z: half the width of the interval, in standard deviations of a normal variable.
        seed: seed of the resampling.
    """
    numerators = np.asarray(totals, dtype=np.float64)
    denominators = np.asarray(weights, dtype=np.float64)
    value = float(numerators.sum() / denominators.sum())
    if len(numerators) == 1:
        return value, value, value
    return value, *_bca(numerators, denominators, value=value, z=z, seed=seed)


def _bca(
    totals: Floats, weights: Floats, *, value: float, z: float, seed: int
) -> tuple[float, float]:
    """BCa bounds of a ratio of sums over rows (Efron 1987, eq. 2.3, 6.6): two arrays `[rows]`."""
    resampled = _resampled_ratios(totals, weights, seed=seed)
    below = float(np.mean(resampled < value) + np.mean(resampled == value) / 2)
    edge = 1 / (2 * RESAMPLES)
    bias = NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    without_one = (totals.sum() - totals) / (weights.sum() - weights)
    deviations = without_one.mean() - without_one
    spread = float((deviations**2).sum()) ** 1.5
    acceleration = float((deviations**3).sum()) / (6 * spread) if spread else 0.0

    def share(at: float) -> float:
        return NORMAL.cdf(bias + (bias + at) / (1 - acceleration * (bias + at)))

    low, high = np.quantile(resampled, [share(-z), share(z)])
    return float(low), float(high)


def _resampled_ratios(totals: Floats, weights: Floats, *, seed: int) -> Floats:
    """`[RESAMPLES]` ratios, each over a resample of all rows with replacement."""
    rows = len(totals)
    generator = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    step = max(1, _PICKS_AT_ONCE // rows)
    for start in range(0, RESAMPLES, step):
        block = ratios[start : start + step]
        picks = generator.integers(rows, size=(len(block), rows))
        block[:] = totals[picks].sum(axis=1) / weights[picks].sum(axis=1)
    return ratios
