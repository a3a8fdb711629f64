import gzip
import json
import os

import pytest
from pydantic import TypeAdapter, ValidationError

from alignment.data.formats.rows import RawRow
from alignment.data.read.files import data_errors
from alignment.data.read.sources import FileSource, HubSource, Source
from alignment.data.row import Reason
from alignment.errors import DataError
from alignment.records.text import Quarantined

ROWS = [{"instruction": f"question {number}", "output": "answer"} for number in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write(path, content: str | bytes):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(rows) -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


def read(path, **options):
    return list(FileSource(path=str(path), **options).read())


def fields(rows):
    return [row.fields for row in rows if isinstance(row, RawRow)]


def quarantined(rows):
    return [(row.row, row.reason, row.detail) for row in rows if isinstance(row, Quarantined)]


# --- kinds of files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json", json.dumps(ROWS, indent=2).encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("a.json", LINES.encode()),
        ("A.JSONL", LINES.encode()),
        ("a.parquet", parquet(ROWS)),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, content):
    rows = read(write(tmp_path / name, content))
    assert fields(rows) == ROWS
    assert [row.row for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + LINES.encode(),
        LINES.replace("\n", "\r\n").encode(),
        LINES.removesuffix("\n").encode(),
        b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode(),
    ],
    ids=["byte order mark", "CRLF", "no last line end", "both"],
)
def test_windows_files_are_accepted(tmp_path, content):
    assert fields(read(write(tmp_path / "a.jsonl", content))) == ROWS


def test_blank_lines_count_as_lines_and_not_as_rows(tmp_path):
    rows = read(write(tmp_path / "a.jsonl", LINES.replace("\n", "\n\n")))
    assert [row.row for row in rows] == [1, 3, 5]


def test_a_line_separator_inside_a_text_does_not_end_a_row(tmp_path):
    row = {"instruction": "a\u2028b\x85c", "output": "d"}
    path = write(tmp_path / "a.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    assert fields(read(path)) == [row]


def test_a_folder_gives_all_its_data_files_in_order_of_names(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "b.jsonl", '{"n": 2}\n')
    write(tmp_path / "a.jsonl", '{"n": 1}\n')
    write(tmp_path / "deep" / "c.json", '[{"n": 3}]')
    write(tmp_path / "LICENSE", "free")
    assert fields(read(tmp_path)) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert fields(read(tmp_path / "?.jsonl")) == [{"n": 1}, {"n": 2}]
    assert fields(read(tmp_path / "**" / "*.json")) == [{"n": 3}]


def test_a_name_with_pattern_characters_is_taken_literally_when_it_exists(tmp_path):
    path = write(tmp_path / "data[1].jsonl", LINES)
    assert fields(read(path)) == ROWS


def test_a_url_is_read_through_fsspec():
    import fsspec

    with fsspec.open("memory://box/a.jsonl", "wb") as stream:
        stream.write(LINES.encode())
    assert fields(read("memory://box/a.jsonl")) == ROWS
    assert fields(read("memory://box")) == ROWS
    with pytest.raises(DataError, match=r"memory://box/none\.jsonl: no data found"):
        read("memory://box/none.jsonl")


def test_limit_reads_no_further(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES + "{broken\n")
    assert fields(read(path, limit=2)) == ROWS[:2]


# --- labels -------------------------------------------------------------------------------------


def test_rows_are_labelled_by_the_config_and_the_files_name(tmp_path):
    path = write(tmp_path / "helpful-base.test.jsonl.gz", gzip.compress(LINES.encode(), mtime=0))
    row = read(path, task_type="helpful")[0]
    assert (row.task_type, row.source, row.file) == ("helpful", "helpful-base.test", path)


def test_a_rows_own_labels_win(tmp_path):
    own = {"task_type": "math", "source": "gsm", "output": "x"}
    path = write(tmp_path / "a.jsonl", json.dumps(own) + '\n{"task_type": " ", "source": 3}\n')
    first, second = read(path)
    assert (first.task_type, first.source) == ("math", "gsm")
    assert (second.task_type, second.source) == ("general", "a")


# --- rows that cannot be read -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"a": 1', Reason.malformed, "broken JSON: Expecting ',' delimiter at column 8"),
        (b"not json", Reason.malformed, "broken JSON: Expecting value at column 1"),
        (b"[1, 2]", Reason.malformed, "a JSON list where an object is expected"),
        (b"7", Reason.malformed, "a JSON int where an object is expected"),
        (b"null", Reason.malformed, "a JSON null where an object is expected"),
        (b'{"a":' * 100_000, Reason.malformed, "broken JSON: nested too deeply"),
        (b'{"a": "caf\xe9"}', Reason.bad_encoding, "not UTF-8 at byte 11"),
        (b'{"a": "\x00"}', Reason.bad_encoding, "NUL at character 8"),
    ],
)
def test_an_unreadable_line_is_quarantined_with_its_number(tmp_path, line, reason, detail):
    path = write(tmp_path / "a.jsonl", LINES.encode() + line + b"\n" + LINES.encode())
    rows = read(path)
    assert fields(rows) == ROWS * 2
    assert quarantined(rows) == [(4, reason, detail)]


def test_an_item_of_a_list_that_is_not_an_object_is_quarantined(tmp_path):
    rows = read(write(tmp_path / "a.json", '[{"a": 1}, 7, {"a": 2}]'))
    assert fields(rows) == [{"a": 1}, {"a": 2}]
    assert quarantined(rows) == [(2, Reason.malformed, "a JSON int where an object is expected")]


