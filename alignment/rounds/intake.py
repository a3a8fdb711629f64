"""Takes batches from an inbox: those that no round has used, readable ones into the store.

Not here: what counts as a complete file (`inbox.py`), how many pairs a round needs (`driver.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

from alignment.config.inbox import InboxConfig
from alignment.errors import DataError
from alignment.pipeline.steps import Step, TakeBatch
from alignment.pipeline.steps.batches import batch_file
from alignment.rounds.inbox import Arrival, reader_of, scan
from alignment.rounds.inbox_files import SkippedFile
from alignment.rounds.ledger import Delivery
from alignment.rounds.line import RoundLine
from alignment.rounds.notes import Note
from alignment.rounds.state import Deliveries, State

Inspect = Callable[[InboxConfig, str], str | None]
Found = Sequence[Arrival | SkippedFile]


class Intake:
    """The batches of one inbox and one line.

    Attributes:
        found: what the last scan found.
        refused: number of batches refused so far.

    Args:
        inbox: the inbox.
        line: the line.
        build: builds a step, or reuses its artifact.
        log: writes a line to the log.
        now: returns seconds since the epoch.
    """

    def __init__(
        self,
        inbox: InboxConfig,
        line: RoundLine,
        *,
        build: Callable[[Step], object],
        log: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._inbox, self._line = inbox, line
        self._build, self._log, self._now = build, log, now
        self._reader = reader_of(inbox)
        self.found: Found = ()
        self.refused = 0

    def scan(self) -> None:
        """Look at the inbox; `found` has the result.

        Raises:
            DataError: the inbox cannot be read.
        """
        spent = self._line.state().spent
        self.found = tuple(scan(self._inbox, known=spent, now=self._now))

    @property
    def files(self) -> Mapping[str, str]:
        """The path of each complete file by its digest; the first of several names."""
        arrivals = (file for file in reversed(self.found) if isinstance(file, Arrival))
        return {file.digest: file.file for file in arrivals}

    def candidates(self) -> Deliveries:
        """The batches that a round may use: new files, and returned batches in the store."""
        state = self._line.state()
        barred = {batch.digest for _, batch in self._line.revoked_elsewhere()} | state.spent
        new = {d: _delivery(d, file) for d, file in self.files.items() if d not in barred}
        returned = {batch.digest: batch for batch in state.returned if batch.digest not in barred}
        found = {**new, **returned}
        return tuple(found[digest] for digest in sorted(found))

    def readable(self, inspect: Inspect) -> Deliveries:
        """Copy the candidates into the store; refuse those that cannot be read."""
        batches: list[Delivery] = []
        for batch in self.candidates():
            if not self._copy(batch):
                continue
            if problem := inspect(self._inbox, str(batch_file(self._line.store, batch.key))):
                self.refuse(batch, problem)
            else:
                batches.append(batch)
        return tuple(batches)

    def refuse(self, batch: Delivery, why: str) -> State:
        """Bar a batch until the inbox's settings change or a person returns it."""
        self.refused += 1
        self._log(f"{batch.shown_file}: refused: {why}")
        return self._line.refuse(batch, why, reader=self._reader)

    def restore(self, batch: Delivery) -> State:
        """Copy a claimed batch into the store again if it was damaged; refuse it if it is gone.

        Nothing else could end the round that claimed it.
        """
        if self._line.store.reuse(batch.key) is None and not self._copy(batch):
            why = "its copy in the store is damaged, and the file is no longer in the inbox"
            return self.refuse(batch, why)
        return self._line.state()

    def return_refused(self) -> None:
        """Return the batches in the inbox that were refused under other settings."""
        refused = self._line.state().refused
        old = [refused[d].batch for d in self.files if d in refused]
        old = [batch for batch in old if refused[batch.digest].reader != self._reader]
        if old:
            self._line.give_back(tuple(old), "the settings that read the inbox have changed")

    def _copy(self, batch: Delivery) -> bool:
        """Copy a batch into the store, unless it is there; whether it is there now."""
        file = self.files.get(batch.digest)
        if file is None:
            return self._line.store.reuse(batch.key) is not None
        try:
            self._build(TakeBatch.of(batch.digest, file))
        except DataError as error:  # it changed or disappeared after the scan
            self._log(str(error))
            return False
        return True


def notes_on(found: Found, state: State) -> tuple[Note, ...]:
    """The files in an inbox that a line does not use and has not used, and why."""
    notes = [_note(file, state) for file in found]
    return tuple(note for note in notes if note is not None)


def _note(file: Arrival | SkippedFile, state: State) -> Note | None:
    if isinstance(file, SkippedFile):
        return Note.of(file.file, file.why)
    why = why_unused(file.digest, state)
    return None if why is None else Note.of(file.file, why)


def why_unused(digest: str, state: State) -> str | None:
    """Why a line does not use a batch that it knows: refused, set aside or revoked."""
    if digest in state.refused:
        return f"refused: {state.refused[digest].why}"
    if digest in {batch.digest for batch in state.set_aside}:
        return "set aside, because its round failed: sft-dpo inbox CONFIG --retry"
    return "revoked" if digest in {batch.digest for batch in state.revoked} else None


def _delivery(digest: str, file: str) -> Delivery:
    key = TakeBatch.of(digest, file).key
    return Delivery(digest=digest, key=key, file=PurePath(file).name)
