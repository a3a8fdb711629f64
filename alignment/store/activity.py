"""What is being built in a store, as any other process can see it: locks, marks, logs."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from alignment.records.base import Frozen
from alignment.store.durable import remove
from alignment.store.locks import Holder, holder_of
from alignment.store.progress import Mark, last_mark
from alignment.store.store import Store

COMMAND = "command-"
"""How the locks of commands are called; those of steps are called by a key."""
TIDYING = "tidying"
"""The lock that is held while artifacts are removed."""
_announced: set[Path] = set()


class Activity(Frozen):
    """One step that is being built, or was when its process ended.

    Attributes:
        key: the key of its artifact.
        holder: the process that builds it, or was the last to.
        running: whether that process still builds it.
        resumable: whether a training has a checkpoint to go on from.
        mark: how far it is; None before its first sign.
        log: what its process prints.
    """

    key: str
    holder: Holder | None
    running: bool
    resumable: bool
    mark: Mark | None
    log: str


@contextlib.contextmanager
def announced(store: Store, command: str, *, make: bool = True) -> Iterator[None]:
    """Within the block, others see that a command works in the store, also between its steps.

    A step's own lock is taken by its process, which needs seconds to start. Waits while the store
    is tidied: who removes artifacts looks for announced commands after taking the same lock.

    Args:
        store: where the command works.
        command: what others see.
        make: whether to make the folder of the store if it is not there yet.
    """
    if not make and not store.root.exists():
        yield
        return
    name = f"{COMMAND}{socket.gethostname()}-{os.getpid()}"
    place = store.root / "locks" / f"{name}.lock"
    if place in _announced:  # a flow in the process of its command
        yield
        return
    with store.lock(name, purpose=command), contextlib.ExitStack() as after:
        _announced.add(place)
        after.callback(_announced.discard, place)
        after.callback(remove, "command.over", place)
        with store.lock(TIDYING, purpose=command):
            pass
        yield


def commands(store: Store) -> list[Holder]:
    """The commands that work in a store now."""
    found = map(holder_of, sorted(store.root.glob(f"locks/{COMMAND}*.lock")))
    return [holder for holder, held in found if held and holder is not None]


def activities(store: Store) -> Iterator[Activity]:
    """Every step with an unfinished workspace, by key."""
    for folder in sorted(store.root.glob("work/*")):
        holder, running = holder_of(store.root / "locks" / f"{folder.name}.lock")
        yield Activity(
            key=folder.name,
            holder=holder,
            running=running,
            resumable=store.has_checkpoint(folder.name),
            mark=last_mark(folder / "progress.jsonl"),
            log=str(store.root / "logs" / f"{folder.name}.log"),
        )
