"""The ledger of a line of rounds: numbered entries, each written once, atomically, never changed.

    ROOT/lines/<line>/00000001.json   {number, previous, time, event}

An entry is created under the next number by `create`, which fails if that number is taken: of two
processes that read the same last entry, one writes, and the other is `Overtaken` and reads again.
Each entry holds the digest of the previous one and ends with its own digest, so a changed or
missing entry is detected, even the last one.
The ledger of a store in a bucket is there: the folder is a copy, and of two machines the one whose
entry the bucket takes has written it. `writer` makes their entries differ.
There is no other file that could disagree: the state follows from the entries alone (`state.py`).
An entry's digest covers the JSON of its event, so a field that a later version adds is left out
where an older entry does not have it (`exclude_if`).
In the events, the field `head` holds a champion and `fate` the outcome of a round. Every ledger
stores these names, so they stay.
"""

import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import Path, PurePath
from socket import gethostname
from typing import Annotated, Literal

from pydantic import Field

from alignment.errors import ArtifactError, Overtaken, printable
from alignment.records.base import Frozen, Json
from alignment.store.checksum import verified, with_digest
from alignment.store.durable import create
from alignment.store.errors import storage_errors
from alignment.store.remote.bucket import Bucket
from alignment.store.remote.entries import copy_entries, create_entry, entry_name

BatchKind = Literal["pairs", "prompts"]
"""What a batch holds: preference pairs, or prompts that the champion answers."""


class Delivery(Frozen):
    """One batch, identified by its content.

    Attributes:
        digest: sha256 of its bytes, 64 hex digits.
        key: key of its copy in the store.
        file: name of the file it arrived in, without the folder.
    """

    digest: str
    key: str
    file: str
    kind: BatchKind = Field(default="pairs", exclude_if=lambda kind: kind == "pairs")

    @property
    def name(self) -> str:
        """The name of the step that copied it, as `show` prints it."""
        return f"batch-{self.digest[:12]}"

    @property
    def shown_file(self) -> str:
        """The name of its file as it is printed, with control characters escaped."""
        return printable(self.file)

    def is_called(self, reference: str) -> bool:
        """Whether a reference means it: its file, its name, or a beginning of its digest or key."""
        file = PurePath(reference).name
        return (
            file in (self.file, self.shown_file)
            or self.digest.startswith(reference.removeprefix("batch-"))
            or self.key.startswith(reference)
        )


def _absent(value: object) -> bool:
    return not value


class Champion(Frozen):
    """The champion of a line: the keys of a model and its evaluation, and its label in tables."""

    model: str
    evaluation: str
    label: str


class Identity(Frozen):
    """What a line is made of. A config that says otherwise describes another line.

    Attributes:
        model: the source of the base model: id and revision, requirement, or digest of its files,
            with its tokenizer and chat template.
        quantisation: that of the base weights during training.
        sft: key of the step that made the first model from the base; empty for none.
        rows: keys of the sets whose held-out rows every model is evaluated on.
        evaluation: how they are evaluated.
        gate: how a round is judged.
    """

    model: str
    quantisation: Json | None
    sft: str
    rows: tuple[str, ...]
    evaluation: Json
    gate: Json | None


class Started(Frozen):
    """The line starts with the final model of the configured run, which had `rounds` rounds."""

    name: Literal["started"] = "started"
    head: Champion
    rounds: int
    identity: Identity | None = Field(default=None, exclude_if=_absent)


class Adopted(Frozen):
    """From here on, the line is continued with a config of this identity."""

    name: Literal["adopted"] = "adopted"
    identity: Identity
    why: str


class Opened(Frozen):
    """A round claimed these batches, all of one kind; no other starts until it is closed.

    Attributes:
        anchor: the model approved last; None in entries of earlier versions.
        look: the number of this round's verdict since then, 1 for the first.
    """

    name: Literal["opened"] = "opened"
    number: int
    parent: Champion
    batches: tuple[Delivery, ...]
    anchor: Champion | None = Field(default=None, exclude_if=_absent)
    look: int = Field(default=1, exclude_if=lambda look: look == 1)

    @property
    def kind(self) -> BatchKind:
        """What its batches hold."""
        return self.batches[0].kind if self.batches else "pairs"


class Failed(Frozen):
    """An attempt at the open round failed in a way that another attempt may repeat."""

    name: Literal["failed"] = "failed"
    number: int
    why: str


OutcomeName = Literal[
    "kept", "rejected", "inconclusive", "cannot be judged", "waiting", "overtaken", "failed"
]


