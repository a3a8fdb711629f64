"""Runs a flow from a shell: silences Prefect, and stops on signals."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alignment.errors import Interrupted
from flows.display import Display
from flows.environment import quiet_prefect

STOPPED = "stopped; run the same command to continue from here"


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

    def stop(*_: object) -> None:
        raise SystemExit(Terminated.exit_code)  # which no library takes for an error

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(STOPPED) from None
    except SystemExit as end:
        if end.code != Terminated.exit_code:
            raise
        raise Terminated(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
