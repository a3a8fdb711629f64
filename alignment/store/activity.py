"""What is being built in a store, as any other process can see it: locks, marks, logs."""

from collections.abc import Iterator

from alignment.records import Frozen
from alignment.store.locks import Holder, holder_of
from alignment.store.progress import Mark, last_mark
from alignment.store.store import Store


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
