"""The stages of the chain as values: one class each, and the union that reads them from JSON.

A step's `build` opens its parents, calls one pure function and returns what the next steps take.
Not here: the order of the steps (`chain.py`), processes and locks (`launch.py`).
"""

from typing import Annotated

from pydantic import Field, TypeAdapter

from alignment.pipeline.step import Context, Outcome, Step
from alignment.pipeline.steps.base import OpenBase
from alignment.pipeline.steps.batches import PrepareBatches, TakeBatch
from alignment.pipeline.steps.data import PrepareConversations, PreparePairs
from alignment.pipeline.steps.evaluation import EvaluateModel
from alignment.pipeline.steps.gate import Gate
from alignment.pipeline.steps.handover import HandOver, MergeAdapter, StackAdapter
from alignment.pipeline.steps.training import TrainDpo, TrainSft, UseAdapter

AnyStep = Annotated[
    OpenBase
    | PrepareConversations
    | PreparePairs
    | TakeBatch
    | PrepareBatches
    | UseAdapter
    | TrainSft
    | TrainDpo
    | MergeAdapter
    | StackAdapter
    | EvaluateModel
    | Gate,
    Field(discriminator="stage"),
]


def read_step(text: str) -> Step:
    """The step of a JSON text that `Step.model_dump_json` wrote."""
    step: Step = TypeAdapter(AnyStep).validate_json(text)
    return step


__all__ = [
    "Context",
    "EvaluateModel",
    "Gate",
    "HandOver",
    "MergeAdapter",
    "OpenBase",
    "Outcome",
    "PrepareBatches",
    "PrepareConversations",
    "PreparePairs",
    "StackAdapter",
    "Step",
    "TakeBatch",
    "TrainDpo",
    "TrainSft",
    "UseAdapter",
    "read_step",
]
