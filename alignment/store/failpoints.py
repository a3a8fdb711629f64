"""Named points around every durable effect, at which a test can have the process die or fail.

`alignment.store.durable` passes `<name>:before` and `<name>:after` of each effect it makes. Nothing
happens there unless this process was armed, and nothing in the product arms one: a test does,
or a child that a test has started (`tests/faults`).
"""

import errno
import os
import signal
from collections.abc import Callable
from typing import Literal

Action = Literal["kill", "raise", "full"]
"""SIGKILL, an exception that nobody expects, or a full disk."""
Observer = Callable[[str], None]


class Broken(Exception):
    """The exception of an armed failpoint."""


_observers: list[Observer] = []


def hit(name: str) -> None:
    """Pass a point."""
    for observer in tuple(_observers):
        observer(name)


def observe(observer: Observer) -> Callable[[], None]:
    """Have `observer(name)` called at every point, until the result is called."""
    _observers.append(observer)

    def end() -> None:
        if observer in _observers:
            _observers.remove(observer)

    return end


def arm(action: Action, *, name: str | None = None, nth: int = 1) -> Callable[[], None]:
    """Fail once, the n-th time that the point `name`, or any point, is passed.

    The result disarms it.
    """
    left = nth

    def count(passed: str) -> None:
        nonlocal left
        if name in (None, passed):
            left -= 1
            if left == 0:
                _fail(action, passed)

    return observe(count)


def _fail(action: Action, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    raise Broken(name)
