"""One round of DPO on what has arrived since the last one, as a Prefect flow.

Look, claim, train, judge, close. Each step of it may be killed: what is claimed is written down
before the training, the head moves with the entry that closes the round, and the same flow goes on
from there. An event that starts it is only a hint: what there is to do is read from the ledger and
the inbox. With nothing to do it ends as "No new data".
Not here: who the champion is and what is spent (`alignment.head`), schedules (`deployments/`).
"""

import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Literal, cast

from prefect import State, Task, flow
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from alignment.chain import Round, chain
from alignment.config import PipelineConfig, load
from alignment.errors import AlignmentError, DataError, Overtaken
from alignment.head import Batches
from alignment.head import State as LineState
from alignment.intake import Arrival, LeftAlone, look, unreadable
from alignment.ledger import Batch, Fate
from alignment.line import Line
from alignment.records import Frozen
from alignment.report.assemble import ReportFiles
from alignment.rounds import first_head, inbox_of, intake, outcome, steps_of
from alignment.stages import TakeBatch
from alignment.stages.intake import batch_file
from flows.sft_dpo import Stages, find_config, name_of_run, run_chain
from tasks.data import prepare_batches, take_batch
from tasks.report import round_report
from tasks.stage import Run

Ending = Fate | Literal["no new data"]
TITLES: dict[Ending, str] = {
    "kept": "Kept",
    "rejected": "Rejected",
    "waiting": "Waiting for approval",
    "overtaken": "Overtaken",
    "no new data": "No new data",
}


class RoundResult(Frozen):
    """What a round leaves for whoever started it.

    Attributes:
        ending: what became of it.
        words: the same as a sentence, with the gate's numbers.
        head: the champion now: key of its model; empty before the line has begun.
        table: base, champion and the round's model; empty when nothing was trained.
        report: the page, a path on the machine that ran; empty likewise.
    """

    ending: Ending
    words: str
    head: str
    table: str = ""
    report: str = ""


@flow(
    name="dpo-round",
    flow_run_name=name_of_run,
    persist_result=True,
    result_serializer="json",
)
def dpo_round(config: str = "practice", overrides: tuple[str, ...] = ()) -> RoundResult:
    """Train one round of DPO on the batches that have arrived, and keep it if it is not worse.

    The first batch also begins the line: the configured run is run, and the model that it hands on
    is the first champion.

    Args:
        config: A preset by its name (practice, a100, ...) or the path of a YAML file on the
            worker; its `inbox` says where batches arrive.
        overrides: Changes to the config, each as dotted.key=value, for example
            inbox.min_new_pairs=50.
    """
    try:
        settings = load(find_config(config), overrides)
        words = ["sft-dpo round", config, *(f"--set {shlex.quote(o)}" for o in overrides)]
        result = _RoundRun(settings, " ".join(words)).result()
    except AlignmentError as error:
        return cast("RoundResult", Failed(message=f"{type(error).__name__}: {error}", data=error))
    # A state, because its name is what a person looks for in the list of runs.
    ended: State[RoundResult] = Completed(
        name=TITLES[result.ending], message=result.words, data=result
    )
    return cast("RoundResult", ended)


