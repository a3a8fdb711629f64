"""What a bucket answers, and what is known after it did not."""

import threading

import pytest

from alignment.errors import Interrupted, StorageError
from alignment.store.remote.bucket import CHUNK, Bucket
from tests.buckets import Fault


@pytest.fixture
def objects(bucket):
    return Bucket(url=bucket.url)


def test_an_object_is_created_once(objects):
    assert objects.create("a", b"first")
    assert not objects.create("a", b"second")
    assert objects.read("a") == b"first"
    assert objects.read("b") is None
    assert objects.find("a").size == 5


def test_of_many_writers_one_creates_it(objects):
    won, together = [], threading.Barrier(8)

    def write(number):
        together.wait()
        if objects.create("a", b"%d" % number):
            won.append(b"%d" % number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [objects.read("a")]


@pytest.mark.parametrize("kind", ["500", "409", "lost", "500 after", "slow", "hang"])
def test_a_create_that_fails_on_the_way_has_a_known_outcome(kind, bucket, objects):
    bucket.proxy.faults += [Fault(kind, "PUT", "/a")]
    assert objects.create("a", b"mine")
    assert not objects.create("a", b"theirs")
    assert objects.read("a") == b"mine"
    assert not bucket.proxy.faults


@pytest.mark.parametrize("kind", ["500 after", "lost"])
def test_an_object_of_another_is_not_taken_for_ours(kind, bucket, objects):
    assert objects.create("a", b"theirs")
    bucket.proxy.faults += [Fault(kind, "PUT", "/a")]
    assert not objects.create("a", b"mine")


@pytest.mark.parametrize("kind", ["500", "lost", "slow"])
def test_a_read_is_repeated(kind, bucket, objects):
    objects.write("a", b"content")
    bucket.proxy.faults += [Fault(kind, "GET", "/a")]
    assert objects.read("a") == b"content"


def test_a_service_that_fails_for_long_ends_it_and_is_named(bucket, objects):
    bucket.proxy.faults += [Fault("500", "PUT", times=99), Fault("500", "GET", times=99)]
    with pytest.raises(Interrupted, match=f"{bucket.url} cannot be reached"):
        objects.create("a", b"mine")
    assert len(bucket.proxy.seen) < 30, "bounded"


def test_a_swap_needs_the_content_that_was_read(objects):
    objects.write("a", b"old")
    assert not objects.swap("a", b"new", instead_of=b"other")
    assert objects.swap("a", b"new", instead_of=b"old")
    assert objects.read("a") == b"new"


def test_a_large_file_goes_in_parts_and_comes_back_whole(bucket, objects, tmp_path):
    content = bytes(range(256)) * (2 * CHUNK // 256) + b"end"
    (tmp_path / "large").write_bytes(content)
    bucket.proxy.faults += [Fault("500", "PUT", "partNumber=2"), Fault("lost", "GET", "/large")]
    objects.upload("large", tmp_path / "large")
    assert objects.download("large", tmp_path / "back", size=len(content))
    assert (tmp_path / "back").read_bytes() == content
    assert not bucket.proxy.faults


@pytest.mark.slow  # it waits as long as attempts are repeated
def test_an_upload_that_fails_for_good_is_aborted(bucket, objects, tmp_path):
    (tmp_path / "large").write_bytes(bytes(2 * CHUNK))
    bucket.proxy.faults += [Fault("500", "PUT", "partNumber=2", times=99)]
    with pytest.raises(Interrupted):
        objects.upload("large", tmp_path / "large")
    assert next(
        (method, path[path.index("/large") :][:16])
        for method, path, _ in bucket.proxy.seen
        if method == "DELETE"
    ) == ("DELETE", "/large?uploadId=")
    assert objects.find("large") is None


def test_what_a_person_has_to_change_is_said(bucket, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StorageError, match=r"no credentials .* AZURE_STORAGE_ACCOUNT_NAME"):
        Bucket(url="az://nobody-has-this/x").read("a")
    with pytest.raises(StorageError, match="has no bucket"):
        Bucket(url="s3://nobody-has-this/x").read("a")
    bucket.proxy.faults += [Fault("403", "GET", "/a", times=9)]
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as refused:
        Bucket(url=bucket.url).read("a")
    assert "not-a-secret" not in str(refused.value)


def test_a_service_without_conditional_puts_is_refused(bucket, objects):
    objects.refuse_if_unsafe("probe")
    bucket.proxy.drop_header = "if-none-match"
    with pytest.raises(StorageError, match="no conditional puts"):
        objects.refuse_if_unsafe("probe")
    assert objects.below("") == []
