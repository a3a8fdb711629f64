"""Prints lines of rounds."""

from collections.abc import Sequence

from alignment.records.manifest import StageRecord
from alignment.rounds.ledger import Champion, Closed
from alignment.rounds.line import RoundLine, all_lines, how_to_approve
from alignment.rounds.losses import lost_entries
from alignment.rounds.notes import brief, read_notes, shortened
from alignment.rounds.state import State
from alignment.store.store import Store
from flows.printing import say

ROUNDS = 20
"""Rounds of a line that are listed, the newest."""
_RULES = {"gate": " (plain gate)", "anchored": " (anchored gate)"}
"""The rule that judged a round, by the stage of its gate."""


def print_lines(store: Store, records: Sequence[StageRecord]) -> None:
    """Print every line of rounds in a store: its champion, and the outcomes of its rounds."""
    for line in all_lines(store):
        state = line.state()
        if state.champion is not None:
            _print_line(line, state, state.champion)
            _print_rounds(records, state)
            _print_batches(line, state)
    for loss in lost_entries(store, records):
        say(loss, error=True)


def _print_line(line: RoundLine, state: State, champion: Champion) -> None:
    outcomes = [_outcome(state, closed) for _, closed in state.history]
    counts = ", ".join(f"{outcomes.count(one)} {one}" for one in dict.fromkeys(outcomes))
    say(f"line {line.name}: champion {champion.label} {champion.model}")
    print_anchor(state)
    rounds = "1 round" if len(outcomes) == 1 else f"{len(outcomes)} rounds"
    say(f"  {rounds} from the inbox{f': {counts}' if counts else ''}")


def _print_rounds(records: Sequence[StageRecord], state: State) -> None:
    gates = [record for record in records if "candidate" in record.parents]
    by_key = {record.key: record for record in gates}
    by_model = {(record.name, record.parents["candidate"]): record for record in gates}
    for _, closed in state.history[-ROUNDS:]:
        named = by_model.get((f"gate-{closed.number}", closed.head.model))  # for older entries
        gate = by_key.get(closed.gate, named)
        rule = _RULES.get(gate.stage, "") if gate is not None else ""
        say(f"  round {closed.number}: {_outcome(state, closed)}{rule}: {closed.why[:160]}")
    if state.waiting is not None:
        say(f"  {how_to_approve(state.waiting)}")


def _outcome(state: State, closed: Closed) -> str:
    """The outcome of a round, with what a person made of one that waited for approval."""
    if closed.fate != "waiting" or closed == state.waiting:
        return closed.fate
    promoted = closed.head.model in {champion.model for champion in state.champions}
    return "approved" if promoted else "not approved"


def _print_batches(line: RoundLine, state: State) -> None:
    for why in state.failures:
        say(f"  the open round failed: {why}")
    for batch in state.set_aside:
        say(f"  {batch.name} ({batch.shown_file}) is set aside, because its round failed")
    for refused in state.refused.values():
        name = f"{refused.batch.name} ({refused.batch.shown_file})"
        say(f"  {brief(f'{name} is refused: {refused.why}')}")
    for note in shortened([str(note) for note in read_notes(line)]):
        say(f"  not used: {note}")


def print_anchor(state: State) -> None:
    """Print the model that the anchored gate judges from, and how many verdicts it allows."""
    if state.anchor is not None:
        say(f"  anchor {state.anchor.label} {state.anchor.model}: {_verdicts(state)}")


def _verdicts(state: State) -> str:
    since = "1 verdict since" if state.looks == 1 else f"{state.looks} verdicts since"
    if state.looks_left is None:
        return since
    if state.looks_left == 0:
        return f"{since}, none left: sft-dpo promote champion, to confirm it"
    return f"{since}, {state.looks_left} left"
