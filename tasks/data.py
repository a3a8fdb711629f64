"""Tasks that make a run's inputs: the base model and the prepared sets."""

from prefect import State, task

from alignment.pipeline.steps import (
    OpenBase,
    PrepareBatches,
    PrepareConversations,
    PreparePairs,
    TakeBatch,
)
from alignment.records import StageRecord
from tasks.stage import POLICY, Run, run_stage


@task(name="open base model", **POLICY)
def open_base(step: OpenBase, run: Run) -> State[StageRecord]:
    """Make the base model available, check and describe it."""
    return run_stage(step, run)


@task(name="prepare conversations", **POLICY)
def prepare_conversations(step: PrepareConversations, run: Run) -> State[StageRecord]:
    """Read, clean and split the conversations of SFT."""
    return run_stage(step, run)


@task(name="prepare pairs", **POLICY)
def prepare_pairs(step: PreparePairs, run: Run) -> State[StageRecord]:
    """Read, clean and split the preference pairs of one round, or of the evaluation."""
    return run_stage(step, run)


@task(name="take batch", **POLICY)
def take_batch(step: TakeBatch, run: Run) -> State[StageRecord]:
    """Copy one batch of the inbox into the store."""
    return run_stage(step, run)


@task(name="prepare batches", **POLICY)
def prepare_batches(step: PrepareBatches, run: Run) -> State[StageRecord]:
    """Clean the pairs of a round's batches against all that the champion has seen."""
    return run_stage(step, run)
