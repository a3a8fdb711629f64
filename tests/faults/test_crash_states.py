"""After a crash anywhere in a commit, the state is the one before it or the one after it.

Every failpoint and every torn file is tried (`crash_states.py`). The state is then recovered as the
next run does it, and ends as if there had been no crash.
"""

import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from alignment.candidates.records import JudgeCall
from alignment.data.build.batches import FilterPass
from alignment.data.build.shards import fill_shards
from alignment.data.read.reading import Reading
from alignment.data.row import Row
from alignment.data.split import prompt_key
from alignment.records.text import Message, PreferencePair
from alignment.rounds.ledger import Champion, Delivery
from alignment.rounds.line import RoundLine
from alignment.store.journal import Journal
from alignment.store.store import Store
from alignment.train.callbacks import _keep
from alignment.train.checkpoints import commit_checkpoint, newest
from tests.alignment.store.test_store import KEY, record
from tests.faults.crash_states import Recorder, restore, snapshot

FILES = {
    "weights.bin": bytes(range(256)) * 24,
    "logs/history.jsonl": b'{"loss": 1.0}\n' * 50,
    "empty": b"",
}


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """Records the states of the folder `root`."""
    (tmp_path / "root").mkdir()
    return Recorder(tmp_path / "root", monkeypatch)


def recovered(states, tmp_path, of):
    """Yield each state in its own folder; after the last one, print how many were tried."""
    began = time.monotonic()
    for number, state in enumerate(states):
        yield state.at, restore(state, tmp_path / f"state-{number}")
    seconds = time.monotonic() - began
    print(f"\ncrash states of {of}: tried {len(states)}, lost 0, {seconds:.0f} s")


