"""Drives one round from an inbox: scan, claim, train, judge, close. The caller builds the steps.

The process may die at any point: the claim is written to the ledger before training, the entry that
closes the round also changes the champion, and the next call resumes from there. What to do next is
read from the ledger and the inbox, never passed in by the caller.
Not here: the champion and the used batches (`state.py`), which batches a round takes (`intake.py`),
the steps of a round (`steps.py`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from alignment.config.inbox import InboxConfig
from alignment.config.pipeline import PipelineConfig
from alignment.errors import (
    AlignmentError,
    DataError,
    Overtaken,
    TrainingError,
    UsageError,
    printable,
)
from alignment.evaluate.settings import AnchoredGate
from alignment.pipeline.chain import Round
from alignment.pipeline.data_sets import seed_for
from alignment.pipeline.steps import Step
from alignment.pipeline.verdicts import chain_so_far
from alignment.records.refs import DataRef
from alignment.rounds.identity import check, check_cheaply, identity_of
from alignment.rounds.inbox import Arrival
from alignment.rounds.inspection import Inspector
from alignment.rounds.intake import Intake, Wanted, notes_on
from alignment.rounds.ledger import BatchKind, Champion, Opened, OutcomeName
from alignment.rounds.line import RoundLine, check_sound, how_to_approve
from alignment.rounds.losses import lost_entries
from alignment.rounds.measure import Measure, rows_of_line
from alignment.rounds.notes import Note, keep_notes, shortened
from alignment.rounds.repair import Repair
from alignment.rounds.state import Deliveries, State
from alignment.rounds.steps import (
    answers_of,
    first_champion,
    gate_of,
    inbox_of,
    outcome,
    source_step,
    steps_of,
)
from alignment.store.activity import note_steps

DriverOutcome = OutcomeName | Literal["no new data"]
ALL = Wanted()
REPEATABLE = (DataError, TrainingError)
"""Errors that the next attempt at a round may well repeat; others have a cause outside it."""


@dataclass(frozen=True)
class Hooks:
    """The actions that the caller of a round supplies.

    Attributes:
        run_chain: runs the configured chain, whose last model becomes the first champion.
        build: builds a step or reuses its artifact; raises what the step raises.
        report: called with a round whose steps are done, before it is closed.
        log: writes a line to the log.
        now: returns seconds since the epoch.
        inspect: returns why a batch at a path cannot be read; by default in a process of its own.
        try_model: raises why a round's steps cannot start from a champion, before any is built.
    """

    run_chain: Callable[[], object]
    build: Callable[[Step], object]
    report: Callable[[Round], object] = lambda _: None
    log: Callable[[str], None] = lambda _: None
    now: Callable[[], float] = time.time
    inspect: Callable[[InboxConfig, str, BatchKind], str | None] | None = None
    try_model: Callable[[Champion, Sequence[Step]], None] = lambda *_: None


@dataclass(frozen=True)
class RoundOutcome:
    """The outcome of a round, a sentence with the gate's numbers, and the state of the line.

    Attributes:
        notes: files in the inbox that the line does not use, and why.
        refused: number of batches that this call refused.
        gate: key of the gate that judged the round; empty if none did.
    """

    outcome: DriverOutcome
    message: str
    state: State
    notes: tuple[Note, ...] = ()
    refused: int = 0
    gate: str = ""


class RoundDriver:
    """One attempt at a round; of the batches that have arrived, `wanted` says which."""

    def __init__(
        self, settings: PipelineConfig, line: RoundLine, hooks: Hooks, wanted: Wanted = ALL
    ) -> None:
        self._settings, self._line = settings, line
        log = hooks.log
        self._hooks = replace(hooks, log=lambda text: log(printable(text)))
        self._inbox = inbox_of(settings)
        self._intake = Intake(
            self._inbox,
            line,
            build=hooks.build,
            log=self._hooks.log,
            now=hooks.now,
            wanted=wanted,
        )
        self._wanted = wanted
        self._checked = False

    @property
    def refused(self) -> int:
        """Number of batches that this attempt refused."""
        return self._intake.refused

    def run(self) -> RoundOutcome:
        """Finish the open round, or start one if there are enough new pairs.

        Raises:
            AlignmentError: the attempt ended; the message also names the files that are not used.
        """
        try:
            done = self._attempt()
        except AlignmentError as error:
            raise self._with_notes(error) from error
        notes = self._notes()
        state = self._line.state()
        left = self._intake.named_and_left()
        message = "; ".join([done.message, *left, *lost_entries(self._line.store)])
        return replace(done, message=message, state=state, notes=notes, refused=self.refused)

    def _with_notes(self, error: AlignmentError) -> AlignmentError:
        """The error with the unused files in its message, which is all that Prefect hands on."""
        try:
            listed = [f"not used: {note}" for note in self._notes()]
        except AlignmentError:  # the ledger cannot be read, which the first error says
            return error
        return type(error)("\n".join([str(error), *shortened(listed)]))

    def _notes(self) -> tuple[Note, ...]:
        """The files that the line does not use, also kept in the store."""
        state = self._line.state()
        notes = notes_on(self._intake.found, state)
        if state.champion is not None:
            try:
                keep_notes(self._line, notes)
            except AlignmentError as error:  # the outcome counts, whether or not they can be kept
                self._hooks.log(str(error))
        return notes

    def _attempt(self) -> RoundOutcome:
        state = self._line.revoke_as_elsewhere()
        check_cheaply(self._settings, self._line, state)
        self._scan(state)
        if state.champion is None:
            if not any(isinstance(file, Arrival) for file in self._intake.found):
                reason = f"no complete batch in {self._inbox.path}, and the line has no champion"
                return _nothing_new(state, reason)
            state = self._start_line()
        if state.waiting is not None:
            return RoundOutcome("waiting", how_to_approve(state.waiting), state)
        for batch in state.open.batches if state.open is not None else ():
            state = self._intake.restore(batch)
        if state.open is not None and state.is_overtaken:
            why = "the champion changed, or a batch was revoked or lost, before it was trained"
            opened = state.open
            state = self._line.close(opened.number, opened.parent, outcome="overtaken", why=why)
        claimed = state if state.open is not None else self._claim()
        return claimed if isinstance(claimed, RoundOutcome) else self._train(claimed)

    def _scan(self, state: State) -> None:
        try:
            self._intake.scan()
        except DataError as error:
            if state.open is None and state.waiting is None:
                raise
            self._hooks.log(str(error))  # an open round has its batches in the store

    def _start_line(self) -> State:
        self._hooks.run_chain()
        champion = first_champion(self._line.store, chain_so_far(self._settings, self._line.store))
        identity = identity_of(self._settings)
        self._checked = True
        return self._line.start(champion, rounds=len(self._settings.rounds), identity=identity)

    # --- which batches ---

    def _claim(self) -> State | RoundOutcome:
        """Open a round on the new batches, or return an outcome if they have too few pairs."""
        state = self._line.state()
        while state.requeued:  # retrained however few pairs are left in them
            batches = state.requeued[0]
            for batch in batches:
                state = self._intake.restore(batch)
            if state.requeued[:1] != (batches,):
                continue  # one of them is lost
            if self._new_rows(batches, self._parent(state)):
                return self._open(batches)
            for batch in batches:
                state = self._intake.refuse(batch, "none of its rows can be used")
        reasons = []
        for kind in self._kinds():
            batches, new = self._new_batches(kind), 0
            if batches:
                batches, new = self._usable(batches, self._parent(state))
            needed = self._needed(kind)
            if new >= needed:
                return self._open(batches)
            reason = f"{new} new {kind} in {len(batches)} batches, {needed} are needed"
            reasons.append(reason + self._dropped(batches))
        reason = self._intake.named_and_used() or "; ".join(reasons)
        return _nothing_new(self._line.state(), reason)

    def _kinds(self) -> tuple[BatchKind, ...]:
        answers = self._inbox.answers is not None
        return tuple(kind for kind in self._wanted.kinds if kind == "pairs" or answers)

    def _needed(self, kind: BatchKind) -> int:
        """The number of new rows that a round needs; of a file that somebody names, any."""
        if kind == "pairs":
            return self._inbox.min_new_pairs
        return 1 if self._wanted.files else answers_of(self._inbox).min_new_prompts

    def _open(self, batches: Deliveries) -> State:
        """Claim the batches for a round.

        Raises:
            UsageError: the gate has no verdict left, so the round would spend them for nothing.
            ModelError: the model cannot do what the round's settings ask for.
        """
        gate, state = gate_of(self._settings), self._line.state()
        if isinstance(gate, AnchoredGate) and state.looks >= gate.rounds:
            raise UsageError(
                f"the gate has given {state.looks} verdicts on line {self._line.name!r} since a "
                f"person approved a model, and gate.rounds is {gate.rounds}, so no round would be "
                "kept. Look at the champion and confirm it: sft-dpo promote champion"
            )
        parent = self._parent(state)
        round_, _ = self._planned(self._opened(batches, parent))
        self._hooks.try_model(parent, tuple(round_.steps()))
        return self._line.open(batches)

    def _new_batches(self, kind: BatchKind) -> Deliveries:
        self._intake.return_refused()
        if not self._intake.candidates(kind):
            return ()
        self._check_identity()  # before a batch is copied for a line that is another's
        if self._hooks.inspect is not None:
            return self._intake.readable(self._hooks.inspect, kind)
        with Inspector() as inspector:
            return self._intake.readable(inspector.problem, kind)

    def _usable(self, batches: Deliveries, parent: Champion) -> tuple[Deliveries, int]:
        """The batches that can be prepared, and the number of their rows; others are refused."""
        if not batches:
            return (), 0
        try:
            return batches, self._new_rows(batches, parent)
        except Exception as error:  # what the preparation makes of strange rows is not known
            if isinstance(error, (AlignmentError, OSError)) and not isinstance(error, DataError):
                raise
            if len(batches) == 1:
                self._intake.refuse(batches[0], f"it cannot be prepared: {error}")
                return (), 0
        alone = (self._usable((batch,), parent)[0] for batch in batches)
        return self._usable(tuple(batch for usable in alone for batch in usable), parent)

    def _new_rows(self, batches: Deliveries, parent: Champion) -> int:
        """The number of pairs or prompts in these batches that can be used."""
        opened = self._opened(batches, parent)
        step = source_step(self._settings, self._line.store, opened)
        self._hooks.build(step)
        metrics = self._line.store.open(step.key).metrics
        return round(metrics["new" if opened.kind == "pairs" else "prompts"])

    def _opened(self, batches: Deliveries, parent: Champion) -> Opened:
        number = self._line.state().rounds + 1
        return Opened(number=number, parent=parent, batches=batches)

    def _dropped(self, batches: Deliveries) -> str:
        """Why rows of these batches cannot be used, in brackets; an empty text if all can."""
        if not batches:
            return ""
        opened = self._opened(batches, self._parent(self._line.state()))
        step = source_step(self._settings, self._line.store, opened)
        rows = self._line.store.open(step.key).output_as(DataRef)
        reasons = rows.quarantined.items() if rows else ()
        words = ", ".join(f"{count} {reason}" for reason, count in reasons)
        return f" (dropped: {words})" if words else ""

    # --- the champion ---

    def _check_identity(self) -> None:
        if not self._checked:
            check(self._settings, self._line)
        self._checked = True

    def _parent(self, state: State) -> Champion:
        assert state.champion is not None, "a started line has a champion"
        return self._ready(state, state.champion)

    def _ready(self, state: State, champion: Champion) -> Champion:
        """A champion to start from: sound, whole, and measured on the line's rows."""
        self._check_identity()
        check_sound(self._line.store, champion.label, champion.model)
        self._repair.champion(champion)
        return self._measure(state).champion(champion)

    def _compared(self, state: State, anchor: Champion) -> Champion:
        """The anchor, measured like the parent; its weights are needed only to measure it again."""
        measure = self._measure(state)
        self._repair.evaluation(anchor)
        if not measure.has(anchor):
            self._repair.champion(anchor)
        return measure.champion(anchor)

    @property
    def _repair(self) -> Repair:
        return Repair(self._settings, self._line, self._intake.files, self._hooks.build)

    def _measure(self, state: State) -> Measure:
        return Measure(
            self._line.store,
            rows_of_line(self._line.store, state),
            self._settings.evaluation,
            seed=seed_for(self._settings.seed, "bootstrap"),
            build=self._hooks.build,
        )

    # --- the round ---

    def _train(self, state: State) -> RoundOutcome:
        """Train the open round, judge it, and close it in the ledger."""
        opened = state.open
        if opened is None:  # another run has already closed the round that this one tried to open
            message = "another run closed the round first; the next run scans the inbox again"
            return RoundOutcome("overtaken", message, state)
        try:
            round_, anchor = self._build(opened)
            model, judged, message = outcome(self._settings, self._line.store, round_)
            gate = round_.gate.key if round_.gate else ""
        except AlignmentError as error:
            if not (isinstance(error, REPEATABLE) or type(error) is AlignmentError):
                raise
            return self._failed(opened, error)
        try:
            state = self._line.close(
                opened.number, model, outcome=judged, why=message, gate=gate, against=anchor
            )
        except Overtaken as error:
            return RoundOutcome("overtaken", str(error), self._line.state())
        closed = next(closed for _, closed in state.history[::-1] if closed.number == opened.number)
        if closed.fate == "overtaken":
            message = f"the champion or the anchor changed meanwhile; {message}"
        if closed.fate == "waiting":
            message = f"{message}\n{how_to_approve(closed)}"
        return RoundOutcome(closed.fate, message, state, gate=gate)

    def _build(self, opened: Opened) -> tuple[Round, str | None]:
        """The round with all its steps built, and the anchor that its gate judged from, if any.

        A person may approve a model while the round is trained, so its gate is planned afterwards.
        """
        round_, _ = self._planned(opened)
        steps = (round_.source, *round_.steps())
        for number, step in enumerate(steps):
            if step != round_.gate:
                note_steps(self._line.store, steps[number:])
                self._hooks.build(step)
        round_, anchor = self._planned(opened)
        assert round_.gate is not None
        note_steps(self._line.store, (round_.gate,))
        self._hooks.build(round_.gate)
        try:
            self._hooks.report(round_)
        except Exception as error:  # the round counts, whether or not anyone can read about it
            self._hooks.log(f"the report of round {opened.number} could not be written: {error}")
        return round_, anchor

    def _planned(self, opened: Opened) -> tuple[Round, str | None]:
        """The steps of the open round with its parent and the anchor as they are now."""
        state = self._line.state()
        now: dict[str, object] = {"parent": self._ready(state, opened.parent)}
        anchor = state.anchor if isinstance(gate_of(self._settings), AnchoredGate) else None
        if anchor is not None:
            now |= {"anchor": self._compared(state, anchor), "look": state.looks + 1}
        round_ = steps_of(self._settings, self._line.store, opened.model_copy(update=now))
        return round_, anchor.model if anchor is not None else None

    def _failed(self, opened: Opened, error: AlignmentError) -> RoundOutcome:
        """Record a failure; after too many equal ones, close the round without a model.

        Raises:
            AlignmentError: the error itself, if the next run shall try again.
        """
        why = str(error)
        state = self._line.fail(opened.number, why)
        equal = len(list(takewhile(lambda earlier: earlier == why, reversed(state.failures))))
        if equal < self._inbox.max_failures:
            raise error
        files = ", ".join(batch.shown_file for batch in opened.batches)
        message = (
            f"round {opened.number} failed {equal} times in the same way, so its batches are set "
            f"aside: {files}. The next round starts from {opened.parent.label}. To try them again: "
            f"sft-dpo inbox CONFIG --retry. The failure: {why}"
        )
        state = self._line.close(opened.number, opened.parent, outcome="failed", why=message)
        return RoundOutcome("failed", message, state)


def _nothing_new(state: State, reason: str) -> RoundOutcome:
    return RoundOutcome("no new data", f"no new data: {reason}", state)
