"""Prints commands, records and lines of rounds."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from alignment.records import StageRecord
from alignment.rounds.line import RoundLine
from alignment.store.store import Store


def command_of(name: str, config: str | Path, overrides: Sequence[str]) -> str:
    """The command line that does the same again."""
    words = [f"sft-dpo {name}", str(config), *(f"--set {shlex.quote(o)}" for o in overrides)]
    return " ".join(words)


def print_list(records: list[StageRecord]) -> None:
    """Print a line for each record: start time, name, key, metrics."""
    for record in records:
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in record.metrics.items())
        print(f"{record.started}  {record.name:<20} {record.key:<40} {numbers[:80]}")


def print_lines(store: Store) -> None:
    """Print every line of rounds in a store: its champion, and the outcomes of its rounds."""
    for folder in sorted(store.root.glob("lines/*")):
        state = RoundLine(store=store, name=folder.name).state()
        if state.champion is not None:
            outcomes = [closed.fate for _, closed in state.history]
            counts = ", ".join(f"{outcomes.count(one)} {one}" for one in dict.fromkeys(outcomes))
            print(f"line {folder.name}: champion {state.champion.label} {state.champion.model}")
            rounds = "1 round" if len(outcomes) == 1 else f"{len(outcomes)} rounds"
            print(f"  {rounds} from the inbox{f': {counts}' if counts else ''}")


def print_ancestry(store: Store, records: list[StageRecord]) -> None:
    """Print the models among the ancestors, with metrics and verdicts, then all records."""
    from alignment.report.ancestry import ancestry_table  # loads the steps; the other prints do not

    print(ancestry_table(store, records[-1].key).to_text(width=160))
    print()
    print_list(records)


def print_record(record: StageRecord) -> None:
    """Print one record: parents, notes, metrics, files."""
    print(f"{record.name}  {record.key}")
    print(f"built {record.started} in {record.seconds:.1f} s from {record.code.revision[:12]}")
    for role, key in record.parents.items():
        print(f"  {role:<12} {key}")
    for note in record.notes:
        print(f"  note: {note}")
    for name, value in record.metrics.items():
        print(f"  {name:<36} {value:.6g}")
    for file in record.files:
        print(f"  {file.size:>12,}  {file.path}  {file.sha256[:12]}")
