"""`sft-dpo runs`: the finished runs of a store, and in what their configs differ."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignment.errors import UsageError
from alignment.store.runs import ELSEWHERE, RunEntry, runs_in
from alignment.store.store import Store
from flows.printing import say

SHOWN = 4
"""Differences that are listed in a line."""


def show_runs(store: Path, *, as_json: bool) -> None:
    """Print each run, newest first: reference, age, result, and what its config changes.

    Raises:
        UsageError: there is no such store.
    """
    if not store.is_dir():
        raise UsageError(f"no store {store}. Check --store.")
    runs = runs_in(Store(root=store))
    if as_json:
        print(json.dumps([run.model_dump(mode="json") for run in runs], indent=2))
        return
    if not runs:
        say(f"no run has ended in {store} yet", error=True)
    for position, run in enumerate(runs):
        earlier = next((one for one in runs[position + 1 :] if one.name == run.name), None)
        say(f"{run.reference}  {age(run.finished)}  {run.title}: {run.headline}")
        if changes := differences(earlier, run):
            say(f"  differs from {changes}")
        say(f"  {run.command}   page: {store / run.report}")


def differences(earlier: RunEntry | None, run: RunEntry) -> str:
    """What the config of a run changes in that of an earlier one of its name."""
    if earlier is None:
        return ""
    before, after = dict(_leaves(earlier.config)), dict(_leaves(run.config))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    shown = [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys[:SHOWN]]
    more = [f"{len(keys) - SHOWN} more"] if len(keys) > SHOWN else []
    return f"{earlier.reference} in {', '.join([*shown, *more])}"


def _leaves(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config with its dotted key."""
    children = dict(enumerate(node)) if isinstance(node, list) else node
    if not isinstance(children, Mapping):
        yield above, node
        return
    for key, value in children.items():
        if above or key not in ELSEWHERE:
            yield from _leaves(value, f"{above}.{key}".lstrip("."))


def age(when: str) -> str:
    """'3 h ago'."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"
