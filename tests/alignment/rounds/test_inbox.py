"""What counts as a batch: only complete files, identified by their content."""

import gzip
import json
import os
import time
from pathlib import Path

import pytest

from alignment.config.inbox import InboxConfig
from alignment.rounds.inbox import Arrival, SkippedFile, scan, why_unreadable

ROW = {"prompt": "Say yes.", "chosen": "yes", "rejected": "no"}
LINE = json.dumps(ROW) + "\n"


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def drop(inbox, name, content, *, age=3600.0):
    """Write a file whose last change was `age` seconds ago."""
    path = inbox / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (time.time() - age,) * 2)
    return path


def scanned(inbox, **settings):
    found = list(scan(InboxConfig(path=str(inbox), **settings)))
    complete = {Path(f.file).name: f.digest for f in found if isinstance(f, Arrival)}
    skipped = {Path(f.file).name: f.why for f in found if isinstance(f, SkippedFile)}
    return complete, skipped


def parquet(rows):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_every_complete_data_file_below_the_folder_is_found(inbox):
    drop(inbox, "b.jsonl", LINE)
    drop(inbox, "sub/a.jsonl.gz", gzip.compress(LINE.encode()))
    drop(inbox, "c.parquet", parquet([ROW]))
    complete, skipped = scanned(inbox)
    assert set(complete) == {"a.jsonl.gz", "b.jsonl", "c.parquet"}
    assert skipped == {}


def test_an_inbox_that_is_not_there_yet_is_empty(tmp_path):
    assert scanned(tmp_path / "none") == ({}, {})


def test_same_bytes_under_another_name_are_the_same_batch(inbox):
    drop(inbox, "monday.jsonl", LINE)
    drop(inbox, "tuesday.jsonl", LINE)
    complete, _ = scanned(inbox)
    assert complete["monday.jsonl"] == complete["tuesday.jsonl"]


@pytest.mark.parametrize("name", [".a.jsonl", "_a.jsonl", "a.jsonl.part", "a.tmp", "a.json~", "a"])
def test_temporary_names_are_not_looked_at(inbox, name):
    drop(inbox, name, LINE)
    assert scanned(inbox) == ({}, {})


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", LINE + LINE[:20], "its last line is truncated"),
        ("a.jsonl", "", "it is empty"),
        ("a.jsonl.gz", gzip.compress(LINE.encode() * 99)[:-9], "is truncated or damaged"),
        ("a.parquet", parquet([ROW])[:-4], "it has no Parquet footer yet"),
        ("a.parquet", b"PAR1", "it has no Parquet footer yet"),
    ],
    ids=["truncated line", "empty", "truncated gzip", "truncated parquet", "start of a parquet"],
)
def test_truncated_file_is_skipped(inbox, name, content, why):
    drop(inbox, name, content)
    complete, skipped = scanned(inbox)
    assert complete == {}
    assert why in skipped[name]


def test_last_line_without_a_line_break_is_complete_if_it_is_json(inbox):
    drop(inbox, "a.jsonl", LINE.rstrip())
    assert set(scanned(inbox)[0]) == {"a.jsonl"}


@pytest.mark.parametrize(("age", "taken"), [(5, False), (70, True), (-5, False), (-7200, True)])
def test_file_settles_for_a_minute_but_a_time_hours_ahead_is_no_upload(inbox, age, taken):
    drop(inbox, "a.jsonl", LINE, age=age)
    assert bool(scanned(inbox)[0]) is taken


def test_file_that_grows_after_it_was_listed_is_skipped(inbox):
    drop(inbox, "a.jsonl", LINE)
    drop(inbox, "b.jsonl", LINE * 2)
    found = scan(InboxConfig(path=str(inbox)))
    assert isinstance(next(found), Arrival)
    drop(inbox, "b.jsonl", LINE * 3)
    second = next(found)
    assert isinstance(second, SkippedFile)
    assert second.why == "it changed while it was read"


def test_a_link_is_not_followed(inbox, tmp_path):
    secret = drop(tmp_path, "secret.jsonl", LINE)
    (inbox / "a.jsonl").symlink_to(secret)
    assert scanned(inbox) == ({}, {"a.jsonl": "it is a symbolic link"})


def test_inbox_behind_a_url_is_read_the_same_way():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/drop-off/a.jsonl", LINE.encode())
    memory.pipe("/drop-off/b.jsonl", (LINE + "{").encode())
    found = list(scan(InboxConfig(path="memory://drop-off", settle_seconds=0)))
    assert [type(one).__name__ for one in found] == ["Arrival", "SkippedFile"]
    assert found[0].file == "memory:///drop-off/a.jsonl"
    memory.rm("/drop-off", recursive=True)


def test_batch_without_readable_pairs_is_refused_with_the_reason(inbox):
    config = InboxConfig(path=str(inbox))
    assert why_unreadable(config, str(drop(inbox, "a.jsonl", LINE))) is None
    broken = drop(inbox, "b.jsonl", LINE + "{broken}\n" * 3)
    assert "3 of 4 rows (75.0%) are unreadable" in str(why_unreadable(config, str(broken)))
    colours = drop(inbox, "c.jsonl", '{"colour": 1}\n')
    assert "colour" in str(why_unreadable(config, str(colours)))
