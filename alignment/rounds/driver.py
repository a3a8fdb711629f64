"""Drives one round from an inbox: scan, claim, train, judge, close. The caller builds the steps.

The process may die at any point: the claim is written to the ledger before training, the entry that
closes the round also changes the champion, and the next call resumes from there. What to do next is
read from the ledger and the inbox, never passed in by the caller.
Not here: the champion and the used batches (`state.py`), the steps of a round (`steps.py`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from alignment.config.pipeline import PipelineConfig
from alignment.errors import DataError, Overtaken
from alignment.pipeline.chain import Round
from alignment.pipeline.steps import Step, TakeBatch
from alignment.pipeline.steps.batches import batch_file
from alignment.pipeline.verdicts import chain_so_far
from alignment.rounds.inbox import Arrival, SkippedFile, scan, why_unreadable
from alignment.rounds.ledger import Delivery, OutcomeName
from alignment.rounds.line import RoundLine, check_sound, revoked_batches
from alignment.rounds.state import Deliveries, State
from alignment.rounds.steps import batches_step, first_champion, inbox_of, outcome, steps_of

DriverOutcome = OutcomeName | Literal["no new data"]


@dataclass(frozen=True)
class Hooks:
    """The actions that the caller of a round supplies.

    Attributes:
        run_chain: runs the configured chain, whose last model becomes the first champion.
        build: builds a step or reuses its artifact; raises what the step raises.
        report: called with a round whose steps are done, before it is closed.
        log: writes a line to the log.
        now: returns seconds since the epoch.
    """

    run_chain: Callable[[], object]
    build: Callable[[Step], object]
    report: Callable[[Round], object] = lambda _: None
    log: Callable[[str], None] = lambda _: None
    now: Callable[[], float] = time.time


@dataclass(frozen=True)
class RoundOutcome:
    """The outcome of a round, a sentence with the gate's numbers, and the state of the line."""

    outcome: DriverOutcome
    message: str
    state: State


class RoundDriver:
    """One attempt at a round."""

    def __init__(self, settings: PipelineConfig, line: RoundLine, hooks: Hooks) -> None:
        self._settings, self._line, self._hooks = settings, line, hooks
        self._inbox = inbox_of(settings)

    def run(self) -> RoundOutcome:
        """Finish the open round, or start one if there are enough new pairs."""
        state = self._line.revoke_as_elsewhere()
        if state.champion is None:
            found = self._scan()
            if not any(isinstance(file, Arrival) for file in found):
                reason = f"no complete batch in {self._inbox.path}, and the line has no champion"
                return _nothing_new(state, reason, found)
            state = self._start_line()
        if state.waiting is not None:
            message = f"round {state.waiting.number} waits for approval"
            return RoundOutcome("waiting", message, state)
        if state.open is not None and state.is_overtaken:
            why = "the champion changed, or a batch was revoked, before the round was trained"
            opened = state.open
            state = self._line.close(opened.number, opened.parent, outcome="overtaken", why=why)
        claimed = state if state.open is not None else self._claim()
        return claimed if isinstance(claimed, RoundOutcome) else self._train(claimed)

    def _scan(self) -> list[Arrival | SkippedFile]:
        return list(scan(self._inbox, now=self._hooks.now))

    def _start_line(self) -> State:
        self._hooks.run_chain()
        champion = first_champion(self._line.store, chain_so_far(self._settings, self._line.store))
        return self._line.start(champion, rounds=len(self._settings.rounds))

    def _claim(self) -> State | RoundOutcome:
        """Open a round on the new batches, or return an outcome if they have too few pairs."""
        state = self._line.state()
        assert state.champion is not None, "a started line has a champion"
        check_sound(self._line.store, state.champion.label, state.champion.model)
        while state.requeued:  # retrained however few pairs are left in them
            if self._new_pairs(state.requeued[0]):
                return self._line.open(state.requeued[0])
            for batch in state.requeued[0]:
                state = self._line.refuse(batch, "none of its rows can be used")
        found = self._scan()
        batches = self._copy_new([file for file in found if isinstance(file, Arrival)])
        new, needed = self._new_pairs(batches) if batches else 0, self._inbox.min_new_pairs
        if new >= needed:
            return self._line.open(batches)
        reason = f"{new} new pairs in {len(batches)} batches, {needed} are needed"
        return _nothing_new(self._line.state(), reason, found)

    def _copy_new(self, arrivals: Sequence[Arrival]) -> Deliveries:
        """Copy the batches that no round has used into the store; refuse unreadable ones."""
        known = {batch.digest for _, batch in revoked_batches(self._line.store)}
        known |= self._line.state().spent
        batches: list[Delivery] = []
        for arrival in arrivals:
            if arrival.digest in known:
                self._hooks.log(f"{arrival.file}: skipped, because this batch is already known")
                continue
            known.add(arrival.digest)
            if (batch := self._copy(arrival)) is None:
                continue
            file = batch_file(self._line.store, batch.key)
            if problem := why_unreadable(self._inbox, str(file)):
                self._line.refuse(batch, problem)
                self._hooks.log(f"{arrival.file}: refused: {problem}")
                continue
            batches.append(batch)
        return tuple(sorted(batches, key=lambda batch: batch.digest))

    def _copy(self, arrival: Arrival) -> Delivery | None:
        step = TakeBatch.of(arrival.digest, arrival.file)
        try:
            self._hooks.build(step)
        except DataError as error:  # it changed or disappeared after the scan
            self._hooks.log(str(error))
            return None
        return Delivery(digest=arrival.digest, key=step.key, file=PurePath(arrival.file).name)

    def _new_pairs(self, batches: Deliveries) -> int:
        """The number of pairs in these batches that can be trained on."""
        state, keys = self._line.state(), tuple(batch.key for batch in batches)
        assert state.champion is not None, "a started line has a champion"
        step = batches_step(
            self._settings,
            self._line.store,
            parent=state.champion,
            number=state.rounds + 1,
            batches=keys,
        )
        self._hooks.build(step)
        return round(self._line.store.open(step.key).metrics["new"])

    def _train(self, state: State) -> RoundOutcome:
        """Train the open round, judge it, and close it in the ledger."""
        opened = state.open
        if opened is None:  # another run has already closed the round that this one tried to open
            message = "another run closed the round first; the next run scans the inbox again"
            return RoundOutcome("overtaken", message, state)
        round_ = steps_of(self._settings, self._line.store, opened)
        for step in (round_.pairs, *round_.steps()):
            self._hooks.build(step)
        self._hooks.report(round_)
        model, judged, message = outcome(self._settings, self._line.store, round_)
        try:
            state = self._line.close(opened.number, model, outcome=judged, why=message)
        except Overtaken as error:
            return RoundOutcome("overtaken", str(error), self._line.state())
        closed = state.history[-1][1]
        if closed.fate == "overtaken":
            message = f"the champion changed while round {opened.number} was trained; {message}"
        return RoundOutcome(closed.fate, message, state)


def _nothing_new(state: State, reason: str, found: Sequence[Arrival | SkippedFile]) -> RoundOutcome:
    skipped = [f"; skipped: {f.file} ({f.why})" for f in found if isinstance(f, SkippedFile)]
    return RoundOutcome("no new data", f"no new data: {reason}{''.join(skipped)}", state)
