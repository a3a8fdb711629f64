"""What counts as a batch: only complete files, identified by their content."""

import gzip
import json
import os
import socket
import time
from pathlib import Path

import pytest

from alignment.config.inbox import InboxConfig
from alignment.rounds.inbox import Arrival, scan, why_unreadable
from alignment.rounds.inbox_files import NOT_THERE, SkippedFile
from alignment.rounds.inspection import Inspector

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
    path.parent.mkdir(parents=True, exist_ok=True)
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


def test_an_inbox_that_is_not_there_is_named(tmp_path):
    assert scanned(tmp_path / "none") == ({}, {"none": NOT_THERE})


def test_same_bytes_under_another_name_are_the_same_batch(inbox):
    drop(inbox, "monday.jsonl", LINE)
    drop(inbox, "tuesday.jsonl", LINE)
    complete, _ = scanned(inbox)
    assert complete["monday.jsonl"] == complete["tuesday.jsonl"]


@pytest.mark.parametrize(
    "name",
    [".a.jsonl", "_a.jsonl", "_temporary/a.jsonl", ".rsync-partial/a.jsonl", "sub/.tmp/b/a.jsonl"],
)
def test_uploads_in_progress_are_left_out(inbox, name):
    drop(inbox, name, LINE)
    assert scanned(inbox) == ({}, {})


@pytest.mark.parametrize("name", ["a.jsonl.part", "a.tmp", "a.json~", "a", "a.txt"])
def test_files_of_another_kind_are_named(inbox, name):
    drop(inbox, name, LINE)
    complete, skipped = scanned(inbox)
    assert complete == {}
    assert skipped[name].startswith("ignored: its name does not end like a data file")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", LINE + LINE[:20], "its last line is truncated"),
        ("a.jsonl", "", "it is empty"),
        ("a.jsonl.gz", gzip.compress(LINE.encode() * 99)[:-9], "is truncated or damaged"),
        ("a.parquet", parquet([ROW])[:-4], "it has no Parquet footer yet"),
        ("a.parquet", b"PAR1", "it has no Parquet footer yet"),
        ("a.csv", "prompt,chosen,rejected\na,b", "has no line break"),
        ("a.json", f"[{LINE}", "does not end like a list"),
        ("a.xlsx", b"PK\x03\x04", "no end of a ZIP file yet"),
        ("a.jsonl", LINE + "[" * 100_000, "its last line is truncated"),
    ],
    ids=[
        "truncated line",
        "empty",
        "truncated gzip",
        "truncated parquet",
        "start of a parquet",
        "truncated csv",
        "truncated list",
        "start of a sheet",
        "nested too deeply",
    ],
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


def test_a_link_is_followed_inside_the_inbox_only(inbox, tmp_path):
    (inbox / "in.jsonl").symlink_to(drop(inbox, "a.jsonl", LINE))
    (inbox / "out.jsonl").symlink_to(drop(tmp_path, "secret.jsonl", LINE))
    (inbox / "up.jsonl").symlink_to(tmp_path)
    (inbox / "gone.jsonl").symlink_to("nothing")
    (inbox / "loop.jsonl").symlink_to("loop.jsonl")
    complete, skipped = scanned(inbox)
    assert set(complete) == {"a.jsonl", "in.jsonl"}
    assert skipped == {
        "out.jsonl": "it is a link that leaves the inbox",
        "up.jsonl": "it is a link that leaves the inbox",
        "gone.jsonl": "it is a link to nothing",
        "loop.jsonl": "it is a link to nothing",
    }


def test_what_is_no_file_is_never_opened(inbox):
    os.mkfifo(inbox / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inbox / "socket.jsonl"))
        complete, skipped = scanned(inbox)
    assert complete == {}
    assert skipped == dict.fromkeys(["pipe.jsonl", "socket.jsonl"], "it is not a regular file")


def test_hostile_names_are_escaped(inbox):
    os.mknod(os.fsencode(inbox) + b"/\xff\xfe.jsonl")
    drop(inbox, "a\x1b[2J.txt", "")
    _, skipped = scanned(inbox)
    assert skipped["\\udcff\\udcfe.jsonl"] == "its name is not UTF-8; rename it"
    assert "a\\x1b[2J.txt" in skipped


def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_skipped(inbox):
    """Half a megabyte of gzip holds one line of 512 MiB."""
    drop(inbox, "bomb.jsonl.gz", gzip.compress(b"a" * 2**26) * 8)
    _, skipped = scanned(inbox)
    assert "unpacks to more than" in skipped["bomb.jsonl.gz"]


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


def table(kind, rows):
    """The rows as a file of this kind."""
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return {
        "csv": "".join(f"{line}\n" for line in lines).encode(),
        "json": json.dumps(rows, indent=1).encode(),
        "parquet": parquet(rows),
    }[kind]


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_every_kind_of_data_file_arrives(inbox, kind):
    path = drop(inbox, f"a.{kind}", table(kind, [ROW, ROW]))
    assert set(scanned(inbox)[0]) == {f"a.{kind}"}
    assert why_unreadable(InboxConfig(path=str(inbox)), str(path)) is None


def out_of_range():
    """Parquet with a time that Python cannot hold."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    times = pa.array([2**62], pa.timestamp("us"))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a"], "chosen": ["b"], "rejected": times}), buffer)
    return buffer.getvalue()


def test_a_file_that_breaks_its_reader_is_refused_with_the_reason(inbox):
    config = InboxConfig(path=str(inbox))
    broken = drop(inbox, "time.parquet", out_of_range())
    intact = parquet([ROW] * 50)
    flipped = bytearray(intact)
    flipped[20:60] = bytes(40)
    torn = drop(inbox, "flipped.parquet", bytes(flipped))
    with Inspector() as inspector:
        for path in (broken, torn):
            assert inspector.problem(config, str(path)), path.name
        assert inspector.problem(config, str(drop(inbox, "good.jsonl", LINE))) is None


def test_a_reader_has_limits_and_the_next_file_a_new_reader(inbox):
    config = InboxConfig(path=str(inbox))
    huge = drop(inbox, "a.json", "[" + ",".join([LINE.strip()] * 200_000) + "]")
    good = drop(inbox, "good.jsonl", LINE)
    with Inspector(seconds=0) as inspector:
        assert inspector.problem(config, str(huge)) == "reading it takes more than 0 s"
    with Inspector() as inspector:
        child = inspector._running()  # it is killed as the kernel does when memory runs out
        child.kill()
        child.wait()
        assert inspector.problem(config, str(good)) is None
