"""The steps of a round from an inbox, planned when its batches are claimed.

    batches -> pairs -> DPO on the champion -> handover -> evaluation -> gate
    batches of prompts -> prompts -> answers of the champion -> labels -> pairs -> as above

The data that the champion was trained on, and the rows it is evaluated on, are read from the
manifests of its ancestors, so a line can continue after the configuration's first stages have
changed (`identity.py`). All models of a line are evaluated on the same rows (`measure.py`).
Not here: what is in the inbox (`inbox.py`), who the champion is (`state.py`), running.
"""

from collections import Counter

from alignment.candidates.settings import InboxAnswers
from alignment.config.inbox import InboxConfig
from alignment.config.pipeline import PipelineConfig
from alignment.errors import ConfigError
from alignment.evaluate.settings import AnchoredGate, GateConfig
from alignment.evaluate.verdict import Finding, GateResult
from alignment.pipeline.chain import Chain, Own, Round
from alignment.pipeline.chain_builder import Judged, gate_step, handover_step
from alignment.pipeline.data_sets import lengths_of, seed_for
from alignment.pipeline.own_steps import own_steps
from alignment.pipeline.steps import (
    AnchorGate,
    ChooseBatchPrompts,
    EvaluateModel,
    OpenBase,
    PairAnswers,
    ParentGate,
    PrepareBatches,
    PrepareConversations,
    PreparePairs,
    TrainDpo,
    digest_of_benchmarks,
    made_by,
)
from alignment.pipeline.steps.reference import reference_step
from alignment.records.manifest import StageRecord
from alignment.rounds.ledger import Champion, Opened, OutcomeName
from alignment.rounds.measure import as_champion
from alignment.store.lineage import ancestors
from alignment.store.store import Store

SETS = (PrepareConversations, PreparePairs, PrepareBatches, PairAnswers)
"""Steps that use prompts, which no later round may train on."""
NOT_KEPT: dict[Finding, OutcomeName] = {
    "failed": "rejected",
    "inconclusive": "inconclusive",
    "cannot be judged": "cannot be judged",
}
"""The outcome of a round that is not kept, by what the gate found."""


def inbox_of(config: PipelineConfig) -> InboxConfig:
    """The configuration's inbox.

    Raises:
        ConfigError: the configuration has no inbox.
    """
    if config.inbox is None:
        raise ConfigError(
            "the config has no `inbox`, so there is no place to look for new pairs. Add one: "
            "inbox: {path: FOLDER, min_new_pairs: 100}"
        )
    return config.inbox


def answers_of(inbox: InboxConfig) -> InboxAnswers:
    """How batches of prompts are answered.

    Raises:
        ConfigError: the inbox has none.
    """
    if inbox.answers is None:
        raise ConfigError(
            "a round has batches of prompts, and the config says no longer how they are answered: "
            "add inbox.answers again, or revoke the batches."
        )
    return inbox.answers


def first_champion(store: Store, chain: Chain) -> Champion:
    """The final model of a finished chain: the one that its last gate kept.

    Raises:
        UsageError: the model has no evaluation rows, so no later round could be judged.
    """
    evaluation = chain.start.evaluate.key
    for round_ in chain.rounds:
        evaluation = round_.evaluate.key
        if round_.gate is not None:
            evaluation = GateResult.model_validate(store.open(round_.gate.key).output).evaluation
    return as_champion(store.open(evaluation))


def batches_step(
    config: PipelineConfig, store: Store, *, parent: Champion, number: int, batches: tuple[str, ...]
) -> PrepareBatches:
    """The step that turns batches (given by key) into the pairs of a round on `parent`."""
    inbox, seen = inbox_of(config), _Seen(store, parent)
    trained = [record.parents["data"] for record in seen.lineage if made_by(record, TrainDpo)]
    return PrepareBatches(
        name=f"pairs-{number}",
        seed=seed_for(config.seed, "split"),
        batches=batches,
        format=inbox.format,
        task_type=inbox.task_type,
        replay_share=inbox.replay_share,
        lengths=lengths_of(config.dpo),
        base=seen.base,
        earlier={name: key for key, name in seen.sets.items()},
        trained={seen.sets[key]: key for key in trained},
    )


def prompts_step(
    config: PipelineConfig, store: Store, *, parent: Champion, number: int, batches: tuple[str, ...]
) -> ChooseBatchPrompts:
    """The step that chooses the prompts in batches (given by key) that `parent` may answer."""
    inbox, seen = inbox_of(config), _Seen(store, parent)
    answering = answers_of(inbox)
    return ChooseBatchPrompts(
        name=f"prompts-{number}",
        seed=seed_for(config.seed, "split"),
        batches=batches,
        format=answering.format,
        task_type=inbox.task_type,
        max_tokens=config.dpo.max_prompt_length,
        base=seen.base,
        earlier={name: key for key, name in seen.sets.items()},
        label=answering.label,
        samples=answering.samples,
        engine=answering.engine,
    )