def put_files(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# --- an artifact --------------------------------------------------------------------------------


def build(store):
    workspace = store.workspace(KEY)
    put_files(workspace.out, FILES)
    put_files(workspace.checkpoints, {"step-00000001/optimizer.pt": b"x" * 600})
    return store.commit(record(), workspace)


def test_an_artifact_is_complete_or_absent_and_nothing_is_left_behind(recorder, tmp_path):
    store = Store(root=tmp_path / "root")
    states = recorder.states(lambda: build(store))
    after = {k: v for k, v in snapshot(store.root).items() if k.startswith("objects/")}
    assert len(states) > 40
    results = set()
    for at, root in recovered(states, tmp_path, "an artifact's commit"):
        left = Store(root=root)
        found = left.reuse(KEY)
        results.add(found is not None)
        assert found is None or found == store.find(KEY), at
        assert found is not None or not left.folder(KEY).exists(), at
        if found is None:
            build(left)
        files = snapshot(root)
        assert {k: v for k, v in files.items() if k.startswith("objects/")} == after, at
        assert not [name for name in files if name.startswith("work/")], at
        assert not [name for name in files if name.startswith("damaged/")], at
    assert results == {False, True}


# --- a checkpoint -------------------------------------------------------------------------------


def train(root, step):
    staged = root / "trl" / f"checkpoint-{step}"
    put_files(
        staged, {n: f"{n} of step {step}\n".encode() * 60 for n in ("model", "deep/optimizer.pt")}
    )
    commit_checkpoint(staged, root / "checkpoints", step=step)


def step_of(checkpoint):
    return int((checkpoint / "model").read_text().split()[-1])


def last(root):
    checkpoint = newest(root / "checkpoints")
    assert checkpoint is not None
    return checkpoint


def test_the_newest_checkpoint_is_the_previous_or_the_new_one(recorder, tmp_path):
    root = tmp_path / "root"
    train(root, 1)
    train(root, 2)
    states = recorder.states(lambda: train(root, 3))
    assert len(states) > 20
    found = set()
    for at, left in recovered(states, tmp_path, "a checkpoint's commit"):
        checkpoint = last(left)
        assert step_of(checkpoint) == int(checkpoint.name[5:]) in (2, 3), at
        found.add(step_of(checkpoint))
        if step_of(checkpoint) == 2:
            train(left, 3)
        assert snapshot(last(left)) == snapshot(last(root)), at
        train(left, 4)
        assert step_of(last(left)) == 4, at
    assert found == {2, 3}


def test_a_first_checkpoint_is_complete_or_absent(recorder, tmp_path):
    states = recorder.states(lambda: train(tmp_path / "root", 1))
    found = set()
    for at, left in recovered(states, tmp_path, "a first checkpoint"):
        checkpoint = newest(left / "checkpoints")
        assert checkpoint is None or step_of(checkpoint) == 1, at
        found.add(checkpoint is None)
    assert found == {True, False}


# --- a journal of answers, labels or calls ------------------------------------------------------


def call(number):
    return JudgeCall(
        prompt_id="p", sample=number, swapped=False, choice=1.0, raw="A" * 300, tokens=9
    )


def test_a_journal_goes_on_after_its_last_whole_row(recorder, tmp_path):
    path = tmp_path / "root" / "calls.jsonl"

    def add():
        journal = Journal(path, JudgeCall)
        for number in range(4):
            journal.append(call(number))

    states = recorder.states(add)
    assert len(states) > 8
    whole, lengths = path.read_bytes(), set()
    for at, root in recovered(states, tmp_path, "a journal of calls"):
        left = Journal(root / "calls.jsonl", JudgeCall)
        lengths.add(len(left.rows))
        assert left.rows == [call(number) for number in range(len(left.rows))], at
        for number in range(len(left.rows), 4):
            left.append(call(number))
        assert (root / "calls.jsonl").read_bytes() == whole, at
    assert lengths == {0, 1, 2, 3, 4}


# --- a ledger entry that changes the champion ----------------------------------------------------


def champion(name):
    return Champion(model=f"merge-{name}", evaluation=f"evaluate-{name}", label=name)


def keep_round(line):
    return line.close(1, champion("new"), outcome="kept", why="better " * 100)


def test_the_champion_changes_or_stays(recorder, tmp_path):
    line = RoundLine(store=Store(root=tmp_path / "root"))
    line.start(champion("old"), rounds=0)
    line.open((Delivery(digest="0" * 64, key="batch-0", file="a.jsonl"),))
    before = line.state()
    states = recorder.states(lambda: keep_round(line))
    assert len(states) > 6
    found = set()
    for at, root in recovered(states, tmp_path, "an entry of the ledger"):
        left = RoundLine(store=Store(root=root))
        state = left.state()
        assert state in (before, line.state()), at
        assert state.champion is not None
        found.add(state.champion.label)
        if state == before:
            keep_round(left)
        assert left.state() == line.state(), at
    assert found == {"old", "new"}


# --- files that a resumed run reads --------------------------------------------------------------


def test_samples_are_those_before_or_after_trimming(recorder, tmp_path):
    root = tmp_path / "root"
    rows = [json.dumps({"step": step, "reply": "x" * 400}) + "\n" for step in (1, 2, 3)]
    (root / "samples.jsonl").write_text("".join(rows) + rows[0][:100])
    for path in root.iterdir():  # flushed, except for the line being written
        descriptor = path.open("rb")
        recorder._fsync(descriptor.fileno())
        descriptor.close()
    states = recorder.states(lambda: _keep(root / "samples.jsonl", {1, 2}))
    assert len(states) > 3
    for at, left in recovered(states, tmp_path, "samples of a resumed training"):
        _keep(left / "samples.jsonl", {1, 2})
        assert (left / "samples.jsonl").read_text() == "".join(rows[:2]), at


def pairs(count):
    for number in range(count):
        pair = PreferencePair.of(
            (Message(role="user", content=f"Question {number}?"),),
            chosen=(Message(role="assistant", content="yes"),),
            rejected=(Message(role="assistant", content="no"),),
            task_type="any",
            source="any",
        )
        yield Row(pair, "any", number, prompt_key(pair.prompt))


def shard_of(work):
    reading = Reading("any", "pairs", "any", "", pairs(30))
    filters: FilterPass[PreferencePair] = FilterPass((), salt="", signatures=True)
    (shard,) = fill_shards(reading, 0, partial(map, filters), work, lambda _: None)
    index = np.load(shard / "index.npy")
    return snapshot(shard), len(index)


def test_a_shard_is_complete_or_read_again(recorder, tmp_path):
    root = tmp_path / "root"
    states = recorder.states(lambda: shard_of(root))
    assert len(states) > 20
    for at, left in recovered(states, tmp_path, "a shard of data"):
        assert shard_of(Path(left)) == shard_of(root), at
