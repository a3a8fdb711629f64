"""Kill -9 of a chain whose store is in a bucket: `python -m tests.faults.kill_bucket --kills 20`.

As in `kill.py`, with a working copy of a bucket (moto's S3 server) in place of the folder. In the
end another machine, which has an empty folder, must find in the bucket what an undisturbed run
leaves there.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from alignment.rounds.line import RoundLine
from alignment.store.places import connect, store_at
from alignment.store.store import Store
from tests.buckets import NAMES, put_bucket, s3_server
from tests.faults.kill import Bench, command


class BucketBench(Bench):
    """The folder of all runs; each has a place in the bucket of its own.

    Only processes that are forked from this one open the bucket, since its client has threads.
    """

    def __init__(self, folder: Path, bucket: str) -> None:
        super().__init__(folder)
        self.bucket, self.runs = bucket, 0

    def open(self, machine: str) -> Store:
        """The store of the present run as a machine sees it."""
        store = store_at(f"{self.bucket}/{self.runs}", self.folder / machine)
        connect(store)
        return store

    def use(self, machine: str) -> None:
        """Work on this machine, in this process."""
        self.store = self.open(machine)
        self.line = RoundLine(store=self.store)

    def clear(self) -> None:
        """Begin a run."""
        super().clear()
        self.runs += 1

    def work(self) -> None:
        """Do all remaining work."""
        self.use("store")
        super().work()

    def digest(self) -> dict[str, str]:
        """What a machine finds that has nothing yet."""
        found = self.folder / "found.json"

        def write() -> None:
            self.use(f"other-{self.runs}")
            found.write_text(json.dumps(Bench.digest(self)))

        assert self.forked(write)[0] == 0, self.log()
        digests: dict[str, str] = json.loads(found.read_text())
        return digests

    def check(self, wanted: dict[str, str]) -> None:
        """Assert that the run ended like the undisturbed one, as another machine sees it."""
        work = [*(self.folder / "store" / "work").glob("*")]
        assert not work, f"left: {work}"

        def compare() -> None:
            self.use(f"other-{self.runs}")
            self.digest = lambda: Bench.digest(self)  # type: ignore[method-assign]
            super(BucketBench, self).check(wanted)

        assert self.forked(compare)[0] == 0, self.log()

    def log(self) -> str:
        """The end of what the processes said."""
        return (self.folder / "log").read_text()[-3000:]


@contextlib.contextmanager
def bucket_bench(folder: Path) -> Iterator[BucketBench]:
    """The bench, with an S3 server."""
    with s3_server() as port:
        put_bucket(port, "faults")
        os.environ.update(NAMES, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
        yield BucketBench(folder, "s3://faults/runs")


def main() -> int:
    """Kill processes of a chain."""
    return command(__doc__, "of a chain in a bucket", bucket_bench, kills=20, minutes=15.0)


if __name__ == "__main__":
    sys.exit(main())
