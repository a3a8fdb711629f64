"""A Prefect task for each kind of step, all alike but for their names and tags (`stage.py`)."""

from prefect import State, Task, task

from alignment.pipeline.steps import STEPS, Step
from alignment.records import StageRecord
from tasks.stage import POLICY, run_stage


def _task_of(kind: type[Step]) -> Task[..., State[StageRecord]]:
    """The tag "gpu" has a concurrency limit (`deployments/bootstrap.py`)."""
    tags = ["gpu"] if kind.needs_gpu else []
    return task(name=kind.title, description=kind.__doc__, tags=tags, **POLICY)(run_stage)


TASKS = {stage: _task_of(kind) for stage, kind in STEPS.items()}
"""Stage to task: `TASKS[step.stage](step, run)`."""
