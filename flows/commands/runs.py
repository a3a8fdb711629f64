"""`sft-dpo runs`: the runs of a store, and in what their configs differ."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from alignment.rounds.ledger import Closed
from alignment.rounds.line import RoundLine
from alignment.rounds.notes import brief
from alignment.rounds.references import continuing, open_round
from alignment.store.runs import RunEntry, changes, runs_in, unfinished_runs
from alignment.store.store import Store
from flows.printing import say
from flows.stores import existing_store

Round = dict[str, str]
SHOWN = 4
"""Differences that are listed in a line."""


def show_runs(store: Path, *, as_json: bool) -> None:
    """Print unfinished runs, then the others, newest first: age, result, what its config changes.

    Raises:
        UsageError: there is no such store.
    """
    opened = existing_store(store)
    runs = runs_in(opened)
    rounds = dict(_rounds_of(opened, runs))
    if as_json:
        dumped = [
            {**run.model_dump(mode="json"), "rounds": rounds.get(run.reference, [])} for run in runs
        ]
        print(json.dumps(dumped, indent=2))
        return
    for begun in unfinished_runs(opened):
        say(f"{begun.reference}  not finished; to go on: {begun.command}")
    if not runs:
        say(f"no run has ended in {store} yet", error=True)
    for position, run in enumerate(runs):
        earlier = next((one for one in runs[position + 1 :] if one.name == run.name), None)
        say(f"{run.reference}  {age(run.finished)}  {run.title}: {run.headline}")
        if changes := differences(earlier, run):
            say(f"  differs from {changes}")
        say(f"  {run.command}   page: {store / run.report}")
        if (number := open_round(opened, run)) is not None:
            say(f"  {run.name}/round-{number}  not finished; to go on: {continuing(run)}")
        for one in rounds.get(run.reference, []):
            say(f"  {one['reference']}  {one['outcome']}: {brief(one['why'])}")
            say(f"    page: {one['page']}")


def _rounds_of(store: Store, runs: Sequence[RunEntry]) -> Iterator[tuple[str, list[Round]]]:
    """The closed rounds from an inbox, under the newest run that continues their line."""
    newest = {run.line: run for run in reversed(runs) if run.line}
    for line, run in newest.items():
        history = RoundLine(store=store, name=str(line)).state().history
        yield run.reference, [_round(store, run, closed) for _, closed in history]


def _round(store: Store, run: RunEntry, closed: Closed) -> Round:
    number = f"round-{closed.number}"
    return {
        "reference": f"{run.name}/{number}",
        "model": closed.head.model,
        "outcome": closed.fate,
        "why": closed.why,
        "page": str(store.root / "reports" / f"{run.name}-{number}.html"),
    }


def differences(earlier: RunEntry | None, run: RunEntry) -> str:
    """What the config of a run changes in that of an earlier one of its name."""
    if earlier is None:
        return ""
    found = list(changes(earlier.config, run.config))
    shown = [f"{one.key}: {one.before} -> {one.after}" for one in found[:SHOWN]]
    more = [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return f"{earlier.reference} in {', '.join([*shown, *more])}"


def age(when: str) -> str:
    """'3 h ago'."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"
