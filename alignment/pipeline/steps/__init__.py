"""The stages of the chain: a class for each, and the union that parses them from JSON.

A step's `build` opens its parents, calls one pure function and returns the input of later steps.
Not here: their order (`chain_builder.py`), processes and locks (`execution/run_step.py`).
"""

from collections.abc import Mapping
from typing import Annotated, get_args

from pydantic import Field, TypeAdapter

from alignment.pipeline.step import Context, Outcome, Step
from alignment.pipeline.steps.agreement import MeasureJudge
from alignment.pipeline.steps.base import OpenBase, OpenWeak
from alignment.pipeline.steps.batches import PrepareBatches, TakeBatch
from alignment.pipeline.steps.data import PrepareConversations, PreparePairs
from alignment.pipeline.steps.evaluation import EvaluateModel, digest_of_benchmarks
from alignment.pipeline.steps.gate import AnchorGate, Gate, ParentGate, SftGate
from alignment.pipeline.steps.handover import HandOver, MergeAdapter, StackAdapter
from alignment.pipeline.steps.own import (
    ChooseBatchPrompts,
    ChoosePrompts,
    JoinAnswers,
    LabelAnswers,
    PairAnswers,
    RewardAnswers,
    WriteAnswers,
)
from alignment.pipeline.steps.reference import ScoreReference
from alignment.pipeline.steps.training import MissingAdapter, TrainDpo, TrainSft, UseAdapter
from alignment.records.manifest import StageRecord

AnyStep = Annotated[
    OpenBase
    | PrepareConversations
    | PreparePairs
    | TakeBatch
    | PrepareBatches
    | ChoosePrompts
    | ChooseBatchPrompts
    | MeasureJudge
    | WriteAnswers
    | OpenWeak
    | JoinAnswers
    | LabelAnswers
    | RewardAnswers
    | PairAnswers
    | UseAdapter
    | MissingAdapter
    | TrainSft
    | ScoreReference
    | TrainDpo
    | MergeAdapter
    | StackAdapter
    | EvaluateModel
    | SftGate
    | ParentGate
    | AnchorGate,
    Field(discriminator="stage"),
]


STEPS: Mapping[str, type[Step]] = {
    kind.model_fields["stage"].default: kind for kind in get_args(get_args(AnyStep)[0])
}
"""Step class by stage."""


def made_by(record: StageRecord, *kinds: type[Step]) -> bool:
    """Whether the record was made by a step of one of these classes or a subclass."""
    return issubclass(STEPS.get(record.stage, object), kinds)


def headline_of(record: StageRecord) -> dict[str, float]:
    """The headline metrics of a record; empty if its stage is unknown."""
    kind = STEPS.get(record.stage)
    names = kind.headline if kind else ()
    return {name: record.metrics[name] for name in names if name in record.metrics}


def read_step(text: str) -> Step:
    """Parse a step from the JSON of `Step.model_dump_json`."""
    step: Step = TypeAdapter(AnyStep).validate_json(text)
    return step


__all__ = [
    "STEPS",
    "AnchorGate",
    "ChooseBatchPrompts",
    "ChoosePrompts",
    "Context",
    "EvaluateModel",
    "Gate",
    "HandOver",
    "JoinAnswers",
    "LabelAnswers",
    "MeasureJudge",
    "MergeAdapter",
    "MissingAdapter",
    "OpenBase",
    "OpenWeak",
    "Outcome",
    "PairAnswers",
    "ParentGate",
    "PrepareBatches",
    "PrepareConversations",
    "PreparePairs",
    "RewardAnswers",
    "ScoreReference",
    "SftGate",
    "StackAdapter",
    "Step",
    "TakeBatch",
    "TrainDpo",
    "TrainSft",
    "UseAdapter",
    "WriteAnswers",
    "digest_of_benchmarks",
    "headline_of",
    "made_by",
    "read_step",
]
