"""The chain: the steps of a run, in the order they run.

    data -> SFT -> handover -> for each round:
            pairs -> DPO -> handover -> evaluation -> gate -> report

The pairs of a round are prepared with all other data, or made from answers of the model that the
round starts from (`Own`).

A handover merges or stacks the adapter of a stage; later steps do not need to know which. Steps
name their parents by key, so the whole chain and all its keys are known before anything runs, and
`plan`, `run` and a scheduler cannot disagree.
Not here: how a config becomes a chain (`chain_builder.py`).
"""

from collections.abc import Iterator

from alignment.pipeline.steps import (
    AnchorGate,
    ChooseBatchPrompts,
    ChoosePrompts,
    EvaluateModel,
    HandOver,
    JoinAnswers,
    LabelAnswers,
    MeasureJudge,
    MissingAdapter,
    OpenBase,
    OpenWeak,
    PairAnswers,
    ParentGate,
    PrepareBatches,
    PrepareConversations,
    PreparePairs,
    RewardAnswers,
    ScoreReference,
    SftGate,
    Step,
    TrainDpo,
    TrainSft,
    UseAdapter,
    WriteAnswers,
)
from alignment.records.base import Frozen

PairSet = PreparePairs | PrepareBatches | PairAnswers
RoundSource = PreparePairs | PrepareBatches | ChoosePrompts | ChooseBatchPrompts
"""What a round begins with, before there is a model: its pairs, or prompts for own answers."""


class Weaker(Frozen):
    """The steps that answer with a weaker model, and put both models' answers together."""

    model: OpenWeak
    answers: WriteAnswers
    joined: JoinAnswers


class Own(Frozen):
    """The steps that make the pairs of a round on the model's own answers."""

    prompts: ChoosePrompts | ChooseBatchPrompts
    agreement: MeasureJudge | None = None
    answers: WriteAnswers
    weaker: Weaker | None = None
    labels: LabelAnswers | RewardAnswers

    def steps(self) -> Iterator[Step]:
        """The steps between prompts and pairs, in order."""
        if self.agreement is not None:
            yield self.agreement
        yield self.answers
        if self.weaker is not None:
            yield from (self.weaker.model, self.weaker.answers, self.weaker.joined)
        yield self.labels


class Round(Frozen):
    """The steps of one DPO round; `own` is set if it is one on the model's own answers.

    `reference` is set if its reference is another model than the one that it starts from.
    """

    pairs: PairSet
    reference: ScoreReference | None = None
    train: TrainDpo
    handover: HandOver
    evaluate: EvaluateModel
    gate: ParentGate | AnchorGate | None = None
    own: Own | None = None

    @property
    def source(self) -> RoundSource:
        """The step that it begins with."""
        if self.own is not None:
            return self.own.prompts
        assert not isinstance(self.pairs, PairAnswers)
        return self.pairs

    def steps(self) -> Iterator[Step]:
        """The steps after data preparation, in order."""
        if self.own is not None:
            yield from (*self.own.steps(), self.pairs)
        if self.reference is not None:
            yield self.reference
        yield from (self.train, self.handover, self.evaluate)
        if self.gate is not None:
            yield self.gate


class Control(Frozen):
    """The steps of the control: plain SFT instead of the rounds."""

    train: TrainSft
    handover: HandOver
    evaluate: EvaluateModel


class Start(Frozen):
    """The steps that make and evaluate a model which rounds can start from."""

    handover: HandOver
    evaluate: EvaluateModel


class Chain(Frozen):
    """All steps of a run; `steps()` yields them in order.

    Attributes:
        without_sft: the base model as the start of the rounds, if SFT made it worse.
    """

    base: OpenBase
    held_out: PreparePairs | None
    conversations: PrepareConversations | None
    sft: TrainSft | UseAdapter | MissingAdapter | None
    handover: HandOver
    evaluate_base: EvaluateModel
    evaluate_sft: EvaluateModel
    sft_gate: SftGate | None = None
    without_sft: Start | None = None
    rounds: tuple[Round, ...]
    control: Control | None

    @property
    def start(self) -> Start:
        """The model that the rounds start from."""
        sft = Start(handover=self.handover, evaluate=self.evaluate_sft)
        return self.without_sft or sft

    def steps(self) -> Iterator[Step]:
        """All steps, each after its parents."""
        optional = (self.base, self.held_out, self.conversations)
        yield from (step for step in optional if step is not None)
        yield from (round_.source for round_ in self.rounds)
        if self.sft is not None:
            yield self.sft
        yield self.handover
        yield from (self.evaluate_base, self.evaluate_sft)
        if self.sft_gate is not None:
            yield self.sft_gate
        if self.without_sft is not None:
            yield from (self.without_sft.handover, self.without_sft.evaluate)
        for round_ in self.rounds:
            yield from round_.steps()
        if self.control is not None:
            yield from (self.control.train, self.control.handover, self.control.evaluate)

    def evaluations(self) -> tuple[EvaluateModel, ...]:
        """All evaluations in the order of the report's table: base, SFT, rounds, control."""
        control = (self.control.evaluate,) if self.control else ()
        without_sft = (self.without_sft.evaluate,) if self.without_sft else ()
        rounds = (round_.evaluate for round_ in self.rounds)
        return (self.evaluate_base, self.evaluate_sft, *without_sft, *rounds, *control)
