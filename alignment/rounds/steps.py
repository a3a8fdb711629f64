"""A round from an inbox as steps: planned when its batches are claimed, from the champion on.

    batches -> pairs -> DPO on the champion -> hand-over -> evaluation -> gate

What the champion has seen, and on which rows it is measured, is read from the manifests of its own
ancestry, so a line goes on when the configuration's first stages have changed. All models of a
line are measured on the same rows: those of the model it began with.
Not here: what is in the inbox (`intake.py`), who is the champion (`head.py`), running.
"""

from collections import Counter

from alignment.config.inbox import InboxConfig
from alignment.config.pipeline import PipelineConfig
from alignment.errors import ConfigError, UsageError
from alignment.evaluate.limits import GateConfig
from alignment.pipeline.chain import Chain, Round, handover_step, lengths_of, seed_for
from alignment.pipeline.steps import (
    EvaluateModel,
    Gate,
    HandOver,
    OpenBase,
    PrepareBatches,
    PrepareConversations,
    PreparePairs,
    TrainDpo,
    made_by,
)
from alignment.records import EvalReport, GateResult, StageRecord
from alignment.rounds.ledger import Champion, Opened, OutcomeName
from alignment.store.lineage import ancestors
from alignment.store.store import Store

SETS = (PrepareConversations, PreparePairs, PrepareBatches)
"""Steps that claim prompts, which no later round may use."""


def inbox_of(config: PipelineConfig) -> InboxConfig:
    """The configuration's inbox.

    Raises:
        ConfigError: it has none.
    """
    if config.inbox is None:
        raise ConfigError(
            "the config has no `inbox`, so there is nowhere to look for new pairs. Add one: "
            "inbox: {path: FOLDER, min_new_pairs: 100}"
        )
    return config.inbox


def first_champion(store: Store, chain: Chain) -> Champion:
    """The model that a finished chain hands on: what its last gate kept.

    Raises:
        UsageError: it was measured on no row, so no round after it could be judged.
    """
    evaluation = chain.evaluate_sft.key
    for round_ in chain.rounds:
        evaluation = round_.evaluate.key
        if round_.gate is not None:
            evaluation = GateResult.model_validate(store.open(round_.gate.key).output).evaluation
    return _champion(store.open(evaluation))


def champion_of(store: Store, model: str) -> Champion:
    """A model of the store, with its newest evaluation, as the champion of a line.

    Raises:
        UsageError: it is not handed over, or was never measured.
    """
    record = store.open(model)
    if not made_by(record, HandOver):
        raise UsageError(f"{record.name!r} is not a model. Name a merge, such as merge-dpo-1.")
    evaluations = (found for found in store.records() if made_by(found, EvaluateModel))
    measured = [found for found in evaluations if found.parents["model"] == model]
    if not measured:
        raise UsageError(
            f"{record.name!r} ({model}) was never measured, so nothing could be compared with it."
        )
    return _champion(measured[-1])


def _champion(evaluation: StageRecord) -> Champion:
    report, model = EvalReport.model_validate(evaluation.output), evaluation.parents["model"]
    if not report.overall:
        raise UsageError(
            f"{model} was measured on no row, so no round could be compared with it. Hold some "
            "out: evaluation.data, or held_out_share of the rounds."
        )
    return Champion(model=model, evaluation=evaluation.key, label=report.model)


def intake(
    config: PipelineConfig, store: Store, *, parent: Champion, number: int, batches: tuple[str, ...]
) -> PrepareBatches:
    """The step that makes pairs of batches, given by their keys, for a round on `parent`."""
    inbox = inbox_of(config)
    line = ancestors(store, parent.model)
    measured = [store.open(key) for key in store.open(parent.evaluation).parents_as("data")]
    names = _names([record for record in (*line, *measured) if made_by(record, *SETS)])
    trained = [record.parents["data"] for record in line if made_by(record, TrainDpo)]
    return PrepareBatches(
        name=f"pairs-{number}",
        seed=seed_for(config.seed, "split"),
        batches=batches,
        format=inbox.format,
        task_type=inbox.task_type,
        replay_share=inbox.replay_share,
        lengths=lengths_of(config.dpo),
        base=next(record.key for record in line if made_by(record, OpenBase)),
        earlier={name: key for key, name in names.items()},
        trained={names[key]: key for key in trained},
    )


def steps_of(config: PipelineConfig, store: Store, opened: Opened) -> Round:
    """The steps of a round that was opened."""
    parent, number = opened.parent, opened.number
    batches = tuple(batch.key for batch in opened.batches)
    pairs = intake(config, store, parent=parent, number=number, batches=batches)
    measured = store.open(parent.evaluation)
    rows = measured.parents_as("data")
    train = TrainDpo(
        name=f"dpo-{number}",
        seed=seed_for(config.seed, f"dpo-{number}"),
        config=config.dpo,
        policy=parent.model,
        data=pairs.key,
        watched=rows,
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
    )
    gate = compare(config, model.key, evaluate.key, against=parent, name=f"gate-{number}")
    return Round(pairs=pairs, train=train, handover=model, evaluate=evaluate, gate=gate)


def compare(
    config: PipelineConfig, model: str, evaluation: str, *, against: Champion, name: str
) -> Gate:
    """The gate between a model and a champion. In a line there always is one."""
    return Gate(
        name=name,
        config=config.gate or GateConfig(),
        candidate=model,
        evaluation=evaluation,
        champion=against.model,
        against=against.evaluation,
    )


def outcome(
    config: PipelineConfig, store: Store, round_: Round
) -> tuple[Champion, OutcomeName, str]:
    """What becomes of a round whose steps are done: its model, its fate, the gate's words."""
    assert round_.gate is not None
    verdict = GateResult.model_validate(store.open(round_.gate.key).output).verdict
    head = Champion(
        model=round_.handover.key, evaluation=round_.evaluate.key, label=round_.evaluate.label
    )
    passed: OutcomeName = "waiting" if inbox_of(config).promotion.name == "person" else "kept"
    return head, passed if verdict.kept else "rejected", verdict.words


def _names(sets: list[StageRecord]) -> dict[str, str]:
    """Key to name of each set; the key itself where two sets have one name."""
    by_key = {record.key: record.name for record in sets}
    counts = Counter(by_key.values())
    return {key: name if counts[name] == 1 else key for key, name in by_key.items()}
