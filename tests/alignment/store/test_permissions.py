"""Rows may be personal data: a store is for its owner, unless its folder says otherwise."""

import os
import stat

import pytest

from alignment.store.store import Store
from tests.alignment.artifacts import put


def modes(root):
    """Permissions of everything in a store, by kind."""
    found: dict[str, set[str]] = {"files": set(), "folders": set()}
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        kind = "folders" if stat.S_ISDIR(status.st_mode) else "files"
        found[kind].add(oct(status.st_mode & 0o777))
    return found


def test_a_whole_run_leaves_nothing_that_others_can_read(finished):
    """Data, checkpoints, adapters, merges and evaluations, as libraries wrote them; logs; locks."""
    assert modes(finished.store.root) == {"files": {"0o600"}, "folders": {"0o700"}}


@pytest.mark.parametrize(("umask", "files"), [(0o007, "0o660"), (0o027, "0o640")])
def test_the_folder_and_the_umask_decide_who_may_read(tmp_path, umask, files):
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o770)
    before = os.umask(umask)
    try:
        store = Store(root=root)
        put(store, "sft-1", files={"logs/history.jsonl": "{}"})
        store.log("sft-1")
    finally:
        os.umask(before)
    assert modes(root)["files"] == {files}
