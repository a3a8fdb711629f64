"""Kill -9 while a model answers and a judge labels: `python -m tests.faults.kill_own --kills 50`.

The steps of a round on own answers up to its pairs, on a tiny model and a judge in a process of its
own, which counts its calls. They are killed at random failpoints and moments, as in `kill.py`. Then
every file is that of an undisturbed run (answers and labels in any order), and no call was made
twice, except for at most one per process: the one that was under way when it died.
"""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from alignment.config.pipeline import PipelineConfig
from alignment.execution.run_step import build
from alignment.pipeline.chain_builder import chain
from alignment.store.progress import Progress
from tests.faults.kill import Bench, command
from tests.own_answers import own_settings

ROOT = Path(__file__).parents[2]
NAMES = ("base", "pairs-evaluation", "prompts-1", "merge-sft", "answers-1", "labels-1", "pairs-1")
JOURNALS = ("rows.jsonl", "calls.jsonl")


class OwnBench(Bench):
    """The folder of all runs, and the judge's list of calls."""

    def __init__(self, folder: Path, url: str, called: Path) -> None:
        super().__init__(folder)
        self.url, self.called, self.processes = url, called, 0

    def _config(self) -> PipelineConfig:
        settings = own_settings(self.folder / "model", self.folder / "own")
        settings["store"] = str(self.store.root)
        settings["rounds"][0]["data"]["label"] = {
            "name": "judge",
            "url": self.url,
            "model": "m",
            "max_tokens": 10**6,
        }
        return PipelineConfig.model_validate(settings)

    def work(self) -> None:
        """Build the steps that are not built yet."""
        progress = Progress(self.folder / "progress.jsonl")
        signal.signal(signal.SIGTERM, lambda *_: progress.ask_to_stop())
        for step in chain(self.config).steps():
            if step.name in NAMES:
                build(self.store, step, progress)

    def fork(self, run) -> tuple[int, float]:
        """Count the processes besides."""
        self.processes += 1
        return super().fork(run)

    def clear(self) -> None:
        """Begin a run."""
        super().clear()
        self.called.write_bytes(b"")
        self.processes = 0

    def _content(self, key: str, path: str, digest: str) -> str:
        if path not in JOURNALS:
            return digest
        rows = map(json.loads, (self.store.folder(key) / path).read_text().splitlines())
        # a log-probability depends on its batch in the last digits
        kept = [{name: row[name] for name in row if name != "logprob"} for row in rows]
        text = "\n".join(sorted(json.dumps(row) for row in kept))
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self, wanted: dict[str, str]) -> None:
        """Assert that the run ended like the undisturbed one, and what it has paid."""
        found = self.digest()
        different = {k: found.get(k) for k in {*found, *wanted} if found.get(k) != wanted.get(k)}
        assert not different, f"differs from the undisturbed run: {different}"
        left = [path.name for path in self.store.root.glob("work/*")]
        assert not left, f"left in work: {left}"
        calls = Counter(self.called.read_text().split())
        labels = next(key for key in self.store.list_keys() if key.startswith("labels-"))
        recorded = (self.store.folder(labels) / "calls.jsonl").read_text().splitlines()
        assert len(calls) == len(recorded) > 0, "a call is missing, or was never made"
        again = calls.total() - len(calls)
        assert again < self.processes, (
            f"{again} calls were paid twice by {self.processes} processes"
        )


@contextlib.contextmanager
def judge(folder: Path) -> Iterator[tuple[str, Path]]:
    """A judge in a process of its own: its address, and the file with a line for each call."""
    called = folder / "called"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.judge", str(called)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip(), called
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def own_bench(folder: Path) -> Iterator[OwnBench]:
    """The bench, and its judge while it is open."""
    with judge(folder) as asked:
        yield OwnBench(folder, *asked)


def main() -> int:
    """Kill processes of a round on own answers."""
    return command(__doc__, "while answering and labelling", own_bench, kills=50, minutes=10.0)


if __name__ == "__main__":
    sys.exit(main())
