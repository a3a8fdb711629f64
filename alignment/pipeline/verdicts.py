"""The gate verdicts that a configured run has so far, and the chain that follows from them.

A verdict is an output, so it is not part of any key. It decides where the next round starts: from
the new model, or from the same one as this round. If the evaluation changes but the verdict stays
the same, no model is rebuilt. Not here: judging (`evaluate/gate.py`), rounds from an inbox
(`rounds/state.py`).
"""

from collections.abc import Iterator

from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.verdict import GateResult
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import KeepRound, chain, rebuild_rounds
from alignment.pipeline.steps import Gate, Step
from alignment.store.activity import note_steps
from alignment.store.store import Store


def chain_so_far(config: PipelineConfig, store: Store) -> Chain:
    """The chain under the verdicts in the store; rounds without a verdict count as kept."""
    return chain(config, verdicts_in(store))


def after_verdict(chain: Chain, config: PipelineConfig, store: Store) -> Chain:
    """The chain rebuilt after another verdict."""
    return rebuild_rounds(chain, config, verdicts_in(store))


def verdicts_in(store: Store) -> KeepRound:
    """The `KeepRound` that looks verdicts up in the store; without a verdict, a round is kept."""
    return lambda gate: verdict_of(store, gate) is not False


def verdict_of(store: Store, gate: Gate) -> bool | None:
    """Whether a gate kept its candidate; None if it has no verdict yet."""
    record = store.find(gate.key)
    if record is None:
        return None
    return GateResult.model_validate(record.output).evaluation == gate.evaluation


def each_step(config: PipelineConfig, store: Store) -> Iterator[Step]:
    """All steps of a run in order. The caller must build each one before asking for the next."""
    current, position = chain(config), 0
    while position < len(steps := tuple(current.steps())):  # a verdict may add steps
        note_steps(store, steps[position:])
        yield steps[position]
        if isinstance(steps[position], Gate):
            current = after_verdict(current, config, store)
        position += 1
