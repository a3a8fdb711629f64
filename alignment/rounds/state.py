"""The state of a line of rounds, computed from its ledger: champion, open round, spent batches.

A pure function of the events: no files, no clock. The life of a batch: it arrives in the inbox, is
claimed by an open round, and is spent once that round is kept, rejected, set aside or waits for
approval. The batches of an overtaken round go to the next round.
Not here: writing entries (`line.py`), what is in the inbox (`inbox.py`).
"""

from collections.abc import Iterable
from functools import reduce

from pydantic import Field

from alignment.errors import UsageError
from alignment.records.base import Frozen
from alignment.rounds.ledger import (
    Adopted,
    Champion,
    Closed,
    Declined,
    Delivery,
    Event,
    Failed,
    Identity,
    Moved,
    Opened,
    Refused,
    Returned,
    Revoked,
    Started,
)

Deliveries = tuple[Delivery, ...]


class State(Frozen):
    """The state of a line of rounds.

    Attributes:
        paths: after each change of the champion, the champions that led to it, itself last. A
            rollback goes back along this path, whatever was the champion in between.
        identity: what the line is made of, if an entry says so.
        approved: the champions that a person promoted, by key of the model.
        verdicts: number of verdicts by the anchor they were judged against, since its approval.
        rounds: number of rounds so far, including those of the configured run.
        open: the round that has claimed batches and is not closed.
        waiting: the round that passed the gate and waits for approval.
        failures: why each attempt at the open round failed.
        history: all closed rounds, in order.
        refused: refused batches by digest.
        revoked: revoked batches.
        returned: batches that were refused or set aside and may be used again.
        requeued: batches of rounds that were overtaken or lost to a revoked batch. They form the
            next rounds, before any new batch.
    """

    paths: tuple[tuple[Champion, ...], ...] = ()
    identity: Identity | None = None
    approved: frozenset[str] = frozenset()
    verdicts: dict[str, int] = Field(default_factory=dict)
    rounds: int = 0
    open: Opened | None = None
    waiting: Closed | None = None
    history: tuple[tuple[Opened, Closed], ...] = ()
    failures: tuple[str, ...] = ()
    refused: dict[str, Refused] = Field(default_factory=dict)
    revoked: Deliveries = ()
    returned: Deliveries = ()
    requeued: tuple[Deliveries, ...] = ()

    @property
    def path(self) -> tuple[Champion, ...]:
        """The champions that led to the current one, which is last."""
        return self.paths[-1] if self.paths else ()

    @property
    def champion(self) -> Champion | None:
        """The current champion; None before the line has started."""
        return self.path[-1] if self.path else None

    @property
    def anchor(self) -> Champion | None:
        """The last approved model that led to the champion; the line's first, if there is none."""
        approved = (one for one in reversed(self.path) if one.model in self.approved)
        return next(approved, self.path[0] if self.path else None)

    @property
    def looks(self) -> int:
        """Verdicts against the anchor; a rollback to an earlier anchor continues its count."""
        return self.verdicts.get(self.anchor.model, 0) if self.anchor is not None else 0

    @property
    def looks_left(self) -> int | None:
        """Verdicts until a person has to confirm the champion; None if the gate counts none."""
        if self.identity is None:
            return None
        gate = self.identity.gate
        if gate is None:
            from alignment.evaluate.settings import AnchoredGate  # loads the formats of all data

            return max(AnchoredGate().rounds - self.looks, 0)
        rounds = gate.get("rounds")
        return max(rounds - self.looks, 0) if isinstance(rounds, int) else None

    def verdict_on(self, model: str) -> Closed | None:
        """The round in which the line's gate judged a model, if it did."""
        rounds = (closed for _, closed in reversed(self.history) if closed.fate != "failed")
        return next((closed for closed in rounds if closed.head.model == model), None)

    @property
    def champions(self) -> tuple[Champion, ...]:
        """All champions so far, the current one last."""
        return tuple(path[-1] for path in self.paths)

    @property
    def barred(self) -> frozenset[str]:
        """Digests of refused and revoked batches."""
        return frozenset(self.refused) | {batch.digest for batch in self.revoked}

    def has_revoked(self, batch: Delivery) -> bool:
        """Whether this batch was revoked, under whatever file name."""
        return batch.digest in {revoked.digest for revoked in self.revoked}

    @property
    def lineage(self) -> tuple[tuple[Opened, Closed], ...]:
        """The rounds that led to the champion, oldest first."""
        return self._rounds_to(self.champion.model if self.champion else "")

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
        returned = {batch.digest for batch in self.returned}
        found = {batch.digest for opened in used for batch in opened.batches}
        return (self.barred | found | requeued) - returned

    @property
    def set_aside(self) -> Deliveries:
        """The batches whose last round failed."""
        last = {b.digest: (b, closed.fate) for one, closed in self.history for b in one.batches}
        busy = {batch.digest for batch in (*self._claimed, *self.returned)} | self.barred
        return tuple(b for b, fate in last.values() if fate == "failed" and b.digest not in busy)

    @property
    def _claimed(self) -> Deliveries:
        return self.open.batches if self.open is not None else ()

    @property
    def is_overtaken(self) -> bool:
        """Whether the open round can no longer change the champion."""
        if self.open is None or self.champion is None:
            return False
        moved = self.open.parent.model != self.champion.model
        return moved or any(batch.digest in self.barred for batch in self.open.batches)

    def earlier_champions(self, reference: str | None = None) -> tuple[Champion, ...]:
        """The champions to which a rollback may go back, the nearest first.

        Without a reference, those that led to the current one; with the key or label of a model,
        any champion so far.
        """
        candidates = self.path if reference is None else self.champions
        known = {one.model: one for one in candidates}
        return tuple(
            one
            for one in dict.fromkeys(known[one.model] for one in reversed(candidates))
            if one.model != (self.champion and self.champion.model)
            and reference in (None, one.model, one.label)
        )

    @property
    def known_batches(self) -> dict[str, Delivery]:
        """All batches that rounds have used or use, by digest."""
        known = {b.digest: b for opened, _ in self.history for b in opened.batches}
        return known | {batch.digest: batch for batch in self._claimed}

    def find_batch(self, reference: str) -> Delivery:
        """The used batch with this file name or step name, or whose digest or key begins like this.

        Raises:
            UsageError: no batch matches, or several do.
        """
        known = self.known_batches
        found = [batch for batch in known.values() if batch.is_called(reference)]
        if len(found) == 1:
            return found[0]
        listed = "".join(f"\n  {batch.name}  {batch.shown_file}" for batch in known.values())
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
            identity = event.identity
            return {"rounds": event.rounds, "identity": identity, **_promoted(state, event.head)}
        case Adopted():
            return {"identity": event.identity}
        case Opened():
            return _opened(state, event)
        case Failed():
            return {"failures": (*state.failures, event.why)}
        case Closed():
            return _closed(state, event)
        case Moved():
            return _moved(state, event)
        case Declined():
            return {"waiting": None}
        case Refused():
            return {
                "refused": {**state.refused, event.batch.digest: event},
                **_without(state, event.batch),
            }
        case Returned():
            return _returned(state, event)
        case Revoked():
            return _revoked(state, event)


