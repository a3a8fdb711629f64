"""Task that decides whether a round is kept."""

from prefect import State, task

from alignment.pipeline.steps import PassGate
from alignment.records import StageRecord
from tasks.stage import POLICY, Run, run_stage


@task(name="gate", **POLICY)
def gate(step: PassGate, run: Run) -> State[StageRecord]:
    """Compare a round with the model it started from, and hand on one of the two."""
    return run_stage(step, run)
