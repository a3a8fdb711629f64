"""Runs the flows in this process, on Prefect's temporary server unless another is configured."""

import signal
from collections.abc import Callable
from pathlib import Path

from prefect.settings import get_current_settings

from alignment.rounds.intake import Wanted
from flows.dpo_round import dpo_round
from flows.lost_runs import mark_lost_runs, note_process
from flows.presets import PRESETS
from flows.results import RoundResult, RunResult
from flows.sft_dpo import sft_dpo
from tasks.stage import watching

Watch = Callable[..., None]
"""Called with the progress of every step, see `tasks.stage.Watcher`."""


def start_server() -> None:
    """Start Prefect's temporary server, unless another server is configured.

    Prefect would start it by itself, but then Ctrl-C in the terminal, or SIGTERM for the whole
    group, would end the server before the run, and the run's last requests would take minutes and
    end in a traceback. A child inherits the blocked signals.

    Raises:
        UsageError: the server failed at its start.
        Interrupted: the server did not start in time.
    """
    settings = get_current_settings()
    if settings.api.url or not settings.server.ephemeral.enabled:
        return
    from flows.temporary_server import TemporaryServer  # with Prefect's server: a second

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        TemporaryServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    mark_lost_runs()


def run_pipeline(config: Path, overrides: list[str], watch: Watch) -> RunResult:
    """Run the whole pipeline."""
    with watching(watch):
        run = sft_dpo.with_options(on_running=[note_process])
        return run(config=_as_parameter(config), overrides=tuple(overrides))


def run_round(
    config: Path, overrides: list[str], watch: Watch, wanted: Wanted | None = None
) -> RoundResult:
    """Run one round on the batches in the inbox, or on those that are wanted."""
    wanted = wanted or Wanted()
    with watching(watch):
        run = dpo_round.with_options(on_running=[note_process])
        return run(
            config=_as_parameter(config),
            overrides=tuple(overrides),
            prompts=wanted.files,
            answers=wanted.answers,
        )


def _as_parameter(config: Path) -> str:
    """The config as a flow parameter; `./` keeps a bare file name from being taken for a preset."""
    if config.parent == PRESETS:
        return config.stem
    return str(config) if len(config.parts) > 1 or config.suffix else f"./{config}"