# --- files that cannot be read ------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: no data found .* Check the path"):
        read(tmp_path / "gone.jsonl")


def test_a_folder_without_data_is_named(tmp_path):
    write(tmp_path / "notes.txt", "hello")
    with pytest.raises(DataError, match=r"none of the 1 files there is of a known type: \.jsonl"):
        read(tmp_path)


def test_an_unknown_kind_of_file_lists_the_known_ones(tmp_path):
    path = write(tmp_path / "a.txt", LINES)
    with pytest.raises(DataError, match=r"a\.txt: unknown file type; known types are \.jsonl, "):
        read(path)


@pytest.mark.parametrize("content", ["", "\n\n  \n", "[]"])
def test_an_empty_file_is_named(tmp_path, content):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(DataError, match=r"a\.json is empty: it has no rows"):
        read(path)


def test_a_file_without_one_readable_row_names_the_first_line(tmp_path):
    path = write(tmp_path / "a.jsonl", "\nalpha\nbeta\n")
    with pytest.raises(DataError, match=r"no row can be read; the first, line 2: broken JSON"):
        read(path)


def test_the_error_for_a_utf16_file_asks_for_utf8(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES.encode("utf-16"))
    with pytest.raises(DataError, match=r"line 1: not UTF-8 at byte 1.* in UTF-8"):
        read(path)


def test_a_broken_list_names_the_line(tmp_path):
    path = write(tmp_path / "a.json", '[\n{"a": 1},\n{"a": }\n]')
    with pytest.raises(DataError, match=r"a\.json line 3: broken JSON: Expecting value\."):
        read(path)


def test_a_truncated_gzip_file_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(LINES.encode() * 1000)[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is truncated or damaged .* fetch it again"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl.gz", LINES.encode()), ("a.json.gz", b"\x1f\x8b broken")]
)
def test_a_file_that_is_not_really_gzip_is_named(tmp_path, name, content):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=r"\.gz is truncated or damaged|cannot be read"):
        read(path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", parquet(ROWS)[:-8])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read: .*"):
        read(path)


def test_a_url_of_an_unknown_kind_is_named():
    with pytest.raises(DataError, match=r"nowhere://a\.jsonl cannot be read: .*nowhere"):
        read("nowhere://a.jsonl")


# --- digests ------------------------------------------------------------------------------------


def test_the_digest_depends_on_content_and_names_but_not_on_the_folder(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    here = FileSource(path=write(tmp_path / "here" / "a.jsonl", LINES))
    there = FileSource(path=write(tmp_path / "there" / "a.jsonl", LINES))
    assert here.digest() == there.digest()
    write(tmp_path / "there" / "a.jsonl", LINES + "{}\n")
    assert here.digest() != there.digest()


def test_a_pinned_file_with_other_bytes_is_refused(tmp_path):
    import hashlib

    path = write(tmp_path / "a.jsonl", LINES)
    pin = hashlib.sha256(LINES.encode()).hexdigest()
    assert fields(read(path, sha256=pin)) == ROWS
    write(tmp_path / "a.jsonl", LINES + LINES)
    with pytest.raises(DataError, match=rf"a\.jsonl: expected one file with sha256 {pin}, found "):
        read(path, sha256=pin)


# --- the hub ------------------------------------------------------------------------------------

COMMIT = "0123456789" * 4


def test_a_folder_named_like_a_hub_data_set_is_not_read_instead(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "train.jsonl").write_text('{"prompt": "a"}\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"has a folder owner/name, .* \./owner/name"):
        HubSource(dataset="owner/name", revision=COMMIT).read()


def test_the_hub_out_of_reach_is_one_clear_error():
    for source in (
        HubSource(dataset="owner/name"),
        HubSource(dataset="owner/name", revision=COMMIT),
    ):
        with pytest.raises(DataError, match=r"hub data set 'owner/name' .* cannot be loaded: .*"):
            list(source.read())


def test_a_pinned_commit_needs_no_network_for_its_digest():
    source = HubSource(dataset="owner/name", revision=COMMIT)
    assert source.digest() != source.model_copy(update={"split": "test"}).digest()
    with pytest.raises(DataError, match="offline, pin a commit"):
        HubSource(dataset="owner/name").digest()


def test_a_file_that_must_not_be_read_names_the_user_that_must():
    """In a container, the user is not the one who put the file there."""
    with (
        pytest.raises(DataError, match=rf"cannot be read: .* Let user id {os.getuid()}, which"),
        data_errors("inbox/monday.jsonl"),
    ):
        raise PermissionError(13, "Permission denied")


# --- the union ----------------------------------------------------------------------------------


def test_a_source_is_chosen_by_name():
    union = TypeAdapter(Source)
    source = union.validate_python({"name": "file", "path": "a.jsonl", "format": {"name": "hh"}})
    assert isinstance(source, FileSource)
    assert source.format.name == "hh"
    assert isinstance(union.validate_python({"name": "hub", "dataset": "a/b"}), HubSource)
    with pytest.raises(ValidationError, match="'file', 'hub', 'practice'"):
        union.validate_python({"name": "web", "path": "x"})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        union.validate_python({"name": "file", "path": "x", "dataset": "a/b"})
