"""`sft-dpo run` and `sft-dpo round`: run a flow in this process."""

from pathlib import Path

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.execution.provenance import slow_bfloat16
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.effort import Efforts
from alignment.rounds.intake import Wanted
from alignment.rounds.notes import shortened
from alignment.store.activity import announced
from flows.device import state_device
from flows.display import Display
from flows.environment import may_have_server
from flows.located import naming_the_line
from flows.printing import command_of, round_command, say
from flows.results import RoundResult, RunResult
from flows.shell import run_flow, stopping_on_signals
from flows.stores import configured_store
from flows.unchanged import IdleRound, unchanged_run

REFUSED = 3
"""Exit code of a round that refused a batch."""


def run_pipeline(config: Path, overrides: list[str]) -> None:
    """Run the whole pipeline; print its table and the path of the report."""
    settings = load(config, overrides)
    configured_store(settings)
    state_device(settings, _print_error)
    _warn_about_slow_bfloat16(settings)
    with naming_the_line(config, overrides), stopping_on_signals():
        result = _unchanged(settings, command_of("run", config, overrides))
        if result is None:
            at_work = announced(settings.open_store(), command_of("run", config, overrides))
            with at_work, _display(settings).shown() as display:
                result = run_flow(display, "pipeline", config, overrides)
    say(result.table)
    say(f"report: {result.report}")


def _unchanged(settings: PipelineConfig, command: str) -> RunResult | None:
    if may_have_server():
        return None
    with _display(settings).shown() as display:
        return unchanged_run(settings, command, display)


def run_round(
    config: Path, overrides: list[str], *, prompts: list[Path], answers: bool, as_json: bool
) -> None:
    """Train one round on new batches, or on files of prompts; print its outcome."""
    wanted = Wanted(tuple(str(file.absolute()) for file in prompts), answers)
    settings = load(config, overrides)
    configured_store(settings)
    state_device(settings, _print_error)
    _warn_about_slow_bfloat16(settings)
    idle = IdleRound(settings, wanted)
    with naming_the_line(config, overrides), stopping_on_signals():
        result = None if may_have_server() else idle.result()
        if result is None:
            command = round_command(config, overrides, wanted.files, answers=wanted.answers)
            at_work = announced(settings.open_store(), command, make=False)
            with at_work, Display([], Efforts(settings.open_store())).shown() as display:
                result = run_flow(display, "round", config, overrides, wanted=wanted)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        _print_round(result)
    if result.refused or idle.refused:
        raise SystemExit(REFUSED)


def _print_round(result: RoundResult) -> None:
    if result.table:
        say(result.table)
        say(f"report: {result.report}")
    say(result.message)
    if result.champion:
        say(f"champion: {result.champion}")
    for note in shortened(result.notes):
        say(f"not used: {note}", error=True)


def _display(settings: PipelineConfig) -> Display:
    return Display(list(chain(settings).steps()), Efforts(settings.open_store()))


def _print_error(line: str) -> None:
    say(line, error=True)


def _warn_about_slow_bfloat16(settings: PipelineConfig) -> None:
    if settings.dpo.bf16 and slow_bfloat16():
        _print_error(
            "note: this CPU is about four times slower in bfloat16 than in float32. Faster: "
            "--set sft.training.bf16=false --set dpo.bf16=false --set evaluation.dtype=float32"
        )
