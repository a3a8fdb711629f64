"""The chain: a config becomes steps in the order they run.

    data -> SFT -> hand-over -> for each round:
            pairs -> DPO -> hand-over -> evaluation -> gate -> report

A hand-over merges the stage's adapter or stacks it; the steps after it do not know which.
Rounds are a fold: each starts from the hand-over of the one before. Steps name their parents by
key, so the whole chain with all its keys exists before anything runs, and `plan`, `run` and a
scheduler cannot disagree about it. For that reason a verdict of the gate decides here which model
the run hands on, and not from which model the next round starts; rounds from an inbox
(`rounds.py`) are planned one at a time and start from what the gate kept.
"""

from collections.abc import Iterator

from alignment.config import AdapterSft, Compose, PipelineConfig, TrainedSft
from alignment.data.prepare import Lengths, PairSetConfig
from alignment.models.merge import Merge
from alignment.records import Frozen, digest_of
from alignment.stages import (
    EvaluateModel,
    HandOver,
    MergeAdapter,
    OpenBase,
    PassGate,
    PrepareBatches,
    PrepareConversations,
    PreparePairs,
    StackAdapter,
    Step,
    TrainDpo,
    TrainSft,
    UseAdapter,
)
from alignment.train.dpo import DpoConfig

EVALUATION = "evaluation"
"""Name of the set that is used for nothing but evaluation."""


class Round(Frozen):
    """The steps of one DPO round."""

    pairs: PreparePairs | PrepareBatches
    train: TrainDpo
    hand_over: HandOver
    evaluate: EvaluateModel
    gate: PassGate | None = None

    def steps(self) -> Iterator[Step]:
        """Every step after the data, in order."""
        yield from (self.train, self.hand_over, self.evaluate)
        if self.gate is not None:
            yield self.gate


class Control(Frozen):
    """The steps of the control: plain SFT in place of the rounds."""

    train: TrainSft
    hand_over: HandOver
    evaluate: EvaluateModel


class Chain(Frozen):
    """All steps of a run; `steps` gives them in order."""

    base: OpenBase
    held_out: PreparePairs | None
    conversations: PrepareConversations | None
    sft: TrainSft | UseAdapter | None
    hand_over: HandOver
    evaluate_base: EvaluateModel
    evaluate_sft: EvaluateModel
    rounds: tuple[Round, ...]
    control: Control | None

    def steps(self) -> Iterator[Step]:
        """Every step, each after its parents."""
        first = (self.base, self.held_out, self.conversations)
        yield from (step for step in first if step is not None)
        yield from (round_.pairs for round_ in self.rounds)
        if self.sft is not None:
            yield self.sft
        yield self.hand_over
        yield from (self.evaluate_base, self.evaluate_sft)
        for round_ in self.rounds:
            yield from round_.steps()
        if self.control is not None:
            yield from (self.control.train, self.control.hand_over, self.control.evaluate)

    def evaluations(self) -> tuple[EvaluateModel, ...]:
        """Every evaluation in the order of the table: base, SFT, rounds, control."""
        control = (self.control.evaluate,) if self.control else ()
        rounds = (round_.evaluate for round_ in self.rounds)
        return (self.evaluate_base, self.evaluate_sft, *rounds, *control)


