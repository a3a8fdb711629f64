"""What a shell offers for a half-typed word: models of runs, and keys of a configuration."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.store.runs import runs_in
from alignment.store.store import Store
from flows.presets import SCHEMA

DEEPEST = 6


def references(store: Path | None, typed: str) -> list[str]:
    """References to models in a store that begin like this: runs and their steps, champions."""
    folder = store or Path("runs")
    lines = sorted(path.name for path in folder.glob("lines/*"))
    known = ["champion", *(f"champion:{line}" for line in lines)] if lines else []
    for entry in runs_in(Store(root=folder)):
        known += [entry.name, entry.reference]
        if "/" in typed:
            run = typed.partition("/")[0]
            known += [
                f"{run}/{step}" for step in entry.steps if run in (entry.name, entry.reference)
            ]
            known += [
                f"{run}/{step.removeprefix('evaluate-')}"
                for step in entry.steps
                if step.startswith("evaluate-") and run in (entry.name, entry.reference)
            ]
    return [name for name in dict.fromkeys(known) if name.startswith(typed)]


def settings(typed: str) -> list[str]:
    """Dotted keys of a configuration that begin like this, each with its equals sign."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    keys = dict.fromkeys(_keys(schema, schema, "", DEEPEST))
    return [f"{key}=" for key in keys if key.startswith(typed)]


def _keys(
    schema: Mapping[str, Any], node: Mapping[str, Any], above: str, left: int
) -> Iterator[str]:
    """The keys below a node of the schema, those of every choice where there are several."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    for choice in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _keys(schema, choice, above, left)
    for name, child in node.get("properties", {}).items():
        key = f"{above}.{name}".lstrip(".")
        yield key
        if left:
            yield from _keys(schema, child, key, left - 1)
