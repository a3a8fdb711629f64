"""Runs a flow from a shell: silences Prefect, and stops on signals."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alignment.errors import Interrupted
from alignment.execution.run_step import GRACE_SECONDS
from flows.display import Display, show_line
from flows.environment import quiet_prefect

STOPPED = "stopped; run the same command to continue from here"
STOPPING = (
    f"stopping: a training first saves a checkpoint (up to {GRACE_SECONDS:.0f} s). Ctrl-C again "
    "ends at once; the run then continues from the checkpoint before"
)
ENDED = "ended at once; run the same command to continue from the last checkpoint"
ONE_PRESS_SECONDS = 1.0
"""Signals within this time are one: `timeout`, for example, sends to the process and its group."""
SHOW_CURSOR = "\x1b[?25h"


class Stopped(Interrupted):
    """Stopped by Ctrl-C."""

    exit_code = 130


class Terminated(Interrupted):
    """Stopped by SIGTERM."""

    exit_code = 143


def run_flow(
    display: Display,
    flow: Literal["pipeline", "round"],
    config: Path,
    overrides: list[str],
    **more: Any,
) -> Any:
    """Run a flow (`more` are its own arguments), show its steps, and return its result.

    Raises:
        UsageError: Prefect's temporary server failed at its start.
        Interrupted: Prefect's temporary server did not start in time.
    """
    quiet_prefect()
    from flows import local  # with Prefect, which reads the environment when it is imported

    local.start_server()
    run = local.run_pipeline if flow == "pipeline" else local.run_round
    return run(config, overrides, display.watch, **more)


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Within the block, Ctrl-C and SIGTERM end the run, with the exit codes 130 and 143.

    Raises:
        Stopped: the user pressed Ctrl-C.
        Terminated: SIGTERM came.
    """
    stopping = _Stopping()
    before = {number: signal.signal(number, stopping) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(STOPPED) from None
    except SystemExit as end:
        if end.code != Terminated.exit_code:
            raise
        raise Terminated(STOPPED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stopping:
    """Handler of signals: the first one interrupts the run, another Ctrl-C ends this process."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self, number: int, _: object) -> None:
        if self._since is None:
            self._since = time.monotonic()
            # in a thread, as the signal may have come in the middle of other output
            threading.Thread(target=show_line, args=[STOPPING]).start()
            _interrupt(number)
        elif number == signal.SIGINT and time.monotonic() - self._since > ONE_PRESS_SECONDS:
            _end_at_once()


def _interrupt(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(Terminated.exit_code)  # which no library takes for an error


def _end_at_once() -> None:
    """End without any cleanup, as a kill does: the child processes end with this one."""
    cursor = SHOW_CURSOR if sys.stderr.isatty() else ""  # which the bars have hidden
    os.write(sys.stderr.fileno(), f"\n{cursor}{ENDED}\n".encode())
    os._exit(Stopped.exit_code)
