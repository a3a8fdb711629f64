"""The manifest of an artifact: what made it, from what, and how long it took."""

from pydantic import Field, ValidationError

from alignment.records.base import Frozen, Json, Output
from alignment.records.refs import FileDigest


class CodeVersion(Frozen):
    """The code that ran: the commit, and the sha256 of the diff if the tree was dirty."""

    revision: str
    diff_sha256: str | None = None


class Attempt(Frozen):
    """A process that worked on a stage and did not finish it.

    Attributes:
        seconds: from its start to its last sign of progress.
    """

    started: str
    seconds: float
    libraries: dict[str, str]


MANIFEST_FORMAT = 3
"""Version of `StageRecord` on disk; 1 had no `format` and no `earlier`, 2 no `ledgers`."""


class LedgerTip(Frozen):
    """The last entry of a ledger: its number, and the sha256 of its file."""

    number: int
    sha256: str


class StageRecord(Frozen):
    """`manifest.json`: the complete record of one stage, written last.

    Attributes:
        format: `MANIFEST_FORMAT` of the version that wrote it.
        name: the readable name of the step ("dpo-2").
        parents: key by role, e.g. {"policy": "merge-…", "pairs": "pairs-…"}.
        output: the input of the next stage as JSON: a `ModelRef`, `DataRef`, ...
        metrics: headline numbers.
        notes: sentences for the reader ("no SFT adapter: the base model takes its place").
        seconds: wall time of the process that finished it.
        earlier: the processes that had worked on it before, oldest first.
        ledgers: the last entry of every line of the store when it was finished, by line. A ledger
            that loses its end does not show it by itself.
    """

    format: int = 1
    key: str
    stage: str
    version: int
    name: str
    parents: dict[str, str]
    config: Json
    seed: int
    output: Json
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()
    files: tuple[FileDigest, ...]
    code: CodeVersion
    libraries: dict[str, str]
    hardware: dict[str, str]
    started: str
    seconds: float
    earlier: tuple[Attempt, ...] = ()
    ledgers: dict[str, LedgerTip] = Field(default_factory=dict)

    def output_as(self, kind: type[Output]) -> Output | None:
        """The output as a `ModelRef`, `DataRef`, `EvalReport`...; None if it is of another type."""
        try:
            return kind.model_validate(self.output)
        except ValidationError:
            return None

    def parents_as(self, role: str) -> tuple[str, ...]:
        """Keys of the parents in a role, in order: "data" matches "data" and "data 1", "data 2"."""
        return tuple(key for name, key in self.parents.items() if name.split()[0] == role)
