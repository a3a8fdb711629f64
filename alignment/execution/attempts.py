"""The processes that worked on a stage until one finished it, for its record.

Each appends a line to the workspace when it begins. How long it lasted follows from the last mark
of progress before the next one began.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from alignment.execution.provenance import libraries
from alignment.records.base import Frozen
from alignment.records.manifest import Attempt
from alignment.store.durable import failpoint_span
from alignment.store.jsonl import as_line
from alignment.store.progress import Mark
from alignment.store.workspace import Workspace

LineT = TypeVar("LineT", bound=Frozen)


class Begun(Frozen):
    """A process begins, at this time in seconds since the epoch."""

    time: float
    libraries: dict[str, str]


def begin_attempt(workspace: Workspace) -> tuple[Attempt, ...]:
    """Write down that this process begins; returns the ones before it, oldest first."""
    path = workspace.folder / "attempts.jsonl"
    begun = list(_lines(path, Begun))
    mine = Begun(time=datetime.now(UTC).timestamp(), libraries=libraries())
    with failpoint_span("attempt.append"), path.open("ab") as stream:
        stream.write(b"\n" + as_line(mine))  # the last line may be of a process that died here
    times = [mark.time for mark in _lines(workspace.progress, Mark)]
    return tuple(
        _attempt(one, [time for time in times if one.time <= time < following.time])
        for one, following in pairwise([*begun, mine])
    )


def _attempt(begun: Begun, times: list[float]) -> Attempt:
    started = datetime.fromtimestamp(begun.time, UTC).isoformat(timespec="seconds")
    seconds = max(times, default=begun.time) - begun.time
    return Attempt(started=started, seconds=round(seconds, 3), libraries=begun.libraries)


def _lines(path: Path, kind: type[LineT]) -> Iterator[LineT]:
    """The lines of a file that can be read; none if there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield kind.model_validate_json(line)
        except ValidationError:
            continue
