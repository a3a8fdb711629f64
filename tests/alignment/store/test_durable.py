"""Changes are complete or absent; a lost answer is verified; an armed failpoint fails once."""

import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alignment.errors import StorageError
from alignment.store import durable
from alignment.store.durable import hit
from alignment.store.errors import storage_errors
from tests.faults.failpoints import Broken, arm, observe


def points_of(run):
    """The failpoints that a call hits."""
    names: list[str] = []
    end = observe(names.append)
    run()
    end()
    return names


def test_a_change_hits_a_point_before_and_after(tmp_path):
    assert points_of(lambda: durable.write("a", tmp_path / "file", "x")) == ["a:before", "a:after"]


def test_an_armed_point_fails_once_at_the_nth_hit():
    end = arm("raise", name="a:before", nth=2)
    hit("a:before")
    hit("a:after")
    with pytest.raises(Broken, match="a:before"):
        hit("a:before")
    hit("a:before")
    end()


def test_a_full_disk_at_a_point_is_reported_as_one(tmp_path):
    end = arm("full")
    with pytest.raises(StorageError, match="is full"), storage_errors(tmp_path):
        durable.write("a", tmp_path / "file", "x")
    end()


def test_an_exceeded_quota_is_not_reported_as_a_full_disk(tmp_path):
    message = r"the disk quota for .* is exceeded\. Free some"
    with pytest.raises(StorageError, match=message), storage_errors(tmp_path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "model.safetensors")


def test_staged_folder_contains_no_leftovers_of_a_killed_attempt(tmp_path):
    part = tmp_path / ".model.part"
    part.mkdir()
    (part / ".tmpjhDKOA").write_text("of a writer that was killed")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with durable.staged("a", tmp_path / "model") as place:
        place.mkdir()
        (place / "weights").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights"]


def test_staged_writing_that_fails_keeps_the_old_file(tmp_path):
    (tmp_path / "page").write_text("old")
    end = arm("raise", name="page:before")
    with pytest.raises(Broken), durable.staged("page", tmp_path / "page"):
        pass
    end()
    with pytest.raises(FileNotFoundError), durable.staged("page", tmp_path / "page"):
        pass  # nothing was written
    assert (tmp_path / "page").read_text() == "old"


def test_concurrent_writers_of_a_page_always_leave_a_complete_one(tmp_path):
    """Two runs with the same name end together: every page is complete, no temporary file stays."""
    page, texts = tmp_path / "run.html", ("a" * 100_000, "b" * 100_000)
    begin = threading.Barrier(2)

    def write(text):
        begin.wait()
        for _ in range(50):
            durable.replace("test.page", page, text)
            assert page.read_text() in texts

    with ThreadPoolExecutor(2) as pool:
        for writer in [pool.submit(write, text) for text in texts]:
            writer.result()
    assert list(tmp_path.iterdir()) == [page]


def test_a_folder_is_renamed_before_its_files_are_removed(tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "rows").touch()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed here
    durable.remove("a", tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    monkeypatch.undo()
    durable.remove("a", tmp_path / "shards")
    assert list(tmp_path.iterdir()) == [], "the next attempt cleans up"


def lost_answer(real):
    """A call that takes effect, but whose answer is lost."""

    def call(*arguments):
        real(*arguments)
        raise OSError(errno.EIO, "no answer")

    return call


def test_rename_whose_answer_was_lost_is_verified(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "replace", lost_answer(Path.replace))
    durable.rename("a", tmp_path / "out", tmp_path / "object")
    assert (tmp_path / "object").is_dir()


def test_created_file_whose_answer_was_lost_is_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lost_answer(os.link))
    durable.create("a", tmp_path / "1.json", b"mine")
    assert (tmp_path / "1.json").read_bytes() == b"mine"
    with pytest.raises(FileExistsError):
        durable.create("a", tmp_path / "1.json", b"mine")


def test_rename_that_did_not_happen_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        durable.rename("a", tmp_path / "none", tmp_path / "object")
