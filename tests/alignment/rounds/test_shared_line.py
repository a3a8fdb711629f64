"""One line of rounds on two machines, through a bucket."""

import os
import subprocess
import sys
import threading
from collections import Counter

import pytest

from alignment.errors import ArtifactError, Overtaken
from alignment.rounds.ledger import Started
from alignment.rounds.line import RoundLine, all_lines
from alignment.store.places import connect, store_at
from alignment.store.remote.bucket import Bucket
from tests.alignment.rounds.lines import batch, champion, put_model, started
from tests.buckets import Fault, Kind

ROUNDS = """
import sys
from pathlib import Path
from alignment.errors import Interrupted, Overtaken
from alignment.rounds.line import RoundLine
from alignment.store.places import connect, store_at
from alignment.store.remote import bucket
from tests.alignment.rounds.lines import batch, champion, put_model

name, url, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
bucket.RETRIES["max_retries"] = 1
store = store_at(url)
connect(store)
line = RoundLine(store=store, name="main")
while True:
    try:
        state = line.state()
        left = [n for n in range(rounds) if batch(n).digest not in state.spent]
        if state.open is None and not left:
            break
        opened = state.open or line.open((batch(left[0]),)).open
        if opened is None:
            continue
        parent = opened.parent.label.removeprefix("round ")
        put_model(store, opened.number, parent, *opened.batches)
        line.close(opened.number, champion(opened.number), outcome="kept", why=name)
        print("kept", opened.number, flush=True)
    except Overtaken:
        print("overtaken", flush=True)
    except Interrupted:
        print("interrupted", flush=True)
"""


@pytest.fixture
def lines(bucket, tmp_path):
    """The line `main`, which has started, on two machines."""
    stores = [store_at(bucket.url, tmp_path / name) for name in "ab"]
    for store in stores:
        connect(store)
    return started(stores[0], "main"), RoundLine(store=stores[1], name="main")


def test_a_round_is_opened_on_one_machine_and_closed_on_another(lines):
    one, other = lines
    one.open((batch(1),))
    assert other.state().open == one.state().open
    put_model(other.store, 4, "start", batch(1))
    other.close(4, champion(4), outcome="kept", why="better")
    assert one.state().champion == champion(4)
    assert one.store.reuse(champion(4).model) is not None
    assert [line.name for line in all_lines(one.store)] == ["main"]


def test_the_second_to_close_a_round_is_told_so(lines):
    one, other = lines
    one.open((batch(1),))
    put_model(one.store, 4, "start", batch(1))
    one.close(4, champion(4), outcome="kept", why="better")
    with pytest.raises(Overtaken, match="already closed round 4"):
        other.close(4, champion(4), outcome="rejected", why="worse")
    assert other.state() == one.state()


@pytest.mark.parametrize("kind", ["500", "409", "lost", "500 after", "slow"])
def test_an_entry_is_written_once_whatever_became_of_the_answer(kind, lines, bucket):
    one, other = lines
    bucket.proxy.faults += [Fault(kind, "PUT", "/lines/main/00000002")]
    opened = one.open((batch(1),)).open
    assert opened is not None
    assert other.open((batch(2),)).open == opened, "that number is taken"
    assert [entry.event.name for entry in other.ledger.read()] == ["started", "opened"]


def test_of_equal_events_in_one_second_one_is_written(lines):
    event = Started(head=champion("start"), rounds=3)
    written, together = [], threading.Barrier(2)

    def write(line):
        entries = line.ledger.read()
        together.wait()
        try:
            written.append(line.ledger.append(event, after=entries))
        except Overtaken:
            written.append(None)

    threads = [threading.Thread(target=write, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written.count(None) == 1
    assert lines[0].ledger.read() == lines[1].ledger.read()


def test_entries_that_the_bucket_lost_are_noticed(lines, bucket):
    one, other = lines
    one.open((batch(1),))
    other.state()
    Bucket(url=bucket.url).remove(["lines/main/00000002.json"])
    with pytest.raises(ArtifactError, match="entry 2 of line 'main'"):
        other.state()


def test_two_machines_that_race_through_a_failing_network_move_the_head_once_a_round(
    lines, bucket, tmp_path
):
    rounds, one = 5, lines[0]
    kinds: tuple[Kind, ...] = ("lost", "500 after", "500", "409")
    for number, kind in enumerate(kinds * 3):
        bucket.proxy.faults += [Fault(kind, "PUT", f"/lines/main/{number + 2:08d}")]
    bucket.proxy.faults += [Fault("lost", "PUT", "/manifests/", times=3)]
    machines = []
    for name in ("a", "b"):
        (tmp_path / f"home-{name}").mkdir()
        environment = os.environ | bucket.environment | {"HOME": str(tmp_path / f"home-{name}")}
        command = [sys.executable, "-c", ROUNDS, name, bucket.url, str(rounds)]
        machines.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    said = [machine.communicate(timeout=120)[0].splitlines() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    entries = one.ledger.read()
    closed = [entry.event.number for entry in entries if entry.event.name == "closed"]
    assert closed == list(range(4, 4 + rounds)), "one head move a round"
    kept = Counter(line for lines in said for line in lines if line.startswith("kept"))
    assert kept == {f"kept {number}": 1 for number in closed}, "one machine each, and it knows"
    assert len(one.state().spent) == rounds
    assert one.state().champion == champion(3 + rounds)
