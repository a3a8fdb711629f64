"""Times the commands that look, and those that find nothing to do, on a store of many artifacts.

    python -m benchmarks.instant [--artifacts 1000] [--runs 5]

First a run on a tiny model, two rounds and a control, which takes a minute or two. Then its
manifests are copied under other keys until there are as many as asked for; the files beside them
are not, since no command reads those. `run` reuses everything, and `round` finds an empty inbox.
Prints the four figures and their bounds; exit code 1 if one is above its bound.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from alignment.records.manifest import StageRecord
from alignment.store.checksum import with_digest
from alignment.store.store import MANIFEST, Store
from tests import tiny

BOUNDS = {"show": 0.7, "plan": 0.7, "run": 2.0, "round": 2.0}
"""Seconds that each may take, on cores with nothing else to do."""


def tiny_run(folder: Path) -> Path:
    """Write the configuration of a small run with an inbox, and run it; returns the file."""
    tiny.write_model(folder / "model", tiny.tokenizer())  # type: ignore[no-untyped-call]
    settings: dict[str, Any] = tiny.settings(folder / "model", folder / "store")  # type: ignore[no-untyped-call]
    (folder / "inbox").mkdir()
    settings["inbox"] = {"path": str(folder / "inbox"), "min_new_pairs": 16}
    config = folder / "tiny.yaml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    for command in ("run", "round"):
        sft_dpo(command, str(config))
    return config


def sft_dpo(*words: str) -> None:
    """Run a command to its end, without what it prints.

    Raises:
        SystemExit: it failed; says why.
    """
    command = [sys.executable, "-c", "from flows.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr}")


def copies(records: Sequence[StageRecord]) -> Iterator[StageRecord]:
    """The records without end, each time round as a run with another seed."""
    for seed in count(1):
        keys = {record.key: f"{record.key[:-6]}{seed:06x}" for record in records}
        for record in records:
            parents = {role: keys.get(key, key) for role, key in record.parents.items()}
            yield record.model_copy(
                update={"key": keys[record.key], "parents": parents, "seed": seed}
            )


def fill(store: Store, artifacts: int) -> None:
    """Copy the manifests of a store until it has as many."""
    records = store.records()
    for record in islice(copies(records), max(artifacts - len(records), 0)):
        folder = store.folder(record.key)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(with_digest(record))


def seconds(*words: str, runs: int) -> list[float]:
    """The wall time of a command, `runs` times."""

    def once() -> float:
        began = time.monotonic()
        sft_dpo(*words)
        return time.monotonic() - began

    return [once() for _ in range(runs)]


def main() -> None:
    """Make and fill the store, time the commands, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifacts", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = tiny_run(Path(name))
        store = Store(root=Path(name) / "store")
        fill(store, given.artifacts)
        print(f"{len(store.records()):,} artifacts, {given.runs} runs of each command")
        within = [
            measure(command, config, store.root, bound, runs=given.runs)
            for command, bound in BOUNDS.items()
        ]
    sys.exit(not all(within))


def measure(command: str, config: Path, store: Path, bound: float, *, runs: int) -> bool:
    """Time a command and print a line; whether the median is within the bound."""
    words = ("--store", str(store)) if command == "show" else (str(config),)
    times = seconds(command, *words, runs=runs)
    median = statistics.median(times)
    verdict = "ok" if median <= bound else "TOO SLOW"
    print(
        f"{command:<6} median {median:.2f} s, fastest {min(times):.2f} s, "
        f"bound {bound:.1f} s: {verdict}",
        flush=True,
    )
    return median <= bound


if __name__ == "__main__":
    main()
