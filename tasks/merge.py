"""Task that hands a trained model over to the next stage as one folder."""

from prefect import State, task

from alignment.records import StageRecord
from alignment.stages import MergeAdapter
from tasks.stage import POLICY, Run, run_stage


@task(name="merge", tags=["gpu"], **POLICY)
def merge(step: MergeAdapter, run: Run) -> State[StageRecord]:
    """Write base and adapters as one folder and measure what that loses."""
    return run_stage(step, run)
