"""Several requests at a time: most of the time of each is waiting."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

WORKERS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `act` returns for each item, in their order; the first error ends it."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(act, items))