class _RoundRun:
    """One run of the flow; holds what most of its steps need."""

    def __init__(self, settings: PipelineConfig, command: str) -> None:
        self._settings, self._command = settings, command
        self._inbox = inbox_of(settings)
        self._run = Run(name=settings.name, root=settings.store)
        self._line = Line(store=self._run.store, name=self._inbox.line)
        self._stage = Stages(self._run)

    def result(self) -> RoundResult:
        """The open round if there is one, else a new one if there are new pairs enough."""
        state = self._line.state()
        if state.head is None:
            found = list(look(self._inbox))
            if not any(isinstance(one, Arrival) for one in found):
                where = f"no whole batch in {self._inbox.path}, and the line has not begun"
                return _nothing_new(state, where, found)
            state = self._begin()
        if state.waiting is not None:
            words = f"round {state.waiting.number} waits for a person's word"
            return _ended(state, "waiting", words)
        if state.open is not None and state.is_overtaken:
            why = "the head was moved, or a batch revoked, before it was trained"
            opened = state.open
            state = self._line.close(opened.number, opened.parent, fate="overtaken", why=why)
        claimed = state if state.open is not None else self._claim()
        return claimed if isinstance(claimed, RoundResult) else self._train(claimed)

    def _begin(self) -> LineState:
        """Run the configured chain; the model that it hands on is the first champion."""
        run_chain(self._settings, self._command)
        head = first_head(self._line.store, chain(self._settings))
        return self._line.start(head, rounds=len(self._settings.rounds))

    def _claim(self) -> LineState | RoundResult:
        """Open a round on what is new; a result where that is too little."""
        state = self._line.state()
        while state.again:  # batches of an earlier round, whatever their number
            if self._new_pairs(state.again[0]):
                return self._line.open(state.again[0])
            for batch in state.again[0]:
                state = self._line.refuse(batch, "no row of it can be used")
        found = list(look(self._inbox))
        batches = self._take([one for one in found if isinstance(one, Arrival)])
        new, needed = self._new_pairs(batches) if batches else 0, self._inbox.min_new_pairs
        if new >= needed:
            return self._line.open(batches)
        words = f"{new} new pairs in {len(batches)} batches, {needed} are needed"
        return _nothing_new(self._line.state(), words, found)

    def _take(self, arrivals: Sequence[Arrival]) -> Batches:
        """The batches that no round has used, copied into the store; refused where unreadable."""
        known = set(self._line.state().spent)
        batches: list[Batch] = []
        for arrival in arrivals:
            if arrival.digest in known:
                get_run_logger().info("%s: a batch that is known already", arrival.file)
                continue
            known.add(arrival.digest)
            if (batch := self._copied(arrival)) is None:
                continue
            file = batch_file(self._line.store, batch.key)
            if problem := unreadable(self._inbox, str(file)):
                self._line.refuse(batch, problem)
                get_run_logger().warning("%s is refused: %s", arrival.file, problem)
                continue
            batches.append(batch)
        return tuple(sorted(batches, key=lambda batch: batch.digest))

    def _copied(self, arrival: Arrival) -> Batch | None:
        step = TakeBatch.of(arrival.digest, arrival.file)
        try:
            self._stage(take_batch, step)
        except DataError as error:  # it changed or went away since it was looked at
            get_run_logger().warning("%s", error)
            return None
        return Batch(digest=arrival.digest, key=step.key, file=PurePath(arrival.file).name)

    def _new_pairs(self, batches: Batches) -> int:
        """How many pairs of some batches can be trained on."""
        state, keys = self._line.state(), tuple(batch.key for batch in batches)
        assert state.head is not None, "a line that has begun has a champion"
        step = intake(
            self._settings,
            self._line.store,
            parent=state.head,
            number=state.rounds + 1,
            batches=keys,
        )
        self._stage(prepare_batches, step)
        return round(self._line.store.open(step.key).metrics["new"])

    def _train(self, state: LineState) -> RoundResult:
        """Train the open round, judge it, write down what became of it."""
        opened = state.open
        if opened is None:  # another run has closed the round that this one meant to open
            return _ended(state, "overtaken", "another run was faster; the next one looks again")
        round_ = steps_of(self._settings, self._line.store, opened)
        self._stage(prepare_batches, round_.pairs)
        self._stage.train(round_)
        files = self._report(round_)
        head, fate, words = outcome(self._settings, self._line.store, round_)
        told = {"table": files.table.to_text(), "report": str(files.html)}
        try:
            state = self._line.close(opened.number, head, fate=fate, why=words)
        except Overtaken as error:
            return _ended(self._line.state(), "overtaken", str(error)).model_copy(update=told)
        closed = state.history[-1][1]
        if closed.fate == "overtaken":
            words = f"the head was moved while round {opened.number} was trained; {words}"
        return _ended(state, closed.fate, words).model_copy(update=told)

    def _report(self, round_: Round) -> ReportFiles:
        write: Task[..., ReportFiles] = round_report
        given = {"config": quote(self._settings), "command": quote(self._command)}
        return write(quote(round_), quote(self._run), **given)


def _nothing_new(state: LineState, words: str, found: Sequence[Arrival | LeftAlone]) -> RoundResult:
    left = [f"; left alone: {f.file} ({f.why})" for f in found if isinstance(f, LeftAlone)]
    return _ended(state, "no new data", f"no new data: {words}{''.join(left)}")


def _ended(state: LineState, ending: Ending, words: str) -> RoundResult:
    head = state.head.model if state.head else ""
    return RoundResult(ending=ending, words=words, head=head)
