import contextlib
import os
import subprocess
import sys

import pytest

from alignment.errors import Interrupted
from alignment.execution.gpu_locks import gpu_lock_file
from alignment.store.locks import Busy, hold, refuse_to_wait
from alignment.store.progress import Follower, Mark, Progress

HOLD = """
import os, sys
from pathlib import Path
import filelock
from alignment.store.locks import hold
os.umask(0o077)
os.setuid(int(sys.argv[2]))
with hold(Path(sys.argv[1]), purpose="sft of runs", mode=0o666):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(path, user=None):
    """Another process, perhaps of another user, that holds a lock."""
    command = [sys.executable, "-c", HOLD, str(path), str(os.getuid() if user is None else user)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate()


def test_who_waits_is_told_for_what_for_whom_and_since_when(tmp_path):
    with holder(tmp_path / "lock") as process:
        expected = rf"^sft of runs \(process {process.pid}, since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d"
        with (
            pytest.raises(Busy, match=expected),
            hold(tmp_path / "lock", purpose="mine", on_wait=refuse_to_wait),
        ):
            pass
    with hold(tmp_path / "lock", purpose="mine", on_wait=refuse_to_wait):
        pass


def test_waiting_is_progress_and_ends_when_asked_to_stop(tmp_path):
    progress = Progress(tmp_path / "marks")
    with holder(tmp_path / "lock"), (tmp_path / "marks").open("w+b") as marks:
        follower = Follower(marks)
        progress.ask_to_stop()
        waiting = hold(tmp_path / "lock", purpose="mine", on_wait=progress.waiting)
        with pytest.raises(Interrupted, match=r"stopped while waiting for sft of runs \("), waiting:
            pass
        (mark,) = follower.new()
    assert isinstance(mark, Mark)
    assert mark.phase.startswith("waiting for sft of runs (process ")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes of two users")
def test_the_second_user_of_a_machine_gets_the_lock_of_the_gpu():
    path = gpu_lock_file(f"test-{os.getpid()}")
    assert path.parent.stat().st_mode & 0o1777 == 0o1777, "a folder of all users"
    try:
        mine = hold(path, purpose="mine", on_wait=refuse_to_wait, mode=0o666)
        with holder(path, user=12345), pytest.raises(Busy, match="sft of runs"), mine:
            pass
        with holder(path, user=12346):
            pass
    finally:
        path.unlink(missing_ok=True)
