"""Locks between processes: the operating system frees them when their holder dies.

The holder writes into the lock's file who it is, so that others can say whom they wait for. What
is in the file of a lock that nobody holds means nothing.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from alignment.records.base import Frozen

if TYPE_CHECKING:
    from filelock import BaseFileLock

OnWait = Callable[[str], None]
"""Called every `TELL_SECONDS` with who holds the lock; may raise to stop waiting."""
TELL_SECONDS = 1.0


class Busy(Exception):
    """Another process holds the lock."""


def refuse_to_wait(holder: str) -> None:
    """An `OnWait` for those who have something better to do."""
    raise Busy(holder)


class Holder(Frozen):
    """Who holds a lock.

    Attributes:
        purpose: what it does meanwhile ("sft of /data/runs").
        since: when it got the lock, in ISO format.
    """

    purpose: str
    pid: int
    host: str
    since: str

    @property
    def place(self) -> str:
        """Its process, and the machine if it is another one."""
        return f"process {self.pid}" + (f" on {self.host}" if self.host != _host() else "")

    def __str__(self) -> str:
        return f"{self.purpose} ({self.place}, since {self.since})"


@contextlib.contextmanager
def hold(
    path: Path, *, purpose: str, on_wait: OnWait = lambda _: None, mode: int = -1
) -> Iterator[None]:
    """Hold a lock, a file that is made if there is none, while the block runs.

    Args:
        path: the lock's file.
        purpose: what to tell those who wait.
        on_wait: called while another process holds the lock.
        mode: permissions of a new file; -1: as the umask has them.
    """
    lock = _lock(path, mode)
    patience = 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=patience)
        except TimeoutError:
            on_wait(_holder(path))
            patience = TELL_SECONDS
    try:
        _sign(path, purpose)
        yield
    finally:
        lock.release()


def holder_of(path: Path) -> tuple[Holder | None, bool]:
    """Who holds a lock or held it last, as far as its file says, and whether it is held."""
    held = False
    if path.exists():
        try:
            with _lock(path).acquire(timeout=0):
                pass
        except TimeoutError:
            held = True
    return _signed(path), held


def _lock(path: Path, mode: int = -1) -> "BaseFileLock":
    from filelock import FileLock  # loads asyncio

    return FileLock(path, mode=mode)


def _sign(path: Path, purpose: str) -> None:
    """Write who we are; for display, so a full disk or a file of another user does not matter."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = Holder(purpose=purpose, pid=os.getpid(), host=_host(), since=since)
    with contextlib.suppress(OSError), path.open("r+", encoding="utf-8") as stream:
        stream.truncate()
        stream.write(holder.model_dump_json())


def _holder(path: Path) -> str:
    return str(_signed(path) or "another process")


def _signed(path: Path) -> Holder | None:
    try:
        return Holder.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def _host() -> str:
    return socket.gethostname()
