"""Task of one round of direct preference optimisation."""

from prefect import State, task

from alignment.pipeline.steps import TrainDpo
from alignment.records import StageRecord
from tasks.stage import POLICY, Run, run_stage


@task(name="DPO round", tags=["gpu"], **POLICY)
def dpo(step: TrainDpo, run: Run) -> State[StageRecord]:
    """Train the round's fresh adapter on its preference pairs."""
    return run_stage(step, run)
