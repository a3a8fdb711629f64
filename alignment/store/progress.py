"""How a stage tells how far it is, and learns that it should stop.

A stage calls `Progress.update` often; the marks are JSON lines that another process follows.
The same call is where a stage that has nothing to save gives up when it was asked to stop.
Not here: drawing.
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
        phase: what is being done, in two or three words ("training", "generating").
        done, total: units of this phase; `total` 0 = unknown.
        time: seconds since the epoch.
        numbers: e.g. loss, learning_rate.
    """

    phase: str
    done: int
    total: int
    time: float
    numbers: dict[str, float] = Field(default_factory=dict)


class Progress:
    """Writes marks to one file, a line each."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stop = threading.Event()

    def ask_to_stop(self) -> None:
        """From a signal handler: whoever works should save and leave."""
        self._stop.set()

    @property
    def asked_to_stop(self) -> bool:
        """Whether a training loop should save a checkpoint and leave at the end of this step."""
        return self._stop.is_set()

    def update(self, phase: str, done: int, total: int, **numbers: float) -> None:
        """Say that `done` of `total` units of a phase are finished.

        Raises:
            Interrupted: when asked to stop. A training loop, which has something to save first,
                uses `mark` and looks at `asked_to_stop` itself.
        """
        self.mark(phase, done, total, **numbers)
        if self.asked_to_stop:
            raise Interrupted(f"stopped while {phase}; the same command continues from this stage")

    def mark(self, phase: str, done: int, total: int, **numbers: float) -> None:
        """As `update`, without ever raising."""
        if self._path is None:
            return
        mark = Mark(phase=phase, done=done, total=total, time=time.time(), numbers=numbers)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(mark.model_dump_json() + "\n")


class Follower:
    """Reads the marks that were added since the last look."""

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
