"""Single faults on the tiny chain of `kill.py`: `python -m tests.faults.scenarios`.

Each fault is injected into a run, and the run must then end like the undisturbed one. A line per
fault shows how often it was tried and how often something was lost.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.failpoints import arm
from tests.faults.kill import Bench, undisturbed, warm

FULL_AT = (
    "shard.rows:before",
    "set.rows:before",
    "artifact.manifest:before",
    "artifact.flush:before",
    "checkpoint.digests:before",
    "checkpoint.flush:before",
    "adapter.save:before",
    "merge.save:before",
    "evaluation.rows:before",
    "batch.copy:before",
    "entry.write:before",
    "entry.link:before",
)
"""Where the disk is full: data, manifest, checkpoint, adapter, merge, evaluation, batch, ledger."""


def full_at_a_point(bench: Bench) -> Iterator[str]:
    """The disk is full at a named point; then there is space again."""
    for name in FULL_AT:
        bench.clear()

        def work(name: str = name) -> None:
            arm("full", name=name)
            bench.work()

        yield from fails(bench, work, name, "StorageError")
        yield from ends(bench, name)


def small_disk(bench: Bench) -> Iterator[str]:
    """A real file system is too small, at sizes that fail in different stages; then it grows."""
    for size in (200, 500, 900, 1300, 1700):
        bench.clear()
        mount(bench.store.root, size)
        try:
            # on a full disk torch only says "unexpected pos 64 vs 0"
            yield from fails(bench, bench.work, f"{size} KiB", "Error")
            mount(bench.store.root, 100_000, "remount")
            yield from ends(bench, f"after {size} KiB")
        finally:
            subprocess.run(["umount", str(bench.store.root)], check=True)


def mount(folder: Path, kibibytes: int, *options: str) -> None:
    folder.mkdir(exist_ok=True)
    chosen = ",".join((*options, f"size={kibibytes}k"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", chosen, "tmpfs", str(folder)], check=True)


def asked_to_stop(bench: Bench) -> Iterator[str]:
    """SIGTERM during each training: it saves within 30 seconds, and the next process resumes."""
    for stage in ("sft", "dpo"):
        bench.clear()
        started = bench.fork(bench.work)
        until = time.monotonic() + 300
        while not list(bench.store.root.glob(f"work/{stage}-*/checkpoints/step-*")):
            if time.monotonic() > until:
                raise AssertionError(f"{stage}: no checkpoint within five minutes")
            time.sleep(0.005)
        asked = time.monotonic()
        os.kill(started[0], signal.SIGTERM)
        code, _ = bench.ended(started)
        seconds = time.monotonic() - asked
        assert code == 1, f"{stage}: ended with {code}"
        assert "Interrupted: stopped at step" in log_of(bench), log_of(bench)
        assert seconds < 30, f"{stage}: it took {seconds:.0f} s to exit"
        assert not bench.orphans(started[0])
        yield from ends(bench, stage)


def two_at_once(bench: Bench) -> Iterator[str]:
    """Two processes run the same chain and rounds: each step and each round is done only once."""
    for attempt in range(5):
        bench.clear()
        both = [bench.fork(bench.work), bench.fork(bench.work)]
        codes = [bench.ended(one)[0] for one in both]
        assert codes == [0, 0], log_of(bench)
        yield f"attempt {attempt}"


def two_and_a_kill(bench: Bench) -> Iterator[str]:
    """Two processes, and one of them is killed: the other takes over."""
    for attempt in range(5):
        bench.clear()
        first, second = bench.fork(bench.work), bench.fork(bench.work)
        time.sleep(0.5 + attempt)
        os.kill(first[0], signal.SIGKILL)
        bench.ended(first)
        assert bench.ended(second)[0] == 0, log_of(bench)
        yield f"attempt {attempt}"


def fails(bench: Bench, work: Callable[[], None], name: str, words: str) -> Iterator[str]:
    """The process ends with one of our errors; yields nothing, as the run is not complete."""
    (bench.folder / "log").write_bytes(b"")
    code, _ = bench.forked(work)
    assert code == 1, f"{name}: ended with {code}"
    assert words in log_of(bench), f"{name}: {log_of(bench)[-1500:]}"
    yield from ()


def ends(bench: Bench, name: str) -> Iterator[str]:
    """The next process finishes the run."""
    code, _ = bench.forked(bench.work)
    assert code == 0, f"{name}: {log_of(bench)[-1500:]}"
    yield name


def log_of(bench: Bench) -> str:
    return (bench.folder / "log").read_text(errors="replace")


SCENARIOS: dict[str, Callable[[Bench], Iterator[str]]] = {
    "disk full at a named point": full_at_a_point,
    "a file system too small": small_disk,
    "SIGTERM in training": asked_to_stop,
    "two of the same run at once": two_at_once,
    "one of two is killed": two_and_a_kill,
}


def main(names: list[str]) -> int:
    """Run all scenarios, or those named; returns 1 if anything was lost."""
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    warm()
    worst = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(Path(folder))
        bench.prepare()
        wanted, _, _ = undisturbed(bench)
        for name in names or SCENARIOS:
            tried, lost, began = 0, 0, time.monotonic()
            try:
                for _ in SCENARIOS[name](bench):
                    bench.check(wanted)
                    tried += 1
            except (AssertionError, subprocess.CalledProcessError) as error:
                lost = worst = 1
                print(f"{name} failed: {error}")
            seconds = time.monotonic() - began
            print(f"{name}: tried {tried}, lost {lost}, {seconds:.0f} s", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
