"""The folder in which a stage is built, before it becomes an artifact."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignment.store.remote.checkpoints import CheckpointCopies


@dataclass(frozen=True)
class Workspace:
    """Where a stage is built. Everything that must survive a kill is in `folder`.

    Attributes:
        copies: where the checkpoints of a training are copied to; None for a store of its own.
    """

    folder: Path
    log: Path
    copies: "CheckpointCopies | None" = None

    @property
    def out(self) -> Path:
        """The files of the artifact; becomes `objects/<key>`."""
        return self.folder / "out"

    @property
    def checkpoints(self) -> Path:
        """The verified checkpoints of an unfinished training run."""
        return self.folder / "checkpoints"

    @property
    def parts(self) -> Path:
        """What the processes of several devices have written of a file, each a part."""
        return self.folder / "parts"

    @property
    def progress(self) -> Path:
        """The progress marks, as JSON lines."""
        return self.folder / "progress.jsonl"
