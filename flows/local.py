"""The flows in this process, on Prefect's temporary server where no other is named."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from alignment.errors import Interrupted
from flows.dpo_round import RoundResult, dpo_round
from flows.environment import SERVER_PATIENCE
from flows.sft_dpo import RunResult, sft_dpo
from tasks.stage import watching

Watch = Callable[..., None]
"""Told of every step's progress."""


def start_server() -> None:
    """Prefect's temporary server, where no other is named.

    Prefect would start it by itself, but within reach of the terminal: Ctrl-C would end it before
    the run, whose last words to it then take minutes and end in a traceback. A signal that is
    blocked stays so in a child.

    Raises:
        Interrupted: it did not start in time.
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
            f"{os.environ[SERVER_PATIENCE]} s, so nothing was run. Try again when the machine is "
            f"less busy, set {SERVER_PATIENCE} higher, or PREFECT_API_URL to a server that runs."
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_pipeline(config: Path, overrides: list[str], watch: Watch) -> RunResult:
    """The whole pipeline."""
    with watching(watch):
        return sft_dpo(config=_as_parameter(config), overrides=tuple(overrides))


def run_round(config: Path, overrides: list[str], watch: Watch) -> RoundResult:
    """One round on what lies in the inbox."""
    with watching(watch):
        return dpo_round(config=_as_parameter(config), overrides=tuple(overrides))


def _as_parameter(config: Path) -> str:
    """The path as a flow wants it, which takes a bare name for a preset's."""
    return str(config) if len(config.parts) > 1 or config.suffix else f"./{config}"
