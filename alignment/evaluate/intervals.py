"""Uncertainty: confidence intervals for means, and a test for two models on the same rows.

Shares of rows get Wilson's score interval: a bootstrap of twenty passes in twenty rows would give
[1, 1], as if the next row could not fail. Everything else gets the bias-corrected and accelerated
(BCa) bootstrap, which follows the skew of margins and lengths.

Rows of one cluster (one prompt) are not independent: shares are computed on as many rows as they
are worth, the bootstrap draws whole clusters, and the sign test counts clusters.
Intervals cover 95 %. Not here: a correction for making many comparisons, the bootstrap
itself (`bootstrap.py`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

from pydantic import Field

from alignment.evaluate.clusters import design_effect, summed
from alignment.records.base import Frozen
from alignment.records.evaluation import Estimate

NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.975)
SIGNIFICANCE = 0.05


class PairedDifference(Frozen):
    """How much higher the first model is than the second on the rows that both have.

    Attributes:
        difference: mean of first - second over those rows.
        wins, losses, ties: rows where the first is higher, lower, equal.
        p_value: exact two-sided sign test on wins against losses; for shares, McNemar's. Where
            several rows share a prompt, prompts are counted, by the sum of their differences.
        noise: how far the mean of one model moves when it is measured again (`noise.py`).
    """

    difference: Estimate
    wins: int
    losses: int
    ties: int
    p_value: float
    noise: float = Field(default=0.0, exclude_if=lambda noise: noise == 0)

    @property
    def shown(self) -> bool:
        """Whether test and interval both say that the models differ, by more than the noise."""
        apart = self.difference.low > 0 or self.difference.high < 0
        loud = abs(self.difference.value) > self.noise
        return apart and loud and self.p_value < SIGNIFICANCE

    def above(self, noise: float) -> "PairedDifference":
        """The same, to be shown only if it is larger than this."""
        return self.model_copy(update={"noise": noise})


def proportion(hits: int, n: int, *, effect: float = 1.0) -> Estimate:
    """The share of `hits` in `n` rows (n >= 1) with Wilson's interval (Wilson 1927).

    Args:
        hits: rows that count.
        n: all rows.
        effect: how many rows count as one independent row (`design_effect`).
    """
    share, rows = hits / n, n / effect
    shrink = 1 + Z * Z / rows
    centre = (share + Z * Z / (2 * rows)) / shrink
    half = Z / shrink * math.sqrt(share * (1 - share) / rows + Z * Z / (4 * rows * rows))
    # At 0 and n hits the bound is exactly 0 or 1; rounding must not move it inside.
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == n else centre + half
    return Estimate(value=share, low=low, high=high, n=n)


def mean(
    values: Sequence[float], *, clusters: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """The mean of at least one row with its BCa bootstrap interval."""
    return ratio(values, [1.0] * len(values), clusters=clusters, seed=seed)


def ratio(
    totals: Sequence[float],
    weights: Sequence[float],
    *,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> Estimate:
    """sum(totals) / sum(weights) over at least one row, e.g. nats and tokens of each reply.

    The ratio is recomputed for each resample of clusters, so the interval reflects that long
    replies weigh more. One row has no spread: its interval is the value itself.

    Args:
        totals: `[rows]`.
        weights: `[rows]`.
        clusters: `[rows]`, the cluster of each row; None: each row is its own. If all rows are of
            one cluster, nothing is known about others, and the rows are drawn.
        seed: seed of the bootstrap.
    """
    from alignment.evaluate.bootstrap import bca_of_ratio  # with numpy, which few commands need

    if clusters is not None and len(set(clusters)) > 1:
        totals_drawn, weights_drawn = summed(totals, clusters), summed(weights, clusters)
    else:
        totals_drawn, weights_drawn = list(totals), list(weights)
    value, low, high = bca_of_ratio(totals_drawn, weights_drawn, z=Z, seed=seed)
    return Estimate(value=value, low=low, high=high, n=len(totals))


def paired_shares(
    first: Mapping[str, float],
    second: Mapping[str, float],
    clusters: Mapping[str, str] | None = None,
) -> PairedDifference | None:
    """Difference of two shares, first - second, on their common row ids; None if there are none.

    Every row is 0 or 1. The interval follows Agresti and Min (2005): it adds half a row to each of
    the four outcomes, so that its width is positive even if the models agree on every row.

    Args:
        first: 0 or 1 by row id.
        second: the same for the other model.
        clusters: the cluster of a row by its id; a row without one is its own.
    """
    changes = _changes(first, second)
    if not changes:
        return None
    names = _clusters(changes, clusters)
    wins, losses = _split(changes.values())
    effect = design_effect(list(changes.values()), names)
    return _paired(_agresti_min(wins, losses, len(changes), effect), changes, names)


def difference_of(wins: int, losses: int, n: int) -> PairedDifference:
    """The difference of two shares on `n` rows, `wins` and `losses` of which differ."""
    return PairedDifference(
        difference=_agresti_min(wins, losses, n, 1.0),
        wins=wins,
        losses=losses,
        ties=n - wins - losses,
        p_value=sign_test(wins, losses),
    )


def paired_means(
    first: Mapping[str, float],
    second: Mapping[str, float],
    clusters: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
) -> PairedDifference | None:
    """Mean of first - second with its BCa bootstrap interval; None without common row ids."""
    changes = _changes(first, second)
    if not changes:
        return None
    names = _clusters(changes, clusters)
    return _paired(mean(list(changes.values()), clusters=names, seed=seed), changes, names)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of a split at least this uneven if both sides are equally likely.

    p = 2 * P[Binomial(wins + losses, 1/2) <= min(wins, losses)], at most 1; integers
    throughout, so it is exact at any size.
    """
    n = wins + losses
    ways = tail = 1
    for k in range(min(wins, losses)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    p: float = 2 * tail / 2**n
    return min(1.0, p)


def _changes(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {row: first[row] - second[row] for row in sorted(first.keys() & second.keys())}


def _clusters(rows: Iterable[str], clusters: Mapping[str, str] | None) -> list[str]:
    return [(clusters or {}).get(row, row) for row in rows]


def _split(changes: Iterable[float]) -> tuple[int, int]:
    """How many are positive, and how many negative."""
    found = list(changes)
    return sum(change > 0 for change in found), sum(change < 0 for change in found)


def _paired(
    difference: Estimate, changes: Mapping[str, float], clusters: Sequence[str]
) -> PairedDifference:
    wins, losses = _split(changes.values())
    return PairedDifference(
        difference=difference,
        wins=wins,
        losses=losses,
        ties=len(changes) - wins - losses,
        p_value=sign_test(*_split(summed(changes.values(), clusters))),
    )


def _agresti_min(wins: int, losses: int, n: int, effect: float) -> Estimate:
    up, down, rows = wins / effect + 0.5, losses / effect + 0.5, n / effect + 2.0
    centre = (up - down) / rows
    half = Z * math.sqrt(up + down - (up - down) ** 2 / rows) / rows
    return Estimate(
        value=(wins - losses) / n, low=max(-1.0, centre - half), high=min(1.0, centre + half), n=n
    )
