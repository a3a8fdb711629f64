"""Reports of a stage to the process that waits for it, and requests to stop it.

A stage calls `Progress.update` often, which writes marks as JSON lines for another process to
follow. After a request to stop, the same call raises `Interrupted`. Not here: drawing.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pydantic import Field, TypeAdapter

from alignment.errors import ERRORS, AlignmentError, Interrupted
from alignment.records.base import Frozen


class Mark(Frozen):
    """One mark of progress.

    Attributes:
        phase: the current activity in one to three words ("training", "generating").
        done, total: units of this phase; `total` is 0 if unknown.
        time: seconds since the epoch.
        numbers: current values, e.g. loss, learning_rate; finite.
    """

    phase: str
    done: int
    total: int
    time: float
    numbers: dict[str, float] = Field(default_factory=dict)

    @property
    def shown(self) -> dict[str, float]:
        """The numbers for a line of progress; trackers get all."""
        return {name: value for name, value in self.numbers.items() if name == "loss"}


class Failure(Frozen):
    """The known error that ended a stage: the name of its class, and its message."""

    kind: str
    message: str

    def error(self) -> AlignmentError:
        """The error itself."""
        return ERRORS[self.kind](self.message)


PACE_MARKS = 30
"""Marks over which a pace is taken."""

_REPORT: TypeAdapter[Mark | Failure] = TypeAdapter(Mark | Failure)


class Progress:
    """Appends marks, one per line, to a file: its path, or the number of an open descriptor."""

    def __init__(self, place: Path | int | None = None) -> None:
        self._places = [] if place is None else [place]
        self._stop = threading.Event()

    @contextlib.contextmanager
    def recorded(self, path: Path) -> Iterator[None]:
        """Within the block, also append the marks to this file."""
        self._places.append(path)
        try:
            yield
        finally:
            self._places.remove(path)

    def ask_to_stop(self) -> None:
        """Request that the stage saves its work and stops; called from a signal handler."""
        self._stop.set()

    @property
    def asked_to_stop(self) -> bool:
        """Whether a training loop should save a checkpoint and stop after the current step."""
        return self._stop.is_set()

    def update(self, phase: str, done: int, total: int, **numbers: float) -> None:
        """Report that `done` of `total` units of a phase are finished.

        Raises:
            Interrupted: the stage was asked to stop. A training loop, which must save first, calls
                `mark` and checks `asked_to_stop` itself.
        """
        self.mark(phase, done, total, **numbers)
        if self.asked_to_stop:
            raise Interrupted(f"stopped while {phase}; the same command continues from this stage")

    def waiting(self, holder: object) -> None:
        """Report that a lock is waited for, so that it is not taken for a hang."""
        self.update(f"waiting for {holder}", 0, 0)

    def mark(self, phase: str, done: int, total: int, **numbers: float) -> None:
        """Like `update`, but never raises `Interrupted`."""
        self._append(Mark(phase=phase, done=done, total=total, time=time.time(), numbers=numbers))

    def fail(self, error: AlignmentError) -> None:
        """Report the error that ends the stage."""
        self._append(Failure(kind=type(error).__name__, message=str(error)))

    def _append(self, report: Frozen) -> None:
        line = report.model_dump_json().encode() + b"\n"
        for place in self._places:
            with open(place, "ab", closefd=isinstance(place, Path)) as stream:
                stream.write(line)


def marks(path: Path) -> list[Mark]:
    """The marks in a file, oldest first; none if there is no file yet."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    whole = (_REPORT.validate_json(line) for line in lines if line.endswith(b"\n"))
    return [report for report in whole if isinstance(report, Mark)]


class Pace:
    """The time left in a phase, at the pace of its last marks."""

    def __init__(self) -> None:
        self._phase = ""
        self._marks: deque[tuple[float, int]] = deque(maxlen=PACE_MARKS)

    def left(self, phase: str, done: int, total: int, *, now: float) -> float | None:
        """Seconds left; None if not known yet."""
        if phase != self._phase:
            self._phase = phase
            self._marks.clear()
        self._marks.append((now, done))
        since, before = self._marks[0]
        return (now - since) * (total - done) / (done - before) if total and done > before else None


class Follower:
    """Reads the reports that were added to an open file since the last call.

    It never moves the file's position, which the process that writes may share.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor = file.fileno()
        self._offset = os.fstat(self._descriptor).st_size

    def new(self) -> Iterator[Mark | Failure]:
        """Reports written since the last call, oldest first."""
        unread = os.fstat(self._descriptor).st_size - self._offset
        for line in os.pread(self._descriptor, unread, self._offset).splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            self._offset += len(line)
            yield _REPORT.validate_json(line)
