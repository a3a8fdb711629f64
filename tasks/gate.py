"""Task that decides whether a round is kept."""

from prefect import State, task

from alignment.pipeline.steps import Gate
from alignment.records import StageRecord
from tasks.stage import POLICY, Run, run_stage


@task(name="gate", **POLICY)
def gate(step: Gate, run: Run) -> State[StageRecord]:
    """Compare a round with the model it started from, and hand on one of the two."""
    return run_stage(step, run)