def seed_for(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose of a run, 0 .. 2^31 - 1."""
    return int(digest_of([seed, purpose])[:8], 16) >> 1


def lengths_of(dpo: DpoConfig) -> Lengths:
    """How long a pair may be in a round that is trained like this."""
    return Lengths(
        prompt=dpo.max_prompt_length, whole=dpo.max_length, reply=dpo.min_completion_tokens
    )


def hand_over(
    config: Compose, name: str, policy: str, adapter: str | None, *, bf16: bool
) -> HandOver:
    """The step that hands on a model and the adapter trained on it, given by their keys."""
    kind = MergeAdapter if isinstance(config, Merge) else StackAdapter
    return kind(
        name=f"{config.name}-{name}",
        config=config,
        policy=policy,
        adapter=adapter,
        dtype="bfloat16" if bf16 else "float32",
    )


def chain(config: PipelineConfig) -> Chain:
    """The steps of a run.

    Raises:
        DataError, ModelError: a source that is hashed by content cannot be read.
    """
    return _Weaver(config).weave()


class _Weaver:
    """Puts one chain together; holds what most steps need: the config, the base, sets so far."""

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self._base = OpenBase(
            name="base",
            source=config.model,
            quantisation=config.quantisation,
            digest=config.model.digest(),
        )
        self._sets: dict[str, str] = {}

    def weave(self) -> Chain:
        config = self._config
        held_out = self._held_out()
        conversations = self._conversations()
        pairs = [self._pairs(number) for number in range(1, len(config.rounds) + 1)]
        shown = tuple(step.key for step in (held_out, *pairs) if step is not None)
        sft = self._sft(conversations, shown)
        start = self._hand_over("sft", self._base, sft, bf16=self._sft_bf16())
        evaluate_base = self._evaluate("base", self._base, shown)
        label = "sft" if sft is not None else "no sft"
        evaluate_sft = self._evaluate(label, start, shown, evaluate_base, evaluate_base)
        rounds: list[Round] = []
        model, parent = start, evaluate_sft
        champion = (start.key, evaluate_sft.key)
        for number, data in enumerate(pairs, start=1):
            made = self._round(number, data, model, shown, evaluate_base, parent)
            gate = self._gate(number, made, champion)
            rounds.append(made.model_copy(update={"gate": gate}))
            model, parent = made.hand_over, made.evaluate
            champion = (gate.key, gate.key) if gate else champion
        return Chain(
            base=self._base,
            held_out=held_out,
            conversations=conversations,
            sft=sft,
            hand_over=start,
            evaluate_base=evaluate_base,
            evaluate_sft=evaluate_sft,
            rounds=tuple(rounds),
            control=self._control(pairs, start, shown, evaluate_base, evaluate_sft),
        )

    # --- data ---

    def _held_out(self) -> PreparePairs | None:
        data = self._config.evaluation.data
        if data is None:
            return None
        return self._prepare_pairs(EVALUATION, data, self._config.dpo)

    def _pairs(self, number: int) -> PreparePairs:
        round_ = self._config.rounds[number - 1]
        return self._prepare_pairs(f"{number}", round_.data, self._dpo(number))

    def _prepare_pairs(self, name: str, data: PairSetConfig, dpo: DpoConfig) -> PreparePairs:
        data = data.with_seed(self._config.seed)
        step = PreparePairs(
            name=f"pairs-{name}",
            seed=self._seed("split"),
            config=data,
            lengths=lengths_of(dpo),
            digest=data.digest(),
            base=self._base.key,
            earlier=dict(self._sets),
        )
        self._sets[name] = step.key
        return step

    def _conversations(self) -> PrepareConversations | None:
        sft = self._config.sft
        if not isinstance(sft, TrainedSft):
            return None
        data = sft.data.with_seed(self._config.seed)
        step = PrepareConversations(
            name="conversations",
            seed=self._seed("split"),
            config=data,
            max_length=sft.training.max_length,
            digest=data.digest(),
            base=self._base.key,
            earlier=dict(self._sets),
        )
        self._sets["sft"] = step.key
        return step

    # --- models ---

    def _sft(
        self, conversations: PrepareConversations | None, shown: tuple[str, ...]
    ) -> TrainSft | UseAdapter | None:
        sft = self._config.sft
        if isinstance(sft, TrainedSft):
            assert conversations is not None
            return TrainSft(
                name="sft",
                seed=self._seed("sft"),
                config=sft.training,
                policy=self._base.key,
                data=(conversations.key,),
                watched=self._watched(conversations.key),
            )
        if isinstance(sft, AdapterSft) and sft.present():
            return UseAdapter(
                name="sft",
                path=sft.path,
                digest=sft.digest(),
                policy=self._base.key,
                probe=shown,
                bf16=self._sft_bf16(),
            )
        return None

    def _sft_bf16(self) -> bool:
        sft = self._config.sft
        return sft.training.bf16 if isinstance(sft, TrainedSft) else self._config.dpo.bf16

    def _dpo(self, number: int) -> DpoConfig:
        return self._config.rounds[number - 1].training or self._config.dpo

    def _round(
        self,
        number: int,
        pairs: PreparePairs,
        policy: Step,
        shown: tuple[str, ...],
        base: EvaluateModel,
        parent: EvaluateModel,
    ) -> Round:
        train = TrainDpo(
            name=f"dpo-{number}",
            seed=self._seed(f"dpo-{number}"),
            config=self._dpo(number),
            policy=policy.key,
            data=pairs.key,
            watched=self._watched(pairs.key),
        )
        after = self._hand_over(train.name, policy, train, bf16=train.config.bf16)
        evaluate = self._evaluate(f"round {number}", after, shown, base, parent)
        return Round(pairs=pairs, train=train, hand_over=after, evaluate=evaluate)

    def _gate(self, number: int, made: Round, champion: tuple[str, str]) -> PassGate | None:
        if self._config.gate is None:
            return None
        return PassGate(
            name=f"gate-{number}",
            config=self._config.gate,
            candidate=made.hand_over.key,
            evaluation=made.evaluate.key,
            champion=champion[0],
            against=champion[1],
        )

    def _control(
        self,
        pairs: list[PreparePairs],
        policy: Step,
        shown: tuple[str, ...],
        base: EvaluateModel,
        parent: EvaluateModel,
    ) -> Control | None:
        sft, control = self._config.sft, self._config.control
        if control is None or not pairs or not isinstance(sft, TrainedSft):
            return None
        settings = {
            "learning_rate": control.learning_rate or sft.training.learning_rate,
            "batch": self._config.dpo.batch,
            "epochs": self._config.dpo.epochs,
            "max_steps": None,
        }
        data = tuple(step.key for step in pairs)
        train = TrainSft(
            name="control",
            seed=self._seed("control"),
            config=sft.training.model_copy(update=settings),
            policy=policy.key,
            data=data,
            watched=self._watched(*data),
        )
        after = self._hand_over("control", policy, train, bf16=train.config.bf16)
        return Control(
            train=train,
            hand_over=after,
            evaluate=self._evaluate("control", after, shown, base, parent),
        )

    def _hand_over(self, name: str, policy: Step, adapter: Step | None, *, bf16: bool) -> HandOver:
        adapted = adapter.key if adapter else None
        return hand_over(self._config.compose, name, policy.key, adapted, bf16=bf16)

    def _evaluate(
        self,
        label: str,
        model: Step,
        shown: tuple[str, ...],
        base: EvaluateModel | None = None,
        parent: EvaluateModel | None = None,
    ) -> EvaluateModel:
        return EvaluateModel(
            name=f"evaluate-{label.replace(' ', '-')}",
            seed=self._seed("bootstrap"),
            config=self._config.evaluation,
            label=label,
            model=model.key,
            data=shown,
            base=base.key if base else None,
            parent=parent.key if parent else None,
        )

    def _watched(self, *own: str) -> tuple[str, ...]:
        """Sets to look at during training: its own, then those for evaluation only."""
        evaluation = self._sets.get(EVALUATION)
        return (*own, evaluation) if evaluation else own

    def _seed(self, purpose: str) -> int:
        return seed_for(self._config.seed, purpose)
