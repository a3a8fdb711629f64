"""A line of rounds: the operations that change its champion, each one entry in the ledger.

A pure function of the state decides which entry to write. The entry gets a number that only one of
several writers can take (compare-and-swap); the others read the new state and decide again.
A batch revoked on one line is revoked on every line of the store that knows it, and whether a model
contains it is read from the model's manifests.
Not here: the state that entries add up to (`state.py`), the steps of a round (`steps.py`).
"""

from collections.abc import Callable, Iterator

from alignment.errors import ArtifactError, Overtaken, UsageError
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
    Ledger,
    Moved,
    Opened,
    OutcomeName,
    Refused,
    Returned,
    Revoked,
    Started,
)
from alignment.rounds.state import Deliveries, State, after, fold
from alignment.store.lineage import ancestors
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
        origin = self.store.origin
        bucket = origin.bucket if origin else None
        return Ledger(folder=self.store.root / "lines" / self.name, bucket=bucket)

    def state(self) -> State:
        """The current state, computed from all entries."""
        return fold(entry.event for entry in self.ledger.read())

    def start(self, champion: Champion, *, rounds: int, identity: Identity | None = None) -> State:
        """Start the line with the model of the configured run, unless it has already started."""
        started = Started(head=champion, rounds=rounds, identity=identity)
        return self._write(lambda state: None if state.champion else started)[0]

    def adopt(self, identity: Identity, why: str) -> State:
        """Continue the line with a config of this identity."""
        adopted = Adopted(identity=identity, why=why)
        return self._write(lambda state: None if state.identity == identity else adopted)[0]

    def open(self, batches: Deliveries) -> State:
        """Claim batches for the next round, unless a round is open or one of them was used."""
        return self._write(lambda state: _opening(state, batches))[0]

    def close(
        self,
        number: int,
        model: Champion,
        *,
        outcome: OutcomeName,
        why: str,
        gate: str = "",
        against: str | None = None,
    ) -> State:
        """Record the outcome of a round; if it is kept, its model becomes the champion.

        If the champion changed in the meantime, or the anchor is no longer the model `against` that
        the gate judged from, "overtaken" is recorded instead of `outcome`.

        Raises:
            Overtaken: another run has already closed this round.
        """
        self.revoke_as_elsewhere()
        closed = Closed(number=number, fate=outcome, head=model, why=why, gate=gate)
        state, written = self._write(lambda state: _closing(state, closed, against))
        if not written:
            done = next((c.fate for _, c in state.history if c.number == number), "not open")
            raise Overtaken(
                f"another run has already closed round {number} of line {self.name!r} ({done}); "
                "there is nothing left to do for this run."
            )
        return self.revoke_as_elsewhere()

    def fail(self, number: int, why: str) -> State:
        """Record that an attempt at the open round failed."""
        failed = Failed(number=number, why=why)
        return self._write(lambda state: failed if _is_open(state, number) else None)[0]

    def refuse(self, batch: Delivery, why: str, *, reader: str = "") -> State:
        """Bar a batch that cannot be used."""
        refused = Refused(batch=batch, why=why, reader=reader)
        return self._write(lambda state: None if batch.digest in state.barred else refused)[0]

    def give_back(self, batches: Deliveries, why: str) -> State:
        """Let rounds use batches that were refused or set aside; others are left out."""
        return self._write(lambda state: _returning(state, batches, why))[0]

    def promote(self, champion: Champion, why: str) -> State:
        """Make a model the champion, as a person wants it, and the anchor of the gate.

        Raises:
            UsageError: the model was trained on a revoked batch, or is not in the store.
        """
        return self._move(Moved(head=champion, action="promoted", why=why))

    def promote_by_gate(self, champion: Champion, why: str, *, seen: State) -> State:
        """Make a model the champion that the gate kept when it judged from the state `seen`.

        Raises:
            Overtaken: the champion or the anchor has changed since.
            UsageError: see `promote`.
        """
        return self._move(Moved(head=champion, action="promoted", why=why, by="gate"), seen)

    def roll_back(self, champion: Champion, why: str) -> State:
        """Make an earlier champion the champion again; raises like `promote`."""
        return self._move(Moved(head=champion, action="rolled back", why=why))

    def earlier_champion(self, reference: str | None = None) -> Champion:
        """The champion before the current one on its path, or any earlier one by key or label.

        Champions trained on a revoked batch do not count.

        Raises:
            UsageError: there is none.
        """
        state = self.state()
        if state.champion is None:
            raise self.no_champion()
        for champion in state.earlier_champions(reference):
            if _is_gone(self.store, champion.model) or not revoked_in(self.store, champion.model):
                return champion
        listed = ", ".join(f"{one.label} {one.model}" for one in dict.fromkeys(state.champions))
        raise UsageError(
            f"line {self.name!r} has no such earlier champion without a revoked batch (champions "
            f"so far: {listed or 'none'}). To make any other model the champion, use "
            "`sft-dpo promote`."
        )

    def no_champion(self) -> UsageError:
        """What to say of a line on which nothing was kept yet."""
        return UsageError(
            f"line {self.name!r} of {self.store.root} has no champion yet. Run a first round: "
            "`sft-dpo round CONFIG` with a config that has an `inbox`, or the deployment dpo-round."
        )

    def decline(self, model: str, why: str) -> State:
        """Decline the round of this model, if it waits for approval."""
        return self._write(lambda state: _declining(state, model, why))[0]

    def revoke(self, batch: Delivery, why: str) -> State:
        """Bar a batch that was used; the last champion without it becomes the champion again."""
        return self._write(lambda state: self._revoking(state, batch, why))[0]

    def revoke_as_elsewhere(self) -> State:
        """Revoke here what other lines of the store have revoked, if this line knows it."""
        state = self.state()
        for name, batch in self.revoked_elsewhere():
            if not state.has_revoked(batch) and self._knows(state, batch):
                own = state.known_batches.get(batch.digest, batch)  # it may have another name here
                state = self.revoke(own, f"revoked on line {name!r}")
        return state

    def revoked_elsewhere(self) -> Iterator[tuple[str, Delivery]]:
        """The batches that other lines of the store have revoked, with the name of the line."""
        others = (line for line in all_lines(self.store) if line.name != self.name)
        for line in others:
            yield from ((line.name, batch) for batch in line.state().revoked)

    def _move(self, event: Moved, seen: State | None = None) -> State:
        self._write(lambda state: _moving(self.store, state, event, seen))
        return self.revoke_as_elsewhere()  # another line may have revoked a batch meanwhile

    def _knows(self, state: State, batch: Delivery) -> bool:
        champion = state.champion
        return batch.digest in state.known_batches or (
            champion is not None and _contains(self.store, champion.model, batch)
        )

    def _revoking(self, state: State, batch: Delivery, why: str) -> Event | None:
        if state.champion is None or state.has_revoked(batch):
            return None
        head, lost = _without_batch(state, batch)
        if _contains(self.store, head.model, batch):  # promoted, so no round of this line made it
            sound = (c for c in state.path[::-1] if not _contains(self.store, c.model, batch))
            head = next(sound, head)
        return Revoked(batch=batch, head=head, again=lost, why=why)

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


