"""A line of rounds: a champion that moves, entry by entry.

Every change is one entry, decided by a pure function of the state that was read and created under
a number that only one of several writers gets (compare-and-swap). Who comes second decides anew.
Not here: what the entries add up to (`head.py`), which steps a round has (`rounds.py`).
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
"""To write one entry; each further one means that somebody else has written one."""


class RoundLine(Frozen):
    """A named line of rounds in a store. Every method that changes it writes at most one entry."""

    store: Store
    name: str = "main"

    @property
    def ledger(self) -> Ledger:
        """Its entries."""
        return Ledger(folder=self.store.root / "lines" / self.name)

    def state(self) -> State:
        """What its entries add up to now."""
        return fold(entry.event for entry in self.ledger.read())

    def start(self, head: Champion, *, rounds: int) -> State:
        """Begin the line with the model of the configured run, unless it has begun."""
        return self._write(
            lambda state: None if state.champion else Started(head=head, rounds=rounds)
        )[0]

    def open(self, batches: Deliveries) -> State:
        """Claim batches for the next round, unless another round is open or has used one."""
        return self._write(lambda state: _opening(state, batches))[0]

    def close(self, number: int, head: Champion, *, fate: OutcomeName, why: str) -> State:
        """Write down what became of a round, unless that was done; moves the head if it is kept.

        Where the head was moved meanwhile, the fate is "overtaken" whatever was asked for.

        Raises:
            Overtaken: another run has closed this round.
        """
        state, written = self._write(lambda state: _closing(state, number, head, fate, why))
        if not written:
            done = next((c.fate for _, c in state.history if c.number == number), "not open")
            raise Overtaken(
                f"another run has closed round {number} of line {self.name!r} meanwhile ({done}); "
                "there is nothing left to do for this one."
            )
        return state

    def refuse(self, batch: Delivery, why: str) -> State:
        """Bar a batch that cannot be used."""
        return self._write(
            lambda state: None if batch.digest in state.barred else Refused(batch=batch, why=why)
        )[0]

    def promote(self, head: Champion, why: str) -> State:
        """Make a model the champion.

        Raises:
            UsageError: it was trained on a revoked batch.
        """
        return self._write(
            lambda state: _moving(state, Moved(head=head, action="promoted", why=why))
        )[0]

    def roll_back(self, head: Champion, why: str) -> State:
        """Make an earlier champion the champion again; raises as `promote`."""
        return self._write(
            lambda state: _moving(state, Moved(head=head, action="rolled back", why=why))
        )[0]

    def decline(self, why: str) -> State:
        """Refuse the round that waits for a word."""
        return self._write(
            lambda state: Declined(number=state.waiting.number, why=why) if state.waiting else None
        )[0]

    def revoke(self, batch: Delivery, why: str) -> State:
        """Bar a batch that was used; the head goes back to the last champion without it."""
        return self._write(lambda state: _revoking(state, batch, why))[0]

    def _write(self, decide: Callable[[State], Event | None]) -> tuple[State, bool]:
        """Write what `decide` makes of the state, or nothing; decided anew when overtaken."""
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
        raise Overtaken(f"line {self.name!r} is written to all the time; run the command again.")


# --- what to write, given a state ---------------------------------------------------------------


def _opening(state: State, batches: Deliveries) -> Event | None:
    if state.champion is None or state.open is not None or state.waiting is not None:
        return None
    if state.again and batches != state.again[0]:
        return None
    if not state.again and any(batch.digest in state.spent for batch in batches):
        return None
    return Opened(number=state.rounds + 1, parent=state.champion, batches=batches)


def _closing(
    state: State, number: int, head: Champion, fate: OutcomeName, why: str
) -> Event | None:
    if state.open is None or state.open.number != number:
        return None
    if state.is_overtaken:
        fate = "overtaken"
    return Closed(number=number, fate=fate, head=head, why=why)


def _moving(state: State, event: Moved) -> Event | None:
    if bad := state.barred_in(event.head.model):
        raise UsageError(
            f"{event.head.label} was trained on a revoked batch ({bad[0].file}). Train its round "
            "again without it: sft-dpo round"
        )
    return None if state.champion and state.champion.model == event.head.model else event


def _revoking(state: State, batch: Delivery, why: str) -> Event | None:
    if state.champion is None or batch.digest in state.barred:
        return None
    led = [opened for opened, _ in state.lineage]
    if state.waiting is not None:
        led.append(state.history[-1][0])  # no round is opened while one waits
    first = next((at for at, opened in enumerate(led) if batch in opened.batches), len(led))
    lost = [tuple(b for b in opened.batches if b != batch) for opened in led[first:]]
    return Revoked(
        batch=batch,
        head=led[first].parent if lost else state.champion,
        again=tuple(batches for batches in lost if batches),
        why=why,
    )
