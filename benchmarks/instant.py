"""Times the commands that only look: `show` and `plan` on a store of many artifacts.

    python -m benchmarks.instant STORE [--artifacts 1000] [--runs 5] [--config CONFIG]

With the config of a finished run also that run, in which everything is reused, and if it has an
inbox a round, which must find nothing new there.

STORE is that of a finished run. Its manifests are copied under other keys until there are as many
as asked for; the files beside them are not, since neither command reads them.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

from alignment.config.file import load
from alignment.records.manifest import StageRecord
from alignment.store.checksum import with_digest
from alignment.store.store import MANIFEST, Store

PLANNED = "deployments/configs/practice.yaml"


def copies(records: Sequence[StageRecord]) -> Iterator[StageRecord]:
    """The records without end, each time round as a run with another seed."""
    for seed in count():
        keys = {record.key: f"{record.key[:-6]}{seed:06x}" for record in records}
        for record in records:
            parents = {role: keys.get(key, key) for role, key in record.parents.items()}
            yield record.model_copy(
                update={"key": keys[record.key], "parents": parents, "seed": seed}
            )


def fill(store: Store, records: Sequence[StageRecord], artifacts: int) -> None:
    """Write as many manifests into a new store."""
    for record in islice(copies(records), artifacts):
        folder = store.folder(record.key)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(with_digest(record))


def seconds(*words: str, runs: int) -> list[float]:
    """The wall time of a command, `runs` times."""

    def once() -> float:
        began = time.monotonic()
        command = [sys.executable, "-c", "from flows.cli import main; main()", *words]
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began

    return [once() for _ in range(runs)]


def main() -> None:
    """Fill a store, time the commands, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--artifacts", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--config", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(root=Path(folder))
        fill(store, Store(root=given.store).records(), given.artifacts)
        for words in (
            ("show", "--store", folder),
            ("plan", PLANNED, "--set", f"store={folder}"),
        ):
            show(words, runs=given.runs)
    if given.config is not None:
        for command in ("run", "round") if load(given.config).inbox else ("run",):
            show((command, str(given.config)), runs=given.runs)


def show(words: Sequence[str], *, runs: int) -> None:
    """Time a command and print a line."""
    times = seconds(*words, runs=runs)
    print(f"{words[0]:<6} median {statistics.median(times):.2f} s, fastest {min(times):.2f} s")


if __name__ == "__main__":
    main()
