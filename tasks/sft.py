"""Task of supervised fine-tuning: an adapter is trained, or taken from elsewhere."""

from prefect import State, task

from alignment.pipeline.steps import TrainSft, UseAdapter
from alignment.records import StageRecord
from tasks.stage import POLICY, Run, run_stage


@task(name="SFT", tags=["gpu"], **POLICY)
def sft(step: TrainSft | UseAdapter, run: Run) -> State[StageRecord]:
    """Train an SFT adapter on conversations, or check and copy one trained elsewhere."""
    return run_stage(step, run)
