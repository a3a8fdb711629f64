"""A process that dies anywhere between a machine and its bucket: the next command repairs it.

At every failpoint of a commit, an entry or a checkpoint the process dies. The same machine then
goes on as its next command does, and another machine must see the result whole.
"""

import contextlib
from itertools import count

import pytest

from alignment.rounds.line import RoundLine
from alignment.store.places import connect, store_at
from alignment.train.checkpoints import commit_checkpoint, newest
from tests.alignment.rounds.lines import batch, started
from tests.alignment.store.test_store import KEY, record
from tests.faults.failpoints import Broken, arm, observe

pytestmark = pytest.mark.slow
SHARED = ("artifact.publish", "bucket.", "origin.", "entry.copy", "copy.")
"""Failpoints from the moment that a change can be seen elsewhere; others have their own test."""


@pytest.fixture
def machines(bucket, tmp_path):
    """Makes the stores of two machines with a place in the bucket of their own."""
    numbers = count()

    def make():
        place = f"{bucket.url}/{next(numbers)}"
        stores = [store_at(place, tmp_path / place[-6:].replace("/", "-") / name) for name in "ab"]
        for store in stores:
            connect(store)
        return stores

    return make


def deaths(prepare, act):
    """For each failpoint that `act` passes, what `prepare` made, after a death there."""
    passed: list[str] = []
    made = prepare()
    end = observe(passed.append)
    act(made)
    end()
    shared = [(at, nth) for nth, at in enumerate(passed, start=1) if at.startswith(SHARED)]
    assert len(shared) > 5
    for at, nth in shared:
        made = prepare()
        disarm = arm("raise", nth=nth)
        with pytest.raises(Broken):
            act(made)
        disarm()
        yield at, made
    print(f"\ndeaths: tried {len(shared)}, lost 0")


def build(store):
    with store.lock(KEY):
        workspace = store.workspace(KEY)
        (workspace.out / "weights").write_text("weights" * 100)
        return store.commit(record(), workspace)


def test_an_artifact_is_shared_whole_wherever_its_machine_dies(machines):
    for at, (one, other) in deaths(machines, lambda stores: build(stores[0])):
        assert other.reuse(KEY) is None or other.open(KEY), at
        connect(one)
        made = one.reuse(KEY) or build(one)
        assert other.reuse(KEY) == made, at
        assert other.open(KEY) == made, at
        assert not one.root.joinpath("work", KEY).exists(), at


def test_an_artifact_is_copied_whole_wherever_its_machine_dies(machines):
    def shared():
        stores = machines()
        build(stores[0])
        return stores

    for at, (one, other) in deaths(shared, lambda stores: stores[1].open(KEY)):
        connect(other)
        assert other.open(KEY) == one.open(KEY), at
        assert {path.name for path in other.place(KEY).iterdir()} == {"weights", "manifest.json"}


def test_an_entry_is_there_once_or_not_wherever_its_machine_dies(machines):
    def lines():
        one, other = machines()
        return started(one, "main"), RoundLine(store=other, name="main")

    for at, (one, other) in deaths(lines, lambda made: made[0].open((batch(1),))):
        assert other.state().open is None or other.state().open.batches == (batch(1),), at
        one.open((batch(1),))
        assert one.state() == other.state(), at
        assert [entry.event.name for entry in other.ledger.read()] == ["started", "opened"], at


def test_a_checkpoint_is_there_whole_or_the_one_before_wherever_its_machine_dies(machines):
    def trained():
        stores = machines()
        train(stores[0], 1)
        return stores

    def train(store, step):
        workspace = store.workspace(KEY)
        staged = workspace.folder / "trl" / f"checkpoint-{step}"
        staged.mkdir(parents=True, exist_ok=True)
        (staged / "weights").write_text(f"weights {step}")
        workspace.copies.add(commit_checkpoint(staged, workspace.checkpoints, step=step))

    for at, (_, other) in deaths(trained, lambda stores: train(stores[0], 2)):
        workspace = other.workspace(KEY)
        with contextlib.suppress(Broken):
            workspace.copies.take(workspace.folder)
        found = newest(workspace.checkpoints)
        assert found is not None, at
        assert (found / "weights").read_text() == f"weights {int(found.name[5:])}", at
