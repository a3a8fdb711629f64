"""Experiment trackers beside a stage: each follows it in a process of its own.

This process only writes lines to a file, so that a tracker which raises or hangs cannot disturb the
stage. Such a tracker is named once, and left for the rest of the run.
"""

import contextlib
import math
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from alignment.errors import printable
from alignment.pipeline.step import Step
from alignment.processes import python_module
from alignment.records.manifest import StageRecord
from alignment.store.jsonl import as_line
from alignment.store.progress import Mark
from alignment.store.store import Store
from alignment.trackers.events import StageBegun, StageEnded, StageLogged
from alignment.trackers.settings import Tracker
from alignment.urls import bare_urls

GRACE_SECONDS, STOPPED_SECONDS = 30.0, 5.0
"""How long a tracker may take after its stage has ended, and after it was stopped or failed."""
LONGEST_PROBLEM = 300
_left: set[tuple[str, str]] = set()
"""Run and tracker of those that raised or hung."""


class Tracking:
    """The trackers of one stage. They start with its first sign of life: a reused one has none.

    Args:
        trackers: which.
        run: the run's name, as `sft-dpo runs` has it.
        store: where the artifact will be.
        step: the stage.
        warn: told about a tracker that is left.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        *,
        run: str,
        store: Store,
        step: Step,
        warn: Callable[[str], None],
    ) -> None:
        self._trackers = trackers if step.in_child and step.headline else ()
        self._run, self._store, self._step, self._warn = run, store, step, warn
        self._followers: dict[str, _Follower] | None = None
        self._logged: set[str] = set()

    def note(self, mark: Mark) -> None:
        """Pass on what a mark says."""
        if self._followers is None:
            self._followers = dict(self._started())
        if numbers := _finite(mark.numbers):
            self._logged.update(numbers)
            self._send(StageLogged(step=mark.done, numbers=numbers))

    def end(self, record: StageRecord | None) -> None:
        """Pass on how the stage ended, and wait for the trackers, within limits.

        What has a curve keeps its own last point: a record's loss is a mean of several steps.
        """
        known = _finite(record.metrics) if record else {}
        metrics = {name: value for name, value in known.items() if name not in self._logged}
        self._send(StageEnded(finished=record is not None, metrics=metrics))
        for name, follower in list((self._followers or {}).items()):
            self._leave(name, follower.finish(GRACE_SECONDS if record else STOPPED_SECONDS))
        self._followers = {}

    def _started(self) -> Iterator[tuple[str, "_Follower"]]:
        for tracker in self._trackers:
            if (self._run, tracker.name) in _left:
                continue
            try:
                yield tracker.name, _Follower(self._begun(tracker))
            except OSError as error:
                self._leave(tracker.name, str(error))

    def _begun(self, tracker: Tracker) -> StageBegun:
        step, root = self._step, self._store.root.absolute()
        return StageBegun(
            tracker=tracker,
            run=self._run,
            step=step.name,
            key=step.key,
            folder=str(root / "objects" / step.key),
            settings=step.settings,
            parents=step.roles,
            own=str(root / "trackers" / tracker.name),
        )

    def _send(self, event: StageLogged | StageEnded) -> None:
        for name, follower in list((self._followers or {}).items()):
            self._leave(name, follower.send(event))

    def _leave(self, name: str, problem: str | None) -> None:
        if problem is None:
            return
        if self._followers:
            self._followers.pop(name, None)
        _left.add((self._run, name))
        text = printable(bare_urls(problem))[:LONGEST_PROBLEM]
        self._warn(f"the tracker {name} is left for the rest of this run: {text}")


@contextlib.contextmanager
def tracked(
    trackers: Sequence[Tracker],
    *,
    run: str,
    store: Store,
    step: Step,
    warn: Callable[[str], None],
) -> Iterator[Tracking]:
    """Trackers for the block, which builds a step; they are told if it does not finish it."""
    tracking = Tracking(trackers, run=run, store=store, step=step, warn=warn)
    try:
        yield tracking
    except BaseException:
        tracking.end(None)
        raise


class _Follower:
    """The process of one tracker."""

    def __init__(self, begun: StageBegun) -> None:
        self._files = contextlib.ExitStack()
        self._events, self._said = map(self._files.enter_context, (_temporary(), _temporary()))
        self._write(begun)
        number = self._events.fileno()
        self._process = subprocess.Popen(
            python_module("alignment.trackers.follow", str(number), str(os.getpid())),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            pass_fds=[number],
            start_new_session=True,  # Ctrl-C must not reach it: it is told how the stage ended
        )

    def send(self, event: StageLogged | StageEnded) -> str | None:
        """Write an event; a problem if the process has died."""
        if self._process.poll() is not None:
            return self._closed(self._last_words())
        try:
            self._write(event)
        except OSError as error:
            return self._killed(str(error))
        return None

    def finish(self, seconds: float) -> str | None:
        """Wait for the process; a problem if it failed, or if it had to be killed."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return self._killed(f"it had not finished after {seconds:.0f} s")
        return self._closed(self._last_words() if code else None)

    def _killed(self, why: str) -> str | None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return self._closed(why)

    def _closed(self, problem: str | None) -> str | None:
        self._files.close()
        return problem

    def _write(self, event: StageBegun | StageLogged | StageEnded) -> None:
        self._events.write(as_line(event))
        self._events.flush()

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with {self._process.returncode}"


def _temporary() -> IO[bytes]:
    return tempfile.TemporaryFile()


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Under names that every tracker takes; NaN and infinities are left out."""
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return {re.sub(r"[^\w/.-]", "_", name): value for name, value in finite.items()}
