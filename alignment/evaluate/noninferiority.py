"""Non-inferiority of two models on the same rows, by a score test on paired shares.

With `wins` rows where only the first model is right, `losses` where only the second is, and `n`
rows in all, the difference of the shares is (wins - losses) / n. The test of "the difference is
-margin" uses the variance under that hypothesis (Tango 1998), so it stays valid where the models
agree on nearly every row: no loss in 20 rows shows nothing.
Not here: intervals for tables (`intervals.py`), what follows from a test (`anchored.py`).
"""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

from alignment.evaluate.clusters import design_effect

NORMAL = NormalDist()


class PairedCounts(NamedTuple):
    """Rows that only the first model has right, only the second, and all; may be fractions."""

    wins: float
    losses: float
    n: float

    @property
    def difference(self) -> float:
        """First share minus second."""
        return (self.wins - self.losses) / self.n


def paired_counts(
    first: Mapping[str, float], second: Mapping[str, float], cluster: Mapping[str, str]
) -> PairedCounts | None:
    """Counts of the common rows, as independent rows would give them; None without a common row.

    Rows of one cluster (one prompt) are not independent. The counts are divided by the design
    effect: the variance of the mean between clusters over the variance of independent rows,
    at least 1 (Rao and Scott 1992).

    Args:
        first: 0 or 1 by row id; a score between them counts as that part of a row.
        second: the same for the other model.
        cluster: the cluster of a row by its id; a row without one is its own.
    """
    ids = sorted(first.keys() & second.keys())
    if not ids:
        return None
    changes = [first[row] - second[row] for row in ids]
    effect = design_effect(changes, [cluster.get(row, row) for row in ids])
    wins = math.fsum(change for change in changes if change > 0)
    losses = -math.fsum(change for change in changes if change < 0)
    return PairedCounts(wins / effect, losses / effect, len(ids) / effect)


def score(counts: PairedCounts, margin: float) -> float:
    """Standard normal score of the difference against -margin (Tango 1998, eq. 3 to 5).

    Args:
        counts: at least one row.
        margin: in (-1, 1); positive: the first model may be that much worse.

    Returns:
        Positive where the difference is above -margin.
    """
    wins, losses, n = counts
    shift = -margin
    linear = (wins + losses) * (1 - shift) - 2 * losses * shift - 2 * (n - wins - losses) * shift
    constant = losses * shift * (1 - shift)
    lost = (linear + math.sqrt(max(linear**2 + 8 * n * constant, 0.0))) / (4 * n)
    lost = max(lost, -shift, 0.0)
    variance = n * (2 * lost + shift - shift**2)
    distance = wins - losses - n * shift
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def is_shown_above(counts: PairedCounts, margin: float, level: float) -> bool:
    """Whether the difference is shown to be above -margin, with a one-sided error of `level`."""
    return score(counts, margin) >= NORMAL.inv_cdf(1 - level)


def is_shown_below(counts: PairedCounts, margin: float, level: float) -> bool:
    """Whether the difference is shown to be below -margin, with a one-sided error of `level`."""
    return score(counts, margin) <= NORMAL.inv_cdf(level)


def lower_bound(counts: PairedCounts, level: float) -> float:
    """The lowest difference that the test does not reject, -1 to 1; to 4 decimals."""
    low, high = -1.0, counts.difference
    while high - low > 5e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if is_shown_above(counts, -middle, level) else (low, middle)
    return low


def rows_needed(margin: float, level: float, *, discordant: float, power: float) -> int:
    """Rows for which a model that is as good as the other passes with a chance of `power`.

    Args:
        margin: the margin of non-inferiority.
        level: one-sided error of the test.
        discordant: the share of rows on which only one of the two models is right.
        power: the chance to pass.
    """
    z = NORMAL.inv_cdf(1 - level) + NORMAL.inv_cdf(power)
    return math.ceil(z**2 * discordant / margin**2)


def margin_shown(rows: int, level: float, *, discordant: float, power: float) -> float:
    """The margin that this many rows allow: `rows_needed` the other way round."""
    z = NORMAL.inv_cdf(1 - level) + NORMAL.inv_cdf(power)
    return z * math.sqrt(discordant / rows)
