"""One round from an inbox, from looking to closing; how its steps are built is the caller's.

Look, claim, train, judge, close. The process may die anywhere: what is claimed is written down
before the training, the head moves with the entry that closes the round, and the next call goes on
from there. What there is to do is read from the ledger and the inbox, never from who calls.
Not here: who the champion is and what is spent (`head.py`), which steps a round has (`rounds.py`).
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
from alignment.rounds.inbox import Arrival, LeftAlone, look, unreadable
from alignment.rounds.ledger import Delivery, OutcomeName
from alignment.rounds.line import RoundLine
from alignment.rounds.state import Deliveries, State
from alignment.rounds.steps import first_champion, inbox_of, intake, outcome, steps_of

DriverOutcome = OutcomeName | Literal["no new data"]


@dataclass(frozen=True)
class Hooks:
    """What a round has done for it.

    Attributes:
        begin: run the configured chain, whose last model begins the line.
        build: build a step, or reuse it; raises what the step raises.
        report: called with a round whose steps are done, before it is closed.
        log: write a line to the log.
        now: seconds since the epoch.
    """

    begin: Callable[[], object]
    build: Callable[[Step], object]
    report: Callable[[Round], object] = lambda _: None
    log: Callable[[str], None] = lambda _: None
    now: Callable[[], float] = time.time


@dataclass(frozen=True)
class RoundOutcome:
    """What became of a round: in one word, as a sentence with the gate's numbers, and the line."""

    ending: DriverOutcome
    words: str
    state: State


class RoundDriver:
    """One attempt at a round; holds what most of its steps need."""

    def __init__(self, settings: PipelineConfig, line: RoundLine, hooks: Hooks) -> None:
        self._settings, self._line, self._hooks = settings, line, hooks
        self._inbox = inbox_of(settings)

    def result(self) -> RoundOutcome:
        """The open round if there is one, else a new one if there are new pairs enough."""
        state = self._line.state()
        if state.champion is None:
            found = self._look()
            if not any(isinstance(one, Arrival) for one in found):
                where = f"no whole batch in {self._inbox.path}, and the line has not begun"
                return _nothing_new(state, where, found)
            state = self._begin()
        if state.waiting is not None:
            words = f"round {state.waiting.number} waits for a person's word"
            return RoundOutcome("waiting", words, state)
        if state.open is not None and state.is_overtaken:
            why = "the head was moved, or a batch revoked, before it was trained"
            opened = state.open
            state = self._line.close(opened.number, opened.parent, fate="overtaken", why=why)
        claimed = state if state.open is not None else self._claim()
        return claimed if isinstance(claimed, RoundOutcome) else self._train(claimed)

    def _look(self) -> list[Arrival | LeftAlone]:
        return list(look(self._inbox, now=self._hooks.now))

    def _begin(self) -> State:
        self._hooks.begin()
        head = first_champion(self._line.store, chain_so_far(self._settings, self._line.store))
        return self._line.start(head, rounds=len(self._settings.rounds))

    def _claim(self) -> State | RoundOutcome:
        """Open a round on what is new; an end where that is too little."""
        state = self._line.state()
        while state.again:  # batches of an earlier round, whatever their number
            if self._new_pairs(state.again[0]):
                return self._line.open(state.again[0])
            for batch in state.again[0]:
                state = self._line.refuse(batch, "no row of it can be used")
        found = self._look()
        batches = self._take([one for one in found if isinstance(one, Arrival)])
        new, needed = self._new_pairs(batches) if batches else 0, self._inbox.min_new_pairs
        if new >= needed:
            return self._line.open(batches)
        words = f"{new} new pairs in {len(batches)} batches, {needed} are needed"
        return _nothing_new(self._line.state(), words, found)

    def _take(self, arrivals: Sequence[Arrival]) -> Deliveries:
        """The batches that no round has used, copied into the store; refused where unreadable."""
        known = set(self._line.state().spent)
        batches: list[Delivery] = []
        for arrival in arrivals:
            if arrival.digest in known:
                self._hooks.log(f"{arrival.file}: a batch that is known already")
                continue
            known.add(arrival.digest)
            if (batch := self._copied(arrival)) is None:
                continue
            file = batch_file(self._line.store, batch.key)
            if problem := unreadable(self._inbox, str(file)):
                self._line.refuse(batch, problem)
                self._hooks.log(f"{arrival.file} is refused: {problem}")
                continue
            batches.append(batch)
        return tuple(sorted(batches, key=lambda batch: batch.digest))

    def _copied(self, arrival: Arrival) -> Delivery | None:
        step = TakeBatch.of(arrival.digest, arrival.file)
        try:
            self._hooks.build(step)
        except DataError as error:  # it changed or went away since it was looked at
            self._hooks.log(str(error))
            return None
        return Delivery(digest=arrival.digest, key=step.key, file=PurePath(arrival.file).name)

    def _new_pairs(self, batches: Deliveries) -> int:
        """How many pairs of some batches can be trained on."""
        state, keys = self._line.state(), tuple(batch.key for batch in batches)
        assert state.champion is not None, "a line that has begun has a champion"
        step = intake(
            self._settings,
            self._line.store,
            parent=state.champion,
            number=state.rounds + 1,
            batches=keys,
        )
        self._hooks.build(step)
        return round(self._line.store.open(step.key).metrics["new"])

    def _train(self, state: State) -> RoundOutcome:
        """Train the open round, judge it, write down what became of it."""
        opened = state.open
        if opened is None:  # another run has closed the round that this one meant to open
            return RoundOutcome(
                "overtaken", "another run was faster; the next one looks again", state
            )
        round_ = steps_of(self._settings, self._line.store, opened)
        for step in (round_.pairs, *round_.steps()):
            self._hooks.build(step)
        self._hooks.report(round_)
        head, fate, words = outcome(self._settings, self._line.store, round_)
        try:
            state = self._line.close(opened.number, head, fate=fate, why=words)
        except Overtaken as error:
            return RoundOutcome("overtaken", str(error), self._line.state())
        closed = state.history[-1][1]
        if closed.fate == "overtaken":
            words = f"the head was moved while round {opened.number} was trained; {words}"
        return RoundOutcome(closed.fate, words, state)


def _nothing_new(state: State, words: str, found: Sequence[Arrival | LeftAlone]) -> RoundOutcome:
    left = [f"; left alone: {f.file} ({f.why})" for f in found if isinstance(f, LeftAlone)]
    return RoundOutcome("no new data", f"no new data: {words}{''.join(left)}", state)
