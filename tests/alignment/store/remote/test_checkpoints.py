"""Checkpoints that another machine continues from."""

import pytest

from alignment.store.places import connect, store_at
from alignment.store.remote.bucket import Bucket
from alignment.train.checkpoints import commit_checkpoint, newest
from tests.buckets import Fault

KEY = "sft-0123456789abcdef01234567"


@pytest.fixture
def machines(bucket, tmp_path):
    stores = [store_at(bucket.url, tmp_path / name) for name in "ab"]
    for store in stores:
        connect(store)
    return [store.workspace(KEY) for store in stores]


def trained_to(workspace, step):
    """A training saves a checkpoint, as the trainer's callback does."""
    staged = workspace.folder / "trl" / f"checkpoint-{step}"
    (staged / "deep").mkdir(parents=True)
    (staged / "weights").write_text(f"weights {step}")
    (staged / "deep" / "state").write_text(f"state {step}")
    with (workspace.out / "trained.jsonl").open("a") as rows:
        rows.write(f"{step}\n")
    workspace.copies.add(commit_checkpoint(staged, workspace.checkpoints, step=step))


def test_another_machine_continues_from_the_newest_checkpoint(machines):
    one, other = machines
    for step in (10, 20, 30):
        trained_to(one, step)
    other.copies.take(other.folder)
    checkpoint = newest(other.checkpoints)
    assert checkpoint == other.checkpoints / "step-00000030"
    assert checkpoint is not None
    assert (checkpoint / "deep" / "state").read_text() == "state 30"
    assert (other.out / "trained.jsonl").read_text() == "10\n20\n30\n"
    assert {path.name for path in other.folder.iterdir()} == {"out", "checkpoints"}


def test_two_copies_are_kept_and_none_after_the_training(machines, bucket):
    one, _ = machines
    for step in (10, 20, 30):
        trained_to(one, step)
    found = {name.name.split("/")[2][:8] for name in Bucket(url=bucket.url).below("checkpoints")}
    assert found == {"00000020", "00000030"}
    one.copies.remove()
    assert not one.copies.exist()
    assert Bucket(url=bucket.url).below("checkpoints") == []


def test_a_machine_that_is_as_far_keeps_its_own(machines):
    one, other = machines
    trained_to(one, 10)
    trained_to(other, 10)
    (other.out / "trained.jsonl").write_text("own\n")
    other.copies.take(other.folder)
    assert (other.out / "trained.jsonl").read_text() == "own\n"


def test_a_damaged_copy_is_passed_over(machines, bucket):
    one, other = machines
    trained_to(one, 10)
    trained_to(one, 20)
    objects = Bucket(url=bucket.url)
    last = next(
        found.name for found in objects.below("checkpoints") if "20/weights" in mid(found.name)
    )
    objects.write(last, b"wEights 20")
    other.copies.take(other.folder)
    assert newest(other.checkpoints) == other.checkpoints / "step-00000010"


def mid(name):
    """The step and the file of a copy."""
    _, _, copy, *path = name.split("/")
    return f"{int(copy[:8])}/{path[-1]}"


def test_training_goes_on_where_a_copy_fails_and_no_half_copy_is_used(machines, bucket, caplog):
    one, other = machines
    trained_to(one, 10)
    bucket.proxy.faults += [Fault("500", "PUT", "/files.json", times=9)]
    trained_to(one, 20)
    assert "only on this machine" in caplog.text
    bucket.proxy.faults.clear()
    other.copies.take(other.folder)
    assert newest(other.checkpoints) == other.checkpoints / "step-00000010"
    trained_to(one, 30)
    trained_to(one, 40)
    found = {name.name.split("/")[2][:8] for name in Bucket(url=bucket.url).below("checkpoints")}
    assert found == {"00000030", "00000040"}, "the half copy is gone"
