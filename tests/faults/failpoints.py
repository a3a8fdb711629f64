"""Fail at a failpoint: have this process die, raise or find the disk full, once, at the n-th pass.

`alignment.store.durable` passes `<name>:before` and `<name>:after` around each of its effects.
Nothing in the product adds an observer; a test does, or a child that a test has started.
"""

import errno
import os
import signal
from collections.abc import Callable
from typing import Literal

from alignment.store.durable import Observer, observers

Action = Literal["kill", "raise", "full"]
"""SIGKILL, an exception that nobody expects, or a full disk."""


class Broken(Exception):
    """The exception of an armed failpoint."""


def observe(observer: Observer) -> Callable[[], None]:
    """Call `observer(name)` at every failpoint, until the result is called."""
    observers.append(observer)

    def end() -> None:
        if observer in observers:
            observers.remove(observer)

    return end


def arm(action: Action, *, name: str | None = None, nth: int = 1) -> Callable[[], None]:
    """Fail once, the n-th time that the failpoint `name`, or any failpoint, is passed.

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
