"""One DPO round on the batches that have arrived since the last one, as a Prefect flow.

An event that starts it is only a hint: what to do is read from the ledger and the inbox
(`alignment/rounds/driver.py`). If there is nothing to do, the run ends as "No new data". If a run
is killed, the next one continues it.
Not here: the champion and the used batches (`alignment/rounds/state.py`), schedules
(`deployments/`).
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

from prefect import State, Task, flow
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError
from alignment.execution.run_step import try_in_child
from alignment.pipeline.chain import Round
from alignment.pipeline.steps import Step
from alignment.records.refs import ModelRef
from alignment.report.assemble import ReportFiles
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.intake import Wanted
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.notes import shortened
from alignment.rounds.steps import inbox_of
from alignment.store.activity import announced
from alignment.store.store import Store
from flows.device import state_device
from flows.form import Change, Config, Preset, PromptFile, chosen, form_field
from flows.printing import command_of, round_command
from flows.results import RoundResult
from flows.sft_dpo import Stages, name_of_run, run_chain
from flows.stores import configured_store
from tasks import artifacts
from tasks.report import round_report
from tasks.stage import Run


@flow(
    name="dpo-round",
    flow_run_name=name_of_run,
    persist_result=True,
    result_serializer="json",
)
def dpo_round(
    preset: Preset = form_field("Preset", "practice"),
    config: Config = form_field("Or a file", ""),
    overrides: tuple[Change, ...] = form_field("Changes to the config", ()),
    prompts: tuple[PromptFile, ...] = form_field("Files of prompts", ()),
    answers: bool = form_field("Only own answers", default=False),  # noqa: FBT001 - a form's field
) -> RoundResult:
    """Train one DPO round on the batches that have arrived, and keep it if it is not worse.

    The first batch also starts the line: the configured run is executed first, and its final model
    becomes the first champion.

    Args:
        preset: A configuration that comes with the project. Its `inbox` says where batches arrive.
        config: Path of a YAML file on the worker, instead of the preset.
        overrides: Config values to change, one per item as dotted.key=value, e.g.
            inbox.min_new_pairs=50. All keys are in docs/configuration.md. Do not enter passwords:
            everyone who can open the run sees these values.
        prompts: Files of prompts on the worker; the round is on the champion's answers to them.
        answers: Leave batches of pairs for another round: only prompts are looked at.
    """
    try:
        settings = load(chosen(preset, config), overrides)
        state_device(settings, get_run_logger().info)
        file = chosen(preset, config)
        command = round_command(file, overrides, prompts, answers=answers)
        first = command_of("run", file, overrides)
        with announced(configured_store(settings), command, make=False):
            result = run_round(settings, command, first, Wanted(tuple(prompts), answers))
    except AlignmentError as error:
        return cast("RoundResult", Failed(message=f"{type(error).__name__}: {error}", data=error))
    # Return a state, because the list of runs shows its name.
    return cast("RoundResult", _state_of(result))


def _state_of(result: RoundResult) -> State[RoundResult]:
    name = "Waiting for approval" if result.outcome == "waiting" else result.outcome.capitalize()
    message = "\n".join([result.message, *shortened(result.notes)])
    if result.outcome == "failed":  # Prefect raises what a failed state holds, so it is an error
        return Failed(name=name, message=message, data=AlignmentError(message))
    return Completed(name=name, message=message, data=result)


def try_champion(store: Store, champion: Champion, steps: Sequence[Step]) -> None:
    """Try without its weights the model that a round would train.

    Raises:
        ModelError: its family cannot do what a step asks for.
    """
    model = ModelRef.model_validate(store.open(champion.model).output)
    try_in_child(store, model.base, steps)


def run_round(settings: PipelineConfig, command: str, first: str, wanted: Wanted) -> RoundResult:
    """Run one round; each of its steps is a task.

    `command` does it again, and `first` the configured run that a line starts with.
    """
    run, written = Run.of(settings), list[ReportFiles]()
    stage = Stages(run)

    def report(round_: Round) -> None:
        write: Task[..., ReportFiles] = round_report
        arguments = {"config": quote(settings), "command": quote(command)}
        written.append(write(quote(round_), quote(run), **arguments))
        artifacts.publish_report(f"{run.name}-{round_.evaluate.label}", written[-1])

    hooks = Hooks(
        run_chain=lambda: run_chain(settings, first),
        build=stage,
        report=report,
        log=get_run_logger().info,
        try_model=partial(try_champion, run.store),
    )
    line = RoundLine(store=run.store, name=inbox_of(settings).line)
    round_outcome = RoundDriver(settings, line, hooks, wanted).run()
    result = RoundResult.of(
        round_outcome,
        run.store,
        table=written[0].table.to_text() if written else "",
        report=str(written[0].html) if written else "",
    )
    artifacts.publish_notes(run.name, result.notes)
    return result
