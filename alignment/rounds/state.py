"""The state of a line of rounds, computed from its ledger: champion, open round, spent batches.

A pure function of the events: no files, no clock. The life of a batch: it arrives in the inbox, is
claimed by an open round, and is spent once that round is kept, rejected or waits for approval. The
batches of an overtaken round go to the next round.
Not here: writing entries (`line.py`), what is in the inbox (`inbox.py`).
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
    """The state of a line of rounds.

    Attributes:
        champion: None before the line has started.
        rounds: number of rounds so far, including those of the configured run.
        open: the round that has claimed batches and is not closed.
        waiting: the round that passed the gate and waits for approval.
        history: all closed rounds, in order.
        champions: all champions so far, the current one last.
        barred: digests of refused and revoked batches.
        requeued: batches of rounds that were overtaken or lost to a revoked batch. They form the
            next rounds, before any new batch.
    """

    champion: Champion | None = None
    rounds: int = 0
    open: Opened | None = None
    waiting: Closed | None = None
    history: tuple[tuple[Opened, Closed], ...] = ()
    champions: tuple[Champion, ...] = ()
    barred: frozenset[str] = frozenset()
    requeued: tuple[Deliveries, ...] = ()

    @property
    def lineage(self) -> tuple[tuple[Opened, Closed], ...]:
        """The rounds that led to the champion, oldest first."""
        return self._rounds_to(self.champion.model if self.champion else "")

    def barred_in(self, model: str) -> tuple[Delivery, ...]:
        """The refused or revoked batches that a model was trained on."""
        batches = (batch for opened, _ in self._rounds_to(model) for batch in opened.batches)
        return tuple(batch for batch in batches if batch.digest in self.barred)

    def _rounds_to(self, model: str) -> tuple[tuple[Opened, Closed], ...]:
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
        requeued = {batch.digest for batches in self.requeued for batch in batches}
        return self.barred | ({b.digest for opened in used for b in opened.batches} | requeued)

    @property
    def is_overtaken(self) -> bool:
        """Whether the open round can no longer change the champion."""
        if self.open is None or self.champion is None:
            return False
        moved = self.open.parent.model != self.champion.model
        return moved or any(batch.digest in self.barred for batch in self.open.batches)

    def earlier_champion(self, model: str | None = None) -> Champion:
        """The latest earlier champion, or the one with this model.

        Champions trained on a revoked batch do not count.

        Raises:
            UsageError: there is none.
        """
        sound = (one for one in self.champions if not self.barred_in(one.model))
        earlier = [one for one in sound if one != self.champion]
        found = [one for one in earlier if model in (None, one.model)]
        if not found:
            listed = ", ".join(dict.fromkeys(f"{one.label} {one.model}" for one in earlier))
            raise UsageError(
                f"no such earlier champion (earlier champions: {listed or 'none'}). To make any "
                "other model the champion, use `sft-dpo promote`."
            )
        return found[-1]

    def find_batch(self, reference: str) -> Delivery:
        """The used batch with this file name, or whose digest or key begins with `reference`.

        Raises:
            UsageError: no batch matches, or several do.
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
            f"{reference!r} matches {len(found)} of the batches that rounds have used:"
            f"{listed or ' none so far'}"
        )


def fold(events: Iterable[Event]) -> State:
    """The state after these events."""
    return reduce(after, events, State())


# --- what an event changes ----------------------------------------------------------------------


def after(state: State, event: Event) -> State:
    """The state after one more event."""
    return state.model_copy(update=_changes(state, event))


def _changes(state: State, event: Event) -> dict[str, object]:
    match event:
        case Started():
            return {"rounds": event.rounds, **_with_champion(state, event.head)}
        case Opened():
            return {"rounds": event.number, "open": event, "requeued": state.requeued[1:]}
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
    assert opened is not None, "closed a round that was not opened"
    assert opened.number == event.number, "closed another round than the open one"
    changes: dict[str, object] = {"open": None, "history": (*state.history, (opened, event))}
    if event.fate == "overtaken":
        left = tuple(batch for batch in opened.batches if batch.digest not in state.barred)
        changes["requeued"] = (left, *state.requeued) if left else state.requeued
    if event.fate == "kept":
        changes |= _with_champion(state, event.head)
    if event.fate == "waiting":
        changes["waiting"] = event
    return changes


def _moved(state: State, event: Moved) -> dict[str, object]:
    moved = state.model_copy(update={"waiting": None, **_with_champion(state, event.head)})
    used = {batch for opened, _ in moved.lineage for batch in opened.batches}
    requeued = tuple(batches for batches in state.requeued if used.isdisjoint(batches))
    return {"waiting": None, "requeued": requeued, **_with_champion(state, event.head)}


def _revoked(state: State, event: Revoked) -> dict[str, object]:
    changes = _barred(state, event.batch, more=event.again)
    if event.head != state.champion:
        changes |= {"waiting": None, **_with_champion(state, event.head)}
    elif state.waiting is not None and event.batch in state.history[-1][0].batches:
        changes["waiting"] = None
    return changes


def _with_champion(state: State, champion: Champion) -> dict[str, object]:
    return {"champion": champion, "champions": (*state.champions, champion)}


def _barred(state: State, batch: Delivery, more: tuple[Deliveries, ...] = ()) -> dict[str, object]:
    left = (tuple(b for b in batches if b != batch) for batches in (*more, *state.requeued))
    return {
        "barred": state.barred | {batch.digest},
        "requeued": tuple(batches for batches in left if batches),
    }
