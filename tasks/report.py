"""Task that writes the report of a finished chain. Cheap and never reused: it tells of one run."""

from collections.abc import Mapping

from prefect import task
from prefect.cache_policies import NO_CACHE

from alignment.chain import Chain
from alignment.config import PipelineConfig
from alignment.report.assemble import ReportFiles, write_report
from tasks import shown
from tasks.stage import Run


@task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
def report(
    chain: Chain, run: Run, *, config: PipelineConfig, command: str, timings: Mapping[str, float]
) -> ReportFiles:
    """Write the page and put verdict, table and link on the run page."""
    files = write_report(run.store, chain, config=config, command=command, timings=timings)
    shown.publish_report(
        run.name,
        headline=files.headline,
        markdown=files.markdown,
        table=files.table,
        page=files.html,
    )
    return files
