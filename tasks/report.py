"""Tasks that write the report of a chain or a round. They are cheap, so they are never reused."""

from collections.abc import Mapping

from prefect import task
from prefect.cache_policies import NO_CACHE

from alignment.config.pipeline import PipelineConfig
from alignment.pipeline.chain import Chain, Round
from alignment.report.assemble import ReportFiles, write_report, write_round_report
from tasks.stage import Run


@task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
def report(
    chain: Chain, run: Run, *, config: PipelineConfig, command: str, timings: Mapping[str, float]
) -> ReportFiles:
    """Write the report of a chain."""
    return write_report(run.store, chain, config=config, command=command, timings=timings)


@task(name="round report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
def round_report(round_: Round, run: Run, *, config: PipelineConfig, command: str) -> ReportFiles:
    """Write the report of one round."""
    return write_round_report(run.store, round_, config=config, command=command)
