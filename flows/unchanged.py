"""A run or a round that finds nothing to do: answered from the store, in a second, without Prefect.

Prefect and its temporary server take several seconds to start, and would record that nothing
happened, in a database that nobody sees. A server that somebody has configured is another matter:
its pages list every run, so the flow runs there (`environment.py`).
"""

from alignment.config.pipeline import PipelineConfig
from alignment.errors import ArtifactError
from alignment.pipeline.steps import Step
from alignment.pipeline.verdicts import chain_so_far
from alignment.records.manifest import StageRecord
from alignment.report.assemble import write_report
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.intake import Wanted
from alignment.rounds.line import RoundLine
from alignment.rounds.steps import inbox_of
from alignment.store.store import Store
from flows.display import Display
from flows.results import RoundResult, RunResult


class WorkToDo(BaseException):
    """A step has to be built.

    Not an `Exception`: whoever handles the failure of a step must not take it for one. What it
    interrupts is left as Ctrl-C leaves it, and goes on with the next attempt.
    """


def unchanged_run(settings: PipelineConfig, command: str, display: Display) -> RunResult | None:
    """The result of a run whose steps are all in the store, intact; None if one is not."""
    store = settings.open_store()
    try:
        chain = chain_so_far(settings, store)
        steps = tuple(chain.steps())
        # asked first, because a look at the files of the first ones may take minutes
        if not all(store.find(step.key) for step in steps):
            return None
    except ArtifactError:  # a damaged manifest, which the flow moves aside
        return None
    try:
        for step in steps:
            display.watch(step, None, reused(store, step))
    except WorkToDo:
        return None
    files = write_report(store, chain, config=settings, command=command, timings={})
    return RunResult(report=str(files.html), headline=files.headline, table=files.table.to_text())


def reused(store: Store, step: Step) -> StageRecord:
    """The record of a step whose files are intact.

    Raises:
        WorkToDo: it has none.
    """
    record = store.reuse(step.key)
    if record is None:
        raise WorkToDo(step.name)
    return record


class IdleRound:
    """An attempt at a round that ends where something has to be built.

    Attributes:
        refused: number of batches that it refused, which the round itself no longer sees.
    """

    def __init__(self, settings: PipelineConfig, wanted: Wanted) -> None:
        store = settings.open_store()
        self._store = store
        hooks = Hooks(
            run_chain=_work,
            build=lambda step: reused(store, step),
            report=_work,
            try_model=_work,  # asked before a round is opened, which is left to the flow
        )
        line = RoundLine(store=store, name=inbox_of(settings).line)
        self._driver = RoundDriver(settings, line, hooks, wanted)

    @property
    def refused(self) -> int:
        """Number of batches that this attempt refused."""
        return self._driver.refused

    def result(self) -> RoundResult | None:
        """The result of a round without anything to train on; None if there is work."""
        try:
            return RoundResult.of(self._driver.run(), self._store)
        except WorkToDo:
            return None


def _work(*_: object) -> None:
    raise WorkToDo
