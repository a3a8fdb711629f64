"""Failpoints: named points around every durable change, where tests can kill or fail the process.

`alignment.store.durable` hits `<name>:before` and `<name>:after` for each change. Nothing happens
there unless a failpoint is armed, which only tests and their child processes do (`tests/faults`).
"""

import errno
import os
import signal
from collections.abc import Callable
from typing import Literal

Action = Literal["kill", "raise", "full"]
"""SIGKILL, an unexpected exception, or a full disk."""
Observer = Callable[[str], None]


class Broken(Exception):
    """Raised by a failpoint armed with "raise"."""


_observers: list[Observer] = []


def hit(name: str) -> None:
    """Report to all observers that a point was reached."""
    for observer in tuple(_observers):
        observer(name)


def observe(observer: Observer) -> Callable[[], None]:
    """Call `observer(name)` at every point, until the returned function is called."""
    _observers.append(observer)

    def end() -> None:
        if observer in _observers:
            _observers.remove(observer)

    return end


def arm(action: Action, *, name: str | None = None, nth: int = 1) -> Callable[[], None]:
    """Fail once, the n-th time that the point `name` (or any point, if None) is hit.

    The returned function disarms it.
    """
    remaining = nth

    def count(point: str) -> None:
        nonlocal remaining
        if name in (None, point):
            remaining -= 1
            if remaining == 0:
                _fail(action, point)

    return observe(count)


def _fail(action: Action, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    raise Broken(name)
