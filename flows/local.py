"""Runs the flows in this process, on Prefect's temporary server unless another is configured."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from alignment.errors import Interrupted
from flows.dpo_round import RoundResult, dpo_round
from flows.environment import SERVER_TIMEOUT
from flows.sft_dpo import RunResult, sft_dpo
from tasks.stage import watching

Watch = Callable[..., None]
"""Called with the progress of every step, see `tasks.stage.Watcher`."""


def start_server() -> None:
    """Start Prefect's temporary server, unless another server is configured.

    Prefect would start it by itself, but then Ctrl-C in the terminal would end the server before
    the run, and the run's last requests would take minutes and end in a traceback. A child inherits
    the blocked signal.

    Raises:
        Interrupted: the server did not start in time.
    """
    settings = get_current_settings()
    if settings.api.url or not settings.server.ephemeral.enabled:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start()
    except RuntimeError as error:
        raise Interrupted(
            "Prefect's temporary server did not answer within "
            f"{os.environ[SERVER_TIMEOUT]} s, so nothing was run. Try again when the machine is "
            f"less busy, set {SERVER_TIMEOUT} higher, or set PREFECT_API_URL to a running server."
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_pipeline(config: Path, overrides: list[str], watch: Watch) -> RunResult:
    """Run the whole pipeline."""
    with watching(watch):
        return sft_dpo(config=_as_parameter(config), overrides=tuple(overrides))


def run_round(config: Path, overrides: list[str], watch: Watch) -> RoundResult:
    """Run one round on the batches in the inbox."""
    with watching(watch):
        return dpo_round(config=_as_parameter(config), overrides=tuple(overrides))


def _as_parameter(config: Path) -> str:
    """The path as a flow parameter; `./` keeps a bare file name from being taken for a preset."""
    return str(config) if len(config.parts) > 1 or config.suffix else f"./{config}"
