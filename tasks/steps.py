"""A Prefect task for each kind of step; they differ only in names and tags (`stage.py`)."""

from prefect import State, Task, task

from alignment.pipeline.steps import STEPS, Step
from alignment.records.manifest import StageRecord
from tasks.stage import POLICY, run_stage


def _task_of(kind: type[Step]) -> Task[..., State[StageRecord]]:
    """The task of a kind of step, tagged "gpu" if it needs one."""
    tags = ["gpu"] if kind.needs_gpu else []
    return task(name=kind.title, description=kind.__doc__, tags=tags, **POLICY)(run_stage)


TASKS = {stage: _task_of(kind) for stage, kind in STEPS.items()}
"""Task by stage: `TASKS[step.stage](step, run)`."""