def all_lines(store: Store) -> Iterator[RoundLine]:
    """All lines of a store, by name."""
    for name in store.line_names():
        yield RoundLine(store=store, name=name)


def how_to_approve(closed: Closed) -> str:
    """What a person does about a round that waits for approval."""
    return (
        f"round {closed.number} waits for approval: sft-dpo promote {closed.head.model}, or answer "
        "on the page of the flow `promote`, where it can also be declined"
    )


def revoked_in(store: Store, model: str) -> tuple[Delivery, ...]:
    """The batches, revoked on any line of the store, that a model was trained on.

    Raises:
        ArtifactError: an ancestor of the model is no longer in the store.
    """
    revoked = {batch.key: batch for line in all_lines(store) for batch in line.state().revoked}
    made_of = ancestors(store, model) if revoked else []
    return tuple(revoked[record.key] for record in made_of if record.key in revoked)


def check_sound(store: Store, label: str, model: str) -> None:
    """Check that a model was not trained on a revoked batch.

    Raises:
        UsageError: it was.
    """
    if bad := revoked_in(store, model):
        raise UsageError(
            f"{label} was trained on a revoked batch ({bad[0].shown_file}). Retrain its round "
            "without that batch: sft-dpo round"
        )


def _is_gone(store: Store, key: str) -> bool:
    """Whether an artifact is missing or its manifest is damaged."""
    try:
        return store.find(key) is None
    except ArtifactError:
        return True


