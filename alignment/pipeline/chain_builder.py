"""Turns a config into the chain of its steps.

Rounds are a fold: each starts from the last model that a gate kept. Gate verdicts are not part of
any key. They decide which model a later round starts from, so the rounds are rebuilt after each
verdict (`verdicts.py`).
Not here: the data steps (`data_sets.py`), those of own answers (`own_steps.py`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from alignment.candidates.settings import (
    OwnAnswers,
)
from alignment.compose.settings import Compose, Merge
from alignment.config.pipeline import AdapterSft, NoSft, PipelineConfig, TrainedSft
from alignment.evaluate.settings import AnchoredGate, GateConfig
from alignment.pipeline.chain import (
    Chain,
    Control,
    Own,
    PairSet,
    Round,
    RoundSource,
    Start,
)
from alignment.pipeline.data_sets import DataSets, dpo_of, seed_for
from alignment.pipeline.own_steps import own_steps
from alignment.pipeline.steps import (
    AnchorGate,
    EvaluateModel,
    Gate,
    HandOver,
    MergeAdapter,
    MissingAdapter,
    OpenBase,
    ParentGate,
    PrepareBatches,
    PrepareConversations,
    PreparePairs,
    SftGate,
    StackAdapter,
    Step,
    TrainDpo,
    TrainSft,
    UseAdapter,
    digest_of_benchmarks,
)
from alignment.pipeline.steps.reference import reference_step

KeepRound = Callable[[Gate], bool]
"""Tells whether a gate keeps its round."""


def handover_step(
    config: Compose, name: str, policy: str, adapter: str | None, *, bf16: bool
) -> HandOver:
    """The step that passes a model and the adapter trained on it (both as keys) to later stages."""
    kind = MergeAdapter if isinstance(config, Merge) else StackAdapter
    return kind(
        name=f"{config.name}-{name}",
        config=config,
        policy=policy,
        adapter=adapter,
        dtype="bfloat16" if bf16 else "float32",
    )


class Judged(NamedTuple):
    """The models that a gate compares, as keys: model and evaluation of each.

    Attributes:
        candidate, evaluation: the round's model.
        champion, against: the model that the round started from.
        anchor: evaluation of the model approved last.
        look: the number of this verdict since then, 1 for the first.
    """

    candidate: str
    evaluation: str
    champion: str
    against: str
    anchor: str
    look: int


def gate_step(config: GateConfig, name: str, judged: Judged) -> ParentGate | AnchorGate:
    """The step that decides on a round; the plain gate does not look at the anchor."""
    models = judged._asdict()
    if isinstance(config, AnchoredGate):
        return AnchorGate(name=name, config=config, **models)
    del models["anchor"], models["look"]
    return ParentGate(name=name, config=config, **models)


def assume_kept(_: Gate) -> bool:
    """The `KeepRound` for a run without verdicts: every round is kept."""
    return True


def chain(config: PipelineConfig, keep_round: KeepRound = assume_kept) -> Chain:
    """The steps of a run.

    Args:
        config: the configuration of the run.
        keep_round: called with the gate of each round, in order.

    Raises:
        DataError, ModelError: a source that is hashed by content cannot be read.
    """
    base = OpenBase(
        name="base",
        source=config.model,
        quantisation=config.quantisation,
        digest=config.model.digest() + config.template.digest(),
        template=config.template,
    )
    sets = DataSets(config, base)
    held_out = sets.held_out()
    conversations = sets.conversations()
    sources = [sets.source(number) for number in range(1, len(config.rounds) + 1)]
    return ChainBuilder(config, held_out, sources).build(base, conversations, keep_round)


def rebuild_rounds(chain: Chain, config: PipelineConfig, keep_round: KeepRound) -> Chain:
    """The chain with its rounds built again; no data source is read again."""
    builder = ChainBuilder(config, chain.held_out, [round_.source for round_ in chain.rounds])
    return builder.with_rounds(chain, keep_round)


class ChainBuilder:
    """Builds the model, evaluation and gate steps on data steps that already exist."""

    def __init__(
        self, config: PipelineConfig, held_out: PreparePairs | None, sources: Sequence[RoundSource]
    ) -> None:
        self._config, self._held_out, self._sources = config, held_out, sources
        self._pairs = [step for step in sources if isinstance(step, (PreparePairs, PrepareBatches))]
        # own answers hold nothing out: models are evaluated before the answers exist
        sets = (held_out, *self._pairs)
        self._evaluation_sets = tuple(step.key for step in sets if step is not None)
        self._benchmarks = digest_of_benchmarks(config.evaluation)

    def build(
        self, base: OpenBase, conversations: PrepareConversations | None, keep_round: KeepRound
    ) -> Chain:
        """The whole chain for a base model."""
        sft = self._sft(base, conversations)
        adapter = None if isinstance(sft, MissingAdapter) else sft
        start = self._handover("sft", base, adapter, bf16=self._sft_bf16())
        evaluate_base = self._evaluate("base", base)
        label = "sft" if adapter is not None else "no sft"
        evaluate_sft = self._evaluate(label, start, evaluate_base, evaluate_base)
        steps = Chain(
            base=base,
            held_out=self._held_out,
            conversations=conversations,
            sft=sft,
            handover=start,
            evaluate_base=evaluate_base,
            evaluate_sft=evaluate_sft,
            sft_gate=self._sft_gate(adapter, start, evaluate_base, evaluate_sft),
            rounds=(),
            control=self._control(start, evaluate_base, evaluate_sft),
        )
        return self.with_rounds(steps, keep_round)

    def with_rounds(self, chain: Chain, keep_round: KeepRound) -> Chain:
        """A chain with its rounds built anew, on the model that the check of SFT keeps."""
        gate = chain.sft_gate
        kept = gate is None or keep_round(gate)
        without_sft = None if kept else self._without_sft(chain.base, chain.evaluate_base)
        chain = chain.model_copy(update={"without_sft": without_sft})
        start, base = chain.start, chain.evaluate_base
        rounds = self.rounds(start.handover, base, start.evaluate, keep_round)
        return chain.model_copy(update={"rounds": rounds})

    def rounds(
        self,
        champion: HandOver,
        base: EvaluateModel,
        evaluation: EvaluateModel,
        keep_round: KeepRound,
    ) -> tuple[Round, ...]:
        """All rounds; each starts from the last model kept, the first from `champion`.

        Args:
            champion: the model that the first round starts from.
            base: the evaluation of the base model.
            evaluation: the evaluation of `champion`.
            keep_round: called with the gate of each round, in order.
        """
        rounds: list[Round] = []
        anchor = evaluation
        for number in range(1, len(self._sources) + 1):
            round_ = self._round(number, champion, base, evaluation, anchor=anchor)
            rounds.append(round_)
            if round_.gate is None or keep_round(round_.gate):
                champion, evaluation = round_.handover, round_.evaluate
        return tuple(rounds)

    def _sft(
        self, base: OpenBase, conversations: PrepareConversations | None
    ) -> TrainSft | UseAdapter | MissingAdapter | None:
        sft = self._config.sft
        if isinstance(sft, TrainedSft):
            assert conversations is not None
            return TrainSft(
                name="sft",
                seed=self._seed("sft"),
                config=sft.training,
                policy=base.key,
                data=(conversations.key,),
                watched=self._watched(conversations.key),
            )
        if isinstance(sft, AdapterSft) and not sft.present():
            return MissingAdapter(name="sft", path=sft.path, policy=base.key)
        if isinstance(sft, AdapterSft):
            return UseAdapter(
                name="sft",
                path=sft.path,
                digest=sft.digest(),
                policy=base.key,
                probe=self._evaluation_sets,
                bf16=self._sft_bf16(),
            )
        return None

    def _sft_gate(
        self,
        adapter: Step | None,
        model: HandOver,
        base: EvaluateModel,
        evaluation: EvaluateModel,
    ) -> SftGate | None:
        sft = self._config.sft
        if adapter is None or isinstance(sft, NoSft) or sft.gate is None:
            return None
        return SftGate(
            name="gate-sft",
            config=sft.gate,
            on_regression=sft.on_regression,
            candidate=model.key,
            evaluation=evaluation.key,
            champion=base.model,
            against=base.key,
        )

    def _without_sft(self, base: OpenBase, evaluation: EvaluateModel) -> Start:
        """The base model in place of the SFT model."""
        handover = self._handover("no-sft", base, None, bf16=self._sft_bf16())
        evaluate = self._evaluate("no sft", handover, evaluation, evaluation)
        return Start(handover=handover, evaluate=evaluate)

    def _sft_bf16(self) -> bool:
        sft = self._config.sft
        return sft.training.bf16 if isinstance(sft, TrainedSft) else self._config.dpo.bf16

    def _round(
        self,
        number: int,
        policy: HandOver,
        base: EvaluateModel,
        evaluation: EvaluateModel,
        *,
        anchor: EvaluateModel,
    ) -> Round:
        source = self._sources[number - 1]
        pairs, own = self._own(number, policy, source)
        config, watched = (
            dpo_of(self._config, number),
            self._watched(*(() if own else (pairs.key,))),
        )
        reference = reference_step(
            config,
            f"reference-{number}",
            anchor=anchor.model,
            policy=policy.key,
            data=pairs.key,
            watched=watched,
        )
        train = TrainDpo(
            name=f"dpo-{number}",
            seed=self._seed(f"dpo-{number}"),
            config=config,
            policy=policy.key,
            data=pairs.key,
            watched=watched,
            reference=reference.key if reference else None,
        )
        model = self._handover(train.name, policy, train, bf16=train.config.bf16)
        evaluate = self._evaluate(f"round {number}", model, base, evaluation)
        gate = None
        if self._config.gate is not None:
            judged = Judged(
                candidate=model.key,
                evaluation=evaluate.key,
                champion=policy.key,
                against=evaluation.key,
                anchor=anchor.key,
                look=number,
            )
            gate = gate_step(self._config.gate, f"gate-{number}", judged)
        return Round(
            pairs=pairs,
            reference=reference,
            train=train,
            handover=model,
            evaluate=evaluate,
            gate=gate,
            own=own,
        )

    def _own(
        self, number: int, policy: HandOver, source: RoundSource
    ) -> tuple[PairSet, Own | None]:
        """The pairs of a round, and the steps before them if they are made from own answers."""
        config = self._config.rounds[number - 1].data
        if isinstance(source, (PreparePairs, PrepareBatches)):
            return source, None
        assert isinstance(config, OwnAnswers)
        return own_steps(
            self._config,
            number,
            config,
            policy=policy.key,
            prompts=source,
            dpo=dpo_of(self._config, number),
        )

    def _control(
        self, policy: HandOver, base: EvaluateModel, evaluation: EvaluateModel
    ) -> Control | None:
        sft, control = self._config.sft, self._config.control
        if control is None or not self._pairs or not isinstance(sft, TrainedSft):
            return None
        settings = {
            "learning_rate": control.learning_rate or sft.training.learning_rate,
            "batch": self._config.dpo.batch,
            "epochs": self._config.dpo.epochs,
            "max_steps": None,
        }
        data = tuple(step.key for step in self._pairs)
        train = TrainSft(
            name="control",
            seed=self._seed("control"),
            config=sft.training.model_copy(update=settings),
            policy=policy.key,
            data=data,
            watched=self._watched(*data),
        )
        model = self._handover("control", policy, train, bf16=train.config.bf16)
        return Control(
            train=train,
            handover=model,
            evaluate=self._evaluate("control", model, base, evaluation),
        )

    def _handover(self, name: str, policy: Step, adapter: Step | None, *, bf16: bool) -> HandOver:
        adapter_key = adapter.key if adapter else None
        return handover_step(self._config.compose, name, policy.key, adapter_key, bf16=bf16)

    def _evaluate(
        self,
        label: str,
        model: Step,
        base: EvaluateModel | None = None,
        parent: EvaluateModel | None = None,
    ) -> EvaluateModel:
        return EvaluateModel(
            name=f"evaluate-{label.replace(' ', '-')}",
            seed=self._seed("bootstrap"),
            config=self._config.evaluation,
            label=label,
            model=model.key,
            data=self._evaluation_sets,
            base=base.key if base else None,
            parent=parent.key if parent else None,
            benchmarks=self._benchmarks,
        )

    def _watched(self, *own: str) -> tuple[str, ...]:
        """Sets to evaluate on during training: its own, then the one for evaluation only."""
        return (*own, self._held_out.key) if self._held_out else own

    def _seed(self, purpose: str) -> int:
        return seed_for(self._config.seed, purpose)
