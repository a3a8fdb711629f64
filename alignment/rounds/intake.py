"""Takes batches from an inbox: those that no round has used, readable ones into the store.

Not here: what counts as a complete file (`inbox.py`), how many pairs a round needs (`driver.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from alignment.config.inbox import InboxConfig
from alignment.errors import ConfigError, DataError
from alignment.pipeline.steps import Step, TakeBatch
from alignment.pipeline.steps.batches import batch_file
from alignment.rounds.inbox import HOW, Arrival, handed_in, reader_of, scan
from alignment.rounds.inbox_files import SkippedFile
from alignment.rounds.ledger import BatchKind, Delivery
from alignment.rounds.line import RoundLine
from alignment.rounds.notes import Note
from alignment.rounds.state import Deliveries, State

Inspect = Callable[[InboxConfig, str, BatchKind], str | None]
Found = Sequence[Arrival | SkippedFile]


@dataclass(frozen=True)
class Wanted:
    """Which batches a person wants a round on; by default all that have arrived.

    Attributes:
        files: only these files, which hold prompts and may lie anywhere.
        answers: only a round on the champion's own answers.
    """

    files: tuple[str, ...] = ()
    answers: bool = False

    @property
    def kinds(self) -> tuple[BatchKind, ...]:
        """The kinds of batches to look at, in order."""
        return ("prompts",) if self.files or self.answers else ("pairs", "prompts")


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
        wanted: what to look at besides the inbox, or instead.

    Raises:
        ConfigError: own answers are wanted, and the config does not say how they are made.
    """

    def __init__(
        self,
        inbox: InboxConfig,
        line: RoundLine,
        *,
        build: Callable[[Step], object],
        log: Callable[[str], None],
        now: Callable[[], float],
        wanted: Wanted,
    ) -> None:
        self._inbox, self._line = inbox, line
        self._build, self._log, self._now = build, log, now
        if inbox.answers is None and "pairs" not in wanted.kinds:
            raise ConfigError(f"nothing says how the champion's answers become pairs: {HOW}")
        self._named = tuple(handed_in(file) for file in wanted.files)
        self.found: Found = ()
        self.refused = 0

    def scan(self) -> None:
        """Look at the inbox; `found` has the result.

        Raises:
            DataError: the inbox cannot be read.
        """
        spent = self._line.state().spent
        self.found = (*self._named, *scan(self._inbox, known=spent, now=self._now))

    @property
    def files(self) -> Mapping[str, str]:
        """The path of each complete file by its digest; the first of several names."""
        return {digest: arrival.file for digest, arrival in self._arrivals.items()}

    @property
    def _arrivals(self) -> dict[str, Arrival]:
        arrivals = (file for file in reversed(self.found) if isinstance(file, Arrival))
        return {file.digest: file for file in arrivals}

    def named_and_used(self) -> str | None:
        """Why none of the files that somebody named can be used; None if one can be."""
        state = self._line.state()
        whys = [
            f"{PurePath(one.file).name}: {what_became_of(one.digest, state)}"
            for one in self._named
            if one.digest in state.spent
        ]
        return "; ".join(whys) if whys and len(whys) == len(self._named) else None

    def named_and_left(self) -> Iterator[str]:
        """The files that somebody named and no round has taken so far, each with what to do."""
        state = self._line.state()
        taken = state.spent | state.known_batches.keys()
        for one in self._named:
            if one.digest not in taken:
                yield f"{PurePath(one.file).name} was not used; run the command again"

    def candidates(self, kind: BatchKind) -> Deliveries:
        """The batches that a round may use: new files, and returned batches in the store."""
        state = self._line.state()
        barred = {batch.digest for _, batch in self._line.revoked_elsewhere()} | state.spent
        new = {d: _delivery(one) for d, one in self._arrivals.items() if d not in barred}
        returned = {batch.digest: batch for batch in state.returned if batch.digest not in barred}
        found = {**returned, **new}  # a file may have got a name that says what it holds
        if self._named:
            found = {one.digest: found[one.digest] for one in self._named if one.digest in found}
        return tuple(found[digest] for digest in sorted(found) if found[digest].kind == kind)

    def readable(self, inspect: Inspect, kind: BatchKind) -> Deliveries:
        """Copy the candidates into the store; refuse those that cannot be read."""
        batches: list[Delivery] = []
        for batch in self.candidates(kind):
            if not self._copy(batch):
                continue
            file = str(batch_file(self._line.store, batch.key))
            if problem := inspect(self._inbox, file, batch.kind):
                self.refuse(batch, problem)
            else:
                batches.append(batch)
        return tuple(batches)

    def refuse(self, batch: Delivery, why: str) -> State:
        """Bar a batch until the inbox's settings change or a person returns it."""
        self.refused += 1
        self._log(f"{batch.shown_file}: refused: {why}")
        return self._line.refuse(batch, why, reader=reader_of(self._inbox, batch.kind))

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
        here = [one for one in self._arrivals.values() if one.digest in refused]
        old = [
            refused[one.digest].batch
            for one in here
            if refused[one.digest].reader != reader_of(self._inbox, one.kind)
        ]
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


def what_became_of(digest: str, state: State) -> str:
    """What a line has made of a batch so far."""
    if (why := why_unused(digest, state)) is not None:
        return why
    if state.open is not None and digest in {batch.digest for batch in state.open.batches}:
        return f"in round {state.open.number}, which is open"
    for opened, closed in reversed(state.history):
        if digest in state.spent and digest in {batch.digest for batch in opened.batches}:
            return f"used by round {opened.number}: {closed.fate}"
    return "new"


def _delivery(one: Arrival) -> Delivery:
    key = TakeBatch.of(one.digest, one.file).key
    return Delivery(digest=one.digest, key=key, file=PurePath(one.file).name, kind=one.kind)
