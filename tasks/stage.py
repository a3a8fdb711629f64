"""What all tasks share: their policy, and reusing or building one step with progress reports.

The store decides which steps are done (`alignment.execution.run_step`), so tasks cache nothing in
Prefect. A Prefect cache would answer from a database that cannot know whether the artifact still
exists and is intact; asking the store costs one hash of the files per process. With a single
memory, no two can disagree.
Not here: the steps and their order, the content of the run page (`artifacts.py`).
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

from alignment.config.pipeline import PipelineConfig, reference_of
from alignment.errors import AlignmentError
from alignment.execution.run_step import Limits, OnMark, run_step
from alignment.execution.tracking import tracked
from alignment.pipeline.steps import Step
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.store.progress import Mark
from alignment.store.store import Store
from alignment.trackers.settings import Tracker
from tasks import artifacts

Watcher = Callable[[Step, Mark | None, StageRecord | None], None]
LOG_SECONDS = 30.0
"""Minimum seconds between two progress lines in the log of a run."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class Run(Frozen):
    """The settings that all tasks of a run share.

    Attributes:
        name: name in the run's config, and prefix of the keys of all Prefect artifacts.
        root: folder of the store.
        limits: limits on the process of a step.
        reference: name and id, as `sft-dpo runs` has it.
        trackers: experiment trackers that follow its steps.
    """

    name: str
    root: Path
    limits: Limits = Limits()
    reference: str = ""
    trackers: tuple[Tracker, ...] = ()

    @classmethod
    def of(cls, settings: PipelineConfig) -> "Run":
        """The run described by a configuration."""
        return cls(
            name=settings.name,
            root=settings.open_store().root,
            limits=Limits.of(settings),
            reference=reference_of(settings),
            trackers=settings.trackers,
        )

    @property
    def store(self) -> Store:
        """The store of the steps' artifacts."""
        return Store(root=self.root)


def is_transient(_task: Any, _task_run: Any, state: State[Any]) -> bool:
    """Whether a retry may help: the error is an `OSError` from the network or a disk.

    Errors that this package understands (bad config or data, a NaN loss, a process killed for its
    memory) are never retried.
    """
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, AlignmentError)


class Policy(TypedDict):
    """The arguments of every step's `@task`."""

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
    """Make every step that runs within the block call `watcher(step, mark, record)`.

    At the start of a step both are None, on progress there is a mark, at the end there is a record.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def run_stage(step: Step, run: Run) -> State[StageRecord]:
    """Reuse or build a step; returns the final state of its task, with the record as its result.

    It returns a state instead of the record because the run page shows the state's name, "Reused"
    or "Built", and for a known error one line instead of two tracebacks.
    """
    progress = _Progress(step, run)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    progress.start()
    try:
        record = _tracked_step(step, run, progress)
    except AlignmentError as error:
        return Failed(message=f"{type(error).__name__}: {error}", data=error)
    progress.finish(record)
    if step.notes_matter:
        for note in record.notes:
            get_run_logger().warning("%s: %s", step.name, note)
    how = "Built" if record.started >= began else "Reused"
    artifacts.publish(record, run.store, prefix=run.name, how=how.lower())
    return Completed(name=how, message=artifacts.headline(record), data=record)


def _tracked_step(step: Step, run: Run, progress: OnMark) -> StageRecord:
    """Reuse or build a step, followed by the run's trackers."""

    def warn(problem: str) -> None:
        get_run_logger().warning("%s", problem)

    with tracked(
        run.trackers, run=run.reference, store=run.store, step=step, warn=warn
    ) as tracking:

        def on_progress(mark: Mark) -> None:
            progress(mark)
            tracking.note(mark)

        record = run_step(run.store, step, on_progress=on_progress, limits=run.limits)
        tracking.end(record)
    return record


class _Progress:
    """Reports a step's progress: every mark to the watcher, some to the run page and the log."""

    def __init__(self, step: Step, run: Run) -> None:
        self._step = step
        self._run = run
        self._watcher = _watcher.get()
        self._bar = artifacts.ProgressBar(step.name, prefix=run.name)
        self._last_line = 0.0

    def start(self) -> None:
        self._notify(None, None)

    def __call__(self, mark: Mark) -> None:
        self._notify(mark, None)
        self._bar.update(mark)
        if time.monotonic() - self._last_line < LOG_SECONDS:
            return
        if not self._last_line:
            log = self._run.store.log(self._step.key)
            get_run_logger().info("the log of this step's process: %s", log)
        get_run_logger().info(artifacts.describe(mark))
        self._last_line = time.monotonic()

    def finish(self, record: StageRecord) -> None:
        self._bar.finish(artifacts.headline(record))
        self._notify(None, record)

    def _notify(self, mark: Mark | None, record: StageRecord | None) -> None:
        if self._watcher is not None:
            self._watcher(self._step, mark, record)