def _opened(state: State, event: Opened) -> dict[str, object]:
    claimed = {batch.digest for batch in event.batches}
    return {
        "rounds": event.number,
        "open": event,
        "waiting": None,
        "failures": (),
        "requeued": state.requeued[1:],
        "returned": tuple(batch for batch in state.returned if batch.digest not in claimed),
    }


def _closed(state: State, event: Closed) -> dict[str, object]:
    opened = state.open
    assert opened is not None, "closed a round that was not opened"
    assert opened.number == event.number, "closed another round than the open one"
    judged = event.fate not in ("overtaken", "failed")
    changes: dict[str, object] = {
        "open": None,
        "failures": (),
        **(_one_more_verdict(state) if judged else {}),
        "history": (*state.history, (opened, event)),
    }
    if event.fate == "overtaken":
        changes["requeued"] = _unused(state, (opened.batches, *state.requeued))
    if event.fate == "kept":
        changes |= _promoted(state, event.head)
    if event.fate == "waiting":
        changes["waiting"] = event
    return changes


def _moved(state: State, event: Moved) -> dict[str, object]:
    change = _promoted if event.action == "promoted" else _gone_back
    changes = change(state, event.head)
    if changes:  # else the champion is only confirmed
        changes["waiting"] = None
    if event.action == "promoted":
        changes |= _judged_again(state, event)
    moved = state.model_copy(update=changes)
    return {**changes, "requeued": _unused(moved, state.requeued)}


def _unused(state: State, groups: tuple[Deliveries, ...]) -> tuple[Deliveries, ...]:
    """The batches of each group that the champion does not contain and that are not barred."""
    used = {batch.digest for opened, _ in state.lineage for batch in opened.batches} | state.barred
    left = (tuple(b for b in batches if b.digest not in used) for batches in groups)
    return tuple(batches for batches in left if batches)


def _judged_again(state: State, event: Moved) -> dict[str, object]:
    """A person's promotion is where the gate begins again; one by the gate is another verdict."""
    if event.by == "gate":
        return _one_more_verdict(state)
    model = event.head.model
    return {"approved": state.approved | {model}, "verdicts": {**state.verdicts, model: 0}}


def _one_more_verdict(state: State) -> dict[str, object]:
    assert state.anchor is not None, "a line that has verdicts has an anchor"
    return {"verdicts": {**state.verdicts, state.anchor.model: state.looks + 1}}


def _returned(state: State, event: Returned) -> dict[str, object]:
    digests = {batch.digest for batch in event.batches}
    left = {digest: refused for digest, refused in state.refused.items() if digest not in digests}
    return {"refused": left, "returned": (*state.returned, *event.batches)}


def _revoked(state: State, event: Revoked) -> dict[str, object]:
    changes = {
        "revoked": (*state.revoked, event.batch),
        **_without(state, event.batch, more=event.again),
    }
    if event.head != state.champion:
        changes |= {"waiting": None, **_gone_back(state, event.head)}
    elif state.waiting is not None and event.batch in state.history[-1][0].batches:
        changes["waiting"] = None
    return changes


def _promoted(state: State, champion: Champion) -> dict[str, object]:
    if state.champion is not None and state.champion.model == champion.model:  # only approved
        return {}
    return {"paths": (*state.paths, (*state.path, champion))}


def _gone_back(state: State, champion: Champion) -> dict[str, object]:
    """The path of the champion ends where it last did: where it is on the path, or was its end."""
    before = [
        path[: at + 1]
        for path in (*state.paths[:-1], state.path)
        for at, one in enumerate(path)
        if one.model == champion.model and (at + 1 == len(path) or path is state.path)
    ]
    path = (*before[-1][:-1], champion) if before else (*state.path, champion)
    return {"paths": (*state.paths, path)}


def _without(state: State, batch: Delivery, more: tuple[Deliveries, ...] = ()) -> dict[str, object]:
    """The batches that wait for a round, without one that is barred."""
    left = (tuple(b for b in batches if b != batch) for batches in (*more, *state.requeued))
    return {
        "requeued": tuple(batches for batches in left if batches),
        "returned": tuple(one for one in state.returned if one.digest != batch.digest),
    }
