"""A line of rounds on two machines, one of which is killed in a training."""

import contextlib
import os
import subprocess
import sys
import time

import pytest

from alignment.errors import Interrupted
from alignment.rounds.line import RoundLine
from alignment.store.lineage import ancestors
from alignment.store.places import connect, store_at
from alignment.store.remote.bucket import Bucket
from tests.buckets import Fault
from tests.inbox import drop, line_settings, rows

WORKER = """
import sys
from pathlib import Path
from alignment.config.file import load
from alignment.errors import Interrupted, Overtaken
from alignment.execution.run_step import build
from alignment.pipeline.verdicts import each_step
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.line import RoundLine
from alignment.rounds.steps import inbox_of
from alignment.store.places import connect
from alignment.store.progress import Progress

config = load(Path(sys.argv[1]))
store, progress = config.open_store(), Progress()
connect(store)

def make(step):
    return store.reuse(step.key) or build(store, step, progress)

hooks = Hooks(run_chain=lambda: [*map(make, each_step(config, store))], build=make)
line = RoundLine(store=store, name=inbox_of(config).line)
try:
    print(RoundDriver(config, line, hooks).run().message)
except (Interrupted, Overtaken) as error:
    print(error)
    sys.exit(75)
"""
"""A round as `sft-dpo round` plays it, in one process and without Prefect."""
TRAINED = 4
"""Steps that are in the bucket when the machine is killed."""


class Machine:
    """A home of its own, and the processes started there."""

    def __init__(self, home, config, environment):
        home.mkdir()
        self._config = config
        self._environment = {**os.environ, **environment, "HOME": str(home)}

    def round(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(self._config)],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def ended(self):
        """What it printed."""
        said = self.process.communicate(timeout=900)[0]
        assert self.process.returncode in (0, 75), said
        print(said)
        return said


@pytest.fixture
def night(tiny_settings, write_config, tmp_path, bucket):
    settings = line_settings(tiny_settings | {"store": bucket.url}, tmp_path)
    config = write_config(settings)
    machines = [Machine(tmp_path / name, config, bucket.environment) for name in ("a", "b")]
    yield machines
    for machine in machines:
        with contextlib.suppress(AttributeError):
            machine.kill()


def steps_in(objects):
    """The furthest checkpoint of a round's training that is in the bucket."""
    with contextlib.suppress(Interrupted):
        found = [one.name.split("/") for one in objects.below("checkpoints")]
        return max((int(f[2][:8]) for f in found if f[1].startswith("dpo-")), default=0)
    return 0


@pytest.mark.slow
def test_two_machines_share_a_line_of_rounds_and_one_is_killed_in_a_training(
    night, bucket, tmp_path
):
    one, other = night
    drop(tmp_path / "inbox" / "monday.jsonl", rows(0, 32))
    for machine in night:
        machine.round()
    said = [machine.ended() for machine in night]
    assert any("round 1 is kept" in text for text in said), said

    drop(tmp_path / "inbox" / "tuesday.jsonl", rows(200, 32))
    one.round()
    until = time.monotonic() + 600
    while steps_in(Bucket(url=bucket.url)) < TRAINED:
        assert one.process.poll() is None, one.process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.2)
    one.kill()
    other.round()
    assert "continuing from a checkpoint of another machine" in other.ended()

    drop(tmp_path / "inbox" / "wednesday.jsonl", rows(400, 32))
    for part in ("/manifests/", "/lines/", "/files/"):
        bucket.proxy.faults += [Fault("lost", "PUT", part, 2), Fault("500 after", "PUT", part, 2)]
    for machine in night:
        machine.round()
    for machine in night:
        machine.ended()

    store = store_at(bucket.url, tmp_path / "third")
    connect(store)
    state = RoundLine(store=store, name="main").state()
    assert [closed.number for _, closed in state.history] == [1, 2, 3]
    assert [len(opened.batches) for opened, _ in state.history] == [1, 1, 1]
    assert len(state.spent) == 3
    assert state.open is None
    assert state.champion is not None
    for record in ancestors(store, state.champion.model):
        store.open(record.key)
    trained = {r.name: r for r in store.records() if r.stage == "dpo"}
    assert trained["dpo-2"].earlier, "it went on where the killed machine was"
    assert Bucket(url=bucket.url).below("checkpoints") == []
