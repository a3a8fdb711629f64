"""A flow that is run from a shell: Prefect kept quiet, its steps shown, ended by signals.

The environment is read here and nowhere else.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import Interrupted

if TYPE_CHECKING:
    from flows.display import Display

SERVER_PATIENCE = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
"""Seconds that a run waits for the server it starts for itself."""

Watch = Callable[..., None]
"""Told of every step's progress."""


class Stopped(Interrupted):
    """A person pressed Ctrl-C."""

    exit_code = 130


def watched(
    display: "Display",
    flow: Callable[[Path, list[str], Watch], Any],
    config: Path,
    overrides: list[str],
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
            _start_server()
            return flow(config, overrides, display.watch)
    except KeyboardInterrupt:
        raise Stopped("stopped; the same command continues from here") from None


def _start_server() -> None:
    """Prefect's temporary server, where no other is named.

    Prefect would start it by itself, but within reach of the terminal: Ctrl-C would end it before
    the run, whose last words to it then take minutes and end in a traceback. A signal that is
    blocked stays so in a child.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url or not settings.server.ephemeral.enabled:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start()
    except RuntimeError as error:
        raise Interrupted(
            "Prefect's temporary server did not answer within "
            f"{os.environ[SERVER_PATIENCE]} s, so nothing was run. Try again when the machine is "
            f"less busy, set {SERVER_PATIENCE} higher, or PREFECT_API_URL to a server that runs."
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_flow(config: Path, overrides: list[str], watch: Watch) -> Any:
    """The whole pipeline."""
    from flows.sft_dpo import sft_dpo
    from tasks.stage import watching

    with watching(watch):
        return sft_dpo(config=_as_parameter(config), overrides=tuple(overrides))


def round_flow(config: Path, overrides: list[str], watch: Watch) -> Any:
    """One round on what lies in the inbox."""
    from flows.dpo_round import dpo_round
    from tasks.stage import watching

    with watching(watch):
        return dpo_round(config=_as_parameter(config), overrides=tuple(overrides))


def quiet_prefect() -> None:
    """Keep a run from a shell to what the person asked for: no analytics, no scheduler chatter."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        # SQLite waits while gigabytes of weights are flushed to the disk it shares with them.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
        SERVER_PATIENCE: "120",  # Prefect's own 20 are too few on a machine that is at work
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _as_parameter(config: Path) -> str:
    """The path as a flow wants it, which takes a bare name for a preset's."""
    return str(config) if len(config.parts) > 1 or config.suffix else f"./{config}"


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
