"""Rows filtered in several processes: what one process gives, and no process left behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from alignment import processes
from alignment.data.build.forked_map import ForkedMap
from alignment.data.read.sources import LARGE_BYTES
from alignment.errors import DataError, Interrupted

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="needs two cores, to use more than one"
)

INGEST = """
import sys
from pathlib import Path
from alignment.data.build.ingest import IngestOptions, ingest
if __name__ == "__main__":
    report = ingest([sys.argv[1]], IngestOptions(), out=Path(sys.argv[2]), on_progress=lambda *_: 0)
    print(report.read, report.kept)
"""
ENDLESS = """
import itertools, os
from alignment.data.build.forked_map import ForkedMap
if __name__ == "__main__":
    with ForkedMap(lambda n: os.getpid(), worth_it=True) as pids:
        for pid in pids(itertools.count()):
            print(pid, flush=True)
"""


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch):
    """As in a new process: earlier tests of this one may have used rensa."""
    monkeypatch.setattr(processes, "_with_threads", False)


@pytest.fixture(autouse=True)
def _no_process_left():
    """Of a test itself; a fork server of earlier tests may live on."""
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


def square(number):
    return number * number, os.getpid()


def run(code, *words, cores=None):
    command = [sys.executable, "-c", code, *map(str, words)]
    chosen = ["taskset", "-c", cores] if cores else []
    return subprocess.run([*chosen, *command], capture_output=True, text=True, check=True).stdout


def test_results_come_in_the_order_of_the_items_from_other_processes():
    with ForkedMap(square, worth_it=True) as squares:
        found = list(squares(range(100)))
    assert [result for result, _ in found] == [n * n for n in range(100)]
    assert os.getpid() not in {pid for _, pid in found}


def test_the_processes_serve_every_reading():
    with ForkedMap(square, worth_it=True) as squares:
        first = {pid for _, pid in squares(range(50))}
        assert {pid for _, pid in squares(range(50))} == first


def test_little_work_is_done_here():
    with ForkedMap(square, worth_it=False) as squares:
        assert list(squares([3])) == [(9, os.getpid())]


def test_a_process_with_threads_of_a_library_does_not_fork():
    processes.note_threads()
    with ForkedMap(square, worth_it=True) as squares:
        assert list(squares([3])) == [(9, os.getpid())]


def test_only_what_is_needed_soon_is_taken_from_the_items():
    items = iter(range(1_000))
    with ForkedMap(square, worth_it=True) as squares:
        next(squares(items))
        assert next(items) < 40


def test_an_error_is_raised_here_and_ends_the_processes():
    def refuse(number):
        raise DataError(f"row {number}")

    with pytest.raises(DataError, match="row 0"), ForkedMap(refuse, worth_it=True) as refused:
        list(refused(range(10)))


def test_a_killed_process_interrupts_the_work():
    def die(number):
        os.kill(os.getpid(), number)

    with (
        pytest.raises(Interrupted, match="a process that prepares rows was killed"),
        ForkedMap(die, worth_it=True) as died,
    ):
        list(died([signal.SIGKILL] * 10))


def test_the_processes_end_with_a_killed_parent():
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        family = [psutil.Process(int(parent.stdout.readline()))]
        family += psutil.Process(parent.pid).children()
        parent.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_one_core_and_two_cores_write_the_same_bytes(tmp_path):
    """Of 5,000 rows in five batches, with duplicates, conflicts and broken lines."""
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for n in range(5_000):
            text = f"{n % 4_800} " + f"some words about {n % 977} " * 45
            pair = {"prompt": text, "chosen": f"yes {n % 13}", "rejected": f"no {n % 7}"}
            file.write((json.dumps(pair) if n % 101 else '{"prompt": "cut') + "\n")
    assert rows.stat().st_size > LARGE_BYTES
    digests = set()
    for cores in ("0", "0,1"):
        out = tmp_path / cores
        assert run(INGEST, rows, out, cores=cores).startswith("5000 ")
        digests.add(
            hashlib.sha256(b"".join(f.read_bytes() for f in sorted(out.iterdir()))).hexdigest()
        )
    assert len(digests) == 1
