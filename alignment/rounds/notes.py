"""What the last round left unused in its inbox, kept in the store for `sft-dpo show`.

A copy for people: nothing is decided from it.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from alignment.errors import printable
from alignment.records.base import Frozen
from alignment.rounds.line import RoundLine
from alignment.store.durable import ensure_folder, replace
from alignment.store.errors import storage_errors


class Note(Frozen):
    """A file that the line does not use, and why."""

    file: str
    why: str

    @classmethod
    def of(cls, file: str, why: str) -> "Note":
        """The note; whatever a terminal would obey is escaped, so it is one line."""
        return cls(file=_one_line(file), why=_one_line(why))

    def __str__(self) -> str:
        return f"{self.file}: {self.why}"


LONGEST = 300
"""Characters of a reason that are shown in a list; the ledger holds all of it."""
SHOWN = 20
"""Notes that are printed; a list of thousands would hide the rest."""
_NOTES = TypeAdapter(tuple[Note, ...])


def brief(note: object) -> str:
    """A note as a line of a list; a long reason ends after its last whole sentence."""
    text = str(note)
    if len(text) <= LONGEST:
        return text
    end = text.rfind(". ", 0, LONGEST)
    return text[: end + 1] if end > LONGEST // 3 else f"{text[:LONGEST]}..."


def shortened(notes: Sequence[str]) -> list[str]:
    """The first notes, each as one line, and the number of the others."""
    more = len(notes) - SHOWN
    return [*map(brief, notes[:SHOWN]), *([f"and {more} more files"] if more > 0 else [])]


def keep_notes(line: RoundLine, notes: tuple[Note, ...]) -> None:
    """Keep the notes of the last round, unless they are the same."""
    if notes == read_notes(line):
        return
    with storage_errors(line.store.root):
        ensure_folder(_path(line).parent)
        replace("inbox.notes", _path(line), _NOTES.dump_json(notes, indent=1).decode())


def read_notes(line: RoundLine) -> tuple[Note, ...]:
    """The notes of the last round."""
    try:
        return _NOTES.validate_json(_path(line).read_bytes())
    except (FileNotFoundError, ValueError):  # damaged: the next round writes them again
        return ()


def _path(line: RoundLine) -> Path:
    return line.store.root / "notes" / f"{line.name}.json"


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n")
