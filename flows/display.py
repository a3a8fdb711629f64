"""Shows a run in progress: the current step, how far it is, and the time left.

Two live bars on a terminal; otherwise a line per step, and one every ten seconds.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from alignment.errors import printable
from alignment.pipeline.effort import Efforts
from alignment.pipeline.steps import Step, headline_of
from alignment.records.manifest import StageRecord
from alignment.store.progress import Mark, Pace
from flows.forecast import Forecast

QUIET_SECONDS = 10.0
CONSOLE = Console(stderr=True)
"""The only one: a line that is printed past it would be erased with the bars."""


def show_line(line: str) -> None:
    """Print a line above the bars, if there are any."""
    CONSOLE.print(printable(line), highlight=False, markup=False, soft_wrap=True)


class Display:
    """Shows the steps of one run; pass `watch` to the tasks.

    The steps of a round are not known in advance: without a list, steps are only counted.
    """

    def __init__(self, steps: Sequence[Step], efforts: Efforts) -> None:
        self._live = sys.stderr.isatty()
        self._forecast = Forecast(steps, efforts.rates(), efforts.work)
        self._total = len(steps)
        self._done = 0
        self._since = self._last_line = time.monotonic()
        self._began = datetime.now(UTC).isoformat(timespec="seconds")
        self._bars = _bars()
        self._run = self._bars.add_task("run", total=self._total, note="")
        self._part = self._bars.add_task("", total=None, note="")

    @contextmanager
    def shown(self) -> Iterator["Display"]:
        """Draw while the block runs."""
        with self._bars:
            yield self

    def watch(self, step: Step, mark: Mark | None, record: StageRecord | None) -> None:
        """Called when a step starts (no mark, no record), progresses (mark) or ends (record)."""
        if record is not None:
            self._show_end(step, record)
        elif mark is not None:
            self._show_progress(step, mark)
        else:
            self._show_start(step)

    def _show_start(self, step: Step) -> None:
        self._since = time.monotonic()
        self._forecast.started()
        self._bars.update(self._part, description=step.name, total=None, completed=0, note="")

    def _show_progress(self, step: Step, mark: Mark) -> None:
        numbers = " ".join(f"{name} {value:.3g}" for name, value in mark.shown.items())
        note = f"{mark.phase} {mark.done}/{mark.total} {numbers}".strip()
        self._bars.update(
            self._part, total=mark.total or None, completed=mark.done, note=note, refresh=self._live
        )
        left = self._forecast.within(step, mark, time.monotonic() - self._since)
        about = _about(left, "" if self._total else " in this step")
        at = f"step {self._done + 1}{self._out_of()}"
        self._bars.update(self._run, note=", ".join(filter(None, (at, about))))
        if not self._live and time.monotonic() - self._last_line > QUIET_SECONDS:
            self._print(f"  {step.name}: {note}{f' ({about})' if about else ''}")

    def _show_end(self, step: Step, record: StageRecord) -> None:
        spent = time.monotonic() - self._since
        reused = record.started < self._began
        self._done += 1
        self._forecast.finished(step, record.seconds, reused=reused)
        about = _about(self._forecast.between()) if self._total else ""
        self._bars.update(self._run, completed=self._done, note=about)
        how = "reused" if reused else f"{spent:.0f} s"
        self._print(
            f"[{self._done:>2}{self._out_of()}] {step.name:<20} {how:>7}  {_summary(record)}"
        )

    def _out_of(self) -> str:
        return f"/{self._total}" if self._total else ""

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        show_line(line)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=CONSOLE,
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def _about(seconds: float | None, of: str = "") -> str:
    """The time left, as rough as it is known; nothing while nothing was measured."""
    if seconds is None:
        return ""
    if seconds < 5:
        return f"a few seconds left{of}"
    if seconds < 90:
        return f"about {seconds:.0f} s left{of}"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min left{of}"
    return f"about {seconds / 3600:.1f} h left{of}"


def _summary(record: StageRecord) -> str:
    found = headline_of(record).items()
    numbers = [f"{name.removeprefix('eval_')} {value:.3g}" for name, value in found]
    return ", ".join(numbers) or "; ".join(record.notes)


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of data preparation; yields the callback that reports it."""
    bars = _bars()
    task = bars.add_task("reading", total=None, note="")
    pace = Pace()

    def on_progress(phase: str, done: int, total: int) -> None:
        left = pace.left(phase, done, total, now=time.monotonic())
        note = f"{done:,} of {total:,} rows" if total else f"{done:,} rows"
        if left is not None:
            note = f"{note}, {_about(left)}"
        part = done / total if total else 0
        bars.update(task, description=phase, note=note, completed=part, total=1 if total else None)

    with bars:
        yield on_progress
