"""Task that hands a trained model over to the next stage: merged into one folder, or stacked."""

from prefect import State, task

from alignment.pipeline.steps import HandOver
from alignment.records import StageRecord
from tasks.stage import POLICY, Run, run_stage


@task(name="merge", tags=["gpu"], **POLICY)
def merge(step: HandOver, run: Run) -> State[StageRecord]:
    """Merge or stack the newest adapter and measure what that loses."""
    return run_stage(step, run)
