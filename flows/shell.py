"""A flow that is run from a shell: Prefect kept quiet, its steps shown, ended by signals."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alignment.errors import Interrupted
from flows.display import Display
from flows.environment import quiet_prefect


class Stopped(Interrupted):
    """A person pressed Ctrl-C."""

    exit_code = 130


def watched(
    display: Display, flow: Literal["pipeline", "round"], config: Path, overrides: list[str]
) -> Any:
    """What a flow returns, with its steps shown while it runs.

    Raises:
        Stopped: by Ctrl-C.
        Interrupted: Prefect's own server did not start in time.
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
        raise Stopped("stopped; the same command continues from here") from None


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Within the block, SIGTERM ends the run as Ctrl-C does, with exit code 143."""

    def stop(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
