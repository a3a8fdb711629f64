"""Whether margins that are twice as large are right more often: confidences, bins and their error.

A margin becomes a confidence by one scale for all pairs, sigmoid(scale * |margin|), fitted to the
same pairs (temperature scaling, Guo et al. 2017). So losses with another beta, or none, are read
alike, and what is measured is the shape. Bins hold equally many pairs (Nixon et al. 2019).
Not here: the metric (`evaluators/preference.py`).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.evaluate import intervals
from alignment.evaluate.clusters import design_effect
from alignment.evaluate.metrics import reward_margin
from alignment.records.evaluation import PairScore, ReliabilityBin

MOST_BINS = 10
ROWS_PER_BIN = 10
_HALVINGS = 60


class Confident(NamedTuple):
    """A pair, the model's confidence in the reply it prefers (.5 to 1), and whether it is right."""

    pair: PairScore
    confidence: float
    right: bool


def confidences(pairs: Sequence[PairScore]) -> list[Confident]:
    """All pairs, least confident first; none if the model prefers nothing (the base model)."""
    margins = [reward_margin(pair) for pair in pairs]
    if not any(margins):
        return []
    scale = fitted_scale(margins)
    found = [
        Confident(pair, _sigmoid(scale * abs(margin)), margin > 0)
        for pair, margin in zip(pairs, margins, strict=True)
    ]
    return sorted(found, key=lambda row: (row.confidence, row.pair.id))


def fitted_scale(margins: Sequence[float]) -> float:
    """The scale >= 0 that maximises the sum of log sigmoid(scale * margin), by bisection.

    The derivative falls with the scale. It is capped where all pairs are right, and 0 where
    margins are wrong as often as right.
    """
    low, high = 0.0, 100 / max(abs(margin) for margin in margins)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rises = math.fsum(margin * _sigmoid(-middle * margin) for margin in margins) > 0
        low, high = (middle, high) if rises else (low, middle)
    return low


def bins(rows: Sequence[Confident]) -> Iterator[Sequence[Confident]]:
    """Up to ten groups of equal size, at least ten rows in each, in the order of the rows."""
    count = min(MOST_BINS, max(1, len(rows) // ROWS_PER_BIN))
    for i in range(count):
        yield rows[i * len(rows) // count : (i + 1) * len(rows) // count]


def gap(rows: Sequence[Confident]) -> float:
    """The share of rows that is right minus their mean confidence."""
    return math.fsum(row.right - row.confidence for row in rows) / len(rows)


def reliability(pairs: Sequence[PairScore]) -> tuple[ReliabilityBin, ...]:
    """The bins of a reliability diagram (DeGroot and Fienberg 1983)."""
    rows = confidences(pairs)
    return tuple(_bin(part) for part in bins(rows)) if rows else ()


def _bin(rows: Sequence[Confident]) -> ReliabilityBin:
    right = [float(row.right) for row in rows]
    effect = design_effect(right, [row.pair.prompt or row.pair.id for row in rows])
    return ReliabilityBin(
        confidence=math.fsum(row.confidence for row in rows) / len(rows),
        right=intervals.proportion(round(sum(right)), len(right), effect=effect),
    )


def _sigmoid(number: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * number))
