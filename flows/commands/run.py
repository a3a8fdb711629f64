"""`sft-dpo run` and `sft-dpo round`: run a flow in this process."""

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.execution.provenance import slow_bfloat16
from alignment.pipeline.chain import chain
from alignment.rounds.notes import shortened
from alignment.store.store import Store
from flows.device import state_device
from flows.display import Display
from flows.printing import say
from flows.shell import watched

if TYPE_CHECKING:  # Prefect reads the environment when it is imported
    from flows.dpo_round import RoundResult

REFUSED = 3
"""Exit code of a round that refused a batch."""


def run_pipeline(config: Path, overrides: list[str]) -> None:
    """Run the whole pipeline; print its table and the path of the report."""
    settings = load(config, overrides)
    state_device(settings, _print_error)
    display = Display(list(chain(settings).steps()), _history(settings.store))
    _warn_about_slow_bfloat16(settings)
    result = watched(display, "pipeline", config, overrides)
    say(result.table)
    say(f"report: {result.report}")


def run_round(config: Path, overrides: list[str], *, as_json: bool) -> None:
    """Train one round on new batches; print its outcome."""
    settings = load(config, overrides)
    state_device(settings, _print_error)
    _warn_about_slow_bfloat16(settings)
    display = Display([], _history(settings.store))
    result = watched(display, "round", config, overrides)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        _print_round(result)
    if result.refused:
        raise SystemExit(REFUSED)


def _print_round(result: "RoundResult") -> None:
    if result.table:
        say(result.table)
        say(f"report: {result.report}")
    say(result.message)
    if result.champion:
        say(f"champion: {result.champion}")
    for note in shortened(result.notes):
        say(f"not used: {note}", error=True)


def _print_error(line: str) -> None:
    say(line, error=True)


def _warn_about_slow_bfloat16(settings: PipelineConfig) -> None:
    if settings.dpo.bf16 and slow_bfloat16():
        _print_error(
            "note: this CPU is about four times slower in bfloat16 than in float32. Faster: "
            "--set sft.training.bf16=false --set dpo.bf16=false --set evaluation.dtype=float32"
        )


def _history(root: Path) -> dict[str, float]:
    """Seconds that the last build of each kind of step took, according to the store."""
    return {record.stage: record.seconds for record in Store(root=root).records()}
