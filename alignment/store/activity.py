"""What is being built in a store, as any other process can see it: locks, marks, logs."""

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from alignment.records.base import Frozen
from alignment.store.durable import remove, replace
from alignment.store.locks import Holder, holder_of
from alignment.store.progress import PACE_MARKS, Mark, Pace, marks
from alignment.store.store import Store

COMMAND = "command-"
"""How the locks of commands are called; those of steps are called by a key."""
STEPS = ".steps"
"""Suffix of what a command has still to do, beside its lock."""
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
        left: seconds that this phase still takes, at the pace of the last marks; None if not known.
        tokens_per_second: of a training, over the same marks.
        log: what its process prints.
    """

    key: str
    holder: Holder | None
    running: bool
    resumable: bool
    mark: Mark | None
    log: str
    left: float | None = None
    tokens_per_second: float | None = None


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
        after.callback(remove, "command.no_steps", place.with_suffix(STEPS))
        with store.lock(TIDYING, purpose=command):
            pass
        yield


def commands(store: Store) -> list[Holder]:
    """The commands that work in a store now."""
    found = map(holder_of, sorted(store.root.glob(f"locks/{COMMAND}*.lock")))
    return [holder for holder, held in found if held and holder is not None]


def note_steps(store: Store, steps: Iterable[Frozen]) -> None:
    """Say what the command that this process announced has still to do, the next step first.

    For display, so a full disk does not matter.
    """
    text = "".join(f"{step.model_dump_json()}\n" for step in steps)
    for place in _announced:
        if place.parent == store.root / "locks":
            with contextlib.suppress(OSError):
                replace("command.steps", place.with_suffix(STEPS), text)


def noted_steps(store: Store) -> list[str]:
    """The steps that the commands at work have still to do, each as JSON."""
    found: list[str] = []
    for lock in sorted(store.root.glob(f"locks/{COMMAND}*.lock")):
        with contextlib.suppress(OSError):
            lines = lock.with_suffix(STEPS).read_text(encoding="utf-8").splitlines()
            found += lines if holder_of(lock)[1] else []
    return found


def activities(store: Store) -> Iterator[Activity]:
    """Every step with an unfinished workspace, by key."""
    for folder in sorted(store.root.glob("work/*")):
        holder, running = holder_of(store.root / "locks" / f"{folder.name}.lock")
        found = marks(folder / "progress.jsonl")
        yield Activity(
            key=folder.name,
            holder=holder,
            running=running,
            resumable=store.has_checkpoint(folder.name),
            mark=found[-1] if found else None,
            log=str(store.root / "logs" / f"{folder.name}.log"),
            **(_pace(found, since=holder.since) if running and holder else {}),
        )


def _pace(found: Sequence[Mark], *, since: str) -> dict[str, float | None]:
    """The pace of the process that began then; an earlier one may have stopped long before."""
    began = datetime.fromisoformat(since).timestamp()
    own = [mark for mark in found if mark.time >= began]
    pace = Pace()
    left = [pace.left(mark.phase, mark.done, mark.total, now=mark.time) for mark in own]
    if not left or left[-1] is None:
        return {}
    passed = time.time() - own[-1].time
    return {"left": max(left[-1] - passed, 0.0), "tokens_per_second": _tokens(own[-PACE_MARKS:])}


def _tokens(found: Sequence[Mark]) -> float | None:
    counted = [(m.time, m.numbers["num_tokens"]) for m in found if "num_tokens" in m.numbers]
    if len(counted) < 2 or counted[-1][0] <= counted[0][0]:
        return None
    return (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])
