"""The noise floor: how far the numbers of one model move when it is measured again.

Rows computed in other batches are rounded differently, and a reply may change with one rounding.
Each further measurement shuffles the rows and splits them into more parts, which changes the
batches of every engine. Not here: the interval of a metric, which is about other rows.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def parts(rows: Sequence[T], measurement: int) -> Iterator[list[T]]:
    """The rows that are computed together: shuffled, in `measurement` + 1 parts.

    Args:
        rows: all rows.
        measurement: number of the further measurement, from 1; it is the seed as well.
    """
    order = random.Random(measurement).sample(rows, len(rows))
    found = (order[part :: measurement + 1] for part in range(measurement + 1))
    yield from (part for part in found if part)


def spread(measurements: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The distance between the lowest and the highest mean of each metric of the first one.

    Nothing for a metric that was measured once: that it does not move is not known.
    """
    found: dict[str, float] = {}
    for metric in measurements[0] if measurements else ():
        seen = [means[metric] for means in measurements if metric in means]
        if len(seen) > 1:
            found[metric] = max(seen) - min(seen)
    return found
