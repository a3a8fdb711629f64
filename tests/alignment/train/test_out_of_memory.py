"""The kernel's OOM killer ends a training; the next run continues from its checkpoint.

Training shares a memory control group with a neighbour that allocates more and more, and the kernel
is configured to kill the training first. Skipped if no such group can be created.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.execution.run_step import build
from alignment.store.progress import Progress
from tests.alignment.elsewhere import Elsewhere, children, finish

GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.events"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.oom_control"),
)
"""cgroup v2 and v1: parent folder of groups, file of their limit, file that counts kills."""
LIMIT = 64 << 20
ADAPTER = "adapter/adapter_model.safetensors"
NEIGHBOUR = """
import sys, time

sys.stdin.readline()
taken = []
while True:
    taken.append(bytearray(b"x") * (8 << 20))
    time.sleep(0.01)
"""


class Group:
    """A memory control group."""

    def __init__(self, folder, limit, counts):
        self.folder, self._counts = folder, folder / counts
        (folder / limit).write_text(str(LIMIT))

    def add(self, pid):
        (self.folder / "cgroup.procs").write_text(str(pid))

    def kills(self):
        counts = dict(line.split() for line in self._counts.read_text().splitlines())
        return int(counts["oom_kill"])


@pytest.fixture
def group():
    """An empty group of 64 MiB; processes left in it at the end are killed."""
    for root, limit, counts in GROUPS:
        folder = root / f"sft-dpo-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if not (folder / limit).exists():
                continue
            yield Group(folder, limit, counts)
            return
        finally:
            folder.rmdir()  # `neighbour`, which was requested later, is gone
    pytest.skip("no memory control group can be made here: it takes root, and Linux")


@pytest.fixture
def neighbour():
    """A process that allocates memory without limit once its input ends."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_a_training_that_the_oom_killer_ends_can_continue(finished, tmp_path, group, neighbour):
    elsewhere = Elsewhere(finished, "sft", tmp_path)
    with elsewhere.running() as process:
        elsewhere.await_checkpoint(process)
        (child,) = children(process)
        child.send_signal(signal.SIGSTOP)  # otherwise such a small training would finish first
        Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
        for pid in (child.pid, neighbour.pid):
            group.add(pid)
        neighbour.stdin.close()
        code, words = finish(process)
    assert group.kills() >= 1
    assert code == 75
    assert "was ended by SIGKILL (out of memory, or killed)" in words
    assert elsewhere.sealed()
    build(elsewhere.store, elsewhere.step, Progress())
    undisturbed = finished.store.folder(elsewhere.step.key) / ADAPTER
    assert elsewhere.file(ADAPTER) == undisturbed.read_bytes()
