"""The ledger of a line of rounds: numbered entries, each written once, whole, and never changed.

    ROOT/lines/<line>/00000001.json   {number, previous, time, event}

An entry is created under the next number by `create`, which fails when that number is taken: of
two processes that saw the same end of the ledger one writes, the other is `Overtaken` and reads
again. Each entry holds the digest of the one before it and ends with its own, so a changed or
missing one is noticed, the last one too.
There is no second file that could disagree: the head is what the entries add up to (`head.py`).
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from alignment.errors import ArtifactError, Overtaken
from alignment.records import Frozen
from alignment.store.checksum import verified, with_digest
from alignment.store.durable import create
from alignment.store.store import storage_errors


class Delivery(Frozen):
    """One delivery of preference rows, known by its content.

    Attributes:
        digest: sha256 of its bytes, 64 hex digits.
        key: of its copy in the store.
        file: the name of the file it was found in, without its folder.
    """

    digest: str
    key: str
    file: str


class Champion(Frozen):
    """The champion of a line: keys of a model and of its evaluation, and its name in tables."""

    model: str
    evaluation: str
    label: str


class Started(Frozen):
    """The line begins with the model that the configured run handed on, after `rounds` rounds."""

    name: Literal["started"] = "started"
    head: Champion
    rounds: int


class Opened(Frozen):
    """A round has claimed these batches; until it is closed no other one begins."""

    name: Literal["opened"] = "opened"
    number: int
    parent: Champion
    batches: tuple[Delivery, ...]


OutcomeName = Literal["kept", "rejected", "waiting", "overtaken"]


class Closed(Frozen):
    """What became of a round.

    Attributes:
        fate: kept moves the head; rejected leaves it; waiting leaves it to a person;
            overtaken: the head was moved or a batch revoked meanwhile, so the round's other
            batches are the next round's.
        head: the round's model; of a round that was never trained, its parent.
        why: the gate's words.
    """

    name: Literal["closed"] = "closed"
    number: int
    fate: OutcomeName
    head: Champion
    why: str


class Moved(Frozen):
    """A person or the promotion flow moved the head."""

    name: Literal["moved"] = "moved"
    head: Champion
    action: Literal["promoted", "rolled back"]
    why: str


class Declined(Frozen):
    """A person refused the round that was waiting for a word."""

    name: Literal["declined"] = "declined"
    number: int
    why: str


class Refused(Frozen):
    """A batch that cannot be used, whatever round it would be in."""

    name: Literal["refused"] = "refused"
    batch: Delivery
    why: str


class Revoked(Frozen):
    """A batch found to be bad after it was used.

    Attributes:
        head: the last champion without it, to which the line goes back.
        again: the other batches of each round that is lost with it, to be trained on again.
    """

    name: Literal["revoked"] = "revoked"
    batch: Delivery
    head: Champion
    again: tuple[tuple[Delivery, ...], ...]
    why: str


Event = Annotated[
    Started | Opened | Closed | Moved | Declined | Refused | Revoked, Field(discriminator="name")
]


class Entry(Frozen):
    """One event with its place: `previous` is the sha256 of the entry before, "" for the first."""

    number: int
    previous: str
    time: str
    event: Event

    def encoded(self) -> bytes:
        """The entry's file, byte for byte."""
        return with_digest(self)

    @property
    def digest(self) -> str:
        """What the next entry calls `previous`."""
        return hashlib.sha256((self.model_dump_json(indent=1) + "\n").encode()).hexdigest()


class Ledger(Frozen):
    """The entries below one folder."""

    folder: Path

    def read(self) -> tuple[Entry, ...]:
        """All entries in order.

        Raises:
            ArtifactError: one is missing, unreadable or not what its successor says.
        """
        entries: list[Entry] = []
        previous = ""
        for number, path in enumerate(sorted(self.folder.glob("[0-9]*.json")), start=1):
            entry = _parsed(path)
            if (entry.number, entry.previous, path) != (number, previous, self._path(number)):
                raise ArtifactError(
                    f"{path} does not follow the entry before it: the ledger was changed by hand. "
                    "Restore the folder from a copy."
                )
            entries.append(entry)
            previous = entry.digest
        return tuple(entries)

    def append(self, event: Event, *, after: tuple[Entry, ...]) -> Entry:
        """Write the next entry; it is on disk, whole, when this returns.

        Raises:
            Overtaken: somebody has written since `after` was read.
        """
        entry = Entry(
            number=len(after) + 1,
            previous=after[-1].digest if after else "",
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            event=event,
        )
        try:
            with storage_errors(self.folder, expected=FileExistsError):
                create("entry", self._path(entry.number), entry.encoded())
        except FileExistsError as error:
            raise Overtaken(
                f"another run has just written to {self.folder}; run the same command again."
            ) from error
        return entry

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"


def _parsed(path: Path) -> Entry:
    try:
        return Entry.model_validate_json(verified(path.read_bytes()))
    except ValueError as error:
        raise ArtifactError(
            f"{path} is damaged: it is not the entry that was written. Restore it from a copy."
        ) from error