def source_step(
    config: PipelineConfig, store: Store, opened: Opened
) -> PrepareBatches | ChooseBatchPrompts:
    """The step that reads the batches of a round."""
    make = prompts_step if opened.kind == "prompts" else batches_step
    keys = tuple(batch.key for batch in opened.batches)
    return make(config, store, parent=opened.parent, number=opened.number, batches=keys)


def _pairs_of(
    config: PipelineConfig, store: Store, opened: Opened
) -> tuple[PrepareBatches | PairAnswers, Own | None]:
    source = source_step(config, store, opened)
    if isinstance(source, PrepareBatches):
        return source, None
    answering = answers_of(inbox_of(config))
    return own_steps(
        config,
        opened.number,
        answering,
        policy=opened.parent.model,
        prompts=source,
        dpo=config.dpo,
    )


def steps_of(config: PipelineConfig, store: Store, opened: Opened) -> Round:
    """The steps of an open round."""
    parent, number = opened.parent, opened.number
    pairs, own = _pairs_of(config, store, opened)
    measured = store.open(parent.evaluation)
    rows = measured.parents_as("data")
    anchor = opened.anchor or parent
    reference = reference_step(
        config.dpo,
        f"reference-{number}",
        anchor=anchor.model,
        policy=parent.model,
        data=pairs.key,
        watched=rows,
    )
    train = TrainDpo(
        name=f"dpo-{number}",
        seed=seed_for(config.seed, f"dpo-{number}"),
        config=config.dpo,
        policy=parent.model,
        data=pairs.key,
        watched=rows,
        reference=reference.key if reference else None,
    )
    model = handover_step(config.compose, train.name, parent.model, train.key, bf16=config.dpo.bf16)
    evaluate = EvaluateModel(
        name=f"evaluate-round-{number}",
        seed=seed_for(config.seed, "bootstrap"),
        config=config.evaluation,
        label=f"round {number}",
        model=model.key,
        data=rows,
        base=measured.parents.get("base", measured.key),
        parent=measured.key,
        benchmarks=digest_of_benchmarks(config.evaluation),
    )
    gate = line_gate(
        config,
        f"gate-{number}",
        Champion(model=model.key, evaluation=evaluate.key, label=evaluate.label),
        champion=parent,
        anchor=anchor,
        look=opened.look,
    )
    return Round(
        pairs=pairs,
        reference=reference,
        train=train,
        handover=model,
        evaluate=evaluate,
        gate=gate,
        own=own,
    )


def gate_of(config: PipelineConfig) -> GateConfig:
    """The gate of rounds from an inbox, which always have one."""
    return config.gate or AnchoredGate()


def line_gate(
    config: PipelineConfig,
    name: str,
    candidate: Champion,
    *,
    champion: Champion,
    anchor: Champion,
    look: int,
) -> ParentGate | AnchorGate:
    """The gate that compares a model with the champion of a line that it may replace.

    Args:
        config: how it is judged.
        name: name of the step.
        candidate: the model that may become the champion.
        champion: the current one.
        anchor: the model that a person approved last.
        look: the number of this verdict since then.
    """
    judged = Judged(
        candidate=candidate.model,
        evaluation=candidate.evaluation,
        champion=champion.model,
        against=champion.evaluation,
        anchor=anchor.evaluation,
        look=look,
    )
    return gate_step(gate_of(config), name, judged)


def outcome(
    config: PipelineConfig, store: Store, round_: Round
) -> tuple[Champion, OutcomeName, str]:
    """The outcome of a round whose steps are done: its model, the outcome, the gate's sentence."""
    assert round_.gate is not None
    verdict = GateResult.model_validate(store.open(round_.gate.key).output).verdict
    model = Champion(
        model=round_.handover.key, evaluation=round_.evaluate.key, label=round_.evaluate.label
    )
    if not verdict.kept:
        return model, NOT_KEPT[verdict.finding], verdict.sentence
    by_person = inbox_of(config).promotion.name == "person"
    return model, "waiting" if by_person else "kept", verdict.sentence


class _Seen:
    """What a champion was made of and is measured on.

    Attributes:
        lineage: its ancestors.
        base: key of its base model.
        sets: name by key of the sets that it was trained on or is measured on.
    """

    def __init__(self, store: Store, champion: Champion) -> None:
        self.lineage = ancestors(store, champion.model)
        measured = [store.open(key) for key in store.open(champion.evaluation).parents_as("data")]
        self.sets = _names([one for one in (*self.lineage, *measured) if made_by(one, *SETS)])
        self.base = next(record.key for record in self.lineage if made_by(record, OpenBase))


def _names(sets: list[StageRecord]) -> dict[str, str]:
    """The name of each set by key; the key itself if two sets share a name."""
    by_key = {record.key: record.name for record in sets}
    counts = Counter(by_key.values())
    return {key: name if counts[name] == 1 else key for key, name in by_key.items()}
