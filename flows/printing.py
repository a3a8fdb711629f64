"""Prints commands and records."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.errors import printable
from alignment.records.manifest import StageRecord
from alignment.store.store import Store
from flows.presets import name_of_config


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
