"""Runs a flow from a shell: silences Prefect, shows the steps, and stops on signals.

Environment variables are read here and nowhere else.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alignment.errors import Interrupted
from flows.display import Display

SERVER_TIMEOUT = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
"""Environment variable: seconds to wait for the temporary server to start."""


class Stopped(Interrupted):
    """Stopped by Ctrl-C."""

    exit_code = 130


def watched(
    display: Display, flow: Literal["pipeline", "round"], config: Path, overrides: list[str]
) -> Any:
    """Run a flow, show its steps meanwhile, and return its result.

    Raises:
        Stopped: the user pressed Ctrl-C.
        Interrupted: Prefect's temporary server did not start in time.
        SystemExit: 143, after SIGTERM.
    """
    quiet_prefect()
    try:
        with _stopping_on_sigterm(), display.shown():
            from flows import local  # with Prefect, which reads the environment when it is imported

            local.start_server()
            run = local.run_pipeline if flow == "pipeline" else local.run_round
            return run(config, overrides, display.watch)
    except KeyboardInterrupt:
        raise Stopped("stopped; run the same command to continue from here") from None


def quiet_prefect() -> None:
    """Configure Prefect for runs from a shell: no analytics, no scheduler logs, no prompts."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        # SQLite has to wait while gigabytes of weights are flushed to the same disk.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
        SERVER_TIMEOUT: "120",  # Prefect's default of 20 s is too short on a busy machine
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Within the block, SIGTERM ends the run like Ctrl-C, but with exit code 143."""

    def stop(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
