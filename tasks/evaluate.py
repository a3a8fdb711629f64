"""Task that measures one model on the held-out rows."""

from prefect import State, task

from alignment.pipeline.steps import EvaluateModel
from alignment.records import StageRecord
from tasks.stage import POLICY, Run, run_stage


@task(name="evaluate", tags=["gpu"], **POLICY)
def evaluate(step: EvaluateModel, run: Run) -> State[StageRecord]:
    """Score the held-out pairs and answer the held-out prompts."""
    return run_stage(step, run)
