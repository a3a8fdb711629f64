"""One round of DPO on what has arrived since the last one, as a Prefect flow.

An event that starts it is only a hint: what there is to do is read from the ledger and the inbox
(`alignment/rounds/driver.py`), and with nothing to do it ends as "No new data". The next run
continues a killed one.
Not here: who the champion is and what is spent (`alignment.rounds.state`), schedules
(`deployments/`).
"""

from typing import cast

from prefect import State, Task, flow
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError
from alignment.pipeline.chain import Round
from alignment.records import Frozen
from alignment.report.assemble import ReportFiles
from alignment.rounds.driver import DriverOutcome, Hooks, RoundDriver
from alignment.rounds.line import RoundLine
from alignment.rounds.steps import inbox_of
from flows.form import Change, Config, form_field
from flows.printing import command_of
from flows.sft_dpo import Stages, find_config, name_of_run, run_chain
from tasks.report import round_report
from tasks.stage import Run


class RoundResult(Frozen):
    """What a round leaves for whoever started it.

    Attributes:
        ending: what became of it.
        words: the same as a sentence, with the gate's numbers.
        head: the champion now: key of its model; empty before the line has begun.
        table: base, champion and the round's model; empty when nothing was trained.
        report: the page, a path on the machine that ran; empty likewise.
    """

    ending: DriverOutcome
    words: str
    head: str
    table: str = ""
    report: str = ""


@flow(
    name="dpo-round",
    flow_run_name=name_of_run,
    persist_result=True,
    result_serializer="json",
)
def dpo_round(
    config: Config = form_field("Preset or file", "practice"),
    overrides: tuple[Change, ...] = form_field("Changes to it", ()),
) -> RoundResult:
    """Train one round of DPO on the batches that have arrived, and keep it if it is not worse.

    The first batch also begins the line: the configured run is run, and the model that it hands on
    is the first champion.

    Args:
        config: A preset (practice, hh, a100), or the path of a YAML file on the worker; its
            `inbox` says where batches arrive.
        overrides: One a line, as dotted.key=value: inbox.min_new_pairs=50. Every key with unit,
            range and default is in docs/config.schema.json. Never a password: they are shown to
            everybody.
    """
    try:
        settings = load(find_config(config), overrides)
        result = run_round(settings, command_of("round", config, overrides))
    except AlignmentError as error:
        return cast("RoundResult", Failed(message=f"{type(error).__name__}: {error}", data=error))
    # A state, because its name is what a person looks for in the list of runs.
    name = "Waiting for approval" if result.ending == "waiting" else result.ending.capitalize()
    ended: State[RoundResult] = Completed(name=name, message=result.words, data=result)
    return cast("RoundResult", ended)


def run_round(settings: PipelineConfig, command: str) -> RoundResult:
    """One round, each step of it a task."""
    run, written = Run.of(settings), list[ReportFiles]()
    stage = Stages(run)

    def report(round_: Round) -> None:
        write: Task[..., ReportFiles] = round_report
        given = {"config": quote(settings), "command": quote(command)}
        written.append(write(quote(round_), quote(run), **given))

    hooks = Hooks(
        begin=lambda: run_chain(settings, command),
        build=stage,
        report=report,
        log=get_run_logger().info,
    )
    line = RoundLine(store=run.store, name=inbox_of(settings).line)
    ended = RoundDriver(settings, line, hooks).result()
    return RoundResult(
        ending=ended.ending,
        words=ended.words,
        head=ended.state.champion.model if ended.state.champion else "",
        table=written[0].table.to_text() if written else "",
        report=str(written[0].html) if written else "",
    )
