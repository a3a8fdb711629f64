"""Prints commands, records and lines of rounds."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.errors import printable
from alignment.records.manifest import StageRecord
from alignment.rounds.ledger import Champion, Closed
from alignment.rounds.line import RoundLine, all_lines, how_to_approve
from alignment.rounds.losses import lost_entries
from alignment.rounds.notes import brief, read_notes, shortened
from alignment.rounds.state import State
from alignment.store.store import Store
from flows.presets import name_of_config

ROUNDS = 20
"""Rounds of a line that are listed, the newest."""
_RULES = {"gate": " (plain gate)", "anchored": " (anchored gate)"}
"""The rule that judged a round, by the stage of its gate."""


def say(text: str = "", *, error: bool = False) -> None:
    """Print text; characters that a terminal would obey are shown instead."""
    print(printable(text), file=sys.stderr if error else sys.stdout)


def in_units(size: int) -> str:
    """'512 MiB', '3.4 GiB'."""
    number, units = float(size), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while number >= 1024 and unit != "GiB":
        number, unit = number / 1024, next(units)
    return f"{number:.1f} {unit}" if number < 10 and unit != "B" else f"{number:.0f} {unit}"


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3.4 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def command_of(name: str, config: str | Path, overrides: Sequence[str]) -> str:
    """The command line that does the same again."""
    words = [
        f"sft-dpo {name}",
        name_of_config(config),
        *(f"--set {shlex.quote(o)}" for o in overrides),
    ]
    return " ".join(words)


def round_command(
    config: str | Path, overrides: Sequence[str], prompts: Sequence[str], *, answers: bool
) -> str:
    """The command line that trains such a round again."""
    words = [command_of("round", config, overrides)]
    words += [f"--prompts {shlex.quote(file)}" for file in prompts]
    return " ".join([*words, "--answers"] if answers else words)


def print_list(records: list[StageRecord], runs: Mapping[str, str] | None = None) -> None:
    """Print a line for each record: start time, name, key, its run if one is known, metrics."""
    for record in records:
        run = f"[{runs[record.key]}] " if runs and record.key in runs else ""
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in record.metrics.items())
        say(f"{record.started}  {record.name:<20} {record.key:<40} {run}{numbers[:80]}")


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


def print_ancestry(store: Store, records: list[StageRecord]) -> None:
    """Print the models among the ancestors, with metrics and verdicts, then all records."""
    from alignment.report.ancestry import ancestry_table  # loads the steps; the other prints do not

    say(ancestry_table(store, records[-1].key).to_text(width=320))
    say()
    print_list(records)


def print_record(record: StageRecord) -> None:
    """Print one record: parents, notes, metrics, files."""
    say(f"{record.name}  {record.key}")
    say(f"built {record.started} in {record.seconds:.1f} s from {record.code.revision[:12]}")
    for role, key in record.parents.items():
        say(f"  {role:<12} {key}")
    for note in record.notes:
        say(f"  note: {note}")
    for name, value in record.metrics.items():
        say(f"  {name:<36} {value:.6g}")
    for file in record.files:
        say(f"  {file.size:>12,}  {file.path}  {file.sha256[:12]}")
