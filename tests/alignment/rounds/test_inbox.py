"""What counts as a batch: whole files only, known by their bytes."""

import gzip
import json
import os
import time
from pathlib import Path

import pytest

from alignment.config.inbox import InboxConfig
from alignment.rounds.inbox import Arrival, LeftAlone, look, unreadable

ROW = {"prompt": "Say yes.", "chosen": "yes", "rejected": "no"}
LINE = json.dumps(ROW) + "\n"


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def drop(inbox, name, content, *, age=3600.0):
    """A file that changed so many seconds ago."""
    path = inbox / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (time.time() - age,) * 2)
    return path


def seen(inbox, **settings):
    found = list(look(InboxConfig(path=str(inbox), **settings)))
    taken = {Path(a.file).name: a.digest for a in found if isinstance(a, Arrival)}
    left = {Path(a.file).name: a.why for a in found if isinstance(a, LeftAlone)}
    return taken, left


def parquet(rows):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_every_whole_data_file_below_the_folder_is_taken(inbox):
    drop(inbox, "b.jsonl", LINE)
    drop(inbox, "sub/a.jsonl.gz", gzip.compress(LINE.encode()))
    drop(inbox, "c.parquet", parquet([ROW]))
    taken, left = seen(inbox)
    assert set(taken) == {"a.jsonl.gz", "b.jsonl", "c.parquet"}
    assert left == {}


def test_an_inbox_that_is_not_there_yet_is_empty(tmp_path):
    assert seen(tmp_path / "none") == ({}, {})


def test_same_bytes_under_another_name_are_the_same_batch(inbox):
    drop(inbox, "monday.jsonl", LINE)
    drop(inbox, "tuesday.jsonl", LINE)
    taken, _ = seen(inbox)
    assert taken["monday.jsonl"] == taken["tuesday.jsonl"]


@pytest.mark.parametrize("name", [".a.jsonl", "_a.jsonl", "a.jsonl.part", "a.tmp", "a.json~", "a"])
def test_temporary_names_are_not_looked_at(inbox, name):
    drop(inbox, name, LINE)
    assert seen(inbox) == ({}, {})


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", LINE + LINE[:20], "its last line is cut"),
        ("a.jsonl", "", "it is empty"),
        ("a.jsonl.gz", gzip.compress(LINE.encode() * 99)[:-9], "is cut or damaged"),
        ("a.parquet", parquet([ROW])[:-4], "it has no Parquet footer yet"),
        ("a.parquet", b"PAR1", "it has no Parquet footer yet"),
    ],
    ids=["cut line", "empty", "cut gzip", "cut parquet", "head of a parquet"],
)
def test_file_that_is_cut_is_left_alone(inbox, name, content, why):
    drop(inbox, name, content)
    taken, left = seen(inbox)
    assert taken == {}
    assert why in left[name]


def test_last_line_without_a_line_break_is_whole_when_it_is_json(inbox):
    drop(inbox, "a.jsonl", LINE.rstrip())
    assert set(seen(inbox)[0]) == {"a.jsonl"}


@pytest.mark.parametrize(("age", "taken"), [(5, False), (70, True), (-5, False), (-7200, True)])
def test_file_settles_for_a_minute_and_a_clock_ahead_by_hours_is_no_upload(inbox, age, taken):
    drop(inbox, "a.jsonl", LINE, age=age)
    assert bool(seen(inbox)[0]) is taken


def test_file_that_grows_after_it_was_listed_is_left_alone(inbox):
    drop(inbox, "a.jsonl", LINE)
    drop(inbox, "b.jsonl", LINE * 2)
    found = look(InboxConfig(path=str(inbox)))
    assert isinstance(next(found), Arrival)
    drop(inbox, "b.jsonl", LINE * 3)
    second = next(found)
    assert isinstance(second, LeftAlone)
    assert second.why == "it changed while it was read"


def test_a_link_is_not_followed(inbox, tmp_path):
    secret = drop(tmp_path, "secret.jsonl", LINE)
    (inbox / "a.jsonl").symlink_to(secret)
    assert seen(inbox) == ({}, {"a.jsonl": "it is a symbolic link"})


def test_inbox_behind_a_url_is_read_the_same_way():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/drop-off/a.jsonl", LINE.encode())
    memory.pipe("/drop-off/b.jsonl", (LINE + "{").encode())
    found = list(look(InboxConfig(path="memory://drop-off", settle_seconds=0)))
    assert [type(one).__name__ for one in found] == ["Arrival", "LeftAlone"]
    assert found[0].file == "memory:///drop-off/a.jsonl"
    memory.rm("/drop-off", recursive=True)


def test_batch_that_holds_no_pairs_is_refused_with_the_reason(inbox):
    config = InboxConfig(path=str(inbox))
    assert unreadable(config, str(drop(inbox, "a.jsonl", LINE))) is None
    broken = drop(inbox, "b.jsonl", LINE + "{broken}\n" * 3)
    assert "3 of 4 rows (75.0%) are unreadable" in str(unreadable(config, str(broken)))
    colours = drop(inbox, "c.jsonl", '{"colour": 1}\n')
    assert "colour" in str(unreadable(config, str(colours)))
