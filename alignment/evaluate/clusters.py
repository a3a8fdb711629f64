"""Rows that share a prompt: they are not independent, so they count for less than their number.

Not here: intervals (`intervals.py`) and tests (`noninferiority.py`), which use both functions.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence


def summed(values: Iterable[float], clusters: Iterable[str]) -> list[float]:
    """The sum of the values of each cluster, in the order of their first rows."""
    sums: dict[str, float] = defaultdict(float)
    for value, name in zip(values, clusters, strict=True):
        sums[name] += value
    return list(sums.values())


def design_effect(values: Sequence[float], clusters: Sequence[str]) -> float:
    """How many rows count as one independent row: at least 1 (Rao and Scott 1992).

    The variance of the mean between clusters over that of independent rows. Rows that are all
    equal count as many times as there are clusters.
    """
    mean = math.fsum(values) / len(values)
    deviations = [value - mean for value in values]
    sums = summed(deviations, clusters)
    spread = math.fsum(deviation**2 for deviation in deviations)
    if len(sums) == len(values) or spread == 0:
        return len(values) / len(sums)
    return max(1.0, math.fsum(total**2 for total in sums) / spread)
