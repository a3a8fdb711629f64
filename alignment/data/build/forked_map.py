"""Applies a function to items in forked processes, which is as if one process had done it.

Forked, because the function holds a tokenizer and filters that cannot be pickled, and importing
their libraries takes seconds. Not here: what the function does.
"""

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from alignment.errors import Interrupted
from alignment.processes import die_with, may_fork

T = TypeVar("T")
U = TypeVar("U")

MOST = 8
"""Processes at most: beyond, the process that reads and writes rows has no time for more."""
AHEAD = 2
"""Items that wait for each process."""


class ForkedMap(Generic[T, U]):
    """Maps items in order; a context that ends its processes.

    There is a process for each core that this one may use, or none where it must not fork.

    Args:
        function: what to apply; it changes nothing outside.
        worth_it: whether there is enough to do for several processes.
    """

    def __init__(self, function: Callable[[T], U], *, worth_it: bool) -> None:
        self._function = function
        self._count = min(MOST, _cores()) if worth_it and may_fork() else 1
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        gc.freeze()  # a collection then looks at the items only, and copies no shared page
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        gc.unfreeze()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, items: Iterable[T]) -> Iterator[U]:
        """The function of each item, in the order of the items.

        Raises:
            Interrupted: a process was killed.
        """
        if self._count == 1:
            yield from map(self._function, items)
            return
        self._pool = self._pool or _started(self._function, self._count)
        try:
            yield from _in_order(self._pool, items, self._count * AHEAD)
        except BrokenProcessPool as error:
            raise Interrupted(
                "a process that prepares rows was killed, perhaps because memory was short. Run "
                "the same command again: what is done is kept. With fewer cores (`taskset`) it "
                "needs less memory."
            ) from error


def _cores() -> int:
    """Cores that this process may use; 1 where forking is unreliable."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _in_order(pool: ProcessPoolExecutor, items: Iterable[Any], ahead: int) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(_call, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _started(function: Callable[[Any], Any], count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        count, multiprocessing.get_context("fork"), _begin, (function, os.getpid())
    )


# --- in the processes ----------------------------------------------------------------------------

_function: Callable[[Any], Any]


def _begin(function: Callable[[Any], Any], parent: int) -> None:
    """Take the function; end with the parent, and leave Ctrl-C and SIGTERM to it."""
    global _function
    _function = function
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _call(item: Any) -> Any:
    return _function(item)
