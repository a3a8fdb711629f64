"""What of a bucket may go: nothing that any machine's line or recent run is made of."""

import os
import time

import pytest

from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.tidy import delete, tidying, usage
from alignment.store.places import connect, store_at
from alignment.store.remote import origin as origin_module
from alignment.store.remote.bucket import Bucket
from tests.alignment.artifacts import put
from tests.faults.simulate import MODEL


@pytest.fixture
def machines(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(origin_module, "FRESH", -1.0)  # everything is old enough
    monkeypatch.setattr("alignment.rounds.tidy.FRESH", -1.0)
    stores = [store_at(bucket.url, tmp_path / name) for name in "ab"]
    for store in stores:
        connect(store)
    return stores


def made(store, key, content, **parents):
    put(store, key, output=MODEL, parents=parents, files={"own": content, "same": "x" * 1000})


def found_by(store):
    return tidying(store, before=time.time() + 60)


def test_a_machine_keeps_what_the_line_of_another_needs(machines, bucket):
    one, other = machines
    made(one, "merge-champion", "champion")
    made(one, "merge-nobodys", "nobody's")
    RoundLine(store=one).start(Champion(model="merge-champion", evaluation="", label=""), rounds=0)
    connect(other)
    found = found_by(other)
    assert [(p.path, p.in_bucket) for p in found.pieces] == [("manifests/merge-nobodys.json", True)]
    assert found.size_in_bucket == len("nobody's"), "the other file is the champion's too"
    assert found.size == 0
    assert Bucket(url=bucket.url).find("manifests/merge-nobodys.json"), "nothing was removed yet"

    delete(other, found)
    connect(one)
    assert one.origin.look("merge-champion")
    assert not one.origin.look("merge-nobodys")
    other.open("merge-champion")
    assert len(Bucket(url=bucket.url).below("files")) == 2


def test_what_uploads_and_trainings_left_may_go(machines, bucket):
    one, _ = machines
    objects = Bucket(url=bucket.url)
    objects.write("files/" + "0" * 64, b"never finished")
    objects.write("checkpoints/sft-1/00000001-ab/weights", b"weights")
    found = found_by(one)
    assert [(p.kind, p.size) for p in found.pieces if p.in_bucket] == [
        ("leftover", 14),
        ("unfinished", 7),
    ]
    delete(one, found)
    assert not objects.below("files")
    assert not objects.below("checkpoints")


def test_usage_tells_the_machine_from_the_bucket(machines):
    one, other = machines
    made(one, "merge-1", "weights")
    connect(other)
    shares = {share.name: share for share in usage(other)}
    assert shares["bucket: files"].size == 1000 + len("weights")
    assert shares["bucket: files"].in_bucket
    assert not any(share.name.startswith("artifacts") for share in shares.values())


def test_what_a_machine_copied_may_go_from_there_alone(machines):
    one, other = machines
    made(one, "merge-1", "weights")
    connect(other)
    other.open("merge-1")
    os.utime(other.place("merge-1"), (0, 0))
    here = [piece for piece in found_by(other).pieces if not piece.in_bucket]
    assert [piece.path for piece in here if piece.kind == "artifact"] == ["objects/merge-1"]