class Closed(Frozen):
    """The outcome of a round.

    Attributes:
        fate: kept: its model is the new champion; rejected: the champion stays; inconclusive,
            cannot be judged: it stays as well, and earlier versions wrote "rejected"; waiting: a
            person decides; overtaken: the champion changed or a batch was revoked in the
            meantime, and the round's other batches go to the next round; failed: several attempts
            failed in the same way, and its batches are set aside.
        head: the round's model, or its parent if the round was never trained.
        why: the gate's sentence.
        gate: key of the gate that judged it; empty if none did, and in entries of earlier versions.
    """

    name: Literal["closed"] = "closed"
    number: int
    fate: OutcomeName
    head: Champion
    why: str
    gate: str = Field(default="", exclude_if=_absent)


class Moved(Frozen):
    """A person or the promotion flow changed the champion.

    Attributes:
        by: who decided. A model that a person promotes becomes the anchor of the gate.
    """

    name: Literal["moved"] = "moved"
    head: Champion
    action: Literal["promoted", "rolled back"]
    why: str
    by: Literal["person", "gate"] = Field(default="person", exclude_if=lambda by: by == "person")


class Declined(Frozen):
    """A person declined the round that was waiting for approval."""

    name: Literal["declined"] = "declined"
    number: int
    why: str


class Refused(Frozen):
    """A batch that cannot be used; `reader` identifies the settings under which it was read."""

    name: Literal["refused"] = "refused"
    batch: Delivery
    why: str
    reader: str = Field(default="", exclude_if=_absent)


class Returned(Frozen):
    """Batches that were refused, or set aside with a failed round, and may be used after all."""

    name: Literal["returned"] = "returned"
    batches: tuple[Delivery, ...]
    why: str


class Revoked(Frozen):
    """A batch that turned out to be bad after it was used.

    Attributes:
        head: the last champion trained without it, which becomes the champion again.
        again: the other batches of each round that is lost with it, which are trained on again.
    """

    name: Literal["revoked"] = "revoked"
    batch: Delivery
    head: Champion
    again: tuple[tuple[Delivery, ...], ...]
    why: str


Event = Annotated[
    Started | Adopted | Opened | Failed | Closed | Moved | Declined | Refused | Returned | Revoked,
    Field(discriminator="name"),
]


class Entry(Frozen):
    """A numbered event.

    Attributes:
        previous: the sha256 of the previous entry, "" for the first.
        writer: of an entry in a bucket, the machine that wrote it and a random number.
    """

    number: int
    previous: str
    time: str
    event: Event
    writer: str = Field(default="", exclude_if=_absent)

    def encoded(self) -> bytes:
        """The exact bytes of the entry's file."""
        return with_digest(self)

    @property
    def digest(self) -> str:
        """The sha256 that the next entry stores as `previous`."""
        return hashlib.sha256((self.model_dump_json(indent=1) + "\n").encode()).hexdigest()


class Ledger(Frozen):
    """The entries in one folder, or in a bucket of which it is a copy."""

    folder: Path
    bucket: Bucket | None = None

    def read(self) -> tuple[Entry, ...]:
        """All entries in order.

        Raises:
            ArtifactError: an entry is missing, unreadable, or does not match the next one.
        """
        if self.bucket is not None:
            copy_entries(self.bucket, self.folder)
        entries: list[Entry] = []
        previous = ""
        for number, path in enumerate(sorted(self.folder.glob("[0-9]*.json")), start=1):
            entry = _parsed(path)
            if (entry.number, entry.previous, path) != (number, previous, self._path(number)):
                raise ArtifactError(
                    f"{path} does not follow the previous entry: the ledger was edited. "
                    "Restore the folder from a backup."
                )
            entries.append(entry)
            previous = entry.digest
        return tuple(entries)

    def append(self, event: Event, *, after: tuple[Entry, ...]) -> Entry:
        """Write the next entry; it is complete and on disk when this returns.

        Raises:
            Overtaken: another process has written an entry since `after` was read.
        """
        entry = Entry(
            number=len(after) + 1,
            previous=after[-1].digest if after else "",
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            event=event,
            writer=f"{gethostname()}-{secrets.token_hex(8)}" if self.bucket else "",
        )
        if not self._create(entry):
            raise Overtaken(
                f"another run has just written to {self.folder}; run the same command again."
            )
        return entry

    def _create(self, entry: Entry) -> bool:
        """Write an entry; False if there is one of its number."""
        with storage_errors(self.folder, expected=FileExistsError):
            if self.bucket is not None:
                return create_entry(self.bucket, self.folder, entry.number, entry.encoded())
            try:
                create("entry", self._path(entry.number), entry.encoded())
            except FileExistsError:
                return False
        return True

    def _path(self, number: int) -> Path:
        return self.folder / entry_name(number)


def _parsed(path: Path) -> Entry:
    try:
        return Entry.model_validate_json(verified(path.read_bytes()))
    except ValueError as error:
        raise ArtifactError(
            f"{path} is damaged: it differs from the entry that was written. "
            "Restore it from a backup."
        ) from error
