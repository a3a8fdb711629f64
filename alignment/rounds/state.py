"""What the entries of a ledger add up to: champion, open round, spent batches.

A pure function of the events and nothing else: no file, no clock. The life of a batch: in the
inbox, claimed by an open round, spent once that round is kept, rejected or waits for a person. The
batches of a round that was overtaken are the next round's.
Not here: writing entries (`line.py`), what is in the inbox (`intake.py`).
"""

from collections.abc import Iterable
from functools import reduce
from pathlib import PurePath

from alignment.errors import UsageError
from alignment.records import Frozen
from alignment.rounds.ledger import (
    Champion,
    Closed,
    Declined,
    Delivery,
    Event,
    Moved,
    Opened,
    Refused,
    Revoked,
    Started,
)

Deliveries = tuple[Delivery, ...]


class State(Frozen):
    """What the entries of a ledger add up to.

    Attributes:
        champion: None before the line has started.
        rounds: rounds counted so far, those of the configured run included.
        open: the round that has claimed batches and is not closed.
        waiting: the round that passed the gate and waits for a person.
        history: every closed round, in order.
        champions: every head there was, the last one last.
        barred: digests of batches that were refused or revoked.
        again: batches of rounds that were overtaken or lost to a revoked batch; they are the next
            rounds, before anything new.
    """

    champion: Champion | None = None
    rounds: int = 0
    open: Opened | None = None
    waiting: Closed | None = None
    history: tuple[tuple[Opened, Closed], ...] = ()
    champions: tuple[Champion, ...] = ()
    barred: frozenset[str] = frozenset()
    again: tuple[Deliveries, ...] = ()

    @property
    def lineage(self) -> tuple[tuple[Opened, Closed], ...]:
        """The rounds that led to the head, oldest first."""
        return self._led_to(self.champion.model if self.champion else "")

    def barred_in(self, model: str) -> tuple[Delivery, ...]:
        """The refused or revoked batches that a model was trained on."""
        batches = (batch for opened, _ in self._led_to(model) for batch in opened.batches)
        return tuple(batch for batch in batches if batch.digest in self.barred)

    def _led_to(self, model: str) -> tuple[tuple[Opened, Closed], ...]:
        found: list[tuple[Opened, Closed]] = []
        for opened, closed in reversed(self.history):
            if closed.head.model == model != opened.parent.model:
                found.append((opened, closed))
                model = opened.parent.model
        return tuple(reversed(found))

    @property
    def spent(self) -> frozenset[str]:
        """Digests of the batches that no further round may use."""
        done = (opened for opened, closed in self.history if closed.fate != "overtaken")
        used = (*done, *(opened for opened, _ in self.lineage))
        queued = {batch.digest for batches in self.again for batch in batches}
        return self.barred | ({b.digest for opened in used for b in opened.batches} | queued)

    @property
    def is_overtaken(self) -> bool:
        """Whether the open round can no longer move the head."""
        if self.open is None or self.champion is None:
            return False
        moved = self.open.parent.model != self.champion.model
        return moved or any(batch.digest in self.barred for batch in self.open.batches)

    def earlier_champion(self, model: str | None = None) -> Champion:
        """The last champion with this model, or the last one that is not the present one.

        One that contains a revoked batch does not count.

        Raises:
            UsageError: there was none.
        """
        sound = (head for head in self.champions if not self.barred_in(head.model))
        others = [head for head in sound if head != self.champion]
        found = [head for head in others if model in (None, head.model)]
        if not found:
            listed = ", ".join(dict.fromkeys(f"{head.label} {head.model}" for head in others))
            raise UsageError(
                f"there is no such earlier champion (there were: {listed or 'none'}). Any other "
                "model is made the champion with `sft-dpo promote`."
            )
        return found[-1]

    def find_batch(self, reference: str) -> Delivery:
        """The batch that a person means by a file name or the beginning of its digest or key.

        Raises:
            UsageError: no round has used such a batch, or several have.
        """
        known = {b.digest: b for opened, _ in self.history for b in opened.batches}
        if self.open is not None:
            known |= {batch.digest: batch for batch in self.open.batches}
        found = [
            batch
            for batch in known.values()
            if batch.file == PurePath(reference).name
            or batch.digest.startswith(reference)
            or batch.key.startswith(reference)
        ]
        if len(found) == 1:
            return found[0]
        listed = "".join(f"\n  {batch.digest[:12]}  {batch.file}" for batch in known.values())
        raise UsageError(
            f"{reference!r} names {len(found)} of the batches that rounds have used:"
            f"{listed or ' there are none yet'}"
        )


def fold(events: Iterable[Event]) -> State:
    """The state after these events."""
    return reduce(after, events, State())


# --- what an event changes ----------------------------------------------------------------------


def after(state: State, event: Event) -> State:
    """The state when one more event has been written down."""
    return state.model_copy(update=_changes(state, event))


def _changes(state: State, event: Event) -> dict[str, object]:
    match event:
        case Started():
            return {"rounds": event.rounds, **_with_champion(state, event.head)}
        case Opened():
            return {"rounds": event.number, "open": event, "again": state.again[1:]}
        case Closed():
            return _closed(state, event)
        case Moved():
            return _moved(state, event)
        case Declined():
            return {"waiting": None}
        case Refused():
            return _barred(state, event.batch)
        case Revoked():
            return _revoked(state, event)


def _closed(state: State, event: Closed) -> dict[str, object]:
    opened = state.open
    assert opened is not None, "a round is closed that was not opened"
    assert opened.number == event.number, "another round is closed than was opened"
    changes: dict[str, object] = {"open": None, "history": (*state.history, (opened, event))}
    if event.fate == "overtaken":
        left = tuple(batch for batch in opened.batches if batch.digest not in state.barred)
        changes["again"] = (left, *state.again) if left else state.again
    if event.fate == "kept":
        changes |= _with_champion(state, event.head)
    if event.fate == "waiting":
        changes["waiting"] = event
    return changes


def _moved(state: State, event: Moved) -> dict[str, object]:
    moved = state.model_copy(update={"waiting": None, **_with_champion(state, event.head)})
    used = {batch for opened, _ in moved.lineage for batch in opened.batches}
    again = tuple(batches for batches in state.again if used.isdisjoint(batches))
    return {"waiting": None, "again": again, **_with_champion(state, event.head)}


def _revoked(state: State, event: Revoked) -> dict[str, object]:
    changes = _barred(state, event.batch, more=event.again)
    if event.head != state.champion:
        changes |= {"waiting": None, **_with_champion(state, event.head)}
    elif state.waiting is not None and event.batch in state.history[-1][0].batches:
        changes["waiting"] = None
    return changes


def _with_champion(state: State, head: Champion) -> dict[str, object]:
    return {"champion": head, "champions": (*state.champions, head)}


def _barred(state: State, batch: Delivery, more: tuple[Deliveries, ...] = ()) -> dict[str, object]:
    left = (tuple(b for b in batches if b != batch) for batches in (*more, *state.again))
    return {
        "barred": state.barred | {batch.digest},
        "again": tuple(batches for batches in left if batches),
    }
