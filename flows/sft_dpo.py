"""The whole pipeline as one Prefect flow: SFT, merge, rounds of DPO, evaluation, report.

The steps and their order are those of `alignment.pipeline`: after each gate, the later rounds start
from the model that was kept.
Not here: what a task does, the command line (`cli.py`), schedules (`deployments/`).
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from prefect import State, Task, flow, runtime
from prefect.states import Failed
from prefect.utilities.annotations import quote

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError
from alignment.pipeline.chain import Chain
from alignment.pipeline.steps import Step
from alignment.pipeline.verdicts import chain_so_far, each_step
from alignment.records import Frozen, StageRecord
from alignment.report.assemble import ReportFiles
from flows.form import Change, Config, Rounds, form_field
from flows.logs import tell_known_errors_in_one_line
from flows.printing import command_of
from tasks.report import report
from tasks.stage import Run
from tasks.steps import TASKS

PRESETS = Path(__file__).parents[1] / "deployments" / "configs"
tell_known_errors_in_one_line()


class RunResult(Frozen):
    """What a run leaves for whoever started it.

    Attributes:
        report: the page, a path on the machine that ran.
        headline: the verdict in one sentence.
        table: base, SFT, rounds and control, as aligned text.
    """

    report: str
    headline: str
    table: str


def name_of_run() -> str:
    """'practice, 22 Nov 17:44': what is run, and when it began."""
    config = find_config(runtime.flow_run.parameters["config"])
    return f"{config.stem}, {datetime.now().astimezone():%d %b %H:%M}"


@flow(
    name="sft-dpo",
    flow_run_name=name_of_run,
    persist_result=True,
    result_serializer="json",
)
def sft_dpo(
    config: Config = form_field("Preset or file", "practice"),
    rounds: Rounds = form_field("DPO rounds, at most", 99),
    overrides: tuple[Change, ...] = form_field("Changes to it", ()),
) -> RunResult:
    """Fine-tune a chat model, then align it in rounds of DPO; every model is evaluated.

    Finished stages are reused and an interrupted training goes on from its checkpoint, so running
    the same thing again continues it.

    Args:
        config: A preset (practice: a small model on a CPU, in minutes; hh: real preferences;
            a100: Qwen2.5-7B-Instruct on one 40 GB card), or the path of a YAML file on the worker.
        rounds: Stop after the first so many of the config's DPO rounds, 1 to 99; with the default
            all of them are run.
        overrides: One a line, as dotted.key=value: dpo.learning_rate=1e-5, seed=1. Every key with
            unit, range and default is in docs/config.schema.json. Never a password: they are
            shown to everybody.
    """
    try:
        settings = load(find_config(config), overrides).first_rounds(rounds)
        return run_chain(settings, command_of("run", config, overrides))
    except AlignmentError as error:
        # Returned, not raised: the run page then has this line and no traceback. Whoever called
        # the flow gets `error` raised.
        return cast("RunResult", Failed(message=f"{type(error).__name__}: {error}", data=error))


def run_chain(settings: PipelineConfig, command: str) -> RunResult:
    """Every step in order, then the report."""
    run = Run.of(settings)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    plan, records = run_steps(settings, run)
    built = {record.name: record.seconds for record in records if record.started >= began}
    write: Task[..., ReportFiles] = report
    given = {"config": settings, "command": command, "timings": built}
    quoted = {name: quote(value) for name, value in given.items()}
    files = write(quote(plan), quote(run), **quoted)
    return RunResult(report=str(files.html), headline=files.headline, table=files.table.to_text())


class Stages:
    """Runs steps as tasks, one after the other, and keeps their records."""

    def __init__(self, run: Run) -> None:
        self.records: list[StageRecord] = []
        self._run = run
        self._states: dict[str, State[StageRecord]] = {}

    def __call__(self, step: Step) -> None:
        """The step's record joins `records`, once; a failed step ends the run with its error."""
        if step.key in self._states:
            return
        # The run page gets one arrow, from the parent made last. Values are quoted and states
        # emptied because Prefect guesses further arrows from equal strings, and draws dozens.
        parents = {parent.key for parent in step.parents}
        after = [state for key, state in self._states.items() if key in parents][-1:]
        state = TASKS[step.stage](quote(step), quote(self._run), wait_for=after, return_state=True)
        self.records.append(state.result())
        self._states[step.key] = state.model_copy(update={"data": True})


def run_steps(settings: PipelineConfig, run: Run) -> tuple[Chain, list[StageRecord]]:
    """The chain that the gates' verdicts made, and the records of all its steps, in order."""
    stage = Stages(run)
    for step in each_step(settings, run.store):
        stage(step)
    return chain_so_far(settings, run.store), stage.records


def find_config(config: str) -> Path:
    """The file of a preset's bare name; anything with a slash or an ending is a path."""
    path = Path(config)
    return path if "/" in config or path.suffix else PRESETS / f"{config}.yaml"