def _contains(store: Store, model: str, batch: Delivery) -> bool:
    """Whether a model was trained on a batch, as far as its ancestors are in the store."""
    try:
        return any(record.key == batch.key for record in ancestors(store, model))
    except ArtifactError:
        return False


# --- the event to write, given the state ---------------------------------------------------------


def _opening(state: State, batches: Deliveries) -> Event | None:
    if state.champion is None or state.open is not None or state.waiting is not None:
        return None
    if state.requeued and batches != state.requeued[0]:
        return None
    if not state.requeued and any(batch.digest in state.spent for batch in batches):
        return None
    return Opened(
        number=state.rounds + 1,
        parent=state.champion,
        batches=batches,
        anchor=state.anchor,
        look=state.looks + 1,
    )


def _is_open(state: State, number: int) -> bool:
    return state.open is not None and state.open.number == number


def _closing(state: State, closed: Closed, against: str | None) -> Event | None:
    if not _is_open(state, closed.number):
        return None
    if state.is_overtaken or against not in (None, state.anchor and state.anchor.model):
        return closed.model_copy(update={"fate": "overtaken"})
    return closed


def _declining(state: State, model: str, why: str) -> Event | None:
    waiting = state.waiting
    if waiting is None or waiting.head.model != model:
        return None
    return Declined(number=waiting.number, why=why)


def _returning(state: State, batches: Deliveries, why: str) -> Event | None:
    digests = {*state.refused, *(batch.digest for batch in state.set_aside)}
    found = tuple(batch for batch in batches if batch.digest in digests)
    return Returned(batches=found, why=why) if found else None


def _moving(store: Store, state: State, event: Moved, seen: State | None) -> Event | None:
    champion = event.head
    if seen is not None and (seen.champion, seen.anchor) != (state.champion, state.anchor):
        raise Overtaken(
            f"the champion or the anchor changed while {champion.label} was judged; run the same "
            "command again."
        )
    if _is_gone(store, champion.model):
        raise UsageError(
            f"{champion.label} ({champion.model}) is no longer in {store.root} as it was, so no "
            "round could start from it. Name another model: sft-dpo show"
        )
    check_sound(store, champion.label, champion.model)
    stays = state.champion is not None and state.champion.model == champion.model
    return None if stays and not _approves(state, event) else event


def _approves(state: State, event: Moved) -> bool:
    """Whether a person confirms the champion, so that the gate judges from there."""
    by_person = event.action == "promoted" and event.by == "person"
    return by_person and (state.looks > 0 or state.anchor != state.champion)


def _without_batch(state: State, batch: Delivery) -> tuple[Champion, tuple[Deliveries, ...]]:
    """The last champion before a batch was used; the other batches of each round lost with it."""
    assert state.champion is not None
    rounds = [opened for opened, _ in state.lineage]
    if state.waiting is not None:
        rounds.append(state.history[-1][0])  # the last one: no round is opened while one waits
    first = next((i for i, opened in enumerate(rounds) if batch in opened.batches), len(rounds))
    lost = [tuple(b for b in opened.batches if b != batch) for opened in rounds[first:]]
    head = rounds[first].parent if lost else state.champion
    return head, tuple(batches for batches in lost if batches)
