"""The whole pipeline as one Prefect flow: SFT, DPO rounds, evaluation, report.

The steps and their order come from `alignment.pipeline`: after each gate, the next round starts
from the model that was kept.
Not here: what a task does, the command line (`cli/`), schedules (`deployments/`).
"""

from datetime import UTC, datetime
from typing import cast

from prefect import State, Task, flow, runtime
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError
from alignment.execution.run_step import try_in_child
from alignment.models.sources import HubModel
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.steps import OpenBase, Step
from alignment.pipeline.verdicts import chain_so_far, each_step
from alignment.records.manifest import StageRecord
from alignment.records.refs import ModelRef
from alignment.report.assemble import ReportFiles
from alignment.store.activity import announced
from alignment.store.runs import note_begun
from alignment.store.store import Store
from flows.device import state_device
from flows.form import (
    AsConfigured,
    Change,
    Config,
    Count,
    Preset,
    Rate,
    Rounds,
    changes,
    chosen,
    form_field,
)
from flows.logs import log_known_errors_in_one_line
from flows.printing import command_of
from flows.results import RunResult
from flows.stores import configured_store
from tasks import artifacts
from tasks.report import report
from tasks.stage import Run
from tasks.steps import TASKS

log_known_errors_in_one_line()


def name_of_run() -> str:
    """'practice, 22 Nov 17:44': the config and the start time."""
    given = runtime.flow_run.parameters
    config = chosen(given["preset"], given["config"])
    return f"{config.stem}, {datetime.now().astimezone():%d %b %H:%M}"


@flow(
    name="sft-dpo",
    flow_run_name=name_of_run,
    persist_result=True,
    result_serializer="json",
)
def sft_dpo(
    preset: Preset = form_field("Preset", "practice"),
    config: Config = form_field("Or a file", ""),
    rounds: Rounds = form_field("Maximum DPO rounds", 99),
    learning_rate: Rate | AsConfigured = form_field("Learning rate of DPO", None),
    beta: Rate | AsConfigured = form_field("Beta", None),
    epochs: Rate | AsConfigured = form_field("Epochs of a round", None),
    prompts: Count | AsConfigured = form_field("Prompts to answer", None),
    overrides: tuple[Change, ...] = form_field("Other changes to the config", ()),
) -> RunResult:
    """Fine-tune a chat model with SFT, then with rounds of DPO; every model is evaluated.

    To continue a run, start it again with the same parameters: finished stages are reused, and an
    interrupted training resumes from its checkpoint.

    Args:
        preset: practice: a small model on a CPU, in minutes; hh: real preferences; a100:
            Qwen2.5-7B-Instruct on one 40 GB GPU; a100-stack: the same with stacked adapters
            instead of merges.
        config: Path of a YAML file on the worker, instead of the preset.
        rounds: Run only the first DPO rounds of the config, at most this many (1 to 99). The
            default runs all of them.
        learning_rate: Peak learning rate of every round, above 0, e.g. 5e-6.
        beta: How closely DPO keeps to the reference, above 0, e.g. 0.1.
        epochs: Passes over the pairs of a round, above 0.
        prompts: Maximum number of held-out prompts that every model answers.
        overrides: Config values to change, one per item as dotted.key=value, e.g.
            dpo.max_length=2048 or seed=1. All keys are in docs/configuration.md. Do not enter
            passwords: everyone who can open the run sees these values.
    """
    try:
        file = chosen(preset, config)
        fields = changes(learning_rate=learning_rate, beta=beta, epochs=epochs, prompts=prompts)
        changed = (*fields, *overrides)
        settings = load(file, changed).first_rounds(rounds)
        state_device(settings, get_run_logger().info)
        command = command_of("run", file, changed)
        with announced(configured_store(settings), command):
            result = run_chain(settings, command)
    except AlignmentError as error:
        # Returned, not raised: the run page then shows this line and no traceback. Callers of the
        # flow still get `error` raised.
        return cast("RunResult", Failed(message=f"{type(error).__name__}: {error}", data=error))
    # a state, because its message is what the run's page and the list of runs show
    return cast("RunResult", Completed(message=result.headline, data=result))


def run_chain(settings: PipelineConfig, command: str) -> RunResult:
    """Run every step in order, then write the report."""
    run = Run.of(settings)
    note_begun(run.store, settings.name, settings.model_dump(mode="json"), command)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    plan, records = run_steps(settings, run)
    built = {record.name: record.seconds for record in records if record.started >= began}
    write: Task[..., ReportFiles] = report
    arguments = {"config": settings, "command": command, "timings": built}
    quoted = {name: quote(value) for name, value in arguments.items()}
    files = write(quote(plan), quote(run), **quoted)
    artifacts.publish_report(run.name, files)
    return RunResult(report=str(files.html), headline=files.headline, table=files.table.to_text())


class Stages:
    """Runs steps as tasks, one after another, and keeps their records."""

    def __init__(self, run: Run) -> None:
        self.records: list[StageRecord] = []
        self._run = run
        self._states: dict[str, State[StageRecord]] = {}

    def __call__(self, step: Step) -> None:
        """Run a step once and append its record to `records`; a failed step raises its error."""
        if step.key in self._states:
            return
        # The graph on the run page gets one arrow per step, from its last parent. Values are quoted
        # and states emptied because Prefect infers dozens of arrows from equal strings otherwise.
        parents = {parent.key for parent in step.parents}
        after = [state for key, state in self._states.items() if key in parents][-1:]
        state = TASKS[step.stage](quote(step), quote(self._run), wait_for=after, return_state=True)
        self.records.append(state.result())
        self._states[step.key] = state.model_copy(update={"data": True})


def run_steps(settings: PipelineConfig, run: Run) -> tuple[Chain, list[StageRecord]]:
    """Run all steps in order; the chain after all verdicts, and the records of its steps."""
    stage = Stages(run)
    for step in each_step(settings, run.store):
        if isinstance(step, OpenBase):
            _try_before_download(step, settings, run.store)
        stage(step)
        if isinstance(step, OpenBase):
            base = ModelRef.model_validate(stage.records[-1].output).base
            for note in try_in_child(run.store, base, tuple(chain(settings).steps())):
                get_run_logger().info(note)
    return chain_so_far(settings, run.store), stage.records


def _try_before_download(step: OpenBase, settings: PipelineConfig, store: Store) -> None:
    """Try a hub's model by its config, before its weights are downloaded."""
    if isinstance(step.source, HubModel) and store.find(step.key) is None:
        base = step.source.foreseen()
        try_in_child(store, base, tuple(chain(settings).steps()))
