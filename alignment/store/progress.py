"""Progress reports of a stage, and requests to stop it.

A stage calls `Progress.update` often, which writes marks as JSON lines for another process to
follow. After a request to stop, the same call raises `Interrupted`. Not here: drawing.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from alignment.errors import Interrupted
from alignment.records import Frozen


class Mark(Frozen):
    """One mark of progress.

    Attributes:
        phase: the current activity in one to three words ("training", "generating").
        done, total: units of this phase; `total` is 0 if unknown.
        time: seconds since the epoch.
        numbers: current values, e.g. loss, learning_rate.
    """

    phase: str
    done: int
    total: int
    time: float
    numbers: dict[str, float] = Field(default_factory=dict)


class Progress:
    """Writes marks to a file, one per line."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stop = threading.Event()

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

    def mark(self, phase: str, done: int, total: int, **numbers: float) -> None:
        """Like `update`, but never raises `Interrupted`."""
        if self._path is None:
            return
        mark = Mark(phase=phase, done=done, total=total, time=time.time(), numbers=numbers)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(mark.model_dump_json() + "\n")


class Follower:
    """Reads the marks that were added since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new(self) -> Iterator[Mark]:
        """Marks written since the last call, oldest first."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                yield Mark.model_validate_json(line)
