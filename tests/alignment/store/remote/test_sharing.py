"""Two machines, each with a working copy of its own, and one bucket."""

import shutil
from pathlib import Path

import pytest

from alignment.errors import ArtifactError, Interrupted, StorageError, UsageError
from alignment.store.places import connect, store_at
from alignment.store.remote.bucket import Bucket
from alignment.store.runs import RunEntry, note_run, runs_in
from tests.alignment.store.test_store import KEY, record
from tests.buckets import Fault


@pytest.fixture
def machines(bucket, tmp_path):
    """The stores of two machines, connected with one bucket."""
    stores = [store_at(bucket.url, tmp_path / name / "copy") for name in "ab"]
    for store in stores:
        connect(store)
    return stores


def built(store, text="weights", key=KEY):
    """An artifact, as a step commits it."""
    with store.lock(key):
        workspace = store.workspace(key)
        (workspace.out / "deep").mkdir(exist_ok=True)
        (workspace.out / "deep" / "weights.txt").write_text(text)
        (workspace.out / "empty").write_text("")
        return store.commit(record(key), workspace)


def weights(store, key=KEY):
    return (store.folder(key) / "deep" / "weights.txt").read_text()


def test_what_one_machine_built_the_other_reuses_and_copies_when_it_is_opened(machines):
    one, other = machines
    made = built(one)
    assert other.reuse(KEY) == made
    assert not other.place(KEY).exists(), "nothing was copied yet"
    assert other.open(KEY) == made
    assert weights(other) == "weights"
    assert other.path(f"store:{KEY}/deep/weights.txt").read_text() == "weights"
    assert (one.place(KEY) / "manifest.json").read_bytes() == (
        other.place(KEY) / "manifest.json"
    ).read_bytes()


def test_a_later_command_knows_what_the_bucket_has(machines):
    one, other = machines
    built(one)
    assert other.find(KEY) is None, "not asked for"
    connect(other)
    assert other.find(KEY) is not None
    assert [found.key for found in other.records()] == [KEY]


def test_of_two_that_build_the_same_the_first_one_counts(machines):
    one, other = machines
    first = built(one, "first")
    assert built(other, "second") == first
    assert weights(other) == weights(one) == "first"


def test_a_commit_that_cannot_be_shared_is_kept_and_shared_by_the_next_command(machines, bucket):
    one, other = machines
    bucket.proxy.faults += [Fault("500", "PUT", "/files/", times=99)]
    with pytest.raises(Interrupted, match="the same command continues"):
        built(one)
    bucket.proxy.faults.clear()
    assert other.reuse(KEY) is None
    assert one.reuse(KEY) is not None
    assert other.reuse(KEY) is not None


@pytest.mark.parametrize("kind", ["500", "409", "lost", "500 after", "slow"])
@pytest.mark.parametrize("part", ["/files/", "/manifests/"])
def test_an_artifact_arrives_whole_through_a_failing_network(kind, part, machines, bucket):
    one, other = machines
    bucket.proxy.faults += [Fault(kind, "PUT", part), Fault("lost", "GET", part)]
    made = built(one)
    assert other.reuse(KEY) == made
    assert weights(other) == "weights"


def test_a_damaged_file_in_the_bucket_is_noticed_and_built_again(machines, bucket):
    one, other = machines
    made = built(one)
    digest = next(file.sha256 for file in made.files if "weights" in file.path)
    Bucket(url=bucket.url).write(f"files/{digest}", b"wEights")
    assert other.reuse(KEY) is not None
    with pytest.raises(ArtifactError, match="builds the artifact again"):
        other.open(KEY)
    assert not other.place(KEY).exists()
    assert other.reuse(KEY) is None
    built(other, "again")
    shutil.rmtree(one.place(KEY))
    connect(one)
    assert weights(one) == "again"


def test_an_artifact_whose_files_are_gone_is_replaced(machines, bucket):
    one, other = machines
    made = built(one)
    Bucket(url=bucket.url).remove(f"files/{file.sha256}" for file in made.files)
    assert built(other, "again").files != made.files
    assert weights(other) == "again"


def test_a_damaged_local_artifact_is_copied_again(machines):
    one, _ = machines
    built(one)
    (one.place(KEY) / "deep" / "weights.txt").write_text("wEights")
    assert one.reuse(KEY) is not None
    assert weights(one) == "weights"
    assert list(one.root.glob(f"damaged/{KEY}-*"))


def test_runs_are_known_on_every_machine(machines):
    one, other = machines
    entry = RunEntry(
        name="tiny",
        id="abc123",
        finished="2026-11-01T00:00:00+00:00",
        command="sft-dpo run tiny",
        report="reports/tiny.html",
        headline="better",
        config={},
        steps={"sft": KEY},
    )
    note_run(one, entry)
    connect(other)
    assert runs_in(other) == [entry]


def test_a_working_copy_belongs_to_one_bucket(bucket, tmp_path):
    store_at(bucket.url, tmp_path / "copy")
    with pytest.raises(StorageError, match="store_cache"):
        store_at(f"{bucket.url}/other", tmp_path / "copy")
    (tmp_path / "mine" / "objects").mkdir(parents=True)
    with pytest.raises(StorageError, match="store_cache"):
        store_at(bucket.url, tmp_path / "mine")


@pytest.mark.parametrize(
    "url", ["https://host/x", "s3://key:secret@bucket/x", "s3://bucket/x?token=secret", "s3://"]
)
def test_other_urls_are_refused_and_not_repeated(url):
    with pytest.raises(UsageError, match="expected a folder, or s3://") as refused:
        store_at(url)
    assert "secret" not in str(refused.value)


def test_a_working_copy_is_found_by_the_url(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    root = store_at(bucket.url).root
    assert root.is_relative_to(tmp_path / ".cache" / "sft-dpo")
    origin = store_at(Path(root)).origin
    assert origin is not None
    assert origin.bucket.url == bucket.url
