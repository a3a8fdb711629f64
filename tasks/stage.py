"""What every task shares: its policy, and reuse-or-build of one step with people watching.

The store decides what is done already (`alignment.execution.run_step`). A task therefore caches
nothing in Prefect: a Prefect cache would answer from a database that cannot know whether the
artifact still exists and is intact, while asking the store costs a hash of files, once a process.
The two memories cannot disagree when there is only one.
Not here: which steps there are, their order, what the run page shows (`artifacts.py`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from prefect import State
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError
from alignment.execution.run_step import Limits, run_step
from alignment.pipeline.steps import Step
from alignment.records import Frozen, StageRecord
from alignment.store.progress import Mark
from alignment.store.store import Store
from tasks import artifacts

Watcher = Callable[[Step, Mark | None, StageRecord | None], None]
LOG_SECONDS = 30.0
"""The run's log gets no more than one line of progress in this time."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class Run(Frozen):
    """What the tasks of one run have in common.

    Attributes:
        name: of the run's config; begins the key of every Prefect artifact.
        root: the store's folder.
        limits: what the process of a step may take.
    """

    name: str
    root: Path
    limits: Limits = Limits()

    @classmethod
    def of(cls, settings: PipelineConfig) -> "Run":
        """The run that a configuration describes."""
        limits = Limits(
            stall_minutes=settings.stall_minutes, gpu_memory_gib=settings.gpu_memory_gib
        )
        return cls(name=settings.name, root=settings.store, limits=limits)

    @property
    def store(self) -> Store:
        """Where the steps' artifacts live."""
        return Store(root=self.root)


def is_transient(_task: Any, _task_run: Any, state: State[Any]) -> bool:
    """Whether trying again may help: a network or a disk that failed, as Python reports it.

    What this package understands itself (bad config or data, a loss that is not a number, a
    process killed for its memory) comes back as a state without retries, see `run_stage`.
    """
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, AlignmentError)


class Policy(TypedDict):
    """Arguments that every `@task` of a step is given."""

    task_run_name: str
    cache_policy: CachePolicy
    persist_result: bool
    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Callable[[Any, Any, State[Any]], bool]


POLICY = Policy(
    task_run_name="{step.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[10.0, 60.0],
    retry_condition_fn=is_transient,
)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Have `watcher(step, mark, record)` called by every step that runs within the block.

    At its start with neither mark nor record, on progress with a mark, at its end with the record.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def run_stage(step: Step, run: Run) -> State[StageRecord]:
    """Reuse or build a step: the final state of its task, with the record as its result.

    A state, not the bare record, because it carries what a person looks for on the run page:
    "Reused" or "Built", and for a known error its one line in place of two tracebacks.
    """
    progress = _Progress(step, run)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    progress.start()
    try:
        record = run_step(run.store, step, on_progress=progress, limits=run.limits)
    except AlignmentError as error:
        return Failed(message=f"{type(error).__name__}: {error}", data=error)
    progress.finish(record)
    how = "Built" if record.started >= began else "Reused"
    artifacts.publish(record, run.store, prefix=run.name, how=how.lower())
    return Completed(name=how, message=artifacts.headline(record), data=record)


class _Progress:
    """Passes on how a step goes: all of it to the watcher, a part to the run page and the log."""

    def __init__(self, step: Step, run: Run) -> None:
        self._step = step
        self._run = run
        self._watcher = _watcher.get()
        self._bar = artifacts.ProgressBar(step.name, prefix=run.name)
        self._said = 0.0

    def start(self) -> None:
        self._tell(None, None)

    def __call__(self, mark: Mark) -> None:
        self._tell(mark, None)
        self._bar.update(mark)
        if time.monotonic() - self._said < LOG_SECONDS:
            return
        if not self._said:
            log = self._run.store.workspace(self._step.key).log
            get_run_logger().info("the log of this step's process: %s", log)
        get_run_logger().info(artifacts.describe(mark))
        self._said = time.monotonic()

    def finish(self, record: StageRecord) -> None:
        self._bar.finish(artifacts.headline(record))
        self._tell(None, record)

    def _tell(self, mark: Mark | None, record: StageRecord | None) -> None:
        if self._watcher is not None:
            self._watcher(self._step, mark, record)
