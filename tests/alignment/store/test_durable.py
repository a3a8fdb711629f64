"""Effects are whole or not there; a lost answer is read back; an armed point fails once."""

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
from alignment.store.store import storage_errors
from tests.faults.failpoints import Broken, arm, observe


def passed(run):
    """The points that a call passes."""
    names: list[str] = []
    end = observe(names.append)
    run()
    end()
    return names


def test_an_effect_passes_its_name_before_and_after(tmp_path):
    assert passed(lambda: durable.write("a", tmp_path / "file", "x")) == ["a:before", "a:after"]


def test_an_armed_point_fails_once_at_the_nth_pass():
    end = arm("raise", name="a:before", nth=2)
    hit("a:before")
    hit("a:after")
    with pytest.raises(Broken, match="a:before"):
        hit("a:before")
    hit("a:before")
    end()


def test_a_full_disk_at_a_point_is_told_as_one(tmp_path):
    end = arm("full")
    with pytest.raises(StorageError, match="is full"), storage_errors(tmp_path):
        durable.write("a", tmp_path / "file", "x")
    end()


def test_a_used_up_quota_is_not_told_as_a_full_disk(tmp_path):
    told = r"the quota on the disk of .* is used up\. Free some"
    with pytest.raises(StorageError, match=told), storage_errors(tmp_path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "model.safetensors")


def test_staged_file_takes_its_place_without_what_a_killed_attempt_left(tmp_path):
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


def test_staged_writing_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "page").write_text("old")
    end = arm("raise", name="page:before")
    with pytest.raises(Broken), durable.staged("page", tmp_path / "page"):
        pass
    end()
    with pytest.raises(FileNotFoundError), durable.staged("page", tmp_path / "page"):
        pass  # nothing was written
    assert (tmp_path / "page").read_text() == "old"


def test_two_that_write_one_page_at_once_leave_one_of_them_whole(tmp_path):
    """Two runs of one name end together: each page is whole, and nothing stays beside it."""
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


def test_a_folder_is_out_of_the_way_before_its_files_go(tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "rows").touch()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed here
    durable.remove("a", tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    monkeypatch.undo()
    durable.remove("a", tmp_path / "shards")
    assert list(tmp_path.iterdir()) == [], "the next attempt clears up"


def lost_answer(real):
    """A call that is done, and whose answer does not come back."""

    def call(*arguments):
        real(*arguments)
        raise OSError(errno.EIO, "no answer")

    return call


def test_rename_whose_answer_was_lost_is_read_back(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "replace", lost_answer(Path.replace))
    durable.rename("a", tmp_path / "out", tmp_path / "object")
    assert (tmp_path / "object").is_dir()


def test_created_file_whose_answer_was_lost_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lost_answer(os.link))
    durable.create("a", tmp_path / "1.json", b"mine")
    assert (tmp_path / "1.json").read_bytes() == b"mine"
    with pytest.raises(FileExistsError):
        durable.create("a", tmp_path / "1.json", b"mine")


def test_rename_that_did_not_happen_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        durable.rename("a", tmp_path / "none", tmp_path / "object")
