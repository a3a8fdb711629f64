"""A line of rounds: the operations that change its champion, each one entry in the ledger.

A pure function of the state decides which entry to write. The entry gets a number that only one of
several writers can take (compare-and-swap); the others read the new state and decide again.
Not here: the state that entries add up to (`state.py`), the steps of a round (`steps.py`).
"""

from collections.abc import Callable

from alignment.errors import Overtaken, UsageError
from alignment.records import Frozen
from alignment.rounds.ledger import (
    Champion,
    Closed,
    Declined,
    Delivery,
    Event,
    Ledger,
    Moved,
    Opened,
    OutcomeName,
    Refused,
    Revoked,
    Started,
)
from alignment.rounds.state import Deliveries, State, after, fold
from alignment.store.store import Store

_TRIES = 100
"""Attempts to write an entry; each failed one means that another process wrote one."""


class RoundLine(Frozen):
    """A named line of rounds in a store. A method that changes it writes at most one entry."""

    store: Store
    name: str = "main"

    @property
    def ledger(self) -> Ledger:
        """The line's ledger."""
        return Ledger(folder=self.store.root / "lines" / self.name)

    def state(self) -> State:
        """The current state, computed from all entries."""
        return fold(entry.event for entry in self.ledger.read())

    def start(self, champion: Champion, *, rounds: int) -> State:
        """Start the line with the model of the configured run, unless it has already started."""
        return self._write(
            lambda state: None if state.champion else Started(head=champion, rounds=rounds)
        )[0]

    def open(self, batches: Deliveries) -> State:
        """Claim batches for the next round, unless a round is open or one of them was used."""
        return self._write(lambda state: _opening(state, batches))[0]

    def close(self, number: int, model: Champion, *, outcome: OutcomeName, why: str) -> State:
        """Record the outcome of a round; if it is kept, its model becomes the champion.

        If the champion changed in the meantime, "overtaken" is recorded instead of `outcome`.

        Raises:
            Overtaken: another run has already closed this round.
        """
        state, written = self._write(lambda state: _closing(state, number, model, outcome, why))
        if not written:
            done = next((c.fate for _, c in state.history if c.number == number), "not open")
            raise Overtaken(
                f"another run has already closed round {number} of line {self.name!r} ({done}); "
                "there is nothing left to do for this run."
            )
        return state

    def refuse(self, batch: Delivery, why: str) -> State:
        """Bar a batch that cannot be used."""
        return self._write(
            lambda state: None if batch.digest in state.barred else Refused(batch=batch, why=why)
        )[0]

    def promote(self, champion: Champion, why: str) -> State:
        """Make a model the champion.

        Raises:
            UsageError: the model was trained on a revoked batch.
        """
        return self._write(
            lambda state: _moving(state, Moved(head=champion, action="promoted", why=why))
        )[0]

    def roll_back(self, champion: Champion, why: str) -> State:
        """Make an earlier champion the champion again; raises like `promote`."""
        return self._write(
            lambda state: _moving(state, Moved(head=champion, action="rolled back", why=why))
        )[0]

    def decline(self, why: str) -> State:
        """Decline the round that waits for approval."""
        return self._write(
            lambda state: Declined(number=state.waiting.number, why=why) if state.waiting else None
        )[0]

    def revoke(self, batch: Delivery, why: str) -> State:
        """Bar a batch that was used; the last champion without it becomes the champion again."""
        return self._write(lambda state: _revoking(state, batch, why))[0]

    def _write(self, decide: Callable[[State], Event | None]) -> tuple[State, bool]:
        """Write the event that `decide` returns, if any; read and decide again when overtaken.

        Returns:
            The state afterwards, and whether an entry was written.
        """
        for _ in range(_TRIES):
            entries = self.ledger.read()
            state = fold(entry.event for entry in entries)
            event = decide(state)
            if event is None:
                return state, False
            try:
                self.ledger.append(event, after=entries)
            except Overtaken:
                continue
            return after(state, event), True
        raise Overtaken(
            f"too many concurrent writers to line {self.name!r} ({_TRIES} attempts); try again."
        )


# --- the event to write, given the state ---------------------------------------------------------


def _opening(state: State, batches: Deliveries) -> Event | None:
    if state.champion is None or state.open is not None or state.waiting is not None:
        return None
    if state.requeued and batches != state.requeued[0]:
        return None
    if not state.requeued and any(batch.digest in state.spent for batch in batches):
        return None
    return Opened(number=state.rounds + 1, parent=state.champion, batches=batches)


def _closing(
    state: State, number: int, model: Champion, outcome: OutcomeName, why: str
) -> Event | None:
    if state.open is None or state.open.number != number:
        return None
    if state.is_overtaken:
        outcome = "overtaken"
    return Closed(number=number, fate=outcome, head=model, why=why)


def _moving(state: State, event: Moved) -> Event | None:
    if bad := state.barred_in(event.head.model):
        raise UsageError(
            f"{event.head.label} was trained on a revoked batch ({bad[0].file}). Retrain its round "
            "without that batch: sft-dpo round"
        )
    return None if state.champion and state.champion.model == event.head.model else event


def _revoking(state: State, batch: Delivery, why: str) -> Event | None:
    if state.champion is None or batch.digest in state.barred:
        return None
    rounds = [opened for opened, _ in state.lineage]
    if state.waiting is not None:
        rounds.append(state.history[-1][0])  # the last one: no round is opened while one waits
    first = next((i for i, opened in enumerate(rounds) if batch in opened.batches), len(rounds))
    lost = [tuple(b for b in opened.batches if b != batch) for opened in rounds[first:]]
    return Revoked(
        batch=batch,
        head=rounds[first].parent if lost else state.champion,
        again=tuple(batches for batches in lost if batches),
        why=why,
    )
