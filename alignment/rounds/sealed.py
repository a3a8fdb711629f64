"""A model on the sealed rows of a line, for a person who is about to promote it.

No champion was chosen on these rows, except by the few verdicts that opened them, so they say how
good it is without the luck that made it champion.
"""

from collections.abc import Iterator

from pydantic import TypeAdapter, ValidationError

from alignment.evaluate.anchored import compared_on_sealed
from alignment.evaluate.settings import AnchoredGate, GateConfig, PlainGate
from alignment.pipeline.steps.gate import judged_model
from alignment.rounds.ledger import Champion
from alignment.rounds.state import State
from alignment.store.store import Store

_GATE: TypeAdapter[PlainGate | AnchoredGate] = TypeAdapter(GateConfig)


def on_sealed_rows(store: Store, state: State, candidate: Champion) -> Iterator[str]:
    """How it compares with the anchor on the rows that the line's gate seals, in sentences."""
    gate, anchor = _gate_of(state), state.anchor
    if gate is None or gate.sealed_share == 0 or anchor is None:
        return
    own, other = (judged_model(store, store.open(one.evaluation)) for one in (candidate, anchor))
    found = list(compared_on_sealed(gate, own, other))
    yield from (words for _, _, words in found)
    if not found:
        yield f"no metric has {gate.min_rows} sealed rows, so they say nothing"


def _gate_of(state: State) -> AnchoredGate | None:
    """The anchored gate that the line was last judged by, if its ledger says so."""
    if state.identity is None:
        return None
    if state.identity.gate is None:
        return AnchoredGate()
    try:
        gate = _GATE.validate_python(state.identity.gate)
    except ValidationError:
        return None
    return gate if isinstance(gate, AnchoredGate) else None
