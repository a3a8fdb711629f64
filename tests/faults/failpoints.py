"""Make a failpoint fail: kill this process, raise, or report a full disk, once, at the n-th hit.

`alignment.store.durable` hits `<name>:before` and `<name>:after` for each change. Nothing happens
there unless a failpoint is armed, which only tests and their child processes do.
"""

import errno
import os
import signal
from collections.abc import Callable
from typing import Literal

from alignment.store.durable import Observer, observers

Action = Literal["kill", "raise", "full"]
"""SIGKILL, an unexpected exception, or a full disk."""


class Broken(BaseException):
    """Raised by a failpoint armed with "raise": the process dies, so no code handles it."""


def observe(observer: Observer) -> Callable[[], None]:
    """Call `observer(name)` at every failpoint, until the returned function is called."""
    observers.append(observer)

    def end() -> None:
        if observer in observers:
            observers.remove(observer)

    return end


def arm(action: Action, *, name: str | None = None, nth: int = 1) -> Callable[[], None]:
    """Fail once, the n-th time that the failpoint `name` (or any, if None) is hit.

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
