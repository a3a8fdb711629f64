"""What the gates of a configured run have said so far, and the chain that follows from it.

A verdict is an output, so it stands in no key. It decides where the next round starts: on the
round's model, or again on the one that this round started from. A rejection that a change of the
evaluation does not overturn therefore rebuilds nothing. Not here: judging (`evaluate/gate.py`),
rounds from an inbox (`head.py`).
"""

from collections.abc import Callable, Iterator

from alignment.config.pipeline import PipelineConfig
from alignment.pipeline.chain import Chain, chain, rebuild_rounds
from alignment.pipeline.steps import Gate, Step
from alignment.records import GateResult
from alignment.store.store import Store


def chain_so_far(config: PipelineConfig, store: Store) -> Chain:
    """The chain as far as the store knows the verdicts; a round that waits for one is kept."""
    return chain(config, kept_in(store))


def after_verdict(chain: Chain, config: PipelineConfig, store: Store) -> Chain:
    """The chain after one more gate has spoken."""
    return rebuild_rounds(chain, config, kept_in(store))


def kept_in(store: Store) -> Callable[[Gate], bool]:
    """Whether a gate keeps its round, by the store; true of one that has not spoken."""
    return lambda gate: verdict_of(store, gate) is not False


def verdict_of(store: Store, gate: Gate) -> bool | None:
    """Whether a gate has kept its round; None before it has spoken."""
    record = store.find(gate.key)
    return None if record is None else GateResult.model_validate(record.output).verdict.kept


def each_step(config: PipelineConfig, store: Store) -> Iterator[Step]:
    """Every step of a run in order, for whoever builds one before asking for the next."""
    woven = chain(config)
    for place in range(len(tuple(woven.steps()))):
        step = tuple(woven.steps())[place]
        yield step
        if isinstance(step, Gate):
            woven = after_verdict(woven, config, store)
